"""The runs of a sweep, as the figures here look at them."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from wgan_sweep.report.cells import GROUPS, report
from wgan_sweep.report.text import SweepSummary, problems
from wgan_sweep.runs.directory import Record, Status

Place = TypeVar("Place", bound=Hashable)


def done(records: Iterable[Record]) -> list[Record]:
    """Return the runs that are at their end and have scores."""
    return [record for record in records if record.status == Status.DONE and record.scores]


def setting(record: Record, key: str) -> Any:
    """Return a value of a run's config by its key, for example ``div.k``."""
    value: Any = record.config
    for name in key.split("."):
        value = value[name]
    return value


def loss(record: Record) -> str:
    """Return the loss of a run, by name."""
    return str(record.config["choices"]["loss"])


def grouped(records: Iterable[Record], place: Callable[[Record], Place]) -> dict[Place, list[Record]]:
    """Return runs by a place of theirs (those of several seeds share it), in the order of the places."""
    found: dict[Place, list[Record]] = {}
    for record in records:
        found.setdefault(place(record), []).append(record)
    return found


def labelled(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return runs by the names of what varies among them, seeds together."""
    found = report(records)

    def named(axis: str, value: str) -> str:
        return value if axis in GROUPS else f"{axis.split('.')[-1]}={value}"

    return {" ".join(map(named, found.axes, key)) or "all": list(cell.records) for key, cell in found.cells.items()}


def mean(records: Sequence[Record], score: str) -> float:
    """Return the mean of a score over runs."""
    return sum(record.scores[score] for record in records) / len(records)


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± sample standard deviation, as text; ``-`` for no values."""
    if not values:
        return "-"
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{sd}"


def nothing_done(records: Iterable[Record]) -> SweepSummary:
    """Return what a sweep ends in of which no run is done: the reasons."""
    return SweepSummary("\n".join(["No run is done.", *problems(records)]) + "\n")
