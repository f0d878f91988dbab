"""Tables of runs: axes, cells, footnotes, formats, the command and the contact sheet."""

import csv
import io
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from wgan_sweep.commands import report as command
from wgan_sweep.report.cells import axes, group_runs
from wgan_sweep.report.contact_sheet import summarise
from wgan_sweep.report.text import table, to_csv, to_json, to_markdown
from wgan_sweep.runs.coordinates import MEASURED_WITH
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.lock import run_lock
from wgan_sweep.runs.record import EarlierScores, Record, Status
from wgan_sweep.runs.requests import not_started, write_not_started

from ..helpers import write_record

COUNT = 0


def record(
    fid: float | None = None,
    status: str = "done",
    counts: tuple[int, int, int] = (2048, 1000, 5000),
    step: int = 10,
    **values,
) -> Record:
    """Return a run with the given options (loss, sampling) and numbers (k, p, lr, seed), all of which are overrides."""
    global COUNT
    COUNT += 1
    loss, sampling = values.get("loss", "wgan_div"), values.get("sampling", "real_fake")
    k, p, lr, seed = values.get("k", 2.0), values.get("p", 6.0), values.get("lr", 2e-4), values.get("seed", 0)
    overrides = {
        "loss": f"loss={loss}",
        "sampling": f"sampling={sampling}",
        "k": f"div.k={k}",
        "p": f"div.p={p}",
        "lr": f"optimizer.lr={lr}",
        "seed": f"seed={seed}",
    }
    config = {
        "choices": {"loss": loss, "sampling": sampling, "optimizer": "adam", "scorer": "fid", "tracker": "none"}
        | ({"div": "paper"} if loss.startswith("wgan_div") else {}),
        "scorer": {},
        "loss": {"_target_": f"x.{loss}", **({"k": k, "p": p} if loss.startswith("wgan_div") else {})},
        "div": {"k": k, "p": p},
        "optimizer": {"_target_": "y", "lr": lr if loss.startswith("wgan_div") else 1e-4},
        "data": {"root": f"/{COUNT}"},
        "train": {"steps": 10 + COUNT, "batch_size": 64},
        "seed": seed,
    }
    scores = {} if fid is None else {"fid": fid, **dict(zip(MEASURED_WITH, counts, strict=False)), "step": step}
    error = f"Traceback\n  at step 7: {status}" if status in ("failed", "diverged") else None
    return Record(
        f"id{COUNT}",
        Status(status),
        [overrides[key] for key in values],
        config,
        10,
        640,
        scores,
        scores,
        error,
        started=f"{COUNT:04}",
    )


def continued(run: Record, status: str, step: int) -> Record:
    """Return a run that was done and then continued, with what happened to it by a step."""
    earlier = EarlierScores(run.step, run.scores, run.scored_by, run.best)
    error = f"not finite at step {step + 1}" if status in ("failed", "diverged") else None
    return replace(run, status=Status(status), step=step, history=[earlier], error=error)


def test_a_finished_result_is_shown_if_the_run_was_continued_and_ended_otherwise() -> None:
    runs = [record(20.0 + 4 * seed, seed=seed) for seed in (0, 1)]
    lost = continued(record(28.0, seed=2), "diverged", 15)
    rescored = replace(continued(record(32.0, seed=3), "failed", 10), scores={}, best={})
    report = group_runs([*runs, lost, rescored])
    text = to_markdown(report)
    assert "26.00 ± 5.16 (n=4), 1 diverged later, 1 failed later" in text
    assert f"diverged: {lost.run_id} (seed=2), done before at step 10: not finite at step 16" in text
    (cell,) = json.loads(to_json(report))["cells"]
    assert (cell["n"], cell["status"], cell["continued"]) == (4, "done", "1 diverged 1 failed")
    # Beside a run that has the further steps, the earlier result is in the row of its own step.
    header, rows = table(group_runs([record(5.0, step=20), lost]))
    assert header[-2:] == ["step", "FID"]
    assert [row[-2:] for row in rows] == [["10", "28.00 (n=1), 1 diverged later"], ["20", "5.00 (n=1)"]]


def test_pruned_runs_are_counted_and_their_cell_is_not_the_best() -> None:
    """The mean of k = 1 is the lowest because its worse seed was pruned."""
    low = [record(1.0 + seed / 10, k=1.0, seed=seed) for seed in (0, 1)]
    high = [record(9.0 + k + seed / 10, k=k, seed=seed) for k in (2.0, 3.0) for seed in (0, 1)]
    whole = to_markdown(group_runs([*low, *high]))
    assert "| **1.05 ± 0.07 (n=2)** |" in whole
    assert "pruned" not in whole
    lines = to_markdown(group_runs([*low, *high, record(3.0, "pruned", k=1.0, seed=2)]))
    assert "| 1.05 ± 0.07 (n=2), 1 pruned ° |" in lines
    assert "| **11.05 ± 0.07 (n=2)**" in lines
    assert "or only one seed, or pruned seeds; all other cells are worse" in lines
    counted = (
        "pruned: 1 of 7 runs (stopped early, since others were better at the same step); prune=none continues them"
    )
    assert counted in lines


def grid() -> list[Record]:
    return [
        record(100 * k + 10 * p + seed, k=k, p=p, seed=seed)
        for k in (1.0, 2.0)
        for p in (2.0, 6.0)
        for seed in (0, 1, 2)
    ]


def test_a_grid_over_k_and_p_has_a_row_per_k_and_a_column_per_p() -> None:
    assert to_markdown(group_runs(grid())).splitlines()[:4] == [
        "| div.k | div.p=2                 | div.p=6             |",
        "|-------|-------------------------|---------------------|",
        "| 1     | **121.00 ± 1.00 (n=3)** | 161.00 ± 1.00 (n=3) |",
        "| 2     | 221.00 ± 1.00 (n=3)     | 261.00 ± 1.00 (n=3) |",
    ]


def test_a_footnote_describes_the_measurement() -> None:
    assert "InceptionV3 2048 features, 1000 generated against 5000 real" in to_markdown(group_runs(grid()))


def test_the_optimizer_that_a_loss_selects_is_not_an_axis() -> None:
    runs = [record(1.0, loss=loss, sampling=s) for loss in ("wgan_gp", "wgan_div") for s in ("fake", "real")]
    assert axes(runs) == ["loss", "sampling"]


def test_a_key_that_was_not_overridden_is_an_axis_where_it_alone_separates_runs() -> None:
    assert set(axes([record(1.0), record(2.0, lr=1e-3)])) == {"optimizer.lr"}


def test_the_parts_of_a_constraint_are_axes(make) -> None:
    """By the names of their options, their values, and the sampling schemes inside them."""

    def axes_of(*sweep: tuple[str, ...]) -> tuple[list[str], list[tuple[str, ...]]]:
        runs = []
        for given in sweep:
            config = make("data=gaussians8", "loss=rpgan", *given, tiny=False)
            runs.append(Record(f"id{len(runs)}", Status.DONE, list(given), asdict(config), scores={"w1": 1.0}))
        return axes(runs), list(group_runs(runs).cells)

    option = "+constraint@constraint.sn={}".format
    assert axes_of((option("spectral_norm"),), (option("weight_clip"),)) == (
        ["constraint.sn"],
        [("spectral_norm",), ("weight_clip",)],
    )
    weight = "constraint.r1.weight={}".format
    assert axes_of((weight(1),), (weight(5),)) == (["constraint.r1.weight"], [("1",), ("5",)])
    sampling = "+sampling@constraint.r2.sampling={}".format
    assert axes_of((sampling("fake"),), (sampling("real"),)) == (
        ["constraint.r2.sampling"],
        [("fake",), ("real",)],
    )


def test_two_overridden_keys_that_vary_together_are_both_axes() -> None:
    assert axes([record(1.0, k=1.0, p=2.0), record(2.0, k=2.0, p=6.0)]) == ["div.k", "div.p"]


def test_numbers_on_an_axis_are_sorted() -> None:
    runs = [record(1.0, p=p) for p in (10.0, 2.0, 1.5)]
    assert group_runs(runs).values(0) == ["1.5", "2", "10"]


def test_failed_diverged_and_running_runs_are_shown_and_what_nobody_asked_for_is_blank() -> None:
    runs = [
        record(50.0, k=1.0, p=2.0, seed=0),
        record(None, "failed", k=1.0, p=2.0, seed=1),
        record(None, "diverged", k=1.0, p=6.0),
        record(None, "running", k=2.0, p=2.0),
    ]
    text = to_markdown(group_runs(runs))
    assert "| 1     | 50.00 (n=1), 1 failed | 1 diverged |" in text
    assert "| 2     | 1 running             |            |" in text
    assert f"failed: {runs[1].run_id} (div.k=1.0 div.p=2.0 seed=1):   at step 7: failed" in text.replace(":   ", ":   ")


def test_the_metric_value_of_a_failed_run_is_not_in_the_mean() -> None:
    runs = [record(50.0, seed=0), record(1.0, "failed", seed=1)]
    (cell,) = group_runs(runs).cells.values()
    assert (cell.mean, cell.sd, len(cell.values)) == (50.0, None, 1)


def test_fids_with_other_counts_are_in_separate_cells() -> None:
    runs = [record(50.0, seed=0), record(10.0, counts=(2048, 50000, 5000), seed=1)]
    report = group_runs(runs)
    assert report.axes == ["fid_generated"]
    assert sorted(cell.mean for cell in report.cells.values()) == [10, 50]
    assert "cannot be compared" in to_markdown(report)


def test_values_at_other_steps_are_in_separate_cells() -> None:
    report = group_runs([record(50.0, seed=0), record(10.0, step=20, seed=1)])
    assert report.axes == ["step"]
    assert [cell.mean for cell in report.cells.values()] == [50, 10]


def test_an_axis_that_a_loss_does_not_have_shows_no_value() -> None:
    runs = [record(1.0, loss="wgan_div", k=k) for k in (1.0, 3.0)] + [record(2.0, loss="wgan_gp")]
    assert [row for row in to_markdown(group_runs(runs)).splitlines() if row.startswith("| ")] == [
        "| loss     | div.k=1    | div.k=3    | div.k=-    |",
        "| wgan_div | 1.00 (n=1) | 1.00 (n=1) |            |",
        "| wgan_gp  |            |            | 2.00 (n=1) |",
    ]


def test_a_single_run_is_a_table() -> None:
    assert "50.00 (n=1)" in to_markdown(group_runs([record(50.0)]))


def test_the_last_of_three_axes_becomes_the_columns() -> None:
    runs = [
        record(1.0, loss=loss, k=k, p=p)
        for loss in ("wgan_div", "wgan_div_old")
        for k in (1.0, 2.0)
        for p in (2.0, 6.0)
    ]
    header, rows = table(group_runs(runs))
    assert header == ["loss", "div.k", "div.p=2", "div.p=6"]
    assert [row[:2] for row in rows] == [[loss, k] for loss in ("wgan_div", "wgan_div_old") for k in "12"]


def test_csv_and_json_contain_the_same_cells() -> None:
    runs = grid()[:-3]
    read = list(csv.DictReader(io.StringIO(to_csv(group_runs(runs)))))
    cells = json.loads(to_json(group_runs(runs)))["cells"]
    assert len(read) == len(cells) == 3  # the fourth was not requested
    for line, cell in zip(read, cells, strict=True):
        assert line["div.k"] == cell["div.k"]
        assert line["status"] == cell["status"]
        assert line["runs"].split() == cell["runs"]
        assert (float(line["fid"]) if line["fid"] else None) == cell["fid"]
    values = [r.scores["fid"] for r in runs[:3]]
    assert (cells[0]["fid"], cells[0]["sd"], cells[0]["n"]) == (statistics.mean(values), statistics.stdev(values), 3)
    assert [cell["standing"] for cell in cells] == ["best", None, None]
    assert [line["standing"] for line in read] == ["best", "", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for item in grid():
        write_record(RunDir(tmp_path / "runs" / item.run_id), item)
    return tmp_path / "runs"


def test_the_command_needs_neither_torch_nor_wandb_nor_hydra(folder: Path) -> None:
    program = (
        "import sys; from wgan_sweep.commands.report import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'wandb', 'hydra', 'omegaconf', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    process = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert process.stdout == to_markdown(group_runs(find_runs(folder).records))


@pytest.mark.parametrize("form", ["md", "csv", "json"])
def test_every_format_prints(folder: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(folder), "--format", form])
    assert "div.k" in capsys.readouterr().out


@pytest.mark.parametrize(("path", "words"), [("nowhere", "there is no folder"), (".", "holds no runs")])
def test_a_folder_without_runs_is_an_error(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        command.main([str(tmp_path / path)])


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b'{"run_id": "a", "status": "done", "format": 1}'])
def test_a_damaged_record_is_reported_and_the_others_are_shown(folder: Path, damage: bytes, capsys) -> None:
    next(folder.iterdir()).joinpath("record.json").write_bytes(damage)
    with pytest.raises(SystemExit, match="1"):
        command.main([str(folder)])
    output = capsys.readouterr()
    assert "is not a run's record" in output.err
    assert "| 2 " in output.out


def test_the_contact_sheet_shows_the_samples_of_each_cell_in_table_order(tmp_path: Path) -> None:
    from PIL import Image

    runs = grid()[::3]
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    for item, colour in zip(runs, colours, strict=True):
        path = RunDir(tmp_path / item.run_id).samples(10)
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(path)
    summary = summarise(runs, tmp_path)
    assert summary.table == to_markdown(group_runs(runs))
    assert summary.picture is not None
    sheet = Image.open(io.BytesIO(summary.picture))
    centres = [
        (x, y)
        for y in (sheet.height // 4 + 20, 3 * sheet.height // 4 + 20)
        for x in (sheet.width // 4, 3 * sheet.width // 4)
    ]
    assert [sheet.getpixel(centre) for centre in centres] == colours


def test_without_samples_there_is_no_contact_sheet(tmp_path: Path) -> None:
    assert summarise(grid(), tmp_path).picture is None


def test_w1_is_the_default_metric_of_points_and_any_metric_can_be_shown(tmp_path: Path, capsys) -> None:
    for seed, (w1, modes) in enumerate([(0.5, 8), (0.7, 6)]):
        item = record(None, seed=seed)
        item.scores = {"w1": w1, "modes": modes, "exact_samples": 2000, "step": 10}
        write_record(RunDir(tmp_path / item.run_id), item)
    command.main([str(tmp_path)])
    output = capsys.readouterr().out
    assert "0.6 ± 0.1414 (n=2)" in output
    assert "W1 of 2000 generated against 2000 real points, at step 10" in output
    command.main([str(tmp_path), "--metric", "modes"])
    assert "7 ± 1.414 (n=2)" in capsys.readouterr().out


def test_a_table_that_mixes_versions_of_the_code_says_so() -> None:
    records = grid()
    assert "different versions" not in to_markdown(group_runs(records))
    for item in records:
        item.code = "0.2.0 (aaaaaaaaaaaa)"
    assert "different versions" not in to_markdown(group_runs(records))
    records[3].code = "0.2.1 (bbbbbbbbbbbb)"
    line = "Runs of different versions of wgan-sweep: 0.2.0 (aaaaaaaaaaaa), 0.2.1 (bbbbbbbbbbbb)."
    assert line in to_markdown(group_runs(records)).splitlines()


def test_runs_on_other_images_are_not_in_one_cell() -> None:
    """The images are an axis of their own where the options of the runs are the same."""
    records = [record(10.0, seed=0), record(20.0, seed=1)]
    assert len(group_runs(records).cells) == 1
    for item, digest in zip(records, ("a" * 64, "b" * 64), strict=True):
        item.science["data"] = {"content": digest}
    report = group_runs(records)
    assert report.axes == ["data.content"]
    assert set(report.cells) == {("aaaaaaaa",), ("bbbbbbbb",)}


def test_directories_of_version_0_1_are_named_and_left_out(tmp_path: Path, capsys) -> None:
    for item in grid():
        item.config["scorer"] = {}
        write_record(RunDir(tmp_path / item.run_id), item)
    command.main([str(tmp_path)])
    expected = capsys.readouterr()
    old = RunDir(tmp_path / "0123456789ab")
    old.path.mkdir()
    old.record.write_text(
        '{"run_id": "0123456789ab", "status": "done", "config": {"scorer": {}}, "scores": {"fid": 1.0}}'
    )
    command.main([str(tmp_path)])
    reported = capsys.readouterr()
    assert reported.out == expected.out
    assert expected.err == ""
    assert "wgan-sweep 0.1 wrote it: 0123456789ab" in reported.err


def test_a_picture_of_runs_without_a_value_is_refused(tmp_path: Path) -> None:
    item = record(None, "failed")
    item.config["scorer"] = {}
    write_record(RunDir(tmp_path / item.run_id), item)
    with pytest.raises(SystemExit, match="nothing to draw"):
        command.main([str(tmp_path), "--format", "png", "--output", str(tmp_path / "x.png")])


@pytest.mark.parametrize("option", [(), ("--format", "html"), ("--claims",), ("--watch",)])
def test_a_metric_that_no_run_has_is_refused_with_the_names_of_those_that_exist(tmp_path: Path, option) -> None:
    for item in grid()[:2]:
        item.config["scorer"] = {}
        item.scores["kid"] = 0.1
        write_record(RunDir(tmp_path / item.run_id), item)
    with pytest.raises(
        SystemExit, match=r"no run has the metric kidd: choose --metric from fid, kid; did you mean kid\?"
    ):
        command.main([str(tmp_path), "--metric", "kidd", *option])


def test_a_metric_can_be_asked_for_before_any_run_is_scored(tmp_path: Path, capsys) -> None:
    item = record(None, "running")
    item.config["scorer"] = {}
    write_record(RunDir(tmp_path / item.run_id), item)
    command.main([str(tmp_path), "--metric", "kid"])
    assert "| KID" in capsys.readouterr().out


def requested(**values) -> Record:
    """Return the record of a run that has not started."""
    item = record(None, "new", **values)
    item.config["scorer"] = {}
    return item


def test_runs_that_a_sweep_asked_for_are_shown_until_they_start(folder: Path, capsys) -> None:
    waiting = [requested(k=4.0, p=2.0, seed=seed) for seed in (0, 1)]
    sweep = folder / ".sweeps" / "one"
    sweep.mkdir(parents=True)
    write_not_started(sweep, waiting)
    command.main([str(folder)])
    output = capsys.readouterr().out
    assert "| 4     | 2 not started           |                     |" in output
    assert "not started: 2 of 14 runs (requested by a sweep)" in output
    started = record(None, "running", k=4.0, p=2.0)
    started.run_id, started.config = waiting[0].run_id, waiting[0].config
    write_record(RunDir(folder / started.run_id), started)
    assert [item.run_id for item in not_started(folder)] == [waiting[1].run_id]
    command.main([str(folder), "--format", "json"])
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["status"] for cell in cells if cell["div.k"] == "4"] == ["1 dead 1 not started"]
    write_not_started(sweep, [])
    assert not_started(folder) == []


@pytest.mark.parametrize("damage", ["{", "[1]", '[{"run_id": "../x", "format": 1}]', "\x00"])
def test_a_damaged_list_of_requested_runs_is_left_out_with_a_warning(folder: Path, damage: str, capsys, caplog) -> None:
    for name in ("damaged", "whole"):
        (folder / ".sweeps" / name).mkdir(parents=True)
    (folder / ".sweeps" / "damaged" / "not_started.json").write_text(damage)
    write_not_started(folder / ".sweeps" / "whole", [requested(k=4.0, p=2.0)])
    command.main([str(folder)])
    assert "1 not started" in capsys.readouterr().out
    assert "damaged" in caplog.text


def test_a_run_that_no_process_holds_is_dead_and_one_that_is_held_is_running(folder: Path, capsys) -> None:
    items = [record(None, "running", k=k, p=2.0) for k in (4.0, 8.0)]
    for item in items:
        item.config["scorer"] = {}
        write_record(RunDir(folder / item.run_id), item)
    other = folder.parent / "other"
    write_record(RunDir(other / "own"), replace(items[0], run_id="own"))
    with run_lock(RunDir(folder / items[1].run_id).lock, "the run"):
        for places in ([folder], [folder, other]):
            command.main([*map(str, places), "--format", "json"])
            shown = {run["run_id"]: run["status"] for run in json.loads(capsys.readouterr().out)["runs"]}
            assert [shown[item.run_id] for item in items] == ["dead", "running"]
    command.main([str(folder)])
    output = capsys.readouterr().out
    assert "| 8     | 1 dead " in output
    assert "dead: 2 of 14 runs (interrupted, and held by no process)" in output


def marked(report) -> dict[str, str]:
    """Return the cells with a mark, as they are in the Markdown table, by their label."""
    _, rows = table(report)
    return {row[0]: row[1] for row in rows if "**" in row[1] or "°" in row[1]}


def test_the_best_cell_and_those_that_cannot_be_distinguished_from_it_are_marked() -> None:
    values = {1.0: [10.0, 11.0, 12.0], 2.0: [10.5, 11.5, 12.5], 3.0: [90.0, 91.0, 92.0], 4.0: [50.0]}
    runs = [record(fid, k=k, seed=seed) for k, fids in values.items() for seed, fid in enumerate(fids)]
    report = group_runs(runs)
    assert marked(report) == {"1": "**11.00 ± 1.00 (n=3)**", "2": "11.50 ± 1.00 (n=3) °", "4": "50.00 (n=1) °"}
    assert "Bold: the lowest mean, of the cells with two seeds or more. °: not disting" in to_markdown(report)
    for run in runs:
        run.scores = {"precision": run.scores["fid"] / 100}
    assert list(marked(group_runs(runs, "precision"))) == ["3", "4"]
    assert marked(group_runs(runs, "precision"))["3"].startswith("**")
    for run in runs:
        run.scores = {"own": run.scores["precision"]}
    assert marked(group_runs(runs, "own")) == {}  # lower or higher: nobody knows


def test_single_seeds_mark_no_cell() -> None:
    assert group_runs([record(fid, k=fid) for fid in (1.0, 2.0, 3.0)]).standings == {}


def test_cells_that_were_measured_differently_are_not_compared() -> None:
    runs = [
        record(base + k + seed / 10, k=k, seed=seed, step=step)
        for base, step in ((50.0, 10), (10.0, 20))
        for k in (1.0, 9.0)
        for seed in (0, 1, 2)
    ]
    report = group_runs(runs)
    assert sorted(key for key, standing in report.standings.items() if standing == "best") == [("1", "10"), ("1", "20")]


def test_a_single_outlier_does_not_choose_the_column_axis() -> None:
    """Otherwise every cell of the grid would be a row of its own, beside an empty column."""
    report = group_runs([*grid(), record(None, "diverged", k=1.0, p=2.0, lr=1e30)])
    header, rows = table(report)
    assert header == ["div.k", "optimizer.lr", "div.p=2", "div.p=6"]
    assert sum(cell == "" for row in rows for cell in row) == 1
