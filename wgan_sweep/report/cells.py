"""Runs by their place on the axes that vary: mean and spread over seeds, and what is missing."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wgan_sweep.config.keys import overridden_key
from wgan_sweep.runs.coordinates import MEASURED_WITH, SCORED_IN, coordinates
from wgan_sweep.runs.record import SELECTION_METRICS, Record, Status, selection_metric

NAMES = {"fid": "FID", "kid": "KID", "w1": "W1", "w2": "W2"}

Key = tuple[str, ...]
NO_VALUE = "-"
"""The place of a run on an axis that it does not have: a gradient penalty has no k."""


def _overridden(record: Record) -> set[str]:
    return {overridden_key(override) for override in record.overrides}


def axes(records: Sequence[Record]) -> list[str]:
    """Return the axes that vary among runs, the slowest first.

    These are the keys that a user set and that differ; and of the other keys that differ, as many as it takes to tell
    runs apart that are otherwise in one place (a loss brings its optimizer: that is no axis of its own).
    """
    places = [coordinates(record) for record in records]
    keys = list(dict.fromkeys(key for place in places for key in place))
    varying = [key for key in keys if len({place.get(key) for place in places}) > 1]
    typed = set().union(*(_overridden(record) for record in records)) if records else set()
    found = [key for key in varying if key in typed]
    together = [*MEASURED_WITH, *(f"scored {name}" for name in SCORED_IN)]

    def groups(by: Iterable[str]) -> int:
        return len({tuple(place.get(key) for key in by) for place in places})

    for key in varying:
        if key not in found and key not in together and groups([*found, key]) > groups(found):
            found.append(key)
    return found + [key for key in together if key in varying and _mixed(places, key)]


def _mixed(places: Sequence[Mapping[str, str]], key: str) -> bool:
    """Say whether a key takes two values among the runs that have it (a failed run has none)."""
    return len({place[key] for place in places if key in place}) > 1


@dataclass(frozen=True)
class Cell:
    """The runs in one place on all axes but the seed."""

    records: tuple[Record, ...]
    metric: str = "fid"
    """The score that is shown."""

    @property
    def _scored(self) -> list[Record]:
        return [
            r for r in self.records if r.status == Status.DONE and math.isfinite(r.scores.get(self.metric, math.nan))
        ]

    @property
    def values(self) -> list[float]:
        """Scores of the finished runs."""
        return [record.scores[self.metric] for record in self._scored]

    @property
    def mean(self) -> float | None:
        """Their mean."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Their sample standard deviation, from two on."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def others(self) -> dict[str, int]:
        """How many runs have no score, by status (a finished run without one counts as ``unscored``)."""
        left = [r for r in self.records if r not in self._scored]
        return dict(Counter("unscored" if r.status == Status.DONE else str(r.status) for r in left))

    def text(self) -> str:
        """Return ``mean ± sd (n)`` and what else there is; ``missing`` where no run was started."""
        if not self.records:
            return "missing"
        parts = []
        if self.mean is not None:
            digits = ".2f" if self.metric == "fid" else ".4g"
            spread = f" ± {self.sd:{digits}}" if self.sd is not None else ""
            parts.append(f"{self.mean:{digits}}{spread} (n={len(self.values)})")
        parts += [f"{count} {status}" for status, count in self.others.items()]
        return ", ".join(parts)


def _size(value: str) -> float:
    """Return the number that a value is; what is none comes last."""
    try:
        return float(value)
    except ValueError:
        return math.inf


def shown_metric(records: Sequence[Record], metric: str | None) -> str:
    """Return the score that runs are shown by: the one that is asked for, or the one that they are judged by."""
    return metric or selection_metric({name: 0.0 for record in records for name in record.scores}) or SELECTION_METRICS[0]


def _key(record: Record, axes: Sequence[str]) -> Key:
    place = coordinates(record)
    return tuple(place.get(axis, NO_VALUE) for axis in axes)


@dataclass(frozen=True)
class Report:
    """Runs, by their place on the axes."""

    axes: list[str]
    cells: dict[Key, Cell]
    records: list[Record]
    metric: str = "fid"

    def place(self, record: Record) -> Key:
        """Return a run's place on the axes."""
        return _key(record, self.axes)

    def values(self, axis: int) -> list[str]:
        """Return the values on an axis: numbers by size, options in the order they were run."""
        found = list(dict.fromkeys(key[axis] for key in self.cells))
        return sorted(found, key=_size) if any(_size(value) < math.inf for value in found) else found


def group_runs(records: Sequence[Record], metric: str | None = None) -> Report:
    """Sort runs into cells.

    Args:
        records: The runs.
        metric: The score to show; by default the one that the runs are judged by (FID where there is any).
    """
    metric = shown_metric(records, metric)
    found = axes(records)
    cells: dict[Key, list[Record]] = {}
    for record in records:
        cells.setdefault(_key(record, found), []).append(record)
    return Report(found, {key: Cell(tuple(members), metric) for key, members in cells.items()}, list(records), metric)
