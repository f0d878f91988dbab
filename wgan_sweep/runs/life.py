"""The life of a run, from top to bottom: is anything missing, may this process do it, do it, record how it ended."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wgan_sweep.common.files import check_writable
from wgan_sweep.common.progress import ProgressReporter, RunProgress
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.runs import mirroring
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.hashing import hash_of
from wgan_sweep.runs.identity import science
from wgan_sweep.runs.lock import run_lock
from wgan_sweep.runs.loop import DivergedError, RunLoop
from wgan_sweep.runs.mirroring import make_tracker
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.state import RunState, finished_record
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
) -> Record:
    """Do what is missing of a run: train from its checkpoint, score, and record how it ended.

    Args:
        config: The run's config.
        overrides: The command-line overrides that led to it.
        display: Where progress is shown.
        group: The sweep that the run belongs to.
        label: The run's name on the display, beside its id; the overrides by default.
        stop: Returns whether to save and stop (by a KeyboardInterrupt); asked after every step.

    Returns:
        The run's record. Divergence and failure are statuses of it, not exceptions.

    Raises:
        InputError: if the config cannot work, or the run's directory belongs to another run; nothing is written.
        RunLockedError: if another process holds the run; nothing is written.
    """
    values = science(config)
    directory = RunDir(Path(config.runs) / hash_of(values))
    run_id = directory.path.name
    name = f"{run_id} {' '.join(overrides) if label is None else label}".strip()
    with display.run(name, config.train.steps) as progress:
        record = finished_record(directory, config, values)
        if record is None:
            check_writable(Path(config.runs), "runs")
            with run_lock(directory.lock, f"run {run_id}"):
                record = finished_record(directory, config, values)  # another process may have finished it just now
                if record is None:
                    loop = _make_loop(config, values, directory, stop)
                    state = RunState.start(directory, config, values, overrides, group)
                    return _work(loop, state, config, progress)
        progress.summary = f"{summary(record)} ({_why_finished(record, config)})"
        return record


Loop = Callable[[RunState, FaultTolerantTracker, RunProgress], None]


def _make_loop(config: Config, values: Mapping[str, Any], directory: RunDir, stop: Callable[[], bool]) -> Loop:
    """Build the run's parts and load its checkpoint; an error other than bad input becomes the run's failure."""
    try:
        return RunLoop(config, values, directory, stop).run
    except InputError:  # refused: nothing is written
        raise
    except Exception as error:
        problem = error

        def fail(*_: object) -> None:
            raise problem

        return fail


def _work(loop: Loop, state: RunState, config: Config, progress: RunProgress) -> Record:
    """Work on a running run until it is done, diverged, failed or interrupted."""
    began = time.monotonic()
    directory = state.directory
    with _logging_to(directory.log):
        tracker = FaultTolerantTracker(lambda: make_tracker(config, mirroring.tracked_run(state.record, directory)))
        try:
            loop(state, tracker, progress)
            state.finish()
        except DivergedError as error:
            state.diverge(str(error))
        except Exception:
            log.debug(problem := traceback.format_exc())
            state.fail(problem)
        finally:  # an interrupted run stays `running`: the next start resumes it
            state.add_time(time.monotonic() - began)
            mirroring.close(state.record, directory, tracker)
    progress.summary = f"{summary(state.record)}  {time.monotonic() - began:.0f} s"
    return state.record


def record_lost_process(config: Config, reason: str, overrides: list[str], group: str | None) -> Record:
    """Record that the process which worked on a run has died, perhaps before it wrote anything; return the record.

    Args:
        config: The run's config.
        reason: How the process ended.
        overrides: The command-line overrides that led to the run.
        group: The sweep that the run belongs to.

    Raises:
        RunLockedError: if another process holds the run.
    """
    values = science(config)
    directory = RunDir(Path(config.runs) / hash_of(values))
    with run_lock(directory.lock, f"run {directory.path.name}"):
        record = directory.read_record()
        state = (
            RunState.start(directory, config, values, overrides, group)
            if record is None
            else RunState(directory, record)
        )
        if state.record.status == Status.RUNNING:
            state.fail(reason)
    return state.record


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def _why_finished(record: Record, config: Config) -> str:
    if record.status == Status.DIVERGED:
        return "not tried again: retry_diverged=true does"
    beyond = f": {config.train.steps} steps were requested" if record.step > config.train.steps else ""
    return f"nothing left to do{beyond}"


def summary(record: Record) -> str:
    """Return one line about a run."""
    if record.reason:
        return f"{record.status}: {record.reason}"
    scores = record.scores
    if "fid" not in scores:
        names = [name for name in scores if name != "step"][:MAX_SUMMARY_SCORES]
        values = ", ".join(f"{name} {scores[name]:.4g}" for name in names)
        return f"{record.status} at step {record.step}{': ' if values else ''}{values}"
    counts = f"{scores['fid_generated']:.0f} generated, {scores['fid_real']:.0f} real, " + record.scored_by.get(
        "features", f"{scores['fid_feature']:.0f} features"
    )
    return f"{record.status} at step {record.step}: FID {scores['fid']:.2f} ({counts})"
