"""The lock of a run: held by one process, taken over from an owner that is gone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import pytest

from wgan_sweep.errors import RunLockedError
from wgan_sweep.runs import lock as locks
from wgan_sweep.runs.lock import run_lock

HOLDER = """
    import sys, time
    from pathlib import Path
    from wgan_sweep.runs.lock import run_lock
    with run_lock(Path(sys.argv[1]), "run x"):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A function that starts a process which holds the lock at a path."""
    processes = []

    def start(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["run.lock", "odd |^ name/run.lock"])
def test_a_lock_is_held_by_one_process_and_the_error_names_its_owner(name: str, tmp_path: Path, holder) -> None:
    path = tmp_path / name
    owner = holder(path)
    with pytest.raises(RunLockedError, match=f"process {owner.pid} on "), run_lock(path, "run x"):
        pytest.fail("held twice")
    assert path.exists()


def test_a_lock_is_released_if_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    for _ in range(2):
        with pytest.raises(KeyError), run_lock(path, "run x"):
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_at_once_and_logged(tmp_path: Path, holder, caplog) -> None:
    path = tmp_path / "run.lock"
    owner = holder(path)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    caplog.set_level("INFO")
    with run_lock(path, "run x"):
        assert path.exists()
    assert f"taking over run x from process {owner.pid}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_is_taken_over_if_its_heartbeat_has_stopped(tmp_path: Path, caplog) -> None:
    """A process on another machine cannot be checked: only its heartbeat shows whether it is alive."""
    path = tmp_path / "run.lock"
    claim = tmp_path / "run.lock|otherhost|1234|5"
    claim.write_text(str(claim))
    os.link(claim, path)
    expiration = time.time() + locks.LIFETIME.total_seconds()
    os.utime(path, (expiration, expiration))
    with pytest.raises(RunLockedError, match="process 1234 on otherhost"), run_lock(path, "run x"):
        pytest.fail("taken over although its last heartbeat was just now")
    expiration = time.time() - locks.CLOCK_TOLERANCE.total_seconds() - 1
    os.utime(path, (expiration, expiration))
    caplog.set_level("INFO")
    with run_lock(path, "run x"):
        pass
    assert "from process 1234 on otherhost" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_extends_the_lock_beyond_its_lifetime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LIFETIME", timedelta(seconds=2))
    path = tmp_path / "run.lock"
    with run_lock(path, "run x"):
        first = path.stat().st_mtime
        time.sleep(3)
        assert path.stat().st_mtime >= first + 1  # file times may be whole seconds


def test_a_lost_lock_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(locks, "LIFETIME", timedelta(seconds=0.2))
    path = tmp_path / "run.lock"
    with run_lock(path, "run x"):
        path.unlink()
        time.sleep(0.3)
    assert "the lock of run x was lost" in caplog.text
