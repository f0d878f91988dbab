"""Claims that are tested look by look, while seeds are added to the cells that still matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from wgan_sweep.report.cells import shown_metric
from wgan_sweep.report.claim_kinds.claim import MIN_SEEDS, Claim, ClaimTest, Setting
from wgan_sweep.report.claim_kinds.curves import Correlates, Faster
from wgan_sweep.report.claim_kinds.rates import Rarer
from wgan_sweep.report.claims import (
    LOST,
    Judgement,
    Verdict,
    decided,
    nothing_to_compare,
    settings_of,
    table,
    with_evidence,
)
from wgan_sweep.report.curves import Curves
from wgan_sweep.report.inference.evidence import LEVEL, Evidence, holm
from wgan_sweep.report.inference.sequential import Looks, is_futile
from wgan_sweep.runs.record import SELECTION_METRICS, Record, Status


class ClaimState(StrEnum):
    """Where the test of a claim stands."""

    OPEN = "open"
    DECIDED = "decided"
    UNDECIDABLE = "undecidable at this budget"
    """The seeds that would decide it are more than the largest number."""
    LOST = "lost runs forbid a verdict"
    UNTESTABLE = "it cannot be tested"
    """For a reason that further seeds do not change, such as curves with too few scored steps."""
    EXHAUSTED = "undecided after all seeds"


@dataclass(frozen=True)
class TrackedClaim:
    """A claim in one setting, with the cells of a sweep that it is about, and the state of its test."""

    claim: Claim
    setting: str
    cells: frozenset[int]
    """Indices of its cells. Those without a result at the first look are dropped."""
    fewest_cells: int
    """Number of cells that it needs; 0 if it counts runs, whatever their cell."""
    judgement: Judgement
    standing: ClaimState = ClaimState.OPEN
    look: int = -1
    """Index of the last look at it; -1 before the first one."""
    p_for: float = 1.0
    """p-value over all looks so far of the null hypothesis that the claim is false; not adjusted for other claims."""
    p_against: float = 1.0
    """p-value over all looks so far of the null hypothesis that the claim is true; likewise."""
    decisive: tuple[Evidence | None, Evidence | None] = (None, None)
    """The evidence of the looks that `p_for` and `p_against` are from; None before the first test."""
    needed: tuple[tuple[int, int | None], ...] = ()
    """For each look, its number of seeds, and how many seeds per cell would decide the claim; None if too many."""
    lost: tuple[Record, ...] = ()
    """The first runs of cells without a result at the first look."""


def metrics_of(claims: Sequence[Claim]) -> set[str]:
    """Return the metrics that claims name themselves."""
    return {metric for claim in claims if isinstance(claim, Rarer | Correlates | Faster) for metric in claim.metrics}


def are_about_curves(claims: Sequence[Claim]) -> bool:
    """Return whether any claim is about the curves of runs."""
    return any(isinstance(claim, Correlates | Faster) for claim in claims)


class Decision:
    """Tests claims at each look until each is decided, undecidable, or out of seeds.

    The error rate of the verdicts together is at most `LEVEL`: each look spends its share, see `inference.sequential`,
    and Holm's correction covers the claims. The hypotheses are fixed by the cells of the sweep, and by which of them
    have a result at the first look. A claim that is no longer open is not tested again. The same runs lead to the same
    decision.

    Args:
        claims: The claims.
        cells: A run of each cell, done and with every metric that a claim may need; its values do not matter.
        looks: The numbers of seeds per cell.
        planned: The curves of these runs; their values do not matter, either.
        curves: The curves of the runs of looks.
    """

    def __init__(
        self, claims: Sequence[Claim], cells: Sequence[Record], looks: Looks, planned: Curves, curves: Curves
    ) -> None:
        self.looks = looks
        self._curves = curves
        self.tracked: list[TrackedClaim] = []
        """Each claim in each setting."""
        self.unanswerable: dict[str, str] = {}
        """Why claims cannot be answered by these cells, by claim."""
        self._look = 0
        # Two seeds each: a claim that asks for more axes says so only if the seeds suffice.
        runs = [replace(cell, config={**cell.config, "seed": seed}) for cell in cells for seed in (0, 1)]
        index = {cell.run_id: number for number, cell in enumerate(cells)}
        for claim in claims:
            tests = _tests(claim, settings_of(runs, SELECTION_METRICS[0], planned))
            for setting, test in tests:
                if test.why:
                    self.unanswerable[claim.claim] = test.why
                    continue
                self.tracked.append(
                    TrackedClaim(
                        claim,
                        setting,
                        frozenset(index[run] for run in test.runs),
                        test.fewest_cells if test.cells else 0,
                        Judgement(claim.claim, setting, Verdict.UNDECIDED, "no look yet"),
                    )
                )
            if not tests:
                self.unanswerable[claim.claim] = "no cells on both sides of the comparison"

    @property
    def open(self) -> list[TrackedClaim]:
        """The claims that are open."""
        return [tracked for tracked in self.tracked if tracked.standing is ClaimState.OPEN]

    def next(self) -> tuple[list[int], int] | None:
        """Return the cells of the next look and how many seeds each needs; None if no claim is open."""
        cells = sorted(set().union(*(tracked.cells for tracked in self.open)))
        return (cells, self.looks.seeds[self._look]) if cells else None

    def test_next_look(self, runs: Mapping[int, Sequence[Record]]) -> list[TrackedClaim]:
        """Take the next look, and return the claims that it closes.

        Args:
            runs: For each cell of the look, the runs of its first seeds, as many as the look needs. A run that is not
                done is lost.
        """
        look, self._look = self._look, self._look + 1
        metric = shown_metric([record for records in runs.values() for record in records], None)
        before = self.open
        seen = {id(tracked): self._tested(tracked, look, runs, metric) for tracked in before}
        current = [seen[id(tracked)][0] if id(tracked) in seen else tracked for tracked in self.tracked]
        adjusted = zip(holm([t.p_for for t in current]), holm([t.p_against for t in current]), strict=True)
        self.tracked = [
            self._judged(tracked, seen[id(original)][1], *both) if id(original) in seen else tracked
            for original, tracked, both in zip(self.tracked, current, adjusted, strict=True)
        ]
        return [now for was, now in zip(current, self.tracked, strict=True) if was.standing is not now.standing]

    def _tested(
        self, tracked: TrackedClaim, look: int, runs: Mapping[int, Sequence[Record]], metric: str
    ) -> tuple[TrackedClaim, ClaimTest | None]:
        """Return a claim after its test at a look, and the test; None if there could be none."""
        if look == 0 and tracked.fewest_cells:
            dropped = sorted(cell for cell in tracked.cells if not _has_result(runs[cell], metric))
            lost = tuple(record for cell in dropped for record in runs[cell])
            tracked = replace(tracked, cells=tracked.cells.difference(dropped), lost=lost)
        own = [*tracked.lost, *(record for cell in sorted(tracked.cells) for record in runs[cell])]
        settings = settings_of(own, metric, self._curves)
        tests = _tests(tracked.claim, settings)
        tracked = replace(tracked, look=look)
        if not tests:
            return _untested(tracked, nothing_to_compare(tracked.claim, settings)), None
        if len(tests) > 1:
            return _untested(tracked, "its runs were measured in different ways"), None
        ((_, test),) = tests
        if tracked.fewest_cells and test.cells < len(tracked.cells) and not test.why:
            return _untested(tracked, "the runs of a cell have no result that can be compared"), None
        share = self.looks.shares[look]
        judgement = replace(with_evidence(tracked.claim, tracked.setting, test, LEVEL * share), details=())
        tracked = replace(tracked, judgement=judgement)
        if judgement.evidence is None:
            return tracked, None
        p_for = self.looks.adjusted(look, judgement.evidence.p_for, tracked.p_for)
        p_against = self.looks.adjusted(look, judgement.evidence.p_against, tracked.p_against)
        decisive = (
            judgement.evidence if p_for < tracked.p_for else tracked.decisive[0],
            judgement.evidence if p_against < tracked.p_against else tracked.decisive[1],
        )
        return replace(tracked, p_for=p_for, p_against=p_against, decisive=decisive), test

    def _judged(self, tracked: TrackedClaim, test: ClaimTest | None, p_for: float, p_against: float) -> TrackedClaim:
        """Return a claim with its verdict and where it stands after a look.

        Args:
            tracked: The claim.
            test: The test of the look; None if there could be none.
            p_for: `TrackedClaim.p_for`, adjusted for the number of claims.
            p_against: `TrackedClaim.p_against`, likewise.
        """
        seeds, largest = self.looks.seeds[tracked.look], self.looks.seeds[-1]
        if len(tracked.cells) < tracked.fewest_cells:
            return replace(tracked, standing=ClaimState.LOST)
        number = None
        if test is not None:
            # At the level of a single test of a fixed number of seeds: rather too few seeds than too many.
            judgement = decided(tracked.judgement, test, p_for, p_against, LEVEL)
            tracked = replace(tracked, judgement=judgement)
            if judgement.verdict != Verdict.UNDECIDED:
                # Holm's correction may release a p-value of an earlier look: its evidence is what decides.
                decisive = tracked.decisive[0 if judgement.verdict == Verdict.SUPPORTED else 1]
                return replace(tracked, judgement=replace(judgement, evidence=decisive), standing=ClaimState.DECIDED)
            if judgement.why:
                return replace(tracked, standing=ClaimState.LOST)
            if all(test.withheld):
                judgement = replace(judgement, why=f"{sum(test.lost)} runs {LOST}")
                return replace(tracked, judgement=judgement, standing=ClaimState.LOST)
            if judgement.seeds_to_decide is not None:
                number = round(judgement.seeds_to_decide * seeds / test.seeds)  # lost seeds are not compared
        elif tracked.judgement.why and tracked.judgement.seeds >= MIN_SEEDS:
            return replace(tracked, standing=ClaimState.UNTESTABLE)
        tracked = replace(tracked, needed=(*tracked.needed, (seeds, number)))
        if is_futile(tracked.needed, largest):
            can_be_tested = tracked.judgement.evidence is not None
            return replace(tracked, standing=ClaimState.UNDECIDABLE if can_be_tested else ClaimState.LOST)
        return replace(tracked, standing=ClaimState.EXHAUSTED) if seeds == largest else tracked

    def where(self, tracked: TrackedClaim) -> str:
        """Return where a claim stands, in words."""
        if tracked.look < 0:
            return "open: no look yet"
        seeds, count = self.looks.seeds[tracked.look], len(self.looks.seeds)
        return f"{tracked.standing} (look {tracked.look + 1} of {count}: {seeds} seeds)"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the claims as the header and the rows of a table."""
        header, rows = table([tracked.judgement for tracked in self.tracked])
        header[3] = "effect [interval]"
        return [*header[:-1], "where it stands"], [
            [*row[:-1], self.where(tracked)] for row, tracked in zip(rows, self.tracked, strict=True)
        ]


def _tests(claim: Claim, settings: Sequence[Setting]) -> list[tuple[str, ClaimTest]]:
    return [(setting.name, test) for setting in settings if (test := claim.test_in(setting))]


def _untested(tracked: TrackedClaim, why: str) -> TrackedClaim:
    judgement = Judgement(tracked.claim.claim, tracked.setting, Verdict.UNDECIDED, why)
    return replace(tracked, judgement=judgement)


def _has_result(records: Sequence[Record], metric: str) -> bool:
    return any(record.status == Status.DONE and record.has_value(metric) for record in records)
