"""Runs of a sweep that are finished in an archive: they count as done, and are not trained again.

An archive has no weights. So a run that needs more steps or other scores than its archive has is trained anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from wgan_sweep.common.progress import Display
from wgan_sweep.runs.archive import read_archive
from wgan_sweep.runs.hashing import check_same_science
from wgan_sweep.runs.life import summary
from wgan_sweep.runs.places import Overlay, overlay
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.state import is_finished
from wgan_sweep.sweeps.launching import Outcome, RequestedRun, ShouldStop, labelled

Launch = Callable[[Sequence[RequestedRun], Display, ShouldStop], list[Outcome]]
"""Completes runs: a launcher, for example."""


def archived_records(requested: Sequence[RequestedRun]) -> dict[str, Record]:
    """Return the records of requested runs in the archives that their configs name, by run id.

    Raises:
        InputError: if an archive cannot be read, or holds a run with other science values under the id of a run.
    """
    runs = _by_archive(requested)
    return {
        archived.record.run_id: archived.record
        for archive in runs
        for archived in read_archive(archive)
        if _request_for(archived.record, archive, runs) is not None
    }


def _by_archive(requested: Sequence[RequestedRun]) -> dict[Path, dict[str, RequestedRun]]:
    """Return the requested runs of each archive that their configs name, by run id."""
    runs: dict[Path, dict[str, RequestedRun]] = {}
    for run in requested:
        if run.config.archive is not None:
            runs.setdefault(Path(run.config.archive), {})[run.run_id] = run
    return runs


def _request_for(record: Record, archive: Path, runs: Mapping[Path, Mapping[str, RequestedRun]]) -> RequestedRun | None:
    """Return the request for a run of an archive; None if it was not requested.

    Raises:
        InputError: if the run has other science values than the requested one.
    """
    run = runs[archive].get(record.run_id)
    if run is not None:
        check_same_science(archive, record.science, run.identity.science)
    return run


def is_done_in_archive(run: RequestedRun, archived: Record | None) -> bool:
    """Return whether a run is finished in its archive, and not in the folder of runs, which comes first.

    Raises:
        InputError: if its record in the folder of runs cannot be read.
    """
    return is_finished(archived, run.config) and not is_finished(run.directory.read_record(), run.config)


def done_in_archives(requested: Sequence[RequestedRun]) -> dict[str, Record]:
    """Return the records of those requested runs that are done in their archives, by run id.

    Raises:
        InputError: as `archived_records` and `is_done_in_archive`.
    """
    archived = archived_records(requested)
    return {run.run_id: archived[run.run_id] for run in requested if is_done_in_archive(run, archived.get(run.run_id))}


def archived_lines(requested: Sequence[RequestedRun]) -> dict[str, list[dict[str, float]]]:
    """Return the lines of measurements of requested runs that are in the archives that their configs name, by run id.

    Raises:
        InputError: if an archive cannot be read.
    """
    wanted = {(run.config.archive, run.run_id) for run in requested}
    return {
        run.record.run_id: run.metrics
        for archive in dict.fromkeys(run.config.archive for run in requested if run.config.archive is not None)
        for run in read_archive(Path(archive))
        if (archive, run.record.run_id) in wanted
    }


def why_trained_anew(run: RequestedRun, archived: Record | None) -> str:
    """Return why a run is trained anew although an archive has it; empty if the archive does not have it."""
    if archived is None:
        return ""
    is_done = archived.status == Status.DONE and archived.step >= run.config.train.steps
    what = "with other scores" if is_done else f"{archived.status} at step {archived.step} of {run.config.train.steps}"
    return f"trained anew: the archive has it {what}, and has no weights"


@contextmanager
def with_archived_runs(runs: Path, requested: Sequence[RequestedRun]) -> Iterator[Overlay]:
    """Yield the runs of a folder, with the requested runs that are done in their archives as the archives have them.

    Args:
        runs: The folder.
        requested: The requested runs.

    Raises:
        InputError: as `archived_records` and `is_done_in_archive`.
    """
    by_archive = _by_archive(requested)

    def is_wanted(archive: Path, record: Record) -> bool:
        run = _request_for(record, archive, by_archive)
        return run is not None and is_done_in_archive(run, record)

    with overlay(runs, [*by_archive], is_wanted) as shown:
        yield shown


def launch_missing(
    launch: Launch,
    requested: Sequence[RequestedRun],
    archived: Mapping[str, Record],
    display: Display,
    should_stop: ShouldStop,
) -> list[Outcome]:
    """Complete those of the requested runs that are not done in an archive; return the outcomes of all, in order.

    Args:
        launch: Completes runs.
        requested: The runs.
        archived: The records of runs in archives, by run id.
        display: Where progress is shown.
        should_stop: Whether the user asked to stop.

    Raises:
        InputError: as `is_done_in_archive`.
    """
    missing = []
    for run in requested:
        record = archived.get(run.run_id)
        if record is not None and is_done_in_archive(run, record):
            with labelled(display, run).run(f"{run.run_id} {run.label}".strip(), run.config.train.steps) as progress:
                progress.summary = f"{summary(record)} (in the archive {run.config.archive})"
        else:
            if record is not None and run.directory.read_record() is None:
                shown = labelled(display, run)
                shown.line(f"{run.label}: {why_trained_anew(run, record)}".removeprefix(": "))
            missing.append(run)
    outcomes = (
        dict(zip((id(run) for run in missing), launch(missing, display, should_stop), strict=True)) if missing else {}
    )
    return [outcomes[id(run)] if id(run) in outcomes else Outcome(archived[run.run_id]) for run in requested]
