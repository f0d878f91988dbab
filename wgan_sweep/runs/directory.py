"""A run is a directory named by the hash of its science config; what is in it is the truth about it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from wgan_sweep.errors import InputError
from wgan_sweep.common.files import write


class Status(StrEnum):
    """How far a run has come."""

    NEW = "new"
    RUNNING = "running"
    """Started; not at its end yet, or interrupted."""
    DONE = "done"
    DIVERGED = "diverged"
    """A loss was not finite."""
    FAILED = "failed"
    """An exception ended it."""


def canonical(value: Any, key: str = "") -> Any:
    """Return `value` with one spelling per number (2.0 is 2) and lists for tuples, ready for JSON.

    Raises:
        InputError: for a number that is not finite.
    """
    if isinstance(value, Mapping):
        return {str(name): canonical(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, key) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{key or 'a config'} cannot be {value}: give a finite number")
        return int(value) if value.is_integer() else value
    return value


def run_id(science: Mapping[str, Any]) -> str:
    """Return the name of the run with this science config: 12 hex digits of a SHA-256."""
    text = json.dumps(canonical(science), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def overridden_key(override: str) -> str:
    """Return the key of a Hydra override: ``div.k`` of ``+div.k=1``, ``loss`` of ``loss@x=wgan``."""
    return override.lstrip("+~").split("=")[0].split("@")[0]


SELECTION_METRICS = ("fid", "w1", "kid")
"""Scores that a run is judged by, the first that it has; lower is better."""


def objective(scores: Mapping[str, float]) -> str | None:
    """Return the name of the score that a run is judged by, or None without any."""
    return next((name for name in SELECTION_METRICS if name in scores), None)


@dataclass
class Record:
    """What is known of a run, at every moment of it (``record.json``)."""

    run_id: str
    status: Status = Status.NEW
    overrides: list[str] = field(default_factory=list)
    """What the user typed when the run was started first."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved config."""
    step: int = 0
    """Generator updates done, as of the last save."""
    images_seen: int = 0
    """Real images that the critic was shown, as of the last save."""
    scores: dict[str, float] = field(default_factory=dict)
    """The last scores, with the step they were measured at."""
    best: dict[str, float] = field(default_factory=dict)
    """The scores of the step with the lowest objective (FID, or W1), with that step.

    Where there was a choice, they are of samples that had no part in it; ``chosen_by_<score>`` is what it was made by.
    """
    error: str | None = None
    """Why it failed or diverged; with the traceback where there is one."""
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    host: str = ""
    started: str | None = None
    """When it was started first (UTC, ISO 8601)."""
    finished: str | None = None
    """When it last ended, well or not."""
    seconds: float = 0.0
    """Time spent on it, in all sittings."""
    scored_by: dict[str, str] = field(default_factory=dict)
    """What the last scores say only together with: features, network, resize, real images, counts."""
    sweep: str | None = None
    """The sweep that it was started by first."""
    how: dict[str, str] = field(default_factory=dict)
    """What was chosen for the device, and why: precision, and whether iterations are a CUDA graph."""

    @property
    def reason(self) -> str | None:
        """The error's last line: of a traceback, the exception itself."""
        return self.error.strip().splitlines()[-1] if self.error else None


BYTES_LOOKED_AT = 16384
"""Of measurements, where only the last ones are wanted."""


def _measurements(text: str) -> Iterator[dict[str, float]]:
    """Yield the lines that are whole."""
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


@dataclass(frozen=True)
class RunDir:
    """The directory of a run, and the files of the contract in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config, as yaml."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """The run's record, as JSON."""
        return self.path / "record.json"

    @property
    def metrics(self) -> Path:
        """Measurements, a JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest score, where there was a choice (``scorer.every``)."""
        return self.path / "best.pt"

    @property
    def lock(self) -> Path:
        """Who is at it; beside the directory, which a run that is refused never gets."""
        return self.path.parent / ".locks" / f"{self.path.name}.lock"

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.path / "log.txt"

    def samples(self, step: int) -> Path:
        """Return the picture of samples at a step."""
        return self.path / "samples" / f"{step}.png"

    def last_samples(self) -> Path | None:
        """Return the newest picture of samples, if there is one."""
        pictures = [p for p in (self.path / "samples").glob("*.png") if p.stem.isdigit()]
        return max(pictures, key=lambda picture: int(picture.stem), default=None)

    def read_record(self) -> Record | None:
        """Return the record, or None where no run was started.

        Raises:
            InputError: if the file is there and is no record.
        """
        try:
            values = json.loads(self.record.read_text())
            known = {f.name for f in fields(Record)}
            record = Record(**{name: value for name, value in values.items() if name in known})
            record.status = Status(record.status)
            if not isinstance(record.config["scorer"], dict):
                raise TypeError("config.scorer is not a group")  # noqa: TRY301
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (TypeError, AttributeError, ValueError, KeyError, OSError) as error:
            raise InputError(
                f"{self.record} is not a run's record ({type(error).__name__}: {error}): "
                "move it away to start the run anew"
            ) from error
        return record

    def write_record(self, record: Record) -> None:
        """Replace the record, atomically."""
        write(self.record, json.dumps(asdict(record), indent=2) + "\n")

    def append_metrics(self, line: Mapping[str, float]) -> None:
        """Add one line of measurements."""
        with self.metrics.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def read_metrics(self) -> Iterator[dict[str, float]]:
        """Yield the lines of measurements; a last line that was cut off by a kill is passed over."""
        try:
            text = self.metrics.read_text()
        except FileNotFoundError:
            return
        yield from _measurements(text)

    def last_metrics(self) -> dict[str, float]:
        """Return the newest value of each measurement, from the end of the file alone: it may be looked at often."""
        try:
            with self.metrics.open("rb") as opened:
                opened.seek(max(0, self.metrics.stat().st_size - BYTES_LOOKED_AT))
                text = opened.read().decode(errors="replace")
        except FileNotFoundError:
            return {}
        return {name: value for line in _measurements(text) for name, value in line.items()}

    def truncate_metrics(self, step: int) -> None:
        """Drop measurements later than `step`, to which a run goes back: it makes them again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))


def find_runs(runs: Path) -> tuple[list[Record], list[str]]:
    """Return the records of the runs below a folder, in the order they were started, and what cannot be read."""
    found: list[Record] = []
    problems: list[str] = []
    for path in sorted(runs.iterdir()):
        try:
            record = RunDir(path).read_record() if path.is_dir() else None
        except InputError as error:
            problems.append(str(error))
        else:
            found += [record] if record else []
    return sorted(found, key=lambda record: (record.started or "", record.run_id)), problems
