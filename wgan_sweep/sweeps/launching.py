"""What all launchers share: the runs that a sweep requests, their outcomes, and training one of them."""

import copy
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Protocol

import torch

from wgan_sweep.common import cores, gpu_memory
from wgan_sweep.common.progress import Display, LabelledDisplay, ProgressReporter
from wgan_sweep.common.ranges import Range
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError, RunLockedError
from wgan_sweep.runs import pruning
from wgan_sweep.runs.build import check_options
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import Identity, identify
from wgan_sweep.runs.life import record_lost_process, run
from wgan_sweep.runs.record import Record, Status

log = logging.getLogger("wgan_sweep")

SECONDS_BETWEEN_ATTEMPTS = 2.0
"""Pause between two attempts to lock a run that another process holds."""


@dataclass(frozen=True)
class RequestedRun:
    """A run that the user requested.

    Raises:
        InputError: if a value has another type or is out of its range, or its training data cannot be read.
    """

    config: Config
    overrides: tuple[str, ...]
    """Its Hydra overrides."""
    label: str
    """The overrides that distinguish it from the other runs of its sweep; of a run that is alone, those that decide its
    result."""
    sweep: str | None
    """The name of its sweep; None for a single run."""

    number: str = field(init=False, default="")
    """Its number in its sweep, as in ``3 of 24``, which begins every line about it; empty for a single run."""
    identity: Identity = field(init=False)
    """The run's identity, as of its request."""
    others: tuple[str, ...] = field(init=False, default=())
    """The ids of the other runs of its sweep, if it competes with them: see `competing`."""

    def __post_init__(self) -> None:
        check_options(self.config)
        object.__setattr__(self, "identity", identify(self.config))

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.identity.run_id

    @property
    def name(self) -> str:
        """Its overrides, or its id if it was not requested by overrides."""
        return " ".join(self.overrides) or self.run_id

    @property
    def title(self) -> str:
        """What it is called beside other runs: its label, or its id if it has none."""
        return self.label or self.run_id

    @property
    def directory(self) -> RunDir:
        """The directory of the run."""
        return self.identity.directory

    def new_record(self) -> Record:
        """Return the record of the run before its start: what reports need to place it."""
        return Record(
            self.run_id,
            overrides=list(self.overrides),
            config=asdict(self.config),
            science=dict(self.identity.science),
            sweep=self.sweep,
        )


def competing(requested: Sequence[RequestedRun], earlier: Sequence[RequestedRun] = ()) -> list[RequestedRun]:
    """Return requested runs; those that a pruner may stop know the other runs of their sweep.

    Args:
        requested: The runs.
        earlier: Runs that the same sweep has requested before.
    """
    run_ids = list(dict.fromkeys(run.run_id for run in [*earlier, *requested]))
    return [
        _with(run, others=tuple(other for other in run_ids if other != run.run_id))
        if pruning.is_on(run.config)
        else run
        for run in requested
    ]


def numbered(requested: Sequence[RequestedRun], earlier: int) -> list[RequestedRun]:
    """Return requested runs with their numbers in a sweep that has requested `earlier` runs before."""
    total = earlier + len(requested)
    return [_with(run, number=f"{number} of {total}") for number, run in enumerate(requested, earlier + 1)]


def _with(run: RequestedRun, **values: object) -> RequestedRun:
    """Return a copy with other values; nothing is checked or identified again."""
    copied = copy.copy(run)
    for name, value in values.items():
        object.__setattr__(copied, name, value)
    return copied


@dataclass(frozen=True)
class Outcome:
    """How a launcher left a requested run. All fields have their defaults if it was interrupted or not started."""

    record: Record | None = None
    problem: str | None = None
    """Why the run was refused or failed, if no record holds the reason."""
    continues: bool = False
    """Whether the run continues in a job that the launcher does not wait for."""


ShouldStop = Callable[[], bool]
"""Tells whether the user asked to stop: runs then save a checkpoint and end."""


class Launcher(Protocol):
    """Decides where and when the runs of a sweep are trained."""

    device: torch.device | None
    """Where the runs will compute, if not on this machine."""

    def __call__(self, requested: Sequence[RequestedRun], display: Display, should_stop: ShouldStop) -> list[Outcome]:
        """Complete the requested runs; return the outcome of each, in the same order."""


AtLeastOne = Annotated[int, Range(1, 100_000)]
"""A setting of a launcher."""


class DisplayHandler(logging.Handler):
    """Shows log messages as lines of a display, so that they do not break its bars."""

    def __init__(self, display: ProgressReporter) -> None:
        super().__init__(display.verbosity.value)
        self.display = display
        """Where they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        self.display.line(record.getMessage(), record.levelno)


def log_to_display(display: ProgressReporter) -> None:
    """Show the log messages of this package on a display, as far as its verbosity says."""
    log.addHandler(DisplayHandler(display))
    log.setLevel(display.verbosity.value)


def labelled(display: ProgressReporter, requested: RequestedRun) -> ProgressReporter:
    """Return a display whose lines begin with the number of a requested run in its sweep, if it is part of one."""
    return LabelledDisplay(display, requested.number) if requested.number else display


@contextmanager
def _logging_to(display: ProgressReporter) -> Iterator[None]:
    """Show log messages on another display inside this context."""
    handlers = [handler for handler in log.handlers if isinstance(handler, DisplayHandler)]
    before = [handler.display for handler in handlers]
    for handler in handlers:
        handler.display = display
    try:
        yield
    finally:
        for handler, earlier in zip(handlers, before, strict=True):
            handler.display = earlier


def complete_run(requested: RequestedRun, display: ProgressReporter, should_stop: ShouldStop) -> Outcome:
    """Complete a requested run in this process. If its input is invalid, the outcome states the problem.

    Raises:
        RunLockedError: if another process holds the run.
    """
    display = labelled(display, requested)
    try:
        with cores.limited_spinning_beside_others(), _logging_to(display):
            log.debug(
                "%s  process %d, %s: %s",
                requested.run_id,
                os.getpid(),
                cores.threads(torch.get_num_threads()),
                " ".join(requested.overrides),
            )
            record = run(
                requested.config,
                overrides=list(requested.overrides),
                display=display,
                group=requested.sweep,
                label=requested.label,
                stop=should_stop,
                identity=requested.identity,
                others=requested.others,
            )
    except (InputError, OSError) as error:  # OSError: not even the record could be written
        status = "refused" if isinstance(error, InputError) else "failed"
        problem = f"{status}: {requested.name}: {error}"
        display.line(problem, logging.ERROR)
        return Outcome(problem=problem)
    except KeyboardInterrupt:
        if should_stop():
            return Outcome()
        raise
    finally:
        gpu_memory.release()
    return Outcome(record)


def run_when_unlocked(requested: RequestedRun, display: ProgressReporter, should_stop: ShouldStop) -> Outcome:
    """Wait until no other process holds a requested run, then complete it."""
    shown_owner = ""
    while not should_stop():
        try:
            return complete_run(requested, display, should_stop)
        except RunLockedError as owner:
            if str(owner) != shown_owner:
                shown_owner = str(owner)
                labelled(display, requested).line(f"waiting: {owner} holds run {requested.title}")
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    return Outcome()


def readable_record(requested: RequestedRun) -> Record | None:
    """Return the record of a requested run; None if there is none, or it cannot be read now."""
    try:
        return requested.directory.read_record()
    except InputError as error:
        log.debug("%s: %s", requested.run_id, error)
        return None


def last_end(requested: RequestedRun) -> str | None:
    """Return when a requested run ended last, by its record; None if it has not ended, or that cannot be read."""
    record = readable_record(requested)
    return None if record is None else record.finished


def record_failure(
    requested: RequestedRun, reason: str, ended_before: str | None, keeps_trying: Callable[[], bool] = lambda: False
) -> Outcome:
    """Record that the process that trained a requested run has died, unless another process holds the run by now.

    Args:
        requested: The run.
        reason: How the process ended.
        ended_before: When the run had last ended before the process was started, as of `last_end`.
        keeps_trying: Whether to try again if another process seems to hold the run: a process of another machine is
            known to be gone only after a while.
    """
    record: Record | None = None
    while True:
        try:
            record = record_lost_process(
                requested.config, requested.identity, reason, list(requested.overrides), requested.sweep, ended_before
            )
        except RunLockedError as owner:
            if keeps_trying():
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)
                continue
            log.debug("not recorded, since %s holds the run: %s: %s", owner, requested.title, reason)
        except (InputError, OSError) as error:  # the record cannot be read or written
            log.debug("not recorded: %s: %s (%s)", requested.title, reason, error)
        break
    is_recorded = record is not None and record.status == Status.FAILED
    return Outcome(record, None if is_recorded else f"failed: {requested.name}: {reason}")


def report_deferred(requested: RequestedRun, owner: RunLockedError, display: ProgressReporter) -> None:
    """Show that another process holds a requested run, which is therefore deferred until the others are complete."""
    labelled(display, requested).line(
        f"{requested.title}: {owner} holds this run; it is deferred until the others are complete"
    )
