"""Claims about a set of runs, judged: supported, contradicted or undecided."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import MEASURED_WITH, SCORED_IN, as_text, coordinates, shown_metric
from wgan_sweep.report.evidence import LEVEL, MOST_SEEDS, POWER, Evidence, every_mean_lower, holm, spread_less
from wgan_sweep.report.text import finite, markdown
from wgan_sweep.runs.directory import Record, Status

PUBLISHED = Path(__file__).with_name("claims.yaml")
"""What the paper claims."""
FEWEST_SEEDS = 2

Where = Mapping[str, Any]
"""Axes and the values that choose cells; an axis that is not named may have any."""
Place = tuple[tuple[str, str], ...]
Cells = Mapping[Place, Sequence[Record]]


class Verdict(StrEnum):
    """What runs say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judgement:
    """A claim, and what the runs of one setting say of it."""

    claim: str
    setting: str
    """Data, model and way of scoring: what all these runs share."""
    verdict: Verdict
    why: str
    """What kept it from being judged; empty where it was."""
    runs: tuple[str, ...] = ()
    """What it rests on."""
    seeds: int = 0
    """The fewest of a cell."""
    lost: int = 0
    """Runs of the cells that the claim speaks for which diverged or failed: a mean without them flatters."""
    evidence: Evidence | None = None
    p_for: float | None = None
    p_against: float | None = None
    """Adjusted for the number of judgements (Holm)."""


def _is_at(place: Mapping[str, str], where: Where) -> bool:
    return all(place.get(key) == as_text(value) for key, value in where.items())


def _chosen(cells: Cells, where: Where) -> dict[Place, Sequence[Record]]:
    return {place: runs for place, runs in cells.items() if _is_at(dict(place), where)}


Two = tuple[dict[Place, Sequence[Record]], dict[Place, Sequence[Record]]]


@dataclass(frozen=True)
class Lower:
    """Every cell of one kind has a lower mean than every other cell of another kind; or a higher one."""

    claim: str
    claimed: Where
    """Whose cells the claim speaks for."""
    than: Where
    higher: bool = False

    def sides(self, cells: Cells) -> Two:
        """Return the cells that are compared."""
        these = _chosen(cells, self.claimed)
        return these, {place: runs for place, runs in _chosen(cells, self.than).items() if place not in these}

    def judge(self, these: list[list[float]], those: list[list[float]], level: float) -> Evidence:
        """Compare their scores."""
        sign = -1 if self.higher else 1
        one, other = ([[sign * score for score in cell] for cell in side] for side in (these, those))
        return every_mean_lower(one, other, level)


@dataclass(frozen=True)
class SpreadsLess:
    """The means along an axis differ less among cells of one kind than among those of another."""

    claim: str
    spread_of: str
    claimed: Where
    """Whose cells the claim speaks for."""
    than: Where

    def sides(self, cells: Cells) -> Two:
        """Return the cells that are compared: those whose place on the axis both kinds have."""
        these, those = _chosen(cells, self.claimed), _chosen(cells, self.than)
        common = {dict(place).get(self.spread_of) for place in these}
        common &= {dict(place).get(self.spread_of) for place in those}
        found = (
            {p: runs for p, runs in side.items() if dict(p).get(self.spread_of) in common} for side in (these, those)
        )
        return cast("Two", tuple(found if len(common) > 1 else ({}, {})))

    def judge(self, these: list[list[float]], those: list[list[float]], level: float) -> Evidence:
        """Compare the spreads of their scores' means."""
        return spread_less(these, those, level)


Claim = Lower | SpreadsLess

FORMS: dict[tuple[str, ...], Callable[..., Claim]] = {
    ("claim", "lower", "than"): lambda claim, lower, than: Lower(claim, lower, than),
    ("claim", "higher", "than"): lambda claim, higher, than: Lower(claim, higher, than, higher=True),
    ("claim", "spread_of", "less_in", "than_in"): lambda claim, spread_of, less_in, than_in: SpreadsLess(
        claim, spread_of, less_in, than_in
    ),
}
"""What a file of claims may hold, by its keys."""


def read(path: Path) -> list[Claim]:
    """Read claims.

    Raises:
        InputError: if the file is none, with the forms that a claim may have.
    """
    try:
        entries = OmegaConf.to_container(OmegaConf.load(path), resolve=True)["claims"]  # type: ignore[index, call-overload]
        if not isinstance(entries, list):
            raise TypeError("`claims` is no list")  # noqa: TRY301
    except (OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException, KeyError) as error:
        raise InputError(f"{path} holds no claims ({type(error).__name__}: {error}): see {PUBLISHED}") from error
    return [_claim(path, entry) for entry in entries]


def _claim(path: Path, entry: Any) -> Claim:
    form = next((keys for keys in FORMS if isinstance(entry, dict) and set(keys) == entry.keys()), None)
    texts = {"claim", "spread_of"}
    if form is None or not all(isinstance(v, str if k in texts else dict) and v for k, v in entry.items()):
        forms = "; ".join(", ".join(keys) for keys in FORMS)
        raise InputError(f"{path}: {entry!r} is no claim: it has the keys {forms} (see {PUBLISHED})")
    return FORMS[form](**entry)


TOGETHER = {*MEASURED_WITH, *(f"scored {name}" for name in SCORED_IN)}
"""What scores must have in common."""


@dataclass(frozen=True)
class _Setting:
    """What can be compared: runs on the same data and model, scored in the same way."""

    name: str
    cells: Mapping[Place, Sequence[Record]]
    lost: Sequence[Mapping[str, str]]
    """Places of the runs there that diverged or failed."""


def _is_shared(key: str) -> bool:
    return key in TOGETHER or key.split(".")[0] in ("data", "model")


def _settings(records: Sequence[Record], metric: str) -> list[_Setting]:
    found: dict[Place, dict[Place, dict[Any, Record]]] = {}
    lost = [coordinates(one) for one in records if one.status in (Status.DIVERGED, Status.FAILED)]
    for record in records:
        if record.status != Status.DONE or not math.isfinite(record.scores.get(metric, math.nan)):
            continue
        place = coordinates(record)
        shared = tuple((key, value) for key, value in place.items() if _is_shared(key))
        cell = found.setdefault(shared, {}).setdefault(tuple(place.items()), {})
        cell[record.config.get("seed")] = record  # a copy of a directory is no other seed
    varying = {key for setting in found for key, _ in setting if len({dict(one).get(key) for one in found}) > 1}

    def of(setting: Place, place: Mapping[str, str]) -> bool:
        return all(place.get(key) == value for key, value in setting if key not in TOGETHER)

    return [
        _Setting(
            " ".join(f"{k}={v}" for k, v in setting if k in varying or k in ("data", "model", "step")),
            {place: list(runs.values()) for place, runs in cells.items()},
            [place for place in lost if of(setting, place)],
        )
        for setting, cells in found.items()
    ]


def judge(claims: Sequence[Claim], records: Sequence[Record], metric: str | None = None) -> list[Judgement]:
    """Judge claims by runs.

    Args:
        claims: The claims; each is judged once per setting.
        records: The runs.
        metric: The score; by default the one that runs are judged by.
    """
    metric = shown_metric(records, metric)
    settings = _settings(records, metric)
    begun = [[one for setting in settings if (one := _begin(claim, setting, metric))] for claim in claims]
    count = sum(1 for of_claim in begun for one in of_claim if not one.judgement.why)
    found: list[Judgement] = []
    for claim, of_claim in zip(claims, begun, strict=True):
        found += [_weighed(claim, one, LEVEL / max(1, count)) for one in of_claim]
        if not of_claim:
            found.append(Judgement(claim.claim, "", Verdict.UNDECIDED, "no two sides of it among these runs"))
    return _adjusted(found)


@dataclass(frozen=True)
class _Begun:
    """A judgement before its test."""

    judgement: Judgement
    these: list[list[float]]
    those: list[list[float]]
    """The scores of each side's cells."""


def _begin(claim: Claim, setting: _Setting, metric: str) -> _Begun | None:
    """Return what there is to judge by, or why it is not enough; None where the claim is about other runs."""
    these, those = claim.sides(setting.cells)
    if not these or not those:
        return None
    runs = [record for side in (these, those) for members in side.values() for record in members]
    fewest = min(len(members) for side in (these, those) for members in side.values())
    lost = sum(1 for place in setting.lost if _is_at(place, claim.claimed))
    why = ""
    if fewest < FEWEST_SEEDS:
        why = f"a cell has one seed only: {FEWEST_SEEDS} or more of each are needed"
    elif isinstance(claim, SpreadsLess) and (axis := _mixed(claim.spread_of, these, those)):
        why = f"cells at {claim.spread_of}={axis} differ in more than that: name more axes on each side"
    names = tuple(record.run_id for record in runs)
    judgement = Judgement(claim.claim, setting.name, Verdict.UNDECIDED, why, names, fewest, lost)
    scores = ([[run.scores[metric] for run in members] for members in side.values()] for side in (these, those))
    return _Begun(judgement, *scores)


def _mixed(axis: str, *sides: Mapping[Place, Any]) -> str:
    """Return a value of an axis at which a side has more than one cell, or nothing."""
    for side in sides:
        values = [dict(place)[axis] for place in side]
        if repeated := [value for value in values if values.count(value) > 1]:
            return repeated[0]
    return ""


def _weighed(claim: Claim, begun: _Begun, level: float) -> Judgement:
    if begun.judgement.why:
        return begun.judgement
    return replace(begun.judgement, evidence=claim.judge(begun.these, begun.those, level))


def _adjusted(judgements: list[Judgement]) -> list[Judgement]:
    """Return them with their verdicts: many claims are not each given a chance of its own to be true by luck."""
    with_evidence = [(index, one.evidence) for index, one in enumerate(judgements) if one.evidence]
    in_favour = holm([evidence.p_for for _, evidence in with_evidence])
    against = holm([evidence.p_against for _, evidence in with_evidence])
    result = list(judgements)
    for (index, _), p_for, p_against in zip(with_evidence, in_favour, against, strict=True):
        one, verdict, why = judgements[index], Verdict.UNDECIDED, ""
        if p_for < LEVEL and one.lost:
            why = f"{one.lost} runs that it speaks for diverged or failed: their cells' means leave them out"
        elif p_for < LEVEL:
            verdict = Verdict.SUPPORTED
        elif p_against < LEVEL:
            verdict = Verdict.CONTRADICTED
        result[index] = replace(one, verdict=verdict, why=why, p_for=p_for, p_against=p_against)
    return result


def _seeds(judgement: Judgement) -> str:
    if judgement.evidence is None:
        return ""
    if judgement.verdict != Verdict.UNDECIDED:
        return "decided"
    if judgement.why:
        return ""
    needed = judgement.evidence.seeds
    return f"about {max(needed, judgement.seeds + 1)}" if needed else f"over {MOST_SEEDS}"


def table(judgements: Sequence[Judgement]) -> tuple[list[str], list[list[str]]]:
    """Return verdicts as header and rows of text."""
    rows = []
    for one in judgements:
        evidence = one.evidence
        effect = f"{evidence.effect:.4g} [{evidence.low:.4g}, {evidence.high:.4g}]" if evidence else ""
        effect = "; ".join(part for part in (effect, one.why) if part)
        test = f"{evidence.measure}; {evidence.test}" if evidence else ""
        p = f"{one.p_for:.3f} / {one.p_against:.3f}" if one.p_for is not None else ""
        seeds = f"{one.seeds or ''}" + (f" ({one.lost} lost)" if one.lost else "")
        rows.append([one.claim, one.setting, str(one.verdict), effect, test, p, seeds, _seeds(one)])
    header = ["claim", "in", "verdict", "effect [95 %]", "test", "p for / against", "seeds", "seeds that would decide"]
    return header, rows


def notes(judgements: Sequence[Judgement], metric: str) -> list[str]:
    """Return how verdicts are to be read, and what each rests on."""
    count = sum(1 for one in judgements if one.evidence)
    return [
        f"By {metric}; an effect above 0 is on the claim's side. p: that so much speaks for (against) a claim that is "
        f"false (true), adjusted by Holm for {count} judgements; level {LEVEL:g}. "
        f"Seeds that would decide: per cell, with a power of {POWER:g}, if the estimates were the truth.",
        *(f"{one.claim} ({one.setting}): rests on {', '.join(one.runs)}" for one in judgements if one.runs),
    ]


def to_markdown(judgements: Sequence[Judgement], metric: str) -> str:
    """Return verdicts as a table, and below it what they rest on."""
    return markdown(*table(judgements), notes(judgements, metric))


def to_entries(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return verdicts for JSON."""
    return [cast("dict[str, Any]", finite(asdict(one))) for one in judgements]
