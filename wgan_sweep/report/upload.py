"""Uploads runs that have ended to W&B, from their directories."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wgan_sweep.runs import mirroring
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.tracking.wandb import WandbTracker, destination, last_close, mode

PROJECT = "wgan-sweep"


def project_of(record: Record) -> tuple[str, str | None]:
    """Return the W&B project and entity that a run was started with, or the defaults."""
    tracker = record.config.get("tracker") or {}
    return tracker.get("project") or PROJECT, tracker.get("entity")


def is_uploaded(record: Record, directory: RunDir, project: str, entity: str | None) -> bool:
    """Whether a W&B project, in the current W&B mode, already has all data of a run."""
    last = last_close(directory.path)
    measured_since = directory.metrics.exists() and directory.metrics.stat().st_mtime > last.get("at", 0)
    is_there = last.get("where") == destination(project, entity)
    return is_there and last.get("closed") == record.status and not measured_since


def _upload(path: Path, project: str | None, entity: str | None) -> str:
    directory = RunDir(path)
    record = directory.read_record()
    if record is None:
        return "gone"
    own_project, own_entity = project_of(record)
    project, entity = project or own_project, entity or own_entity
    if is_uploaded(record, directory, project, entity):
        return "there already"
    tracker: WandbTracker | None = None
    try:
        tracker = WandbTracker(run=mirroring.tracked_run(record, directory), project=project, entity=entity)
        mirroring.replay(directory, tracker)
        mirroring.close(record, directory, tracker)
    except Exception as error:  # the failure of one run must not stop the others
        if tracker is not None:
            with suppress(Exception):
                tracker.abandon()
        return f"failed: {type(error).__name__}: {error}"
    return "uploaded" if mode() == "online" else "written offline"


def upload_runs(folder: Path, project: str | None, entity: str | None, jobs: int) -> Iterator[tuple[str, str]]:
    """Upload the runs that have ended and that W&B does not have; yield each run's id and the outcome.

    Args:
        folder: The folder of runs.
        project: The W&B project; None for the one that each run was started with.
        entity: The user or team; None likewise.
        jobs: Number of uploads at the same time.
    """
    from joblib import Parallel, delayed

    ended = (Status.DONE, Status.DIVERGED, Status.FAILED)
    names = [record.run_id for record in find_runs(folder).records if record.status in ended]
    uploads = (delayed(_upload)(folder / name, project, entity) for name in names)
    yield from zip(names, Parallel(n_jobs=jobs, return_as="generator")(uploads), strict=True)
