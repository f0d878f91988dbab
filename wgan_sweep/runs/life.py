"""Completes a run: checks what is missing, takes the lock, does the work, records the outcome."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wgan_sweep.common.files import check_writable
from wgan_sweep.common.progress import ProgressReporter, RunProgress
from wgan_sweep.common.stopping import stopping_if
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError, RunTakenOverError
from wgan_sweep.runs import mirroring
from wgan_sweep.runs.identity import Identity, identify, run_id
from wgan_sweep.runs.loop import DivergedError, PrunedError, RunLoop
from wgan_sweep.runs.mirroring import make_tracker
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.state import RunState, finished_record
from wgan_sweep.runs.writer import owned_run, remove_leftovers
from wgan_sweep.tracking.tracker import FaultTolerantTracker

log = logging.getLogger("wgan_sweep")

MAX_SUMMARY_SCORES = 4
"""How many metric values a summary shows; the record has all."""


def run(
    config: Config,
    *,
    overrides: list[str],
    display: ProgressReporter,
    group: str | None = None,
    label: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    identity: Identity | None = None,
    others: Sequence[str] = (),
) -> Record:
    """Complete a run: train from its checkpoint, score, and record how it ended.

    Args:
        config: The run's config.
        overrides: The command-line overrides that led to it.
        display: Where progress is shown.
        group: The sweep that the run belongs to.
        label: The run's name on the display, beside its id; the overrides by default.
        stop: Returns whether to save and stop (by a KeyboardInterrupt); asked after every step, and between the parts
            of other long work (see `stopping`).
        identity: The run's identity, as of its request; by default, as of now.
        others: The ids of the other runs of its sweep, with which it competes if the config prunes.

    Returns:
        The run's record. Divergence, failure and pruning are statuses of it, not exceptions.

    Raises:
        InputError: if the config cannot work, if data or user modules have changed since the run was requested, or
            if the run's directory belongs to another run; nothing is written.
        RunLockedError: if another process holds the run; nothing is written. `RunTakenOverError` if another process
            took it over after this one was stopped; nothing is written from then on.
    """
    identity = identity or identify(config)
    directory = identity.directory
    name = f"{identity.run_id} {' '.join(overrides) if label is None else label}".strip()
    with stopping_if(stop), display.run(name, config.train.steps) as progress:
        record = finished_record(identity, config)
        if record is None:
            check_writable(Path(config.runs), "runs")
            with owned_run(directory) as writer:
                record = finished_record(identity, config)  # another process may have finished it just now
                if record is None:
                    began = time.monotonic()
                    loop = _make_loop(config, identity, stop, others)
                    state = RunState.start(writer, identity, config, overrides, group)
                    _work(loop, state, config, progress, began)
                    return state.record
        remove_leftovers(directory)
        progress.summary, progress.level = f"{summary(record)} ({_why_finished(record, config)})", _level_of(record)
        return record


def check_unchanged(config: Config, identity: Identity) -> None:
    """Check that a config still identifies the run that was requested.

    Raises:
        InputError: if its training data, or the source of a user module, has changed.
    """
    current_id = run_id(config)
    if current_id != identity.run_id:
        raise InputError(
            f"the training data or a user module has changed since run {identity.run_id} was requested (it would be "
            f"run {current_id} now): request it again"
        )


def _make_loop(config: Config, identity: Identity, stop: Callable[[], bool], others: Sequence[str]) -> RunLoop | str:
    """Build the run's parts and load its checkpoint; an error other than bad input is returned as its traceback."""
    try:
        loop = RunLoop(config, identity, stop, others)
    except InputError:  # refused: nothing is written
        raise
    except Exception:
        return traceback.format_exc()
    check_unchanged(config, identity)  # what this process has loaded is what the run is named after
    return loop


def _work(loop: RunLoop | str, state: RunState, config: Config, progress: RunProgress, began: float) -> None:
    """Work on a running run until it is done, diverged, failed, pruned or interrupted.

    Args:
        loop: The loop, or why it could not be made.
        state: The run's state.
        config: The run's config.
        progress: Where progress is shown.
        began: When this start of the run began, by `time.monotonic`.
    """

    def spent() -> float:
        return time.monotonic() - began

    with _logging_to(state.directory.log):
        tracker = FaultTolerantTracker(
            lambda: make_tracker(config, mirroring.tracked_run(state.record, state.directory))
        )
        try:
            if isinstance(loop, str):
                log.debug(loop)
                state.fail(loop, spent())
            else:
                loop.run(state, tracker, progress)
                state.finish(spent())
        except DivergedError as error:
            state.diverge(str(error), spent())
        except PrunedError as reason:
            state.prune(str(reason), spent())
        except RunTakenOverError as owner:
            log.warning("run %s was taken over by %s: this process stops working on it", state.record.run_id, owner)
            raise
        except Exception:
            log.debug(problem := traceback.format_exc())
            state.fail(problem, spent())
        except BaseException:  # Ctrl-C, after the checkpoint
            state.interrupt(spent())
            raise
        finally:
            if state.writer.is_lost:
                tracker.abandon()
            else:
                mirroring.close(state.record, state.directory, tracker)
    progress.summary, progress.level = f"{summary(state.record)}  {spent():.0f} s", _level_of(state.record)


def record_lost_process(
    config: Config,
    identity: Identity,
    reason: str,
    overrides: list[str],
    group: str | None,
    ended_before: str | None = None,
) -> Record:
    """Record that the process which worked on a run has died, perhaps before it wrote anything; return the record.

    The reason replaces an error of an earlier process. A run that ended in any other way is left as it is.

    Args:
        config: The run's config.
        identity: The run's identity, as of its request.
        reason: How the process ended.
        overrides: The command-line overrides that led to the run.
        group: The sweep that the run belongs to.
        ended_before: When the run had last ended before the process worked on it, by its record.

    Raises:
        InputError: if the record cannot be read.
        RunLockedError: if another process holds the run.
    """
    directory = identity.directory
    with owned_run(directory) as writer:
        record = directory.read_record()
        if record is None:
            state = RunState.start(writer, identity, config, overrides, group)
        else:
            writer.open()
            state = RunState(writer, record)
        is_earlier_error = state.record.status == Status.FAILED and state.record.finished == ended_before
        if state.record.status == Status.RUNNING or is_earlier_error:
            state.fail(reason, seconds=0.0)
    return state.record


class _RunLog(logging.FileHandler):
    """Appends to a run's log. A line that cannot be written, as on a full disk, is left out without a message."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line."""
        with suppress(OSError):
            super().emit(record)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            super().close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = _RunLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    raises = logging.raiseExceptions
    logging.raiseExceptions = False  # no handler, of W&B for example, prints a traceback when the disk is full
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def _why_finished(record: Record, config: Config) -> str:
    if record.status == Status.DIVERGED:
        return "not retried: use retry_diverged=true"
    if record.status == Status.PRUNED:
        return "not continued: use prune=none"
    beyond = f": {config.train.steps} steps were requested" if record.step > config.train.steps else ""
    return f"nothing left to do{beyond}"


def _level_of(record: Record) -> int:
    """Return the level of a record's summary: a warning if the run diverged or failed."""
    return logging.INFO if record.status == Status.DONE else logging.WARNING


def summary(record: Record) -> str:
    """Return one line about a run."""
    if record.reason:
        return f"{record.status}: {record.reason}"
    if record.status == Status.PRUNED:
        return f"{record.status} at step {record.step}: {record.pruned}"
    scores = record.scores
    if "fid" not in scores:
        names = [name for name in scores if name != "step"][:MAX_SUMMARY_SCORES]
        values = ", ".join(f"{name} {scores[name]:.4g}" for name in names)
        return f"{record.status} at step {record.step}{': ' if values else ''}{values}"
    counts = f"{scores['fid_generated']:.0f} generated, {scores['fid_real']:.0f} real, " + record.scored_by.get(
        "features", f"{scores['fid_feature']:.0f} features"
    )
    return f"{record.status} at step {record.step}: FID {scores['fid']:.2f} ({counts})"
