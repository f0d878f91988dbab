"""Archives: what runs measured, in one file without weights.

An archive is gzip-compressed text with one line per run, in the order of the ids. Each line is a JSON object with the
version of the format, the run (its record, the text of its config, its measurements, and a small picture of its last
samples), and a checksum of the run. Further lines hold the decisions of the sweeps that trained these runs until claims
were decided. The same runs give the same bytes. An archive is untrusted data: it is read strictly, and nothing in it is
run.
"""

import base64
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from wgan_sweep.common.files import atomic_replacement
from wgan_sweep.common.ranges import LARGEST_INT, Range, check_value
from wgan_sweep.common.reading import open_regular, read_document
from wgan_sweep.config.keys import overridden_key
from wgan_sweep.errors import InputError, one_line
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import NewerRecordError, Record
from wgan_sweep.runs.requests import DECISION, SWEEPS, decision_files

FORMAT = 1
"""Version of the format of a run's line."""
DECISION_FORMAT = 2
"""Version of the format of a decision's line, which versions that read only runs refuse."""
SUFFIX = ".jsonl.gz"
MAX_LINE_BYTES = 256 * 2**20
"""The largest line that is written or read; 100,000 lines of measurements have some 50 MB."""
MAX_ARCHIVE_BYTES = 16 * 2**30
"""How much of an archive is decompressed."""
MAX_NAME = 255
"""The longest run id: a file system takes no longer name."""
AGAIN = "copy the file again, or make it again with `wgan-runs archive`"


@dataclass(frozen=True)
class Samples:
    """A picture of samples."""

    step: int
    """The step of the run that made them."""
    png: bytes
    """The picture, reduced."""


@dataclass(frozen=True)
class ArchiveEntry:
    """What an archive holds of a run."""

    record: Record
    config: str | None
    """The text of ``config.yaml``."""
    metrics: list[dict[str, float]]
    """The lines of ``metrics.jsonl``."""
    samples: Samples | None
    """The last samples."""

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON value."""
        samples = self.samples and {"step": self.samples.step, "png": base64.b64encode(self.samples.png).decode()}
        return {"record": asdict(self.record), "config": self.config, "metrics": self.metrics, "samples": samples}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the run that a JSON value describes.

        Raises:
            NewerRecordError: for a record of a later version.
            TypeError, ValueError, KeyError, AttributeError: if the value is not a run.
        """
        record = Record.from_json(values["record"])
        if len(record.run_id) > MAX_NAME:
            raise ValueError(f"its run_id has {len(record.run_id)} characters")
        check_value(values["config"], str | None, "config")
        check_value(values["metrics"], list, "metrics")
        for line in values["metrics"]:
            if type(line["step"]) is not int or not all(type(value) in (int, float) for value in line.values()):
                raise ValueError("a line of its metrics is not of numbers with a step")
        samples = values["samples"]
        if samples is not None:
            check_value(samples["step"], Annotated[int, Range(0, LARGEST_INT)], "samples.step")
            samples = Samples(samples["step"], base64.b64decode(samples["png"], validate=True))
        return cls(record, values["config"], values["metrics"], samples)

    @classmethod
    def from_directory(cls, record: Record, directory: RunDir, *, pictures: bool = True) -> Self:
        """Return what an archive holds of the run in a directory.

        Args:
            record: The record of the run.
            directory: The directory.
            pictures: Whether it holds a picture of the last samples.

        Raises:
            InputError: if its measurements cannot be read.
        """
        try:
            config = read_document(directory.config)
        except (FileNotFoundError, InputError):
            config = None
        samples = _reduced_samples(directory) if pictures else None
        text = config and _PLACES_IN_TEXT.sub("", config)
        return cls(_without_places(record), text, directory.measurements(), samples)

    def write(self, directory: RunDir) -> None:
        """Write the files of the run to a directory, which is created."""
        directory.path.mkdir()
        directory.record.write_text(json.dumps(asdict(self.record)))
        if self.config is not None:
            directory.config.write_text(self.config, encoding="utf-8")
        directory.metrics.write_text("".join(json.dumps(line) + "\n" for line in self.metrics))
        if self.samples is not None:
            path = directory.samples(self.samples.step)
            path.parent.mkdir()
            path.write_bytes(self.samples.png)


_PLACES = ("runs", "archive")
"""The keys of the folder of runs and of the archive that the sweep read: paths of one machine."""
_PLACES_IN_TEXT = re.compile(rf"^(?:{'|'.join(_PLACES)}): .*\n(?: .*\n)*", re.MULTILINE)
"""Their lines in the text of a config. YAML folds a long path with spaces over several lines."""


def _without_places(record: Record) -> Record:
    return replace(
        record,
        config={key: value for key, value in record.config.items() if key not in _PLACES},
        overrides=[override for override in record.overrides if overridden_key(override) not in _PLACES],
    )


@dataclass(frozen=True)
class ArchivedDecision:
    """What a sweep that trained until its claims were decided has recorded."""

    sweep: str
    """The name of the sweep's folder."""
    decision: dict[str, Any]
    """The content of its ``decision.json``."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the decision that a JSON value describes.

        Raises:
            TypeError, ValueError, KeyError: if the value is not a decision.
        """
        name, decision = values["name"], values["decision"]
        check_value(name, str, "name")
        check_value(decision, dict[str, Any], "decision")
        if not name or len(name) > MAX_NAME or name.startswith(".") or set(name) & set("/\\\0"):
            raise ValueError(f"{name!r} is not the name of a sweep's folder")
        check_value(decision.get("runs"), list[str], "decision.runs")
        return cls(name, decision)

    @classmethod
    def from_directory(cls, sweep: Path) -> Self | None:
        """Return the decision in the folder of a sweep; None if it has none that can be read."""
        try:
            return cls.from_json({"name": sweep.name, "decision": json.loads(read_document(sweep / DECISION))})
        except (OSError, InputError, TypeError, ValueError, KeyError, RecursionError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the decision as a JSON value."""
        return {"name": self.sweep, "decision": self.decision}

    def write(self, runs: Path) -> None:
        """Write it to the folder of its sweep, in a folder of runs, unless there is one."""
        path = runs / SWEEPS / self.sweep / DECISION
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.decision), encoding="utf-8")


def _reduced_samples(directory: RunDir) -> Samples | None:
    from wgan_sweep.common.pictures import open_thumbnail

    path = directory.last_samples()
    thumbnail = None if path is None else open_thumbnail(path)
    if path is None or thumbnail is None:
        return None
    buffer = io.BytesIO()
    thumbnail.save(buffer, "png")
    return Samples(int(path.stem), buffer.getvalue())


def _checksum(content: Any) -> str:
    """Return the SHA-256 of the JSON of a run or a decision, in hex."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _line(version: int, key: str, content: Any) -> str:
    return json.dumps({"format": version, "sha256": _checksum(content), key: content}, separators=(",", ":"))


def _decisions_on(records: Sequence[Record], folder: Path) -> list[ArchivedDecision]:
    """Return the decisions of the sweeps of a folder that are about some of these runs, in the order of their names."""
    names = {record.run_id for record in records}
    found = [ArchivedDecision.from_directory(path.parent) for path in decision_files(folder)]
    return [decision for decision in found if decision and not names.isdisjoint(decision.decision["runs"])]


def write_archive(path: Path, folder: Path, records: Sequence[Record], *, pictures: bool = True) -> list[str]:
    """Write an archive of runs and of the decisions of their sweeps, atomically.

    Args:
        path: The archive.
        folder: The folder of the run directories.
        records: The records of the runs.
        pictures: Whether it holds a picture of each run's last samples.

    Returns:
        A line for each run that has lost measurements: fewer are left, and archived, than its record counts.

    Raises:
        InputError: if a run is too large, or its measurements cannot be read; an earlier archive stays as it is.
    """
    losses: list[str] = []
    with (
        atomic_replacement(path) as temporary,
        temporary.open("wb") as file,
        # Without the name of the temporary file and the time, which are not of the runs.
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as archive,
    ):
        for record in sorted(records, key=lambda record: record.run_id):
            try:
                run = ArchiveEntry.from_directory(record, RunDir(folder / record.run_id), pictures=pictures)
            except InputError as error:
                raise InputError(f"run {record.run_id} cannot be archived, and nothing is written: {error}") from error
            if len(run.metrics) < record.metrics_lines:
                losses.append(
                    f"run {record.run_id} has lost measurements: {len(run.metrics):,} lines are archived, and its "
                    f"record counts {record.metrics_lines:,}"
                )
            line = _line(FORMAT, "run", run.to_json())
            if len(line) >= MAX_LINE_BYTES:
                raise InputError(
                    f"run {record.run_id} has {len(line):,} bytes, more than the {MAX_LINE_BYTES:,} that an archive "
                    "holds of a run: leave it out"
                )
            archive.write(f"{line}\n".encode())
        for decision in _decisions_on(records, folder):
            archive.write(f"{_line(DECISION_FORMAT, 'sweep', decision.to_json())}\n".encode())
    return losses


def read_archive(path: Path) -> Iterator[ArchiveEntry]:
    """Yield the runs of an archive.

    Raises:
        InputError: as `read_content`.
    """
    return (item for item in read_content(path) if isinstance(item, ArchiveEntry))


def read_content(path: Path) -> Iterator[ArchiveEntry | ArchivedDecision]:
    """Yield the runs of an archive, and the decisions of their sweeps.

    Raises:
        InputError: naming the first line that is damaged, if it cannot be read, or if a later version wrote it.
    """
    if not path.exists():
        raise InputError(f"there is no archive {path}: make one with `wgan-runs archive -o FILE`, or give another path")
    lines_by_id: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}: line {number}"
        try:
            item = _parse(line)
        except NewerRecordError as error:
            raise InputError(f"{where} cannot be read: {error}. Upgrade wgan-sweep to read it") from error
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
            raise InputError(f"{where} is not a run of an archive ({reason}): {AGAIN}") from error
        if isinstance(item, ArchiveEntry):
            # Some file systems do not distinguish upper and lower case.
            first = lines_by_id.setdefault(item.record.run_id.casefold(), number)
            if first != number:
                raise InputError(f"{where} holds run {item.record.run_id}, as line {first} does: remove one of them")
        yield item


def _parse(line: bytes) -> ArchiveEntry | ArchivedDecision:
    values = json.loads(line)
    check_value(values["format"], int, "format")
    if values["format"] > DECISION_FORMAT:
        known = f"this version reads formats up to {DECISION_FORMAT}"
        raise NewerRecordError(f"its format is {values['format']}, and {known}")
    is_decision = values["format"] == DECISION_FORMAT
    content = values["sweep" if is_decision else "run"]
    if _checksum(content) != values["sha256"]:
        raise ValueError("its checksum is wrong")
    return ArchivedDecision.from_json(content) if is_decision else ArchiveEntry.from_json(content)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an archive with their numbers, within the limits of size."""
    total = 0
    number = 1
    with open_regular(path) as file, gzip.GzipFile(fileobj=file) as archive:
        while True:
            try:
                line = archive.readline(MAX_LINE_BYTES + 1)
            except (EOFError, OSError, zlib.error) as error:
                raise InputError(f"{path}: line {number} cannot be read ({one_line(error)}): {AGAIN}") from error
            if not line:
                return
            total += len(line)
            if len(line) > MAX_LINE_BYTES or total > MAX_ARCHIVE_BYTES:
                limit, what = (MAX_ARCHIVE_BYTES, "an archive") if total > MAX_ARCHIVE_BYTES else (MAX_LINE_BYTES, "it")
                raise InputError(
                    f"{path}: line {number} is too large, since {what} may have {limit:,} bytes when decompressed: "
                    "leave runs out"
                )
            yield number, line
            number += 1


def unpack(path: Path, folder: Path, wanted: Callable[[Record], bool] = lambda _: True) -> list[Record]:
    """Write runs of an archive to a folder, as run directories without checkpoints; return their records.

    The decisions of their sweeps are written as well.

    Args:
        path: The archive.
        folder: An existing folder.
        wanted: Returns whether a run is wanted, by its record; by default, all are.

    Raises:
        InputError: as `read_archive`, or if a file cannot be written.
    """
    records = []
    for item in read_content(path):
        try:
            if isinstance(item, ArchivedDecision):
                item.write(folder)
            elif wanted(item.record):
                item.write(RunDir(folder / item.record.run_id))
                records.append(item.record)
        except OSError as error:
            raise InputError(
                f"{path} cannot be unpacked into {folder} ({one_line(error)}): free space there, or choose another "
                "folder for temporary files by TMPDIR"
            ) from error
    return records
