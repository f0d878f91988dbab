"""Verdicts on claims about a set of runs: each is supported, contradicted or undecided."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, cast

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.keys import find_key
from wgan_sweep.report.cells import shown_metric, with_separating
from wgan_sweep.report.claim_kinds.claim import Cells, Claim, ClaimTest, Coordinates, LostRun, Setting
from wgan_sweep.report.claim_kinds.means import CountingPruned
from wgan_sweep.report.claim_kinds.reading import PAPER, PRUNED, PUBLISHED, WORST, claims_file, read_claims
from wgan_sweep.report.curves import Curves
from wgan_sweep.report.inference.evidence import LEVEL, MAX_SEEDS, POWER, Evidence, holm, with_interval
from wgan_sweep.report.text import finite, markdown
from wgan_sweep.runs.coordinates import SCORING_AXES, as_text, coordinates, trained_coordinates
from wgan_sweep.runs.record import Record, Status, cost_sign

__all__ = [
    "PAPER",
    "PUBLISHED",
    "Judgement",
    "Verdict",
    "claims_file",
    "decided",
    "judge",
    "notes",
    "read_claims",
    "settings_of",
    "table",
    "to_entries",
    "to_markdown",
    "with_evidence",
]


LOST = "diverged, failed or have no value"
"""What happened to lost runs, in words."""
MAX_NAMED_SETTINGS = 4
"""Largest number of settings that a message names."""
NAMED_IN_SETTINGS = ("model", "data", "step")
"""The axes that the name of every setting has; others are added where these do not tell settings apart."""


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
    """Runs of the claim's own cells, and of those that they are compared with, that diverged or failed, or are done and
    have no value. The means of these cells are too favourable without them."""
    evidence: Evidence | None = None
    """Result of the test; None if the claim could not be tested."""
    p_for: float | None = None
    """`Evidence.p_for`, adjusted for the number of tests (Holm)."""
    p_against: float | None = None
    """`Evidence.p_against`, adjusted for the number of tests (Holm)."""
    seeds_to_decide: int | None = None
    """Seeds per cell at which an undecided claim would be decided with power `POWER`; None if it is decided, cannot be
    tested, or would take too many."""
    details: tuple[str, ...] = ()
    """Further results, as sentences."""
    collected: str = ""
    """How its runs were collected, if the p-values do not hold for them; empty if they do."""


def _is_shared(axis: str) -> bool:
    """Whether all runs of a setting have the same value on an axis."""
    # A key with an entry of its own in the table, such as `data.flip`, is part of how a run is trained.
    return axis in SCORING_AXES or find_key(axis).name in ("data", "model")


def settings_of(records: Sequence[Record], metric: str, curves: Curves, *, with_earlier: bool = False) -> list[Setting]:
    """Return the settings of runs: sets of runs that can be compared by a metric.

    Args:
        records: The runs.
        metric: The metric.
        curves: Their curves.
        with_earlier: Whether runs that were continued or scored otherwise also count by their earlier results. The last
            result of each run makes settings, and every run counts in each of them in which it has a result: those
            whose continuation failed would be a selection.
    """
    settings: dict[Coordinates, dict[Coordinates, dict[Any, Record]]] = {}
    last = [record.result if with_earlier else record for record in records]
    done = [record for record in last if record is not None and record.status == Status.DONE]
    earlier = [result for record in records for result in record.earlier_results] if with_earlier else []
    lost = [LostRun(trained_coordinates(record), record) for record in records if record.is_lost]
    unscored = [LostRun(trained_coordinates(record), record) for record in done if not record.has_value(metric)]
    pruned = [record for record in records if record.status == Status.PRUNED]
    for record in done:
        if record.has_value(metric):
            shared, cell = _place(record)
            # A copy of a run directory is not another seed.
            settings.setdefault(shared, {}).setdefault(cell, {})[record.config.get("seed")] = record
    for record in earlier:
        shared, cell = _place(record)
        if record.has_value(metric) and shared in settings:
            settings[shared].setdefault(cell, {}).setdefault(record.config.get("seed"), record)
    points = [dict(shared) for shared in settings]
    named = with_separating(points, NAMED_IN_SETTINGS, dict.fromkeys(axis for point in points for axis in point))

    def belongs(values: Mapping[str, str], shared: Coordinates) -> bool:
        return all(values.get(axis) == value for axis, value in shared if axis not in SCORING_AXES)

    current = {id(record) for record in records}

    def one_per_seed(runs: Iterable[LostRun], shared: Coordinates) -> list[LostRun]:
        own = [run for run in runs if belongs(run.coordinates, shared)]
        return list({(*run.coordinates.items(), run.record.config.get("seed")): run for run in own}.values())

    def setting(shared: Coordinates, cells: Mapping[Coordinates, Mapping[Any, Record]]) -> Setting:
        runs = [run for by_seed in cells.values() for run in by_seed.values()]
        known = {run.run_id for run in runs}
        missing = [run for run in lost if run.record.run_id not in known]
        without = [run for run in unscored if run.record.run_id not in known]
        stopped = [run for run in pruned if run.run_id not in known and belongs(trained_coordinates(run), shared)]
        return Setting(
            " ".join(f"{axis}={value}" for axis, value in shared if axis in named),
            metric,
            {key: list(by_seed.values()) for key, by_seed in cells.items()},
            one_per_seed((run for run in missing if run.record.step <= _step(shared, run.record)), shared),
            curves,
            one_per_seed((run for run in without if run.record.step == _step(shared, run.record)), shared),
            _pruned(stopped, shared, metric, [run.scores[metric] for run in runs]),
            {run.run_id: run.step for run in runs if id(run) not in current},
        )

    return [setting(shared, cells) for shared, cells in settings.items()]


def _place(record: Record) -> tuple[Coordinates, Coordinates]:
    """Return the coordinates of a scored run that all runs of its setting share, and all of its coordinates."""
    values = coordinates(record)
    return tuple((axis, value) for axis, value in values.items() if _is_shared(axis)), tuple(values.items())


def _step(shared: Coordinates, record: Record) -> int:
    """Return the step at which the runs of a setting were scored; that of a run if the setting does not say."""
    return int(dict(shared).get("step", record.step))


def _pruned(pruned: Sequence[Record], shared: Coordinates, metric: str, finished: Sequence[float]) -> Cells:
    """Return pruned runs in the cells that they belong to, with the worst metric value.

    That is the worst of the finished runs, or a run's own last value if it is worse still.

    Args:
        pruned: The runs.
        shared: The coordinates that the runs of the setting share.
        metric: The metric.
        finished: The values of the finished runs.
    """
    cells: dict[Coordinates, list[Record]] = {}
    for record in pruned:
        known = [*finished, *(value for name, value in record.scores.items() if name == metric)]
        sign = cost_sign(metric)
        worst = math.nan if sign is None else max(known) if sign > 0 else min(known)
        measured = {axis: value for axis, value in shared if axis in SCORING_AXES}
        cell = tuple({**trained_coordinates(record), **measured}.items())
        cells.setdefault(cell, []).append(replace(record, scores={**record.scores, metric: worst}))
    return cells


def claim_test(claim: Claim, setting: Setting) -> ClaimTest | None:
    """Return the test of a claim in a setting; None if the setting lacks cells on one side.

    If pruned runs belong to its cells, it cannot be tested, unless the claim says how they count: the others of a cell
    are those with the better values.
    """
    test = claim.test_in(setting)
    if not setting.pruned or isinstance(claim, CountingPruned):
        return test
    complete = claim.test_in(setting.counting_pruned())
    pruned = {record.run_id for records in setting.pruned.values() for record in records}
    count = sum(run_id in pruned for run_id in (*complete.runs, *complete.left_out)) if complete else 0
    if complete is None or not count:
        return test
    remedy = f"train them to the end (prune=none), or count them as the worst ({PRUNED}: {WORST})"
    return replace(complete, why=f"{count} of its runs were pruned: {remedy}")


def nothing_to_compare(claim: Claim, settings: Sequence[Setting]) -> str:
    """Return why a claim has no cells to compare in any of these settings."""
    why = "no runs on both sides of the comparison"
    cells = [dict(cell) for setting in settings for cell in setting.cells]
    for axis, value in _selected_values(claim) if cells else ():
        known = {cell[axis] for cell in cells if axis in cell}
        if value not in known:
            return f"{why}: no run with a value has {axis}={value}{did_you_mean(value, known)}"
    if not 1 < len(settings) <= MAX_NAMED_SETTINGS:
        return why
    return f"{why} (only runs of one setting are compared: {'; '.join(setting.name for setting in settings)})"


def _selected_values(claim: Any) -> Iterator[tuple[str, str]]:
    """Yield the axes and the values by which a claim selects runs."""
    for part in vars(claim).values():
        if isinstance(part, Mapping):
            for axis, values in part.items():
                for value in values if isinstance(values, list) else [values]:
                    yield axis, as_text(value)
        elif hasattr(part, "test_in"):  # a claim that another one changes
            yield from _selected_values(part)


def judge(
    claims: Sequence[Claim], records: Sequence[Record], metric: str | None = None, curves: Curves | None = None
) -> list[Judgement]:
    """Test claims on runs.

    Args:
        claims: The claims; each is tested once per setting.
        records: The runs.
        metric: The metric to compare; by default the selection metric of the runs.
        curves: Their curves, for the claims that are about these.
    """
    settings = settings_of(records, shown_metric(records, metric), curves or Curves.none(), with_earlier=True)
    tested: list[tuple[Judgement, ClaimTest | None]] = []
    for claim in claims:
        found = [
            (with_evidence(claim, setting.name, test), test)
            for setting in settings
            if (test := claim_test(claim, setting))
        ]
        nothing = Judgement(claim.claim, "", Verdict.UNDECIDED, nothing_to_compare(claim, settings))
        tested += found or [(nothing, None)]
    evidence = [judgement.evidence for judgement, _ in tested if judgement.evidence]
    adjusted = iter(zip(holm([e.p_for for e in evidence]), holm([e.p_against for e in evidence]), strict=True))
    return [
        decided(judgement, test, *next(adjusted), LEVEL / len(evidence)) if test and judgement.evidence else judgement
        for judgement, test in tested
    ]


def with_evidence(claim: Claim, setting: str, test: ClaimTest, level: float = LEVEL) -> Judgement:
    """Return the judgement on a claim without its verdict, which depends on the number of tests.

    Args:
        claim: The claim.
        setting: The name of the setting.
        test: Its test in that setting.
        level: Error rate of the test, which sets the width of the interval.
    """
    return Judgement(
        claim.claim,
        setting,
        Verdict.UNDECIDED,
        test.why,
        tuple(test.runs),
        test.seeds,
        test.lost,
        evidence=None if test.why else test.evidence_at(level),
        details=() if test.why else (*test.details(), *_left_out(test)),
    )


def _left_out(test: ClaimTest) -> list[str]:
    count = len(test.left_out)
    return [f"not compared: {count} runs, since not all of its cells have their seeds"] if count else []


def decided(judgement: Judgement, test: ClaimTest, p_for: float, p_against: float, level: float) -> Judgement:
    """Return the judgement with its verdict.

    Args:
        judgement: The judgement of a claim that could be tested.
        test: The test of the claim in its setting.
        p_for: `Evidence.p_for`, adjusted for the number of tests.
        p_against: `Evidence.p_against`, likewise.
        level: Error rate at which to look for the number of seeds that would decide an undecided claim.
    """
    judgement = replace(judgement, p_for=p_for, p_against=p_against)
    if min(p_for, p_against) >= LEVEL / 2:
        return replace(judgement, seeds_to_decide=test.seeds_to_decide(level))
    supports = p_for < LEVEL / 2
    verdict = Verdict.SUPPORTED if supports else Verdict.CONTRADICTED
    if test.withheld[0 if supports else 1]:
        own, rivals = judgement.lost
        lost = f"{own} runs of the claim's own cells" + (f" and {rivals} of the others" if rivals else "")
        return replace(judgement, why=f"without lost runs it would be {verdict}, but {lost} {LOST}")
    return replace(judgement, verdict=verdict)


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
        effect = with_interval(evidence.effect, evidence.low, evidence.high) if evidence else ""
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
    """Return how to read the verdicts, and further results of each claim."""
    count = sum(1 for judgement in judgements if judgement.evidence)
    remarks = [
        *(f"{judgement.claim}: {judgement.collected}." for judgement in judgements if judgement.collected),
        *(f"{_title(judgement, judgements)}: {detail}." for judgement in judgements for detail in judgement.details),
    ]
    return [
        f"Metric: {metric}. A positive effect agrees with the claim. p for: the probability of such evidence for the "
        f"claim if it is false; p against: of such evidence against it if it is true. Both are adjusted for {count} "
        f"tests (Holm), and decide below {LEVEL / 2:g}: verdicts are false with a probability of at most {LEVEL:g}. "
        f"Seeds to decide: per cell, for a power of {POWER:g}, if the estimates equal the true values.",
        *dict.fromkeys(remarks),  # once, if they are the same in several settings
    ]


def _title(judgement: Judgement, judgements: Sequence[Judgement]) -> str:
    """Return a claim, with its setting if its details differ between settings."""
    same_claim = [other for other in judgements if other.claim == judgement.claim]
    differ = any(other.details != judgement.details for other in same_claim)
    return f"{judgement.claim} ({judgement.setting})" if differ else judgement.claim


def _compared_runs(judgements: Sequence[Judgement]) -> list[str]:
    """Return which runs each verdict is based on."""
    return [
        f"{judgement.claim} ({judgement.setting}): based on {', '.join(judgement.runs)}"
        for judgement in judgements
        if judgement.runs
    ]


def to_markdown(judgements: Sequence[Judgement], metric: str) -> str:
    """Return the verdicts as a Markdown table with notes."""
    return markdown(*table(judgements), [*notes(judgements, metric), *_compared_runs(judgements)])


def to_entries(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return the verdicts for JSON."""
    return [cast("dict[str, Any]", finite(asdict(judgement))) for judgement in judgements]
