"""Child processes: messages, signals, and how they end."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest

from wgan_sweep.common.processes import SIGNALS_FOR_THE_PARENT, ChildProcess


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


def test_a_child_answers_until_its_connection_closes() -> None:
    child = ChildProcess(echo_until_closed, "re: ")
    assert child.connection.recv() == "ready"
    child.connection.send("hello")
    assert child.connection.recv() == "re: hello"
    child.connection.close()
    child.stop(None)
    assert child.how_it_ended() == "exit code 0"


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


@pytest.mark.parametrize("daemon", [False, True])
def test_the_death_of_a_child_ends_the_connection(daemon: bool) -> None:
    child = ChildProcess(exit_with_code_3, daemon=daemon)
    with pytest.raises(EOFError):
        child.connection.recv()
    child.stop(10)
    assert child.how_it_ended() == "exit code 3"


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
