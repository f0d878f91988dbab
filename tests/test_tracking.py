"""Tracking with W&B: what is mirrored online and offline, uploads of finished runs, and the dashboard."""

import json
import re
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from wgan_sweep.commands import report as reporting
from wgan_sweep.report.upload import is_uploaded
from wgan_sweep.runs import mirroring
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import science
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.tracking import wandb as tracking
from wgan_sweep.tracking.tracker import FaultTolerantTracker, TrackedRun
from wgan_sweep.tracking.wandb import key_is_configured
from wgan_sweep.tracking.workspace import workspace

from .helpers import Shell, append_metrics, write_record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without an API key of W&B."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_key_is_read_from_the_environment_or_from_netrc_for_the_right_host(home: Path, monkeypatch) -> None:
    assert not key_is_configured()
    (home / ".netrc").write_text("machine example.org login user password x\n")
    assert not key_is_configured()
    (home / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    (home / ".netrc").chmod(0o600)
    assert key_is_configured()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not key_is_configured()
    monkeypatch.setenv("WANDB_API_KEY", "x")
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
        records = read_wandb_records(file)

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


def metric_rows(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the metrics of each row, without W&B's own columns."""
    return [
        {k: v for k, v in row.items() if isinstance(v, int | float) and not k.startswith(("_", "samples/"))}
        for row in history
    ]


def metric_lines(directory: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def run_directories(sweep: Shell, count: int = 1) -> list[Path]:
    """Return the directories of all runs, which must be `count`."""
    directories = sorted(p.parent for p in (sweep.folder / "runs").glob("[0-9a-f]*/record.json"))
    assert len(directories) == count
    return directories


TRACKED = ["tracker=wandb", "train.steps=40", "log_every=5", "save_every=10"]
SCORED = ["data=gaussians8", "model=mlp", "scorer=exact", "scorer.num_samples=50", "scorer.every=20"]


def test_an_offline_mirror_has_the_content_of_the_run_directory(sweep: Shell, home: Path) -> None:
    points = ["train.steps=40", "log_every=5", "train.batch_size=8", "model.dim=4", "device=cpu", "tracker=wandb"]
    sweep("-m", *SCORED, *points, "div.k=2", "seed=3", tiny=False)
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
    assert "samples" in {key for row in mirror.history for key in row} or any(
        "samples" in str(row) for row in mirror.history
    )
    assert {"record.json", "config.yaml", "samples/20.png", "samples/40.png"} <= mirror.artifacts["run"]
    assert mirror.metrics["w1"].summary.min
    assert mirror.metrics["w1"].step_metric_index or mirror.metrics["w1"].step_metric == "images_seen"
    (folder,) = (sweep.folder / "runs" / ".sweeps").iterdir()
    sweep_mirror = Mirror.read(folder)
    assert sweep_mirror.run.job_type == "sweep"
    assert sweep_mirror.run.run_group == mirror.run.run_group
    assert sweep_mirror.config["runs"] == [record["run_id"]]
    assert "table.md" in sweep_mirror.artifacts["sweep"]


def test_only_runs_that_differ_in_seed_or_steps_share_a_cell(make) -> None:
    def cell(*overrides: str) -> str:
        config = make(*overrides)
        return mirroring.cell_name(Record("x", config=asdict(config), science=science(config)))

    assert cell("seed=1") == cell("seed=2") == cell("train.steps=50")
    overrides = ("seed=1", "div.k=1", "optimizer.lr=1", "train.batch_size=4", "model.dim=5")
    assert len({cell(override) for override in overrides}) == 5


def test_a_killed_and_resumed_run_is_mirrored_as_one_curve_with_every_step_once(sweep: Shell, home: Path) -> None:
    arguments = [*TRACKED, "train.steps=150"]
    process = sweep.start(*arguments)
    sweep.wait_for("checkpoint.pt")
    process.kill()
    process.communicate()
    sweep(*arguments)
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
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert tracking.mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.mode() == "disabled"


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
    runs = str(sweep.folder / "runs")

    def upload(*options: str) -> list[str]:
        with pytest.raises(SystemExit) as exit_info:
            reporting.main([runs, "--wandb", "--jobs", "2", *options])
        assert exit_info.value.code == 0
        return [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()]

    assert upload("--project", "mine", "--entity", "me") == ["written offline"] * 4
    for directory in directories:
        mirror = Mirror.read(directory)
        assert metric_rows(mirror.history) == metric_lines(directory)
        record = json.loads((directory / "record.json").read_text())
        assert mirror.summary["status"] == record["status"]
        assert mirror.run.run_group == record["sweep"] == next((Path(runs) / ".sweeps").iterdir()).name
        assert (mirror.run.project, mirror.run.entity) == ("mine", "me")
    assert upload("--project", "mine", "--entity", "me") == ["there already"] * 4


class FakeWandb:
    """A replacement of the module wandb with a server in memory: a resumed run starts after the rows it received."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.Settings = lambda **_: None
        self.Image = lambda grid: "image"
        self.Error = ConnectionError
        self.Run = object

    def init(self, **settings: Any) -> Any:
        rows = self.rows.setdefault(settings["id"], [])
        assert settings["reinit"] == "create_new"  # otherwise W&B would return another run of this process
        run = type("Run", (), {})()
        run.id, run.starting_step, run.summary = settings["id"], len(rows), {}
        run.log, run.define_metric, run.finish = rows.append, lambda *_, **__: None, lambda **_: None
        return run


def test_online_rows_that_the_server_has_are_skipped_and_lost_rows_are_sent_again(home, tmp_path, monkeypatch) -> None:
    server = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", server)
    monkeypatch.setenv("WANDB_API_KEY", "x")
    lines = [{"images_seen": n, "wasserstein": n / 2} for n in range(6)] + [{"images_seen": 6, "fid": 3.0, "final": 1}]

    def track(count: int) -> None:
        tracker = tracking.WandbTracker(run=TrackedRun("x", tmp_path, None, {}), project="p", entity=None)
        for step, line in enumerate(lines[:count]):
            tracker.log(step, mirroring.tracked_values(line))
        tracker.close("done", {})

    track(4)
    assert len(server.rows["x"]) == 4
    del server.rows["x"][3]  # as after a kill: the last row was not received
    track(7)
    assert [row["step"] for row in server.rows["x"]] == list(range(7))
    assert server.rows["x"][-1] == {"step": 6, "images_seen": 6, "final_fid": 3.0}
    track(7)
    assert len(server.rows["x"]) == 7


def test_a_run_is_uploaded_to_each_project_and_again_after_new_metrics(home: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = RunDir(tmp_path / "x")
    record = Record("x", Status.DONE, config={"scorer": {}})
    write_record(directory, record)
    tracker = tracking.WandbTracker(run=mirroring.tracked_run(record, directory), project="one", entity=None)
    tracker.close("done", {})
    assert is_uploaded(record, directory, "one", None)
    assert not is_uploaded(record, directory, "other", None)
    assert not is_uploaded(record, directory, "one", "me")
    append_metrics(directory, {"step": 1, "images_seen": 2})
    assert not is_uploaded(record, directory, "one", None)


def test_an_upload_without_a_key_is_refused_with_the_remedy(home: Path, tmp_path: Path) -> None:
    write_record(RunDir(tmp_path / "x"), Record("x", config={"scorer": {}}))
    for option in ("--wandb", "--dashboard"):
        with pytest.raises(SystemExit, match="wandb login"):
            reporting.main([str(tmp_path), option])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_dashboard_refers_to_axes_and_curves_that_runs_have(home: Path, sweep: Shell) -> None:
    """All axes and curves of its specification, as sent to W&B, are in an offline mirror of a run."""
    spec = json.loads(workspace("p", "e")._to_model().model_dump_json(by_alias=True))
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
    for axis in set(re.findall(r"config:axes\.value\.(\w+)", text)):
        assert axis in mirror.config["axes"]
    curves = {panel["config"]["metrics"][0] for panel in panels if panel["viewType"] == "Run History Line Plot"}
    assert curves - {"fid"} <= {name for row in mirror.history for name in row}
    assert "cell" in mirror.config
    assert "cell" in json.dumps(spec["spec"]["section"]["runSets"])
