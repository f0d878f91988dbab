"""Several runs at once on one machine: a process for each share of it, whose end is no other's."""

import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch

from wgan_sweep.common import gpu_memory
from wgan_sweep.common.processes import cores_here, ending, start
from wgan_sweep.common.progress import Display, DisplayRelay, RemoteDisplay
from wgan_sweep.errors import InputError
from wgan_sweep.runs.lock import RunLockedError
from wgan_sweep.sweeps.local import (
    Cell,
    Outcome,
    Stop,
    log_to_display,
    mark_failed,
    report_deferred,
    run_cell,
    run_when_unlocked,
)

SECONDS_BETWEEN_LOOKS = 0.2
"""How often Ctrl-C is looked for while other processes work."""


@dataclass(frozen=True)
class Slot:
    """What one of several processes may use."""

    threads: int
    environment: dict[str, str] = field(default_factory=dict)
    sharing: int = 1
    """Processes that share each of its GPUs, and divide the memory."""


class Parallel:
    """Several runs at once on this machine, in processes of their own: one that is killed takes no other with it.

    Args:
        per_gpu: Runs at once on each GPU, among which its memory is divided in equal parts.
        jobs: Runs at once where there is no GPU, among which the cores are divided; null for one per two cores.
        gpus_per_run: Processes that share each batch of a run, each on a GPU of its own.

    Raises:
        InputError: for a number below 1.
    """

    device: torch.device | None = None

    def __init__(self, per_gpu: int = 1, jobs: int | None = None, gpus_per_run: int = 1) -> None:
        if per_gpu < 1 or (jobs is not None and jobs < 1):
            raise InputError(f"launch.per_gpu and launch.jobs must be 1 or more, got {per_gpu} and {jobs}")
        self._per_gpu, self._jobs, self._gpus_per_run = per_gpu, jobs, gpus_per_run

    def slots(self, cells: Sequence[Cell]) -> list[Slot]:
        """Return what each process may use, for as many as there is work for."""
        cores = cores_here()
        devices = {cell.config.device for cell in cells}
        if devices <= {"auto", "cuda"} and (count := torch.cuda.device_count()):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
            names, each = visible.split(",")[:count], self._gpus_per_run
            shares = [names[first : first + each] for first in range(0, count - each + 1, each)]
            gpus = [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares] * self._per_gpu
        elif any(device.startswith("cuda") for device in devices):
            gpus = [{}] * self._per_gpu  # on the GPU that was named
        else:
            gpus = [{}] * (self._jobs or max(1, cores // (2 * self._gpus_per_run)))
        gpus = gpus[: len(cells)]
        on_gpus = devices != {"cpu"} and torch.cuda.is_available()
        return [Slot(max(1, cores // len(gpus)), one, gpus.count(one) if on_gpus else 1) for one in gpus]

    def __call__(self, cells: Sequence[Cell], display: Display, stop: Stop) -> list[Outcome]:
        """Do all that is left to do of the cells; return what became of each."""
        outcomes = [Outcome()] * len(cells)
        left = deque((index, False) for index in range(len(cells)))
        workers = [_Worker(slot, display) for slot in self.slots(cells)]
        try:
            while True:
                if stop():
                    left.clear()
                    for worker in workers:
                        worker.ask_to_stop()
                for worker in workers:
                    if worker.at is None and left:
                        index, last = left.popleft()
                        worker.give(index, cells[index], wait_for_it=last)
                busy = {worker.connection: worker for worker in workers if worker.at is not None}
                if not busy:
                    return outcomes
                for ready in wait(list(busy), SECONDS_BETWEEN_LOOKS):
                    found = busy[cast("Connection", ready)].hear(cells)
                    if found is None:
                        continue
                    index, outcome = found
                    if isinstance(outcome, Outcome):
                        outcomes[index] = outcome
                    else:
                        report_deferred(cells[index], outcome, display)
                        left.append((index, True))
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """A process that works on one cell at a time; a new one where it dies.

    It ends with this one, however this one ends: the other end of its connection is then closed.
    """

    def __init__(self, slot: Slot, display: Display) -> None:
        self.at: int | None = None
        self._stopping = False
        self._slot = slot
        self._relay = DisplayRelay(display)
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, self._slot))
        start(self._process)
        theirs.close()

    def give(self, index: int, cell: Cell, *, wait_for_it: bool) -> None:
        """Hand over a cell."""
        self.at = index
        try:
            self.connection.send((cell, wait_for_it))
        except OSError:  # it is gone: heard of at the next `hear`
            return

    def ask_to_stop(self) -> None:
        """Let the run at work save and end; once is enough."""
        was_asked, self._stopping = self._stopping, True
        if self.at is not None and not was_asked:
            with suppress(OSError):
                self.connection.send(None)

    def hear(self, cells: Sequence[Cell]) -> tuple[int, Outcome | RunLockedError] | None:
        """Take what it sent: something to show, or a cell's number and outcome."""
        index = self.at
        if index is None:
            return None
        try:
            message: tuple[str, tuple[Any, ...]] | Outcome | RunLockedError = self.connection.recv()
        except (EOFError, OSError):
            return index, self._died(cells[index])
        if isinstance(message, tuple):
            self._relay.show(*message)
            return None
        self.at = None
        return index, message

    def _died(self, cell: Cell) -> Outcome:
        self._process.join()
        reason = f"its process ended with {ending(self._process)}; the machine may be out of memory"
        self._relay.close()
        self.at = None
        if self._stopping:
            return Outcome()
        self._start()
        return mark_failed(cell, reason)

    def end(self) -> None:
        """End the process; a run at work goes on from its last checkpoint next time."""
        self.connection.close()
        if self.at is not None:
            self._process.kill()
        self._process.join()


def apply_limits(slot: Slot) -> None:
    """Let this process use what it may."""
    os.environ.update(slot.environment)
    torch.set_num_threads(slot.threads)
    gpu_memory.divide(slot.sharing)


def _serve(connection: Connection, slot: Slot) -> None:
    """Work on what comes, until there is nobody to work for."""
    apply_limits(slot)

    def show(name: str, arguments: tuple[Any, ...]) -> None:
        with suppress(OSError):  # nobody is there to see it: `connection.poll` tells the run to save and end
            connection.send((name, arguments))

    display = RemoteDisplay(show)
    log_to_display(display)
    while True:
        try:
            given = connection.recv()
        except EOFError:
            return
        if given is None:  # asked to stop after the last run had ended
            continue
        cell, wait_for_it = given
        found: Outcome | RunLockedError
        try:
            found = (run_when_unlocked if wait_for_it else run_cell)(cell, display, connection.poll)
        except RunLockedError as held:
            found = held
        with suppress(OSError):
            connection.send(found)
