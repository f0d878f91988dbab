"""Commands that share a machine: who is counted, their shares of the cores, and threads that do not spin."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from rich.console import Console

from wgan_sweep.common import cores
from wgan_sweep.common.cores import CoreShare
from wgan_sweep.common.processes import ChildProcess
from wgan_sweep.common.progress import Display
from wgan_sweep.sweeps.launching import RequestedRun
from wgan_sweep.sweeps.local import Local
from wgan_sweep.sweeps.parallel import Parallel

from .helpers import PATIENCE_SECONDS

needs_cores = pytest.mark.skipif(
    cores.available_cores() < 2 or sys.platform != "linux", reason="needs two cores and libgomp"
)


WAIT_POLICIES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where commands are registered, of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path / f"wgan-sweep-{os.getuid()}"


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads that the user did not choose."""
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


REGISTERED = """
    import os, sys
    from wgan_sweep.common import cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with cores.registered():
        print("ready", flush=True)
        sys.stdin.read()
"""


def start_registered() -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(REGISTERED)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def count_others(connection: Connection) -> None:
    connection.send(cores.other_commands())


@pytest.mark.integration
def test_commands_are_counted_until_they_end_however_they_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores.other_commands() == 0
    with start_registered() as killed, start_registered() as ended:
        try:
            assert cores.other_commands() == 2
            with cores.registered():  # a worker counts neither itself nor its command
                assert cores.other_commands() == 2
                assert len(list(folder.iterdir())) == 3
                worker = ChildProcess(count_others)
                assert worker.connection.recv() == 2
                worker.stop(PATIENCE_SECONDS)
            first = min(os.sched_getaffinity(0))
            monkeypatch.setattr(cores, "_affinity", lambda: {first + 1})  # no core in common
            assert cores.other_commands() == 0
            monkeypatch.setattr(cores, "_affinity", lambda: {first, first + 1})
            assert cores.other_commands() == 2
            monkeypatch.setenv("SLURM_JOB_ID", "7")  # whose cores are not theirs
            assert cores.other_commands() == 0
            monkeypatch.delenv("SLURM_JOB_ID")
            killed.kill()
            killed.wait()
            assert len(list(folder.iterdir())) == 2
            assert cores.other_commands() == 1
            assert [path.name.split("-")[0] for path in folder.iterdir()] == [str(ended.pid)]
        finally:
            for process in (killed, ended):
                with suppress(BrokenPipeError):
                    process.communicate()
    assert ended.returncode == 0
    assert list(folder.iterdir()) == []
    assert cores.other_commands() == 0


@pytest.mark.parametrize("spoil", ["symlink", "file", "foreign", "open", "read-only"])
def test_a_folder_that_is_not_the_users_alone_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if spoil == "symlink":
        folder.symlink_to(elsewhere)
    elif spoil == "file":
        folder.write_text("")
    elif spoil == "foreign":
        folder.mkdir(mode=0o700)
        user = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: user)
        folder = folder.with_name(f"wgan-sweep-{os.getuid()}")
        folder.mkdir(mode=0o700)
    elif spoil == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with cores.registered():
        assert list(tmp_path.rglob(f"{os.getpid()}-*")) == []
        assert cores.other_commands() == 0


def test_the_folder_is_private(folder: Path) -> None:
    with cores.registered():
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_slurm_job_has_the_cores_of_its_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    assert cores.available_cores() == 5


@pytest.mark.parametrize(("available", "others", "share"), [(2, 0, 2), (2, 1, 1), (2, 5, 1), (16, 1, 8), (16, 2, 5)])
def test_cores_are_divided_among_the_commands(available: int, others: int, share: int) -> None:
    assert CoreShare(available, others).cores == share


def test_the_share_in_words() -> None:
    assert str(CoreShare(2, 1)) == "2 cores are shared with 1 other command"
    assert str(CoreShare(1, 3)) == "1 core is shared with 3 other commands"


@pytest.mark.usefixtures("own_threads")
def test_a_run_beside_others_takes_its_share_and_records_it(make, monkeypatch: pytest.MonkeyPatch) -> None:
    others = iter([0, 1, 1])
    lines: list[str] = []
    monkeypatch.setattr(cores, "core_share", lambda: CoreShare(2, next(others)))
    monkeypatch.setattr(Display, "line", lambda _, text, *level: lines.append(text))
    requested = [RequestedRun(make(f"seed={seed}", "train.steps=1"), (), "", None) for seed in range(3)]
    outcomes = Local()(requested, Display(Console(quiet=True)), lambda: False)
    assert [o.record.execution["threads"] for o in outcomes if o.record] == ["2", "1", "1"]
    assert lines.count("2 cores are shared with 1 other command: this run uses 1 thread") == 1
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    again = RequestedRun(make("seed=3", "train.steps=1"), (), "", None)
    (outcome,) = Local()([again], Display(Console(quiet=True)), lambda: False)  # does not ask for a share
    assert outcome.record is not None
    assert outcome.record.execution["threads"] == "2"


@pytest.mark.usefixtures("own_threads")
def test_workers_divide_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    divided: list[int] = []
    monkeypatch.setattr(cores, "core_share", lambda: CoreShare(12, 2))
    monkeypatch.setattr(Display, "line", lambda _, text, *level: lines.append(text))
    slots = Parallel.slots

    def no_slots(self: Parallel, requested, num_cores: int) -> list:
        divided.append(num_cores)
        return slots(self, requested, num_cores)

    monkeypatch.setattr(Parallel, "slots", no_slots)
    Parallel()([], Display(Console(quiet=True)), lambda: False)
    assert divided == [4]
    assert lines == []  # no runs, no threads


SPINNING = """
    import json, sys, time
    import torch
    from wgan_sweep.common import cores

    torch.set_num_threads(2)
    cores.SECONDS_BETWEEN_LOOKS = 0.01
    others = 0
    cores.other_commands = lambda: others
    values = torch.randn(1 << 17)

    def milliseconds_per_operation():
        time.sleep(0.3)
        began = time.process_time()
        for _ in range(100):
            values.sin()
            time.sleep(0.005)
        return 10 * (time.process_time() - began)

    measured = []
    with cores.limited_spinning_beside_others():
        for others in (0, 1, 0, 1):
            measured.append(milliseconds_per_operation())
    measured.append(milliseconds_per_operation())
    print(json.dumps(measured))
"""


@pytest.mark.integration
@needs_cores
def test_idle_threads_spin_only_while_the_command_is_alone() -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", *WAIT_POLICIES)}
    command = [sys.executable, "-c", textwrap.dedent(SPINNING)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    alone, beside, alone_again, beside_again, after = json.loads(done.stdout)
    assert max(beside, beside_again) < min(alone, alone_again, after) / 3


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("policy", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", None])
def test_a_wait_policy_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, policy: str | None) -> None:
    watching = threading.Event()
    monkeypatch.setattr(cores, "_watch", lambda _: watching.set())
    for name in WAIT_POLICIES:
        monkeypatch.delenv(name, raising=False)
    if policy:
        monkeypatch.setenv(policy, "passive" if policy == "OMP_WAIT_POLICY" else "300000")
    with cores.limited_spinning_beside_others():
        pass
    assert watching.is_set() == (policy is None)
