"""A claim in a setting: the runs that can be compared, those that were lost, and the test of the claim."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from wgan_sweep.config.keys import find_key
from wgan_sweep.config.players import player_node
from wgan_sweep.report.curves import Curve, Curves
from wgan_sweep.report.inference.comparisons import Unpaired
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
OBJECTIVE = frozenset({"loss", "constraint", "sampling", "div"})
"""The config groups that make up the objective: a loss brings its constraint, and refers to r(x), k and p."""


@dataclass(frozen=True)
class LostRun:
    """A run without a result: it diverged or failed, or it is done and lacks the value that is compared."""

    coordinates: Mapping[str, str]
    record: Record

    def is_of(self, cell: Coordinates) -> bool:
        """Whether it belongs to a cell of finished runs, whose coordinates also say how they were scored."""
        return {axis: value for axis, value in cell if axis not in SCORING_AXES} == self.coordinates


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
    ends: Mapping[str, int] = field(default_factory=dict)
    """The steps of those results after which the run was continued, by run id: its curve ends there."""

    def curve(self, run_id: str, *names: str) -> Curve:
        """Return the curve of distinct names of a run, up to the result that counts in the setting."""
        curve = self.curves.along(run_id, *names)
        return curve.until(self.ends[run_id]) if run_id in self.ends else curve

    def counting_pruned(self) -> "Setting":
        """Return the setting with pruned runs as if they had finished with the worst value."""
        cells = {**self.cells, **self.pruned}
        merged = {cell: [*self.pruned.get(cell, ()), *self.cells.get(cell, ())] for cell in cells}
        return replace(self, cells=merged, pruned={})

    def with_common_seeds(self, cells: Iterable[Coordinates]) -> "Setting":
        """Return the setting with those runs of the cells whose seed all of them have, in the order of the seeds."""
        by_seed = {
            cell: {as_text(run.config["seed"]): run for run in self.cells[cell] if "seed" in run.config}
            for cell in cells
        }
        common = sorted(set.intersection(*(set(runs) for runs in by_seed.values())))
        paired = {cell: [runs[seed] for seed in common] for cell, runs in by_seed.items()}
        return replace(self, cells={**self.cells, **paired})

    @property
    def without_value(self) -> list[LostRun]:
        """All runs that could have a value of the metric and have none."""
        return [*self.lost, *self.unscored]

    def values(self, cells: Iterable[Coordinates]) -> Samples:
        """Return the metric values of cells."""
        return [[record.scores[self.metric] for record in self.cells[cell]] for cell in cells]


@dataclass(frozen=True)
class ClaimTest:
    """The test of a claim in one setting."""

    runs: Sequence[str]
    """Ids of the compared runs."""
    seeds: int
    """Seeds of the cell with the fewest."""
    evidence_at: Callable[[float], Evidence]
    """Tests the claim at an error rate, which sets the width of the interval."""
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
    left_out: Sequence[str] = ()
    """Ids of finished runs of its cells that are not compared, since not all cells have their seeds."""


class Claim(Protocol):
    """A statement about cells."""

    @property
    def claim(self) -> str:
        """The statement, in words."""

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if the setting lacks cells on one side."""


def matches(coordinates: Mapping[str, str], selector: Selector) -> bool:
    """Whether a run with these coordinates is selected."""
    return all(
        coordinates.get(axis) in {as_text(value), *(map(as_text, value) if isinstance(value, list) else ())}
        for axis, value in selector.items()
    )


def select(cells: Cells, selector: Selector) -> list[Coordinates]:
    """Return the cells that are selected."""
    return [cell for cell in cells if matches(dict(cell), selector)]


def select_sides(cells: Cells, claimed: Selector, than: Selector) -> tuple[list[Coordinates], list[Coordinates]]:
    """Return the claim's own cells, and those that they are compared with, without the own ones."""
    own = select(cells, claimed)
    return own, [cell for cell in select(cells, than) if cell not in own]


def lost_runs(
    lost: Iterable[LostRun], selector: Selector, cells: Sequence[Coordinates], others: Sequence[Coordinates] = ()
) -> list[LostRun]:
    """Return the lost runs of one side of a comparison.

    A lost run is left out if it differs from a compared cell, of either side, only on axes on which all compared cells
    have the same value: a run that failed at another learning rate says nothing about them. An axis that the selector
    names or that only one side has does not count, and neither does any axis of a single compared cell. So the runs of
    a cell that failed altogether are kept, also those of a loss that brings another number of critic updates.

    Args:
        lost: The lost runs.
        selector: Selects those of the side.
        cells: The compared cells of the side.
        others: Those of the other side.
    """
    compared = [dict(cell) for cell in (*cells, *others)]
    first, *rest = compared
    common = {
        axis: value
        for axis, value in first.items()
        if rest and axis not in SCORING_AXES and axis not in selector and all(cell.get(axis) == value for cell in rest)
    }

    def is_elsewhere(coordinates: Mapping[str, str]) -> bool:
        return not common.items() <= coordinates.items() and any(
            all(axis in common or axis in SCORING_AXES or coordinates.get(axis) == cell[axis] for axis in cell)
            for cell in compared
        )

    return [run for run in lost if matches(run.coordinates, selector) and not is_elsewhere(run.coordinates)]


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


def other_differences(
    cells: Cells, own: Iterable[Coordinates], rivals: Iterable[Coordinates], *selectors: Selector
) -> list[str]:
    """Return, as a sentence, the axes by which two sides differ and which no selector names; empty if there are none.

    An effect may come from these as well: a loss brings its published optimizer and number of critic updates. An axis
    that has the same values on both sides is not among them, and neither are options that differ in name only.

    Args:
        cells: All cells, with their runs.
        own: The cells of one side.
        rivals: Those of the other side.
        *selectors: What the claim says about both sides.
    """
    named = {axis for selector in selectors for axis in selector}
    chosen = {axis.partition(".")[0] for axis in named}
    unnamed = set[str]()
    if chosen & OBJECTIVE:
        named |= OBJECTIVE
        if "loss" not in chosen:
            unnamed = {"loss", "constraint"} - chosen  # r(x), k and p choose neither
    first, second = (_values_by_axis({cell: cells[cell] for cell in side}) for side in (own, rivals))
    differing = {
        axis: f"({', '.join(first[axis].values())}, against {', '.join(second[axis].values())})"
        for axis in first
        if (axis in unnamed or not any(_is_part_of(axis, name) for name in named))
        and axis in second
        and first[axis].keys() != second[axis].keys()
    }
    shown = [
        f"{axis} {values}"
        for axis, values in differing.items()
        if _of_both_players(axis) == axis or differing.get(_of_both_players(axis)) != values
    ]
    return [f"the two sides also differ in {'; '.join(shown)}"] if shown else []


def _is_part_of(axis: str, name: str) -> bool:
    return any(f"{either}.".startswith(f"{name}.") for either in (axis, _of_both_players(axis)))


def _of_both_players(axis: str) -> str:
    """Return the axis of both players that one of a single player, such as ``critic_optimizer.lr``, belongs to."""
    group, dot, key = axis.partition(".")
    return f"{find_key(group).shared_group or group}{dot}{key}"


def _values_by_axis(cells: Cells) -> dict[str, dict[str, str]]:
    """Return the values on each axis, by what tells them apart: of an option, the target instead of its name."""
    values: dict[str, dict[str, str]] = {}
    for cell, records in cells.items():
        for axis, value in cell:
            values.setdefault(axis, {})[_target(records[0].config, axis) or value] = value
    return values


def _target(config: Mapping[str, Any], axis: str) -> str:
    """Return the target of the option that an axis names; empty if the axis is not a group."""
    key = find_key(axis)
    node = player_node(config, axis) if key.shared_group and key.name == axis else config.get(axis)
    return str(node.get("_target_", "")) if isinstance(node, Mapping) else ""


def claim_test_of_cells(
    setting: Setting,
    cells: Sequence[Coordinates],
    *,
    why: str = "",
    too_few: str = Unpaired.too_few,
    **parts: Any,
) -> ClaimTest:
    """Return the test of a claim about the runs of cells; each cell needs `MIN_SEEDS` seeds.

    Args:
        setting: The setting.
        cells: All compared cells.
        why: Why it cannot be tested if there are enough seeds; empty if it can be.
        too_few: Why it cannot be tested if there are too few seeds.
        **parts: The other fields of `ClaimTest`.
    """
    runs = [record.run_id for cell in cells for record in setting.cells[cell]]
    seeds = min(len(setting.cells[cell]) for cell in cells)
    if seeds < MIN_SEEDS:
        why = too_few
    return ClaimTest(runs, seeds, why=why, cells=len(cells), **parts)
