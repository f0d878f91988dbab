"""Uploads runs that have ended to W&B, from their directories."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from wgan_sweep.errors import summary
from wgan_sweep.runs import mirroring
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.tracking.wandb import Destination, WandbTracker, destination, last_close


def destination_of(record: Record, directory: RunDir, project: str | None, entity: str | None) -> Destination:
    """Return where a run is uploaded to.

    Args:
        record: Its record.
        directory: Its directory.
        project: The W&B project; None for the one of the run's config, else of the environment, else of its earlier
            mirror, else the default.
        entity: The user or team; None likewise.
    """
    node = record.config.get("tracker")
    own = node if isinstance(node, Mapping) else {}
    last = last_close(directory.path)
    return destination(project or own.get("project"), entity or own.get("entity"), last.where if last else None)


def is_uploaded(record: Record, directory: RunDir, where: Destination) -> bool:
    """Whether a destination already has all data of a run."""
    last = last_close(directory.path)
    if last is None or last.where != where or last.status != record.status:
        return False
    return not directory.metrics.exists() or directory.metrics.stat().st_mtime <= last.at


def _upload(path: Path, project: str | None, entity: str | None) -> str:
    tracker: WandbTracker | None = None
    try:
        directory = RunDir(path)
        record = directory.read_record()
        if record is None:
            return "gone"
        where = destination_of(record, directory, project, entity)
        if is_uploaded(record, directory, where):
            return "there already"
        run = mirroring.tracked_run(record, directory)
        tracker = WandbTracker(run=run, project=where.project, entity=where.entity)
        mirroring.replay(directory, tracker)
        mirroring.close(record, directory, tracker)
    except Exception as error:  # the failure of one run must not stop the others
        if tracker is not None:
            with suppress(Exception):
                tracker.abandon()
        return f"failed: {summary(error)}"
    if tracker.where.mode != where.mode:
        return "failed: W&B cannot be used online; written offline"
    return "uploaded" if where.mode == "online" else "written offline"


def upload_runs(folder: Path, project: str | None, entity: str | None, jobs: int) -> Iterator[tuple[str, str]]:
    """Upload the runs that have ended and that W&B does not have; yield each run's id and the outcome.

    Args:
        folder: The folder of runs.
        project: The W&B project; None for the one that each run was started with.
        entity: The user or team; None likewise.
        jobs: Number of uploads at the same time.
    """
    from joblib import Parallel, delayed

    ended = (Status.DONE, Status.DIVERGED, Status.FAILED, Status.PRUNED)
    names = [record.run_id for record in find_runs(folder).records if record.status in ended]
    uploads = (delayed(_upload)(folder / name, project, entity) for name in names)
    yield from zip(names, Parallel(n_jobs=jobs, return_as="generator")(uploads), strict=True)
