"""The HTML page of a report in a headless browser: sorting, filtering, charts, themes and small screens."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wgan_sweep.commands import report as command
from wgan_sweep.runs.directory import RunDir

from ..helpers import append_metrics, write_record
from ..report.test_report import record

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def write_runs(folder: Path, seeds: int) -> Path:
    """Write the runs of a grid with learning curves and samples, and one failed and one diverged run."""
    draw = np.random.default_rng(0)
    for loss in ("wgan_div", "wgan_gp"):
        for sampling in ("real_fake", "fake", "real"):
            for k in (1.0, 2.0):
                for seed in range(seeds):
                    run = record(100 * k + seed + draw.normal(), loss=loss, sampling=sampling, k=k, seed=seed)
                    run.config["scorer"] = {}
                    add(folder, run, draw)
    for status in ("failed", "diverged"):
        run = record(None, status, loss="wgan_div", sampling="fake", k=2.0, seed=99)
        run.config["scorer"] = {}
        run.error = f"Traceback\n  it is <b>{status}</b> & so on"
        add(folder, run, draw)
    return folder


def add(folder: Path, run, draw: np.random.Generator) -> None:
    directory = RunDir(folder / run.run_id)
    write_record(directory, run)
    for step in range(0, 2000, 20):
        value = 100 / (step + 20) + draw.normal() / 50
        line = {"step": step, "images_seen": 64 * step, "wasserstein": value, "gradient_norm": 1.0}
        append_metrics(directory, line | ({"fid": 50 * value} if step % 500 == 0 else {}))
    directory.samples(10).parent.mkdir()
    Image.fromarray(draw.integers(0, 255, (40, 40, 3), np.uint8)).save(directory.samples(10))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report_of(tmp_path_factory: pytest.TempPathFactory):
    def make(seeds: int) -> Path:
        folder = tmp_path_factory.mktemp("report")
        target = folder / "report.html"
        command.main([str(write_runs(folder / "runs", seeds)), "--format", "html", "--output", str(target)])
        return target

    return make


@pytest.fixture(scope="module")
def small(report_of) -> Path:
    return report_of(3)


@pytest.fixture
def open_page(browser):
    """Return a function that opens a report; console errors, warnings and network requests fail the test."""
    problems: list[str] = []
    pages = []

    def open_report(path: Path, **options):
        page = browser.new_page(**options)
        page.on(
            "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        pages.append(page)
        return page

    yield open_report
    for page in pages:
        page.close()
    assert problems == []


def column(page, index: int) -> list[str]:
    return page.locator(f"#table tbody tr:visible td:nth-child({index + 1})").all_inner_texts()


def heading(page, name: str):
    return page.locator("#table th button", has_text=name).first


def test_a_heading_sorts_numerically_in_both_orders_with_empty_cells_last(small, open_page) -> None:
    page = open_page(small)
    names = page.locator("#table th").all_inner_texts()
    fid = names.index("FID")
    heading(page, "FID").click()
    up = column(page, fid)
    heading(page, "FID").click()
    down = column(page, fid)
    assert up[-2:] == down[-2:] == ["", ""]  # the failed and the diverged run
    numbers = [float(text) for text in up[:-2]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 36
    assert [float(text) for text in down[:-2]] == numbers[::-1]
    assert page.locator("#table th[aria-sort=descending]").inner_text().startswith("FID")


def test_sorting_filtering_and_selecting_work_with_the_keyboard(small, open_page) -> None:
    page = open_page(small)
    page.locator("#filter").focus()
    page.keyboard.type("wgan_gp sampling=real_fake")
    page.wait_for_timeout(400)
    assert page.locator("#count").inner_text() == "6 of 38 runs"
    heading(page, "seed").focus()
    page.keyboard.press("Enter")
    assert column(page, page.locator("#table th").all_inner_texts().index("seed"))[:2] == ["0", "0"]
    boxes = page.locator(".selected:visible")
    for index in (0, 1):
        boxes.nth(index).focus()
        page.keyboard.press("Space")
    assert "div.k" in page.locator("#difference").inner_text()
    toggle = page.locator(".toggle").first
    toggle.focus()
    page.keyboard.press("Enter")
    assert toggle.get_attribute("aria-pressed") == "false"


def test_the_filter_applies_to_every_section(small, open_page) -> None:
    page = open_page(small)
    page.locator("#status").select_option("failed")
    page.wait_for_timeout(400)
    assert page.locator("#table tbody tr:visible").count() == 1
    assert page.locator("#failures details:visible").count() == 1
    assert page.locator("#samples figure:visible").count() == 1
    assert "No data" in page.locator("#heat").inner_text()
    page.locator("#failures summary").first.click()
    assert "it is <b>failed</b> & so on" in page.locator("#failures pre").first.inner_text()
    page.locator("#status").select_option("")
    page.wait_for_timeout(400)
    assert page.locator("#table tbody tr:visible").count() == 38


def painted(page, selector: str) -> int:
    """Return the number of colours on a chart's canvas."""
    return page.evaluate(
        """(selector) => {
            const drawn = document.querySelector(selector + " canvas");
            const canvas = new OffscreenCanvas(drawn.width, drawn.height);
            const context = canvas.getContext("2d", {willReadFrequently: true});
            context.drawImage(drawn, 0, 0);
            const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) seen.add(pixels.slice(i, i + 3).join());
            return seen.size;
        }""",
        selector,
    )


def test_charts_are_drawn_and_toggles_hide_cells(small, open_page) -> None:
    page = open_page(small)
    page.wait_for_timeout(500)
    assert all(painted(page, selector) > 10 for selector in ("#heat", "#strip", "#lines"))
    before = painted(page, "#lines")
    page.locator("#none").click()
    assert "No data" in page.locator("#lines").inner_text()
    page.locator(".toggle").first.click()
    page.wait_for_timeout(500)
    assert 1 < painted(page, "#lines") < before
    across, down = (page.locator(f"[data-kind=heat] .{name}") for name in ("across", "second"))
    first, second = across.input_value(), down.input_value()
    across.select_option(second)  # swaps the axes
    assert (across.input_value(), down.input_value()) == (second, first)
    page.wait_for_timeout(500)
    assert painted(page, "#heat") > 10
    page.locator("#lines canvas").hover(position={"x": 300, "y": 100})
    page.wait_for_timeout(300)
    assert "images seen" in page.locator("#vg-tooltip-element").inner_text()


def test_the_table_and_the_toggles_show_a_cell_in_the_same_colour(small, open_page) -> None:
    page = open_page(small)
    colours = "elements => elements.map((element) => getComputedStyle(element).color + element.textContent)"
    cells = page.eval_on_selector_all("#summary td .swatch", colours)
    assert len(cells) == len(set(cells))
    assert set(page.eval_on_selector_all(".toggle .swatch", colours)) <= set(cells)
    assert page.locator("#summary td.best").count() == 1


def test_the_curves_of_a_long_run_are_shown_on_request(tmp_path: Path, open_page) -> None:
    draw = np.random.default_rng(0)
    runs = [record(1.0, k=k) for k in (1.0, 2.0, 4.0, 8.0)]
    for run in runs:
        run.config["scorer"] = {}
        add(tmp_path / "runs", run, draw)
    append_metrics(
        RunDir(tmp_path / "runs" / runs[0].run_id), {"step": 10**6, "images_seen": 10**8, "wasserstein": 1.0}
    )
    target = tmp_path / "report.html"
    command.main([str(tmp_path / "runs"), "--format", "html", "-o", str(target)])
    page = open_page(target)
    page.locator("#curve-metric").select_option("wasserstein")
    page.wait_for_timeout(500)
    cut = page.locator("#lines canvas").screenshot()
    page.locator("#whole").check()
    page.wait_for_timeout(500)
    assert page.locator("#lines canvas").screenshot() != cut
    page.locator("#curve-metric").select_option("fid")
    assert not page.locator("#cut").is_visible()


def test_the_page_follows_the_systems_theme(small, open_page) -> None:
    def background(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = (open_page(small, color_scheme=scheme) for scheme in ("light", "dark"))
    assert background(light) == "rgb(255, 255, 255)"
    assert background(dark) == "rgb(20, 23, 27)"
    dark.locator("#theme").click()
    assert background(dark) == background(light)


def test_a_phone_shows_the_page_without_horizontal_scrolling(small, open_page) -> None:
    page = open_page(small, viewport={"width": 375, "height": 700}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_page_of_500_runs_is_loaded_and_filtered(report_of, open_page) -> None:
    path = report_of(42)
    assert path.stat().st_size < 20e6
    page = open_page(path)
    assert page.locator("#table tbody tr").count() == 506
    page.locator("#filter").fill("wgan_div sampling=real seed=7")
    page.wait_for_timeout(1500)
    assert (
        page.locator("#table tbody tr:visible").count() == 2
    )  # k=1 and k=2; a word with a value matches whole words only, so real_fake is excluded
    milliseconds = page.evaluate(
        "(async () => { const began = performance.now(); document.querySelectorAll('#table th button')[7].click();"
        " await new Promise((done) => requestAnimationFrame(done)); return performance.now() - began; })()"
    )
    assert milliseconds > 0
    assert json.loads(page.locator("#data").text_content())["rows"][0]["run"]
