import json
import re
import struct
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

from .helpers import Shell


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_key_is_found_in_the_environment_or_in_netrc_for_the_right_host(home: Path, monkeypatch) -> None:
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


def records(path: Path) -> list[wandb_internal_pb2.Record]:
    """Read W&B's own file back: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    content = path.read_bytes()
    found, whole, at = [], b"", 7
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


@dataclass
class Mirror:
    """An offline record of W&B, read back."""

    run: wandb_internal_pb2.RunRecord
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    artifacts: dict[str, set[str]]
    metrics: dict[str, wandb_internal_pb2.MetricRecord]

    @classmethod
    def of(cls, directory: Path) -> "Mirror":
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        kept = records(file)

        def of_type(name: str) -> list[Any]:
            return [getattr(r, name) for r in kept if r.WhichOneof("record_type") == name]

        def items(found: Any) -> dict[str, Any]:
            return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in found}

        config: dict[str, Any] = {}
        for update in [of_type("run")[0].config, *of_type("config")]:
            config |= items(update.update)
        summary: dict[str, Any] = {}
        for one in of_type("summary"):
            summary |= items(one.update)
        return cls(
            of_type("run")[0],
            config,
            [items(one.item) for one in of_type("history")],
            summary,
            {a.type: {e.path for e in a.manifest.contents} for a in of_type("artifact")},
            {m.name or m.glob_name: m for m in of_type("metric")},
        )


def as_curves(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the numbers of each row."""
    return [
        {k: v for k, v in line.items() if isinstance(v, int | float) and not k.startswith(("_", "samples/"))}
        for line in history
    ]


def as_measured(directory: Path) -> list[dict[str, float]]:
    """Return what the run's directory says, line by line."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def finished(sweep: Shell, count: int = 1) -> list[Path]:
    found = sorted(p.parent for p in (sweep.folder / "runs").glob("[0-9a-f]*/record.json"))
    assert len(found) == count
    return found


TRACKED = ["tracker=wandb", "train.steps=40", "log_every=5", "save_every=10"]
SCORED = ["data=gaussians8", "model=mlp", "scorer=exact", "scorer.num_samples=50", "scorer.every=20"]


def test_the_offline_record_holds_what_the_directory_holds(sweep: Shell, home: Path) -> None:
    points = ["train.steps=40", "log_every=5", "train.batch_size=8", "model.dim=4", "device=cpu", "tracker=wandb"]
    sweep("-m", *SCORED, *points, "div.k=2", "seed=3", tiny=False)
    (directory,) = finished(sweep)
    record = json.loads((directory / "record.json").read_text())
    mirror = Mirror.of(directory)
    assert as_curves(mirror.history) == as_measured(directory)
    assert len(mirror.history) == 10  # 8 of training, 2 of scores
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
    assert "samples" in {key for line in mirror.history for key in line} or any(
        "samples" in str(line) for line in mirror.history
    )
    assert {"record.json", "config.yaml", "samples/20.png", "samples/40.png"} <= mirror.artifacts["run"]
    assert mirror.metrics["w1"].summary.min
    assert mirror.metrics["w1"].step_metric_index or mirror.metrics["w1"].step_metric == "images_seen"
    (folder,) = (sweep.folder / "runs" / ".sweeps").iterdir()
    of_sweep = Mirror.of(folder)
    assert of_sweep.run.job_type == "sweep"
    assert of_sweep.run.run_group == mirror.run.run_group
    assert of_sweep.config["runs"] == [record["run_id"]]
    assert "table.md" in of_sweep.artifacts["sweep"]


def test_seeds_share_a_cell_and_nothing_else_does(make) -> None:
    def cell(*overrides: str) -> str:
        config = make(*overrides)
        return mirroring.cell_name(Record("x", config=asdict(config), science=science(config)))

    assert cell("seed=1") == cell("seed=2") == cell("train.steps=50")
    others = [cell(o) for o in ("seed=1", "div.k=1", "optimizer.lr=1", "train.batch_size=4", "model.dim=5")]
    assert len(set(others)) == 5


def test_a_killed_run_ends_as_one_curve_without_a_step_twice(sweep: Shell, home: Path) -> None:
    arguments = [*TRACKED, "train.steps=150"]
    running = sweep.start(*arguments)
    sweep.wait_for("checkpoint.pt")
    running.kill()
    running.communicate()
    sweep(*arguments)
    (directory,) = finished(sweep)
    mirror = Mirror.of(directory)
    assert as_curves(mirror.history) == as_measured(directory)
    steps = [line["step"] for line in mirror.history]
    assert steps == sorted(set(steps))
    assert [line["_step"] for line in mirror.history] == list(range(len(steps)))
    assert steps[-1] == 150
    assert (directory / "log.txt").read_text().count("starting at step") == 2


def test_online_without_a_key_is_offline_for_it_would_ask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert tracking.mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert tracking.mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.mode() == "disabled"


def test_a_guard_says_the_first_failure_once(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        def __init__(self) -> None:
            self.calls = 0

            self.abandoned = 0

        def log(self, *_: object) -> None:
            self.calls += 1
            raise ConnectionError("no server")

        def abandon(self) -> None:
            self.abandoned += 1

    breaks = Breaks()
    guarded = FaultTolerantTracker(lambda: breaks)
    for step in range(3):
        guarded.log(step, {})
    guarded.close("done", {})
    assert breaks.calls == 1
    assert breaks.abandoned == 1
    assert caplog.text.count("no server") == 1


def test_a_guard_survives_a_tracker_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    guarded = FaultTolerantTracker(lambda: (_ for _ in ()).throw(ImportError("no wandb")))
    guarded.log(1, {})
    guarded.close("done", {})
    assert "no wandb" in caplog.text
    assert isinstance(guarded, tracking.FaultTolerantTracker)


def test_what_was_never_tracked_is_uploaded_once_and_is_the_same(sweep: Shell, home: Path, capsys, monkeypatch) -> None:
    """Two finished runs and one that diverged, several at a time; again, nothing is done."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    points = ["train.steps=40", "log_every=5", "train.batch_size=8", "model.dim=4", "device=cpu", "tracker=none"]
    sweep("-m", *SCORED, *points, "seed=0,1", "optimizer.lr=1e-3,1e30", "sampling=real", tiny=False, code=1)
    directories = finished(sweep, 4)
    runs = str(sweep.folder / "runs")

    def upload(*options: str) -> list[str]:
        with pytest.raises(SystemExit) as ended:
            reporting.main([runs, "--wandb", "--jobs", "2", *options])
        assert ended.value.code == 0
        return [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()]

    assert upload("--project", "mine", "--entity", "me") == ["written offline"] * 4
    for directory in directories:
        found = Mirror.of(directory)
        assert as_curves(found.history) == as_measured(directory)
        record = json.loads((directory / "record.json").read_text())
        assert found.summary["status"] == record["status"]
        assert found.run.run_group == record["sweep"] == next((Path(runs) / ".sweeps").iterdir()).name
        assert (found.run.project, found.run.entity) == ("mine", "me")
    assert upload("--project", "mine", "--entity", "me") == ["there already"] * 4


class Fake:
    """W&B's module as a server would have it act: a resumed run starts after the rows that arrived."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.Settings = lambda **_: None
        self.Image = lambda grid: "image"
        self.Error = ConnectionError
        self.Run = object

    def init(self, **asked: Any) -> Any:
        rows = self.rows.setdefault(asked["id"], [])
        assert asked["reinit"] == "create_new"  # else another run of the process would be taken for this one
        fake = type("Run", (), {})()
        fake.id, fake.starting_step, fake.summary = asked["id"], len(rows), {}
        fake.log, fake.define_metric, fake.finish = rows.append, lambda *_, **__: None, lambda **_: None
        return fake


def test_online_what_the_server_has_is_passed_over_and_what_it_lost_is_sent_again(
    home: Path, tmp_path, monkeypatch
) -> None:
    import sys

    server = Fake()
    monkeypatch.setitem(sys.modules, "wandb", server)
    monkeypatch.setenv("WANDB_API_KEY", "x")
    lines = [{"images_seen": n, "wasserstein": n / 2} for n in range(6)] + [{"images_seen": 6, "fid": 3.0, "final": 1}]

    def sit(count: int, directory: Path = tmp_path) -> None:
        tracker = tracking.WandbTracker(run=TrackedRun("x", directory, None, {}), project="p", entity=None)
        for step, line in enumerate(lines[:count]):
            tracker.log(step, line)
        tracker.close("done", {})

    sit(4)
    assert len(server.rows["x"]) == 4
    del server.rows["x"][3]  # a kill: the last row never arrived
    sit(7)
    assert [row["step"] for row in server.rows["x"]] == list(range(7))
    assert server.rows["x"][-1] == {"step": 6, "images_seen": 6, "final_fid": 3.0}
    sit(7)
    assert len(server.rows["x"]) == 7


def test_another_project_is_another_mirror(home: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = RunDir(tmp_path / "x")
    record = Record("x", Status.DONE, config={"scorer": {}})
    directory.write_record(record)
    tracker = tracking.WandbTracker(run=mirroring.tracked_run(record, directory), project="one", entity=None)
    tracker.close("done", {})
    assert is_uploaded(record, directory, "one", None)
    assert not is_uploaded(record, directory, "other", None)
    assert not is_uploaded(record, directory, "one", "me")
    directory.append_metrics({"step": 1, "images_seen": 2})
    assert not is_uploaded(record, directory, "one", None)


def test_without_a_key_nothing_is_uploaded_and_the_remedy_is_named(home: Path, tmp_path: Path, make) -> None:
    RunDir(tmp_path / "x").write_record(Record("x", config={"scorer": {}}))
    for option in ("--wandb", "--dashboard"):
        with pytest.raises(SystemExit, match="wandb login"):
            reporting.main([str(tmp_path), option])


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_dashboard_asks_for_what_runs_have(home: Path, sweep: Shell) -> None:
    """Its specification, as it would be sent, names only axes, scores and curves that an offline record holds."""
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
    found = Mirror.of(finished(sweep)[0])
    for axis in set(re.findall(r"config:axes\.value\.(\w+)", text)):
        assert axis in found.config["axes"]
    curves = {panel["config"]["metrics"][0] for panel in panels if panel["viewType"] == "Run History Line Plot"}
    assert curves - {"fid"} <= {name for line in found.history for name in line}
    assert "cell" in found.config
    assert "cell" in json.dumps(spec["spec"]["section"]["runSets"])
