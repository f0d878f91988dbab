"""The kinds of claims: which cells each compares, and how."""

import math
import operator
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.documents import read_resolved_yaml
from wgan_sweep.config.keys import KEYS, Role
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import axes
from wgan_sweep.report.curves import Curve, Curves
from wgan_sweep.report.inference import correlations, means, rates, spreads, times
from wgan_sweep.report.inference.evidence import LEVEL, Evidence
from wgan_sweep.runs.coordinates import GROUPS, SCORING_AXES, as_text
from wgan_sweep.runs.record import Record, Status

PUBLISHED = Path(__file__).with_name("claims.yaml")
"""The paper's claims."""
PAPER = "paper"
"""Name of the paper's claims, where a file is asked for."""
MIN_SEEDS = 2
"""Seeds that each cell needs."""
MIN_STEPS = 5
"""Steps that a curve needs for a correlation along it."""

Selector = Mapping[str, Any]
"""Axes and the values that select cells. A list selects each of its values; an axis that is absent may have any."""
Coordinates = tuple[tuple[str, str], ...]
"""Axes and values of a cell, as a hashable tuple."""
Cells = Mapping[Coordinates, Sequence[Record]]
Samples = list[list[float]]
"""Metric values ``[cells][seeds]``."""


@dataclass(frozen=True)
class LostRun:
    """A run that ended without a result."""

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
    """Diverged and failed runs."""
    curves: Curves
    """The learning curves of its runs."""
    pruned: Cells = field(default_factory=dict)
    """Pruned runs, in the cells that they belong to, with the worst value of the metric in the setting."""

    def counting_pruned(self) -> "Setting":
        """Return the setting with pruned runs as if they had finished with the worst value."""
        cells = {**self.cells, **self.pruned}
        merged = {cell: [*self.cells.get(cell, ()), *self.pruned.get(cell, ())] for cell in cells}
        return replace(self, cells=merged, pruned={})

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
    """Diverged and failed runs of the claim's own cells, and of those that they are compared with."""
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


def _select(cells: Cells, selector: Selector) -> list[Coordinates]:
    return [cell for cell in cells if matches(dict(cell), selector)]


def _lost(lost: Iterable[LostRun], selector: Selector, cells: Sequence[Coordinates]) -> list[LostRun]:
    """Return the lost runs of one side of a comparison.

    They match its selector and share with its cells the axes on which those do not differ: a run that failed at another
    learning rate than all compared ones says nothing about them.
    """
    compared = [dict(cell) for cell in cells]
    common = {
        axis: value
        for axis, value in compared[0].items()
        if axis not in SCORING_AXES and all(cell.get(axis) == value for cell in compared)
    }
    return [run for run in lost if matches(run.coordinates, selector) and common.items() <= run.coordinates.items()]


def _repeated(axis: str, cells: Iterable[Coordinates]) -> str:
    """Return why cells are not one for each value of an axis; empty if they are."""
    values = [dict(cell).get(axis, "") for cell in cells]
    repeated = next((value for value in values if values.count(value) > 1), None)
    return "" if repeated is None else f"several cells have {axis}={repeated}: name more axes"


def _lost_runs_of_sides(
    setting: Setting, own: Sequence[Coordinates], rivals: Sequence[Coordinates], claimed: Selector, than: Selector
) -> tuple[list[LostRun], list[LostRun]]:
    """Return the lost runs of the claim's own cells and of those that they are compared with."""
    others = [run for run in setting.lost if not matches(run.coordinates, claimed)]
    return _lost(setting.lost, claimed, own), _lost(others, than, rivals)


def _lost_of_sides(
    setting: Setting, own: Sequence[Coordinates], rivals: Sequence[Coordinates], claimed: Selector, than: Selector
) -> tuple[int, int]:
    """Return the numbers of lost runs of the claim's own cells and of those that they are compared with."""
    first, second = _lost_runs_of_sides(setting, own, rivals, claimed, than)
    return len(first), len(second)


def _question(setting: Setting, cells: Sequence[Coordinates], *, why: str = "", **parts: Any) -> Question:
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


@dataclass(frozen=True)
class Lower:
    """Claims that every cell of one kind has a lower (or higher) mean than every cell of another kind.

    A lost run counts as worse than all others: a side's means are too good without its lost runs.
    """

    claim: str
    claimed: Selector
    """Selects the claim's own cells."""
    than: Selector
    """Selects the cells that they are compared with; the claim's own cells are left out."""
    higher: bool = False
    """Whether a higher mean is claimed."""
    names_candidates: bool = False
    """Whether the question is which cell is the best: its details name all that may be."""

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if the setting lacks cells on one side."""
        own = _select(setting.cells, self.claimed)
        rivals = [cell for cell in _select(setting.cells, self.than) if cell not in own]
        if not own or not rivals:
            return None
        cells = [*own, *rivals]
        lost = _lost_of_sides(setting, own, rivals, self.claimed, self.than)
        lower, higher = self._values(setting, own), self._values(setting, rivals)

        def candidates() -> list[str]:
            if not self.names_candidates:
                return []
            may_be = means.possibly_lowest([*lower, *higher])
            varying = axes([record for cell in cells for record in setting.cells[cell]])
            names = [
                " ".join(f"{axis}={dict(cell)[axis]}" for axis in varying if axis in dict(cell))
                for cell, is_candidate in zip(cells, may_be, strict=True)
                if is_candidate
            ]
            return [f"cells that may be the best ({1 - LEVEL:.0%}): {'; '.join(names)}"]

        return _question(
            setting,
            cells,
            test=lambda level: means.every_mean_lower(lower, higher, level),
            seeds_to_decide=lambda level: means.seeds_for_means(lower, higher, level),
            lost=lost,
            withheld=(lost[0] > 0, lost[1] > 0),
            details=candidates,
        )

    def _values(self, setting: Setting, cells: Sequence[Coordinates]) -> Samples:
        sign = -1 if self.higher else 1
        return [[sign * value for value in cell] for cell in setting.values(cells)]


@dataclass(frozen=True)
class SpreadsLess:
    """Claims that the means along an axis spread less among cells of one kind than among cells of another kind.

    Lost runs on either side forbid a verdict: without them, a mean may be nearer to the others or farther from them.
    """

    claim: str
    spread_of: str
    """The axis."""
    claimed: Selector
    """Selects the claim's own cells."""
    than: Selector
    """Selects the cells that they are compared with."""

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if fewer than two values of the axis are on both sides."""
        own, rivals = _select(setting.cells, self.claimed), _select(setting.cells, self.than)
        common = {dict(cell).get(self.spread_of) for cell in own} & {dict(cell).get(self.spread_of) for cell in rivals}
        own, rivals = ([cell for cell in side if dict(cell).get(self.spread_of) in common] for side in (own, rivals))
        if len(common) < 2:
            return None
        lost = _lost_of_sides(setting, own, rivals, self.claimed, self.than)
        narrow, wide = setting.values(own), setting.values(rivals)
        return _question(
            setting,
            [*own, *rivals],
            why=_repeated(self.spread_of, own) or _repeated(self.spread_of, rivals),
            test=lambda level: spreads.spread_less(narrow, wide, level),
            seeds_to_decide=lambda level: spreads.seeds_for_spreads(narrow, wide, level),
            lost=lost,
            withheld=(any(lost), any(lost)),
        )


@dataclass(frozen=True)
class Equal:
    """Claims that the means of all selected cells differ by less than a margin.

    Lost runs forbid to support it. They do not forbid to contradict it: survivors that differ suffice.
    """

    claim: str
    cells: Selector
    """Selects the cells."""
    within: float
    """The margin, in units of the metric."""

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if fewer than two cells are selected."""
        cells = _select(setting.cells, self.cells)
        if len(cells) < 2:
            return None
        lost = len(_lost(setting.lost, self.cells, cells))
        values = setting.values(cells)
        return _question(
            setting,
            cells,
            test=lambda level: means.means_within(values, self.within, level),
            seeds_to_decide=lambda level: means.seeds_for_equivalence(values, self.within, level),
            lost=(lost, 0),
            withheld=(lost > 0, False),
        )


@dataclass(frozen=True)
class Monotone:
    """Claims that the means rise (or fall) strictly along a numeric axis; lost runs forbid a verdict."""

    claim: str
    axis: str
    cells: Selector
    """Selects the cells, one for each value of the axis."""
    falls: bool = False
    """Whether the means are claimed to fall."""

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if fewer than two numeric values of the axis are selected."""
        positions = {
            cell: position
            for cell in _select(setting.cells, self.cells)
            if (position := _number(dict(cell).get(self.axis))) is not None
        }
        cells = sorted(positions, key=lambda cell: positions[cell], reverse=self.falls)
        if len(cells) < 2:
            return None
        lost = len(_lost(setting.lost, self.cells, cells))
        values = setting.values(cells)
        return _question(
            setting,
            cells,
            why=_repeated(self.axis, cells),
            test=lambda level: means.means_rise(values, level),
            seeds_to_decide=lambda level: means.seeds_for_rise(values, level),
            lost=(lost, 0),
            withheld=(lost > 0, lost > 0),
        )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Bound:
    """A bound on a metric value, such as ``fid <= 30``."""

    metric: str
    sign: str
    value: float

    PATTERN = re.compile(r"(?P<metric>[\w.]+) *(?P<sign>[<>]=?) *(?P<value>[-+\d.eE]+)")
    SIGNS: ClassVar = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
    FORMS = ", ".join(f"METRIC {sign} NUMBER" for sign in SIGNS)

    @classmethod
    def parse(cls, text: str) -> "Bound | None":
        """Return the bound that a text describes; None if it describes none."""
        match = cls.PATTERN.fullmatch(text)
        value = _number(match["value"]) if match else None
        return cls(match["metric"], match["sign"], value) if match and value is not None else None

    @classmethod
    def required(cls, key: str, text: str) -> "Bound":
        """Return the bound that the text of a claim's key describes.

        Raises:
            ValueError: if it describes none.
        """
        bound = cls.parse(text)
        if bound is None:
            raise ValueError(f"{key}={text!r} is none of: {cls.FORMS}")
        return bound

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.value:g}"

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return bool(self.SIGNS[self.sign](value, self.value))


@dataclass(frozen=True)
class Event:
    """Something that happens to a run: it is lost, or a metric value lies beyond a bound."""

    text: str
    """``lost``, ``diverged``, ``failed``, or a bound; with a bound, lost runs count, too."""

    def __post_init__(self) -> None:
        """Refuse any other text."""
        if self.text not in ("lost", Status.DIVERGED, Status.FAILED) and self.bound is None:
            raise ValueError(f"event {self.text!r} is none of: lost, diverged, failed, {Bound.FORMS}")

    @property
    def bound(self) -> Bound | None:
        """The bound; None if it is about lost runs."""
        return Bound.parse(self.text)

    def happened_to(self, run: LostRun) -> bool:
        """Whether the event happened to a lost run."""
        return self.text not in (Status.DIVERGED, Status.FAILED) or run.record.status == self.text

    def happened(self, scores: Mapping[str, float]) -> bool | None:
        """Whether the event happened to a finished run; None if it has no such metric."""
        if self.bound is None:
            return False
        value = scores.get(self.bound.metric, math.nan)
        return None if math.isnan(value) else self.bound.holds(value)


@dataclass(frozen=True)
class Rarer:
    """Claims that an event is rarer among runs of one kind than among runs of another kind."""

    claim: str
    claimed: Selector
    """Selects the claim's own runs."""
    than: Selector
    """Selects the runs that they are compared with; the claim's own runs are left out."""
    event: Event

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it names."""
        return (self.event.bound.metric,) if self.event.bound else ()

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if the setting lacks runs on one side."""
        own_runs = self._outcomes(setting, lambda run: matches(run, self.claimed))
        rival_runs = self._outcomes(setting, lambda run: matches(run, self.than) and not matches(run, self.claimed))
        if not own_runs or not rival_runs:
            return None
        own, rivals = ((sum(happened for _, happened in side), len(side)) for side in (own_runs, rival_runs))
        return Question(
            [run_id for side in (own_runs, rival_runs) for run_id, _ in side if run_id],
            min(own[1], rivals[1]),
            lambda level: rates.rarer(own, rivals, level),
            lambda level: rates.seeds_for_rates(own, rivals, level),
        )

    def _outcomes(self, setting: Setting, is_selected: Callable[[Mapping[str, str]], bool]) -> list[tuple[str, bool]]:
        """Return the id (empty for a lost run) and whether the event happened, of each selected run that shows it."""
        finished = [
            (record.run_id, happened)
            for cell, records in setting.cells.items()
            if is_selected(dict(cell))
            for record in records
            if (happened := self.event.happened(record.scores)) is not None
        ]
        return finished + [("", self.event.happened_to(run)) for run in setting.lost if is_selected(run.coordinates)]


def _unmeasured(names: Sequence[str], curves: Iterable[Curve]) -> str:
    """Return which of the names no run has measured during training; empty if there is none."""
    measured = frozenset[str]().union(*(curve.measured for curve in curves))
    missing = next((name for name in names if name not in measured), None)
    return "" if missing is None else f"no run has measured {missing} along its curve{did_you_mean(missing, measured)}"


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

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if no cell is selected."""
        cells = _select(setting.cells, self.cells)
        if not cells:
            return None
        curves = [[setting.curves.along(r.run_id, *self.metrics) for r in setting.cells[cell]] for cell in cells]
        every = [curve for cell in curves for curve in cell]
        fewest = min(len(curve.steps) for curve in every)
        few = (
            f"a run has {self.first} and {self.second} at {fewest} steps, fewer than {MIN_STEPS}: score more often "
            "(scorer.every=...)"
        )
        why = _unmeasured(self.metrics, every) or (few if fewest < MIN_STEPS else "")
        lost = len(_lost(setting.lost, self.cells, cells))
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

        return _question(
            setting,
            cells,
            why=why,
            test=lambda level: correlations.correlated(z, sign * self.threshold, level),
            seeds_to_decide=lambda level: correlations.seeds_for_correlation(z, sign * self.threshold, level),
            lost=(lost, 0),
            withheld=(lost > 0, lost > 0),
            details=details,
            fewest_cells=1,
        )


def _correlation(curve: Curve) -> float:
    first, second = curve.values.values()
    return correlations.rank_correlation(first, second)


UNITS: dict[str, Callable[[Record], float]] = {
    "steps": lambda _: 1.0,
    "hours": lambda record: record.hours() / max(1, record.step),
    "gpu_hours": lambda record: record.hours(per_gpu=True) / max(1, record.step),
}
"""The duration of a step of a run, by unit. Of the hours of a run, its steps have equal shares."""


@dataclass(frozen=True)
class Faster:
    """Claims that the runs of every cell of one kind reach a goal sooner than those of every cell of another kind.

    A run that does not reach it is censored at the last step at which all were scored. A lost run that had not reached
    it never will.
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

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if the setting lacks cells on one side."""
        own = _select(setting.cells, self.claimed)
        rivals = [cell for cell in _select(setting.cells, self.than) if cell not in own]
        if not own or not rivals:
            return None
        lost = _lost_runs_of_sides(setting, own, rivals, self.claimed, self.than)
        sides = [
            {cell: [*setting.cells[cell], *(run.record for run in runs if _is_of_cell(run, cell))] for cell in cells}
            for cells, runs in zip((own, rivals), lost, strict=True)
        ]
        records = [record for side in sides for cell in side.values() for record in cell]
        curves = {record.run_id: setting.curves.along(record.run_id, self.goal.metric) for record in records}
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
        # Those whose cell has no other runs are not among the times.
        apart = [
            any(not any(_is_of_cell(run, cell) for cell in side) for run in runs)
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
            return [f"{self.goal} is reached by {both[0]}, against {both[1]}{timed}"]

        return _question(
            setting,
            [*own, *rivals],
            why=why,
            test=lambda level: times.sooner(first, second, level),
            seeds_to_decide=lambda level: times.seeds_for_times(first, second, level),
            lost=(len(lost[0]), len(lost[1])),
            withheld=(apart[0], apart[1]),
            details=details,
        )

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


def _is_of_cell(run: LostRun, cell: Coordinates) -> bool:
    """Whether a lost run belongs to a cell of finished runs, which have been scored in addition."""
    return {axis: value for axis, value in cell if axis not in SCORING_AXES} == run.coordinates


def _described(cells: Sequence[times.Cell], unit: str) -> str:
    """Return how many runs reach a goal, and the median time, in words."""
    runs = [time for cell in cells for time in cell]
    reached = sum(time.is_reached for time in runs)
    median = times.median(runs)
    when = "no median" if median is None else f"median {median:.4g} {unit.replace('_', ' ')}"
    return f"{reached} of {len(runs)} runs ({when})"


@dataclass(frozen=True)
class CountingPruned:
    """A claim about means in which pruned runs count as the worst: see `Setting.pruned`."""

    means: Lower

    @property
    def claim(self) -> str:
        """The statement, in words."""
        return self.means.claim

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if the setting lacks cells on one side."""
        question = self.means.ask(setting.counting_pruned())
        values = (record.scores[setting.metric] for records in setting.pruned.values() for record in records)
        if question is None or not any(map(math.isnan, values)):
            return question
        return replace(
            question, why=f"neither low nor high values of {setting.metric} are better, so none is the worst"
        )


FORMS: dict[tuple[str, ...], Callable[..., Claim]] = {
    ("claim", "lower", "than"): lambda claim, lower, than: Lower(claim, lower, than),
    ("claim", "higher", "than"): lambda claim, higher, than: Lower(claim, higher, than, higher=True),
    ("claim", "lowest", "among"): lambda claim, lowest, among: Lower(
        claim, {**among, **lowest}, among, names_candidates=True
    ),
    ("claim", "highest", "among"): lambda claim, highest, among: Lower(
        claim, {**among, **highest}, among, higher=True, names_candidates=True
    ),
    ("claim", "spread_of", "less_in", "than_in"): lambda claim, spread_of, less_in, than_in: SpreadsLess(
        claim, spread_of, less_in, than_in
    ),
    ("claim", "equal", "within"): lambda claim, equal, within: Equal(claim, equal, within),
    ("claim", "rises_with", "in"): lambda claim, rises_with, **rest: Monotone(claim, rises_with, rest["in"]),
    ("claim", "falls_with", "in"): lambda claim, falls_with, **rest: Monotone(
        claim, falls_with, rest["in"], falls=True
    ),
    ("claim", "event", "rarer_in", "than_in"): lambda claim, event, rarer_in, than_in: Rarer(
        claim, rarer_in, than_in, Event(event)
    ),
    ("claim", "correlates", "with", "in"): lambda claim, correlates, **rest: Correlates(
        claim, correlates, rest["with"], rest["in"]
    ),
    ("claim", "correlates", "with", "in", "above"): lambda claim, correlates, above, **rest: Correlates(
        claim, correlates, rest["with"], rest["in"], above
    ),
    ("claim", "correlates", "with", "in", "below"): lambda claim, correlates, below, **rest: Correlates(
        claim, correlates, rest["with"], rest["in"], below, below=True
    ),
    ("claim", "faster", "than", "to"): lambda claim, faster, than, to: Faster(
        claim, faster, than, Bound.required("to", to)
    ),
    ("claim", "faster", "than", "to", "in_units_of"): lambda claim, faster, than, to, in_units_of: Faster(
        claim, faster, than, Bound.required("to", to), in_units_of
    ),
}
"""Constructors of claims, by the keys of their entry in a file of claims."""

PRUNED, WORST = "pruned", "worst"
"""The key of an entry that says how pruned runs count, and its value."""
TEXTS = {"claim", "event", "correlates", "with", "to", "in_units_of"}
AXES = {"spread_of", "rises_with", "falls_with"}
NUMBERS = {"within"}
CORRELATIONS = {"above", "below"}


def claims_file(name: str | Path) -> Path:
    """Return the file of claims with a name: `PAPER`, or a path."""
    return PUBLISHED if str(name) == PAPER else Path(name)


def read_claims(path: Path) -> list[Claim]:
    """Read claims from a YAML file.

    Raises:
        InputError: if the file or one of its entries does not have the form of `PUBLISHED`, or names an unknown axis.
    """
    try:
        entries = read_resolved_yaml(path)["claims"]
        if not isinstance(entries, list):
            raise TypeError("`claims` is not a list")  # noqa: TRY301
    except (TypeError, KeyError, InputError) as error:
        raise InputError(
            f"{path} is not a file of claims ({type(error).__name__}: {error}): see {PUBLISHED} for an example"
        ) from error
    return [_claim(path, entry) for entry in entries]


def _claim(path: Path, entry: Any) -> Claim:
    form = next((keys for keys in FORMS if isinstance(entry, dict) and set(keys) == entry.keys() - {PRUNED}), None)
    if form is None:
        forms = "; ".join(", ".join(keys) for keys in FORMS)
        raise InputError(f"{path}: {entry!r} is not a claim: give the keys {forms} (see {PUBLISHED} for examples)")
    try:
        for key in form:
            _check(key, entry[key])
        claim = FORMS[form](**{key: entry[key] for key in form})
        return _counting_pruned(claim, entry[PRUNED]) if PRUNED in entry else claim
    except ValueError as error:
        raise InputError(f"{path}: the claim {entry['claim']!r}: {error}") from error


def _counting_pruned(claim: Claim, value: Any) -> Claim:
    if value != WORST:
        raise ValueError(f"{PRUNED}={value!r} is not {WORST}; without it, a claim with pruned runs is undecided")
    if isinstance(claim, Lower):
        return CountingPruned(claim)
    raise ValueError(f"{PRUNED}: {WORST} is for claims about lower, higher, lowest or highest means; leave it out")


def _check(key: str, value: Any) -> None:
    """Refuse a value of a claim's entry that has another type, or names an unknown axis."""
    if key in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{key}={value!r} is not a positive number")
    elif key in CORRELATIONS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1 < value < 1:
            raise ValueError(f"{key}={value!r} is not a correlation between -1 and 1")
    elif key in TEXTS | AXES:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key}={value!r} is not a text")
        if key in AXES:
            _check_axis(key, value)
    elif not isinstance(value, dict) or not value:
        raise ValueError(f"{key}={value!r} is not a mapping of axes to values, such as {{loss: wgan_div, div.k: 2}}")
    else:
        for axis in value:
            _check_axis(key, axis)


def _check_axis(key: str, axis: Any) -> None:
    groups = {*GROUPS, *(entry.name for entry in KEYS if entry.like), "div"}
    roots = {*groups, *(entry.name.split(".")[0] for entry in KEYS if entry.role is Role.SCIENCE)}
    if not isinstance(axis, str) or (axis not in groups and ("." not in axis or axis.split(".")[0] not in roots)):
        known = [*groups, *(entry.name for entry in KEYS if entry.role is Role.SCIENCE and "." in entry.name)]
        raise ValueError(f"{key}: {axis!r} is no axis{did_you_mean(str(axis), [*known, 'div.k', 'div.p'])}")
