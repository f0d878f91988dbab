"""Writes to a run's directory: after a takeover, the earlier owner changes nothing, wherever it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from wgan_sweep.errors import InputError, RunTakenOverError
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.lock import Process
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.writer import RunWriter, owned_run

from .helpers import (
    PATIENCE_SECONDS,
    UNREADABLE,
    Shell,
    append_metrics,
    directory_of,
    lock_owners,
    make_unreadable,
    run,
)


def abandon(directory: RunDir) -> None:
    """Make the newest token that of a process which has ended, as if its owner were killed."""
    token = max(directory.lock.iterdir(), key=lambda path: int(path.name))
    token.write_text(json.dumps(asdict(replace(Process(), started="1"))))


def contents(path: Path) -> dict[str, bytes]:
    """Return the files of a run but its staging folders, by name."""
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items() if not name.startswith(".")}


WRITES: dict[str, Callable[[RunWriter], None]] = {
    "open": RunWriter.open,
    "config": lambda writer: writer.write(writer.directory.config, "a: 1"),
    "samples": lambda writer: writer.write(writer.directory.samples(3), b"png"),
    "record": lambda writer: writer.write_record(Record("x", Status.FAILED, config={"scorer": {}})),
    "append": lambda writer: writer.append_metrics({"step": 4, "fid": 1.0}),
    "replace": lambda writer: writer.replace_metrics([{"step": 1}]),
    "checkpoint": lambda writer: writer.save_checkpoint(writer.directory.checkpoint, {"step": 3}),
    "best": lambda writer: writer.save_checkpoint(writer.directory.best, {"step": 3}),
    "set aside": RunWriter.set_aside_checkpoint,
    "close": RunWriter.close,
}


def fill(writer: RunWriter, status: Status) -> None:
    """Write all files of a run."""
    writer.write(writer.directory.config, f"status: {status}")
    for step in (1, 2):
        writer.save_checkpoint(writer.directory.checkpoint, {"step": step, "status": status.value})
    writer.save_checkpoint(writer.directory.best, {"step": 2})
    writer.replace_metrics([{"step": 1}, {"step": 2}])
    writer.append_metrics({"step": 3})
    writer.write(writer.directory.samples(2), status.value)
    writer.write_record(Record("x", status, config={"scorer": {}}))


CALLS = ("open", "mkdir", "rename", "replace", "link", "unlink", "fsync", "ftruncate", "rmdir", "listdir")
"""The functions of `os` by which files are changed, and the one by which tokens are listed."""


@pytest.mark.integration
@pytest.mark.parametrize("name", WRITES)
def test_a_process_that_is_stopped_anywhere_in_a_write_changes_nothing_after_a_takeover(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The takeover happens before and after each call to the file system, until the write has no further call."""
    for position in range(200):
        directory = RunDir(tmp_path / f"runs {position}" / "x")
        after: dict[str, bytes] = {}
        count = 0
        in_takeover = False

        def take_over(directory: RunDir = directory, after: dict[str, bytes] = after) -> None:
            """Take over the run, finish it, and release it."""
            abandon(directory)
            with owned_run(directory) as writer:
                writer.open()
                fill(writer, Status.DONE)
            after.update(contents(directory.path))

        def stopping(call: Callable[..., Any], position: int = position) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count, in_takeover
                if in_takeover:
                    return call(*args, **kwargs)
                at, count = count, count + 1
                if at == position:
                    in_takeover = True
                    take_over()
                    in_takeover = False
                return call(*args, **kwargs)

            return wrapped

        with owned_run(directory) as writer:
            writer.open()
            fill(writer, Status.RUNNING)
            before = contents(directory.path)
            with monkeypatch.context() as patch:
                for call in CALLS:
                    patch.setattr(os, call, stopping(getattr(os, call)))
                with suppress(RunTakenOverError):
                    WRITES[name](writer)
                is_over = not after
            if not is_over and name not in ("open", "close"):
                with pytest.raises(RunTakenOverError):  # at the latest now
                    writer.write_record(Record("x", Status.RUNNING, config={"scorer": {}}))
        if is_over:
            assert position > 0
            assert name in ("open", "close") or contents(directory.path) != before
            return
        assert contents(directory.path) == after, f"at call {position}"
        assert not list(directory.path.glob(".[sr]*")), f"at call {position}"
    pytest.fail("the write does not end")


def test_a_takeover_removes_the_files_of_a_killed_process(tmp_path: Path, caplog) -> None:
    directory = RunDir(tmp_path / "runs" / "x")
    with owned_run(directory) as writer:
        writer.open()
        staging = next(directory.path.glob(".staging-*"))
        abandon(directory)
        (staging / "checkpoint.pt.tmp").write_bytes(b"half a checkpoint")
        with owned_run(directory):
            assert not list(directory.path.iterdir())


def test_a_writer_leaves_no_staging_folder_and_a_refused_run_no_directory(tmp_path: Path) -> None:
    directory = RunDir(tmp_path / "runs" / "x")
    with owned_run(directory):
        assert not directory.path.exists()
    with owned_run(directory) as writer:
        writer.open()
        fill(writer, Status.DONE)
    assert set(contents(directory.path)) == {
        *("config.yaml", "record.json", "metrics.jsonl", "samples/2.png"),
        *("checkpoint.pt", "checkpoint.previous.pt", "best.pt"),
    }
    assert not list(directory.path.glob(".*"))
    assert lock_owners(tmp_path / "runs") == {}


def test_measurements_are_appended_and_replaced(tmp_path: Path, owned: Callable[[RunDir], RunWriter]) -> None:
    directory = RunDir(tmp_path / "x")
    writer = owned(directory)
    for step in (1, 2, 3):
        writer.append_metrics({"step": step, "fid": step / 3})
    assert writer.metrics_lines == 3
    with directory.metrics.open("a") as file:
        file.write('{"step": 4, "fi')
    assert [line["step"] for line in directory.read_metrics()] == [1, 2, 3]
    writer.replace_metrics([line for line in directory.read_metrics() if line["step"] <= 2])
    assert writer.metrics_lines == 2
    writer.append_metrics({"step": 9})
    assert list(directory.read_metrics()) == [{"step": 1, "fid": 1 / 3}, {"step": 2, "fid": 2 / 3}, {"step": 9}]


@pytest.mark.parametrize("how", UNREADABLE)
def test_a_line_is_not_appended_to_measurements_that_cannot_be_read(how: str, tmp_path: Path, owned) -> None:
    directory = RunDir(tmp_path / "x")
    append_metrics(directory, {"step": 1})
    writer = owned(directory)
    restore = make_unreadable(directory.metrics, how)
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        writer.append_metrics({"step": 2})
    restore()
    assert directory.metrics.read_text() == '{"step": 1}\n'
    writer.append_metrics({"step": 2})
    assert directory.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_line_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path, owned) -> None:
    directory = RunDir(tmp_path / "x")
    writer = owned(directory)
    writer.append_metrics({"step": 1})
    whole = writer._metrics

    class Full:
        """A file on a disk that becomes full within a line."""

        def fileno(self) -> int:
            return whole.fileno()

        def write(self, text: memoryview) -> int:
            whole.write(text[:4])
            raise OSError(28, "No space left on device")

    writer._metrics = Full()
    with pytest.raises(OSError, match="No space left"):
        writer.append_metrics({"step": 2})
    writer._metrics = whole
    writer.append_metrics({"step": 3})
    assert list(directory.read_metrics()) == [{"step": 1}, {"step": 3}]
    assert directory.metrics.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_metrics_that_were_halved_are_noticed_at_the_next_start(make, caplog) -> None:
    config = make("train.steps=6")
    assert run(config).metrics_lines == 4  # at steps 2, 3, 4 and 6
    directory = directory_of(config)
    lines = directory.metrics.read_text().splitlines()
    directory.metrics.write_text(lines[0] + "\n" + lines[2][:10])
    record = run(make("train.steps=8"))
    assert "has 1 lines, 3 fewer than were written" in caplog.text
    assert (record.status, record.metrics_lines) == (Status.DONE, 2)
    assert run(make("train.steps=10")).metrics_lines == 4  # steps 9 and 10, too
    assert caplog.text.count("fewer than were written") == 1


IMPATIENT = """
import sys
from wgan_sweep.runs import lock
lock.LIFETIME_SECONDS = 1.0
from wgan_sweep.commands.sweep import main
main()
"""
"""The command, which takes over from a stopped process after a second instead of a minute."""


@pytest.mark.integration
@pytest.mark.parametrize("stop_after", [0.0, *(pytest.param(0.05 * i, marks=pytest.mark.slow) for i in range(1, 13))])
def test_a_stopped_command_that_continues_after_a_takeover_changes_nothing(sweep: Shell, stop_after: float) -> None:
    """Another command finishes the run meanwhile; the first one finds it finished."""
    arguments = ["train.steps=1500", "save_every=20", "log_every=1"]
    first = sweep.start(*arguments)
    (checkpoint,) = sweep.wait_for("checkpoint.pt")
    time.sleep(stop_after)
    first.send_signal(signal.SIGSTOP)
    path = checkpoint.parent
    assert json.loads((path / "record.json").read_text())["status"] == "running"
    command = [sys.executable, "-c", IMPATIENT, *sweep.command(*arguments)[3:]]
    second = subprocess.run(command, cwd=sweep.folder, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    done = contents(path)
    assert json.loads(done["record.json"])["status"] == "done"
    first.send_signal(signal.SIGCONT)
    _, messages = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 0, messages
    assert messages.count("was taken over by") == 1
    assert "nothing left to do" in messages
    now = contents(path)
    assert now.pop("log.txt").startswith(done.pop("log.txt"))
    assert now == done
    state, problems = checkpoints.load(path / "checkpoint.pt")
    assert not problems
    assert state is not None
    assert state["trainer"]["step"] == 1500
    assert not list(path.glob(".*"))


def test_what_cannot_be_removed_is_renamed_once_and_stops_no_run(tmp_path: Path, monkeypatch) -> None:
    directory = RunDir(tmp_path / "runs" / "x")
    (directory.path / ".staging-7").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    for _ in range(3):
        with owned_run(directory):
            (left,) = directory.path.iterdir()
            assert left.name == ".removed-1-staging-7"


def test_a_run_does_not_start_beside_a_staging_folder_that_keeps_its_name(tmp_path: Path, monkeypatch) -> None:
    """The process that it belongs to could still write from it."""
    directory = RunDir(tmp_path / "runs" / "x")
    (directory.path / ".staging-7").mkdir(parents=True)

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path), None, str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), owned_run(directory):
        pass


@pytest.mark.parametrize("name", [".staging-1", ".removed-2-staging-1"])
def test_what_a_killed_process_left_of_a_finished_run_is_removed(make, name: str) -> None:
    config = make()
    record = run(config)
    directory = directory_of(config)
    before = contents(directory.path)
    (directory.path / name).mkdir()
    (directory.path / name / ".record.json.x1y2").write_text("incomplete")
    assert run(config) == record
    assert not (directory.path / name).exists()
    assert contents(directory.path) == before
