"""Pictures, the page and the live table: what they hold is what the directories hold."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from wgan_sweep.commands import report as command
from wgan_sweep.report import charts
from wgan_sweep.report.cells import report
from wgan_sweep.report.text import to_csv
from wgan_sweep.report.watch import view, watch
from wgan_sweep.runs.directory import Record, RunDir

from .test_report import grid, record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs <of> a sweep"
    found = [*grid(), record(None, "failed", k=4.0, p=2.0), record(None, "running", k=4.0, p=6.0)]
    for one in found:
        one.config["scorer"] = {}
        directory = RunDir(folder / one.run_id)
        directory.write_record(one)
        for step in range(0, 1000, 2):
            line = {"step": step, "images_seen": 64 * step, "wasserstein": 1 / (step + 1)}
            directory.append_metrics(line | ({"fid": 100 / (step + 1)} if step % 100 == 0 else {}))
        directory.samples(10).parent.mkdir()
        Image.new("RGB", (900, 600), "red").save(directory.samples(10))
    return folder


def made(runs: Path, form: str, tmp_path: Path) -> bytes:
    target = tmp_path / f"report.{form}"
    command.main([str(runs), "--format", form, "--output", str(target)])
    return target.read_bytes()


def test_a_picture_is_drawn_from_the_directories(runs: Path, tmp_path: Path) -> None:
    picture = Image.open(io.BytesIO(made(runs, "png", tmp_path)))
    assert picture.size[0] > 1000
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_the_page_is_whole_by_itself_and_holds_every_run(runs: Path, tmp_path: Path) -> None:
    page = made(runs, "html", tmp_path).decode()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", page.split('<script type="module">')[0])
    assert "runs &lt;of&gt; a sweep" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    by_run = {row["run"]: row for row in data["rows"]}
    for path in runs.iterdir():
        one = RunDir(path).read_record()
        assert by_run[one.run_id]["score"] == one.scores.get("fid")
        assert f'data-run="{one.run_id}"' in page
    assert sum(row["score"] is None for row in data["rows"]) == 2
    assert set(data["charts"]["heat"]) == {"0,1", "1,0"}
    assert data["usual"] == {"heat": "1,0", "strip": "0"}


def test_curves_are_thinned_but_keep_their_last_point(runs: Path) -> None:
    one = RunDir(next(iter(runs.iterdir())))
    found = charts.curves(one.read_record(), one)
    assert len(found["wasserstein"]) <= charts.POINTS_OF_A_CURVE
    assert found["wasserstein"][-1] == [64 * 998, float(f"{1 / 999:.5g}")]
    assert [images for images, _ in found["fid"]] == [6400 * n for n in range(10)]


def test_the_usual_charts_are_p_against_k_and_r_of_x() -> None:
    found = report(
        [
            record(float(k), loss=loss, sampling=sampling, k=k, p=p)
            for loss in ("wgan_div", "wgan_div_b")
            for sampling in ("fake", "real")
            for k in (1.0, 2.0)
            for p in (2.0, 6.0)
        ]
    )
    names = dict(enumerate(found.axes))
    heat, strip = (tuple(names[int(i)] for i in charts.usual(found)[kind].split(",")) for kind in ("heat", "strip"))
    assert heat == ("div.p", "div.k")
    assert strip == ("sampling",)


def test_what_varies_in_nothing_has_no_heat_map(tmp_path: Path) -> None:
    found = report([record(1.0, seed=0), record(2.0, seed=1)])
    assert charts.usual(found) == {"heat": "", "strip": ""}
    assert charts.choices(found) == {"heat": {}, "strip": {}}


def shown(runs: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(view(runs))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_live_table_has_a_row_per_run_those_at_work_first(runs: Path) -> None:
    lines = shown(runs).splitlines()
    assert "running" in lines[1]
    assert "12 done" in lines[-1]
    assert "1 failed" in lines[-1]
    assert sum(" done " in line for line in lines[1:]) == 12


def test_watching_shows_what_changes_until_ctrl_c(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt
        for path in runs.iterdir():
            one: Record | None = RunDir(path).read_record()
            assert one is not None
            if one.status == "running":
                one.status = "done"  # type: ignore[assignment]
                RunDir(path).write_record(one)

    monkeypatch.setattr("wgan_sweep.report.watch.time.sleep", sleep)
    console = Console(file=io.StringIO(), width=200)
    watch(runs, None, console)
    assert "13 done" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_not_finite_is_null_and_breaks_nothing(runs: Path, tmp_path: Path) -> None:
    directory = RunDir(next(path for path in runs.iterdir() if RunDir(path).read_record().status == "done"))
    one = directory.read_record()
    one.scores["fid"] = float("nan")
    directory.write_record(one)
    directory.append_metrics({"step": 2000, "images_seen": 9, "wasserstein": float("inf")})
    page = made(runs, "html", tmp_path).decode()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1), parse_constant=pytest.fail)
    assert next(row for row in data["rows"] if row["run"] == one.run_id)["score"] is None
    json.loads(made(runs, "json", tmp_path), parse_constant=pytest.fail)
    made(runs, "md", tmp_path)


def test_the_page_judges_a_users_claims(runs: Path, tmp_path: Path) -> None:
    mine, target = tmp_path / "mine.yaml", tmp_path / "x.html"
    mine.write_text("claims:\n- {claim: mine alone, lower: {div.k: 1, div.p: 2}, than: {div.k: 2}}\n")
    command.main([str(runs), "--format", "html", "-o", str(target), "--claims", str(mine)])
    assert "mine alone" in target.read_text()
    assert "lowest mean score of the grid" not in target.read_text()


def test_a_table_of_what_shares_little_is_no_larger_than_its_runs() -> None:
    """Every axis has as many values as there are runs: their product would be endless."""
    found = report([record(1.0, loss=f"l{n}", sampling=f"s{n}", k=n, p=n, lr=n, seed=0) for n in range(1, 25)])
    assert len(to_csv(found).splitlines()) <= 1 + 24 * 24


def test_an_empty_folder_is_watched_as_one_without_runs(tmp_path: Path) -> None:
    assert "no runs yet" in shown(tmp_path)
