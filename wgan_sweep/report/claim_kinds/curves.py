"""Claims about learning curves: correlations along them, and the times at which they reach a goal."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.report.claim_kinds.bounds import Bound
from wgan_sweep.report.claim_kinds.claim import (
    ClaimTest,
    Selector,
    Setting,
    claim_test_of_cells,
    lost_runs,
    lost_runs_of_sides,
    other_differences,
    select,
    select_sides,
)
from wgan_sweep.report.curves import Curve
from wgan_sweep.report.inference import correlations, times
from wgan_sweep.runs.record import Record, Status

MIN_STEPS = 5
"""Steps that a curve needs for a correlation along it."""
UNITS: dict[str, Callable[[Record], float]] = {
    "steps": lambda _: 1.0,
    "hours": lambda record: record.hours() / max(1, record.step),
    "gpu_hours": lambda record: record.hours(per_gpu=True) / max(1, record.step),
}
"""The duration of a step of a run, by unit. Of the hours of a run, its steps have equal shares."""


@dataclass(frozen=True)
class Correlates:
    """Claims that two measurements of a run are correlated along its curve, in every cell.

    Lost runs forbid a verdict: their whole curves may be correlated otherwise.
    """

    claim: str
    first: str
    second: str
    cells: Selector
    """Selects the cells."""
    threshold: float = 0.0
    """The correlation beyond which the mean of each cell is claimed to lie."""
    below: bool = False
    """Whether it is claimed to lie below."""

    def __post_init__(self) -> None:
        """Refuse the same measurement twice."""
        if self.first == self.second:
            raise ValueError(f"correlates and with are both {self.first}: name two measurements")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it names."""
        return self.first, self.second

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if no cell is selected."""
        cells = select(setting.cells, self.cells)
        if not cells:
            return None
        curves = [[setting.curve(r.run_id, *self.metrics) for r in setting.cells[cell]] for cell in cells]
        every = [curve for cell in curves for curve in cell]
        fewest = min(len(curve.steps) for curve in every)
        few = (
            f"a run has {self.first} and {self.second} at {fewest} steps, fewer than {MIN_STEPS}: score more often "
            "(scorer.every=...)"
        )
        largest = correlations.largest_shown(fewest) if fewest >= MIN_STEPS else 1.0
        hidden = (
            f"curves of {fewest} steps cannot show that a correlation is beyond {self.threshold:g}: score more often "
            "(scorer.every=...)"
        )
        why = _unmeasured(self.metrics, every) or (
            few if fewest < MIN_STEPS else hidden if abs(self.threshold) >= largest else ""
        )
        lost = len(lost_runs(setting.without_value, self.cells, cells))
        sign = -1 if self.below else 1
        found = [] if why else [[_correlation(curve) for curve in cell] for cell in curves]
        z = [
            [sign * correlations.fisher_z(value, len(curve.steps)) for value, curve in zip(values, cell, strict=True)]
            for values, cell in zip(found, curves if found else [], strict=True)
        ]

        def details() -> list[str]:
            runs = sorted(value for values in found for value in values)
            steps = sorted({len(curve.steps) for curve in every})
            return [
                f"rank correlations of {self.first} and {self.second}: {runs[0]:.2f} to {runs[-1]:.2f}, median "
                f"{statistics.median(runs):.2f}, over {' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))} "
                "steps of each run"
            ]

        return claim_test_of_cells(
            setting,
            cells,
            why=why,
            evidence_at=lambda level: correlations.correlated(z, sign * self.threshold, level),
            seeds_to_decide=lambda level: correlations.seeds_for_correlation(z, sign * self.threshold, level),
            lost=(lost, 0),
            withheld=(lost > 0, lost > 0),
            details=details,
            fewest_cells=1,
        )


def _correlation(curve: Curve) -> float:
    first, second = curve.values.values()
    return correlations.rank_correlation(first, second)


@dataclass(frozen=True)
class Faster:
    """Claims that the runs of every cell of one kind reach a goal sooner than those of every cell of another kind.

    A run that does not reach it is censored at the last step at which all were scored. A lost run that had not reached
    it never will. Runs without a value forbid a verdict. Lost runs of cells without finished runs are not timed: the
    claim's own forbid to support it. The others forbid to contradict it, and also to support it if one of them reached
    the goal.
    """

    claim: str
    claimed: Selector
    """Selects the claim's own cells."""
    than: Selector
    """Selects the cells that they are compared with; the claim's own cells are left out."""
    goal: Bound
    unit: str = "steps"
    """One of `UNITS`."""

    def __post_init__(self) -> None:
        """Refuse an unknown unit."""
        if self.unit not in UNITS:
            raise ValueError(f"in_units_of={self.unit!r} is none of: {', '.join(UNITS)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it names."""
        return (self.goal.metric,)

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if the setting lacks cells on one side."""
        own, rivals = select_sides(setting.cells, self.claimed, self.than)
        if not own or not rivals:
            return None
        lost = lost_runs_of_sides(setting.lost, own, rivals, self.claimed, self.than)
        unscored = lost_runs_of_sides(setting.unscored, own, rivals, self.claimed, self.than)
        sides = [
            {cell: [*setting.cells[cell], *(run.record for run in runs if run.is_of(cell))] for cell in cells}
            for cells, runs in zip((own, rivals), lost, strict=True)
        ]
        records = [record for side in sides for cell in side.values() for record in cell]
        curves = {record.run_id: setting.curve(record.run_id, self.goal.metric) for record in records}
        steps = sorted(
            frozenset.intersection(*(frozenset(curves[r.run_id].steps) for r in records if r.status == Status.DONE))
        )
        why = self._why(records, curves, steps)
        first, second = (
            [
                [] if why else [self._time(record, curves[record.run_id], steps) for record in cell]
                for cell in side.values()
            ]
            for side in sides
        )
        # Lost runs of cells without finished runs are not among the times.
        apart = [
            [run.record for run in runs if not any(map(run.is_of, side))]
            for side, runs in zip(sides, lost, strict=True)
        ]
        hosts = {record.host for record in records}

        def details() -> list[str]:
            timed = (
                f"; they ran on {len(hosts)} hosts, whose speeds may differ"
                if self.unit != "steps" and len(hosts) > 1
                else ""
            )
            both = [_described(side, self.unit) for side in (first, second)]
            return [
                f"{self.goal} is reached by {both[0]}, against {both[1]}{timed}",
                *other_differences(setting.cells, own, rivals, self.claimed, self.than),
            ]

        return claim_test_of_cells(
            setting,
            [*own, *rivals],
            why=why,
            evidence_at=lambda level: times.sooner(first, second, level),
            seeds_to_decide=lambda level: times.seeds_for_times(first, second, level),
            lost=(len(lost[0]) + len(unscored[0]), len(lost[1]) + len(unscored[1])),
            withheld=(
                any(unscored) or bool(apart[0]) or any(self._reaches(setting, record) for record in apart[1]),
                any(unscored) or bool(apart[1]),
            ),
            details=details,
        )

    def _reaches(self, setting: Setting, record: Record) -> bool:
        """Whether a run reaches the goal at any step at which it was scored."""
        return any(map(self.goal.holds, setting.curve(record.run_id, self.goal.metric).values[self.goal.metric]))

    def _why(self, records: Sequence[Record], curves: Mapping[str, Curve], steps: Sequence[int]) -> str:
        """Return why the times of runs cannot be compared; empty if they can be.

        Args:
            records: The runs.
            curves: Their curves of the metric, by id.
            steps: The steps at which all finished runs were scored.
        """
        if why := _unmeasured(self.metrics, curves.values()):
            return why
        if len(steps) < 2:
            return (
                f"its runs have {self.goal.metric} at fewer than 2 common steps: score all at the same steps during "
                "training (scorer.every=...)"
            )
        scored = [record for record in records if curves[record.run_id].steps]
        if len({curves[record.run_id].how for record in scored}) > 1:
            return "its runs were scored in different ways during training: give all the same scorer.during"
        if self.unit != "steps" and not all(record.seconds > 0 for record in scored):
            return f"a run has no record of its duration, which {self.unit} need"
        return ""

    def _time(self, record: Record, curve: Curve, steps: Sequence[int]) -> times.Time:
        """Return the first of the steps at which a run has reached the goal, in the claim's unit."""
        values = dict(zip(curve.steps, curve.values[self.goal.metric], strict=True))
        reached = next((step for step in steps if step in values and self.goal.holds(values[step])), None)
        if reached is None and record.status != Status.DONE:
            return times.Time(math.inf, is_reached=False)
        step = steps[-1] if reached is None else reached
        return times.Time(step * UNITS[self.unit](record), reached is not None)


def _described(cells: Sequence[times.Cell], unit: str) -> str:
    """Return how many runs reach a goal, and the median time, in words."""
    runs = [time for cell in cells for time in cell]
    reached = sum(time.is_reached for time in runs)
    median = times.median(runs)
    when = "no median" if median is None else f"median {median:.4g} {unit.replace('_', ' ')}"
    return f"{reached} of {len(runs)} runs ({when})"


def _unmeasured(names: Sequence[str], curves: Iterable[Curve]) -> str:
    """Return which of the names no run has measured during training; empty if there is none."""
    measured = frozenset[str]().union(*(curve.measured for curve in curves))
    missing = next((name for name in names if name not in measured), None)
    return "" if missing is None else f"no run has measured {missing} along its curve{did_you_mean(missing, measured)}"
