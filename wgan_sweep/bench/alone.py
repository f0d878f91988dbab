"""Iterations in processes of their own: what the first costs, the memory that it takes, and several at once."""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch

from wgan_sweep.bench.ways import Subject, Way, ours

WARM_UP = 5
"""Iterations before any are timed: a GPU's graph is made in the fourth."""


def settle(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib() -> float:
    """Return the most memory that this process has ever held."""
    if (status := Path("/proc/self/status")).exists():  # a child's rusage begins with its parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def _processes(count: int, work: Any, *arguments: Any) -> Iterator[list[Connection]]:
    """Have so many processes call `work` with a connection, a share of the cores, and the arguments."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // count)
    pipes = [context.Pipe() for _ in range(count)]
    started = [context.Process(target=work, args=(theirs, threads, *arguments)) for _, theirs in pipes]
    for process, (_, theirs) in zip(started, pipes, strict=True):
        process.start()
        theirs.close()  # so that one that dies is heard of
    try:
        yield [ours for ours, _ in pipes]
    finally:
        for process, (ours, _) in zip(started, pipes, strict=True):
            ours.close()  # which ends one that waits
            process.join()


def _first(connection: Connection, threads: int, subject: Subject, device: torch.device, way: Way, how: str) -> None:
    torch.set_num_threads(threads)
    settle(device)
    began = time.perf_counter()
    steps = way(subject, device, how)
    next(steps)
    settle(device)
    seconds = time.perf_counter() - began
    for _ in range(WARM_UP):
        next(steps)
    settle(device)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib()
    connection.send((seconds, peak))


def first_and_peak(subject: Subject, device: torch.device, way: Way, arithmetic: str) -> tuple[float, float]:
    """Return (seconds to the end of the first iteration, peak MiB of the GPU or of the process), by a new process."""
    with _processes(1, _first, subject, device, way, arithmetic) as (one,):
        found: tuple[float, float] = one.recv()
    return found


def _asked(connection: Connection) -> int:
    try:
        count: int = connection.recv()
    except EOFError:  # nobody is there to ask
        return 0
    return count


def _at_once(connection: Connection, threads: int, subject: Subject, device: torch.device, how: str) -> None:
    torch.set_num_threads(threads)
    steps = ours(subject, device, how)
    for _ in range(WARM_UP):
        next(steps)
    settle(device)
    connection.send("ready")
    while count := _asked(connection):
        began = time.perf_counter()
        for _ in range(count):
            next(steps)
        settle(device)
        connection.send(time.perf_counter() - began)


class Processes:
    """Several runs at once, each in a process of its own; cores are divided among them."""

    def __init__(self, runs: int, subject: Subject, device: torch.device, arithmetic: str) -> None:
        self._context = _processes(runs, _at_once, subject, device, arithmetic)

    def __enter__(self) -> Self:
        with ExitStack() as unwound:
            self._connections = unwound.enter_context(self._context)
            for connection in self._connections:
                connection.recv()
            self._started = unwound.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    def iterations_per_second(self, count: int) -> float:
        """Return those of all runs together, each of which does `count`."""
        for connection in self._connections:
            connection.send(count)
        seconds: list[float] = [connection.recv() for connection in self._connections]
        return len(seconds) * count / max(seconds)


class Turns:
    """Several runs by turns in this process; on a GPU each has a stream, so that they may overlap there."""

    def __init__(self, runs: int, subject: Subject, device: torch.device, arithmetic: str) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(runs)] if device.type == "cuda" else [None] * runs
        self._runs = [ours(subject, device, arithmetic) for _ in range(runs)]

    def __enter__(self) -> Self:
        self.iterations_per_second(WARM_UP)
        return self

    def __exit__(self, *error: object) -> None:
        self._runs.clear()

    def iterations_per_second(self, count: int) -> float:
        """Return those of all runs together, each of which does `count`."""
        settle(self._device)
        began = time.perf_counter()
        for _ in range(count):
            for stream, steps in zip(self._streams, self._runs, strict=True):
                with nullcontext() if stream is None else torch.cuda.stream(stream):
                    next(steps)
        settle(self._device)
        return len(self._runs) * count / (time.perf_counter() - began)


@dataclass(frozen=True)
class AtOnce:
    """What several runs at once get done."""

    runs: int
    way: str
    iterations_per_second: float
    """Of all together: the median."""
    ratio: float
    """To a single run's: the median over the turns, each with its own."""


def at_once(
    subject: Subject, device: torch.device, arithmetic: str, counts: Sequence[int], repeats: int, count: int
) -> Iterator[AtOnce]:
    """Yield what `counts` runs at once do, in processes and by turns in this one; all take turns."""
    kinds: dict[str, type[Processes | Turns]] = {"processes": Processes, "one process": Turns}
    with ExitStack() as stack:
        sides = {
            (runs, name): kind(runs, subject, device, arithmetic)
            for runs in (1, *counts)
            for name, kind in kinds.items()
            if runs > 1 or kind is Processes
        }
        for side in sides.values():
            stack.enter_context(side)
        rates: dict[tuple[int, str], list[float]] = {which: [] for which in sides}
        for _ in range(repeats):
            for which, side in sides.items():
                rates[which].append(side.iterations_per_second(count))
    single = next(iter(rates.values()))
    for (runs, name), found in rates.items():
        ratio = statistics.median(one / alone for one, alone in zip(found, single, strict=True))
        yield AtOnce(runs, name, statistics.median(found), ratio)
