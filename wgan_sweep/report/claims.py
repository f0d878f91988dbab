"""Tests of claims about a set of runs. Each verdict is supported, contradicted or undecided."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from wgan_sweep.config.documents import read_resolved_yaml
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import shown_metric
from wgan_sweep.report.evidence import (
    LEVEL,
    MAX_SEEDS,
    POWER,
    Evidence,
    every_mean_lower,
    holm,
    seeds_for_means,
    seeds_for_spreads,
    spread_less,
)
from wgan_sweep.report.text import finite, markdown
from wgan_sweep.runs.coordinates import MEASURED_WITH, SCORED_IN, as_text, coordinates
from wgan_sweep.runs.record import Record, Status

PUBLISHED = Path(__file__).with_name("claims.yaml")
"""The paper's claims."""
MIN_SEEDS = 2
"""Seeds that each cell needs."""

Selector = Mapping[str, Any]
"""Axes and the values that select cells. An axis that is not named may have any value."""
Coordinates = tuple[tuple[str, str], ...]
"""Axes and values of a cell, as a hashable tuple."""
Cells = Mapping[Coordinates, Sequence[Record]]


class Verdict(StrEnum):
    """Outcome of testing a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim in one setting. Its fields are the keys of the JSON output."""

    claim: str
    setting: str
    """Data, model and scoring that all compared runs share."""
    verdict: Verdict
    why: str
    """Why an undecided claim could not be tested or supported; empty if there is no such reason."""
    runs: tuple[str, ...] = ()
    """Ids of the compared runs."""
    seeds: int = 0
    """Seeds of the cell with the fewest."""
    lost: tuple[int, int] = (0, 0)
    """Diverged and failed runs of the claim's own cells and of those that they are compared with. The means of these
    cells are too favourable without them."""
    evidence: Evidence | None = None
    """Result of the test; None if the claim could not be tested."""
    p_for: float | None = None
    """`Evidence.p_for`, adjusted for the number of tests (Holm)."""
    p_against: float | None = None
    """`Evidence.p_against`, adjusted for the number of tests (Holm)."""
    seeds_to_decide: int | None = None
    """Seeds per cell at which an undecided claim would be decided with power `POWER`; None if it is decided, cannot be
    tested, or would take more than `MAX_SEEDS`."""


def _matches(coordinates: Mapping[str, str], selector: Selector) -> bool:
    return all(coordinates.get(axis) == as_text(value) for axis, value in selector.items())


def _selected(cells: Cells, selector: Selector) -> dict[Coordinates, Sequence[Record]]:
    return {key: records for key, records in cells.items() if _matches(dict(key), selector)}


Sides = tuple[dict[Coordinates, Sequence[Record]], dict[Coordinates, Sequence[Record]]]
"""The claim's own cells and the cells that they are compared with."""


@dataclass(frozen=True)
class Lower:
    """Claims that every cell of one kind has a lower (or higher) mean than every cell of another kind."""

    claim: str
    claimed: Selector
    """Selects the claim's own cells."""
    than: Selector
    """Selects the cells that they are compared with; the claim's own cells are left out."""
    higher: bool = False
    """Whether a higher mean is claimed."""

    def sides(self, cells: Cells) -> Sides:
        """Return the cells to compare."""
        own = _selected(cells, self.claimed)
        rivals = {key: records for key, records in _selected(cells, self.than).items() if key not in own}
        return own, rivals

    def _signed(self, side: list[list[float]]) -> list[list[float]]:
        return [[-value if self.higher else value for value in cell] for cell in side]

    def test(self, own: list[list[float]], rivals: list[list[float]]) -> Evidence:
        """Compare the means of the metric values."""
        return every_mean_lower(self._signed(own), self._signed(rivals))

    def seeds_to_decide(self, own: list[list[float]], rivals: list[list[float]], level: float) -> int | None:
        """Return how many seeds per cell would decide the claim at an error rate."""
        return seeds_for_means(self._signed(own), self._signed(rivals), level)

    def withheld(self, lost: tuple[int, int]) -> tuple[bool, bool]:
        """Return whether lost runs of own and compared cells forbid to support, and to contradict, the claim.

        A lost run counts as worse than all others. The means of cells that lost runs are therefore too good.
        """
        return lost[0] > 0, lost[1] > 0


@dataclass(frozen=True)
class SpreadsLess:
    """Claims that the means along an axis spread less among cells of one kind than among cells of another kind."""

    claim: str
    spread_of: str
    """The axis."""
    claimed: Selector
    """Selects the claim's own cells."""
    than: Selector
    """Selects the cells that they are compared with."""

    def sides(self, cells: Cells) -> Sides:
        """Return the cells to compare, at the axis values that both kinds have."""
        own, rivals = _selected(cells, self.claimed), _selected(cells, self.than)
        common = {dict(key).get(self.spread_of) for key in own}
        common &= {dict(key).get(self.spread_of) for key in rivals}
        sides = (
            {key: records for key, records in side.items() if dict(key).get(self.spread_of) in common}
            for side in (own, rivals)
        )
        return cast("Sides", tuple(sides if len(common) > 1 else ({}, {})))

    def test(self, own: list[list[float]], rivals: list[list[float]]) -> Evidence:
        """Compare the spreads of the means of the metric values."""
        return spread_less(own, rivals)

    def seeds_to_decide(self, own: list[list[float]], rivals: list[list[float]], level: float) -> int | None:
        """Return how many seeds per cell would decide the claim at an error rate."""
        return seeds_for_spreads(own, rivals, level)

    def withheld(self, lost: tuple[int, int]) -> tuple[bool, bool]:
        """Return whether lost runs of own and compared cells forbid to support, and to contradict, the claim.

        A mean without its lost runs may be nearer to the others or farther from them.
        """
        return any(lost), any(lost)


Claim = Lower | SpreadsLess

FORMS: dict[tuple[str, ...], Callable[..., Claim]] = {
    ("claim", "lower", "than"): lambda claim, lower, than: Lower(claim, lower, than),
    ("claim", "higher", "than"): lambda claim, higher, than: Lower(claim, higher, than, higher=True),
    ("claim", "spread_of", "less_in", "than_in"): lambda claim, spread_of, less_in, than_in: SpreadsLess(
        claim, spread_of, less_in, than_in
    ),
}
"""Constructors of claims, by the keys of their entry in a file of claims."""


def read_claims(path: Path) -> list[Claim]:
    """Read claims from a YAML file.

    Raises:
        InputError: if the file or one of its entries does not have the form of `PUBLISHED`.
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
    texts = {"claim", "spread_of"}
    if form is None or not all(isinstance(v, str if k in texts else dict) and v for k, v in entry.items()):
        forms = "; ".join(", ".join(keys) for keys in FORMS)
        raise InputError(f"{path}: {entry!r} is not a claim: give the keys {forms} (see {PUBLISHED} for examples)")
    return FORMS[form](**entry)


SCORING_AXES = {*MEASURED_WITH, *(f"scored {name}" for name in SCORED_IN)}
"""Axes that describe how a run was scored. Metric values are comparable only if these agree."""


@dataclass(frozen=True)
class _Setting:
    """Comparable runs: on the same data and model, scored in the same way."""

    name: str
    cells: Cells
    lost: Sequence[Mapping[str, str]]
    """Coordinates of the diverged and failed runs in this setting."""


def _is_shared(axis: str) -> bool:
    """Whether all runs of a setting have the same value on an axis."""
    return axis in SCORING_AXES or axis.split(".")[0] in ("data", "model")


def _settings(records: Sequence[Record], metric: str) -> list[_Setting]:
    settings: dict[Coordinates, dict[Coordinates, dict[Any, Record]]] = {}
    lost = [coordinates(record) for record in records if record.status in (Status.DIVERGED, Status.FAILED)]
    for record in records:
        if record.status != Status.DONE or not math.isfinite(record.scores.get(metric, math.nan)):
            continue
        values = coordinates(record)
        shared = tuple((axis, value) for axis, value in values.items() if _is_shared(axis))
        cell = settings.setdefault(shared, {}).setdefault(tuple(values.items()), {})
        cell[record.config.get("seed")] = record  # a copy of a run directory is not another seed
    varying = {axis for shared in settings for axis, _ in shared if len({dict(key).get(axis) for key in settings}) > 1}

    def belongs(values: Mapping[str, str], shared: Coordinates) -> bool:
        return all(values.get(axis) == value for axis, value in shared if axis not in SCORING_AXES)

    return [
        _Setting(
            " ".join(
                f"{axis}={value}" for axis, value in shared if axis in varying or axis in ("data", "model", "step")
            ),
            {key: list(by_seed.values()) for key, by_seed in cells.items()},
            [values for values in lost if belongs(values, shared)],
        )
        for shared, cells in settings.items()
    ]


def judge(claims: Sequence[Claim], records: Sequence[Record], metric: str | None = None) -> list[Judgement]:
    """Test claims on runs.

    Args:
        claims: The claims; each is tested once per setting.
        records: The runs.
        metric: The metric to compare; by default the selection metric of the runs.
    """
    metric = shown_metric(records, metric)
    settings = _settings(records, metric)
    comparisons: list[_Comparison] = []
    for claim in claims:
        found = [comparison for setting in settings if (comparison := _prepare(claim, setting, metric))]
        nothing = Judgement(claim.claim, "", Verdict.UNDECIDED, "no runs on both sides of the comparison")
        comparisons += found or [_Comparison(claim, nothing, [], [])]
    return _with_verdicts([comparison.tested() for comparison in comparisons])


@dataclass(frozen=True)
class _Comparison:
    """A claim in one setting."""

    claim: Claim
    judgement: Judgement
    own: list[list[float]]
    """Metric values of the claim's own cells."""
    rivals: list[list[float]]
    """Metric values of the cells that they are compared with."""

    def tested(self) -> "_Comparison":
        """Return the comparison with the result of its test, if it can be tested."""
        if self.judgement.why:
            return self
        return replace(self, judgement=replace(self.judgement, evidence=self.claim.test(self.own, self.rivals)))


def _prepare(claim: Claim, setting: _Setting, metric: str) -> _Comparison | None:
    """Return the values to compare, or why they are not enough; None if the setting lacks one of the sides."""
    own, rivals = claim.sides(setting.cells)
    if not own or not rivals:
        return None
    records = [record for side in (own, rivals) for cell in side.values() for record in cell]
    fewest = min(len(cell) for side in (own, rivals) for cell in side.values())
    others = [values for values in setting.lost if not _matches(values, claim.claimed)]
    lost = _lost(setting.lost, claim.claimed, own), _lost(others, claim.than, rivals)
    why = ""
    if fewest < MIN_SEEDS:
        why = f"a cell has only one seed: {MIN_SEEDS} or more are needed in each cell"
    elif isinstance(claim, SpreadsLess) and (value := _repeated_value(claim.spread_of, own, rivals)):
        why = f"several cells have {claim.spread_of}={value}: name more axes on each side"
    run_ids = tuple(record.run_id for record in records)
    judgement = Judgement(claim.claim, setting.name, Verdict.UNDECIDED, why, run_ids, fewest, lost)
    values = ([[record.scores[metric] for record in cell] for cell in side.values()] for side in (own, rivals))
    return _Comparison(claim, judgement, *values)


def _lost(lost: Sequence[Mapping[str, str]], selector: Selector, cells: Cells) -> int:
    """Return how many lost runs belong to one side of a comparison.

    They match its selector and share with its cells the axes on which those do not differ: a run that failed at another
    learning rate than all compared ones says nothing about them.
    """
    compared = [dict(key) for key in cells]
    same = {axis: value for axis, value in compared[0].items() if all(cell.get(axis) == value for cell in compared)}
    common = {axis: value for axis, value in same.items() if axis not in SCORING_AXES}
    return sum(1 for values in lost if _matches(values, selector) and common.items() <= values.items())


def _repeated_value(axis: str, *sides: Cells) -> str:
    """Return a value of an axis that several cells of one side have; empty if there is none."""
    for side in sides:
        values = [dict(key)[axis] for key in side]
        if repeated := [value for value in values if values.count(value) > 1]:
            return repeated[0]
    return ""


def _with_verdicts(comparisons: list[_Comparison]) -> list[Judgement]:
    """Return the judgements with verdicts, from p-values that are adjusted for the number of tests."""
    evidence = [comparison.judgement.evidence for comparison in comparisons if comparison.judgement.evidence]
    adjusted = iter(zip(holm([e.p_for for e in evidence]), holm([e.p_against for e in evidence]), strict=True))
    return [
        _decided(comparison, *next(adjusted), LEVEL / len(evidence))
        if comparison.judgement.evidence
        else comparison.judgement
        for comparison in comparisons
    ]


def _decided(comparison: _Comparison, p_for: float, p_against: float, level: float) -> Judgement:
    judgement = replace(comparison.judgement, p_for=p_for, p_against=p_against)
    if min(p_for, p_against) >= LEVEL / 2:
        seeds = comparison.claim.seeds_to_decide(comparison.own, comparison.rivals, level)
        return replace(judgement, seeds_to_decide=seeds)
    supports = p_for < LEVEL / 2
    if comparison.claim.withheld(judgement.lost)[0 if supports else 1]:
        own, rivals = judgement.lost
        lost = f"{own} runs of the claim's own cells and {rivals} of the others diverged or failed"
        verdict = "supported" if supports else "contradicted"
        return replace(judgement, why=f"without lost runs it would be {verdict}, but {lost}")
    return replace(judgement, verdict=Verdict.SUPPORTED if supports else Verdict.CONTRADICTED)


def _seeds_to_decide(judgement: Judgement) -> str:
    if judgement.evidence is None:
        return ""
    if judgement.verdict != Verdict.UNDECIDED:
        return "decided"
    if judgement.why:
        return ""
    seeds = judgement.seeds_to_decide
    return f"about {max(seeds, judgement.seeds + 1)}" if seeds else f"over {MAX_SEEDS}"


def table(judgements: Sequence[Judgement]) -> tuple[list[str], list[list[str]]]:
    """Return the verdicts as the header and the rows of a table."""
    rows = []
    for judgement in judgements:
        evidence = judgement.evidence
        effect = f"{evidence.effect:.4g} [{evidence.low:.4g}, {evidence.high:.4g}]" if evidence else ""
        effect = "; ".join(part for part in (effect, judgement.why) if part)
        test = f"{evidence.measure}; {evidence.test}" if evidence else ""
        p = f"{judgement.p_for:.3f} / {judgement.p_against:.3f}" if judgement.p_for is not None else ""
        seeds = f"{judgement.seeds or ''}" + (f" ({sum(judgement.lost)} lost)" if any(judgement.lost) else "")
        rows.append(
            [
                judgement.claim,
                judgement.setting,
                str(judgement.verdict),
                effect,
                test,
                p,
                seeds,
                _seeds_to_decide(judgement),
            ]
        )
    header = ["claim", "setting", "verdict", "effect [95 %]", "test", "p for / against", "seeds", "seeds to decide"]
    return header, rows


def notes(judgements: Sequence[Judgement], metric: str) -> list[str]:
    """Return how to read the verdicts, and which runs each is based on."""
    count = sum(1 for judgement in judgements if judgement.evidence)
    return [
        f"Metric: {metric}. A positive effect agrees with the claim. p for: the probability of such evidence for the "
        f"claim if it is false; p against: of such evidence against it if it is true. Both are adjusted for {count} "
        f"tests (Holm), and decide below {LEVEL / 2:g}: verdicts are false with a probability of at most {LEVEL:g}. "
        f"Seeds to decide: per cell, for a power of {POWER:g}, if the estimates equal the true values.",
        *(
            f"{judgement.claim} ({judgement.setting}): based on {', '.join(judgement.runs)}"
            for judgement in judgements
            if judgement.runs
        ),
    ]


def to_markdown(judgements: Sequence[Judgement], metric: str) -> str:
    """Return the verdicts as a Markdown table with notes."""
    return markdown(*table(judgements), notes(judgements, metric))


def to_entries(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return the verdicts for JSON."""
    return [cast("dict[str, Any]", finite(asdict(judgement))) for judgement in judgements]
