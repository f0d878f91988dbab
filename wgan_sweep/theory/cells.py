"""Selects, groups and shows the runs of a sweep, for the figures of this package."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wgan_sweep.common.pictures import open_picture
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.text import SweepSummary, problems
from wgan_sweep.runs.coordinates import GROUPS
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status

if TYPE_CHECKING:
    from wgan_sweep.common.plots import Axes

Key = TypeVar("Key", bound=Hashable)


def scored_runs(records: Iterable[Record]) -> list[Record]:
    """Return the finished runs that have scores."""
    return [record for record in records if record.status == Status.DONE and record.scores]


def config_value(record: Record, key: str) -> Any:
    """Return a value of a run's config by its key, for example ``div.k``.

    Raises:
        InputError: if the run has no such key.
    """
    value: Any = record.config
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise InputError(f"it needs {key}, which run {record.run_id} does not have")
        value = value[name]
    return value


def metric_value(record: Record, metric: str) -> float:
    """Return the value of a metric of a run.

    Raises:
        InputError: if the run was not scored by it.
    """
    if metric not in record.scores:
        raise InputError(f"it needs the metric {metric}, which run {record.run_id} does not have")
    return record.scores[metric]


def loss_name(record: Record) -> str:
    """Return the name of a run's loss."""
    return str(record.config["choices"]["loss"])


def group_by(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Return runs grouped by a key, in the order in which the keys first occur."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def cells_by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the runs of each cell (all its seeds), keyed by the cell's values on the axes that vary."""
    grouped_runs = group_runs(records)

    def label(axis: str, value: str) -> str:
        return value if axis in GROUPS else f"{axis.split('.')[-1]}={value}"

    return {
        " ".join(map(label, grouped_runs.axes, key)) or "all": list(cell.records)
        for key, cell in grouped_runs.cells.items()
    }


def mean_metric(records: Sequence[Record], metric: str) -> float:
    """Return the mean of a metric over runs."""
    return sum(metric_value(record, metric) for record in records) / len(records)


def mean_and_sd(values: Sequence[float], digits: int) -> str:
    """Return mean ± sample standard deviation, as text; ``-`` for no values."""
    if not values:
        return "-"
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{sd}"


def show_last_samples(ax: "Axes", record: Record, runs: Path) -> None:
    """Show the last picture of a run's samples in a panel, if there is one that can be read."""
    picture = RunDir(runs / record.run_id).last_samples()
    image = None if picture is None else open_picture(picture)
    if image is not None:
        ax.imshow(image)


def summary_without_runs(records: Sequence[Record], notes: Sequence[str] = ()) -> SweepSummary:
    """Return the summary of a sweep without runs to show: the reasons, and no figure.

    Args:
        records: The runs.
        notes: Why finished runs are left out, if there are any.
    """
    is_done = any(record.status == Status.DONE for record in records)
    first = "No finished run has what this figure shows." if is_done else "No run is done."
    return SweepSummary("\n".join([first, *notes, *problems(records)]) + "\n")
