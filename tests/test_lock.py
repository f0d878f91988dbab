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
    with run_lock(Path(sys.argv[1]), "it"):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    running = []

    def start(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["run.lock", "odd |^ name/run.lock"])
def test_a_lock_is_held_by_one_process_and_names_it(name: str, tmp_path: Path, holder) -> None:
    path = tmp_path / name
    other = holder(path)
    with pytest.raises(RunLockedError, match=f"process {other.pid} on "), run_lock(path, "it"):
        pytest.fail("held twice")
    assert path.exists()


def test_it_is_free_again_after_the_block_however_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    for _ in range(2):
        with pytest.raises(KeyError), run_lock(path, "it"):
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_at_once_with_a_line(tmp_path: Path, holder, caplog) -> None:
    path = tmp_path / "run.lock"
    other = holder(path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    caplog.set_level("INFO")
    with run_lock(path, "run x"):
        assert path.exists()
    assert f"taking over run x from process {other.pid}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_without_a_heartbeat_is_taken_over_from_another_machine(tmp_path: Path, holder, caplog) -> None:
    """An owner elsewhere cannot be looked at: only its heartbeat tells."""
    path = tmp_path / "run.lock"
    claim = tmp_path / "run.lock|elsewhere|1234|5"
    claim.write_text(str(claim))
    os.link(claim, path)
    beat = time.time() + locks.LIFETIME.total_seconds()
    os.utime(path, (beat, beat))
    with pytest.raises(RunLockedError, match="process 1234 on elsewhere"), run_lock(path, "it"):
        pytest.fail("its last heartbeat was just now")
    silent = time.time() - locks.CLOCK_TOLERANCE.total_seconds() - 1
    os.utime(path, (silent, silent))
    caplog.set_level("INFO")
    with run_lock(path, "it"):
        pass
    assert "from process 1234 on elsewhere" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_keeps_it_beyond_its_lifetime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LIFETIME", timedelta(seconds=2))
    path = tmp_path / "run.lock"
    with run_lock(path, "it"):
        first = path.stat().st_mtime
        time.sleep(3)
        assert path.stat().st_mtime >= first + 1  # file times may be whole seconds


def test_a_lock_that_was_lost_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(locks, "LIFETIME", timedelta(seconds=0.2))
    path = tmp_path / "run.lock"
    with run_lock(path, "run x"):
        path.unlink()
        time.sleep(0.3)
    assert "the lock of run x was lost" in caplog.text
