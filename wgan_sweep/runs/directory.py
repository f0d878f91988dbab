"""The directory of a run: the paths of its files, and how they are read."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wgan_sweep.common.reading import MAX_METRICS_BYTES, UnreadableError, read_bytes, read_document
from wgan_sweep.errors import InputError
from wgan_sweep.runs.lock import REMOVED
from wgan_sweep.runs.record import NewerRecordError, OutdatedRecordError, Record

log = logging.getLogger("wgan_sweep")

FINAL = "final"
"""Key of a line of ``metrics.jsonl`` that the final scorer wrote, where another scorer is used during training."""
TAIL_BYTES = 16384
"""How much of ``metrics.jsonl`` is read where only the latest values are needed."""
LOCKS = ".locks"
"""The folder of the runs' locks, in a folder of runs."""
STAGING = ".staging-"
"""Prefix of the folders in which files are written before they are renamed into place."""


def _complete_lines(text: str) -> Iterator[dict[str, float]]:
    """Yield the JSON objects of complete lines that have a step."""
    for values in _values(text.splitlines()):
        if isinstance(values, dict) and type(values.get("step")) is int:
            yield {name: value for name, value in values.items() if type(value) in (int, float)}


def _values(lines: Sequence[str]) -> Iterator[Any]:
    """Yield the JSON values of lines; lines that are damaged are skipped."""
    with suppress(ValueError, RecursionError):
        values = json.loads(f"[{','.join(lines)}]")  # faster than one by one
        if len(values) == len(lines):
            yield from values
            return
    for line in lines:
        with suppress(ValueError, RecursionError):
            yield json.loads(line)


def previous(path: Path) -> Path:
    """Return the path of the checkpoint before the one at `path`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


@dataclass(frozen=True)
class RunDir:
    """The directory of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config, as YAML."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """The run's record, as JSON."""
        return self.path / "record.json"

    @property
    def metrics(self) -> Path:
        """The measurements, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The latest checkpoint."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest selection metric, if several steps were compared (``scorer.every``)."""
        return self.path / "best.pt"

    @property
    def lock(self) -> Path:
        """The folder of the run's lock: beside the directory, which does not exist for a run that is refused."""
        return self.path.parent / LOCKS / self.path.name

    @property
    def log(self) -> Path:
        """The run's log."""
        return self.path / "log.txt"

    def samples(self, step: int) -> Path:
        """Return the path of the samples of a step."""
        return self.path / "samples" / f"{step}.png"

    def last_samples(self) -> Path | None:
        """Return the path of the latest samples, or None if there are none."""
        pictures = [path for path in (self.path / "samples").glob("*.png") if path.stem.isdigit()]
        return max(pictures, key=lambda path: int(path.stem), default=None)

    def leftovers(self) -> list[Path]:
        """Return the staging folders: those of killed processes, unless a process is working on the run."""
        return [path for prefix in (STAGING, REMOVED) for path in self.path.glob(f"{prefix}*")]

    def previous_checkpoints(self) -> list[Path]:
        """Return the checkpoints before the latest ones, which are read only if those are damaged."""
        return [kept for path in (self.checkpoint, self.best) if (kept := previous(path)).is_file()]

    def read_record(self) -> Record | None:
        """Return the record, or None if the run was never started.

        Raises:
            InputError: if the file is not a record of this version (`OutdatedRecordError` for one of version 0.1), or
                cannot be read now (`UnreadableError`).
        """
        try:
            return Record.from_json(json.loads(read_document(self.record)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OutdatedRecordError as error:
            raise OutdatedRecordError(
                f"{self.path} is left as it is: {error}. Read it with version 0.1, or move it away"
            ) from None
        except NewerRecordError as error:
            raise NewerRecordError(f"{self.path} is left as it is: {error}. Upgrade wgan-sweep to use it") from None
        except UnreadableError as error:
            raise UnreadableError(f"{error}: try again when it can be read") from error
        except (TypeError, AttributeError, ValueError, KeyError, OSError, RecursionError) as error:
            raise InputError(
                f"{self.record} is not a run's record ({type(error).__name__}: {error}): "
                "move it away to start the run anew"
            ) from error

    def require_record(self) -> Record:
        """Return the record.

        Raises:
            InputError: if there is none, or it cannot be read.
        """
        record = self.read_record()
        if record is None:
            raise InputError(f"{self.path} is not a run's directory: it has no {self.record.name}; give RUNS/<run_id>")
        return record

    def measurements(self) -> list[dict[str, float]]:
        """Return the lines of measurements, for work that must not lose any; none if there is no file.

        Lines that are incomplete, as after a kill, or damaged are skipped.

        Raises:
            InputError: if the file cannot be read.
        """
        try:
            return [*self._lines()]
        except InputError as error:
            raise InputError(
                f"{error}: try again when it can be read, or move it away to go on without its measurements"
            ) from error

    def read_metrics(self) -> Iterator[dict[str, float]]:
        """Yield the lines of measurements, as `measurements`, for reports: a file that cannot be read has none."""
        try:
            yield from self._lines()
        except InputError as error:
            log.warning("%s: its measurements are left out", error)

    def _lines(self) -> Iterator[dict[str, float]]:
        try:
            text = read_bytes(self.metrics, MAX_METRICS_BYTES).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from _complete_lines(text)

    def last_metrics(self) -> dict[str, float]:
        """Return the latest value of each measurement, reading only the end of the file."""
        try:
            if not self.metrics.is_file():
                return {}
            with self.metrics.open("rb") as opened:
                opened.seek(max(0, self.metrics.stat().st_size - TAIL_BYTES))
                text = opened.read(TAIL_BYTES).decode(errors="replace")
        except OSError:
            return {}
        return {name: value for line in _complete_lines(text) for name, value in line.items()}


class FoundRuns(NamedTuple):
    """The runs in a folder."""

    records: list[Record]
    """In the order in which the runs were started."""
    problems: list[str]
    """A line for each record that cannot be read."""
    outdated: list[str]
    """The names of directories that were written by wgan-sweep 0.1."""
    copies: list[str]
    """The names of directories that hold a run of another name: it would count twice."""

    @property
    def notes(self) -> list[str]:
        """What a report says of the directories that it leaves out, beside the problems."""
        outdated = (
            f"left out, since wgan-sweep 0.1 wrote {'it' if len(self.outdated) == 1 else 'them'}: "
            f"{', '.join(self.outdated)}; read with that version, or move away"
        )
        copies = (
            f"left out, since a run counts only in the directory of its own name: {', '.join(self.copies)}; remove "
            "copies, or move them away"
        )
        return [outdated] * bool(self.outdated) + [copies] * bool(self.copies)


def find_runs(runs: Path) -> FoundRuns:
    """Return the records of the runs in a folder; a directory that is being removed, whose name is hidden, is none.

    Raises:
        InputError: if the folder cannot be read.
    """
    began = time.monotonic()
    records: list[Record] = []
    problems: list[str] = []
    outdated: list[str] = []
    copies: list[str] = []
    try:
        paths = sorted(path for path in runs.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{runs} cannot be read ({error.strerror}): give a folder of runs") from error
    for path in paths:
        try:
            record = RunDir(path).read_record() if path.is_dir() else None
        except OutdatedRecordError:
            outdated.append(path.name)
        except (InputError, OSError) as error:
            problems.append(str(error))
        else:
            if record is not None and record.run_id == path.name:
                records.append(record)
            elif record is not None:
                copies.append(path.name)
    records.sort(key=lambda record: record.start_order)
    log.debug("%s: the records of %d directories are read in %.2f s", runs, len(paths), time.monotonic() - began)
    return FoundRuns(records, problems, outdated, copies)
