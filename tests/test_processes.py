"""Child processes: messages, signals, and how they end."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from wgan_sweep.common import processes
from wgan_sweep.common.processes import SIGNALS_FOR_THE_PARENT, ChildProcess

from .helpers import PATIENCE_SECONDS

LARGE = bytes(3_000_000)
"""More than fits into the buffer of a pipe."""


def echo_until_closed(connection: Connection, prefix: str) -> None:
    connection.send("ready")
    while True:
        try:
            connection.send(prefix + connection.recv())
        except EOFError:
            return


def sleep_forever(connection: Connection) -> None:
    connection.send("ready")
    while True:
        time.sleep(1)


def exit_with_code_3(connection: Connection) -> None:
    raise SystemExit(3)


def in_this_thread(create: Callable[[], ChildProcess]) -> ChildProcess:
    return create()


def in_another_thread(create: Callable[[], ChildProcess]) -> ChildProcess:
    """Create a child in a thread; fail if that does not end, or raises."""
    created: list[ChildProcess] = []
    thread = threading.Thread(target=lambda: created.append(create()), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    (child,) = created
    return child


@pytest.mark.integration
@pytest.mark.parametrize("created", [in_this_thread, in_another_thread])
def test_a_child_answers_until_its_connection_closes(
    created: Callable[[Callable[[], ChildProcess]], ChildProcess],
) -> None:
    child = created(lambda: ChildProcess(echo_until_closed, "re: "))
    assert child.connection.recv() == "ready"
    child.connection.send("hello")
    assert child.connection.recv() == "re: hello"
    child.connection.close()
    child.stop(PATIENCE_SECONDS)
    assert child.how_it_ended() == "exit code 0"


@pytest.mark.integration
def test_a_child_ignores_signals_that_are_for_its_parent() -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS_FOR_THE_PARENT]
    child = ChildProcess(echo_until_closed, "")
    assert [signal.getsignal(number) for number in SIGNALS_FOR_THE_PARENT] == handlers
    assert child.process.pid is not None
    for number in SIGNALS_FOR_THE_PARENT:  # sent while it starts, too
        os.kill(child.process.pid, number)
    assert child.connection.recv() == "ready"
    for number in SIGNALS_FOR_THE_PARENT:
        os.kill(child.process.pid, number)
    child.connection.send("still here")
    assert child.connection.recv() == "still here"
    child.connection.close()
    child.stop(None)
    assert child.how_it_ended() == "exit code 0"


def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    child = ChildProcess(sleep_forever)
    assert child.connection.recv() == "ready"
    child.stop(0.1)
    assert child.how_it_ended() == "signal 9 (SIGKILL)"
    assert child.connection.closed


@pytest.mark.integration
@pytest.mark.parametrize("daemon", [False, True])
def test_the_death_of_a_child_ends_the_connection(daemon: bool) -> None:
    child = ChildProcess(exit_with_code_3, daemon=daemon)
    with pytest.raises(EOFError):
        child.connection.recv()
    child.stop(10)
    assert child.how_it_ended() == "exit code 3"


@pytest.mark.integration
def test_several_threads_that_wait_for_a_child_all_learn_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    waitpid = os.waitpid

    def slow_waitpid(process: int, options: int) -> tuple[int, int]:
        result = waitpid(process, options)
        time.sleep(0.1)  # the child is gone, and its exit code not yet known to the other threads
        return result

    child = ChildProcess(exit_with_code_3)
    monkeypatch.setattr(os, "waitpid", slow_waitpid)
    with ThreadPoolExecutor(4) as threads:
        codes = list(threads.map(child.wait, [10.0] * 4))
    assert codes == [3] * 4
    child.stop(None)


def test_a_child_that_still_runs_has_no_exit_code() -> None:
    child = ChildProcess(sleep_forever)
    assert child.wait(0.0) is None
    child.stop(0.0)
    assert child.wait(0.0) == -signal.SIGKILL


def blocked_signals() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that were handled in this process, in order."""
    numbers: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS_FOR_THE_PARENT}
    for number in SIGNALS_FOR_THE_PARENT:
        signal.signal(number, lambda arrived, _: numbers.append(arrived))
    yield numbers
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.integration
def test_signals_that_arrive_while_a_child_starts_are_handled_here_and_ignored_there(
    monkeypatch: pytest.MonkeyPatch, received: list[int]
) -> None:
    resource_tracker.ensure_running()  # now, so that the child is the only process that starts
    spawn = util.spawnv_passfds

    def spawn_among_signals(*arguments: object) -> int:
        child = spawn(*arguments)
        for process in (os.getpid(), child):
            for number in SIGNALS_FOR_THE_PARENT:
                os.kill(process, number)
        return child

    monkeypatch.setattr(util, "spawnv_passfds", spawn_among_signals)
    before = blocked_signals()
    child = ChildProcess(echo_until_closed, "")
    assert blocked_signals() == before
    assert child.connection.recv() == "ready"
    child.connection.close()
    child.stop(PATIENCE_SECONDS)
    assert child.how_it_ended() == "exit code 0"
    assert sorted(received) == sorted(SIGNALS_FOR_THE_PARENT)


def send_blocked_signals(connection: Connection) -> None:
    connection.send(blocked_signals())


@pytest.mark.integration
def test_no_signals_are_blocked_in_a_child() -> None:
    child = ChildProcess(send_blocked_signals)
    assert child.connection.recv() == blocked_signals()
    child.stop(PATIENCE_SECONDS)


def send_size(connection: Connection, data: bytes) -> None:
    connection.send(len(data))


@pytest.mark.integration
def test_a_child_receives_large_arguments() -> None:
    child = ChildProcess(send_size, LARGE)
    assert child.connection.recv() == len(LARGE)
    child.stop(PATIENCE_SECONDS)


class EndsWhenUnpickled:
    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (7,)


def die_before_reading(connection: Connection) -> None:
    os._exit(7)


@pytest.mark.integration
@pytest.mark.parametrize("moment", ["before it reads its arguments", "while it unpickles them"])
def test_a_child_that_dies_before_its_work_does_not_block_this_process(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """In a thread, because a wait that blocks signals could not be ended otherwise."""
    if moment == "before it reads its arguments":
        monkeypatch.setattr(processes, "_run", die_before_reading)
    child = in_another_thread(lambda: ChildProcess(send_size, LARGE, EndsWhenUnpickled()))
    with pytest.raises((EOFError, OSError)):
        child.connection.recv()
    child.stop(PATIENCE_SECONDS)
    assert child.how_it_ended() == "exit code 7"


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_an_interrupt_while_the_child_does_not_read_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    resource_tracker.ensure_running()
    others = children()
    monkeypatch.setattr(processes, "_run", sleep_forever)

    def interrupt() -> None:
        """Send Ctrl-C when the child runs and has not read anything."""
        while len(children() - others) == 0:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        ChildProcess(send_size, LARGE)
    thread.join()
    assert children() == others
    assert multiprocessing.active_children() == []


def test_arguments_that_cannot_be_pickled_raise_and_start_no_child() -> None:
    resource_tracker.ensure_running()
    others = children()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        ChildProcess(send_size, lambda: None)
    assert children() == others


TRACKER = """
    import os, signal
    from multiprocessing import resource_tracker
    from wgan_sweep.common.processes import SIGNALS_FOR_THE_PARENT, ChildProcess
    ChildProcess(id).stop(None)
    tracker = resource_tracker._resource_tracker._pid
    for number in SIGNALS_FOR_THE_PARENT:
        os.kill(tracker, number)
    os.kill(tracker, signal.SIGSTOP)  # handled after the others
    _, status = os.waitpid(tracker, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    os.kill(tracker, signal.SIGCONT)
"""


def test_signals_for_the_parent_do_not_end_the_resource_tracker() -> None:
    command = [sys.executable, "-c", textwrap.dedent(TRACKER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
