"""Claims about means over seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from wgan_sweep.report.cells import axes
from wgan_sweep.report.claim_kinds.bounds import number_in
from wgan_sweep.report.claim_kinds.claim import (
    ClaimTest,
    Coordinates,
    Samples,
    Selector,
    Setting,
    claim_test_of_cells,
    lost_runs,
    lost_runs_of_sides,
    other_differences,
    select,
    select_sides,
)
from wgan_sweep.report.inference import means, spreads
from wgan_sweep.report.inference.comparisons import Comparison, Paired, Unpaired
from wgan_sweep.report.inference.evidence import LEVEL
from wgan_sweep.runs.record import cost_sign


@dataclass(frozen=True)
class _Compared:
    """The runs of cells that a claim compares, and how."""

    setting: Setting
    """The setting with these runs."""
    by: type[Comparison]
    """The test of two means."""
    cells: int
    """Number of cells."""
    left_out: Sequence[str] = ()
    """Ids of the cells' other finished runs."""

    @classmethod
    def of(cls, setting: Setting, cells: Sequence[Coordinates], paired: bool) -> Self:
        """Return the comparison of cells: of the runs whose seed all cells have, if runs are paired."""
        if not paired:
            return cls(setting, Unpaired, len(cells))
        common = setting.with_common_seeds(cells)
        kept = {record.run_id for cell in cells for record in common.cells[cell]}
        every = [record.run_id for cell in cells for record in setting.cells[cell]]
        return cls(common, Paired, len(cells), [run for run in every if run not in kept])

    @property
    def parts(self) -> dict[str, Any]:
        """What a `ClaimTest` says of it."""
        return {"too_few": self.by.too_few, "left_out": self.left_out}

    def is_biased_by(self, lost: tuple[int, int]) -> bool:
        """Whether lost runs may have removed finished runs of other cells, which biases their differences."""
        return self.by is Paired and self.cells > 2 and any(lost)


@dataclass(frozen=True)
class Lower:
    """Claims that every cell of one kind has a lower (or higher) mean than every cell of another kind.

    A lost run counts as worse than all others: a side's means are too good without its lost runs. If neither low nor
    high values of the metric are known to be good, there is no verdict with lost runs on either side.
    """

    claim: str
    claimed: Selector
    """Selects the claim's own cells."""
    than: Selector
    """Selects the cells that they are compared with; the claim's own cells are left out."""
    higher: bool = False
    """Whether a higher mean is claimed."""
    names_candidates: bool = False
    """Whether the claim is about which cell is the best: its details name all that may be."""
    paired: bool = False
    """Whether runs are paired by seed."""

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if the setting lacks cells on one side."""
        own, rivals = select_sides(setting.cells, self.claimed, self.than)
        if not own or not rivals:
            return None
        cells = [*own, *rivals]
        lost = _lost_of_sides(setting, own, rivals, self.claimed, self.than)
        compared = _Compared.of(setting, cells, self.paired)
        lower, higher = self._values(compared.setting, own), self._values(compared.setting, rivals)

        def candidates() -> list[str]:
            if not self.names_candidates:
                return []
            may_be = means.possibly_lowest([*lower, *higher], compared.by)
            varying = axes([record for cell in cells for record in setting.cells[cell]])
            names = [
                " ".join(f"{axis}={dict(cell)[axis]}" for axis in varying if axis in dict(cell))
                for cell, is_candidate in zip(cells, may_be, strict=True)
                if is_candidate
            ]
            return [f"cells that may be the best ({1 - LEVEL:.0%}): {'; '.join(names)}"]

        return claim_test_of_cells(
            compared.setting,
            cells,
            **compared.parts,
            evidence_at=lambda level: means.every_mean_lower(lower, higher, level, compared.by),
            seeds_to_decide=lambda level: means.seeds_for_means(lower, higher, level, compared.by),
            lost=lost,
            withheld=(True, True) if compared.is_biased_by(lost) else self._withheld(setting.metric, lost),
            details=lambda: [*candidates(), *other_differences(setting.cells, own, rivals, self.claimed, self.than)],
        )

    def _withheld(self, metric: str, lost: tuple[int, int]) -> tuple[bool, bool]:
        """Return whether lost runs forbid to support, and to contradict, the claim."""
        own, rivals = lost[0] > 0, lost[1] > 0
        sign = cost_sign(metric)
        if sign is None:
            return own or rivals, own or rivals
        is_better = self.higher == (sign < 0)
        return (own, rivals) if is_better else (rivals, own)

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
    paired: bool = False
    """Whether runs are paired by seed."""

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if fewer than two values of the axis are on both sides."""
        own, rivals = select(setting.cells, self.claimed), select(setting.cells, self.than)
        common = {dict(cell).get(self.spread_of) for cell in own} & {dict(cell).get(self.spread_of) for cell in rivals}
        own, rivals = ([cell for cell in side if dict(cell).get(self.spread_of) in common] for side in (own, rivals))
        if len(common) < 2:
            return None
        lost = _lost_of_sides(setting, own, rivals, self.claimed, self.than)
        compared = _Compared.of(setting, [*own, *rivals], self.paired)
        narrow, wide = compared.setting.values(own), compared.setting.values(rivals)
        return claim_test_of_cells(
            compared.setting,
            [*own, *rivals],
            why=_repeated(self.spread_of, own) or _repeated(self.spread_of, rivals),
            **compared.parts,
            evidence_at=lambda level: spreads.spread_less(narrow, wide, level, compared.by),
            seeds_to_decide=lambda level: spreads.seeds_for_spreads(narrow, wide, level, compared.by),
            lost=lost,
            withheld=(any(lost), any(lost)),
            details=lambda: other_differences(
                setting.cells, own, rivals, self.claimed, self.than, {self.spread_of: ""}
            ),
        )


@dataclass(frozen=True)
class Equal:
    """Claims that the means of all selected cells differ by less than a margin.

    It is not supported if there are lost runs. It may be contradicted if a cell has none: a lost run counts as worse
    than all others, so its cell does not equal that one. If neither low nor high values of the metric are known to be
    good, lost runs forbid every verdict.
    """

    claim: str
    cells: Selector
    """Selects the cells."""
    within: float
    """The margin, in units of the metric."""
    paired: bool = False
    """Whether runs are paired by seed."""

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if fewer than two cells are selected."""
        cells = select(setting.cells, self.cells)
        if len(cells) < 2:
            return None
        lost = lost_runs(setting.without_value, self.cells, cells)
        every_cell_has_lost = all(any(run.is_of(cell) for run in lost) for cell in cells)
        may_be_equal = bool(lost) and (every_cell_has_lost or cost_sign(setting.metric) is None)
        compared = _Compared.of(setting, cells, self.paired)
        values = compared.setting.values(cells)
        return claim_test_of_cells(
            compared.setting,
            cells,
            **compared.parts,
            evidence_at=lambda level: means.means_within(values, self.within, level, compared.by),
            seeds_to_decide=lambda level: means.seeds_for_equivalence(values, self.within, level, compared.by),
            lost=(len(lost), 0),
            withheld=(bool(lost), may_be_equal or compared.is_biased_by((len(lost), 0))),
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
    paired: bool = False
    """Whether runs are paired by seed."""

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if fewer than two numeric values of the axis are selected."""
        positions = {
            cell: position
            for cell in select(setting.cells, self.cells)
            if (position := number_in(dict(cell).get(self.axis))) is not None
        }
        cells = sorted(positions, key=lambda cell: positions[cell], reverse=self.falls)
        if len(cells) < 2:
            return None
        lost = len(lost_runs(setting.without_value, self.cells, cells))
        compared = _Compared.of(setting, cells, self.paired)
        values = compared.setting.values(cells)
        return claim_test_of_cells(
            compared.setting,
            cells,
            why=_repeated(self.axis, cells),
            **compared.parts,
            evidence_at=lambda level: means.means_rise(values, level, compared.by),
            seeds_to_decide=lambda level: means.seeds_for_rise(values, level, compared.by),
            lost=(lost, 0),
            withheld=(lost > 0, lost > 0),
        )


@dataclass(frozen=True)
class CountingPruned:
    """A claim about means in which pruned runs count as the worst: see `Setting.pruned`."""

    means: Lower

    @property
    def claim(self) -> str:
        """The statement, in words."""
        return self.means.claim

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if the setting lacks cells on one side."""
        test = self.means.test_in(setting.counting_pruned())
        values = (record.scores[setting.metric] for records in setting.pruned.values() for record in records)
        if test is None or not any(map(math.isnan, values)):
            return test
        return replace(test, why=f"neither low nor high values of {setting.metric} are better, so none is the worst")


def _repeated(axis: str, cells: Iterable[Coordinates]) -> str:
    """Return why cells are not one for each value of an axis; empty if they are."""
    values = [dict(cell).get(axis, "") for cell in cells]
    repeated = next((value for value in values if values.count(value) > 1), None)
    return "" if repeated is None else f"several cells have {axis}={repeated}: name more axes"


def _lost_of_sides(
    setting: Setting, own: Sequence[Coordinates], rivals: Sequence[Coordinates], claimed: Selector, than: Selector
) -> tuple[int, int]:
    """Return the numbers of lost runs of the claim's own cells and of those that they are compared with."""
    first, second = lost_runs_of_sides(setting.without_value, own, rivals, claimed, than)
    return len(first), len(second)
