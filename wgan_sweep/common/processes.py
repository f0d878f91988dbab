"""Child processes that work for this one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import Any

SIGNALS_FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that a terminal or SLURM sends to a whole process group. Children ignore them; the parent acts on them."""


class ChildProcess:
    """A spawned process, connected to this one by a pipe.

    The child ignores SIGINT, SIGTERM, SIGHUP and SIGUSR2 from its first instruction. When this process closes its end
    of the pipe or dies, `recv` in the child raises EOFError; when the child dies, `recv` in this process raises
    EOFError or another OSError.

    Must be created in the main thread, because signal handlers can be set only there.

    Args:
        target: Function of a module, called in the child with its end of the pipe (a `Connection`) and `arguments`.
        *arguments: Picklable.
        daemon: Whether `multiprocessing` may exit without waiting for the child to finish its work; a daemon cannot
            start processes. Since the child ignores SIGTERM, it must end by itself when the pipe closes, or by `stop`.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any, daemon: bool = False) -> None:
        context = get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.process: BaseProcess = context.Process(target=target, args=(child_end, *arguments), daemon=daemon)
        self._joining = threading.Lock()
        try:
            with _ignored(*SIGNALS_FOR_THE_PARENT):  # a child inherits ignored signals
                self.process.start()
        finally:
            child_end.close()  # with a copy open here, the child's death would not close the pipe

    def wait(self, patience_seconds: float | None = None) -> int | None:
        """Wait for the child to end; any number of threads may wait for the same child.

        Args:
            patience_seconds: How long to wait; None waits without a limit.

        Returns:
            Its exit code, the negative number of a signal that ended it, or None if it has not ended in time.
        """
        if patience_seconds is not None and not connection.wait([self.process.sentinel], patience_seconds):
            return None
        with self._joining:  # a second thread that joins a child at the same time is told that it still runs
            self.process.join()
        return self.process.exitcode

    def how_it_ended(self) -> str:
        """Return the exit code or the signal that ended the child. It must have been waited for."""
        code = self.process.exitcode or 0
        return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"

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


@contextmanager
def _ignored(*signals: signal.Signals) -> Iterator[None]:
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
