"""Sweeps until decided: which runs they train, in which order claims are decided, and what they refuse.

Runs are trained only by the commands of the last tests. Of others, the records are written with chosen values.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from wgan_sweep.commands import report as report_command
from wgan_sweep.commands import runs as runs_command
from wgan_sweep.errors import InputError
from wgan_sweep.report.claims import Judgement, Verdict, table
from wgan_sweep.report.decisions import ClaimOutcome, DecisionRecord, read_decisions, with_decisions
from wgan_sweep.report.inference import rates
from wgan_sweep.report.inference.evidence import LEVEL
from wgan_sweep.report.inference.means import every_mean_lower
from wgan_sweep.report.looks import ClaimState
from wgan_sweep.report.text import finite
from wgan_sweep.runs.archive import write_archive
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.requests import DECISION
from wgan_sweep.sweeps.launching import Outcome, RequestedRun
from wgan_sweep.sweeps.until_decided import Budget, Seeds, UntilDecided

from .helpers import Shell, append_metrics, write_record

FAR_AND_NEAR = """
claims:
  - claim: far
    lower: {loss: wgan_gp}
    than: {loss: wgan}
  - claim: near
    lower: {loss: wgan_gp}
    than: {loss: wgan_div}
"""
BEST = "claims: [{claim: best, lowest: {loss: wgan_gp}, among: {data: gaussians8}}]"
MEANS = {"wgan_gp": 1.0, "wgan_div": 1.5, "wgan": 9.0}
LOSSES = tuple(MEANS)

Value = Callable[[str, int], float | Status]
"""The metric value of a run by its loss and seed, or how it is lost."""


def value(loss: str, seed: int) -> float:
    return MEANS[loss] + float(np.random.default_rng([seed, LOSSES.index(loss)]).normal(0, 0.3))


@dataclass
class SimulatedSweep:
    """Writes the records of the runs that a sweep requests."""

    folder: Path
    make: Callable
    value: Value = value
    trained: list[tuple[str, int]] = field(default_factory=list)
    """Loss and seed of each run, in the order of its end."""
    batches: list[int] = field(default_factory=list)
    """The size of each batch."""
    hours: float = 1.0
    composed: dict[tuple[str, ...], RequestedRun] = field(default_factory=dict)
    reverses: bool = False
    """Whether the runs of a batch end in reverse order."""
    options: Sequence[str] = ()
    """Overrides of all runs."""
    lines: Callable[[str, int], list[dict[str, float]]] = lambda _, __: []
    """The lines of measurements of a run, by its loss and seed."""
    archived: dict[str, Record] = field(default_factory=dict)
    """Runs that are done in an archive, by id."""

    def request(self, jobs: Sequence[Sequence[str]]) -> list[RequestedRun]:
        base = ["data=gaussians8", "train.steps=3", "tracker=none", "device=cpu", f"claims={self.folder / 'mine.yaml'}"]
        for job in jobs:
            if tuple(job) not in self.composed:
                config = self.make(*base, *self.options, *job, tiny=False)
                self.composed[tuple(job)] = RequestedRun(config, tuple(job), " ".join(job), "s")
        return [self.composed[tuple(job)] for job in jobs]

    def complete(self, requested: Sequence[RequestedRun]) -> list[Outcome]:
        self.batches.append(len(requested))
        outcomes = [self.train(run) for run in (reversed(requested) if self.reverses else requested)]
        return outcomes[::-1] if self.reverses else outcomes

    def train(self, run: RequestedRun) -> Outcome:
        loss, seed = run.config.choices["loss"], run.config.seed
        result = self.value(loss, seed)
        record = Record(
            run.run_id,
            Status.DONE if isinstance(result, float) else result,
            config=asdict(run.config),
            step=run.config.train.steps,
            scores={"step": run.config.train.steps, "w1": result} if isinstance(result, float) else {},
            science=dict(run.identity.science),
            seconds=3600 * self.hours,
        )
        run.directory.path.mkdir(parents=True, exist_ok=True)
        write_record(run.directory, record)
        for line in self.lines(loss, seed):
            append_metrics(run.directory, line)
        self.trained.append((loss, seed))
        return Outcome(record)

    def sweep(self, *limits: str, seeds: Sequence[int] = (), losses: Sequence[str] = LOSSES) -> UntilDecided:
        jobs = [[f"loss={loss}", *([f"seed={seed}"] if seeds else [])] for loss in losses for seed in seeds or [0]]
        (first,) = self.request([[*jobs[0], "decide.max_seeds=8", *limits]])
        return UntilDecided(first.config, jobs, self.request, lambda _: self.archived)

    def run(self, sweep: UntilDecided) -> list[str]:
        lines: list[str] = []
        sweep.run(self.complete, lambda now: lines.extend(now.new_lines()))
        return lines


@pytest.fixture
def simulated(tmp_path: Path, make) -> SimulatedSweep:
    (tmp_path / "mine.yaml").write_text(FAR_AND_NEAR)
    return SimulatedSweep(tmp_path, make)


def outcome(sweep: UntilDecided) -> list[tuple[str, str, int]]:
    """Return verdict, standing and seeds of each claim."""
    return [(claim.verdict, claim.standing, claim.seeds) for claim in sweep.record().claims]


@pytest.mark.integration
def test_only_the_cells_of_open_claims_get_further_seeds(simulated: SimulatedSweep) -> None:
    sweep = simulated.sweep()
    lines = simulated.run(sweep)
    far, near = sweep.decision.tracked
    assert (far.standing, far.judgement.verdict) == (ClaimState.DECIDED, "supported")
    assert near.standing in (ClaimState.DECIDED, ClaimState.EXHAUSTED)
    seeds = Counter(loss for loss, _ in simulated.trained)
    decided, ended = (sweep.decision.looks.seeds[tracked.look] for tracked in (far, near))
    assert decided != ended
    assert seeds == {"wgan": decided, "wgan_div": ended, "wgan_gp": max(decided, ended)}
    assert all([s for loss, s in simulated.trained if loss == name] == list(range(seeds[name])) for name in LOSSES)
    assert simulated.batches[0] == 6
    assert set(simulated.batches[1:]) <= {1, 2, 3}
    assert sum(line.startswith(("far", "near")) for line in lines) == 2
    assert f"decided (look {decided - 1} of 7: {decided} seeds)" in sweep.table()


@pytest.mark.integration
def test_a_claim_that_needs_too_many_seeds_is_undecidable_after_two_looks(simulated: SimulatedSweep) -> None:
    noise = [0.0, 0.5, -0.5, 0.1, -0.1, 0.2, -0.2, 0.3]
    simulated.value = lambda loss, seed: 1.0 + noise[seed] * (1 if loss == "wgan" else -1)
    sweep = simulated.sweep(losses=["wgan", "wgan_gp"])
    lines = simulated.run(sweep)
    assert outcome(sweep) == [("undecided", "undecidable at this budget (look 3 of 7: 4 seeds)", 4)]
    assert len(simulated.trained) == 8
    assert lines[-1].startswith("far (model=mlp data=gaussians8 step=3): undecidable at this budget")


@pytest.mark.integration
def test_a_later_command_continues_and_decides_the_same_in_any_order_of_the_runs(simulated: SimulatedSweep) -> None:
    whole = simulated.sweep()
    simulated.run(whole)
    expected, number = outcome(whole), len(simulated.trained)
    again = simulated.sweep()
    assert again.batch() == []
    assert outcome(again) == expected

    for path in (simulated.folder / "runs").iterdir():
        (path / "record.json").unlink()
    simulated.trained.clear()
    simulated.reverses = True
    first = simulated.sweep()
    simulated.complete(first.batch())  # and the command is killed
    (later,) = simulated.request([["loss=wgan", "seed=7"]])
    simulated.train(later)  # a run of a later look exists already
    simulated.run(second := simulated.sweep())
    assert outcome(second) == expected
    assert Counter(simulated.trained).most_common(1)[0][1] == 1
    assert len(simulated.trained) == number + 1


def test_the_seeds_of_the_sweep_come_first() -> None:
    seeds = Seeds([["loss=wgan", "seed=7"], ["loss=wgan", "seed=3"]], 0, 5)
    assert (seeds.cells, seeds.num_first, seeds.order) == ([["loss=wgan"]], 2, [7, 3, 8, 9, 10])
    assert Seeds([["a=1"], ["a=2"]], 0, 3).order == [0, 1, 2]
    assert Seeds([["a=1", "seed=4"]], 0, 3).job(0, 2) == ["a=1", "seed=6"]
    with pytest.raises(InputError, match="same seeds"):
        Seeds([["a=1", "seed=1"], ["a=2", "seed=2"]], 0, 5)
    with pytest.raises(InputError, match="max_seeds=2"):
        Seeds([["a=1", f"seed={n}"] for n in range(3)], 0, 2)


def test_a_sweep_ends_when_the_next_batch_would_exceed_the_budget(simulated: SimulatedSweep) -> None:
    simulated.value = lambda loss, seed: {"wgan": 1.35}.get(loss, 1.0) + 0.3 * (seed % 2)
    sweep = simulated.sweep("decide.budget=10h", losses=["wgan", "wgan_gp"])
    simulated.run(sweep)
    assert simulated.batches == [4, 2, 2, 2]  # of one hour each
    assert sweep.stopped.startswith("budget spent: 10 of 10 hours")
    assert "budget spent" in sweep.table()
    assert sweep.decision.open


def test_hours_count_once_per_gpu_if_the_budget_says_so() -> None:
    record = Record("x", config={"launch": {"gpus_per_run": 4}}, seconds=1800)
    assert [Budget.parse(text).spent_by(record) for text in ("1h", "1.5gpuh")] == [0.5, 2.0]


def test_a_failed_run_is_tried_once_by_each_command_and_counts_as_lost(simulated: SimulatedSweep) -> None:
    simulated.value = lambda loss, seed: Status.FAILED if (loss, seed) == ("wgan", 1) else value(loss, seed)
    sweep = simulated.sweep(losses=["wgan_gp", "wgan"])
    simulated.run(sweep)
    assert simulated.trained.count(("wgan", 1)) == 1
    (far,) = sweep.decision.tracked
    assert far.judgement.verdict == "supported"  # a lost run of the other side
    assert far.judgement.lost == (0, 1)
    simulated.trained.clear()
    simulated.run(simulated.sweep(losses=["wgan_gp", "wgan"]))
    assert simulated.trained == [("wgan", 1)]


def test_lost_runs_of_its_own_cells_end_a_claim_without_a_verdict(simulated: SimulatedSweep) -> None:
    simulated.value = lambda loss, seed: Status.DIVERGED if (loss, seed) == ("wgan_gp", 1) else value(loss, seed)
    sweep = simulated.sweep(losses=["wgan_gp", "wgan"])
    simulated.run(sweep)
    (far,) = sweep.decision.tracked
    assert far.standing is ClaimState.LOST
    assert far.judgement.verdict == "undecided"
    assert "would be supported" in far.judgement.why


@pytest.mark.parametrize("result", [Status.DIVERGED, np.inf])
def test_a_cell_without_a_result_at_the_first_look_is_left_out(
    simulated: SimulatedSweep, result: float | Status
) -> None:
    (simulated.folder / "mine.yaml").write_text(BEST)
    simulated.value = lambda loss, seed: result if loss == "wgan_div" else value(loss, seed)
    sweep = simulated.sweep()
    simulated.run(sweep)
    (best,) = sweep.decision.tracked
    assert best.judgement.verdict == "supported"
    assert best.cells == {LOSSES.index("wgan_gp"), LOSSES.index("wgan")}
    assert Counter(loss for loss, _ in simulated.trained)["wgan_div"] == 2
    assert "are left out: loss=wgan_div." in sweep.table()


def test_a_cell_that_is_left_out_forbids_a_verdict_at_later_looks(simulated: SimulatedSweep) -> None:
    """Every run of one of the claim's own cells diverged, so the claim is not supported by the others."""
    claim = "{claim: both, lower: {loss: [wgan_gp, wgan_div]}, than: {loss: wgan}}"
    (simulated.folder / "mine.yaml").write_text(f"claims: [{claim}]")
    noise = [3.0, -3.0, 0.1, -0.1, 0.2, -0.2, 0.1, -0.1]
    simulated.value = lambda loss, seed: Status.DIVERGED if loss == "wgan_div" else MEANS[loss] + noise[seed]
    sweep = simulated.sweep()
    simulated.run(sweep)
    (both,) = sweep.decision.tracked
    assert both.look > 0
    assert (both.judgement.verdict, both.judgement.lost) == ("undecided", (2, 0))
    assert both.judgement.why.startswith("without lost runs it would be supported, but 2 runs of the claim's own cells")


def test_a_command_stops_when_one_run_after_another_fails(simulated: SimulatedSweep) -> None:
    simulated.value = lambda loss, seed: value(loss, seed) if seed < 2 else Status.FAILED
    sweep = simulated.sweep()
    simulated.run(sweep)
    assert sweep.stopped.startswith("the last 3 runs failed")
    assert simulated.batches == [6, 3]


@pytest.mark.integration
def test_failures_between_which_a_run_ends_do_not_stop_a_command(simulated: SimulatedSweep) -> None:
    (simulated.folder / "mine.yaml").write_text(
        "claims: [{claim: rare, event: lost, rarer_in: {loss: wgan_gp}, than_in: {loss: wgan}}]"
    )
    ends = {"wgan_gp": 1.0, "wgan": Status.DIVERGED}
    simulated.value = lambda loss, seed: Status.FAILED if seed in (2, 4) else ends[loss]
    sweep = simulated.sweep("decide.max_seeds=12", losses=["wgan_gp", "wgan"])
    simulated.run(sweep)
    assert simulated.batches[:5] == [4, 2, 2, 2, 2]
    assert "failed" not in sweep.stopped


def test_a_run_without_a_result_ends_the_command(simulated: SimulatedSweep) -> None:
    sweep = simulated.sweep()
    sweep.run(lambda runs: [Outcome() for _ in runs], lambda _: None)
    assert "6 runs have no result yet" in sweep.stopped


def test_the_plan_counts_runs_and_estimates_hours(simulated: SimulatedSweep) -> None:
    sweep = simulated.sweep("decide.max_seeds=6", "decide.batch=2")
    text = sweep.plan(sweep.batch())
    assert "6 runs. At most 18 runs in all." in text
    assert "Looks after 2, 4, 6 seeds" in text
    simulated.complete(simulated.sweep("decide.max_seeds=6", "decide.batch=2").batch())
    sweep = simulated.sweep("decide.max_seeds=6", "decide.batch=2")
    batch = sweep.batch()
    text = sweep.plan(batch)
    assert "At most 12 runs in all." in text
    assert "at most 12. 6 are spent" in text
    assert not simulated.trained[6:]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decide.budget=40GB"], "a number of hours, such as 40h"),
        (["decide.budget=40"], "such as 40h"),
        (["decide.budget=0h"], "a number of hours"),
        (["decide.max_seeds=1"], "max_seeds must be 2 or more"),
        (["decide.batch=0"], "batch must be 1 or more"),
        (["scorer=none"], "choose a scorer"),
        (["launch=slurm", "launch.wait=false"], "launch.wait=false"),
        (["claims=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_work_is_refused(simulated: SimulatedSweep, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulated.sweep(*overrides)


def test_claims_that_no_cell_can_answer_are_refused(simulated: SimulatedSweep) -> None:
    with pytest.raises(InputError, match=r"can answer none of its claims .*no cells on both sides"):
        simulated.sweep("claims=paper", losses=["wgan", "lsgan"])


def test_cells_that_cannot_be_compared_are_refused(simulated: SimulatedSweep) -> None:
    (first,) = simulated.request([["loss=wgan"]])
    for jobs, message in (
        ([["loss=wgan", "scorer.num_samples=10"], ["loss=wgan_gp"]], "one scorer"),
        ([["loss=wgan"], ["loss=wgan", "log_every=3"]], "the same run"),
    ):
        with pytest.raises(InputError, match=message):
            UntilDecided(first.config, jobs, simulated.request, lambda _: {})


def test_cells_on_points_may_differ_in_r_of_x(simulated: SimulatedSweep) -> None:
    """Their scorers differ, too: each measures the critic's gradient at the run's own r(x)."""
    jobs = [[f"loss={loss}", f"sampling={r}"] for loss in ("wgan_gp", "wgan_div") for r in ("real", "fake")]
    first, *_ = requested = simulated.request([[*job, "decide.max_seeds=4"] for job in jobs])
    assert requested[0].config.scorer["sampling"] != requested[1].config.scorer["sampling"]
    assert len(UntilDecided(first.config, jobs, simulated.request, lambda _: {}).batch()) == 8


@pytest.mark.integration
def test_a_claim_that_an_earlier_look_decides_shows_the_evidence_of_that_look(simulated: SimulatedSweep) -> None:
    """At the first look, p = 0.02 for one of two open claims is not enough. When the other is decided, it is."""
    own = [0, 1, 2, 3, 0.5, 1.5, 2.5, 1]
    shown = {
        "wgan_gp": own,
        "wgan_div": [8, 5, 6, 7, -6.5, -8.5, -7.5, -8],  # far above at first, then far below
        "wgan": [5, 6, 3, 4, 4.5, 5.5, 4, 3.5],
    }
    simulated.value = lambda loss, seed: float(shown[loss][seed])
    sweep = simulated.sweep("decide.batch=4", seeds=(0, 1, 2, 3))
    assert sweep.decision.looks.seeds == (4, 8)
    simulated.run(sweep)
    far, near = sweep.decision.tracked
    first = every_mean_lower([own[:4]], [shown["wgan_div"][:4]], LEVEL * sweep.decision.looks.shares[0])
    assert first.low > 0
    assert (near.judgement.verdict, near.look) == ("supported", 1)
    assert near.judgement.evidence == first
    assert (far.judgement.verdict, far.look) == ("supported", 1)


PAIRED_OR_NOT = """
claims:
- {claim: paired, lower: {loss: wgan_gp}, than: {loss: wgan_div}, paired: seed}
- {claim: unpaired, lower: {loss: wgan_gp}, than: {loss: wgan_div}}
"""


@pytest.mark.integration
def test_a_paired_claim_needs_fewer_seeds_if_a_seed_matters_more_than_the_loss(simulated: SimulatedSweep) -> None:
    (simulated.folder / "mine.yaml").write_text(PAIRED_OR_NOT)
    seeds, penalty, divergence = np.random.default_rng(0).normal(0, [[9.0], [0.2], [0.2]], (3, 12))
    noise = {"wgan_gp": penalty, "wgan_div": divergence + 2}
    simulated.value = lambda loss, seed: float(seeds[seed] + noise[loss][seed])
    sweep = simulated.sweep("decide.max_seeds=12", losses=["wgan_gp", "wgan_div"])
    simulated.run(sweep)
    paired, unpaired = sweep.decision.tracked
    assert (paired.standing, paired.judgement.verdict) == (ClaimState.DECIDED, "supported")
    assert (unpaired.standing, unpaired.judgement.verdict) == (ClaimState.UNDECIDABLE, "undecided")
    assert paired.judgement.evidence is not None
    assert paired.judgement.evidence.test == "t-test paired by seed, 1 pair of cells"
    assert sweep.record().claims[0].effect == pytest.approx(2.0, abs=0.5)


@pytest.mark.integration
def test_a_paired_claim_ends_if_lost_runs_leave_no_seeds_in_common(simulated: SimulatedSweep) -> None:
    (simulated.folder / "mine.yaml").write_text(PAIRED_OR_NOT)
    simulated.value = lambda loss, seed: Status.DIVERGED if seed % 2 == (loss == "wgan_gp") else float(seed)
    sweep = simulated.sweep("decide.max_seeds=8", losses=["wgan_gp", "wgan_div"])
    simulated.run(sweep)
    paired, _ = sweep.decision.tracked
    assert paired.standing is ClaimState.LOST
    assert paired.judgement.why == "its cells have fewer than two seeds in common, by which runs are paired"
    assert paired.judgement.lost > (0, 0)
    assert sweep.decision.looks.seeds[paired.look] < 8


def test_a_claim_without_cells_is_named_and_not_tested(simulated: SimulatedSweep) -> None:
    sweep = simulated.sweep(losses=["wgan", "wgan_gp"])
    assert sweep.new_lines() == ["not tested: near (no cells on both sides of the comparison)"]
    assert "Not tested: near" in sweep.table()


@pytest.mark.parametrize(("events", "others"), [((0, 8), (5, 8)), ((5, 8), (0, 8)), ((0, 8), (0, 8)), ((2, 8), (5, 8))])
def test_a_stored_decision_shows_infinite_numbers_as_the_table_does(
    events: tuple[int, int], others: tuple[int, int]
) -> None:
    evidence = rates.rarer(*([(1, 1)] * count + [(0, 1)] * (runs - count) for count, runs in (events, others)))
    numbers = json.loads(json.dumps(finite([evidence.effect, evidence.low, evidence.high]), allow_nan=False))
    decided = ClaimOutcome("rarer", "", "undecided", "decided", 1, 8, evidence.p_for, evidence.p_against, *numbers)
    _, rows = table([Judgement("rarer", "", Verdict.UNDECIDED, why="", evidence=evidence)])
    assert decided.measured == rows[0][3]
    assert "[" in decided.measured
    assert replace(decided, effect=None, low=None, high=None).measured == ""


@pytest.mark.integration
def test_a_report_names_the_decision_of_the_sweep(
    simulated: SimulatedSweep, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sweep = simulated.sweep()
    simulated.run(sweep)
    arguments = [str(tmp_path / "runs"), "--claims", str(tmp_path / "mine.yaml")]
    report_command.main(arguments)
    assert f"and no {DECISION} of their sweep is here" in capsys.readouterr().out
    folder = tmp_path / "runs" / ".sweeps" / "s"
    sweep.write(folder)
    (tmp_path / "runs" / ".sweeps" / "other").mkdir()
    (tmp_path / "runs" / ".sweeps" / "other" / DECISION).write_text('{"claims": 3}')
    ((path, record),) = read_decisions(tmp_path / "runs")
    assert path == folder / DECISION
    assert record == sweep.record() == DecisionRecord.from_json(json.loads(path.read_text()))
    report_command.main([*arguments, "--format", "json"])
    far, near = json.loads(capsys.readouterr().out)
    assert (
        f"; .sweeps/s/{DECISION} has the decision: the verdict that holds is supported with an effect of "
        in far["collected"]
    )
    assert (
        f"the verdict that holds is {sweep.decision.tracked[1].judgement.verdict} with an effect of "
        in near["collected"]
    )
    assert ", decided (look" in far["collected"]
    for decided, tracked in zip(record.claims, sweep.decision.tracked, strict=True):
        evidence = tracked.judgement.evidence
        assert evidence is not None
        assert (decided.effect, decided.low, decided.high) == (evidence.effect, evidence.low, evidence.high)
        assert f"{evidence.effect:.4g} [{evidence.low:.4g}, {evidence.high:.4g}], " in decided.result
    runs_command.main(["archive", "--runs", str(tmp_path / "runs"), "-o", str(tmp_path / "runs.jsonl.gz")])
    capsys.readouterr()
    for places in (["runs.jsonl.gz"], ["runs.jsonl.gz", "runs"]):
        report_command.main([*(str(tmp_path / place) for place in places), *arguments[1:], "--format", "json"])
        assert json.loads(capsys.readouterr().out) == [far, near]


@pytest.mark.integration
def test_a_report_names_the_decision_that_a_claim_has_before_a_later_one_on_other_claims(
    simulated: SimulatedSweep, tmp_path: Path
) -> None:
    sweep = simulated.sweep()
    simulated.run(sweep)
    for name, claims in (("1", sweep.record().claims), ("2", sweep.record().claims[1:])):
        (tmp_path / "runs" / ".sweeps" / name).mkdir(parents=True)
        text = json.dumps({**asdict(sweep.record()), "claims": [asdict(claim) for claim in claims]})
        (tmp_path / "runs" / ".sweeps" / name / DECISION).write_text(text)
    runs = tuple(sweep.record().runs)
    far, near, other = with_decisions(
        [Judgement(name, "", Verdict.SUPPORTED, "", runs) for name in ("far", "near", "other")], [], tmp_path / "runs"
    )
    assert f".sweeps/1/{DECISION} has the decision: the verdict that holds is" in far.collected
    assert f".sweeps/2/{DECISION} has the decision: the verdict that holds is" in near.collected
    assert f".sweeps/2/{DECISION} has the decision: it tests other claims" in other.collected


@pytest.mark.integration
def test_a_sweep_names_an_earlier_one_that_tested_its_claims_at_other_looks(
    simulated: SimulatedSweep, tmp_path: Path
) -> None:
    sweep = simulated.sweep()
    simulated.run(sweep)
    sweep.write(tmp_path / "runs" / ".sweeps" / "s")
    assert not any("error rate" in line for line in simulated.sweep().new_lines())
    more = simulated.sweep("decide.max_seeds=12")
    (line,) = more.new_lines()
    assert f"{DECISION} has tested these claims after 2, 3, 4, ..., 8 seeds: the error rate of both" in line
    assert line in more.table()
    (simulated.folder / "mine.yaml").write_text(BEST)
    assert not simulated.sweep("decide.max_seeds=12").new_lines()  # another claim


@pytest.mark.integration
def test_a_report_on_other_runs_names_no_decision(simulated: SimulatedSweep, make, tmp_path: Path) -> None:
    sweep = simulated.sweep()
    simulated.run(sweep)
    sweep.write(tmp_path / "runs" / ".sweeps" / "s")
    judgement = Judgement("far", "", Verdict.SUPPORTED, "", ("0123456789ab",))
    assert with_decisions([judgement], [], tmp_path / "runs") == [judgement]


FOLLOWS = "claims: [{claim: follows, correlates: wasserstein, with: w1, in: {loss: wgan}}]"
FASTER = "claims: [{claim: faster, faster: {loss: wgan}, than: {loss: wgan_gp}, to: w1 < 5}]"


def curve(loss: str, seed: int) -> list[dict[str, float]]:
    """W1 falls below 5 after 3 to 5 steps, with other losses after 7 to 9; the critic's estimate falls, too."""
    late = (2 if loss == "wgan" else 6) + seed % 3
    return [
        {"step": step, "w1": 4.0 + max(0, late + 1 - step) + 0.001 / step, "wasserstein": -step}
        for step in range(1, 12)
    ]


@pytest.mark.integration
def test_claims_about_curves_get_the_seeds_that_they_need(simulated: SimulatedSweep) -> None:
    """A correlation is a matter of one cell, and no test of either kind decides fewer than 6 seeds."""
    simulated.lines, simulated.options = curve, ["scorer.every=1", "train.steps=11"]
    (simulated.folder / "mine.yaml").write_text(FOLLOWS)
    sweep = simulated.sweep()
    simulated.run(sweep)
    assert outcome(sweep) == [("supported", "decided (look 7 of 7: 8 seeds)", 8)]
    assert set(simulated.trained) == {("wgan", seed) for seed in range(8)}
    (simulated.folder / "mine.yaml").write_text(FASTER)
    simulated.trained.clear()
    sweep = simulated.sweep()
    simulated.run(sweep)
    assert outcome(sweep) == [("supported", "decided (look 7 of 7: 8 seeds)", 8)]
    assert set(simulated.trained) == {("wgan_gp", seed) for seed in range(8)}
    (faster,) = sweep.decision.tracked
    assert faster.judgement.evidence.effect == pytest.approx(np.log(2), abs=0.3)
    (simulated.folder / "mine.yaml").write_text(FASTER.replace("w1 < 5", "w1 < 5, in_units_of: hours"))
    assert not simulated.sweep().batch()
    assert outcome(sweep) == [("supported", "decided (look 7 of 7: 8 seeds)", 8)]


def test_a_claim_about_curves_is_refused_if_runs_are_scored_too_rarely(simulated: SimulatedSweep) -> None:
    (simulated.folder / "mine.yaml").write_text(FOLLOWS)
    with pytest.raises(InputError, match=r"wasserstein and w1 at 1 steps, fewer than 5: score more often"):
        simulated.sweep()
    (simulated.folder / "mine.yaml").write_text(FASTER)
    with pytest.raises(InputError, match=r"w1 at fewer than 2 common steps: score all at the same steps"):
        simulated.sweep()
    (simulated.folder / "mine.yaml").write_text(FOLLOWS.replace("with: w1", "with: critic_loss"))
    simulated.options, simulated.composed = ["log_every=2", "train.steps=11"], {}
    assert simulated.sweep().decision.open  # both are logged without a scorer
    (simulated.folder / "mine.yaml").write_text(FOLLOWS)
    simulated.options, simulated.composed = ["scorer.every=3", "train.steps=11"], {}
    with pytest.raises(InputError, match=r"at 4 steps"):
        simulated.sweep()


def test_a_claim_that_more_seeds_cannot_decide_ends_at_once(simulated: SimulatedSweep) -> None:
    simulated.lines, simulated.options = curve, ["scorer.every=1", "train.steps=11"]
    (simulated.folder / "mine.yaml").write_text(FOLLOWS.replace("wasserstein", "wasserstein_of_mine"))
    sweep = simulated.sweep()
    (line,) = simulated.run(sweep)
    assert outcome(sweep) == [("undecided", "it cannot be tested (look 1 of 7: 2 seeds)", 2)]
    assert "no run has measured wasserstein_of_mine along its curve; did you mean wasserstein?" in line


@pytest.mark.parametrize("misspelt", ["waserstein", "wasserstien"])
def test_a_misspelt_measurement_is_refused_before_anything_runs(simulated: SimulatedSweep, misspelt: str) -> None:
    simulated.lines, simulated.options = curve, ["scorer.every=1", "train.steps=11"]
    (simulated.folder / "mine.yaml").write_text(FOLLOWS.replace("wasserstein", misspelt))
    with pytest.raises(InputError, match=f"no run measures {misspelt}; did you mean wasserstein"):
        simulated.sweep()
    assert not simulated.trained


@pytest.mark.parametrize(
    "name", ["generator_lr", "critic_lr", "gradient_norm_x", "kid_sd", "fid_infinity_error", "mine"]
)
def test_unknown_metrics_are_accepted(simulated: SimulatedSweep, name: str) -> None:
    simulated.lines, simulated.options = curve, ["scorer.every=1", "train.steps=11"]
    (simulated.folder / "mine.yaml").write_text(FOLLOWS.replace("wasserstein", name))
    assert simulated.sweep().decision.open


@pytest.mark.integration
def test_curves_are_read_from_archives(simulated: SimulatedSweep) -> None:
    (simulated.folder / "mine.yaml").write_text(FOLLOWS)
    simulated.lines = curve
    path = simulated.folder / "a.jsonl.gz"
    simulated.options = ["scorer.every=1", "train.steps=11", f"archive={path}"]
    requested = simulated.request([["loss=wgan", f"seed={seed}"] for seed in range(8)])
    records = [simulated.train(run).record for run in requested]
    write_archive(path, requested[0].directory.path.parent, records)
    for run in requested:
        shutil.rmtree(run.directory.path)
    simulated.trained.clear()
    simulated.archived = {record.run_id: record for record in records}
    sweep = simulated.sweep(losses=["wgan"])
    simulated.run(sweep)
    assert simulated.trained == []
    assert outcome(sweep) == [("supported", "decided (look 7 of 7: 8 seeds)", 8)]


def test_a_command_trains_until_decided(sweep: Shell) -> None:
    (sweep.folder / "mine.yaml").write_text(FAR_AND_NEAR)
    options = ["data=gaussians8", "train.steps=2", "train.batch_size=8", "train.n_critic=1", "model.dim=4"]
    options += ["scorer.num_samples=20", "tracker=none", "device=cpu", "loss=wgan,wgan_gp", "decide.max_seeds=2"]
    done = sweep("-m", *options, "claims=mine.yaml", tiny=False)
    (path,) = (sweep.folder / "runs" / ".sweeps").glob(f"*/{DECISION}")
    record = DecisionRecord.from_json(json.loads(path.read_text()))
    assert len(record.runs) == 4
    assert record.claims[0].seeds == 2
    assert record.claims[0].standing in done.stdout
    numbers = dict.fromkeys(re.findall(r"^(\d+ of \d+)  ", done.stdout + done.stderr, re.MULTILINE))
    assert list(numbers) == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert record.runs == [r for r in record.runs if (sweep.folder / "runs" / r / "record.json").exists()]
    plan = sweep("-m", *options, "claims=mine.yaml", "plan=true", tiny=False).stdout
    assert "No claim is open: nothing is trained." in plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["claims=paper"], "give -m"),
        (["-m", "claims=paper", "hydra/sweeper=optuna", "optimizer.lr=interval(0.1,1)"], "a sweeper that searches"),
    ],
)
def test_a_single_run_and_a_search_refuse_claims(sweep: Shell, arguments: list[str], message: str) -> None:
    if "hydra/sweeper=optuna" in arguments:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert message in sweep(*arguments, code=1).stderr
