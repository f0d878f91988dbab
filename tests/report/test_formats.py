"""The PNG, the HTML page and the live table show what the run directories contain."""

import io
import itertools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import vl_convert
from PIL import Image
from rich.console import Console

from wgan_sweep.commands import report as command
from wgan_sweep.report import charts, vega
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.text import footnotes, to_csv, to_latex, to_markdown
from wgan_sweep.report.watch import view, watch
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.lock import run_lock
from wgan_sweep.runs.record import Record
from wgan_sweep.runs.requests import write_not_started

from ..helpers import append_metrics, write_record
from .test_report import grid, record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs <of> a sweep"
    records = [*grid(), record(None, "failed", k=4.0, p=2.0), record(None, "running", k=4.0, p=6.0)]
    for item in records:
        item.config["scorer"] = {}
        directory = RunDir(folder / item.run_id)
        write_record(directory, item)
        for step in range(0, 1000, 2):
            line = {"step": step, "images_seen": 64 * step, "wasserstein": 1 / (step + 1)}
            append_metrics(directory, line | ({"fid": 100 / (step + 1)} if step % 100 == 0 else {}))
        directory.samples(10).parent.mkdir()
        Image.new("RGB", (900, 600), "red").save(directory.samples(10))
    return folder


def run_command(runs: Path, form: str, tmp_path: Path) -> bytes:
    target = tmp_path / f"report.{form}"
    command.main([str(runs), "--format", form, "--output", str(target)])
    return target.read_bytes()


def test_a_latex_table_prints_names_as_they_are_and_marks_the_best_cell() -> None:
    values = {("wgan_gp", "real"): (90.0, 92.0), ("wgan_div", "real"): (1.0, 3.0), ("wgan_div", "fake"): (2.0, 4.0)}
    records = [
        record(value, loss=loss, sampling=sampling, seed=seed)
        for (loss, sampling), own in values.items()
        for seed, value in enumerate(own)
    ]
    records.append(record(None, "failed", loss="wgan_div", sampling="real", seed=9))
    records[-1].error = "Traceback\nValueError: 100 % of a_b"
    comments, begin, table = to_latex(group_runs(records)).partition("\\begin")
    assert comments.splitlines()[-1].endswith("ValueError: 100 % of a_b")
    assert all(line.startswith("% ") for line in comments.splitlines())
    assert begin + table == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "loss & sampling=real & sampling=fake \\\\\n"
        "\\midrule\n"
        "wgan\\_gp & 91.00 $\\pm$ 1.41 (n=2) &  \\\\\n"
        "wgan\\_div & \\textbf{2.00 $\\pm$ 1.41 (n=2), 1 failed} & 3.00 $\\pm$ 1.41 (n=2)$^\\circ$ \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_an_output_that_takes_a_few_bytes_at_a_time_gets_all(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.BytesIO):
        def write(self, content) -> int:
            return super().write(content[:7])

    pipe = Pipe()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=pipe, isatty=lambda: False, flush=lambda: None))
        command.main([str(runs), "--format", "json"])
    assert len(json.loads(pipe.getvalue())["runs"]) == len(grid()) + 2


def test_tables_leave_out_the_middle_of_a_very_long_value_and_csv_has_all() -> None:
    records = [record(1.0), record(2.0)]
    for item, name in zip(records, "ab", strict=True):
        item.config["model"] = {"hidden": name + 500 * "x" + name}
        item.config["choices"]["model"] = "mlp"
        item.overrides.append(f"model.hidden={name}{500 * 'x'}{name}")
    table, latex, text = (write(group_runs(records)) for write in (to_markdown, to_latex, to_csv))
    for name in "ab":
        short = f"{name}{29 * 'x'}…{29 * 'x'}{name}"
        assert short in table
        assert short in latex
        assert f"{name}{500 * 'x'}{name}" in text
    assert max(map(len, table.splitlines()[:4])) < 90


def test_a_report_on_runs_of_two_metrics_says_how_to_see_the_other_one() -> None:
    images, points = [record(40.0), record(50.0, seed=1)], [record(None, k=1.0, seed=seed) for seed in range(3)]
    for item in points[:2]:
        item.scores = {"w1": 0.5, "w2": 0.6, "exact_samples": 2000, "step": 10}
    notes = footnotes(group_runs([*images, *points]))
    assert "unscored: 2 of 5 runs have W1 instead of FID: --metric w1 shows it." in notes
    assert "unscored: 2 of 5 runs have FID instead of W1: --metric fid shows it." in footnotes(
        group_runs([*images, *points], "w1")
    )
    assert not any("unscored" in note for note in footnotes(group_runs([*images, points[2]])))


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("r.html", b"<!doctype html>"),
        ("r.PNG", b"\x89PNG"),
        ("r.csv", b"div.k,"),
        ("r.json", b"{"),
        ("r.tex", b"% "),
        ("r.txt", b"| "),
        ("r", b"| "),
    ],
)
def test_the_ending_of_the_output_names_the_format(runs: Path, tmp_path: Path, name: str, start: bytes) -> None:
    target = tmp_path / name
    command.main([str(runs), "-o", str(target)])
    assert target.read_bytes().lower().startswith(start.lower())
    command.main([str(runs), "-o", str(target), "--format", "csv"])
    assert target.read_bytes().startswith(b"div.k,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "report.pdf"], "--output report.pdf: the ending .pdf names no format: add --format md, tex, csv"),
        (["--project", "p"], "--project has no effect on a report: add --wandb or --dashboard, or leave it out"),
        (["--entity", "e"], "--entity has no effect on a report"),
    ],
)
def test_options_without_effect_are_refused(runs: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as refusal:
        command.main([str(runs), *arguments])
    assert str(refusal.value).startswith(f"wgan-report: {message}")


def test_the_png_is_drawn_from_the_run_directories(runs: Path, tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(run_command(runs, "png", tmp_path)))
    assert image.size[0] > 1000
    assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_the_page_is_self_contained_and_shows_every_run(runs: Path, tmp_path: Path) -> None:
    page = run_command(runs, "html", tmp_path).decode()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", page.split('<script type="module">')[0])
    assert "runs &lt;of&gt; a sweep" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    by_run = {row["run"]: row for row in data["rows"]}
    for path in runs.iterdir():
        item = RunDir(path).read_record()
        assert by_run[item.run_id]["value"] == item.scores.get("fid")
        assert f'data-run="{item.run_id}"' in page
    assert sum(row["value"] is None for row in data["rows"]) == 2
    assert set(data["charts"]["heat"]) == {"0,1", "1,0"}
    assert data["defaults"] == {"heat": "1,0", "strip": "0"}


def test_the_script_of_charts_is_bundled_once_and_again_if_its_copy_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    bundled = []
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda code: bundled.append(code) or f"{code}\r\n</script>ü")
    script = vega.script()
    assert script == f"{bundled[0]}\r\n<\\/script>ü"
    assert vega.script() == script
    assert len(bundled) == 1
    (copy,) = (tmp_path / "cache" / "scripts").glob("*.js")
    for damage in (b"", copy.read_bytes()[:-1], b"alert(1)" + copy.read_bytes(), b"\xff"):
        copy.write_bytes(damage)
        bundled.clear()
        assert vega.script() == script
        assert len(bundled) == 1
    monkeypatch.setenv("WGAN_SWEEP_CACHE", "/proc/none")
    assert vega.script() == script


def test_learning_curves_are_thinned_but_keep_their_last_point(runs: Path) -> None:
    directory = next(RunDir(path) for path in runs.iterdir() if RunDir(path).read_record().scores)
    curves = charts.learning_curves(directory.read_record(), directory)
    assert len(curves["wasserstein"]) <= charts.MAX_CURVE_POINTS
    assert curves["wasserstein"][-1] == [64 * 998, float(f"{1 / 999:.5g}")]
    assert [images for images, _ in curves["fid"]] == [6400 * n for n in range(10)]


def test_the_default_charts_show_p_against_k_and_the_sampling_scheme() -> None:
    report = group_runs(
        [
            record(float(k), loss=loss, sampling=sampling, k=k, p=p)
            for loss in ("wgan_div", "wgan_div_b")
            for sampling in ("fake", "real")
            for k in (1.0, 2.0)
            for p in (2.0, 6.0)
        ]
    )
    names = dict(enumerate(report.axes))
    heat, strip = (
        tuple(names[int(i)] for i in charts.default_axes(report)[kind].split(",")) for kind in ("heat", "strip")
    )
    assert heat == ("div.p", "div.k")
    assert strip == ("sampling",)


def test_runs_without_varying_axes_have_no_heat_map(tmp_path: Path) -> None:
    report = group_runs([record(1.0, seed=0), record(2.0, seed=1)])
    assert charts.default_axes(report) == {"heat": "", "strip": ""}
    assert charts.grid_charts(report, charts.cell_styles(report)) == {"heat": {}, "strip": {}}


def live_table(runs: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(view(runs))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_live_table_lists_running_runs_first(runs: Path) -> None:
    (running,) = (path for path in runs.iterdir() if RunDir(path).read_record().status == "running")
    with run_lock(RunDir(running).lock, "the run"):
        lines = live_table(runs).splitlines()
    assert "running" in lines[1]
    assert "12 done" in lines[-1]
    assert "1 failed" in lines[-1]
    assert sum(" done " in line for line in lines[1:]) == 12


def test_the_live_table_shows_dead_runs_and_those_that_have_not_started(runs: Path) -> None:
    waiting = record(None, "new", k=9.0, p=2.0)
    waiting.config["scorer"] = {}
    (runs / ".sweeps" / "one").mkdir(parents=True)
    write_not_started(runs / ".sweeps" / "one", [waiting])
    lines = live_table(runs).splitlines()
    assert "running" not in "".join(lines)
    assert sum(" dead " in line for line in lines[1:-1]) == sum(" not started " in line for line in lines[1:-1]) == 1
    assert "1 dead" in lines[-1]
    assert "1 not started" in lines[-1]


def test_watching_shows_changes_until_ctrl_c(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshes = 0

    def sleep(_: float) -> None:
        nonlocal refreshes
        refreshes += 1
        if refreshes == 2:
            raise KeyboardInterrupt
        for path in runs.iterdir():
            item: Record | None = RunDir(path).read_record()
            assert item is not None
            if item.status == "running":
                item.status = "done"  # type: ignore[assignment]
                write_record(RunDir(path), item)

    monkeypatch.setattr("wgan_sweep.report.watch.time.sleep", sleep)
    console = Console(file=io.StringIO(), width=200)
    watch(runs, None, console)
    assert "13 done" in console.file.getvalue()  # type: ignore[attr-defined]


def test_values_that_are_not_finite_become_null(runs: Path, tmp_path: Path) -> None:
    directory = RunDir(next(path for path in runs.iterdir() if RunDir(path).read_record().status == "done"))
    item = directory.read_record()
    item.scores["fid"] = float("nan")
    write_record(directory, item)
    append_metrics(directory, {"step": 2000, "images_seen": 9, "wasserstein": float("inf")})
    page = run_command(runs, "html", tmp_path).decode()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1), parse_constant=pytest.fail)
    assert next(row for row in data["rows"] if row["run"] == item.run_id)["value"] is None
    json.loads(run_command(runs, "json", tmp_path), parse_constant=pytest.fail)
    run_command(runs, "md", tmp_path)


def test_the_page_tests_a_users_claims(runs: Path, tmp_path: Path) -> None:
    claims, target = tmp_path / "mine.yaml", tmp_path / "x.html"
    claims.write_text("claims:\n- {claim: mine alone, lower: {div.k: 1, div.p: 2}, than: {div.k: 2}}\n")
    command.main([str(runs), "--format", "html", "-o", str(target), "--claims", str(claims)])
    assert "mine alone" in target.read_text()
    assert "lowest mean of the grid" not in target.read_text()


def test_the_table_of_a_sparse_grid_stays_small() -> None:
    """Every axis has as many values as there are runs, so the full product of the axes would be huge."""
    report = group_runs([record(1.0, loss=f"l{n}", sampling=f"s{n}", k=n, p=n, lr=n, seed=0) for n in range(1, 25)])
    assert len(to_csv(report).splitlines()) <= 1 + 24 * 24


def test_an_empty_folder_is_watched_as_one_without_runs(tmp_path: Path) -> None:
    assert "no runs yet" in live_table(tmp_path)


COLOUR_BLIND = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
"""How linear RGB looks to readers (Machado, Oliveira, Fernandes 2009, severity 1)."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def linear(colour: str) -> np.ndarray:
    """Return the linear RGB values of a colour."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return the CIELAB coordinates of linear RGB values."""
    ratio = TO_XYZ @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("reader", COLOUR_BLIND)
def test_the_colours_differ_for_every_reader(reader: str) -> None:
    seen = [lab(COLOUR_BLIND[reader] @ linear(colour)) for colour in charts.COLOURS]
    closest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
    assert closest > 15  # a difference of 2.3 is just noticeable


@pytest.mark.parametrize("background", ["#ffffff", "#14171b"])
def test_the_colours_stand_out_from_the_page(background: str) -> None:
    def luminance(colour: str) -> float:
        return float(linear(colour) @ TO_XYZ[1])

    for colour in charts.COLOURS:
        bright, dark = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) > 2.2, colour


def test_cells_differ_in_colour_or_shape_and_their_labels_are_short() -> None:
    runs = [record(float(k), loss="wgan_div", sampling=s, k=float(k)) for s in ("fake", "real") for k in range(1, 14)]
    report = group_runs([*runs, record(None, "diverged", loss="wgan_div", sampling="real", k=1.0, lr=1e30)])
    styles = charts.cell_styles(report)
    assert len({(style.colour, style.shape) for style in styles.values()}) == 27
    assert len({(style.colour, tuple(style.dash)) for style in styles.values()}) == 27
    labels = {style.label: style.name for style in styles.values() if style.is_drawn}
    assert labels["real k=1"] == "sampling=real div.k=1 optimizer.lr=0.0002"
    assert len(labels) == 26
    with_curve = charts.cell_styles(report, {run.run_id for run in report.records})
    assert {"real k=1", "real k=1 lr=1e+30"} <= {style.label for style in with_curve.values()}


def test_a_long_run_does_not_squeeze_the_curves_of_the_others() -> None:
    def curves(*lengths: float) -> dict[str, float]:
        return charts.curve_ends([{"fid": [[0, 1.0], [length, 1.0]]} for length in lengths])

    assert curves(100, 100, 100, 100) == {}
    assert curves(80, 90, 100, 5000) == {"fid": 125}
    assert curves(100, 120) == curves(100) == {}


def test_the_labels_of_a_strip_plot_do_not_touch() -> None:
    report = group_runs([record(1.0, sampling=name) for name in ("real_fake", "mixed_pairs")])
    (across,) = range(len(report.axes))
    step = charts.strip_plot(report, across, charts.cell_styles(report))["width"]["step"]
    assert step > charts.CHARACTER * len("mixed_pairs") + 10


def test_the_heat_map_has_the_marks_of_the_table() -> None:
    runs = [
        record(100 * k + p + seed / 4, k=k, p=p, seed=seed) for k in (1.0, 2.0) for p in (2.0, 6.0) for seed in range(4)
    ]
    report = group_runs([*runs, record(90.0, k=2.0, p=9.0)])
    rows = charts.run_rows(report, charts.cell_styles(report))
    assert {(row["a0"], row["a1"]): row["standing"] for row in rows if row["standing"]} == {
        ("1", "2"): "best",
        ("2", "9"): "possibly best",
    }
    groups = [t["groupby"] for t in charts.heat_map(report, 0, 1)["transform"] if "groupby" in t]
    assert groups == [["a0", "a1", "rest", "standing"]]


def test_the_page_marks_the_best_cell_and_leaves_blank_what_nobody_asked_for(runs: Path, tmp_path: Path) -> None:
    item = record(50.0, k=8.0, p=2.0)
    item.config["scorer"] = {}
    write_record(RunDir(runs / item.run_id), item)
    summary = run_command(runs, "html", tmp_path).decode().split('id="summary"')[1].split("</section>")[0]
    cells = re.findall(r"<td( class=\"[a-z-]+\")?>(.*?)</td>", summary)
    texts = [(name[8:-1], re.sub(r"<[^>]*>", "", text)) for name, text in cells]
    assert ("best", "●121.00 ± 1.00 (n=3) ★") in texts
    assert ("possibly-best", "●50.00 (n=1) °") in texts
    assert texts.count(("", "")) == 1
    assert len(texts) == 8
