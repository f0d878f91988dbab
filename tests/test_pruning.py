"""Pruning: its decisions against Optuna's pruners, sweeps that prune, and pruned runs that go on."""

import json
import math
import pickle
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from wgan_sweep.common.progress import Display
from wgan_sweep.config import schema
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.runs import build as build_module
from wgan_sweep.runs import provenance, pruning
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import identify, run_id
from wgan_sweep.runs.pruning import MedianRule, MetricCurve, Pruner, SuccessiveHalving
from wgan_sweep.runs.record import HIGHER_IS_BETTER, LOWER_IS_BETTER, Record, Status
from wgan_sweep.runs.state import RunState
from wgan_sweep.sweeps import slurm
from wgan_sweep.sweeps.hydra_launcher import objective_value
from wgan_sweep.sweeps.launching import Outcome, RequestedRun, competing
from wgan_sweep.sweeps.local import Local
from wgan_sweep.sweeps.plan import Action, Planner, describe_plan
from wgan_sweep.sweeps.until_decided import check_wanted

from .helpers import (
    Shell,
    append_metrics,
    assert_same_weights,
    directory_of,
    records,
    run,
    write_record,
)

POINTS = ["data=gaussians8", "train.steps=8", "train.batch_size=16", "train.n_critic=1", "train.ema=0", "model.dim=8"]
POINTS += ["scorer.every=2", "scorer.num_samples=40", "scorer.projections=5", "log_every=2"]
POINTS += ["tracker=none", "device=cpu"]
RATES = (1e-1, 1e-2, 1e-3, 3e-2, 1e-4)


def quiet() -> Display:
    return Display(Console(quiet=True))


# --- decisions


def decisions(
    rule: Pruner, curves: np.ndarray, order: Sequence[int], metric: str, every: int
) -> dict[int, tuple[int, float]]:
    """Return step and value at which each run is pruned, by its index.

    Args:
        rule: The pruner.
        curves: Metric values ``[runs][evaluations]``.
        order: The run that is evaluated next, at each point in time.
        metric: The metric.
        every: Steps between evaluations.
    """
    seen: list[dict[int, float]] = [{} for _ in curves]
    last = every * curves.shape[1]
    rungs, pruned = rule.rungs(every, last), dict[int, tuple[int, float]]()
    for index in order:
        if index in pruned:
            continue
        step = every * (len(seen[index]) + 1)
        seen[index][step] = float(curves[index, len(seen[index])])
        if step not in rungs:
            continue
        others = [
            MetricCurve(pruning.costs_of(values, metric), is_done=last in values)
            for other, values in enumerate(seen)
            if other != index and values
        ]
        if rule.why_pruned(step, MetricCurve(pruning.costs_of(seen[index], metric)), others):
            pruned[index] = step, seen[index][step]
    return pruned


def optunas_decisions(
    pruner: Any, curves: np.ndarray, order: Sequence[int], direction: str, every: int
) -> dict[int, tuple[int, float]]:
    """Return what `decisions` returns, as Optuna decides."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=direction, pruner=pruner)
    trials: dict[int, Any] = {}
    counts, pruned = [0] * len(curves), dict[int, tuple[int, float]]()
    for index in order:
        if index in pruned:
            continue
        trial = trials[index] if index in trials else trials.setdefault(index, study.ask())
        value = float(curves[index, counts[index]])
        counts[index] += 1
        if counts[index] == curves.shape[1]:  # the last step is not a rung
            trial.report(value, counts[index] * every)
            study.tell(trial, value)
            continue
        trial.report(value, counts[index] * every)
        if trial.should_prune():
            pruned[index] = counts[index] * every, value
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return pruned


@pytest.mark.parametrize("metric", ["w1", "modes"])
@pytest.mark.parametrize("rule", ["asha", "median"])
def test_decisions_are_those_of_optunas_pruners(rule: str, metric: str) -> None:
    """On random learning curves with ties, of runs that are trained in a random order, several at once."""
    optuna = pytest.importorskip("optuna")
    generator = np.random.default_rng(0)
    counts = {True: 0, False: 0}
    for _ in range(40):
        runs, evaluations, every = (int(generator.integers(low, high)) for low, high in ((3, 15), (4, 30), (1, 5)))
        noise = generator.normal(size=(runs, evaluations)).cumsum(1) * 0.2
        curves = (8 * (generator.normal(size=(runs, 1)) + noise)).round() / 8  # medians are exact
        # Not all at once: a run starts when one of the first few has ended.
        order = np.repeat(np.arange(runs), evaluations)
        keys = order * evaluations * generator.uniform(0.3, 1) + generator.uniform(0, evaluations, order.size)
        order = order[np.argsort(keys)]
        first, number = every * int(generator.integers(1, 3)), int(generator.integers(2, 5))
        direction = "minimize" if metric == "w1" else "maximize"
        if rule == "asha":
            ours: Pruner = SuccessiveHalving(first=first, reduction=number)
            theirs: Any = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=number)
        else:
            ours = MedianRule(first=first, finished=number)
            theirs = optuna.pruners.MedianPruner(n_startup_trials=number, n_warmup_steps=first)
        actual = decisions(ours, curves, order, metric, every)
        assert actual == optunas_decisions(theirs, curves, order, direction, every)
        for index in range(runs):
            counts[index in actual] += 1
    assert min(counts.values()) > 50  # both decisions were compared


def test_rungs_are_multiples_of_the_first_one_below_the_last_step() -> None:
    assert list(SuccessiveHalving().rungs(10, 90)) == [10, 30]
    assert list(SuccessiveHalving(first=20, reduction=2).rungs(10, 100)) == [20, 40, 80]
    assert list(MedianRule(first=20).rungs(10, 50)) == [20, 30, 40]
    assert list(MedianRule().rungs(10, 30)) == [10, 20]


def test_values_after_a_rung_do_not_count_at_it() -> None:
    """They may be there if a run goes on from an earlier checkpoint."""
    rule, own = MedianRule(finished=1), {2: 5.0, 4: 0.0}
    assert rule.why_pruned(2, MetricCurve(own), [MetricCurve({2: 3.0, 4: 9.0}, is_done=True)])
    assert not rule.why_pruned(4, MetricCurve(own), [MetricCurve({2: 3.0, 4: 9.0}, is_done=True)])


def test_a_value_that_is_not_finite_is_the_worst() -> None:
    rule = SuccessiveHalving()
    assert rule.why_pruned(2, MetricCurve(pruning.costs_of({2: float("nan")}, "modes")), [MetricCurve({2: 5.0})])
    assert not rule.why_pruned(2, MetricCurve({2: 5.0}), [MetricCurve(pruning.costs_of({2: float("-inf")}, "modes"))])
    values = {1: math.nan, 2: math.inf, 3: -math.inf, 4: 2.0}
    assert pruning.costs_of(values, "w1") == {1: math.inf, 2: math.inf, 3: math.inf, 4: 2.0}
    assert pruning.costs_of(values, "modes") == {1: math.inf, 2: math.inf, 3: math.inf, 4: -2.0}


# --- sweeps


def requested(make: Callable[..., Config], *overrides: str, rates: Sequence[float] = RATES) -> list[RequestedRun]:
    """Return the runs of a sweep over learning rates, on points."""
    jobs = [(f"optimizer.lr={rate}",) for rate in rates]
    configs = [make(*POINTS, *overrides, *job, tiny=False) for job in jobs]
    return competing([RequestedRun(config, job, job[0], "s") for config, job in zip(configs, jobs, strict=True)])


def curve(directory: RunDir) -> dict[int, float]:
    return {int(line["step"]): line["w1"] for line in directory.read_metrics() if "w1" in line}


def ends(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    """Return status and step of each run."""
    return [(str(o.record.status), o.record.step) for o in outcomes if o.record is not None]


@pytest.mark.integration
def test_a_local_sweep_prunes_as_optuna_would(make, tmp_path: Path) -> None:
    """What Optuna would prune is derived from the curves of the same sweep without pruning."""
    optuna = pytest.importorskip("optuna")
    whole = requested(make, f"runs={tmp_path / 'whole'}")
    assert ends(Local()(whole, quiet(), lambda: False)) == [("done", 8)] * len(RATES)
    curves = np.array([list(curve(one.directory).values()) for one in whole])
    assert curves.shape == (len(RATES), 4)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
    expected = optunas_decisions(pruner, curves, np.repeat(np.arange(len(RATES)), 4), "minimize", 2)
    assert 0 < len(expected) < len(RATES)

    runs = requested(make, "prune=asha", "prune.reduction=2")
    assert [one.run_id for one in runs] == [one.run_id for one in whole]  # not part of the id
    outcomes = Local()(runs, quiet(), lambda: False)
    assert ends(outcomes) == [
        ("pruned", expected[index][0]) if index in expected else ("done", 8) for index in range(len(RATES))
    ]
    for index, (step, value) in expected.items():
        record = outcomes[index].record
        assert record is not None
        assert record.pruned is not None
        assert record.pruned.startswith(f"w1 {value:.4g}: rank ")
        assert record.error is None
        assert objective_value(outcomes[index]) == min(curves[index, : step // 2])

    plan = [Planner()(one) for one in runs]
    assert {str(planned.action) for planned in plan} == {"skip"}
    text = describe_plan(runs, {})
    assert "Pruning is on (prune=asha): at step 2, 4, the best 1/2 of the runs" in text
    assert "Pruning" not in describe_plan(whole, {})
    before = [one.directory.record.read_bytes() for one in runs]
    Local()(runs, quiet(), lambda: False)  # the same command again does nothing
    assert [one.directory.record.read_bytes() for one in runs] == before
    unpruned = requested(make)
    assert {Planner()(one).reason for one in unpruned} == {"done at step 8"} | {
        f"pruned at step {step}" for step, _ in expected.values()
    }
    assert ends(Local()(unpruned, quiet(), lambda: False)) == [("done", 8)] * len(RATES)
    for one, other in zip(unpruned, whole, strict=True):
        assert_same_weights(one.config, other.config)
        assert list(one.directory.read_metrics()) == list(other.directory.read_metrics())
        ours, theirs = one.directory.require_record(), other.directory.require_record()
        assert (ours.scores, ours.best, ours.pruned) == (theirs.scores, theirs.best, None)


def rival(config: Config, values: dict[int, float], status: Status = Status.RUNNING, **changes: Any) -> str:
    """Write the directory of another run of a sweep, with these values of W1 by step; return its id."""
    identity = identify(config)
    directory = identity.directory
    for step, value in values.items():
        append_metrics(directory, {"step": step, "w1": value})
    record = Record(identity.run_id, status, config=asdict(config), science=dict(identity.science))
    write_record(directory, replace(record, **changes))
    return identity.run_id


PRUNES = ["prune=asha", "scorer.every=2"]


@pytest.mark.integration
def test_a_pruned_run_goes_on_bitwise_as_if_it_never_was_pruned(make, tmp_path: Path, monkeypatch) -> None:
    """The process is killed between the decision and its record, once."""
    other = rival(make(*POINTS, *PRUNES, "seed=9", tiny=False), {2: 0.0, 4: 0.0, 6: 0.0})
    config = make(*POINTS, *PRUNES, "prune.first=4", tiny=False)
    uninterrupted = make(*POINTS, f"runs={tmp_path / 'other runs'}", tiny=False)
    assert run_id(uninterrupted) == run_id(config)
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(RunState, "prune", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, others=[other])
    assert directory_of(config).require_record().status == "running"
    record = run(config, others=[other])
    assert (record.status, record.step) == ("pruned", 4)
    assert run(config, others=[other]) == record
    assert run(make(*POINTS, *PRUNES, "prune.first=4", "train.steps=10", tiny=False), others=[other]) == record
    assert max(line["step"] for line in directory_of(config).read_metrics()) == 4

    other_settings = make(*POINTS, *PRUNES, "prune.first=6", "prune.reduction=4", tiny=False)
    assert run(other_settings, others=[other]).step == 6
    done = run(replace(config, prune=dict(schema.NO_PRUNER)))
    assert (done.status, done.step, done.pruned) == ("done", 8, None)
    run(uninterrupted)
    assert_same_weights(config, uninterrupted)
    assert list(directory_of(config).read_metrics()) == list(directory_of(uninterrupted).read_metrics())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("overrides", "changes", "competes"),
    [
        ([], {}, True),
        ([], {"status": Status.DIVERGED}, True),
        ([], {"status": Status.PRUNED}, True),
        (["scorer.every=1"], {}, True),
        (["data=gaussians25"], {}, False),
        (["scorer.num_samples=50"], {}, False),
        (["+scorer.during={num_samples: 50}"], {}, False),
    ],
    ids=str,
)
def test_only_runs_with_the_same_data_and_scorer_compete(make, overrides, changes, competes: bool) -> None:
    other = rival(make(*POINTS, *PRUNES, "seed=9", *overrides, tiny=False), {2: 0.0}, **changes)
    record = run(make(*POINTS, *PRUNES, "train.steps=4", tiny=False), others=[other])
    assert record.status == ("pruned" if competes else "done")


def test_unreadable_runs_and_runs_that_are_not_there_are_left_out(make, tmp_path: Path, caplog, monkeypatch) -> None:
    """The scorer does not say what it measures, as a user's own one."""
    make_scorer = build_module._final_scorer

    def unnamed(*arguments: Any) -> Any:
        scorer = make_scorer(*arguments)
        del scorer.measures
        return scorer

    monkeypatch.setattr(build_module, "_final_scorer", unnamed)
    others = ["0123456789ab", "0123456789cd"]
    (tmp_path / "runs" / others[1]).mkdir(parents=True)
    (tmp_path / "runs" / others[1] / "record.json").write_text("{")
    config = make(*POINTS, *PRUNES, "train.steps=4", "prune.metric=kid", tiny=False)
    assert run(config, others=others).status == "done"
    assert "step 2 has no kid, so the run goes on" in caplog.text
    assert run(replace(config, seed=1, prune={**config.prune, "metric": None}), others=others).status == "done"
    assert f"a run is left out: {tmp_path / 'runs' / others[1]}" in caplog.text


def test_a_parallel_sweep_prunes_and_its_output_counts_pruned_runs(sweep: Shell) -> None:
    rates = f"optimizer.lr={','.join(map(str, RATES))}"
    done = sweep("-m", *POINTS, rates, "prune=asha", "launch=parallel", "launch.jobs=2", tiny=False)
    found = {record["run_id"]: record for record in records(sweep.folder)}
    pruned = [record for record in found.values() if record["status"] == "pruned"]
    assert len(found) == len(RATES)
    assert 0 < len(pruned) < len(RATES)
    assert f"5 of them: {5 - len(pruned)} done, {len(pruned)} pruned" in done.stdout
    assert f"pruned: {len(pruned)} of 5 runs" in done.stdout
    assert done.stdout.count("1 pruned") == len(pruned)
    curves = {run_id: curve(RunDir(sweep.folder / "runs" / run_id)) for run_id in found}
    for record in pruned:
        step, text = record["step"], record["pruned"]
        rank, reached, at, best = map(
            int, re.findall(r"rank (\d+) of the (\d+) runs that have reached step (\d+), and the best (\d+)", text)[0]
        )
        assert at == step == max(curves[record["run_id"]])
        assert step in (2, 6)
        values = sorted(values[step] for values in curves.values() if step in values)
        assert best == max(1, reached // 3) < rank <= reached <= len(values)
        assert values.index(curves[record["run_id"]][step]) + 1 >= rank
        assert f"{record['run_id']} optimizer.lr" in done.stderr
    winner = min((record for record in found.values() if record["status"] == "done"), key=lambda r: r["scores"]["w1"])
    assert winner["step"] == 8


@pytest.mark.integration
def test_the_runs_of_a_slurm_job_compete(make) -> None:
    """The job's task is stored in a file; a pruned run is not a failure of the job, and is not submitted again."""
    runs = requested(make, "prune=asha", rates=RATES[:4])
    task = pickle.loads(pickle.dumps(slurm.Task(runs, provenance.code(), 1, 1, allow_other_code=False)))  # noqa: S301
    assert [one.others for one in task.requested] == [one.others for one in runs]
    assert len(runs[0].others) == 3
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        task()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    statuses = {one.directory.require_record().status for one in runs}
    assert statuses == {Status.DONE, Status.PRUNED}
    outcomes = slurm.Slurm(gpus_per_node=0, wait=False)(
        runs, quiet(), lambda: False
    )  # without a cluster: nothing is submitted
    assert ends(outcomes) == ends([Outcome(one.directory.read_record()) for one in runs])


# --- input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune=asha", "scorer.every=0"], "prune=asha compares metric values during training, but scorer.every=0"),
        (["prune=asha", "prune.first=3"], "prune.first=3 must be a multiple of scorer.every=2"),
        (["prune=asha", "prune.first=8"], "prune=asha stops no run before train.steps=8"),
        (["prune=asha", "prune.metric=critic_gap"], "prune.metric='critic_gap' is not known as a metric"),
        (["prune=asha", "prune.metric=w11"], "did you mean w1"),
        (["prune=asha", "prune.reduction=1"], "prune.reduction must be 2 or more"),
        (["prune=median", "prune.finished=0"], "prune.finished must be 1 or more"),
    ],
)
def test_pruning_that_cannot_work_is_refused(make, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        RequestedRun(make(*POINTS, *overrides, tiny=False), (), "", "s")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.metric=kid"], "prune.metric='kid' compares kid, which scorer=exact does not measure during training"),
        (
            ["prune.metric=modes", "data=swiss_roll"],
            "set prune.metric to one of js, kl, sinkhorn, sliced_w2, w1, w2; prune=none",
        ),
        (["prune.metric=modes"], ""),
        ([], ""),
    ],
)
def test_a_metric_that_the_scorer_does_not_measure_is_refused(make, overrides: list[str], message: str) -> None:
    requested = RequestedRun(make(*POINTS, "prune=asha", *overrides, tiny=False), (), "", "s")
    planned = Planner()(requested)
    assert (planned.action is Action.REFUSE) == bool(message)
    assert message in planned.reason
    if message:
        with pytest.raises(InputError, match=re.escape(message)):
            run(requested.config)
        assert requested.directory.read_record() is None


def test_without_a_metric_to_compare_by_default_one_must_be_named(make) -> None:
    config = make(*POINTS, "prune=median", tiny=False)
    message = "prune.metric=null compares fid or w1 or kid, which scorer=exact does not measure during training: set "
    with pytest.raises(InputError, match=re.escape(message + "prune.metric to one of recall; prune=none")):
        pruning.check_is_measured(config, {"recall", "critic_gap"})
    with pytest.raises(InputError, match="training: choose another scorer; prune=none"):
        pruning.check_is_measured(config, {"critic_gap"})
    pruning.check_is_measured(config, {"kid"})
    pruning.check_is_measured(config, None)
    pruning.check_is_measured(make(*POINTS, tiny=False), {"recall"})


def test_the_metric_must_be_measured_during_training(make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(*POINTS, "prune=asha", tiny=False)
    build_module.check(config)
    monkeypatch.setattr(build_module, "_training_scorer", lambda *_: SimpleNamespace(measures={"kl"}))
    with pytest.raises(InputError, match=r"does not measure during training: set prune.metric to one of kl;"):
        build_module.check(config)


@pytest.mark.parametrize("data", ["gaussians8", "swiss_roll"])
def test_the_exact_scorer_says_what_it_measures(make, data: str) -> None:
    config = make(*POINTS, f"data={data}", "train.steps=2", tiny=False)
    scorer = build_module.build(config).scorer
    assert scorer is not None
    assert scorer.measures == run(config).scores.keys() & {*LOWER_IS_BETTER, *HIGHER_IS_BETTER}


def test_a_single_run_and_a_sweep_with_claims_are_not_pruned(make, sweep: Shell) -> None:
    assert "prune=asha compares the runs of a sweep: give -m" in sweep(*POINTS, "prune=asha", tiny=False, code=1).stderr
    with pytest.raises(InputError, match="claims with prune=asha: pruned runs are not evidence"):
        check_wanted(make(*POINTS, "prune=asha", "claims=paper", tiny=False))


def test_pruning_without_a_scorer_is_refused(make) -> None:
    with pytest.raises(InputError, match=r"scorer=none gives none: choose a scorer; prune=none turns pruning off"):
        RequestedRun(make("prune=median", "scorer=none"), (), "", "s")


def test_pruning_is_not_part_of_the_id_and_older_configs_can_be_read(make, tmp_path: Path) -> None:
    config = make("scorer=fid", "scorer.every=2")
    assert run_id(make("scorer=fid", "scorer.every=2", "prune=median")) == run_id(config)
    values = {key: value for key, value in asdict(config).items() if key != "prune"}
    values["choices"] = {key: value for key, value in config.choices.items() if key != "prune"}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values))
    assert schema.read(path).prune == config.prune == schema.NO_PRUNER
