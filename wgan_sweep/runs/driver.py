"""A run as a whole: what is left to do of it, who may do it, and how it ended."""

import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wgan_sweep.runs import mirroring as mirror
from wgan_sweep.runs import provenance
from wgan_sweep.config.schema import Config, check_science, run_id, science, to_yaml
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import make_tracker
from wgan_sweep.common.files import check_writable, write
from wgan_sweep.runs.lock import run_lock
from wgan_sweep.common.progress import RunProgress, ProgressReporter
from wgan_sweep.runs.directory import Record, RunDir, Status
from wgan_sweep.runs.session import DivergedError, Session, chosen_by
from wgan_sweep.tracking.wandb import FaultTolerantTracker

log = logging.getLogger("wgan_sweep")


SCORES_IN_A_LINE = 4
"""How many scores a summary names; the record holds all."""


def _scored_by(scorer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a scorer's config decides on its result."""
    found = {name: value for name, value in scorer.items() if name not in ("every", "during", "batch_size")}
    if isinstance(features := found.get("features"), Mapping):
        found["features"] = {name: value for name, value in features.items() if name != "weights"}
    return found


def is_finished(record: Record | None, config: Config) -> bool:
    """Say whether nothing that a config asks for is left to do; a run that diverged would diverge again."""
    if record is None:
        return False
    if record.status == Status.DIVERGED:
        return not config.retry_diverged
    return record.status == Status.DONE and record.step >= config.train.steps and not _other_scorer(record, config)


def _other_scorer(record: Record, config: Config) -> bool:
    """Say whether a config asks for scores that a record has not; no scorer asks for none."""
    asked = config.scorer.get("_target_") is not None
    return asked and _scored_by(record.config["scorer"]) != _scored_by(config.scorer)


def check_identity(record: Record | None, config: Config) -> None:
    """Refuse a directory whose record is of another run.

    Raises:
        InputError: naming the differences.
    """
    if record is not None:
        check_science(directory_of(config).path, science(record.config), config)


def directory_of(config: Config) -> RunDir:
    """Return the directory of the run that a config asks for."""
    return RunDir(Path(config.runs) / run_id(config))


def _started(config: Config, record: Record | None, overrides: list[str], sweep: str | None) -> Record:
    """Return the record of a run that starts, or starts again."""
    if record is None:
        record = Record(run_id(config), overrides=overrides, started=provenance.now(), sweep=sweep)
    elif _other_scorer(record, config):
        record.scores, record.scored_by, record.best = {}, {}, _choice(record.best)  # of another scale
    record.status = Status.RUNNING
    record.error = record.finished = None
    record.config = asdict(config)
    record.versions, record.git, record.host = provenance.versions(), provenance.git(), platform.node()
    return record


def _choice(best: Mapping[str, float]) -> dict[str, float]:
    """Return what is left of the best scores for another scorer: which step it is, and what it was chosen by."""
    chosen = chosen_by(best)
    return {"step": best["step"], **chosen} if chosen else {}


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


def run(
    config: Config,
    *,
    overrides: list[str],
    display: ProgressReporter,
    group: str | None = None,
    label: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Record:
    """Do what is left to do of a run: train from its checkpoint, score, and record how it ended.

    Args:
        config: What to run.
        overrides: What the user typed to get there.
        display: Where to show progress.
        group: The sweep it belongs to.
        label: What to call it on the display, beside its id; by default what the user typed.
        stop: Asked after every step: whether to save and leave, by a KeyboardInterrupt.

    Returns:
        The run's record. Divergence and failure are statuses of it, not exceptions.

    Raises:
        InputError: if the config cannot work, or the run's directory belongs to another one; nothing is written then.
        RunLockedError: if another process is at the run; nothing is written then.
    """
    directory = directory_of(config)
    name = f"{run_id(config)} {' '.join(overrides) if label is None else label}".strip()
    with display.run(name, config.train.steps) as shown:
        record = _finished(directory, config)
        if record is None:
            check_writable(Path(config.runs), "runs")
            with run_lock(directory.lock, f"run {run_id(config)}"):
                record = _finished(directory, config)  # another process may have ended it just now
                if record is None:
                    return _sit(config, directory, overrides, group, shown, stop)
        shown.summary = f"{summary(record)} ({_why_finished(record, config)})"
        return record


def _finished(directory: RunDir, config: Config) -> Record | None:
    """Return the record of a run with nothing left to do, or None."""
    record = directory.read_record()
    check_identity(record, config)
    return record if record is not None and is_finished(record, config) else None


def _sit(
    config: Config,
    directory: RunDir,
    overrides: list[str],
    group: str | None,
    shown: RunProgress,
    stop: Callable[[], bool],
) -> Record:
    """Work on a run until it ends, well or not."""
    began = time.monotonic()
    session: Session | None = None
    problem: str | None = None
    try:
        session = Session(config, directory, stop)
    except InputError:
        raise
    except Exception:
        problem = traceback.format_exc()
    record = _started(config, directory.read_record(), overrides, group)
    write(directory.config, to_yaml(config))
    directory.write_record(record)
    with _logging_to(directory.log):
        tracker = FaultTolerantTracker(lambda: make_tracker(config, mirror.identity(record, directory)))
        try:
            if session is not None:
                session.run(record, tracker, shown)
                record.status = Status.DONE
        except DivergedError as error:
            record.status, record.error = Status.DIVERGED, str(error)
        except Exception:
            problem = traceback.format_exc()
        finally:
            if problem:
                record.status, record.error = Status.FAILED, problem
                log.debug(problem)
            if record.status != Status.RUNNING:  # else interrupted: the next start takes it up
                record.finished = provenance.now()
            record.seconds += time.monotonic() - began
            directory.write_record(record)
            mirror.conclude(record, directory, tracker)
    shown.summary = f"{summary(record)}  {time.monotonic() - began:.0f} s"
    return record


def record_lost_process(config: Config, reason: str, overrides: list[str], group: str | None) -> Record:
    """Record that the process which was at a run is gone, perhaps before it could say anything; return the record.

    Args:
        config: The run's config.
        reason: How the process ended.
        overrides: What the user typed to get there.
        group: The sweep it belongs to.

    Raises:
        RunLockedError: if another process is at the run.
    """
    directory = directory_of(config)
    with run_lock(directory.lock, f"run {run_id(config)}"):
        record = directory.read_record()
        if record is None:
            record = _started(config, None, overrides, group)
            write(directory.config, to_yaml(config))
        if record.status == Status.RUNNING:
            record.status, record.error, record.finished = Status.FAILED, reason, provenance.now()
            directory.write_record(record)
    return record


def _why_finished(record: Record, config: Config) -> str:
    if record.status == Status.DIVERGED:
        return "not tried again: retry_diverged=true does"
    beyond = f": {config.train.steps} steps were asked" if record.step > config.train.steps else ""
    return f"nothing left to do{beyond}"


def summary(record: Record) -> str:
    """Return one line about a run."""
    if record.reason:
        return f"{record.status}: {record.reason}"
    scores = record.scores
    if "fid" not in scores:
        shown = [name for name in scores if name != "step"][:SCORES_IN_A_LINE]
        found = ", ".join(f"{name} {scores[name]:.4g}" for name in shown)
        return f"{record.status} at step {record.step}{': ' if found else ''}{found}"
    counts = f"{scores['fid_generated']:.0f} generated, {scores['fid_real']:.0f} real, " + record.scored_by.get(
        "features", f"{scores['fid_feature']:.0f} features"
    )
    return f"{record.status} at step {record.step}: FID {scores['fid']:.2f} ({counts})"
