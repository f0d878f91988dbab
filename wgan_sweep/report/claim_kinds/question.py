"""A claim in a setting: the runs that can be compared, those that were lost, and the question to be tested."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from wgan_sweep.report.curves import Curves
from wgan_sweep.report.inference.evidence import Evidence
from wgan_sweep.runs.coordinates import SCORING_AXES, as_text
from wgan_sweep.runs.record import Record

MIN_SEEDS = 2
"""Seeds that each cell needs."""
Selector = Mapping[str, Any]
"""Axes and the values that select cells. A list selects each of its values; an axis that is absent may have any."""
Coordinates = tuple[tuple[str, str], ...]
"""Axes and values of a cell, as a hashable tuple."""
Cells = Mapping[Coordinates, Sequence[Record]]
Samples = list[list[float]]
"""Metric values ``[cells][seeds]``."""


@dataclass(frozen=True)
class LostRun:
    """A run without a result: it diverged or failed, or it is done and lacks the value that is compared."""

    coordinates: Mapping[str, str]
    record: Record


@dataclass(frozen=True)
class Setting:
    """Comparable runs: on the same data and model, scored in the same way."""

    name: str
    metric: str
    cells: Cells
    """Finished runs with a value of the metric, one per seed."""
    lost: Sequence[LostRun]
    """Runs that diverged or failed at its step or before."""
    curves: Curves
    """The learning curves of its runs."""
    unscored: Sequence[LostRun] = ()
    """Runs that are done at its step and have no value of the metric."""
    pruned: Cells = field(default_factory=dict)
    """Pruned runs, in the cells that they belong to, with the worst value of the metric in the setting."""

    def counting_pruned(self) -> "Setting":
        """Return the setting with pruned runs as if they had finished with the worst value."""
        cells = {**self.cells, **self.pruned}
        merged = {cell: [*self.cells.get(cell, ()), *self.pruned.get(cell, ())] for cell in cells}
        return replace(self, cells=merged, pruned={})

    @property
    def without_value(self) -> list[LostRun]:
        """All runs that could have a value of the metric and have none."""
        return [*self.lost, *self.unscored]

    def values(self, cells: Iterable[Coordinates]) -> Samples:
        """Return the metric values of cells."""
        return [[record.scores[self.metric] for record in self.cells[cell]] for cell in cells]


@dataclass(frozen=True)
class Question:
    """A claim in one setting, ready to be tested."""

    runs: Sequence[str]
    """Ids of the compared runs."""
    seeds: int
    """Seeds of the cell with the fewest."""
    test: Callable[[float], Evidence]
    """Tests it at an error rate, which sets the width of the interval."""
    seeds_to_decide: Callable[[float], int | None]
    """Returns how many seeds per cell would decide the claim at an error rate; None if too many."""
    why: str = ""
    """Why it cannot be tested; empty if it can be."""
    lost: tuple[int, int] = (0, 0)
    """Runs without a result of the claim's own cells, and of those that they are compared with."""
    withheld: tuple[bool, bool] = (False, False)
    """Whether lost runs forbid to support, and to contradict, the claim."""
    details: Callable[[], list[str]] = field(default=list)
    """Returns further results, as sentences."""
    cells: int = 0
    """Number of cells whose runs are compared; 0 if runs are counted, whatever their cell."""
    fewest_cells: int = 2
    """Number of cells that it needs."""


class Claim(Protocol):
    """A statement about cells."""

    @property
    def claim(self) -> str:
        """The statement, in words."""

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if the setting lacks cells on one side."""


def matches(coordinates: Mapping[str, str], selector: Selector) -> bool:
    """Whether a run with these coordinates is selected."""
    return all(
        coordinates.get(axis) in {as_text(value), *(map(as_text, value) if isinstance(value, list) else ())}
        for axis, value in selector.items()
    )


def select(cells: Cells, selector: Selector) -> list[Coordinates]:
    """Return the cells that are selected."""
    return [cell for cell in cells if matches(dict(cell), selector)]


def lost_runs(
    lost: Iterable[LostRun], selector: Selector, cells: Sequence[Coordinates], others: Sequence[Coordinates] = ()
) -> list[LostRun]:
    """Return the lost runs of one side of a comparison.

    A lost run is left out if all compared cells, of both sides, have the same value on some axis, and the run has
    another one: a run that failed at another learning rate says nothing about them. An axis that only one side has
    does not count, and neither does any axis of a single compared cell. So the runs of a cell that failed altogether
    are kept.

    Args:
        lost: The lost runs.
        selector: Selects those of the side.
        cells: The compared cells of the side.
        others: Those of the other side.
    """
    first, *rest = (dict(cell) for cell in (*cells, *others))
    common = {
        axis: value
        for axis, value in first.items()
        if rest and axis not in SCORING_AXES and all(cell.get(axis) == value for cell in rest)
    }
    return [run for run in lost if matches(run.coordinates, selector) and common.items() <= run.coordinates.items()]


def lost_runs_of_sides(
    lost: Sequence[LostRun],
    own: Sequence[Coordinates],
    rivals: Sequence[Coordinates],
    claimed: Selector,
    than: Selector,
) -> tuple[list[LostRun], list[LostRun]]:
    """Return the lost runs of the claim's own cells and of those that they are compared with."""
    others = [run for run in lost if not matches(run.coordinates, claimed)]
    return lost_runs(lost, claimed, own, rivals), lost_runs(others, than, rivals, own)


def question_about(setting: Setting, cells: Sequence[Coordinates], *, why: str = "", **parts: Any) -> Question:
    """Return the question about the runs of cells; each cell needs `MIN_SEEDS` seeds.

    Args:
        setting: The setting.
        cells: All compared cells.
        why: Why it cannot be tested if there are enough seeds; empty if it can be.
        **parts: The other fields of `Question`.
    """
    runs = [record.run_id for cell in cells for record in setting.cells[cell]]
    seeds = min(len(setting.cells[cell]) for cell in cells)
    if seeds < MIN_SEEDS:
        why = f"a cell has only one seed: {MIN_SEEDS} or more are needed in each cell"
    return Question(runs, seeds, why=why, cells=len(cells), **parts)
