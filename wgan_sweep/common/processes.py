"""Child processes that work for this one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

SIGNALS_FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that a terminal or SLURM sends to a whole process group. Children ignore them; the parent acts on them."""


class ChildProcess:
    """A spawned process, connected to this one by a pipe.

    The child ignores SIGINT, SIGTERM, SIGHUP and SIGUSR2 from its first instruction. When this process closes its end
    of the pipe or dies, `recv` in the child raises EOFError; when the child dies, `recv` in this process raises
    EOFError or another OSError.

    May be created in any thread. If the arguments are larger than the pipe's buffer, this process waits until the child
    reads them or dies; the child imports the main module first. Signals that arrive meanwhile are handled. If a handler
    raises, the child is killed.

    Args:
        target: Function of a module, called in the child with its end of the pipe (a `Connection`) and `arguments`.
        *arguments: Picklable.
        daemon: Whether `multiprocessing` may exit without waiting for the child to finish its work; a daemon cannot
            start processes. Since the child ignores SIGTERM, it must end by itself when the pipe closes, or by `stop`.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any, daemon: bool = False) -> None:
        work = ForkingPickler.dumps((target, arguments))  # what cannot be pickled raises before the child starts
        context = get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.process: BaseProcess = context.Process(target=_run, args=(child_end,), daemon=daemon)
        self._joining = threading.Lock()
        try:
            try:
                with _blocked(*SIGNALS_FOR_THE_PARENT):  # a child inherits blocked signals
                    self.process.start()
            finally:
                child_end.close()  # with a copy open here, the child's death would not close the pipe
            # Not among the arguments of the process: `multiprocessing` holds both ends of the pipe that carries them,
            # so that it would wait without end if the child died before it has read them.
            with suppress(OSError):  # the child has died: the next `recv` or `wait` notices
                self.connection.send_bytes(work)
        except BaseException:
            if self.process.pid is None:
                self.connection.close()
            else:
                self.stop(0.0)
            raise

    def wait(self, patience_seconds: float | None = None) -> int | None:
        """Wait for the child to end; any number of threads may wait for the same child.

        Args:
            patience_seconds: How long to wait; None waits without a limit.

        Returns:
            Its exit code, the negative number of a signal that ended it, or None if it has not ended in time.
        """
        if patience_seconds is not None and not connection.wait([self.process.sentinel], patience_seconds):
            return None
        with self._joining:  # of two threads that join a child at the same time, one would learn no exit code
            self.process.join()
        return self.process.exitcode

    def how_it_ended(self) -> str:
        """Return the exit code or the signal that ended the child. It must have been waited for."""
        code = self.process.exitcode or 0
        return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended the child, as the kernel does if memory is short. It must have been waited for."""
        return self.process.exitcode == -signal.SIGKILL

    def stop(self, patience_seconds: float | None) -> None:
        """Wait for the child to end, kill it when the time is up, and close the connection.

        Args:
            patience_seconds: How long to wait before killing it; None waits without a limit. If the child runs until
                its connection closes, close `connection` before this call.
        """
        if self.wait(patience_seconds) is None:
            self.process.kill()
            self.wait()
        self.connection.close()


def _run(connection: Connection) -> None:
    """Receive and do the work of a child."""
    for number in SIGNALS_FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)  # also discards those that arrived while they were blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_FOR_THE_PARENT)
    try:
        work = connection.recv_bytes()
    except (EOFError, OSError):  # the parent has died, or could not send it
        return
    target, arguments = ForkingPickler.loads(work)
    target(connection, *arguments)


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Block signals in this thread. Those that arrive for this thread are handled at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        # multiprocessing would start its resource tracker with the first child, and then unblock signals here. Started
        # now, it inherits those that are blocked: SIGHUP and SIGUSR2 do not end it.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
