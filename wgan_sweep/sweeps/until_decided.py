"""Sweeps that train seed after seed, only in the cells that still matter, until claims are decided.

The state is derived from the runs alone: the same command takes the same looks again, and trains what is missing.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from wgan_sweep.common.files import write
from wgan_sweep.common.ranges import shown
from wgan_sweep.config import schema
from wgan_sweep.config.keys import Role, overridden_key, without_roles
from wgan_sweep.errors import InputError
from wgan_sweep.report.claim_kinds.claim import Claim
from wgan_sweep.report.claim_kinds.reading import claims_file, read_claims
from wgan_sweep.report.claims import Verdict
from wgan_sweep.report.curves import TRAINING, Curves, Lines
from wgan_sweep.report.decisions import ClaimOutcome, DecisionRecord, read_decisions
from wgan_sweep.report.inference.evidence import LEVEL
from wgan_sweep.report.inference.sequential import Looks
from wgan_sweep.report.looks import ClaimState, Decision, TrackedClaim, are_about_curves, metrics_of
from wgan_sweep.report.text import finite, markdown
from wgan_sweep.runs import pruning
from wgan_sweep.runs.record import METRICS, SELECTION_METRICS, Record, Status
from wgan_sweep.runs.requests import DECISION
from wgan_sweep.runs.state import is_finished
from wgan_sweep.sweeps.archived import archived_lines, is_done_in_archive
from wgan_sweep.sweeps.launching import Outcome, RequestedRun

MIN_SEEDS = 2
"""Seeds of the first look."""
MAX_FAILURES = 3
"""Number of runs that fail one after another until the command stops."""


@dataclass(frozen=True)
class Budget:
    """A limit on the time of all runs of a sweep."""

    hours: float
    per_gpu: bool
    """Whether an hour of a run counts once for each GPU that it uses."""

    @classmethod
    def parse(cls, text: object) -> "Budget | None":
        """Return the budget that the key ``decide.budget`` names.

        Raises:
            InputError: if it is not a positive number with a unit.
        """
        if text is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(h|gpuh)", str(text))
        if match is None or float(match[1]) == 0:
            raise InputError(f"decide.budget must be a number of hours, such as 40h or 40gpuh, got {shown(text)}")
        return cls(float(match[1]), match[2] == "gpuh")

    def __str__(self) -> str:
        return f"{self.hours:g} {'GPU hours' if self.per_gpu else 'hours'}"

    def spent_by(self, record: Record) -> float:
        """Return the hours that a run has taken."""
        return record.hours(per_gpu=self.per_gpu)


Request = Callable[[Sequence[list[str]]], list[RequestedRun]]
"""Composes and checks the run of each list of overrides."""
Complete = Callable[[Sequence[RequestedRun]], list[Outcome]]
"""Completes runs."""


def check_wanted(config: Any) -> tuple[list[Claim], schema.Decide]:
    """Return the claims and the limits that a sweep's config names.

    Args:
        config: A config with the keys ``claims``, ``decide``, ``launch``.

    Raises:
        InputError: if the claims cannot be read, a limit is out of range, or the launcher does not wait for its runs.
    """
    limits = config.decide
    schema.check_ranges(limits, schema.Decide, "decide.")
    Budget.parse(limits.budget)
    if config.launch.get("wait") is False:
        raise InputError("launch.wait=false with claims: each batch depends on the runs before it; leave it out")
    if pruning.is_on(config):
        raise InputError(
            f"claims with {pruning.name_of(config)}: pruned runs are not evidence; leave claims out, or set prune=none"
        )
    if config.scorer.get("_target_") is None:
        raise InputError("claims are about a metric, but scorer=none gives none: choose a scorer")
    claims = read_claims(claims_file(config.claims))
    if not claims:
        raise InputError(f"claims={config.claims} holds no claims")
    return claims, limits


class Seeds:
    """The cells of a sweep and the seeds of each, in the order in which they are trained.

    Args:
        jobs: The overrides of each run of the sweep. Its seeds come first; 2 seeds at least.
        start: The seed of runs whose overrides have none.
        largest: The largest number of seeds.

    Raises:
        InputError: if the cells have different seeds, a seed is not a whole number, or there are too many.
    """

    def __init__(self, jobs: Sequence[Sequence[str]], start: int, largest: int) -> None:
        given: dict[tuple[str, ...], list[int]] = {}
        for job in jobs:
            cell = tuple(override for override in job if overridden_key(override) != "seed")
            values = [override.partition("=")[2] for override in job if overridden_key(override) == "seed"]
            if not all(re.fullmatch(r"-?\d+", value) for value in values):
                raise InputError(f"seed={values[-1]} with claims: give whole numbers")
            given.setdefault(cell, []).append(int(values[-1]) if values else start)
        self.cells = [list(cell) for cell in given]
        """The overrides of each cell, without its seed."""
        first = list(dict.fromkeys(next(iter(given.values()))))
        if any(list(dict.fromkeys(seeds)) != first for seeds in given.values()):
            raise InputError("the cells of a sweep with claims must have the same seeds: give each the same list")
        if len(first) > largest:
            raise InputError(f"the sweep has {len(first)} seeds, more than decide.max_seeds={largest}: raise it")
        self.num_first = max(MIN_SEEDS, len(first))
        """Number of seeds of the first look."""
        self.order = [*first, *range(max(first) + 1, max(first) + 1 + largest - len(first))]
        """All seeds."""

    def job(self, cell: int, index: int) -> list[str]:
        """Return the overrides of a run."""
        return [*self.cells[cell], f"seed={self.order[index]}"]


class UntilDecided:
    """Trains seed after seed of a sweep until its claims are decided.

    Args:
        config: The config of the sweep's first run.
        jobs: The overrides of each run that the sweep requests.
        request: Composes and checks runs.
        archived: Returns the records of runs that are done in archives, by run id.

    Raises:
        InputError: if the claims or the limits cannot be used, or no cell can answer a claim.
    """

    def __init__(
        self,
        config: schema.Config,
        jobs: Sequence[Sequence[str]],
        request: Request,
        archived: Callable[[Sequence[RequestedRun]], Mapping[str, Record]],
    ) -> None:
        claims, limits = check_wanted(config)
        self._name, self._limits, self._budget = config.claims or "", limits, Budget.parse(limits.budget)
        self._request, self._archived = request, archived
        self.seeds = Seeds(jobs, config.seed, limits.max_seeds)
        self._runs: dict[tuple[int, int], RequestedRun] = {}
        self._records: dict[tuple[int, int], Record] = {}
        """Runs that have ended, by cell and index of the seed."""
        self._reads_curves = are_about_curves(claims)
        self._archived_lines: dict[str, Lines] = {}
        """Of runs that are done in an archive, by id, if claims need their curves."""
        self._tried: set[str] = set()
        """Ids of runs that this command has trained."""
        self._had_failed: set[str] = set()
        """Ids of runs that an earlier command has left as failed."""
        self._failures = 0
        """Runs that failed one after another, without those of `_had_failed`."""
        self.stopped = ""
        """Why the command stops although claims are open; empty if it does not."""
        first = self._requested([(cell, 0) for cell in range(len(self.seeds.cells))])
        _check_same(first)
        for name in metrics_of(claims):
            if (meant := _misspelt(name)) is not None:
                raise InputError(
                    f"claims={self._name}: no run measures {name}; did you mean {meant}? correct the claim"
                )
        metrics = {*SELECTION_METRICS, *metrics_of(claims)}
        cells = [
            Record(
                run.run_id,
                Status.DONE,
                config=asdict(run.config),
                scores={"step": run.config.train.steps, **dict.fromkeys(metrics, 0.0)},
                science=dict(run.identity.science),
                seconds=1.0,
            )
            for run in first
        ]
        planned = {run.run_id: _planned_lines(run.config, metrics_of(claims)) for run in first}
        self.decision = Decision(
            claims,
            cells,
            Looks.up_to(limits.max_seeds, self.seeds.num_first, limits.batch),
            Curves(planned.__getitem__),
            Curves(self._lines),
        )
        if not self.decision.tracked:
            reasons = "; ".join(f"{claim}: {why}" for claim, why in self.decision.unanswerable.items())
            raise InputError(f"claims={self._name}: the sweep's cells can answer none of its claims ({reasons})")
        self._earlier = self._tests_at_other_looks(Path(config.runs), first)
        self.lines: list[str] = [
            *(f"not tested: {claim} ({why})" for claim, why in self.decision.unanswerable.items()),
            *self._earlier,
        ]
        """What has happened, one line per event, for the next `new_lines`."""

    def _tests_at_other_looks(self, folder: Path, first: Sequence[RequestedRun]) -> list[str]:
        """Return a line about each earlier sweep that tested these claims on these runs at other looks.

        Args:
            folder: The folder of runs.
            first: The first run of each cell.
        """
        claims, runs = {tracked.claim.claim for tracked in self.decision.tracked}, {run.run_id for run in first}
        return [
            f"{path} has tested these claims after {_listed(decision.looks)} seeds: the error rate of both sweeps "
            "together is higher than that of one (decide.max_seeds and decide.batch fix the looks)"
            for path, decision in read_decisions(folder)
            if tuple(decision.looks) != self.decision.looks.seeds
            and not claims.isdisjoint(entry.claim for entry in decision.claims)
            and not runs.isdisjoint(decision.runs)
        ]

    def _lines(self, run_id: str) -> Lines:
        """Return the lines of measurements of a run that has ended."""
        if run_id in self._archived_lines:
            return self._archived_lines[run_id]
        return next(run for run in self._runs.values() if run.run_id == run_id).directory.measurements()

    def _requested(self, wanted: Sequence[tuple[int, int]]) -> list[RequestedRun]:
        new = [key for key in wanted if key not in self._runs]
        if new:
            self._runs |= dict(zip(new, self._request([self.seeds.job(*key) for key in new]), strict=True))
        return [self._runs[key] for key in wanted]

    @property
    def ended(self) -> list[RequestedRun]:
        """The runs of the looks so far, and those of the next one that have ended."""
        return [self._runs[key] for key in sorted(self._records)]

    def new_lines(self) -> list[str]:
        """Return what has happened since the last call, one line per event."""
        lines, self.lines = self.lines, []
        return lines

    def batch(self) -> list[RequestedRun]:
        """Take all looks whose runs have ended; return the runs that the next one lacks, empty if there is none.

        Raises:
            InputError: if a run cannot be composed, or a record cannot be read.
        """
        while (needed := self.decision.next()) is not None:
            cells, number = needed
            wanted = [(cell, index) for cell in cells for index in range(number)]
            missing = self._missing(wanted)
            if missing:
                return missing
            runs = {cell: [self._records[cell, index] for index in range(number)] for cell in cells}
            closed = self.decision.test_next_look(runs)
            self.lines += [self._described(tracked) for tracked in closed]
            if self.decision.open:
                count = f"{len(self.decision.open)} of {len(self.decision.tracked)} claims are open"
                self.lines.append(f"{number} seeds: {count}")
        return []

    def _missing(self, wanted: Sequence[tuple[int, int]]) -> list[RequestedRun]:
        unread = [key for key in wanted if key not in self._records]
        requested = self._requested(unread)
        archived = self._archived(requested) if requested else {}
        missing, from_archive = [], []
        for key, run in zip(unread, requested, strict=True):
            record = run.directory.read_record()
            in_archive = archived.get(run.run_id)
            if in_archive is not None and is_done_in_archive(run, in_archive):
                record = in_archive
                from_archive.append(run)
            elif record is None or not self._has_ended(run, record):
                missing.append(run)
                if record is not None and record.status == Status.FAILED:
                    self._had_failed.add(run.run_id)
                continue
            if record is not None:
                self._records[key] = record
        if self._reads_curves:
            self._archived_lines |= archived_lines(from_archive)
        return missing

    def _has_ended(self, run: RequestedRun, record: Record) -> bool:
        """Whether a run will not be trained (again): a failed run is tried once by each command."""
        return is_finished(record, run.config) or (record.is_lost and run.run_id in self._tried)

    def _described(self, tracked: TrackedClaim) -> str:
        verdict = tracked.judgement.verdict
        what = f"{verdict}, " if verdict != Verdict.UNDECIDED else ""
        why = f" ({tracked.judgement.why})" if tracked.judgement.why else ""
        setting = f" ({tracked.setting})" if tracked.setting else ""
        return f"{tracked.claim.claim}{setting}: {what}{self.decision.where(tracked)}{why}"

    @property
    def hours(self) -> float:
        """The time that all runs of the looks so far have taken, in the unit of the budget."""
        budget = self._budget or Budget(0.0, per_gpu=False)
        return sum(budget.spent_by(record) for record in self._records.values())

    @property
    def _unit(self) -> str:
        return "GPU hours" if self._budget and self._budget.per_gpu else "hours"

    def _hours_of(self, count: int) -> float:
        """Return the expected time of a number of runs; 0 if no run has ended."""
        return self.hours / len(self._records) * count if self._records else 0.0

    def run(self, complete: Complete, publish: Callable[[Self], None]) -> None:
        """Train batch after batch until no claim is open, the budget is spent, or runs have no result.

        Args:
            complete: Completes runs.
            publish: Called after each look, and at the end.

        Raises:
            InputError: as `batch`.
        """
        while batch := self.batch():
            publish(self)
            if self._budget is not None and self.hours + self._hours_of(len(batch)) > self._budget.hours:
                self.stopped = (
                    f"budget spent: {self.hours:.3g} of {self._budget}, and the next {len(batch)} runs would take "
                    f"about {self._hours_of(len(batch)):.3g}"
                )
                break
            outcomes = complete(batch)
            self._tried |= {run.run_id for run in batch}
            if self._is_stuck(batch, outcomes):
                break
        publish(self)

    def _is_stuck(self, batch: Sequence[RequestedRun], outcomes: Sequence[Outcome]) -> bool:
        """Return whether the command must stop after a batch, because runs have no result, or all of them fail."""
        records = [outcome.record for outcome in outcomes]
        ended = [
            record is not None and not outcome.continues and self._has_ended(run, record)
            for run, record, outcome in zip(batch, records, outcomes, strict=True)
        ]
        new = [record for run, record in zip(batch, records, strict=True) if run.run_id not in self._had_failed]
        if new:
            has_failed = all(record is not None and record.status == Status.FAILED for record in new)
            self._failures = self._failures + len(new) if has_failed else 0
        if not all(ended):
            self.stopped = f"{ended.count(False)} runs have no result yet; the same command continues"
        elif self._failures >= MAX_FAILURES:
            self.stopped = f"the last {self._failures} runs failed, one after another"
        return bool(self.stopped)

    def plan(self, batch: Sequence[RequestedRun]) -> str:
        """Return what the command would do, apart from the next batch itself, as lines of text."""
        needed = self.decision.next()
        claimed = set().union(*(tracked.cells for tracked in self.decision.tracked))
        looks = self.decision.looks.seeds
        lines = [
            f"{len(self.decision.tracked)} claims, {len(self.decision.open)} of them open. The sweep has "
            f"{len(self.seeds.cells)} cells; {len(claimed)} belong to a claim, and {len(needed[0]) if needed else 0} "
            "still matter.",
            f"Looks after {_listed(looks)} seeds per cell, in the order {_listed(self.seeds.order)}.",
        ]
        if needed is None:
            return "".join(f"{line}\n" for line in [*lines, "No claim is open: nothing is trained."])
        cells, number = needed
        ended = sum(1 for cell, _ in self._records if cell in cells)
        most = len(cells) * looks[-1] - ended
        lines.append(f"The next look is after {number} seeds: {len(batch)} runs. At most {most} runs in all.")
        if self._records:
            expected = self._expected(cells)
            lines.append(
                f"Expected: about {expected} runs, {self._hours_of(expected):.3g} hours; at most "
                f"{self._hours_of(most):.3g}. {self.hours:.3g} are spent"
                + (f" of {self._budget}." if self._budget else ".")
            )
        return "".join(f"{line}\n" for line in lines)

    def _expected(self, cells: Sequence[int]) -> int:
        """Return the number of runs until the open claims have the seeds that seem to be needed."""
        largest = self.decision.looks.seeds[-1]
        seeds = dict.fromkeys(cells, 0)
        for tracked in self.decision.open:
            number = tracked.judgement.seeds_to_decide or largest
            for cell in tracked.cells:
                seeds[cell] = max(seeds[cell], min(largest, number))
        have = {cell: sum(1 for other, _ in self._records if other == cell) for cell in cells}
        return sum(max(1, seeds[cell] - have[cell]) for cell in cells)

    def table(self) -> str:
        """Return where each claim stands, as a Markdown table with notes."""
        header, rows = self.decision.table()
        is_open = any(tracked.standing is ClaimState.OPEN for tracked in self.decision.tracked)
        notes = [
            f"Tested after {_listed(self.decision.looks.seeds)} seeds per cell, until decided. p-values and intervals "
            f"hold for all looks together, p-values also for all claims, {len(self.decision.tracked)} here (Holm): "
            f"the probability that any of the verdicts is false is at most {LEVEL:g}.",
            f"{len(self._records)} runs took {self.hours:.3g} {self._unit}.",
            *([f"Stopped: {self.stopped}."] if self.stopped and is_open else []),
            *(
                f"{tracked.claim.claim}: cells without a result at the first look are left out: "
                f"{self._left_out(tracked)}."
                for tracked in self.decision.tracked
                if tracked.lost
            ),
            *(f"Not tested: {claim} ({why})." for claim, why in self.decision.unanswerable.items()),
            *(f"{line}." for line in self._earlier),
        ]
        return markdown(header, rows, notes)

    def _left_out(self, tracked: TrackedClaim) -> str:
        lost = {record.run_id for record in tracked.lost}
        cells = {cell for (cell, _), run in self._runs.items() if run.run_id in lost}
        return "; ".join(" ".join(self.seeds.cells[cell]) for cell in sorted(cells))

    def _outcome(self, tracked: TrackedClaim) -> ClaimOutcome:
        evidence = tracked.judgement.evidence
        numbers = [] if evidence is None else finite([evidence.effect, evidence.low, evidence.high])
        return ClaimOutcome(
            tracked.claim.claim,
            tracked.setting,
            str(tracked.judgement.verdict),
            self.decision.where(tracked),
            max(0, tracked.look + 1),
            self.decision.looks.seeds[tracked.look] if tracked.look >= 0 else 0,
            tracked.judgement.p_for,
            tracked.judgement.p_against,
            *numbers,
        )

    def record(self) -> DecisionRecord:
        """Return the state as it is stored."""
        return DecisionRecord(
            claims=[self._outcome(tracked) for tracked in self.decision.tracked],
            looks=list(self.decision.looks.seeds),
            seeds=list(self.seeds.order),
            runs=[run.run_id for run in self.ended],
            hours=self.hours,
            stopped=self.stopped,
        )

    def write(self, folder: Path) -> None:
        """Write the table and the record into the sweep's folder."""
        write(folder / "decision.md", self.table())
        write(folder / DECISION, json.dumps(asdict(self.record()), indent=2) + "\n")


def _misspelt(name: str) -> str | None:
    """Return the measurement of this package whose name a claim misspells, or None.

    The names that a user's own metrics measure are not known in advance, so an unknown name is not enough: it must be
    nearly the same as a known one, and not begin with it, as ``gradient_norm_x`` does.
    """
    near = difflib.get_close_matches(name, (*TRAINING, *METRICS), n=1, cutoff=0.9)
    return near[0] if near and not name.startswith(near[0]) else None


def _planned_lines(config: schema.Config, names: Iterable[str]) -> list[dict[str, float]]:
    """Return the lines of measurements of a run as if all values were 0: the names of claims, at the steps of both."""
    steps, every = config.train.steps, config.scorer.get("every", 0)
    scored = {steps, *(range(every, steps, every) if every else ())}
    logged = {*scored, *range(config.log_every, steps, config.log_every)}
    return [
        {"step": step, **{name: 0.0 for name in names if step in (logged if name in TRAINING else scored)}}
        for step in sorted(logged)
    ]


def _listed(numbers: Sequence[int]) -> str:
    """Return numbers as text, the middle of a long list left out."""
    texts = [str(number) for number in numbers]
    return ", ".join(texts if len(texts) <= 5 else [*texts[:3], "...", texts[-1]])


def _check_same(runs: Sequence[RequestedRun]) -> None:
    """Refuse cells whose metric values could not be compared, or that are the same.

    Raises:
        InputError: if there are such.
    """
    roles = (Role.PRESENTATION, Role.COMPUTING, Role.PLACE)
    scorers = [without_roles(run.config.scorer, "scorer", *roles) for run in runs]
    for scorer in scorers:
        scorer.pop("sampling", None)  # where the critic's gradient norms are measured: the r(x) of each run
    if any(scorer != scorers[0] for scorer in scorers) or len({run.config.train.steps for run in runs}) > 1:
        raise InputError("a sweep with claims must have one scorer and one train.steps: its metric values are compared")
    if len({run.run_id for run in runs}) < len(runs):
        raise InputError("two cells of the sweep are the same run: give each its own values")
