"""The kinds of claims: which cells each compares, and how."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.documents import read_resolved_yaml
from wgan_sweep.config.keys import KEYS, Role
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import axes
from wgan_sweep.report.inference import means, rates, spreads
from wgan_sweep.report.inference.evidence import LEVEL, Evidence
from wgan_sweep.runs.coordinates import GROUPS, SCORING_AXES, as_text
from wgan_sweep.runs.record import Record, Status

PUBLISHED = Path(__file__).with_name("claims.yaml")
"""The paper's claims."""
PAPER = "paper"
"""Name of the paper's claims, where a file is asked for."""
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
    """A run that ended without a result."""

    coordinates: Mapping[str, str]
    status: Status


@dataclass(frozen=True)
class Setting:
    """Comparable runs: on the same data and model, scored in the same way."""

    name: str
    metric: str
    cells: Cells
    """Finished runs with a value of the metric, one per seed."""
    lost: Sequence[LostRun]
    """Diverged and failed runs."""

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
    """Number of cells whose means are compared; 0 if runs are counted, whatever their cell."""


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


def _lost_of_sides(
    setting: Setting, own: Sequence[Coordinates], rivals: Sequence[Coordinates], claimed: Selector, than: Selector
) -> tuple[int, int]:
    """Return the numbers of lost runs of the claim's own cells and of those that they are compared with."""
    others = [run for run in setting.lost if not matches(run.coordinates, claimed)]
    return len(_lost(setting.lost, claimed, own)), len(_lost(others, than, rivals))


def _question(setting: Setting, cells: Sequence[Coordinates], *, why: str = "", **parts: Any) -> Question:
    """Return the question about the means of cells; each cell needs `MIN_SEEDS` seeds.

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
class Event:
    """Something that happens to a run: it is lost, or a metric value lies beyond a bound."""

    text: str
    """``lost``, ``diverged``, ``failed``, ``METRIC < NUMBER`` or ``METRIC > NUMBER``.

    With a bound, lost runs count, too.
    """

    PATTERN = re.compile(r"(?P<metric>[\w.]+) *(?P<sign>[<>]) *(?P<bound>[-+\d.eE]+)")

    def __post_init__(self) -> None:
        """Refuse any other text."""
        match = self.PATTERN.fullmatch(self.text)
        is_bound = match is not None and _number(match["bound"]) is not None
        if self.text not in ("lost", Status.DIVERGED, Status.FAILED) and not is_bound:
            raise ValueError(
                f"event {self.text!r} is none of: lost, diverged, failed, METRIC < NUMBER, METRIC > NUMBER"
            )

    @property
    def metric(self) -> str | None:
        """The metric that it is about; None if it is about lost runs."""
        match = self.PATTERN.fullmatch(self.text)
        return match["metric"] if match else None

    def happened_to(self, run: LostRun) -> bool:
        """Whether the event happened to a lost run."""
        return self.text not in (Status.DIVERGED, Status.FAILED) or run.status == self.text

    def happened(self, scores: Mapping[str, float]) -> bool | None:
        """Whether the event happened to a finished run; None if it has no such metric."""
        match = self.PATTERN.fullmatch(self.text)
        if match is None:
            return False
        value = scores.get(match["metric"], math.nan)
        if math.isnan(value):
            return None
        bound = float(match["bound"])
        return value < bound if match["sign"] == "<" else value > bound


@dataclass(frozen=True)
class Rarer:
    """Claims that an event is rarer among runs of one kind than among runs of another kind."""

    claim: str
    claimed: Selector
    """Selects the claim's own runs."""
    than: Selector
    """Selects the runs that they are compared with; the claim's own runs are left out."""
    event: Event

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
}
"""Constructors of claims, by the keys of their entry in a file of claims."""

TEXTS = {"claim", "event"}
AXES = {"spread_of", "rises_with", "falls_with"}
NUMBERS = {"within"}


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
    form = next((keys for keys in FORMS if isinstance(entry, dict) and set(keys) == entry.keys()), None)
    if form is None:
        forms = "; ".join(", ".join(keys) for keys in FORMS)
        raise InputError(f"{path}: {entry!r} is not a claim: give the keys {forms} (see {PUBLISHED} for examples)")
    try:
        for key, value in entry.items():
            _check(key, value)
        return FORMS[form](**entry)
    except ValueError as error:
        raise InputError(f"{path}: the claim {entry['claim']!r}: {error}") from error


def _check(key: str, value: Any) -> None:
    """Refuse a value of a claim's entry that has another type, or names an unknown axis."""
    if key in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{key}={value!r} is not a positive number")
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
