"""Runs grouped into cells by the axes that vary: means and standard deviations over seeds, and the best cells."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.keys import find_key, overridden_key
from wgan_sweep.errors import InputError
from wgan_sweep.runs.coordinates import MEASURED_WITH, SCORING_AXES, coordinates
from wgan_sweep.runs.record import SELECTION_METRICS, Record, Status, cost_sign, selection_metric
from wgan_sweep.runs.selection import stored_runs

METRIC_NAMES = {"fid": "FID", "kid": "KID", "w1": "W1", "w2": "W2"}
"""How reports write the names of metrics; other metrics keep theirs."""

Key = tuple[str, ...]
"""The values of a cell on the axes of its report."""
NO_VALUE = "-"
"""Value on an axis that a run does not have: a gradient penalty has no k, for example."""


def _overridden_keys(record: Record) -> set[str]:
    return {overridden_key(override) for override in record.overrides}


def axes(records: Sequence[Record]) -> list[str]:
    """Return the axes on which runs differ, in the order of their coordinates.

    These are the keys that differ and that were overridden, followed by as few other differing keys as are needed to
    separate the remaining runs. The optimizer that a loss selects, for example, is not an axis.
    """
    return axes_of_points(records, [coordinates(record) for record in records])


def axes_of_points(records: Sequence[Record], points: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the axes on which runs differ, as `axes`, from the coordinates of each."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    varying = [key for key in keys if len({point.get(key) for point in points}) > 1]
    overridden = set().union(*(_overridden_keys(record) for record in records)) if records else set()
    selected = [key for key in varying if key in overridden]
    selected = with_separating(points, selected, [key for key in varying if key not in SCORING_AXES])
    return selected + [key for key in SCORING_AXES if key in varying and _has_several_values(points, key)]


def with_separating(points: Sequence[Mapping[str, str]], axes: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return axes, followed by those of the others that separate points which the axes before them do not.

    Args:
        points: Coordinates of runs.
        axes: The axes that are chosen already.
        others: Further axes, the preferred ones first.
    """
    chosen = list(axes)

    def count_cells(keys: Iterable[str]) -> int:
        return len({tuple(point.get(key) for key in keys) for point in points})

    for key in others:
        if key not in chosen and count_cells([*chosen, key]) > count_cells(chosen):
            chosen.append(key)
    return chosen


def _has_several_values(points: Sequence[Mapping[str, str]], key: str) -> bool:
    """Whether a key has more than one value among the runs that have it (failed runs have no scoring axes)."""
    return len({point[key] for point in points if key in point}) > 1


def short_name(axis: str, axes: Sequence[str]) -> str:
    """Return the last part of a dotted axis, with its player if it belongs to one, unless another axis has the same."""
    name = _last_part(axis)
    return name if sum(_last_part(other) == name for other in axes) == 1 else axis


def _last_part(axis: str) -> str:
    """Return ``k`` of ``div.k``, and ``critic lr`` of ``critic_optimizer.lr``."""
    group, _, last = axis.rpartition(".")
    player = group.removesuffix(f"_{find_key(group).shared_group}") if group and find_key(group).shared_group else ""
    return f"{player} {last}".strip()


@dataclass(frozen=True)
class Cell:
    """The runs with the same values on all axes; they differ in their seeds."""

    records: tuple[Record, ...]
    metric: str = "fid"
    """The metric that is shown."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    """The statuses that are shown of runs, by id; by default those of their records."""

    def _has_value(self, record: Record) -> bool:
        return record.result_value(self.metric) is not None

    @property
    def values(self) -> list[float]:
        """Metric values of the runs that are done, or were done before they were continued."""
        values = (record.result_value(self.metric) for record in self.records)
        return [value for value in values if value is not None]

    @property
    def has_pruned_runs(self) -> bool:
        """Whether runs were pruned: the mean of the others is too favourable, since they were the better ones."""
        return any(record.status == Status.PRUNED and not self._has_value(record) for record in self.records)

    @property
    def comparable_with(self) -> Key:
        """What cells must share to be comparable: how they were measured, and the data. The cell has a value."""
        values = coordinates(next(record for record in self.records if self._has_value(record)))
        # A key with an entry of its own in the table, such as `data.flip`, changes how the data are trained on.
        shared = [key for key in values if key in SCORING_AXES or find_key(key).name == "data"]
        return tuple(f"{key}={values[key]}" for key in sorted(shared))

    @property
    def mean(self) -> float | None:
        """Mean of the values; None if there are none."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation of the values; None if there are fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def counts_without_value(self) -> dict[str, int]:
        """Number of runs without a value, by status; finished runs without a value count as ``unscored``."""
        return self._count(record for record in self.records if not self._has_value(record))

    @property
    def counts_continued(self) -> dict[str, int]:
        """Number of runs with a value that were continued since, and are not done, by status."""
        return self._count(r for r in self.records if self._has_value(r) and r.status != Status.DONE)

    def _count(self, records: Iterable[Record]) -> dict[str, int]:
        return dict(
            Counter(
                "unscored" if r.status == Status.DONE else self.statuses.get(r.run_id, str(r.status)) for r in records
            )
        )

    def text(self) -> str:
        """Return ``mean ± sd (n=...)``, the runs without a value, and those that are not done any more."""
        parts = []
        if self.mean is not None:
            digits = ".2f" if self.metric == "fid" else ".4g"
            spread = f" ± {self.sd:{digits}}" if self.sd is not None else ""
            parts.append(f"{self.mean:{digits}}{spread} (n={len(self.values)})")
        parts += [f"{count} {status}" for status, count in self.counts_without_value.items()]
        parts += [f"{count} {status} later" for status, count in self.counts_continued.items()]
        return ", ".join(parts)


def _sort_value(value: str) -> float:
    """Return the number that a text represents, or infinity if it is not a number."""
    try:
        return float(value)
    except ValueError:
        return math.inf


def shown_metric(records: Sequence[Record], metric: str | None) -> str:
    """Return the metric to show: the requested one, or by default the selection metric of the runs."""
    names = {name: 0.0 for record in records for name in (record.result or record).scores}
    return metric or selection_metric(names) or SELECTION_METRICS[0]


def check_metric(records: Sequence[Record], metric: str | None) -> None:
    """Check that a requested metric exists, if any run has metrics so far.

    Raises:
        InputError: if no run has it; the message names those that exist.
    """
    names = {name for record in records for name in (record.result or record).scores} - {*MEASURED_WITH}
    if metric is not None and names and metric not in names:
        raise InputError(
            f"no run has the metric {metric}: choose --metric from {', '.join(sorted(names))}"
            f"{did_you_mean(metric.lower(), names)}"
        )


class Standing(StrEnum):
    """How a cell's mean compares with the means of the cells that were measured in the same way on the same data."""

    BEST = "best"
    """The best mean of the cells with two seeds or more."""
    POSSIBLY_BEST = "possibly best"
    """Not significantly worse than the best, or the noise is not known: it has one seed, or pruned runs."""


@dataclass(frozen=True)
class Report:
    """Runs, grouped into cells."""

    axes: list[str]
    """The axes on which the runs differ."""
    cells: dict[Key, Cell]
    records: list[Record]
    """All runs."""
    metric: str = "fid"
    """The metric that is shown."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    """The statuses that are shown of runs, by id; by default those of their records."""

    def status(self, record: Record) -> str:
        """Return the status that is shown of a run."""
        return self.statuses.get(record.run_id, str(record.status))

    @cached_property
    def column_axis(self) -> int:
        """The axis whose values are the columns of a table: the one that leaves the fewest blanks, the last of several.

        There are two axes or more.
        """

        def count_places(axis: int) -> int:
            return len({key[:axis] + key[axis + 1 :] for key in self.cells}) * len(self.values(axis))

        return min(reversed(range(len(self.axes))), key=count_places)

    @cached_property
    def standings(self) -> dict[Key, Standing]:
        """The cells with the best mean, and those that cannot be distinguished from it over seeds.

        Cells are compared within groups that were measured in the same way on the same data. A group has marks if two
        of its cells have two seeds or more. A cell with pruned runs is at most possibly best. A metric of which neither
        low nor high values are better has no marks.
        """
        if (sign := cost_sign(self.metric)) is None:
            return {}
        groups: dict[Key, list[Key]] = {}
        for key, cell in self.cells.items():
            if cell.values:
                groups.setdefault(cell.comparable_with, []).append(key)
        found: dict[Key, Standing] = {}
        for keys in groups.values():
            tested = [key for key in keys if len(self.cells[key].values) > 1 and not self.cells[key].has_pruned_runs]
            if len(tested) < 2:
                continue
            from wgan_sweep.report.inference.means import possibly_lowest  # slow to import

            samples = {key: [sign * value for value in self.cells[key].values] for key in tested}
            excluded = {
                key for key, may_be in zip(tested, possibly_lowest([*samples.values()]), strict=True) if not may_be
            }
            found |= {key: Standing.POSSIBLY_BEST for key in keys if key not in excluded}
            found[min(tested, key=lambda key: statistics.fmean(samples[key]))] = Standing.BEST
        return found

    def key(self, record: Record) -> Key:
        """Return the key of the cell that a run belongs to."""
        return self._keys[id(record)]

    @cached_property
    def _keys(self) -> dict[int, Key]:
        return {id(record): key for key, cell in self.cells.items() for record in cell.records}

    @cached_property
    def sorted_keys(self) -> list[Key]:
        """The keys of the cells, by the ranks of their values on the axes."""
        ranks = [{value: rank for rank, value in enumerate(self.values(axis))} for axis in range(len(self.axes))]
        return sorted(self.cells, key=lambda key: [rank[value] for rank, value in zip(ranks, key, strict=True)])

    def values(self, axis: int) -> list[str]:
        """Return the values on an axis: numbers in rising order, options in the order of their first runs."""
        values = list(dict.fromkeys(key[axis] for key in self.cells))
        is_numeric = any(_sort_value(value) < math.inf for value in values)
        return sorted(values, key=_sort_value) if is_numeric else values


def group_runs(records: Sequence[Record], metric: str | None = None, runs: Path | None = None) -> Report:
    """Group runs into cells.

    Args:
        records: The runs.
        metric: The metric to show; by default the selection metric of the runs (FID if any run has one).
        runs: The folder of their run directories, whose locks tell which runs are dead; without it, statuses are those
            of the records.
    """
    metric = shown_metric(records, metric)
    points = [coordinates(record) for record in records]
    varying_axes = axes_of_points(records, points)
    members: dict[Key, list[Record]] = {}
    for record, point in zip(records, points, strict=True):
        members.setdefault(tuple(point.get(axis, NO_VALUE) for axis in varying_axes), []).append(record)
    statuses = {run.run_id: run.status for run in stored_runs(records, runs)} if runs is not None else {}
    cells = {key: Cell(tuple(cell_records), metric, statuses) for key, cell_records in members.items()}
    return Report(varying_axes, cells, list(records), metric, statuses)
