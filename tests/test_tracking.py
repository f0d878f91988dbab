"""Tracking with W&B: what is mirrored online and offline, uploads of finished runs, and the dashboard."""

import hashlib
import json
import os
import re
import struct
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from wgan_sweep.commands import report as reporting
from wgan_sweep.errors import InputError
from wgan_sweep.report.upload import destination_of, is_uploaded
from wgan_sweep.runs import mirroring
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import science
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.sweeps.results import offline_note
from wgan_sweep.tracking import wandb as tracking
from wgan_sweep.tracking.tracker import FaultTolerantTracker, TrackedRun
from wgan_sweep.tracking.wandb import WandbTracker, destination, key_is_configured
from wgan_sweep.tracking.workspace import workspace

from .helpers import PATIENCE_SECONDS, Shell, append_metrics, metric_lines, metric_rows, run_directories, write_record

NETRC = "machine {} login user password {}\n"
KEY = "0" * 40


def test_a_key_is_read_from_the_environment_or_from_netrc_for_the_right_server(home: Path, monkeypatch) -> None:
    netrc, settings = home / ".netrc", home / ".config" / "wandb" / "settings"
    assert not key_is_configured()
    netrc.write_text(NETRC.format("example.org", KEY))
    netrc.chmod(0o600)
    assert not key_is_configured()
    for host in (urlsplit(wandb.Settings().base_url).netloc, "api.wandb.ai"):  # of this and of earlier versions of W&B
        netrc.write_text(NETRC.format(host, KEY))
        assert key_is_configured()
    netrc.write_text(NETRC.format(host, "too-short"))
    assert not key_is_configured()
    netrc.write_text(NETRC.format(host, KEY))
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org:8080")
    assert not key_is_configured()
    netrc.write_text(NETRC.format("wandb.example.org:8080", KEY))  # as `wandb login` writes it
    assert key_is_configured()
    monkeypatch.delenv("WANDB_BASE_URL")
    assert not key_is_configured()
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = http://wandb.example.org:8080\n")  # as `wandb login --host` writes it
    assert key_is_configured()
    assert destination(None, None).server == "http://wandb.example.org:8080"
    netrc.unlink()
    assert not key_is_configured()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert key_is_configured()


def read_wandb_records(path: Path) -> list[wandb_internal_pb2.Record]:
    """Read a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    content = path.read_bytes()
    records, message, offset = [], b"", 7
    while offset + 7 <= len(content):
        left_in_block = 32768 - offset % 32768
        if left_in_block < 7:
            offset += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, offset)
        message += content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return records


@dataclass
class Mirror:
    """The content of an offline W&B run."""

    run: wandb_internal_pb2.RunRecord
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    artifacts: dict[str, set[str]]
    metrics: dict[str, wandb_internal_pb2.MetricRecord]

    @classmethod
    def read(cls, directory: Path) -> "Mirror":
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        deadline = time.monotonic() + 60.0
        while True:  # W&B's service writes the end of the file after `finish` has returned
            records = read_wandb_records(file)
            if "exit" in {record.WhichOneof("record_type") for record in records}:
                break
            assert time.monotonic() < deadline, f"{file} has no end"
            time.sleep(0.05)

        def of_type(name: str) -> list[Any]:
            return [getattr(r, name) for r in records if r.WhichOneof("record_type") == name]

        def values(items: Any) -> dict[str, Any]:
            return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}

        config: dict[str, Any] = {}
        for update in [of_type("run")[0].config, *of_type("config")]:
            config |= values(update.update)
        summary: dict[str, Any] = {}
        for update in of_type("summary"):
            summary |= values(update.update)
        return cls(
            of_type("run")[0],
            config,
            [values(row.item) for row in of_type("history")],
            summary,
            {a.type: {e.path for e in a.manifest.contents} for a in of_type("artifact")},
            {m.name or m.glob_name: m for m in of_type("metric")},
        )


TRACKED = ["tracker=wandb", "train.steps=40", "log_every=5", "save_every=10"]
SCORED = ["data=gaussians8", "model=mlp", "scorer=exact", "scorer.num_samples=50", "scorer.every=20"]


def test_an_offline_mirror_has_the_content_of_the_run_directory(sweep: Shell, home: Path) -> None:
    points = ["train.steps=40", "log_every=5", "train.batch_size=8", "model.dim=32", "device=cpu", "tracker=wandb"]
    output = sweep("-m", *SCORED, *points, "optimizer.lr=1e-2", "train.ema=0", "div.k=2", "seed=3", tiny=False).stdout
    assert output.count("1 run is mirrored offline; to upload: `wandb login`, then wgan-report runs --wandb") == 1
    (directory,) = run_directories(sweep)
    record = json.loads((directory / "record.json").read_text())
    mirror = Mirror.read(directory)
    assert metric_rows(mirror.history) == metric_lines(directory)
    assert len(mirror.history) == 10  # 8 of training metrics, 2 of scores
    assert mirror.run.run_id == record["run_id"]
    assert mirror.run.project == "wgan-sweep"
    assert mirror.run.job_type == "train"
    assert mirror.run.run_group == next((sweep.folder / "runs" / ".sweeps").iterdir()).name
    assert {"loss:wgan_div", "k:2", "data:gaussians8", "seed:3"} <= set(mirror.run.tags)
    for name in ("loss", "div", "train", "seed", "data", "model"):
        assert mirror.config[name] == record["config"][name]
    assert mirror.config["axes"]["k"] == 2
    assert mirror.config["axes"]["loss"] == "wgan_div"
    assert mirror.config["cell"].startswith("wgan_div none real_fake mlp gaussians8 k=2 p=6 #")
    assert mirror.summary["status"] == "done"
    assert {k: mirror.summary[f"best_{k}"] for k in record["best"]} == pytest.approx(record["best"])
    pictures = [row["samples/sha256"] for row in mirror.history if "samples/sha256" in row]
    files = [directory / "samples" / f"{step}.png" for step in (20, 40)]
    assert pictures == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert len(set(pictures)) == 2
    assert {"record.json", "config.yaml", "samples/20.png", "samples/40.png"} <= mirror.artifacts["run"]
    best = {name: (metric.summary.min, metric.summary.max) for name, metric in mirror.metrics.items()}
    for name in ("w1", "sliced_w2", "final_fid"):
        assert best[name] == (True, False)
    for name in ("modes", "final_inception_score"):
        assert best[name] == (False, True)
    assert mirror.metrics["w1"].step_metric == "images_seen"
    (folder,) = (sweep.folder / "runs" / ".sweeps").iterdir()
    sweep_mirror = Mirror.read(folder)
    assert sweep_mirror.run.job_type == "sweep"
    assert sweep_mirror.run.run_group == mirror.run.run_group
    assert sweep_mirror.config["runs"] == [record["run_id"]]
    assert "table.md" in sweep_mirror.artifacts["sweep"]


@pytest.mark.integration
@pytest.mark.parametrize(("status", "code"), [("done", 0), ("pruned", 0), ("diverged", 1), ("running", 1)])
def test_a_pruned_run_is_finished_and_not_failed(status: str, code: int, home: Path, tmp_path: Path) -> None:
    tracker = WandbTracker(run=TrackedRun("0123456789ab", tmp_path, None, {}))
    tracker.close(status, {})
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = read_wandb_records(file)
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [code]
    assert Mirror.read(tmp_path).summary["status"] == status


def test_a_run_that_is_interrupted_does_not_wait_long_for_wandb(home: Path, tmp_path: Path, monkeypatch) -> None:
    """SLURM kills a job soon after it has asked it to stop."""
    tracker = WandbTracker(run=TrackedRun("0123456789ab", tmp_path, None, {}))
    finish, released = tracker._run.finish, threading.Event()
    finished = threading.Event()

    def finish_late(**options: int) -> None:
        assert released.wait(PATIENCE_SECONDS)
        finish(**options)
        finished.set()

    monkeypatch.setattr(tracker._run, "finish", finish_late)
    monkeypatch.setattr(tracking, "SECONDS_AT_INTERRUPTION", 0.1)
    with pytest.raises(TimeoutError, match="the next start of the run sends the rest"):
        tracker.close("running", {})
    tracker.abandon()  # what follows a failure: it does not wait, either
    released.set()
    assert finished.wait(PATIENCE_SECONDS)


def test_only_runs_that_differ_in_seed_or_steps_share_a_cell(make) -> None:
    def cell(*overrides: str) -> str:
        config = make(*overrides)
        return mirroring.cell_name(Record("x", config=asdict(config), science=science(config)))

    assert cell("seed=1") == cell("seed=2") == cell("train.steps=50")
    overrides = ("seed=1", "div.k=1", "optimizer.lr=1", "train.batch_size=4", "model.dim=5")
    assert len({cell(override) for override in overrides}) == 5


@pytest.mark.integration
def test_a_killed_and_resumed_run_is_mirrored_as_one_curve_with_every_step_once(sweep: Shell, home: Path) -> None:
    arguments = [*TRACKED, "train.steps=150"]
    process = sweep.start(*arguments)
    sweep.wait_for("checkpoint.pt")
    process.kill()
    process.communicate()
    assert sweep(*arguments).stdout.count("mirrored offline") == 1
    (directory,) = run_directories(sweep)
    mirror = Mirror.read(directory)
    assert metric_rows(mirror.history) == metric_lines(directory)
    steps = [row["step"] for row in mirror.history]
    assert steps == sorted(set(steps))
    assert [row["_step"] for row in mirror.history] == list(range(len(steps)))
    assert steps[-1] == 150
    assert (directory / "log.txt").read_text().count("starting at step") == 2


def test_without_a_key_online_mode_falls_back_to_offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert tracking.mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert tracking.mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.mode() == "disabled"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert tracking.mode() == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert tracking.mode() == "online"
    monkeypatch.chdir(home)
    (home / "wandb").mkdir()
    (home / "wandb" / "settings").write_text("[default]\nmode = offline\n")  # as `wandb offline` writes it
    assert tracking.mode() == "offline"


def test_an_environment_that_wandb_refuses_is_bad_input(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(InputError, match="sometimes"):
        tracking.mode()


@pytest.mark.parametrize("sweep", [None, "a-sweep"])
@pytest.mark.parametrize("given", [{}, {"project": "mine", "entity": "me"}])
def test_environment_variables_fill_config_values_that_are_null(
    given: dict[str, str], sweep: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags are added; the name is that of a single run, since the runs of a sweep would all have it."""
    variables = {"PROJECT": "theirs", "ENTITY": "them", "TAGS": "first,second one", "NOTES": "a note", "NAME": "a name"}
    for name, value in {**variables, "RUN_GROUP": "a group", "DIR": str(home / "elsewhere")}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = TrackedRun("x", home / "x", sweep, {}, axes={"loss": "wgan"}, name="own name")
    tracking.WandbTracker(run=run, **given).close("done", {})
    assert not list(home.glob("x/wandb/offline-run-*"))
    sent = Mirror.read(home / "elsewhere").run
    expected = ("mine", "me") if given else ("theirs", "them")
    assert (sent.project, sent.entity) == expected
    assert set(sent.tags) == {"first", "second one", "loss:wgan"}
    assert (sent.run_group, sent.notes) == ("a group", "a note")
    assert sent.display_name == ("own name" if sweep else "a name")
    closed = tracking.last_close(home / "x")
    assert closed is not None
    assert (closed.where.project, closed.where.entity) == expected


def test_without_variables_the_project_and_the_group_are_those_of_the_package_and_the_sweep(home: Path) -> None:
    tracking.WandbTracker(run=TrackedRun("x", home / "x", "a-sweep", {})).close("done", {})
    sent = Mirror.read(home / "x").run
    assert (sent.project, sent.entity, sent.run_group, list(sent.tags)) == ("wgan-sweep", "", "a-sweep", [])


def test_a_fault_tolerant_tracker_logs_the_first_failure_once(caplog: pytest.LogCaptureFixture) -> None:
    class FailingTracker:
        def __init__(self) -> None:
            self.log_calls = 0
            self.abandon_calls = 0

        def log(self, *_: object) -> None:
            self.log_calls += 1
            raise ConnectionError("no server")

        def abandon(self) -> None:
            self.abandon_calls += 1

    failing = FailingTracker()
    tracker = FaultTolerantTracker(lambda: failing)
    for step in range(3):
        tracker.log(step, {})
    tracker.close("done", {})
    assert failing.log_calls == 1
    assert failing.abandon_calls == 1
    assert caplog.text.count("no server") == 1


def test_a_fault_tolerant_tracker_logs_that_its_tracker_cannot_be_created(caplog: pytest.LogCaptureFixture) -> None:
    tracker = FaultTolerantTracker(lambda: (_ for _ in ()).throw(ImportError("no wandb")))
    tracker.log(1, {})
    tracker.close("done", {})
    assert "no wandb" in caplog.text
    assert isinstance(tracker, FaultTolerantTracker)


def test_runs_without_a_tracker_are_uploaded_once_and_completely(sweep: Shell, home: Path, capsys, monkeypatch) -> None:
    """Two finished and two diverged runs are uploaded by two processes; a second upload does nothing."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    points = ["train.steps=40", "log_every=5", "train.batch_size=8", "model.dim=4", "device=cpu", "tracker=none"]
    sweep("-m", *SCORED, *points, "seed=0,1", "optimizer.lr=1e-3,1e30", "sampling=real", tiny=False, code=1)
    directories = run_directories(sweep, 4)
    monkeypatch.chdir(sweep.folder)
    runs = Path("runs")

    assert upload(runs, capsys, "--jobs", "2", "--project", "mine", "--entity", "me") == ["written offline"] * 4
    for directory in directories:
        mirror = Mirror.read(directory)
        assert metric_rows(mirror.history) == metric_lines(directory)
        record = json.loads((directory / "record.json").read_text())
        assert mirror.summary["status"] == record["status"]
        assert mirror.run.run_group == record["sweep"] == next((runs / ".sweeps").iterdir()).name
        assert (mirror.run.project, mirror.run.entity) == ("mine", "me")
    assert upload(runs, capsys, "--jobs", "2", "--project", "mine", "--entity", "me") == ["there already"] * 4


def test_a_run_is_uploaded_to_each_project_and_again_after_new_metrics(home: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = RunDir(tmp_path / "x")
    record = Record("x", Status.DONE, config={"scorer": {}})
    write_record(directory, record)

    def is_there(project: str | None, entity: str | None) -> bool:
        return is_uploaded(record, directory, destination_of(record, directory, project, entity))

    assert not is_there("one", None)
    tracker = tracking.WandbTracker(run=mirroring.tracked_run(record, directory), project="one", entity=None)
    tracker.close("done", {})
    assert is_there("one", None)
    assert is_there(None, None)  # it stays in the project in which it is
    assert not is_there("other", None)
    assert not is_there("one", "me")
    monkeypatch.setenv("WANDB_PROJECT", "third")
    assert is_there("one", None)
    assert not is_there(None, None)
    append_metrics(directory, {"step": 1, "images_seen": 2})
    assert not is_there("one", None)


def finished_run(runs: Path) -> RunDir:
    """Write the directory of a finished run, with a line of measurements and a picture."""
    directory = RunDir(runs / "x")
    write_record(directory, Record("x", Status.DONE, config={"scorer": {}}))
    append_metrics(directory, {"step": 3, "images_seen": 6})
    directory.config.write_text("seed: 0\n")
    directory.samples(3).parent.mkdir()
    Image.new("RGB", (8, 8)).save(directory.samples(3))
    return directory


def upload(runs: Path, capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> list[str]:
    """Upload a folder of runs in this process, and return the outcome of each run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        reporting.main([str(runs), "--wandb", "--jobs", "1", *options])
    output = capsys.readouterr()
    assert exit_info.value.code == code, output
    return [line.split("  ")[1] for line in output.out.splitlines()]


@pytest.mark.parametrize("place", ["relative", "absolute", "moved"])
def test_a_folder_of_runs_is_uploaded_whole_wherever_it_is(place: str, home: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (home / "made here").mkdir()
    runs = home / "made here" / "runs"
    directory = finished_run(runs)
    if place == "moved":
        assert upload(runs, capsys) == ["written offline"]
        runs = runs.rename(home / "moved")
        directory = RunDir(runs / "x")
        append_metrics(directory, {"step": 4, "images_seen": 8})
    monkeypatch.chdir(runs.parent)
    given = runs if place == "absolute" else Path(runs.name)
    assert upload(given, capsys) == ["written offline"]
    mirror = Mirror.read(directory.path)
    assert metric_rows(mirror.history) == metric_lines(directory.path)
    assert mirror.artifacts == {"run": {"record.json", "config.yaml", "samples/3.png"}}
    assert upload(given, capsys) == ["there already"]


def test_only_files_of_the_run_itself_are_uploaded(home: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A link or pipe in a directory that somebody else made is left out."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = finished_run(tmp_path / "runs")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    directory.samples(4).symlink_to(secret)
    os.mkfifo(directory.samples(5))
    (directory.path / "wandb").mkdir()
    os.mkfifo(directory.path / "wandb" / "mirrored.json")
    assert upload(tmp_path / "runs", capsys) == ["written offline"]
    assert Mirror.read(directory.path).artifacts == {"run": {"record.json", "config.yaml", "samples/3.png"}}


@pytest.mark.parametrize(("variables", "first"), [({}, "`wandb login`, then "), ({"WANDB_API_KEY": KEY}, "")])
def test_the_note_on_offline_mirrors_says_how_to_upload_them(variables, first, home: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs = home / "my runs"
    for name in ("a", "b", "untracked"):
        directory = RunDir(runs / name)
        write_record(directory, Record(name, Status.DONE, config={"scorer": {}}))
        if name != "untracked":
            tracking.WandbTracker(run=mirroring.tracked_run(Record(name), directory)).close("done", {})
    monkeypatch.chdir(home)
    monkeypatch.delenv("WANDB_MODE")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    end = f"mirrored offline; to upload: {first}wgan-report 'my runs' --wandb"
    assert offline_note(runs, ["a", "b", "untracked", "absent"]) == [f"W&B       2 runs are {end}"]
    assert offline_note(runs, ["b"]) == [f"W&B       1 run is {end}"]
    assert offline_note(runs, ["untracked"]) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    (line,) = offline_note(runs, ["b"])
    assert ("WANDB_MODE=online wgan-report" in line) == ("WANDB_API_KEY" in variables)


def test_an_upload_without_a_key_is_refused_with_the_remedy(home: Path, tmp_path: Path) -> None:
    write_record(RunDir(tmp_path / "x"), Record("x", config={"scorer": {}}))
    for option in ("--wandb", "--dashboard"):
        with pytest.raises(SystemExit, match="wandb login"):
            reporting.main([str(tmp_path), option])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_dashboard_refers_to_axes_and_curves_that_runs_have(home: Path, sweep: Shell) -> None:
    """All axes and curves of its specification, as sent to W&B, are in an offline mirror of a run."""
    metrics = {"w1": "W1", "w2": "W2"}
    spec = json.loads(workspace("p", "e", metrics)._to_model().model_dump_json(by_alias=True))
    panels = [
        panel for section in spec["spec"]["section"]["panelBankConfig"]["sections"] for panel in section["panels"]
    ]
    kinds = [panel["viewType"] for panel in panels]
    assert {
        "Scatter Plot",
        "Bar Chart",
        "Run History Line Plot",
        "Parallel Coordinates Plot",
        "Parameter Importance",
    } <= set(kinds)
    text = json.dumps(spec)
    points = ["train.steps=20", "log_every=5", "train.batch_size=8", "model.dim=4", "device=cpu", "tracker=wandb"]
    sweep("data=gaussians8", "model=mlp", "scorer=exact", "scorer.num_samples=50", *points, tiny=False)
    mirror = Mirror.read(run_directories(sweep)[0])
    best = set(re.findall(r"best_\w+", text))
    assert best == {"best_w1"}
    assert best <= mirror.summary.keys()
    for axis in set(re.findall(r"config:axes\.value\.(\w+)", text)):
        assert axis in mirror.config["axes"]
    curves = {panel["config"]["metrics"][0] for panel in panels if panel["viewType"] == "Run History Line Plot"}
    assert {"w1", "w2"} <= curves <= {name for row in mirror.history for name in row}
    assert "cell" in mirror.config
    assert "cell" in json.dumps(spec["spec"]["section"]["runSets"])
