import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from wgan_sweep import tracking
from wgan_sweep.tracking import Guarded, key_is_configured


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


RUN = """
    import sys
    from pathlib import Path
    import numpy as np
    from wgan_sweep.tracking import RunIdentity, WandbTracker
    identity = RunIdentity("abc123", Path(sys.argv[1]), "sweep-1", {"div": {"k": 2.0}})
    tracker = WandbTracker(run=identity, project="p", entity=None)
    for step in (1, 2, 3):
        tracker.log(step, {"images_seen": step * 10, "fid": 5.0 - step, "wasserstein": step / 2})
    tracker.images(3, np.zeros((8, 8, 1), np.uint8))
    tracker.close("done", {"best_fid": 2.0})
"""


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


@pytest.mark.filterwarnings("ignore")
def test_without_a_key_the_run_is_kept_offline_and_nothing_is_asked(home: Path, tmp_path: Path) -> None:
    directory = tmp_path / "a run"
    directory.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(directory)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    kept = records(file)
    (run,) = [r.run for r in kept if r.WhichOneof("record_type") == "run"][:1]
    assert (run.run_id, run.run_group, run.project) == ("abc123", "sweep-1", "p")
    config = {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in run.config.update}
    assert config["div"] == {"k": 2.0}
    history = [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        for record in kept
        if record.WhichOneof("record_type") == "history"
    ]
    scalars = [{k: line[k] for k in ("images_seen", "fid", "wasserstein")} for line in history if "fid" in line]
    assert scalars == [{"images_seen": s * 10, "fid": 5.0 - s, "wasserstein": s / 2} for s in (1, 2, 3)]
    assert any("samples" in line or any(k.startswith("samples") for k in line) for line in history)
    summary: dict[str, object] = {}
    for record in kept:
        if record.WhichOneof("record_type") == "summary":
            summary |= {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.summary.update}
    assert summary["status"] == "done"
    assert summary["best_fid"] == 2.0


def test_online_without_a_key_is_offline_for_it_would_ask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking._mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert tracking._mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert tracking._mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking._mode() == "disabled"


def test_a_guard_says_the_first_failure_once(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        def __init__(self) -> None:
            self.calls = 0

        def log(self, *_: object) -> None:
            self.calls += 1
            raise ConnectionError("no server")

    breaks = Breaks()
    guarded = Guarded(lambda: breaks)
    for step in range(3):
        guarded.log(step, {})
    guarded.close("done", {})
    assert breaks.calls == 1
    assert caplog.text.count("no server") == 1


def test_a_guard_survives_a_tracker_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded(lambda: (_ for _ in ()).throw(ImportError("no wandb")))
    guarded.log(1, {})
    guarded.close("done", {})
    assert "no wandb" in caplog.text
    assert isinstance(guarded, tracking.Guarded)
