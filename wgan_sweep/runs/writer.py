"""Writing to a run's directory: every write checks that this process still owns the run.

A process can be stopped between the check and the write, and continue after another process has taken over. Therefore
files are written in a staging folder of the owner, and renamed into place. A new owner first removes the staging
folders of earlier ones, so a late rename fails. It also gives the metrics a new file, so a late line goes to the old
one.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from wgan_sweep.common.files import atomic_replacement
from wgan_sweep.errors import RunLockedError, RunTakenOverError
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.directory import STAGING, RunDir
from wgan_sweep.runs.lock import Ownership, rename_for_removal, run_lock
from wgan_sweep.runs.record import Record

log = logging.getLogger("wgan_sweep")


def remove_leftovers(directory: RunDir) -> None:
    """Remove the staging folders of killed processes, unless another process owns the run."""
    if directory.leftovers():
        with suppress(RunLockedError, OSError), owned_run(directory):
            log.debug("the leftovers of killed processes in %s are removed", directory.path)


class RunWriter:
    """Writes the files of a run that this process owns. Earlier owners can no longer write.

    Nothing is written before `open`, so that a run that is refused leaves no directory.

    Args:
        directory: The run's directory.
        ownership: The token of this process.
    """

    def __init__(self, directory: RunDir, ownership: Ownership) -> None:
        self.directory = directory
        self.metrics_lines = 0
        """Number of lines of the metrics."""
        self._ownership = ownership
        self._staging = directory.path / f"{STAGING}{ownership.number}"
        self._metrics: IO[bytes] | None = None
        for path in directory.leftovers():
            # An earlier owner could still write from its staging folder if it kept its name: renaming may raise.
            shutil.rmtree(rename_for_removal(path, ownership), ignore_errors=True)

    def open(self) -> None:
        """Create the run's directory and the staging folder.

        Raises:
            RunTakenOverError: if another process has taken over.
        """
        self._ownership.check()
        self._staging.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Remove the staging folder."""
        if self._metrics is not None:
            self._metrics.close()
        shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def is_lost(self) -> bool:
        """Whether another process is known to have taken over."""
        return self._ownership.is_lost

    def leave_if_lost(self) -> None:
        """End the work on a run that another process is known to have taken over, without a look at the disk.

        Raises:
            RunTakenOverError: if so.
        """
        if self._ownership.is_lost:
            self._ownership.check()

    @contextmanager
    def _checked(self) -> Iterator[Path]:
        """Check the ownership, then yield the staging folder.

        Raises:
            RunTakenOverError: if another process has taken over, also during the block.
        """
        self._ownership.check()
        try:
            yield self._staging
        except OSError:
            self._ownership.check()  # a new owner has removed the staging folder
            raise

    def write(self, path: Path, content: str | bytes) -> None:
        """Replace a file of the run, atomically; text is written as UTF-8.

        Raises:
            RunTakenOverError: if another process has taken over.
        """
        with self._checked() as staging, atomic_replacement(path, staging) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_record(self, record: Record) -> None:
        """Replace the record, after the metrics that belong to it are on the disk.

        Raises:
            RunTakenOverError: if another process has taken over.
        """
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
        self.write(self.directory.record, json.dumps(asdict(record), indent=2) + "\n")

    def save_checkpoint(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the one that it replaces is kept as the previous one.

        Raises:
            RunTakenOverError: if another process has taken over.
        """
        with self._checked() as staging:
            checkpoints.save(path, dict(state), staging)

    def set_aside_checkpoint(self) -> None:
        """Keep the damaged latest checkpoint under another name, and put the previous one in its place.

        Raises:
            RunTakenOverError: if another process has taken over.
        """
        with self._checked() as staging:
            checkpoints.set_aside(self.directory.checkpoint, staging)

    def replace_metrics(self, lines: list[dict[str, float]]) -> None:
        """Replace all measurements, by a new file, and append to it from now on.

        Raises:
            RunTakenOverError: if another process has taken over.
        """
        self.write(self.directory.metrics, "".join(json.dumps(line) + "\n" for line in lines))
        if self._metrics is not None:
            self._metrics.close()
        self._metrics = self.directory.metrics.open("ab", buffering=0)
        self.metrics_lines = len(lines)

    def append_metrics(self, line: Mapping[str, float]) -> None:
        """Append one line of measurements. If it cannot be written whole, nothing of it stays.

        Raises:
            RunTakenOverError: if another process has taken over.
            InputError: if the earlier measurements cannot be read; they are left as they are.
        """
        if self._metrics is None:
            self.replace_metrics(self.directory.measurements())
        metrics = self._metrics
        if metrics is None:
            raise RuntimeError("the metrics are not open")
        with self._checked():
            size = os.fstat(metrics.fileno()).st_size
            text = memoryview(f"{json.dumps(line)}\n".encode())
            try:
                while text:
                    text = text[metrics.write(text) :]
            except OSError:
                with suppress(OSError):
                    os.ftruncate(metrics.fileno(), size)
                raise
        self.metrics_lines += 1


@contextmanager
def owned_run(directory: RunDir) -> Iterator[RunWriter]:
    """Own a run during the block, and yield its writer.

    Raises:
        RunLockedError: if another process owns the run.
    """
    with run_lock(directory.lock, f"run {directory.path.name}") as ownership:
        writer = RunWriter(directory, ownership)
        try:
            yield writer
        except RunTakenOverError:
            ownership.is_lost = True
            raise
        finally:
            writer.close()
