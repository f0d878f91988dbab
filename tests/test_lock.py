"""Ownership of a run: one process at a time, taken over from an owner that is gone, and from no other."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from wgan_sweep.errors import InputError, RunLockedError, RunTakenOverError
from wgan_sweep.runs import lock as locks
from wgan_sweep.runs.lock import Process, lock_owner, run_lock

from .helpers import PATIENCE_SECONDS, wait_until

HOLDER = """
    import sys, time
    from pathlib import Path
    from wgan_sweep.runs.lock import run_lock
    with run_lock(Path(sys.argv[1]), "run x"):
        print("held", flush=True)
        time.sleep(600)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holder() -> Iterator[Start]:
    """A function that starts a process which holds the lock at a path; `prefix` is a command that starts it."""
    processes = []

    def start(path: Path, *prefix: str) -> subprocess.Popen[str]:
        command = [*prefix, sys.executable, "-c", textwrap.dedent(HOLDER), str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def short_lifetime(monkeypatch: pytest.MonkeyPatch) -> float:
    """A lifetime of 0.5 s; a process seems gone after ten thousand of them."""
    monkeypatch.setattr(locks, "LIFETIME_SECONDS", 0.5)
    monkeypatch.setattr(locks, "LIFETIMES_UNTIL_SILENT", 10_000)
    return 0.5


def write_token(folder: Path, number: int, process: Process) -> Path:
    """Create a token as a process that is not this one would."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / str(number)
    token.write_text(json.dumps(asdict(process)))
    return token


def assert_locked(folder: Path, owner: str) -> None:
    assert lock_owner(folder) == owner
    with pytest.raises(RunLockedError, match=owner), run_lock(folder, "run x"):
        pytest.fail("held twice")


@pytest.fixture
def elsewhere() -> Process:
    """A process that cannot be checked from here."""
    return replace(Process(), boot="another machine", host="node", pid=77)


class Clock:
    """The monotonic clock of this process, as the lock sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the test moves, and that sleeping moves."""
    clock = Clock()
    monkeypatch.setattr(locks, "time", clock)
    return clock


def set_back(token: Path, seconds: float) -> None:
    """Give a token the time that it would have had so long ago."""
    os.utime(token, (time.time() - seconds,) * 2)


def take_over(folder: Path, seconds: float) -> float:
    """Lock a folder as soon as that is possible; return after how long it was, at most `seconds`."""
    began = time.monotonic()
    while True:
        try:
            with run_lock(folder, "run x"):
                return time.monotonic() - began
        except RunLockedError:
            if time.monotonic() > began + seconds:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize("name", ["run", "odd |^ name/run"])
def test_a_lock_is_held_by_one_process_and_the_error_names_its_owner(name: str, tmp_path: Path, holder: Start) -> None:
    owner = holder(tmp_path / name)
    with pytest.raises(RunLockedError, match=f"process {owner.pid} on "), run_lock(tmp_path / name, "run x"):
        pytest.fail("held twice")


def test_a_lock_is_released_if_the_block_raises(tmp_path: Path) -> None:
    for number in (1, 2):
        with pytest.raises(KeyError), run_lock(tmp_path / "run", "run x"):
            raise KeyError
        assert lock_owner(tmp_path / "run") is None
        assert [path.name for path in (tmp_path / "run").iterdir()] == [str(number)]


def test_the_lock_of_a_killed_process_is_taken_over_at_once_and_logged(tmp_path: Path, holder: Start, caplog) -> None:
    owner = holder(tmp_path / "run")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    caplog.set_level("INFO")
    with run_lock(tmp_path / "run", "run x") as ownership:
        assert ownership.number == 2
        ownership.check()
    assert f"taking over run x from process {owner.pid}" in caplog.text


def test_the_lock_of_a_process_with_the_same_id_that_started_later_is_taken_over(tmp_path: Path) -> None:
    write_token(tmp_path / "run", 7, replace(Process(), started="1"))
    with run_lock(tmp_path / "run", "run x") as ownership:
        assert ownership.number == 8


@pytest.mark.parametrize("offset", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize(
    "elsewhere", [{"boot": "another machine"}, {"namespace": "pid:[1]"}, {"boot": "", "namespace": ""}]
)
def test_a_process_that_cannot_be_checked_is_judged_by_its_heartbeat_whatever_its_clock(
    offset: float, elsewhere: dict[str, str], tmp_path: Path, short_lifetime: float
) -> None:
    """Another machine, or a container on this one; its pid is that of no process here. Its clock is an hour off."""
    folder = tmp_path / "run"
    token = write_token(folder, 1, replace(Process(), pid=2**22 + 1, host="node", **elsewhere))
    for beat in range(6):  # more than a lifetime, with heartbeats
        os.utime(token, (time.time() + offset + beat, time.time() + offset + beat))
        assert_locked(folder, f"process {2**22 + 1} on node")
        time.sleep(short_lifetime / 4)
    waited = take_over(folder, 20)
    assert waited > short_lifetime / 2


@pytest.mark.parametrize("is_new_process", [False, True])
def test_the_first_look_sees_an_owner_that_was_silent_for_many_lifetimes(
    is_new_process: bool, tmp_path: Path, elsewhere: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no longer reported, and its lock is taken over only after a lifetime, as from any other owner."""
    folder = tmp_path / ".locks" / "run"
    token = write_token(folder, 1, elsewhere)
    set_back(token, 9 * locks.LIFETIME_SECONDS)
    assert lock_owner(folder) == str(elsewhere)
    clock.now += 2 * locks.LIFETIME_SECONDS
    if is_new_process:
        for known in ("_first_seen", "_last_look", "_clocks"):
            monkeypatch.setattr(locks, known, {})
        set_back(token, 11 * locks.LIFETIME_SECONDS)
    assert lock_owner(folder) is None
    assert [path.name for path in folder.iterdir()] == ["1"]
    with pytest.raises(RunLockedError), run_lock(folder, "run x"):
        pytest.fail("taken over at the first look")
    os.utime(token)
    assert lock_owner(folder) == str(elsewhere)


def test_an_owner_in_a_folder_that_cannot_be_written_to_is_watched(
    tmp_path: Path, elsewhere: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".locks" / "run"
    set_back(write_token(folder, 1, elsewhere), 1e6)

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks.tempfile, "TemporaryFile", refuse)
    for _ in range(61):
        assert lock_owner(folder) == str(elsewhere)
        clock.now += 1.0
    assert lock_owner(folder) is None


def test_a_silent_owner_is_watched_for_a_lifetime_on_request(
    tmp_path: Path, elsewhere: Process, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ".locks" / "run"
    token = write_token(folder, 1, elsewhere)
    began = clock.now
    with pytest.raises(RunLockedError), run_lock(folder, "run x", watch_silent=True):
        pytest.fail("held twice")
    assert clock.now == began
    set_back(token, 1e6)
    with run_lock(folder, "run x", watch_silent=True):
        assert locks.LIFETIME_SECONDS < clock.now - began < locks.LIFETIME_SECONDS + 3
    assert caplog.text.count("run x: process 77 on node has had no heartbeat for long: watching it for 60 s") == 1


def test_a_pause_between_two_looks_does_not_count_as_watching(tmp_path: Path, elsewhere: Process, clock: Clock) -> None:
    """The file server may have been away: then this process and the heartbeats waited for it."""
    folder = tmp_path / ".locks" / "run"
    write_token(folder, 1, elsewhere)
    other = write_token(tmp_path / ".locks" / "other", 1, elsewhere).parent
    assert_locked(folder, str(elsewhere))
    clock.now += 300
    for _ in range(6):
        assert_locked(folder, str(elsewhere))
        for _ in range(2):  # looks at other locks of the folder show that the file server is there
            assert_locked(other, str(elsewhere))
            clock.now += 5
    clock.now += 1
    assert lock_owner(other) is None
    with run_lock(folder, "run x") as ownership:
        assert ownership.number == 2


def test_a_stopped_process_keeps_its_lock_for_a_lifetime(tmp_path: Path, holder: Start, short_lifetime: float) -> None:
    folder = tmp_path / "run"
    owner = holder(folder)
    owner.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not replace(Process(), pid=owner.pid).is_stopped():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert take_over(folder, 20) > short_lifetime / 2


@pytest.mark.parametrize("user", ["the same", "another"])
def test_a_hidden_process_is_judged_by_its_heartbeat_while_it_exists(
    user: str, tmp_path: Path, holder: Start, short_lifetime: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid=2, /proc has only one user's processes. Heartbeats come later than this process waits for."""
    folder = tmp_path / "run"
    owner = holder(folder)
    process = Process.from_json((folder / "1").read_text())
    assert process is not None
    read, kill = locks._read, os.kill

    def read_visible(path: str) -> str:
        return "" if path.startswith(f"/proc/{owner.pid}/") else read(path)

    def check_only(process: int, number: int) -> None:
        kill(process, number)
        if user == "another":
            raise PermissionError

    monkeypatch.setattr(locks, "_read", read_visible)
    monkeypatch.setattr(os, "kill", check_only)
    assert_locked(folder, f"process {owner.pid} on {Process().host}")
    assert take_over(folder, PATIENCE_SECONDS) > short_lifetime / 2
    monkeypatch.setattr(locks, "LIFETIME_SECONDS", 10 * PATIENCE_SECONDS)
    write_token(folder, 99, process)
    assert_locked(folder, str(process))
    kill(owner.pid, signal.SIGKILL)
    owner.wait()
    with run_lock(folder, "run x") as ownership:  # at once
        assert ownership.number == 100


def test_a_live_process_without_heartbeats_keeps_its_lock(tmp_path: Path, holder: Start, short_lifetime: float) -> None:
    """Its heartbeats come every 15 s, which is later than this process waits for."""
    owner = holder(tmp_path / "run")
    with pytest.raises(RunLockedError, match=f"process {owner.pid} "):
        take_over(tmp_path / "run", 3 * short_lifetime)


def can_unshare() -> bool:
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", "--mount-proc", "true"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="PID namespaces cannot be created here")
def test_a_holder_in_another_pid_namespace_is_alive(tmp_path: Path, holder: Start, short_lifetime: float) -> None:
    """Its pid is that of another process here, or of none."""
    folder = tmp_path / "run"
    process = holder(folder, "unshare", "--pid", "--fork", "--mount-proc")
    named = json.loads((folder / "1").read_text())
    assert named["namespace"] != Process().namespace
    assert named["pid"] < process.pid
    assert_locked(folder, f"process {named['pid']} on {named['host']}")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert take_over(folder, 20) > short_lifetime / 2


def test_a_superseded_owner_is_told_at_its_next_check(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with run_lock(folder, "run x") as ownership:
        ownership.check()
        write_token(folder, 2, replace(Process(), host="node", pid=5))
        with pytest.raises(RunTakenOverError, match="process 5 on node"):
            ownership.check()
        assert ownership.is_lost
    assert json.loads((folder / "2").read_text())["host"] == "node"


@pytest.mark.usefixtures("short_lifetime")
def test_a_heartbeat_changes_the_token_and_notices_a_takeover(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with run_lock(folder, "run x") as ownership:
        first = (folder / "1").stat().st_mtime_ns
        wait_until(lambda: (folder / "1").stat().st_mtime_ns > first)
        write_token(folder, 2, Process())
        wait_until(lambda: ownership.is_lost)


def test_a_lock_that_was_removed_and_made_anew_is_lost(tmp_path: Path) -> None:
    """The new token has the same number. It is not emptied by the first owner."""
    with run_lock(tmp_path / "run", "run x") as first:
        shutil.rmtree(tmp_path / "run")
        with run_lock(tmp_path / "run", "run x") as second:
            assert first.number == second.number
            with pytest.raises(RunTakenOverError, match=f"process {os.getpid()} "):
                first.check()
            first.release()
            second.check()


def test_a_lock_that_could_not_be_released_is_free_to_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", fail)
        with run_lock(tmp_path / "run", "run x"):
            assert_locked(tmp_path / "run", str(Process()))
    assert (tmp_path / "run" / "1").read_text() != ""
    assert lock_owner(tmp_path / "run") is None
    with run_lock(tmp_path / "run", "run x") as ownership:
        assert ownership.number == 2


def test_a_folder_that_vanishes_before_the_token_is_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, attempts = locks._acquire, []

    def acquire_late(folder: Path, name: str) -> locks.Ownership | None:
        attempts.append(folder)
        assert len(attempts) < 3
        if len(attempts) == 1:
            folder.rmdir()
        return acquire(folder, name)

    monkeypatch.setattr(locks, "_acquire", acquire_late)
    with run_lock(tmp_path / "run", "run x"):
        assert lock_owner(tmp_path / "run") == str(Process())


def test_a_folder_that_vanishes_after_the_token_is_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, attempts = os.link, []

    def link_and_remove_once(source: Path, target: Path, **options: bool) -> None:
        link(source, target, **options)
        attempts.append(target)
        if len(attempts) == 1:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(os, "link", link_and_remove_once)
    with run_lock(tmp_path / "run", "run x"):
        assert lock_owner(tmp_path / "run") == str(Process())
    assert len(attempts) == 2


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named_with_the_remedy(code: int, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with (
        pytest.raises(InputError, match=r"without hard links.*set runs to"),
        run_lock(tmp_path / "x", "run x"),
    ):
        pytest.fail("held without a token")
    assert not list((tmp_path / "x").iterdir())


def test_a_lock_that_is_damaged_ends_no_report(tmp_path: Path, short_lifetime: float, monkeypatch) -> None:
    file, with_folder = tmp_path / "file", tmp_path / "with folder"
    file.write_text("")
    (with_folder / "1").mkdir(parents=True)
    assert lock_owner(file) is None
    refusal = r"file is where the folder of a lock belongs .*move it away"
    with pytest.raises(InputError, match=refusal), run_lock(file, "run x"):
        pytest.fail("held without a token")
    assert_locked(with_folder, "another process")
    assert take_over(with_folder, 20) > short_lifetime / 2

    def fail(_: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "iterdir", fail)
    assert lock_owner(tmp_path) == f"a process that cannot be determined ({tmp_path}: Stale file handle)"


def test_the_name_of_a_process_may_be_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Process().started
    stat = tmp_path / "stat"
    stat.write_bytes(Path("/proc/self/stat").read_bytes().replace(b"(", b"(caf\xc3", 1))
    monkeypatch.setattr(locks, "Path", lambda path: stat if path == "/proc/self/stat" else Path(path))
    assert Process().started == started != ""


def test_a_lock_that_was_removed_is_lost(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run", "run x") as ownership:
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(RunTakenOverError):
            ownership.check()


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"pid": "x"}', "[" * 100_000, "\0"])
def test_a_token_that_names_no_process_expires(text: str, tmp_path: Path, short_lifetime: float) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "1").write_text(text)
    assert_locked(tmp_path / "run", "another process")
    assert take_over(tmp_path / "run", 20) > short_lifetime / 2


CONTENDER = """
    import os, sys
    from dataclasses import asdict, replace
    from pathlib import Path
    import json
    from wgan_sweep.errors import RunLockedError
    from wgan_sweep.runs.lock import Process, run_lock
    folder, end = Path(sys.argv[1]), int(sys.argv[2])
    inside = folder.with_name("inside")
    taken = 0
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        try:
            with run_lock(folder, "run x") as ownership:
                if ownership.number > end:
                    break
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another process is inside
                ownership.check()
                taken += 1
                inside.unlink()
                # As if this process were killed: the token names a process that is gone, and is not released.
                ownership.release = ownership._stop.set
                (folder / str(ownership.number)).write_text(json.dumps(asdict(replace(Process(), started="1"))))
        except RunLockedError:
            pass
    print(taken)
"""


def contend(tmp_path: Path, processes: int, takeovers: int) -> list[int]:
    """Let processes take a lock over from each other; return how often each one did."""
    command = [sys.executable, "-c", textwrap.dedent(CONTENDER), str(tmp_path / "run"), str(takeovers)]
    contenders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in contenders:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in contenders:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=600) for process in contenders]
    assert [(process.returncode, errors) for process, (_, errors) in zip(contenders, ends, strict=True)] == [
        (0, "")
    ] * processes
    return [int(output) for output, _ in ends]


def test_contended_takeovers_have_one_winner(tmp_path: Path) -> None:
    """Each number is used by one process, and no two processes are inside at a time."""
    assert sum(contend(tmp_path, 3, 60)) == 60


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_a_thousand_contended_takeovers_have_one_winner_each(processes: int, tmp_path: Path) -> None:
    assert sum(contend(tmp_path, processes, 1000)) == 1000
