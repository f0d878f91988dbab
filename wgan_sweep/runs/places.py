"""Places where runs are: folders of run directories, and archives, which are read as if they were folders."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from wgan_sweep.errors import InputError
from wgan_sweep.runs.archive import SUFFIX, unpack
from wgan_sweep.runs.directory import FoundRuns, RunDir, find_runs
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.requests import SWEEPS, decision_files, not_started

DEFAULT_FOLDER = "runs"
"""The folder of runs if neither the command nor ``WGAN_SWEEP_RUNS`` gives one."""


class OpenedRuns(NamedTuple):
    """The runs of one or several places."""

    folder: Path
    """The folder in which the run directories can be read; a temporary one for archives and for several places."""
    found: FoundRuns
    name: str
    """The names of the places, for titles."""
    repeated: Sequence[str] = ()
    """The ids of runs that several places have."""
    not_started: Sequence[Record] = ()
    """The runs that sweeps in these places requested, and that no place has."""

    @property
    def notes(self) -> list[str]:
        """What a report says of the runs that it leaves out, beside the problems."""
        repeated = f"left out, since another folder or archive has the same runs: {', '.join(self.repeated)}"
        return self.found.notes + [repeated] * bool(self.repeated)


def no_runs(places: Sequence[Path], remedy: str) -> str:
    """Return the message that places hold no runs.

    Args:
        places: The places.
        remedy: What to give instead.
    """
    for place in places:
        if RunDir(place).record.is_file():
            return f"{place} is the directory of a run: give the folder that holds it, {place.absolute().parent}"
    names = ", ".join(map(str, places))
    return f"{names} {'holds' if len(places) == 1 else 'hold'} no runs: start some with wgan-sweep, or give {remedy}"


@contextmanager
def opened(places: Sequence[Path]) -> Iterator[OpenedRuns]:
    """Open folders of runs and archives for reading, as one.

    A run that several have is that of the first in which it is finished, or else that of the first.

    Raises:
        InputError: if a place does not exist or cannot be read.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(_opened(place)) for place in places]
        if len(parts) == 1:
            yield parts[0]
            return
        folder = Path(stack.enter_context(_temporary_folder()))
        chosen: dict[str, tuple[Path, Record]] = {}
        repeated: list[str] = []
        for part in parts:
            for record in part.found.records:
                if record.run_id in chosen:
                    repeated.append(record.run_id)
                    _, earlier = chosen[record.run_id]
                    if record.status != Status.DONE or earlier.status == Status.DONE:
                        continue
                chosen[record.run_id] = (part.folder, record)
            _link_decisions(part.folder, folder)
        for run_id, (source, _) in chosen.items():
            (folder / run_id).symlink_to((source / run_id).absolute())
            _link_lock(source, run_id, folder)
        records = sorted((record for _, record in chosen.values()), key=lambda record: record.start_order)
        found = FoundRuns(
            records,
            [problem for part in parts for problem in part.found.problems],
            [name for part in parts for name in part.found.outdated],
            [name for part in parts for name in part.found.copies],
        )
        waiting = {record.run_id: record for part in parts for record in part.not_started}
        for record in records:
            waiting.pop(record.run_id, None)
        yield OpenedRuns(folder, found, ", ".join(part.name for part in parts), repeated, [*waiting.values()])


def _link_lock(runs: Path, run_id: str, folder: Path) -> None:
    """Link the lock of a run, which tells whether a process works on it, into another folder of runs."""
    lock = RunDir(runs / run_id).lock
    if lock.is_dir():
        link = RunDir(folder / run_id).lock
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(lock.absolute())


def _link_decisions(runs: Path, folder: Path) -> None:
    """Link the folders of the sweeps that decided claims into another folder of runs."""
    for path in decision_files(runs):
        link = folder / SWEEPS / path.parent.name
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.parent.absolute())


def _temporary_folder() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="wgan-sweep-")


@contextmanager
def _opened(place: Path) -> Iterator[OpenedRuns]:
    name = place.absolute().name
    if place.is_dir():
        yield OpenedRuns(place, find_runs(place), name, not_started=not_started(place))
        return
    if not place.exists():
        raise InputError(
            f"there is no folder {place}: give the folder that holds the runs (key `runs`), or an archive of runs"
        )
    if not place.name.endswith(SUFFIX):
        raise InputError(f"{place} is neither a folder of runs nor an archive, whose name ends in {SUFFIX}")
    with _temporary_folder() as temporary:
        folder = Path(temporary)
        unpack(place, folder)
        yield OpenedRuns(folder, find_runs(folder), name.removesuffix(SUFFIX))


class Overlay(NamedTuple):
    """The runs of a folder, some of them replaced by those of archives."""

    folder: Path
    """The folder in which the run directories can be read; a temporary one if any is of an archive."""
    archived: dict[str, Record]
    """The records of the runs that are those of archives, by run id."""


@contextmanager
def overlay(runs: Path, archives: Collection[Path], wanted: Callable[[Path, Record], bool]) -> Iterator[Overlay]:
    """Yield the runs of a folder, some of them replaced by those of archives, each of which is read once.

    Args:
        runs: The folder.
        archives: The archives. A run that several have is that of the first.
        wanted: Returns whether the run of an archive is wanted, by the archive and the run's record.

    Raises:
        InputError: if an archive cannot be read.
    """
    with ExitStack() as stack:
        archived: dict[str, Record] = {}
        folder = Path(stack.enter_context(_temporary_folder())) if archives else runs
        for archive in archives:
            found = unpack(archive, folder, partial(_is_new, archived, partial(wanted, archive)))
            archived |= {record.run_id: record for record in found}
        if not archived:
            yield Overlay(runs, {})
            return
        for path in runs.iterdir() if runs.is_dir() else ():
            if path.is_dir() and not path.name.startswith(".") and path.name not in archived:
                (folder / path.name).symlink_to(path.absolute())
                _link_lock(runs, path.name, folder)
        yield Overlay(folder, archived)


def _is_new(known: Collection[str], wanted: Callable[[Record], bool], record: Record) -> bool:
    return record.run_id not in known and wanted(record)
