"""Tracking online, by the W&B client itself, against a server on this machine."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import wandb

from wgan_sweep.commands import report as reporting
from wgan_sweep.report.upload import destination_of, is_uploaded
from wgan_sweep.runs import mirroring
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.tracking import wandb as tracking
from wgan_sweep.tracking.tracker import FaultTolerantTracker, TrackedRun

from .helpers import Shell, append_metrics, metric_lines, metric_rows, run_directories, write_record
from .wandb_server import ENTITY, HISTORY, SUMMARY, ServedRun, WandbServer, served

LEEWAY_S = 20.0
"""Seconds that a busy machine may add to the time limits of W&B."""
POINTS = [
    *("data=gaussians8", "model=mlp", "scorer=exact", "scorer.num_samples=50", "scorer.every=20"),
    *("train.steps=40", "log_every=5", "train.batch_size=8", "model.dim=4", "device=cpu", "tracker=wandb"),
]


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server, for which an API key is configured."""
    with served() as state:
        monkeypatch.setenv("WANDB_BASE_URL", state.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield state
        assert state.unknown == []


def upload(runs: Path, *options: str, code: int = 0) -> None:
    """Upload a folder of runs in this process."""
    with pytest.raises(SystemExit) as exit_info:
        reporting.main([str(runs), "--wandb", "--jobs", "1", *options])
    assert exit_info.value.code == code


def content(run: ServedRun) -> dict[str, object]:
    """Return what the server knows of a run, without what depends on the time and the machine."""
    ignored = ("_runtime", "_timestamp", "_wandb")
    rows = [{key: value for key, value in row.items() if key not in ignored} for row in run.history]
    for row in rows:
        if "samples" in row:  # the file's name holds its digest and a step
            row["samples"] = {key: row["samples"][key] for key in ("sha256", "size", "width", "height")}
    attributes = {key: run.attributes.get(key) for key in ("groupName", "jobType", "displayName", "tags", "notes")}
    summary = {key: value for key, value in run.summary.items() if key not in (*ignored, "samples")}
    return {"rows": rows, "config": run.config, "summary": summary, "codes": run.exit_codes, **attributes}


def test_a_run_is_mirrored_whole_while_it_trains_and_an_upload_equals_the_mirror(
    sweep: Shell, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_TAGS", "first,second")
    completed = sweep("-m", *POINTS, "div.k=2", "seed=3", tiny=False)
    assert "mirrored offline" not in completed.stdout
    assert "wandb:" not in completed.stdout + completed.stderr  # W&B's own messages
    (directory,) = run_directories(sweep)
    record = json.loads((directory / "record.json").read_text())
    run = server.runs["wgan-sweep", directory.name]
    lines = metric_lines(directory)
    assert metric_rows(run.history) == lines
    assert run.received_rows == len(lines) == 10
    assert run.entity == ENTITY
    assert run.attributes["groupName"] == record["sweep"]
    assert run.attributes["jobType"] == "train"
    assert {"first", "second", "loss:wgan_div", "k:2", "seed:3"} <= set(run.attributes["tags"])
    assert run.config["train"] == record["config"]["train"]
    assert run.config["axes"]["k"] == 2
    assert run.summary["status"] == "done"
    assert run.summary["best_w1"] == record["best"]["w1"]
    assert run.summary["w1"]["min"] == min(line["w1"] for line in lines if "w1" in line)
    assert run.exit_codes == [0]
    pictures = [row["samples"]["path"] for row in run.history if "samples" in row]
    assert len(pictures) == 2
    for path in pictures:
        assert run.files[path].startswith(b"\x89PNG")
    (artifact,) = server.committed(f"{directory.name}-run")
    assert artifact.files == {
        name: (directory / name).read_bytes()
        for name in ("record.json", "config.yaml", "samples/20.png", "samples/40.png")
    }
    (sweep_folder,) = (sweep.folder / "runs" / ".sweeps").iterdir()
    assert server.runs["wgan-sweep", f"sweep-{sweep_folder.name}"].attributes["groupName"] == record["sweep"]

    monkeypatch.chdir(sweep.folder)
    upload(Path("runs"), "--project", "copy")
    copy = server.runs["copy", directory.name]
    assert content(copy) == content(run)
    assert copy.received_rows == len(lines)
    assert len(server.committed(f"{directory.name}-run")) == 1  # W&B stores equal files once
    capsys.readouterr()
    upload(Path("runs"), "--project", "copy")
    assert capsys.readouterr().out == f"{directory.name}  there already\n"
    assert copy.received_rows == len(lines)


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_every_line_once(sweep: Shell, server: WandbServer) -> None:
    arguments = ["tracker=wandb", "train.steps=150", "log_every=5", "save_every=10"]
    process = sweep.start(*arguments)
    sweep.wait_for("checkpoint.pt")
    process.kill()
    process.communicate()
    sweep(*arguments)
    (directory,) = run_directories(sweep)
    assert (directory / "log.txt").read_text().count("starting at step") == 2
    run = server.runs["wgan-sweep", directory.name]
    assert metric_rows(run.history) == metric_lines(directory)
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert run.history[-1]["step"] == 150
    assert run.summary["status"] == "done"


def test_rows_that_the_server_has_are_skipped_lost_rows_are_sent_again_and_tags_are_kept(
    server: WandbServer, tmp_path: Path
) -> None:
    lines = [{"images_seen": n, "wasserstein": n / 2} for n in range(6)] + [{"images_seen": 6, "fid": 3.0, "final": 1}]

    pictured = [2, 5]

    def track(count: int) -> None:
        directed = TrackedRun("x", tmp_path, None, {}, axes={"loss": "wgan"})
        tracker = tracking.WandbTracker(run=directed, project="p", entity=None)
        for step, line in enumerate(lines[:count]):
            if step in pictured:
                tracker.images(step, np.full((4, 4, 3), step, np.uint8))
            tracker.log(step, mirroring.tracked_values(line))
        tracker.close("done", {})

    track(4)
    run = server.runs["p", "x"]
    assert run.received_rows == 4
    del run.lines[HISTORY][3]  # as after a kill: the last row was not received
    run.lines[SUMMARY] = [json.dumps({"_step": 2})]
    run.attributes["tags"].append("remarkable")  # by a user, in the browser
    track(7)
    assert [row["step"] for row in run.history] == list(range(7))
    assert [row["step"] for row in run.history if "samples" in row] == pictured
    assert metric_rows(run.history)[-1] == {"step": 6, "images_seen": 6, "final_fid": 3.0}
    assert run.received_rows == 4 + 4
    assert set(run.attributes["tags"]) == {"loss:wgan", "remarkable"}
    track(7)
    assert len(run.history) == 7
    assert run.received_rows == 4 + 4


def finished_run(runs: Path) -> tuple[RunDir, Record]:
    """Write the directory of a finished run, with two lines of measurements."""
    directory, record = RunDir(runs / "x"), Record("x", Status.DONE, config={"scorer": {}})
    write_record(directory, record)
    for step in (1, 2):
        append_metrics(directory, {"step": step, "images_seen": 2 * step})
    return directory, record


def has_all(record: Record, directory: RunDir) -> bool:
    return is_uploaded(record, directory, destination_of(record, directory, None, None))


@pytest.mark.integration
@pytest.mark.parametrize("fault", ["500", "hang up", "silence"])
def test_a_server_that_fails_from_the_start_is_given_up_in_time(
    fault: str,
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run is mirrored offline instead, and uploaded as soon as the server works."""
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    directory, record = finished_run(tmp_path)
    server.fault = fault
    began = time.monotonic()
    tracker = FaultTolerantTracker(lambda: tracking.WandbTracker(run=mirroring.tracked_run(record, directory)))
    mirroring.replay(directory, tracker)
    mirroring.close(record, directory, tracker)
    assert time.monotonic() - began < 2 + LEEWAY_S
    assert caplog.text.count("W&B cannot be used online, this process continues offline") == 1
    closed = tracking.last_close(directory.path)
    assert closed is not None
    assert closed.where.mode == "offline"
    monkeypatch.delenv("WANDB_MODE")  # of this process
    upload(tmp_path, code=1)
    assert capsys.readouterr().out == "x  failed: W&B cannot be used online; written offline\n"
    assert server.runs == {}
    server.fault = ""
    monkeypatch.delenv("WANDB_MODE")
    upload(tmp_path)
    assert metric_rows(server.runs["wgan-sweep", "x"].history) == metric_lines(directory.path)
    assert has_all(record, directory)


@pytest.mark.parametrize("fault", ["403", "500", "hang up", "silence"])
def test_a_server_that_fails_later_holds_up_the_end_of_a_run_for_the_stated_time(
    fault: str, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mirror then counts as incomplete, and `wgan-report --wandb` completes it."""
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    monkeypatch.setattr(wandb.Api, "_HTTP_TIMEOUT", 2)  # of the check of an artifact; W&B reads its variable on import
    caplog.set_level(logging.WARNING)
    directory, record = finished_run(tmp_path)
    tracker = FaultTolerantTracker(lambda: tracking.WandbTracker(run=mirroring.tracked_run(record, directory)))
    server.fault = fault
    began = time.monotonic()
    mirroring.replay(directory, tracker)
    assert time.monotonic() - began < LEEWAY_S
    mirroring.close(record, directory, tracker)
    assert time.monotonic() - began < 2 + LEEWAY_S
    assert caplog.text.count("tracking stops, the run continues") == 1
    assert not has_all(record, directory)
    server.fault = ""
    assert os.environ.get("WANDB_MODE") is None
    upload(tmp_path)
    assert metric_rows(server.runs["wgan-sweep", "x"].history) == metric_lines(directory.path)
    assert has_all(record, directory)


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_dashboard_is_saved_for_the_metric_that_the_runs_have(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"step": 1, "w1": 0.5, "w2": 0.7, "modes": 3.0}
    write_record(RunDir(tmp_path / "x"), Record("x", Status.DONE, config={"scorer": {}}, scores=scores))
    for options, metrics in (([], ["w1", "w2"]), (["--metric", "modes"], ["modes", "w1", "w2"])):
        with pytest.raises(SystemExit) as exit_info:
            reporting.main([str(tmp_path), "--dashboard", "--project", "mine", *options])
        assert exit_info.value.code == 0
        view = server.views.pop()
        assert (view["entityName"], view["projectName"]) == (ENTITY, "mine")
        assert capsys.readouterr().out.startswith(f"{server.url}/{ENTITY}/mine")
        assert set(re.findall(r"best_\w+", view["spec"])) == {f"best_{metrics[0]}"}
        sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
        plots = [
            p["config"]["metrics"] for s in sections for p in s["panels"] if p["viewType"] == "Run History Line Plot"
        ]
        assert [names[0] for names in plots][: len(metrics)] == metrics
        assert "fid" not in view["spec"].lower()
