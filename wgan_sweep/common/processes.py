"""Other processes that work for this one: what they may use, and which signals are not for them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

OF_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that reach a whole group of processes (Ctrl-C, SLURM's warnings): the parent says what they mean."""


def cores_here() -> int:
    """Return how many cores this process may use: what SLURM gave it, or what the system says."""
    if given := os.environ.get("SLURM_CPUS_PER_TASK"):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(*processes: BaseProcess) -> None:
    """Start processes that leave the signals of `OF_THE_PARENT` to this one, from their first moment."""
    with _ignoring(*OF_THE_PARENT):  # which a child inherits
        for process in processes:
            process.start()


@contextmanager
def _ignoring(*signals: signal.Signals) -> Iterator[None]:
    before = {one: signal.signal(one, signal.SIG_IGN) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def ending(process: BaseProcess) -> str:
    """Return how a process that is over has ended."""
    code = process.exitcode or 0
    return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
