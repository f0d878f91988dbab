"""Claims: their verdicts on simulated runs, and the conditions under which they stay undecided."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wgan_sweep.commands import report as command
from wgan_sweep.errors import InputError
from wgan_sweep.report import claims
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.claim_kinds.means import Equal, Lower, SpreadsLess
from wgan_sweep.report.claims import PUBLISHED, Verdict, judge, read_claims
from wgan_sweep.report.curves import TRAINING, Curves
from wgan_sweep.report.inference.times import p_value
from wgan_sweep.report.text import to_markdown
from wgan_sweep.runs.archive import write_archive
from wgan_sweep.runs.directory import FINAL, RunDir
from wgan_sweep.runs.record import Record

from ..helpers import append_metrics, directory_of, run, write_record
from .test_report import continued, record

SCHEMES = ("real_fake", "within_source", "mixed_pairs", "mixture", "fake", "real")
NOISE = (-0.5, 0.1, 0.6)


def kp_grid(best: float, others: float, noise=NOISE) -> list[Record]:
    return [
        record((best if (k, p) == (2.0, 6.0) else others + k) + e, loss="wgan_div", k=k, p=p, seed=seed)
        for k in (1.0, 2.0)
        for p in (2.0, 6.0)
        for seed, e in enumerate(noise)
    ]


def rx_grid(div: list[float], gp: list[float], noise=NOISE) -> list[Record]:
    return [
        record(mean + e, loss=loss, sampling=sampling, seed=seed)
        for loss, means in (("wgan_div", div), ("wgan_gp", gp))
        for sampling, mean in zip(SCHEMES, means, strict=True)
        for seed, e in enumerate(noise)
    ]


FLAT, WIDE = [20.0, 20.1, 19.9, 20.0, 20.2, 19.8], [25.0, 40.0, 30.0, 35.0, 28.0, 33.0]
LOWEST, SPREAD, WORST = read_claims(PUBLISHED)


def verdicts(records: list[Record]) -> list[Verdict]:
    return [judgement.verdict for judgement in judge(read_claims(PUBLISHED), records)]


def test_the_papers_claims_are_supported_by_matching_runs_and_contradicted_by_opposite_runs() -> None:
    assert verdicts(kp_grid(10, 20) + rx_grid(FLAT, WIDE)[18:])[0] == Verdict.SUPPORTED
    assert verdicts(rx_grid(FLAT, WIDE)) == [Verdict.UNDECIDED, Verdict.SUPPORTED, Verdict.SUPPORTED]
    assert verdicts(kp_grid(30, 20))[0] == Verdict.CONTRADICTED
    assert verdicts(rx_grid(WIDE, FLAT))[1:] == [Verdict.CONTRADICTED, Verdict.CONTRADICTED]


def test_close_means_are_undecided_until_there_are_enough_seeds() -> None:
    (judgement, *_) = judge([LOWEST], kp_grid(20.6, 20))
    assert judgement.verdict == Verdict.UNDECIDED
    seeds = judgement.seeds_to_decide
    assert seeds is not None
    assert seeds > 3
    assert judge([LOWEST], kp_grid(20.6, 20, NOISE * seeds))[0].verdict == Verdict.SUPPORTED


def test_one_seed_is_never_enough() -> None:
    records = kp_grid(1, 1000, noise=(0.0,)) + rx_grid([1.0] * 6, [1000.0 * n for n in range(1, 7)], noise=(0.0,))
    judgements = judge(read_claims(PUBLISHED), records)
    assert {judgement.verdict for judgement in judgements} == {Verdict.UNDECIDED}
    assert all("one seed" in judgement.why for judgement in judgements)
    # Neither is one cell with a single seed among cells with three.
    records = kp_grid(1, 1000)
    assert judge([LOWEST], records[:-2])[0].verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("huge", [1e39, 1e200, 1.7e308])
def test_a_huge_value_counts_as_lost(huge: float, tmp_path: Path) -> None:
    """Its square, or that of its square, overflows. It counts as a value that is not finite does."""
    equal = {"equal": {"loss": "wgan_div"}, "within": 5}

    def with_value(value: float) -> list[Record]:
        first, *others = (run for run in rx_grid(FLAT, WIDE) if run.config["choices"]["sampling"] in SCHEMES[:2])
        return [replace(first, run_id="x", scores={**first.scores, "fid": value}), *others]

    assert judge_one(equal, with_value(20.0), tmp_path).verdict == Verdict.SUPPORTED
    judgement = judge_one(equal, with_value(huge), tmp_path)
    assert "without lost runs it would be supported" in judgement.why
    assert judge_one(equal, with_value(math.inf), tmp_path).lost == judgement.lost == (1, 0)
    (spread, worst) = judge([SPREAD, WORST], with_value(huge))
    assert (spread.verdict, worst.verdict) == (Verdict.UNDECIDED, Verdict.UNDECIDED)
    assert "(n=2), 1 unscored" in to_markdown(group_runs(with_value(huge)))


@pytest.mark.integration
@pytest.mark.parametrize("scale", [1e-30, 1e36])
def test_verdicts_do_not_depend_on_the_unit_of_the_metric(scale: float) -> None:
    """Values up to the largest that count are tested without overflow."""
    for records in (kp_grid(10, 20), rx_grid(FLAT, WIDE)):
        scaled = [replace(run, scores={**run.scores, "fid": scale * run.scores["fid"]}) for run in records]
        for one, other in zip(
            judge(read_claims(PUBLISHED), records), judge(read_claims(PUBLISHED), scaled), strict=True
        ):
            assert other.verdict == one.verdict
            if one.evidence and other.evidence:
                assert other.evidence.effect == pytest.approx(scale * one.evidence.effect)


def test_p_values_are_adjusted_for_the_number_of_judgements() -> None:
    close = kp_grid(18.6, 20)
    (alone,) = judge([LOWEST], close)
    assert alone.verdict == Verdict.SUPPORTED
    assert alone.p_for is not None
    others = [Lower(f"no {n}", {"div.k": 1, "div.p": 2}, {"div.k": 1, "div.p": 6}) for n in range(30)]
    first, *_ = judge([LOWEST, *others], close)
    assert first.p_for == pytest.approx(min(1, 31 * alone.p_for))
    assert first.verdict == Verdict.UNDECIDED


def test_a_claim_whose_own_runs_diverged_is_not_supported() -> None:
    good = kp_grid(10, 20)
    (judgement,) = judge([LOWEST], [*good, record(None, status="diverged", loss="wgan_div", k=2.0, p=6.0, seed=8)])
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.lost == (1, 0)
    assert "diverged" in judgement.why
    assert "(1 lost)" in claims.to_markdown([judgement], "fid")
    (judgement,) = judge([LOWEST], [*good, record(None, status="diverged", loss="wgan_div", k=1.0, p=6.0, seed=8)])
    assert judgement.verdict == Verdict.SUPPORTED  # a run of a rival cell diverged


def test_a_run_counts_by_its_finished_result_if_its_continuation_is_lost() -> None:
    """At step 10, the runs that were continued count with those that were not, whether they were lost or not."""
    good = kp_grid(10, 20)
    (before,) = judge([LOWEST], good)
    own = [run for run in good if run.config["loss"]["k"] == 2.0 and run.config["loss"]["p"] == 6.0]
    others = [run for run in good if run not in own]
    at_once, later = (continued(run, "diverged", step) for run, step in zip(own, (10, 15), strict=False))
    survivor = replace(continued(own[2], "done", 20), scores={**own[2].scores, "step": 20, "fid": 1.0})
    (judgement,) = (j for j in judge([LOWEST], [*others, at_once, later, survivor]) if j.setting.endswith("step=10"))
    assert (judgement.verdict, judgement.lost) == (Verdict.SUPPORTED, (0, 0))
    assert judgement.evidence == before.evidence
    # Among runs with 20 steps, those that were lost on the way count as lost.
    onwards = [replace(continued(run, "done", 20), scores={**run.scores, "step": 20}) for run in good]
    for lost, end in zip(own, (10, 15), strict=False):
        onwards[good.index(lost)] = continued(lost, "diverged", end)
    found = {judgement.setting.rpartition("step=")[2]: judgement for judgement in judge([LOWEST], onwards)}
    assert found["20"].lost == (2, 0)
    assert found["20"].verdict == Verdict.UNDECIDED
    assert found["10"].evidence == before.evidence


def test_the_curve_of_a_finished_result_ends_at_its_step(tmp_path: Path) -> None:
    """Six runs were done at step 80 and have diverged since: what was measured after step 80 is not evidence."""
    records = [replace(run, step=80, scores={**run.scores, "step": 80}) for run in of_loss("wgan_div", [1.0] * 6)]
    whole = judge_one(CORRELATED, records, tmp_path, curves_of(records, [falling(8)] * 6))
    lost = [continued(run, "diverged", 120) for run in records]
    rising = [{"step": 80 + 10 * n, "fid": 100.0 + n, "wasserstein": -50.0 - n} for n in range(1, 5)]
    judgement = judge_one(CORRELATED, lost, tmp_path, curves_of(lost, [[*falling(8), *rising]] * 6))
    assert judgement.verdict == Verdict.SUPPORTED
    assert (judgement.evidence, judgement.details) == (whole.evidence, whole.details)


def test_copies_of_a_run_and_nan_values_do_not_count_as_seeds() -> None:
    one_seed = kp_grid(10, 20, noise=(0.0,))
    copies = kp_grid(10, 20, noise=(0.1,))
    (judgement,) = judge([LOWEST], one_seed + copies)
    assert judgement.seeds == 1
    (judgement,) = judge([LOWEST], kp_grid(10, 20, noise=(0.0, float("nan"))))
    assert judgement.seeds == 1


def test_a_spread_needs_one_cell_for_each_value_of_its_axis() -> None:
    records = rx_grid(FLAT, WIDE)
    records += [
        record(mean + 90 + e, k=10.0, sampling=s, seed=n)
        for s, mean in zip(SCHEMES, FLAT, strict=True)
        for n, e in enumerate(NOISE)
    ]
    loose = SpreadsLess("x", "sampling", {"loss": "wgan_div"}, {"loss": "wgan_gp"})
    (judgement,) = judge([loose], records)
    assert judgement.verdict == Verdict.UNDECIDED
    assert "name more axes" in judgement.why
    assert judge([SPREAD], records)[0].verdict == Verdict.SUPPORTED


def test_only_comparable_runs_are_compared() -> None:
    """Runs that were scored with other counts, and runs without a metric value, are left out."""
    good = kp_grid(10, 20)
    other = [record(1.0, loss="wgan_div", k=1.0, p=2.0, seed=s, counts=(2048, 50000, 5000)) for s in (5, 6, 7)]
    failed = [record(None, status="diverged", loss="wgan_div", k=1.0, p=2.0, seed=8)]
    (judgement,) = judge([LOWEST], good + other + failed)
    assert judgement.verdict == Verdict.SUPPORTED
    assert set(judgement.runs) == {r.run_id for r in good}


def test_each_setting_is_judged_separately() -> None:
    def on(name: str, records: list[Record]) -> list[Record]:
        for item in records:
            item.config["choices"]["data"] = name
        return records

    judgements = judge([LOWEST], on("cifar10", kp_grid(10, 20)) + on("celeba", kp_grid(30, 20)))
    assert [(judgement.verdict, "data=cifar10" in judgement.setting) for judgement in judgements] == [
        (Verdict.SUPPORTED, True),
        (Verdict.CONTRADICTED, False),
    ]


def test_settings_are_named_by_the_values_that_differ() -> None:
    """The data sets have other files, and their real images other digests: naming the option of the data is enough."""

    def on(name: str, size: int) -> list[Record]:
        records = kp_grid(10, 20)
        for item in records:
            item.config["choices"] |= {"data": name, "model": "dcgan"}
            item.config |= {"data": {"name": name, "files": [f"{name}.gz"], "size": size}, "model": {"dim": 16}}
            item.scored_by["real"] = f"digest of {name}"
        return records

    judgements = judge([LOWEST], on("mnist", 32) + on("fashion_mnist", 32))
    assert [judgement.setting for judgement in judgements] == [
        "model=dcgan data=mnist step=10",
        "model=dcgan data=fashion_mnist step=10",
    ]
    judgements = judge([LOWEST], on("mnist", 32) + on("mnist", 64))
    assert [judgement.setting for judgement in judgements] == [
        "model=dcgan data=mnist data.size=32 step=10",
        "model=dcgan data=mnist data.size=64 step=10",
    ]


def test_a_claim_without_runs_is_undecided() -> None:
    (judgement,) = judge([SPREAD], kp_grid(10, 20))
    assert judgement.verdict == Verdict.UNDECIDED
    assert "no runs on both sides" in judgement.why


def of_loss(loss: str, values: list[float], **choices) -> list[Record]:
    return [record(value, loss=loss, seed=seed, **choices) for seed, value in enumerate(values)]


def judge_one(entry: dict, records: list[Record], tmp_path: Path, curves: Curves | None = None) -> claims.Judgement:
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"claims": [{"claim": "c", **entry}]}))
    (judgement,) = judge(read_claims(path), records, curves=curves)
    return judgement


def test_a_claim_whose_sides_were_trained_in_different_settings_says_so(tmp_path: Path) -> None:
    trained = of_loss("wgan_div", [1, 2, 3]), of_loss("wgan_gp", [2, 3, 4])
    for records, steps in zip(trained, (1000, 2500), strict=True):
        for item in records:
            item.scores["step"] = steps
    judgement = judge_one(
        {"lower": {"loss": "wgan_div"}, "than": {"loss": "wgan_gp"}}, [*trained[0], *trained[1]], tmp_path
    )
    assert judgement.verdict == Verdict.UNDECIDED
    assert "step=1000" in judgement.why
    assert "step=2500" in judgement.why


def test_lost_runs_count_as_worse_on_either_side() -> None:
    """They forbid the verdict that they may have made possible, and only that."""
    lost_rival = record(None, status="failed", loss="wgan_div", k=1.0, p=6.0, seed=8)
    worse = kp_grid(30, 20)
    assert judge([LOWEST], worse)[0].verdict == Verdict.CONTRADICTED
    (judgement,) = judge([LOWEST], [*worse, lost_rival])
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.lost == (0, 1)
    assert "would be contradicted" in judgement.why
    lost_own = record(None, status="failed", loss="wgan_div", k=2.0, p=6.0, seed=8)
    assert judge([LOWEST], [*worse, lost_own])[0].verdict == Verdict.CONTRADICTED


def test_lost_runs_at_a_learning_rate_that_is_not_compared_do_not_count() -> None:
    lost = record(None, status="diverged", loss="wgan_div", k=2.0, p=6.0, lr=1e30)
    (judgement,) = judge([LOWEST], [*kp_grid(10, 20), lost])
    assert judgement.lost == (0, 0)
    assert judgement.verdict == Verdict.SUPPORTED


def test_the_runs_of_a_cell_that_failed_altogether_count() -> None:
    """Also if a single cell of the claim is left, which has no axis in common with others."""
    div = [record(20.0 + e, loss="wgan_div", sampling="real_fake", seed=seed) for seed, e in enumerate(NOISE)]
    gp = rx_grid([0.0] * 6, [30.0] * 6)[18:]
    lost = [
        record(None, status="diverged", loss="wgan_div", sampling=sampling, seed=seed)
        for sampling in SCHEMES[1:]
        for seed in range(3)
    ]
    assert judge([WORST], [*div, *gp])[0].verdict == Verdict.SUPPORTED
    (judgement,) = judge([WORST], [*div, *gp, *lost])
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.lost == (15, 0)


@pytest.mark.parametrize(
    "entry",
    [
        {"lower": {"loss": ["wgan_gp", "wgan_div"]}, "than": {"loss": "wgan"}},
        {"equal": {"sampling": "real_fake"}, "within": 30},
    ],
)
def test_the_runs_of_a_loss_that_failed_altogether_count_at_its_own_learning_rate(tmp_path: Path, entry: dict) -> None:
    done = of_loss("wgan_gp", [1.0, 1.1, 0.9]) + of_loss("wgan", [9.0, 9.1, 8.9])
    elsewhere = [record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(3)]
    for item in elsewhere:
        item.config["optimizer"]["lr"] = 1e-2
    judgement = judge_one(entry, [*done, *elsewhere], tmp_path)
    assert (judgement.verdict, judgement.lost) == (Verdict.SUPPORTED, (0, 0))
    lost = [record(None, status="diverged", loss="wgan_div", seed=seed, lr=2e-4) for seed in range(3)]
    judgement = judge_one(entry, [*done, *elsewhere, *lost], tmp_path)
    assert (judgement.verdict, judgement.lost) == (Verdict.UNDECIDED, (3, 0))


@pytest.mark.parametrize(
    ("entry", "lost"),
    [
        ({"equal": {"loss": ["wgan", "wgan_gp"]}, "within": 5}, (6, 0)),
        (
            {
                "lower": {"loss": ["wgan", "wgan_gp"], "sampling": "fake"},
                "than": {"loss": ["wgan", "wgan_gp"], "sampling": "real"},
            },
            (3, 3),
        ),
    ],
)
def test_the_runs_of_a_named_loss_that_failed_altogether_count(tmp_path: Path, entry: dict, lost: tuple) -> None:
    """The cells that are left have another loss in common."""
    done = of_loss("wgan", [1.0, 1.1, 0.9], sampling="fake") + of_loss("wgan", [4.0, 4.1, 3.9], sampling="real")
    assert judge_one(entry, done, tmp_path).verdict == Verdict.SUPPORTED
    failed = [
        record(None, status="diverged", loss="wgan_gp", sampling=sampling, seed=seed)
        for sampling in ("fake", "real")
        for seed in range(3)
    ]
    judgement = judge_one(entry, [*done, *failed], tmp_path)
    assert (judgement.verdict, judgement.lost) == (Verdict.UNDECIDED, lost)


def test_lost_runs_may_contradict_equality_only_next_to_a_cell_without_any(tmp_path: Path) -> None:
    records = of_loss("wgan", [30, 31, 32]) + of_loss("wgan_div", [20, 21, 22])
    entry = {"equal": {"loss": ["wgan", "wgan_div"]}, "within": 1}
    for losses, verdict in ((["wgan_div"], Verdict.CONTRADICTED), (["wgan_div", "wgan"], Verdict.UNDECIDED)):
        lost = [record(None, status="diverged", loss=loss, seed=9) for loss in losses]
        assert judge_one(entry, [*records, *lost], tmp_path).verdict == verdict
    for item in records:
        item.scores["copied"] = item.scores["fid"]
    equal = Equal("x", {"loss": ["wgan", "wgan_div"]}, 1.0)
    assert judge([equal], records, "copied")[0].verdict == Verdict.CONTRADICTED
    lost = [record(None, status="diverged", loss="wgan_div", seed=9)]
    assert judge([equal], [*records, *lost], "copied")[0].verdict == Verdict.UNDECIDED


def test_a_finished_run_without_a_value_is_lost_and_a_failed_one_might_have_diverged(tmp_path: Path) -> None:
    entry = {"event": "lost", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    own, rivals = of_loss("wgan_div", [1.0] * 9), of_loss("wgan_gp", [1.0] * 2)
    diverged = [record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(2, 9)]
    assert judge_one(entry, [*own, *rivals, *diverged], tmp_path).verdict == Verdict.SUPPORTED
    without = [replace(item, scores={**item.scores, "fid": math.nan}) for item in own[2:]]
    evidence = judge_one(entry, [*own[:2], *without, *rivals, *diverged], tmp_path).evidence
    assert evidence is not None
    assert "7 of 9 against 7 of 9" in evidence.measure
    entry["event"] = "diverged"
    assert judge_one(entry, [*own, *rivals, *diverged], tmp_path).verdict == Verdict.SUPPORTED
    failed = [record(None, status="failed", loss="wgan_div", seed=seed) for seed in range(20, 24)]
    judgement = judge_one(entry, [*own, *failed, *rivals, *diverged], tmp_path)
    assert (judgement.verdict, judgement.lost) == (Verdict.UNDECIDED, (4, 0))


def test_pruned_runs_whose_event_is_not_known_count_as_pruned(tmp_path: Path) -> None:
    own, rivals = of_loss("wgan_div", [1.0] * 8), of_loss("wgan_gp", [1.0] * 8)
    for modes, side in ((25.0, own), (10.0, rivals)):
        for item in side:
            item.scores["modes"] = modes
    entry = {"event": "modes < 20", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    assert judge_one(entry, own + rivals, tmp_path).verdict == Verdict.SUPPORTED
    stopped = [record(15.0, status="pruned", step=5, loss="wgan_div", seed=seed) for seed in range(20, 30)]
    judgement = judge_one(entry, own + rivals + stopped, tmp_path)
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.why.startswith("10 of its runs were pruned")


def test_a_lost_run_is_worse_where_high_values_are_claimed_too(tmp_path: Path) -> None:
    """Lost runs of the side that is claimed to be worse agree with the claim, and those of the other one do not."""
    high, low = of_loss("wgan", [30, 31, 32]), of_loss("wgan_div", [20, 21, 22])
    entry = {"higher": {"loss": "wgan"}, "than": {"loss": "wgan_div"}}
    for loss, verdict in (("wgan", Verdict.SUPPORTED), ("wgan_div", Verdict.UNDECIDED)):
        lost = record(None, status="diverged", loss=loss, seed=9)
        assert judge_one(entry, [*high, *low, lost], tmp_path).verdict == verdict


def test_a_lost_run_of_a_metric_without_a_direction_forbids_every_verdict() -> None:
    high, low = of_loss("wgan", [30, 31, 32]), of_loss("wgan_div", [20, 21, 22])
    for item in (*high, *low):
        item.scores["copied"] = item.scores["fid"]
    claim = Lower("x", {"loss": "wgan_div"}, {"loss": "wgan"})
    assert judge([claim], [*high, *low], "copied")[0].verdict == Verdict.SUPPORTED
    for loss in ("wgan", "wgan_div"):
        lost = record(None, status="diverged", loss=loss, seed=9)
        assert judge([claim], [*high, *low, lost], "copied")[0].verdict == Verdict.UNDECIDED


def test_finished_runs_without_a_value_count_as_lost(tmp_path: Path) -> None:
    low, high = of_loss("wgan_div", [20, 21, 22]), of_loss("wgan", [30, 31, 32])
    entry = {"lower": {"loss": "wgan_div"}, "than": {"loss": "wgan"}}
    assert judge_one(entry, [*low, *high], tmp_path).verdict == Verdict.SUPPORTED
    unscored = [record(None, loss="wgan_div", seed=7), record(math.nan, loss="wgan_div", seed=8)]
    judgement = judge_one(entry, [*low, *high, *unscored], tmp_path)
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.lost == (2, 0)
    assert "2 runs of the claim's own cells diverged, failed or have no value" in judgement.why
    for item in unscored:
        item.step = 5  # of shorter runs, nobody knows the value at the step of the others
    assert judge_one(entry, [*low, *high, *unscored], tmp_path).verdict == Verdict.SUPPORTED


def test_runs_that_were_lost_after_the_step_that_is_compared_do_not_count(tmp_path: Path) -> None:
    good = of_loss("wgan_div", [1.0] * 8) + of_loss("wgan_gp", [1.0] * 8)
    entry = {"event": "lost", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    lost = [record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(20, 40)]
    assert judge_one(entry, good + lost, tmp_path).verdict == Verdict.SUPPORTED
    for item in lost:
        item.step = 60_000
    judgement = judge_one(entry, good + lost, tmp_path)
    assert judgement.evidence is not None
    assert "0 of 8 against 0 of 8" in judgement.evidence.measure


def test_copies_of_a_lost_run_count_once(tmp_path: Path) -> None:
    good = of_loss("wgan_div", [1.0] * 4) + of_loss("wgan_gp", [1.0])
    entry = {"event": "lost", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    copies = [record(None, status="diverged", loss="wgan_gp", seed=9) for _ in range(4)]
    judgement = judge_one(entry, good + copies, tmp_path)
    assert judgement.evidence is not None
    assert "0 of 4 against 1 of 2" in judgement.evidence.measure


def test_a_lost_run_counts_as_the_worst_value_for_bounds(tmp_path: Path) -> None:
    good = of_loss("wgan_div", [20.0, 40.0] * 4)
    bad = of_loss("wgan_gp", [20.0]) + [
        record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(1, 8)
    ]
    entry = {"rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    for event, counts in (("fid > 30", "4 of 8 against 7 of 8"), ("fid <= 30", "4 of 8 against 1 of 8")):
        judgement = judge_one({**entry, "event": event}, good + bad, tmp_path)
        assert judgement.evidence is not None
        assert counts in judgement.evidence.measure
        assert judgement.lost == (0, 0)
    for item in good + bad:
        item.scores["copied"] = 1.0 if item in good else 9.0
    others = of_loss("wgan_gp", [1.0] * 8)
    for item in others:
        item.scores["copied"] = 9.0
    assert judge_one({**entry, "event": "copied > 5"}, good + others, tmp_path).verdict == Verdict.SUPPORTED
    judgement = judge_one({**entry, "event": "copied > 5"}, good + others + bad[1:], tmp_path)
    assert judgement.verdict == Verdict.UNDECIDED  # nobody knows whether high or low values of it are bad
    assert judgement.lost == (0, 7)


def test_the_seed_is_the_unit_of_events_in_several_cells(tmp_path: Path) -> None:
    """Three seeds of three cells each are too few, although 0 of 9 against 9 of 9 runs are not by Fisher's test."""

    def runs(loss: str, fid: float, seeds: int) -> list[Record]:
        return [record(fid, loss=loss, sampling=s, seed=seed) for s in SCHEMES[:3] for seed in range(seeds)]

    entry = {"event": "fid > 5", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    for seeds, choices, verdict in ((3, 20, Verdict.UNDECIDED), (4, 70, Verdict.SUPPORTED)):
        judgement = judge_one(entry, runs("wgan_div", 1.0, seeds) + runs("wgan_gp", 9.0, seeds), tmp_path)
        assert judgement.p_for == pytest.approx(1 / choices)
        assert judgement.verdict == verdict


def pruned(k: float, *seeds: int, **values) -> list[Record]:
    """Return pruned runs of the grid of `kp_grid`, at p = 2, with an FID of 15 at an earlier step."""
    return [record(15.0, status="pruned", step=5, loss="wgan_div", k=k, p=2.0, seed=seed, **values) for seed in seeds]


BEST = {"lowest": {"div.k": 2, "div.p": 6}, "among": {"loss": "wgan_div"}}
COUNTED = {**BEST, "pruned": "worst"}


def test_a_claim_with_pruned_runs_is_undecided_unless_it_counts_them(tmp_path: Path) -> None:
    """The pruned runs would be worse than any other: the claim is supported with them, as it is without them."""
    grid = kp_grid(10, 20)
    runs = [run for run in grid if (run.config["loss"]["k"], run.config["loss"]["p"]) != (1.0, 2.0)]
    assert len(grid) - len(runs) == len(NOISE)
    assert judge_one(BEST, runs, tmp_path).verdict == Verdict.SUPPORTED
    runs += pruned(1.0, 0, 1, 2)
    judgement = judge_one(BEST, runs, tmp_path)
    assert (judgement.verdict, judgement.evidence) == (Verdict.UNDECIDED, None)
    assert "3 of its runs were pruned: train them to the end (prune=none)" in judgement.why
    judgement = judge_one(COUNTED, runs, tmp_path)
    assert judgement.verdict == Verdict.SUPPORTED
    assert len(judgement.runs) == len(grid)
    assert judgement.evidence is not None
    # The smallest difference is that to k = 1, p = 6, which is complete.
    complete = judge_one(BEST, grid, tmp_path).evidence
    assert complete is not None
    assert judgement.evidence.effect == pytest.approx(complete.effect, abs=0.1)


SEED_EFFECTS = (0.0, 9.0, -7.0, 4.0)
"""What the runs of a seed have in common."""


def grid_with_seed_effects(best: float = 10.0) -> list[Record]:
    """Four cells whose runs differ by seed far more than the cells differ."""
    noise = np.random.default_rng(0).normal(0, 0.2, (4, len(SEED_EFFECTS)))
    return [
        record(best + 2 * cell + effect + noise[cell, seed], loss="wgan_div", k=k, p=p, seed=seed)
        for cell, (k, p) in enumerate(((2.0, 6.0), (2.0, 2.0), (1.0, 6.0), (1.0, 2.0)))
        for seed, effect in enumerate(SEED_EFFECTS)
    ]


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        (BEST, Verdict.SUPPORTED),
        ({"highest": {"div.k": 2, "div.p": 6}, "among": {"loss": "wgan_div"}}, Verdict.CONTRADICTED),
        ({"lower": {"div.k": 2}, "than": {"div.k": 1}}, Verdict.SUPPORTED),
        ({"higher": {"div.k": 1}, "than": {"div.k": 2}}, Verdict.SUPPORTED),
        ({"falls_with": "div.k", "in": {"div.p": 6}}, Verdict.SUPPORTED),
        ({"equal": {"loss": "wgan_div"}, "within": 8}, Verdict.SUPPORTED),
        ({"equal": {"loss": "wgan_div"}, "within": 4}, Verdict.CONTRADICTED),
    ],
)
def test_claims_that_pair_runs_by_seed_see_through_what_a_seed_has_in_common(
    tmp_path: Path, entry: dict, verdict: Verdict
) -> None:
    records = grid_with_seed_effects()
    assert judge_one(entry, records, tmp_path).verdict == Verdict.UNDECIDED
    paired = judge_one({**entry, "paired": "seed"}, records, tmp_path)
    assert paired.verdict == verdict
    assert paired.evidence is not None
    assert "paired by seed" in paired.evidence.test
    again = judge_one({**entry, "paired": "seed"}, records[::-1], tmp_path)  # in another order
    assert again.verdict == verdict
    assert again.evidence is not None
    assert again.evidence.effect == pytest.approx(paired.evidence.effect)


@pytest.mark.integration
def test_a_paired_claim_about_spreads_sees_through_what_a_seed_has_in_common(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, (2, 3, len(SEED_EFFECTS)))
    records = [
        record(10 + apart * cell + effect + noise[side, cell, seed], loss=loss, sampling=sampling, seed=seed)
        for side, (loss, apart) in enumerate((("wgan_div", 0.0), ("wgan_gp", 5.0)))
        for cell, sampling in enumerate(("real", "fake", "real_fake"))
        for seed, effect in enumerate(SEED_EFFECTS)
    ]
    entry = {"spread_of": "sampling", "less_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    assert judge_one(entry, records, tmp_path).verdict == Verdict.UNDECIDED
    paired = judge_one({**entry, "paired": "seed"}, records, tmp_path)
    assert (paired.verdict, paired.seeds, len(paired.runs)) == (Verdict.SUPPORTED, 4, 24)
    assert paired.evidence is not None
    assert paired.evidence.effect == pytest.approx(5.0, abs=0.3)  # 0, 5 and 10 have a standard deviation of 5
    further = record(500.0, loss="wgan_gp", sampling="real", seed=len(SEED_EFFECTS))
    again = judge_one({**entry, "paired": "seed"}, [*records, further], tmp_path)
    assert again.evidence == paired.evidence
    assert "not compared: 1 run" in " ".join(again.details)


def test_paired_claims_name_the_cells_that_may_be_the_best(tmp_path: Path) -> None:
    records = grid_with_seed_effects()
    (detail,) = judge_one({**BEST, "paired": "seed"}, records, tmp_path).details
    assert detail == "cells that may be the best (95%): div.k=2 div.p=6"
    (detail,) = judge_one(BEST, records, tmp_path).details
    assert detail.count("div.k") == 4


def test_only_seeds_that_all_cells_have_are_paired(tmp_path: Path) -> None:
    records = grid_with_seed_effects()
    entry = {**BEST, "paired": "seed"}
    whole = judge_one(entry, records, tmp_path)
    further = [record(fid, loss="wgan_div", k=2.0, p=6.0, seed=seed) for seed, fid in ((8, 50.0), (9, 60.0))]
    judgement = judge_one(entry, [*further, *records], tmp_path)
    assert (judgement.seeds, judgement.evidence) == (4, whole.evidence)
    assert judgement.details == (*whole.details, "not compared: 2 runs, since not all of its cells have their seeds")
    assert not {run.run_id for run in further} & {*judgement.runs}
    few = [run for run in records if run.config["seed"] == 0 or run.config["loss"]["k"] == 2]
    judgement = judge_one(entry, few, tmp_path)
    assert (judgement.verdict, judgement.seeds) == (Verdict.UNDECIDED, 1)
    assert judgement.why == "its cells have fewer than two seeds in common, by which runs are paired"
    apart = [record(30.0 + seed, loss="wgan_div", k=1.0, p=2.0, seed=seed) for seed in (8, 9)]
    alone = [run for run in records if run.config["loss"] == {**run.config["loss"], "k": 2.0, "p": 6.0}]
    judgement = judge_one(entry, [*alone, *apart], tmp_path)
    assert (judgement.verdict, judgement.seeds, judgement.evidence) == (Verdict.UNDECIDED, 0, None)


def test_lost_runs_withhold_verdicts_of_paired_runs(tmp_path: Path) -> None:
    records = grid_with_seed_effects()
    first = next(run for run in records if (run.config["loss"]["k"], run.config["loss"]["p"]) == (2.0, 6.0))
    lost = [replace(first, status="diverged"), *(run for run in records if run is not first)]
    judgement = judge_one({**BEST, "paired": "seed"}, lost, tmp_path)
    assert (judgement.verdict, judgement.seeds, judgement.lost) == (Verdict.UNDECIDED, 3, (1, 0))
    assert "without lost runs it would be supported" in judgement.why


@pytest.mark.parametrize("others", [1, 2])
def test_a_seed_that_is_lost_in_one_cell_takes_no_bad_run_of_another_cell_with_it(tmp_path: Path, others: int) -> None:
    """The claim's own cell is bad at seed 0, at which one of the others diverged. Other seeds agree with the claim."""
    values = {2.0: [200.0, 10.0, 10.1, 10.2], 1.0: [31.0, 30.0, 30.2, 29.9], 4.0: [0.0, 31.0, 30.6, 30.9]}
    records = [
        record(fid, "diverged" if fid == 0 else "done", loss="wgan_div", k=k, p=6.0, seed=seed)
        for k in (2.0, 4.0, 1.0)[: 1 + others]
        for seed, fid in enumerate(values[k])
    ]
    entry = {"lower": {"div.k": 2}, "than": {"loss": "wgan_div"}, "paired": "seed"}
    judgement = judge_one(entry, records, tmp_path)
    assert (judgement.seeds, judgement.lost, judgement.verdict) == (
        3,
        (0, 1),
        Verdict.SUPPORTED if others == 1 else Verdict.UNDECIDED,
    )


def test_runs_without_a_seed_are_not_paired_and_seeds_may_be_written_as_text(tmp_path: Path) -> None:
    records = grid_with_seed_effects()
    whole = judge_one({**BEST, "paired": "seed"}, records, tmp_path).evidence
    for item in records[::2]:
        item.config["seed"] = str(item.config["seed"])
    assert judge_one({**BEST, "paired": "seed"}, records, tmp_path).evidence == whole
    for item in records:
        if str(item.config["seed"]) == "3":
            del item.config["seed"]
    assert judge_one({**BEST, "paired": "seed"}, records, tmp_path).seeds == 3


def test_a_pruned_run_whose_seed_other_cells_lack_is_not_ignored(tmp_path: Path) -> None:
    runs = [run for run in kp_grid(10, 20) if (run.config["loss"]["k"], run.config["loss"]["p"]) != (1.0, 2.0)]
    for item in runs:
        item.config["seed"] += 1
    judgement = judge_one({**BEST, "paired": "seed"}, runs + pruned(1.0, 0), tmp_path)
    assert (judgement.verdict, judgement.evidence) == (Verdict.UNDECIDED, None)
    assert "1 of its runs were pruned" in judgement.why


def test_pruned_runs_are_paired_if_they_count(tmp_path: Path) -> None:
    runs = [run for run in kp_grid(10, 20) if (run.config["loss"]["k"], run.config["loss"]["p"]) != (1.0, 2.0)]
    noisy = [replace(run, scores={**run.scores, "fid": run.scores["fid"] + 0.01 * n}) for n, run in enumerate(runs)]
    judgement = judge_one({**COUNTED, "paired": "seed"}, noisy + pruned(1.0, 0, 1, 2), tmp_path)
    assert (judgement.verdict, judgement.seeds, len(judgement.runs)) == (Verdict.SUPPORTED, 3, 12)


def test_pruned_runs_count_with_the_worst_value_of_their_setting(tmp_path: Path) -> None:
    """A cell whose runs were all pruned has the mean of the worst finished run, 22.6, and not that of its own, 15."""
    grid = kp_grid(10, 20)
    runs = [run for run in grid if run.config["loss"]["p"] == 6.0] + pruned(1.0, 0, 1)
    low = {"lower": {"div.k": 2, "div.p": 6}, "than": {"div.k": 1, "div.p": 2}, "pruned": "worst"}
    evidence = judge_one(low, runs, tmp_path).evidence
    assert evidence is not None
    worst = max(run.scores["fid"] for run in runs if run.status == "done")
    assert evidence.effect == pytest.approx(worst - (10 + sum(NOISE) / 3))
    high = [record(99.0, status="pruned", step=5, loss="wgan_div", k=1.0, p=2.0, seed=seed) for seed in (0, 1)]
    evidence = judge_one(low, [*runs[:-2], *high], tmp_path).evidence
    assert evidence is not None
    assert evidence.effect == pytest.approx(99 - (10 + sum(NOISE) / 3))


def test_pruned_runs_that_a_claim_is_not_about_do_not_matter(tmp_path: Path) -> None:
    grid = kp_grid(10, 20)
    for other in (pruned(1.0, 5, lr=1e-5), [record(15.0, status="pruned", step=5, loss="wgan_gp", seed=0)]):
        narrow = {"lower": {"div.k": 2, "div.p": 6, "optimizer.lr": 2e-4}, "than": {"div.k": 1, "optimizer.lr": 2e-4}}
        assert judge_one(narrow, [*grid, *other], tmp_path).verdict == Verdict.SUPPORTED
    event = {"event": "lost", "rarer_in": {"div.k": 1}, "than_in": {"div.k": 2}}
    assert judge_one(event, grid, tmp_path).evidence is not None
    assert "1 of its runs were pruned" in judge_one(event, [*grid, *pruned(1.0, 5)], tmp_path).why


def test_the_lowest_cell_and_all_that_may_be_it(tmp_path: Path) -> None:
    records = kp_grid(10, 20)  # k=2, p=6 at 10, others at 20 + k
    judgement = judge_one({"lowest": {"div.k": 2, "div.p": 6}, "among": {"loss": "wgan_div"}}, records, tmp_path)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.details == ("cells that may be the best (95%): div.k=2 div.p=6",)
    judgement = judge_one({"lowest": {"div.k": 1, "div.p": 6}, "among": {"loss": "wgan_div"}}, records, tmp_path)
    assert judgement.verdict == Verdict.CONTRADICTED
    assert judgement.details == ("cells that may be the best (95%): div.k=2 div.p=6",)
    judgement = judge_one({"highest": {"div.k": 2, "div.p": 2}, "among": {"loss": "wgan_div"}}, records, tmp_path)
    assert judgement.verdict == Verdict.UNDECIDED  # k=2, p=2 and k=2, p=6 differ; k=1 is 1 lower, and noisy
    assert "div.k=2 div.p=2" in judgement.details[0]
    assert "div.k=2 div.p=6" not in judgement.details[0]


def test_means_are_equal_within_a_margin_or_not(tmp_path: Path) -> None:
    records = rx_grid(FLAT, WIDE, NOISE * 2)
    equal = {"equal": {"loss": "wgan_div"}}
    assert judge_one({**equal, "within": 6}, records, tmp_path).verdict == Verdict.SUPPORTED
    assert judge_one({**equal, "within": 1}, records, tmp_path).verdict == Verdict.UNDECIDED
    assert judge_one({"equal": {"loss": "wgan_gp"}, "within": 6}, records, tmp_path).verdict == Verdict.CONTRADICTED
    lost = record(None, status="diverged", loss="wgan_div", sampling="fake")
    assert judge_one({**equal, "within": 6}, [*records, lost], tmp_path).verdict == Verdict.UNDECIDED
    lost = record(None, status="diverged", loss="wgan_gp", sampling="fake")  # it is worse than all others
    apart = judge_one({"equal": {"loss": "wgan_gp"}, "within": 6}, [*records, lost], tmp_path)
    assert (apart.verdict, apart.lost) == (Verdict.CONTRADICTED, (1, 0))


def test_a_list_selects_the_cells_of_each_of_its_values(tmp_path: Path) -> None:
    records = rx_grid(FLAT, WIDE, NOISE * 2)
    both = judge_one({"equal": {"loss": ["wgan_div", "wgan_gp"]}, "within": 30}, records, tmp_path)
    assert both.verdict == Verdict.SUPPORTED
    assert both.evidence is not None
    difference = 30 - both.evidence.effect
    assert difference == pytest.approx(max(WIDE) - min(FLAT), abs=0.5)
    one = judge_one({"equal": {"loss": ["wgan_div", "wgan"]}, "within": 6}, records, tmp_path)
    assert one == judge_one({"equal": {"loss": "wgan_div"}, "within": 6}, records, tmp_path)


def test_means_rise_or_fall_along_an_axis(tmp_path: Path) -> None:
    records = [record(10 * k + e, k=k, seed=seed) for k in (0.5, 1.0, 2.0, 10.0) for seed, e in enumerate(NOISE)]
    within = {"in": {"loss": "wgan_div"}}
    assert judge_one({"rises_with": "div.k", **within}, records, tmp_path).verdict == Verdict.SUPPORTED
    assert judge_one({"falls_with": "div.k", **within}, records, tmp_path).verdict == Verdict.CONTRADICTED
    more = [record(70 + e, k=1.0, p=2.0, seed=seed) for seed, e in enumerate(NOISE)]
    judgement = judge_one({"rises_with": "div.k", **within}, records + more, tmp_path)
    assert "several cells have div.k=1" in judgement.why
    lost = record(None, status="diverged", k=2.0, seed=8)
    for direction, verdict in (("rises_with", "supported"), ("falls_with", "contradicted")):
        judgement = judge_one({direction: "div.k", **within}, [*records, lost], tmp_path)
        assert judgement.verdict == Verdict.UNDECIDED
        assert f"without lost runs it would be {verdict}" in judgement.why


def test_an_event_is_rarer_among_runs_of_one_kind(tmp_path: Path) -> None:
    """With 0 of 8 against 6 of 8 lost, Fisher's one-sided p is C(8, 2) C(8, 0).../C(16, 6) = 28 / 8008."""
    good = of_loss("wgan_div", [1.0] * 8)
    bad = of_loss("wgan_gp", [1.0, 1.0]) + [
        record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(2, 8)
    ]
    entry = {"event": "lost", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    judgement = judge_one(entry, good + bad, tmp_path)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.p_for == pytest.approx(28 / 8008)
    assert judgement.evidence is not None
    assert judgement.evidence.effect == float("inf")
    assert judge_one({**entry, "event": "failed"}, good + bad, tmp_path).verdict == Verdict.UNDECIDED
    high = of_loss("wgan_gp", [9.0] * 8)
    assert judge_one({**entry, "event": "fid > 5"}, good + high, tmp_path).verdict == Verdict.SUPPORTED
    assert judge_one({**entry, "event": "fid < 5"}, good + high, tmp_path).verdict == Verdict.CONTRADICTED
    with pytest.raises(InputError, match=r"event 'fid ~ 5' is none of"):
        judge_one({**entry, "event": "fid ~ 5"}, good, tmp_path)


def falling(steps: int, every: int = 10) -> list[dict[str, float]]:
    """Return the lines of a run whose FID and critic estimate fall together."""
    return [{"step": every * n, "fid": 100.0 - n, "wasserstein": 50.0 - n**1.5} for n in range(1, steps + 1)]


def curves_of(records: list[Record], lines: list[list[dict[str, float]]]) -> Curves:
    return Curves(dict(zip((r.run_id for r in records), lines, strict=True)).__getitem__)


CORRELATED = {"correlates": "wasserstein", "with": "fid", "in": {"loss": "wgan_div"}}


def test_two_measurements_are_correlated_along_the_curves_of_six_runs(tmp_path: Path) -> None:
    records = of_loss("wgan_div", [1.0] * 6)
    curves = curves_of(records, [falling(8 + seed) for seed in range(6)])
    judgement = judge_one(CORRELATED, records, tmp_path, curves)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.p_for == 1 / 64
    assert judgement.details == (
        "rank correlations of wasserstein and fid: 1.00 to 1.00, median 1.00, over 8 to 13 steps of each run",
    )
    assert judge_one({**CORRELATED, "above": 0.9}, records, tmp_path, curves).verdict == Verdict.SUPPORTED
    assert judge_one({**CORRELATED, "below": -0.1}, records, tmp_path, curves).verdict == Verdict.CONTRADICTED
    rising = [[{**line, "wasserstein": -line["wasserstein"]} for line in falling(8)] for _ in records]
    assert judge_one(CORRELATED, records, tmp_path, curves_of(records, rising)).verdict == Verdict.CONTRADICTED
    judgement = judge_one({**CORRELATED, "below": -0.5}, records, tmp_path, curves_of(records, rising))
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.evidence is not None
    assert judgement.evidence.effect == pytest.approx(0.5, abs=0.02)
    opposite = [*rising[:3], *(falling(8) for _ in range(3))]
    assert judge_one(CORRELATED, records, tmp_path, curves_of(records, opposite)).verdict == Verdict.UNDECIDED


def test_few_runs_and_lost_runs_do_not_decide_a_correlation(tmp_path: Path) -> None:
    five = of_loss("wgan_div", [1.0] * 5)
    judgement = judge_one(CORRELATED, five, tmp_path, curves_of(five, [falling(9)] * 5))
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.seeds_to_decide == 6
    lost = record(None, status="diverged", seed=9)
    records = of_loss("wgan_div", [1.0] * 6)
    judgement = judge_one(CORRELATED, [*records, lost], tmp_path, curves_of(records, [falling(9)] * 6))
    assert judgement.verdict == Verdict.UNDECIDED
    assert "without lost runs it would be supported" in judgement.why


def test_a_threshold_that_short_curves_cannot_show_is_refused(tmp_path: Path) -> None:
    """Five ranks have no correlation between 0.9 and 1, which is counted as 0.95."""
    records = of_loss("wgan_div", [1.0] * 6)
    curves = curves_of(records, [falling(5)] * 6)
    judgement = judge_one({**CORRELATED, "above": 0.96}, records, tmp_path, curves)
    assert judgement.evidence is None
    assert "curves of 5 steps cannot show that a correlation is beyond 0.96" in judgement.why
    assert judge_one({**CORRELATED, "above": 0.94}, records, tmp_path, curves).verdict == Verdict.SUPPORTED


def test_a_curve_without_enough_steps_is_refused_with_the_remedy(tmp_path: Path) -> None:
    records = of_loss("wgan_div", [1.0] * 6)
    few = curves_of(records, [*[falling(9)] * 5, falling(4)])
    judgement = judge_one(CORRELATED, records, tmp_path, few)
    assert judgement.evidence is None
    assert judgement.why == (
        "a run has wasserstein and fid at 4 steps, fewer than 5: score more often (scorer.every=...)"
    )
    curves = curves_of(records, [falling(9)] * 6)
    judgement = judge_one({**CORRELATED, "correlates": "waserstein"}, records, tmp_path, curves)
    assert judgement.why == "no run has measured waserstein along its curve; did you mean wasserstein?"
    assert "no run has measured wasserstein" in judge_one(CORRELATED, records, tmp_path).why


def test_a_curve_has_the_first_comparable_values_at_the_steps_that_have_all() -> None:
    def scored(step: int, fid: float, generated: int, **more: float) -> dict[str, float]:
        return {"step": step, "fid": fid, "fid_generated": generated, **more}

    lines = [
        {"step": 1, "wasserstein": 5.0},
        {"step": 2, "wasserstein": 4.0},
        scored(2, 30.0, 100),
        {"step": 4, "wasserstein": 3.0},
        scored(4, 20.0, 100),
        scored(4, 10.0, 5000, **{FINAL: 1}),
        scored(4, 12.0, 5000),  # scored again with more samples
        scored(4, 19.0, 100),
        {"step": 6, "wasserstein": float("nan")},
        scored(6, 15.0, 100),
        scored(8, 14.0, 100, **{FINAL: 1}),  # by the final scorer, with as many samples
    ]
    curve = Curves(lambda _: lines).along("a", "wasserstein", "fid")
    assert curve.steps == (2, 4)
    assert curve.values == {"wasserstein": (4.0, 3.0), "fid": (30.0, 20.0)}
    assert curve.how == (("fid_generated", 100),)
    assert Curves(lambda _: lines).along("a", "fid").steps == (2, 4, 6)


FASTER = {"faster": {"loss": "wgan_div"}, "than": {"loss": "wgan_gp"}, "to": "fid <= 30"}


def reaching(at: int | None, steps: int = 10, every: int = 10, **more: float) -> list[dict[str, float]]:
    """Return the lines of a run whose FID is 30 from a scored step on."""
    return [
        {"step": every * n, "fid": 30.0 if at is not None and every * n >= at else 31.0, **more}
        for n in range(1, steps + 1)
    ]


@pytest.mark.parametrize(
    ("status", "reached", "verdict"),
    [
        ("done", 10, Verdict.UNDECIDED),
        ("diverged", 10, Verdict.UNDECIDED),
        ("diverged", None, Verdict.SUPPORTED),
    ],
)
def test_runs_that_are_not_timed_forbid_that_others_are_faster(
    tmp_path: Path, status: str, reached: int | None, verdict: Verdict
) -> None:
    """Some rivals may reach the goal first: finished ones without a value, or lost ones in a cell of their own."""
    timed = (
        of_loss("wgan_div", [1.0] * 8) + of_loss("wgan_gp", [1.0] * 8) + of_loss("wgan_gp", [1.0] * 8, sampling="real")
    )
    entry = {"faster": {"loss": "wgan_div"}, "than": {"loss": "wgan_gp"}, "to": "fid <= 30"}
    lines = [reaching(40)] * 8 + [reaching(90)] * 16
    assert judge_one(entry, timed, tmp_path, curves_of(timed, lines)).verdict == Verdict.SUPPORTED
    fid = math.inf if status == "done" else None
    others = [record(fid, status=status, loss="wgan_gp", sampling="fake", seed=seed) for seed in range(8)]
    curves = curves_of([*timed, *others], [*lines, *[reaching(reached, steps=5)] * 8])
    assert judge_one(entry, [*timed, *others], tmp_path, curves).verdict == verdict


def race(own: list[int | None], rivals: list[int | None]) -> tuple[list[Record], Curves]:
    records = [*of_loss("wgan_div", [1.0] * len(own)), *of_loss("wgan_gp", [1.0] * len(rivals))]
    return records, curves_of(records, [reaching(at) for at in [*own, *rivals]])


def test_runs_that_reach_a_value_sooner(tmp_path: Path) -> None:
    records, curves = race([10, 20, 30, 20, 20, 20], [40, 80, 80, 80, None, None])
    judgement = judge_one(FASTER, records, tmp_path, curves)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.p_for == pytest.approx(1 / 64)
    assert judgement.evidence is not None
    assert judgement.evidence.low == pytest.approx(math.log(40 / 20))
    assert judgement.details[0] == (
        "fid <= 30 is reached by 6 of 6 runs (median 20 steps), against 4 of 6 runs (median 80 steps)"
    )
    swapped = {**FASTER, "faster": FASTER["than"], "than": FASTER["faster"]}
    assert judge_one(swapped, records, tmp_path, curves).verdict == Verdict.CONTRADICTED
    unreached = {**FASTER, "to": "fid < 30"}
    assert judge_one(unreached, records, tmp_path, curves).verdict == Verdict.UNDECIDED
    records, curves = race([10, 20, 30], [80, 90, 90])
    judgement = judge_one(FASTER, records, tmp_path, curves)
    assert judgement.verdict == Verdict.UNDECIDED
    assert judgement.seeds_to_decide == 6


def test_times_are_compared_in_hours_of_runs_and_of_their_gpus(tmp_path: Path) -> None:
    """The rivals take ten times as many steps, and a hundredth of the time per step."""
    records, curves = race([10] * 6, [100, 90, 90, 90, 90, 100])
    for item in records:
        item.step, item.seconds, item.host = (
            100,
            36000.0 if item.config["choices"]["loss"] == "wgan_div" else 360.0,
            "a",
        )
    assert judge_one(FASTER, records, tmp_path, curves).verdict == Verdict.SUPPORTED
    judgement = judge_one({**FASTER, "in_units_of": "hours"}, records, tmp_path, curves)
    assert judgement.verdict == Verdict.CONTRADICTED
    assert judgement.evidence is not None
    assert judgement.evidence.effect == pytest.approx(math.log(0.095 / 1), abs=0.06)
    assert "6 of 6 runs (median 1 hours), against 6 of 6 runs (median 0.09 hours)" in judgement.details[0]
    for item in records[6:]:
        item.config["launch"], item.host = {"gpus_per_run": 1000}, "b"
    judgement = judge_one({**FASTER, "in_units_of": "gpu_hours"}, records, tmp_path, curves)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.details[0].endswith(
        "(median 1 gpu hours), against 6 of 6 runs (median 90 gpu hours); they ran on 2 hosts, whose speeds may differ"
    )
    records[0].seconds = 0.0
    judgement = judge_one({**FASTER, "in_units_of": "hours"}, records, tmp_path, curves)
    assert judgement.why == "a run has no record of its duration, which hours need"


def test_a_lost_run_reaches_a_value_before_it_is_lost_or_never(tmp_path: Path) -> None:
    first, second = [10, 20, 30, 30, 30], [40, 80, 90, 90, 90, 90]
    records, _ = race(first, second)
    lines = [reaching(at) for at in (*first, *second)]
    lost = record(None, status="diverged", loss="wgan_div", seed=8)

    def with_lost(own: list[dict[str, float]]) -> claims.Judgement:
        return judge_one(FASTER, [*records, lost], tmp_path, curves_of([*records, lost], [*lines, own]))

    judgement = with_lost(reaching(20, steps=3))
    assert judgement.lost == (1, 0)
    assert judgement.p_for == pytest.approx(1 / 64)
    assert judgement.verdict == Verdict.SUPPORTED
    judgement = with_lost(reaching(None, steps=3))
    assert judgement.p_for is not None
    assert judgement.p_for > 0.1  # it is later than all six
    assert judgement.verdict == Verdict.UNDECIDED


def test_runs_that_are_lost_are_later_than_those_that_reach_a_value_at_the_last_step(tmp_path: Path) -> None:
    """A finished run without the value may have been about to reach it: all of its pairs count against the claim."""
    records, _ = race([100] * 6, [None] * 2)
    lost = [record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(2, 6)]
    lines = [*[reaching(100)] * 6, *[reaching(None)] * 2, *[reaching(None, steps=3)] * 4]
    judgement = judge_one(FASTER, [*records, *lost], tmp_path, curves_of([*records, *lost], lines))
    assert judgement.p_for == pytest.approx(float(p_value(np.array(12), 6, 6)))
    assert judgement.p_against == 1


def test_a_cell_of_which_all_runs_are_lost_is_not_claimed_to_be_sooner(tmp_path: Path) -> None:
    own = [item for sampling in ("real_fake", "fake") for item in of_loss("wgan_div", [1.0] * 6, sampling=sampling)]
    records = [*own, *of_loss("wgan_gp", [1.0] * 6)]
    late = [50, 60, 70, 80, 80, 80]
    curves = curves_of(records, [reaching(at) for at in [10] * 12 + late])
    assert judge_one(FASTER, records, tmp_path, curves).verdict == Verdict.SUPPORTED
    lost = record(None, status="failed", loss="wgan_div", sampling="mixture", seed=0)
    lines = [*[reaching(10)] * 12, *[reaching(at) for at in late], []]
    judgement = judge_one(FASTER, [*records, lost], tmp_path, curves_of([*records, lost], lines))
    assert "without lost runs it would be supported" in judgement.why


def test_times_are_compared_at_the_steps_at_which_all_were_scored(tmp_path: Path) -> None:
    """The rivals were scored twice as often: that one of them reaches the value at step 15 is not known of others."""
    records, _ = race([None] * 4, [None] * 4)
    lines = [*[reaching(20)] * 4, *[reaching(15, every=5, steps=20)] * 4]
    judgement = judge_one(FASTER, records, tmp_path, curves_of(records, lines))
    assert judgement.evidence is not None
    assert judgement.evidence.effect == 0
    assert judgement.p_for == judgement.p_against == 1
    assert "4 of 4 runs (median 20 steps), against 4 of 4 runs (median 20 steps)" in judgement.details[0]


def test_curves_are_those_of_trained_runs(make, planned_fids) -> None:
    planned_fids(20.0, 30.0, 25.0, 22.0)
    config = make("loss=wgan_gp", "scorer.every=2")
    trained = run(config)
    curves = Curves.in_folder(Path(config.runs))
    curve = curves.along(trained.run_id, "wasserstein", "fid")
    assert (curve.steps, curve.values["fid"]) == ((2, 4, 6), (20.0, 30.0, 25.0))
    assert curves.along(trained.run_id, *TRAINING).steps == (2, 3, 4, 6)  # saved at 3 and 6
    logged = {line["step"]: line["wasserstein"] for line in directory_of(config).read_metrics() if "fid" not in line}
    assert curve.values["wasserstein"] == tuple(logged[step] for step in curve.steps)


def test_times_of_runs_that_were_scored_differently_are_not_compared(tmp_path: Path) -> None:
    records, _ = race([10] * 4, [90] * 4)

    def why(last: list[dict[str, float]]) -> str:
        lines = [*[reaching(10, fid_generated=500)] * 4, *[reaching(90, fid_generated=500)] * 3, last]
        return judge_one(FASTER, records, tmp_path, curves_of(records, lines)).why

    assert why(reaching(90, fid_generated=500)) == ""
    assert why(reaching(90, fid_generated=900)).startswith("its runs were scored in different ways during training")
    assert why(reaching(90, every=5, steps=20, fid_generated=500)) == ""
    assert why(reaching(90, every=99, steps=4)).startswith("its runs have fid at fewer than 2 common steps: score all")
    assert why(reaching(90, steps=1)).startswith("its runs have fid at fewer than 2 common steps: score all")
    judgement = judge_one({**FASTER, "to": "kid < 1"}, records, tmp_path, curves_of(records, [reaching(10)] * 8))
    assert judgement.why.startswith("no run has measured kid along its curve")


def test_claims_with_the_same_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    entry = {"claim": "mine", "equal": {"loss": "wgan"}, "within": 1}
    path.write_text(json.dumps({"claims": [entry, {**entry, "within": 2}]}))
    with pytest.raises(InputError, match="several claims are named 'mine': give each a name of its own"):
        read_claims(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"lower": {"los": "wgan"}, "than": {"loss": "wgan"}}, "'los' is not an axis; did you mean loss"),
        ({"lower": {"div.k": 1, "train.batch": 3}, "than": {"k": 2}}, "'k' is not an axis; did you mean div.k"),
        ({"equal": {"loss": "wgan"}, "within": 0}, "within=0 is not a positive number"),
        ({"equal": {"loss": "wgan"}, "within": True}, "within=True is not a positive number"),
        ({"rises_with": "divk", "in": {"loss": "wgan"}}, "rises_with: 'divk' is not an axis; did you mean div"),
        ({"correlates": "wasserstein", "with": "fid", "in": {"loss": "wgan"}, "above": 1}, "above=1 is not a correlat"),
        ({"correlates": "wasserstein", "with": "fid", "in": {"loss": "wgan"}, "below": True}, "below=True is not a c"),
        ({"correlates": "fid", "with": "fid", "in": {"loss": "wgan"}}, "correlates and with are both fid: name two"),
        ({"correlates": ["fid"], "with": "w1", "in": {"loss": "wgan"}}, r"correlates=\['fid'\] is not a text"),
        ({"faster": {"loss": "wgan"}, "than": {"loss": "x"}, "to": "fid 30"}, "to='fid 30' is none of: METRIC < NUM"),
        (
            {"faster": {"loss": "wgan"}, "than": {"loss": "x"}, "to": "fid<=3", "in_units_of": "days"},
            "in_units_of='days' is none of: steps, hours, gpu_hours",
        ),
        ({**BEST, "pruned": "best"}, "pruned='best' is not worst"),
        (
            {"equal": {"loss": "wgan"}, "within": 1, "pruned": "worst"},
            "pruned: worst is for claims about lower, higher",
        ),
        ({**BEST, "paired": True}, "paired=True is not seed"),
        (
            {"event": "lost", "rarer_in": {"loss": "a"}, "than_in": {"loss": "b"}, "paired": "seed"},
            "paired: seed is for claims about means, not about events",
        ),
        ({"lower": {}, "than": {"loss": "wgan"}}, "lower={} is not a mapping of axes to values"),
    ],
)
def test_a_wrong_claim_is_refused_with_the_key_and_the_value(tmp_path: Path, entry: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge_one(entry, [], tmp_path)


def write(folder: Path, records: list[Record]) -> Path:
    for item in records:
        item.config["scorer"] = {}
        write_record(RunDir(folder / item.run_id), item)
    return folder


def test_the_command_judges_a_users_claims(tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "claims:\n- {claim: small k is worse, higher: {div.k: 1.0, div.p: 2}, than: {div.k: 2, div.p: 6}}\n"
    )
    runs = write(tmp_path / "runs", kp_grid(10, 20))
    command.main([str(runs), "--claims", str(path)])
    output = capsys.readouterr().out
    assert "small k is worse" in output
    assert "supported" in output
    command.main([str(runs), "--claims", "--format", "json"])
    entries = json.loads(capsys.readouterr().out)
    assert [entry["verdict"] for entry in entries] == ["supported", "undecided", "undecided"]
    assert len(entries[0]["runs"]) == 12


def test_the_command_reads_the_curves_of_runs(tmp_path: Path, capsys) -> None:
    """From a folder, and from an archive of it; as JSON and on a page, too."""
    records = of_loss("wgan_div", [1.0] * 6)
    runs = write(tmp_path / "runs", records)
    for item in records:
        for line in falling(8):
            append_metrics(RunDir(runs / item.run_id), line)
    (tmp_path / "mine.yaml").write_text(json.dumps({"claims": [{"claim": "follows", **CORRELATED}]}))
    options = ["--claims", str(tmp_path / "mine.yaml")]
    command.main([str(runs), *options])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| follows"))
    assert [cell.strip() for cell in row.split("|")][3:5] == ["supported", "0.9881 [0.9881, 0.9881]"]
    write_archive(tmp_path / "a.jsonl.gz", runs, records)
    command.main([str(tmp_path / "a.jsonl.gz"), *options, "--format", "json"])
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["verdict"], entry["evidence"]["p_for"]) == ("supported", 1 / 64)
    command.main([str(runs), *options, "--format", "html", "-o", str(tmp_path / "x.html")])
    assert "mean rank correlation along runs" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "nothing: 1\n",
        "claims:\n",
        "claims: 3\n",
        "[1, 2]\n",
        "claims: [{claim: x}]\n",
        "claims: [{claim: x, lower: 3, than: {loss: y}}]\n",
        "claims: [{\n",
    ],
)
def test_a_malformed_file_of_claims_is_an_input_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="claims"):
        read_claims(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claim: [{claim: x}]\n", "has no key `claims`, but claim; "),
        ("", "has no key `claims`; "),
        ("claims: 3\n", "`claims` must be a list of claims, got 3"),
        ("claims: [x]\n", "a claim must be a mapping with the key `claim`, got 'x'"),
        (
            "claims: [{claim: x, lowr: {loss: a}, than: {loss: b}}]\n",
            "the claim 'x': there is no key 'lowr'; did you mean lower?",
        ),
        (
            "claims: [{claim: x, rises_with: div.k}]\n",
            "the claim 'x' has the keys claim, rises_with: give claim, rises_with, in (",
        ),
    ],
)
def test_a_malformed_claim_is_named_with_its_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_claims(path)
    assert message in str(refusal.value)
    assert str(refusal.value).count(str(path)) == 1


def test_a_missing_file_of_claims_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file.*is an example of a file of claims"):
        read_claims(tmp_path / "none.yaml")


@pytest.mark.parametrize("pruned", [{}, {"pruned": "worst"}])
def test_a_value_that_no_run_has_is_named(tmp_path: Path, pruned: dict) -> None:
    records = of_loss("wgan_gp", [1.0, 2.0]) + of_loss("wgan", [3.0, 4.0])
    sides = {"lower": {"loss": ["wgan", "wgan_gpp"]}, "than": {"loss": "wgan"}}
    judgement = judge_one({**sides, **pruned}, records, tmp_path)
    assert judgement.why == (
        "no runs on both sides of the comparison: no run with a value has loss=wgan_gpp; did you mean wgan_gp?"
    )


def test_the_sides_of_a_claim_differ_in_what_it_does_not_name(tmp_path: Path) -> None:
    records = rx_grid(FLAT, WIDE)  # the divergence with a learning rate of 2e-4, the penalty with 1e-4
    for record_ in records:
        is_divergence = record_.config["choices"]["loss"] == "wgan_div"
        record_.config["choices"]["optimizer"] = "adam" if is_divergence else "adam_gp"  # the same class
        record_.config["train"]["n_critic"] = 4 if is_divergence else 5
        record_.config["constraint"] = {"_target_": "x.none" if is_divergence else "x.gradient_penalty"}
    worst = {"lower": {"loss": "wgan_div"}, "than": {"loss": "wgan_gp"}}
    spread = {"spread_of": "sampling", "less_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    rarer = {"event": "fid > 24", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    both = "the two sides also differ in train.n_critic (4, against 5); optimizer.lr (0.0002, against 0.0001)"
    for claim in (worst, spread, rarer):
        assert judge_one(claim, records, tmp_path).details == (both,)
    faster = {"faster": {"loss": "wgan_div"}, "than": {"loss": "wgan_gp"}, "to": "fid <= 50"}
    curves = curves_of(records, [falling(8) for _ in records])
    assert judge_one(faster, records, tmp_path, curves).details[-1] == both
    named = {"lower": {"loss": "wgan_div", "optimizer.lr": 2e-4}, "than": {"loss": "wgan_gp", "optimizer.lr": 1e-4}}
    assert judge_one(named, records, tmp_path).details == (
        "the two sides also differ in train.n_critic (4, against 5)",
    )
    by_sampling = {"lower": {"sampling": "fake"}, "than": {"sampling": "real"}}
    assert judge_one(by_sampling, records[:15] + records[33:], tmp_path).details == (
        f"the two sides also differ in loss (wgan_div, against wgan_gp); {both.partition(' in ')[2]}",
    )
    by_critic = {"lower": {"loss": "wgan_div", "critic_optimizer.lr": 2e-4}, "than": {"critic_optimizer.lr": 1e-4}}
    assert judge_one(by_critic, records, tmp_path).details == (both,)
    for record_ in records:
        if record_.config["choices"]["optimizer"] == "adam_gp":
            record_.config["choices"]["optimizer"] = "rmsprop"
            record_.config["optimizer"] = {"_target_": "z", "lr": 2e-4}
    assert judge_one(worst, records, tmp_path).details == (
        "the two sides also differ in optimizer (adam, against rmsprop); train.n_critic (4, against 5)",
    )
    within_one_loss = {"lower": {"div.k": 2, "div.p": 6}, "than": {"loss": "wgan_div"}}
    assert judge_one(within_one_loss, kp_grid(10, 20), tmp_path).details == ()


def test_axes_that_are_swept_alike_on_both_sides_are_no_difference(tmp_path: Path) -> None:
    records = [
        record(fid + seed / 10, loss=loss, lr=lr, seed=seed)
        for loss, fid in (("wgan_div", 10.0), ("wgan_div_su", 20.0))
        for lr in (1e-4, 2e-4)
        for seed in range(3)
    ]
    claim = {"lower": {"loss": "wgan_div"}, "than": {"loss": "wgan_div_su"}}
    assert judge_one(claim, records, tmp_path).details == ()
