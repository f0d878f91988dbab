"""The launcher `parallel`: several runs at once on this machine, each in a worker process."""

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch

from wgan_sweep.common import cores, gpu_memory
from wgan_sweep.common.processes import ChildProcess
from wgan_sweep.common.progress import Display, DisplayRelay, RemoteDisplay
from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.errors import RunLockedError
from wgan_sweep.sweeps.launching import (
    AtLeastOne,
    Outcome,
    RequestedRun,
    ShouldStop,
    complete_run,
    last_end,
    log_to_display,
    record_failure,
    report_deferred,
    run_when_unlocked,
)

SECONDS_BETWEEN_STOP_CHECKS = 0.2
"""How often the launcher checks for Ctrl-C while it waits for the workers."""


@dataclass(frozen=True)
class Slot:
    """The resources of one worker."""

    threads: int
    environment: dict[str, str] = field(default_factory=dict)
    processes_per_gpu: int = 1
    """Number of workers that share each of its GPUs; each gets an equal part of the memory."""


class Parallel:
    """Trains several runs at once on this machine, each in a worker process. A worker that is killed fails one run.

    Args:
        per_gpu: Concurrent runs on each GPU; each gets an equal part of its memory.
        jobs: Concurrent runs if there is no GPU; they divide the CPU cores of this command. None for one per two
            cores, and two on two or three cores.
        gpus_per_run: Number of processes that share each batch of a run, each on a separate GPU.
    """

    device: torch.device | None = None

    def __init__(self, per_gpu: AtLeastOne = 1, jobs: AtLeastOne | None = None, gpus_per_run: AtLeastOne = 1) -> None:
        self._per_gpu, self._jobs, self._gpus_per_run = per_gpu, jobs, gpus_per_run

    def slots(self, requested: Sequence[RequestedRun], num_cores: int) -> list[Slot]:
        """Return the resources of each worker.

        Args:
            requested: The runs; there are at most as many workers.
            num_cores: CPU cores that the workers divide.
        """
        devices = {run.config.device for run in requested}
        if devices <= {"auto", "cuda"} and (count := torch.cuda.device_count()):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
            gpus, size = visible.split(",")[:count], self._gpus_per_run
            groups = [gpus[first : first + size] for first in range(0, count - size + 1, size)]
            environments = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups] * self._per_gpu
        elif any(device.startswith("cuda") for device in devices):
            environments = [{}] * self._per_gpu  # all on the GPU that `device` names
        else:
            cores_per_process = num_cores // self._gpus_per_run
            environments = [{}] * (self._jobs or max(1, min(2, cores_per_process), cores_per_process // 2))
        environments = environments[: len(requested)]
        threads = max(1, num_cores // len(environments)) if environments else 1
        on_gpus = devices != {"cpu"} and torch.cuda.is_available()
        return [
            Slot(threads, environment, environments.count(environment) if on_gpus else 1)
            for environment in environments
        ]

    def __call__(self, requested: Sequence[RequestedRun], display: Display, should_stop: ShouldStop) -> list[Outcome]:
        """Complete the requested runs; return the outcome of each, in the same order."""
        with cores.registered():
            return self._complete_all(requested, display, should_stop)

    def _complete_all(
        self, requested: Sequence[RequestedRun], display: Display, should_stop: ShouldStop
    ) -> list[Outcome]:
        share = cores.core_share()
        slots = self.slots(requested, share.cores)
        if share.others and slots and not cores.user_chose_threads():
            display.line(f"{share}: each run uses {cores.threads(slots[0].threads)}")
        outcomes = [Outcome()] * len(requested)
        queue = deque((index, False) for index in range(len(requested)))
        workers = [_Worker(slot, display) for slot in slots]
        try:
            while True:
                if should_stop():
                    queue.clear()
                    for worker in workers:
                        worker.request_stop()
                for worker in workers:
                    if worker.run_index is None and queue:
                        index, is_deferred = queue.popleft()
                        worker.assign(index, requested[index], wait_for_lock=is_deferred)
                busy = {worker.connection: worker for worker in workers if worker.run_index is not None}
                if not busy:
                    return outcomes
                for ready in wait(list(busy), SECONDS_BETWEEN_STOP_CHECKS):
                    result = busy[cast("Connection", ready)].receive(requested)
                    if result is None:
                        continue
                    index, outcome = result
                    if isinstance(outcome, Outcome):
                        outcomes[index] = outcome
                    else:
                        if len(requested) > 1:
                            report_deferred(requested[index], outcome, display)
                        queue.append((index, True))
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """A process that trains one run at a time, as the launcher sees it. It is replaced if it dies.

    It ends when the launcher's process ends, because that closes the connection.
    """

    def __init__(self, slot: Slot, display: Display) -> None:
        self.run_index: int | None = None
        """The index of the run that it trains."""
        self._is_stopping = False
        self._ended_before: str | None = None
        """When its run had last ended before."""
        self._slot, self._verbosity = slot, display.verbosity
        self._relay = DisplayRelay(display)
        self._child = self._start()

    def _start(self) -> ChildProcess:
        return ChildProcess(_serve, self._slot, self._verbosity)

    @property
    def connection(self) -> Connection:
        """The connection to the process."""
        return self._child.connection

    def assign(self, index: int, run: RequestedRun, *, wait_for_lock: bool) -> None:
        """Send a run to the process."""
        self.run_index, self._ended_before = index, last_end(run)
        with suppress(OSError):  # if the process has died, the next `receive` notices
            self.connection.send((run, wait_for_lock))

    def request_stop(self) -> None:
        """Ask the process, once, to save a checkpoint of its run and end it."""
        was_requested, self._is_stopping = self._is_stopping, True
        if self.run_index is not None and not was_requested:
            with suppress(OSError):
                self.connection.send(None)

    def receive(self, requested: Sequence[RequestedRun]) -> tuple[int, Outcome | RunLockedError] | None:
        """Receive a message: show progress, or return the index of the run with its outcome or the lock's owner."""
        index = self.run_index
        if index is None:
            return None
        try:
            message: tuple[str, tuple[Any, ...]] | Outcome | RunLockedError = self.connection.recv()
        except (EOFError, OSError):
            return index, self._handle_death(requested[index])
        if isinstance(message, tuple):
            self._relay.show(*message)
            return None
        self.run_index = None
        return index, message

    def _handle_death(self, run: RequestedRun) -> Outcome:
        self._child.wait()
        reason = f"its process ended with {self._child.how_it_ended()}"
        if self._child.was_killed:
            reason += "; the machine may be out of memory"
        self._relay.close()
        self.run_index = None
        if self._is_stopping:
            return Outcome()
        self._child = self._start()
        return record_failure(run, reason, self._ended_before)

    def end(self) -> None:
        """End the process. If it is training a run, kill it; the run can be resumed from its last checkpoint."""
        self.connection.close()  # ends a process that waits for a run
        self._child.stop(None if self.run_index is None else 0.0)


def apply_limits(slot: Slot) -> None:
    """Limit this process to the resources of a slot."""
    os.environ.update(slot.environment)
    cores.use_threads(slot.threads)
    gpu_memory.limit_to_share(slot.processes_per_gpu)


def _serve(connection: Connection, slot: Slot, verbosity: Verbosity) -> None:
    """Train the runs that arrive, until the launcher closes the connection."""
    apply_limits(slot)

    def show(name: str, arguments: tuple[Any, ...]) -> None:
        with suppress(OSError):  # the launcher has died: `connection.poll` then tells the run to save and end
            connection.send((name, arguments))

    display = RemoteDisplay(show, verbosity)
    log_to_display(display)
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if message is None:  # a request to stop that arrived after the last run had ended
            continue
        requested, wait_for_lock = message
        train = run_when_unlocked if wait_for_lock else complete_run
        result: Outcome | RunLockedError
        try:
            result = train(requested, display, connection.poll)
        except RunLockedError as owner:
            result = owner
        with suppress(OSError):
            connection.send(result)
