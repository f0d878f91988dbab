"""Removing runs, and what killed processes and finished runs left."""

import itertools
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.lock import REMOVED, lock_owner, remove_folder, run_lock
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.requests import SWEEPS

SECONDS_PER_DAY = 86400.0
DAYS_UNTIL_ABANDONED = 1.0
"""After so long without a change, no process is writing a temporary file any more."""


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder, in bytes."""
    return sum(status.st_size for status in _statuses(path) if not stat.S_ISDIR(status.st_mode))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a path and of all that is below it. What another process removes meanwhile is left out."""
    below = (Path(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files))
    for item in itertools.chain((path,), below):
        with suppress(FileNotFoundError):
            yield item.lstat()


def remove_run(directory: RunDir, listed: Record) -> None:
    """Remove the directory of a run.

    It is renamed first: if this process is killed in between, what is left is not a run.

    Args:
        directory: The directory.
        listed: The record for which it was chosen.

    Raises:
        RunLockedError: if another process holds the run.
        InputError: if the run has changed since it was chosen, or its record cannot be read.
        OSError: if it cannot be removed.
    """
    with run_lock(directory.lock, f"run {directory.path.name}") as ownership:
        record = directory.read_record()
        if record is not None and (record.status, record.step) != (listed.status, listed.step):
            raise InputError(f"it has changed since it was listed: it is {record.status} at step {record.step}")
        remove_folder(directory.path, ownership)


class Kind(StrEnum):
    """What can be cleaned up."""

    TEMPORARY = "temporary files of killed processes"
    SWEEP = "folders of old sweeps"
    CHECKPOINT = "previous checkpoints of finished runs"


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be cleaned up."""

    kind: Kind
    path: Path
    run: RunDir | None = None
    """The run that it belongs to."""

    def remove(self) -> None:
        """Remove it; that of a run, only while this process holds the run.

        Raises:
            RunLockedError: if another process holds the run.
        """
        if self.run is None:
            _remove(self.path)
            return
        with run_lock(self.run.lock, f"run {self.run.path.name}"):
            record = self.run.read_record()
            # A run that has been continued since needs its previous checkpoint.
            if self.kind is not Kind.CHECKPOINT or (record is not None and record.status == Status.DONE):
                _remove(self.path)


def _remove(path: Path) -> None:
    if path.is_dir():
        with suppress(FileNotFoundError):  # another process is removing it, too
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def leftovers(folder: Path, records: Sequence[Record], *, days: float, checkpoints: bool) -> list[Leftover]:
    """Return what can be cleaned up in a folder of runs. What a process may be using is left out.

    Args:
        folder: The folder.
        records: The records of its runs.
        days: The age from which the folder of a sweep is old.
        checkpoints: Whether the previous checkpoints of finished runs can be removed.
    """
    idle = [record for record in records if lock_owner(RunDir(folder / record.run_id).lock) is None]
    active_sweeps = {record.sweep for record in records if record not in idle}
    found = [Leftover(Kind.TEMPORARY, path) for path in _temporary_files(folder)]
    for record in idle:
        directory = RunDir(folder / record.run_id)
        found += [Leftover(Kind.TEMPORARY, path, directory) for path in directory.leftovers()]
        if checkpoints and record.status == Status.DONE:
            found += [Leftover(Kind.CHECKPOINT, path, directory) for path in directory.previous_checkpoints()]
    sweeps = [path for path in _folders(folder / SWEEPS) if path.name not in active_sweeps]
    return found + [Leftover(Kind.SWEEP, path) for path in sweeps if _days_since_change(path) >= days]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink())


def _days_since_change(path: Path) -> float:
    """Return the days since the last change of a file, or of anything in a folder."""
    changes = [status.st_mtime for status in _statuses(path)]
    now = time.time()
    return (now - max(changes, default=now)) / SECONDS_PER_DAY


def _temporary_files(folder: Path) -> Iterator[Path]:
    """Yield what killed processes left outside the run directories: removed runs, and files that were not complete."""
    yield from sorted(path for path in folder.glob(f"{REMOVED}*") if path.is_dir())
    patterns: Iterable[Path] = (
        *(folder / ".slurm").glob(".*.json.*"),
        *(folder / SWEEPS).glob("*/.*"),
        *(folder / ".locks").glob("*/claim-*"),
    )
    yield from sorted(path for path in patterns if path.is_file() and _days_since_change(path) >= DAYS_UNTIL_ABANDONED)
