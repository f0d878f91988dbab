"""Removing runs, and what killed processes and finished runs left."""

import errno
import logging
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wgan_sweep.errors import InputError, RunLockedError, one_line
from wgan_sweep.runs.directory import LOCKS, STAGING, RunDir
from wgan_sweep.runs.lock import REMOVED, Ownership, is_suspended, lock_owner, rename_for_removal, run_lock
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.requests import FILE, SWEEPS, decision_files

log = logging.getLogger("wgan_sweep")

SECONDS_PER_DAY = 86400.0
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""The errors of a write to a full disk, or over a quota."""
DAYS_UNTIL_ABANDONED = 1.0
"""After so long without a change, no process is writing a temporary file any more."""


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder, in bytes."""
    return sum(status.st_size for status in _statuses(path) if not stat.S_ISDIR(status.st_mode))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a path and of all that is below it. What another process removes meanwhile is left out."""
    for item in _with_content(path):
        with suppress(FileNotFoundError):
            yield item.lstat()


def _with_content(path: Path) -> Iterator[Path]:
    """Yield a path and all that is below it, but nothing that a symbolic link leads to."""
    yield path
    if not path.is_symlink():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


@contextmanager
def _owned(directory: RunDir) -> Iterator[Ownership | None]:
    """Own a run during the block. On a full disk, no token can be written: then yield None if nobody holds the run.

    Raises:
        RunLockedError: if another process holds the run.
    """
    with ExitStack() as stack:
        ownership = None
        try:
            lock = run_lock(directory.lock, f"run {directory.path.name}", watch_silent=True)
            ownership = stack.enter_context(lock)
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            if (owner := lock_owner(directory.lock)) is not None:
                raise RunLockedError(owner) from error
            log.debug("run %s is not locked: %s", directory.path.name, error)
        yield ownership


def remove_run(directory: RunDir, listed: Record) -> None:
    """Remove the directory of a run. Of one that is a symbolic link, only the link is removed, with a warning.

    It is renamed first, which a full disk allows: if this process is killed in between, what is left is not a run.

    Args:
        directory: The directory.
        listed: The record for which it was chosen.

    Raises:
        RunLockedError: if another process holds the run.
        InputError: if the run has changed since it was chosen, its record cannot be read, or a folder of it cannot be
            written to; it is kept.
        OSError: if it cannot be removed, or not all of it.
    """
    with _owned(directory) as ownership:
        record = directory.read_record()
        if record is not None and (record.status, record.step) != (listed.status, listed.step):
            raise InputError(f"it has changed since it was listed: it is {record.status} at step {record.step}")
        if directory.path.is_symlink():
            target = directory.path.resolve()
            directory.path.unlink()
            log.warning("run %s was a symbolic link, which is removed; %s stays", directory.path.name, target)
            return
        _check_removable(directory.path)
        removed = rename_for_removal(directory.path, ownership)
        try:
            _remove(removed)
        except OSError as error:
            raise OSError(
                f"{removed} is left of it ({one_line(error)}): when that is settled, `wgan-runs clean` removes it"
            ) from error


def _check_removable(path: Path) -> None:
    """Check that a folder and those below it can be written to, since no part of a run should be removed alone.

    Raises:
        InputError: if not.
    """
    for item in _with_content(path):
        is_folder = item.is_dir() and not item.is_symlink()
        if is_folder and not os.access(item, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(f"{item} cannot be written to: change its permissions, or leave it to its owner")


class Kind(StrEnum):
    """What can be cleaned up."""

    TEMPORARY = "temporary files of killed processes"
    UNRECORDED = "folders of runs that were killed before their first record"
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
        with _owned(self.run) as ownership:
            record = self.run.read_record()
            # A run that has been continued since needs its previous checkpoint; one that has been started, its folder.
            is_done = record is not None and record.status == Status.DONE
            if self.kind is Kind.TEMPORARY or (self.kind is Kind.CHECKPOINT and is_done):
                _remove(self.path)
            elif self.kind is Kind.UNRECORDED and _is_unrecorded(self.run):
                _remove(rename_for_removal(self.path, ownership))


def _is_unrecorded(directory: RunDir) -> bool:
    """Return whether a run's folder holds nothing but what is written before the first record: a config, staging."""
    if directory.path.is_symlink() or not directory.path.is_dir():
        return False
    names = [path.name for path in directory.path.iterdir()]
    return all(name == directory.config.name or name.startswith((STAGING, REMOVED)) for name in names)


def _remove(path: Path) -> None:
    """Remove a file, a symbolic link, or a folder with its content.

    Raises:
        OSError: if it cannot be removed.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path, ignore_errors=True)  # all that can be removed; another process may be removing it, too
    if path.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)  # tells why something is left


def leftovers(
    folder: Path, records: Sequence[Record], *, days: float, checkpoints: bool, submitted: Collection[str] = ()
) -> list[Leftover]:
    """Return what can be cleaned up in a folder of runs. What a process may be using is left out.

    The folder of a sweep stays if it holds a decision, which is stored nowhere else, or if the sweep may be active.

    Args:
        folder: The folder.
        records: The records of its runs.
        days: The age from which the folder of a sweep is old.
        checkpoints: Whether the previous checkpoints of finished runs can be removed.
        submitted: The ids of runs whose jobs may be waiting or running.
    """
    locks = _folders(folder / LOCKS)
    # To take over the run of a suspended process would end its work.
    held = {path.name for path in locks if lock_owner(path) is not None or is_suspended(path)}
    idle = [record for record in records if record.run_id not in held]
    found = [Leftover(Kind.TEMPORARY, path) for path in _temporary_files(folder)]
    free = [RunDir(folder / path.name) for path in locks if path.name not in held]
    found += [Leftover(Kind.UNRECORDED, one.path, one) for one in free if _is_unrecorded(one)]
    for record in idle:
        directory = RunDir(folder / record.run_id)
        found += [Leftover(Kind.TEMPORARY, path, directory) for path in directory.leftovers()]
        if checkpoints and record.status == Status.DONE:
            found += [Leftover(Kind.CHECKPOINT, path, directory) for path in directory.previous_checkpoints()]
    kept = _active_sweeps(folder, records, held.union(submitted)) | {path.parent for path in decision_files(folder)}
    sweeps = [path for path in _folders(folder / SWEEPS) if path not in kept]
    return found + [Leftover(Kind.SWEEP, path) for path in sweeps if _days_since_change(path) >= days]


def _active_sweeps(folder: Path, records: Sequence[Record], active: Collection[str]) -> set[Path]:
    """Return the folders of the sweeps that may be active.

    A sweep may be active if it started an active run. While any run is active, so may each sweep with runs that have
    not started: it may first continue runs of earlier sweeps. A sweep that only continues runs of other sweeps cannot
    be found.

    Args:
        folder: The folder of runs.
        records: The records of its runs.
        active: The ids of the runs that a process or a job may be working on.
    """
    started = {folder / SWEEPS / record.sweep for record in records if record.sweep and record.run_id in active}
    return started.union(path.parent for path in (folder / SWEEPS).glob(f"*/{FILE}") if active)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink())


def _days_since_change(path: Path) -> float:
    """Return the days since the last change of a file, or of anything in a folder."""
    changes = [status.st_mtime for status in _statuses(path)]
    now = time.time()
    return (now - max(changes, default=now)) / SECONDS_PER_DAY


def _temporary_files(folder: Path) -> Iterator[Path]:
    """Yield what killed processes left outside the run directories: removed runs, and files that were not complete."""
    yield from sorted(path for path in folder.glob(f"{REMOVED}*") if path.is_dir() or path.is_symlink())
    patterns: Iterable[Path] = (
        *(folder / ".slurm").glob(".*.json.*"),
        *(folder / SWEEPS).glob("*/.*"),
        *(folder / LOCKS).glob("*/claim-*"),
    )
    yield from sorted(path for path in patterns if path.is_file() and _days_since_change(path) >= DAYS_UNTIL_ABANDONED)
