"""Measurements in new processes: the first iteration, peak memory, and throughput of concurrent runs."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch

from wgan_sweep.bench.implementations import Implementation, ours
from wgan_sweep.bench.workloads import Workload
from wgan_sweep.common.processes import ChildProcess

WARM_UP = 5
"""Untimed iterations before a measurement. On a GPU, the fourth captures the CUDA graph."""
STOP_SECONDS = 10.0
"""Time for a child process to exit once its pipe is closed, before it is killed."""


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib() -> float:
    """Return the peak resident memory of this process, in MiB."""
    if (status := Path("/proc/self/status")).exists():  # a child's rusage starts at its parent's peak
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def _child_processes(count: int, target: Callable[..., None], *arguments: Any) -> Iterator[list[Connection]]:
    """Start processes that call ``target(connection, threads, *arguments)``, with the CPU threads shared equally."""
    threads = max(1, torch.get_num_threads() // count)
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            child = ChildProcess(target, threads, *arguments)
            stack.callback(child.stop, STOP_SECONDS)
            stack.callback(child.connection.close)  # ends a child that waits for a request
            connections.append(child.connection)
        yield connections


def _run_first_iteration(
    connection: Connection,
    threads: int,
    workload: Workload,
    device: torch.device,
    implementation: Implementation,
    precision_name: str,
) -> None:
    torch.set_num_threads(threads)
    synchronize(device)
    start = time.perf_counter()
    steps = implementation(workload, device, precision_name)
    next(steps)
    synchronize(device)
    seconds = time.perf_counter() - start
    for _ in range(WARM_UP):
        next(steps)
    synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib()
    connection.send((seconds, peak))


def first_iteration_and_peak(
    workload: Workload, device: torch.device, implementation: Implementation, precision_name: str
) -> tuple[float, float]:
    """Train in a new process.

    Returns:
        Seconds from building the networks to the end of the first iteration, and the peak memory in MiB (allocated
        on the GPU, or resident in the process on a CPU).
    """
    arguments = (workload, device, implementation, precision_name)
    with _child_processes(1, _run_first_iteration, *arguments) as (connection,):
        seconds_and_peak: tuple[float, float] = connection.recv()
    return seconds_and_peak


def _next_request(connection: Connection) -> int:
    """Return the requested number of iterations, or 0 when the parent has closed the pipe."""
    try:
        count: int = connection.recv()
    except EOFError:
        return 0
    return count


def _serve_iterations(
    connection: Connection, threads: int, workload: Workload, device: torch.device, precision_name: str
) -> None:
    torch.set_num_threads(threads)
    steps = ours(workload, device, precision_name)
    for _ in range(WARM_UP):
        next(steps)
    synchronize(device)
    connection.send("ready")
    while count := _next_request(connection):
        start = time.perf_counter()
        for _ in range(count):
            next(steps)
        synchronize(device)
        connection.send(time.perf_counter() - start)


class SeparateProcesses:
    """Concurrent runs, one process each; the CPU threads are shared equally."""

    def __init__(self, runs: int, workload: Workload, device: torch.device, precision_name: str) -> None:
        self._context = _child_processes(runs, _serve_iterations, workload, device, precision_name)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._connections = stack.enter_context(self._context)
            for connection in self._connections:
                connection.recv()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def iterations_per_second(self, count: int) -> float:
        """Run `count` iterations of every run and return the total throughput."""
        for connection in self._connections:
            connection.send(count)
        seconds: list[float] = [connection.recv() for connection in self._connections]
        return len(seconds) * count / max(seconds)


class SharedProcess:
    """Interleaved runs in this process. On a GPU, each has a CUDA stream, so that their kernels can overlap."""

    def __init__(self, runs: int, workload: Workload, device: torch.device, precision_name: str) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(runs)] if device.type == "cuda" else [None] * runs
        self._runs = [ours(workload, device, precision_name) for _ in range(runs)]

    def __enter__(self) -> Self:
        self.iterations_per_second(WARM_UP)
        return self

    def __exit__(self, *error: object) -> None:
        self._runs.clear()

    def iterations_per_second(self, count: int) -> float:
        """Run `count` iterations of every run and return the total throughput."""
        synchronize(self._device)
        start = time.perf_counter()
        for _ in range(count):
            for stream, steps in zip(self._streams, self._runs, strict=True):
                with nullcontext() if stream is None else torch.cuda.stream(stream):
                    next(steps)
        synchronize(self._device)
        return len(self._runs) * count / (time.perf_counter() - start)


@dataclass(frozen=True)
class Throughput:
    """Throughput of concurrent runs."""

    runs: int
    mode: str
    """``processes`` (one per run) or ``one process`` (interleaved)."""
    iterations_per_second: float
    """Total over the runs; median over the repeats."""
    ratio: float
    """Relative to a single run: the median of the ratios within each repeat."""


def concurrent_throughput(
    workload: Workload, device: torch.device, precision_name: str, counts: Sequence[int], repeats: int, count: int
) -> Iterator[Throughput]:
    """Yield the throughput of one run, and of each number of runs in `counts`, in both modes.

    The candidates are measured alternately: each repeat measures all of them once.

    Args:
        workload: What each run trains.
        device: Where all runs train.
        precision_name: Precision of all runs.
        counts: Numbers of concurrent runs.
        repeats: Measurements of each candidate.
        count: Iterations of each run per measurement.
    """
    modes: dict[str, type[SeparateProcesses | SharedProcess]] = {
        "processes": SeparateProcesses,
        "one process": SharedProcess,
    }
    with ExitStack() as stack:
        candidates = {
            (runs, name): mode(runs, workload, device, precision_name)
            for runs in (1, *counts)
            for name, mode in modes.items()
            if runs > 1 or mode is SeparateProcesses
        }
        for candidate in candidates.values():
            stack.enter_context(candidate)
        rates: dict[tuple[int, str], list[float]] = {key: [] for key in candidates}
        for _ in range(repeats):
            for key, candidate in candidates.items():
                rates[key].append(candidate.iterations_per_second(count))
    single_rates = next(iter(rates.values()))
    for (runs, name), values in rates.items():
        ratio = statistics.median(rate / single for rate, single in zip(values, single_rates, strict=True))
        yield Throughput(runs, name, statistics.median(values), ratio)
