"""How the runs of a sweep are worked on; here, one after another."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from wgan_sweep.common.progress import Display, ProgressReporter
from wgan_sweep.config.schema import Config, run_id
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import Record, Status
from wgan_sweep.runs.driver import record_lost_process, run
from wgan_sweep.runs.lock import RunLockedError

log = logging.getLogger("wgan_sweep")

SECONDS_BETWEEN_TRIES = 2.0
"""How often a run that another process is at is tried."""


@dataclass(frozen=True)
class Cell:
    """A run that was asked for."""

    config: Config
    overrides: tuple[str, ...]
    label: str
    """What tells it from the others."""
    group: str | None
    """The sweep."""

    @property
    def run(self) -> str:
        """The run's id."""
        return run_id(self.config)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; nothing where it was interrupted, or not begun."""

    record: Record | None = None
    problem: str | None = None
    """Why it came to nothing, where no record says so."""
    goes_on: bool = False
    """Whether it is worked on elsewhere, which this command does not wait for."""


Stop = Callable[[], bool]
"""Whether to save and leave."""


class Launch(Protocol):
    """A way to work on a sweep's runs."""

    device: torch.device | None
    """Where the runs will compute, where that is not this machine."""

    def __call__(self, cells: Sequence[Cell], display: Display, stop: Stop) -> list[Outcome]:
        """Do all that is left to do of the cells; return what became of each."""


class DisplayHandler(logging.Handler):
    """ProgressReporter what the library says beside the bars."""

    def __init__(self, display: ProgressReporter) -> None:
        super().__init__(logging.INFO)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        self._display.line(record.getMessage())


def log_to_display(display: ProgressReporter) -> None:
    """Let the library's messages be shown."""
    log = logging.getLogger("wgan_sweep")
    log.addHandler(DisplayHandler(display))
    log.setLevel(logging.INFO)


def run_cell(cell: Cell, display: ProgressReporter, stop: Stop) -> Outcome:
    """Do a cell's run; one that turns out impossible is a problem.

    Raises:
        RunLockedError: if another process is at the run.
    """
    try:
        record = run(
            cell.config,
            overrides=list(cell.overrides),
            display=display,
            group=cell.group,
            label=cell.label,
            stop=stop,
        )
    except (InputError, OSError) as error:  # OSError: not even its record could be written
        how = "refused" if isinstance(error, InputError) else "failed"
        problem = f"{how}: {' '.join(cell.overrides)}: {error}"
        display.line(problem)
        return Outcome(problem=problem)
    except KeyboardInterrupt:
        if stop():
            return Outcome()
        raise
    return Outcome(record)


def run_when_unlocked(cell: Cell, display: ProgressReporter, stop: Stop) -> Outcome:
    """Do a cell's run as soon as no other process is at it: what that one has done is not done again."""
    said = ""
    while not stop():
        try:
            return run_cell(cell, display, stop)
        except RunLockedError as held:
            if str(held) != said:
                said = str(held)
                display.line(f"waiting: {held} is at run {cell.label}".rstrip())
            time.sleep(SECONDS_BETWEEN_TRIES)
    return Outcome()


def mark_failed(cell: Cell, reason: str) -> Outcome:
    """Record that the process which was at a cell's run is gone, unless another one is at it by now."""
    record: Record | None = None
    try:
        record = record_lost_process(cell.config, reason, list(cell.overrides), cell.group)
    except (RunLockedError, OSError):  # OSError: nothing can be written there
        log.debug("not recorded: %s: %s", cell.label, reason)
    is_recorded = record is not None and record.status == Status.FAILED
    return Outcome(record, None if is_recorded else f"failed: {' '.join(cell.overrides)}: {reason}")


def report_deferred(cell: Cell, held: RunLockedError, display: ProgressReporter) -> None:
    """Say that another process is at a cell's run, whose turn therefore comes last."""
    display.line(f"{cell.label}: {held} is at this run; the others come first")


class Local:
    """One run after another, in this process; those that another process is at come last.

    Args:
        gpus_per_run: Processes that share each batch of a run, each on a GPU (or on the CPU, where there is none);
            a run's own session starts them.
    """

    device: torch.device | None = None

    def __init__(self, gpus_per_run: int = 1) -> None:
        self.gpus_per_run = gpus_per_run

    def __call__(self, cells: Sequence[Cell], display: Display, stop: Stop) -> list[Outcome]:
        """Do all that is left to do of the cells; return what became of each."""
        outcomes = [Outcome()] * len(cells)
        later = []
        for index, cell in enumerate(cells):
            if stop():
                break
            try:
                outcomes[index] = run_cell(cell, display, stop)
            except RunLockedError as held:
                report_deferred(cell, held, display)
                later.append(index)
        for index in later:
            outcomes[index] = run_when_unlocked(cells[index], display, stop)
        return outcomes
