"""Claims: their verdicts on simulated runs, and the conditions under which they stay undecided."""

import json
from pathlib import Path

import pytest

from wgan_sweep.commands import report as command
from wgan_sweep.errors import InputError
from wgan_sweep.report import claim_kinds as kinds
from wgan_sweep.report import claims
from wgan_sweep.report.claims import PUBLISHED, Verdict, judge, read_claims
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record

from ..helpers import write_record
from .test_report import record

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


def test_p_values_are_adjusted_for_the_number_of_judgements() -> None:
    close = kp_grid(18.6, 20)
    (alone,) = judge([LOWEST], close)
    assert alone.verdict == Verdict.SUPPORTED
    assert alone.p_for is not None
    others = [kinds.Lower(f"no {n}", {"div.k": 1, "div.p": 2}, {"div.k": 1, "div.p": 6}) for n in range(30)]
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
    loose = kinds.SpreadsLess("x", "sampling", {"loss": "wgan_div"}, {"loss": "wgan_gp"})
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


def test_a_claim_without_runs_is_undecided() -> None:
    (judgement,) = judge([SPREAD], kp_grid(10, 20))
    assert judgement.verdict == Verdict.UNDECIDED
    assert "no runs on both sides" in judgement.why


def of_loss(loss: str, values: list[float], **choices) -> list[Record]:
    return [record(value, loss=loss, seed=seed, **choices) for seed, value in enumerate(values)]


def ask(entry: dict, records: list[Record], tmp_path: Path) -> claims.Judgement:
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"claims": [{"claim": "c", **entry}]}))
    (judgement,) = judge(read_claims(path), records)
    return judgement


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


def test_the_lowest_cell_and_all_that_may_be_it(tmp_path: Path) -> None:
    records = kp_grid(10, 20)  # k=2, p=6 at 10, others at 20 + k
    judgement = ask({"lowest": {"div.k": 2, "div.p": 6}, "among": {"loss": "wgan_div"}}, records, tmp_path)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.details == ("cells that may be the best (95%): div.k=2 div.p=6",)
    judgement = ask({"lowest": {"div.k": 1, "div.p": 6}, "among": {"loss": "wgan_div"}}, records, tmp_path)
    assert judgement.verdict == Verdict.CONTRADICTED
    assert judgement.details == ("cells that may be the best (95%): div.k=2 div.p=6",)
    judgement = ask({"highest": {"div.k": 2, "div.p": 2}, "among": {"loss": "wgan_div"}}, records, tmp_path)
    assert judgement.verdict == Verdict.UNDECIDED  # k=2, p=2 and k=2, p=6 differ; k=1 is 1 lower, and noisy
    assert "div.k=2 div.p=2" in judgement.details[0]
    assert "div.k=2 div.p=6" not in judgement.details[0]


def test_means_are_equal_within_a_margin_or_not(tmp_path: Path) -> None:
    records = rx_grid(FLAT, WIDE, NOISE * 2)
    equal = {"equal": {"loss": "wgan_div"}}
    assert ask({**equal, "within": 6}, records, tmp_path).verdict == Verdict.SUPPORTED
    assert ask({**equal, "within": 1}, records, tmp_path).verdict == Verdict.UNDECIDED
    assert ask({"equal": {"loss": "wgan_gp"}, "within": 6}, records, tmp_path).verdict == Verdict.CONTRADICTED
    lost = record(None, status="diverged", loss="wgan_div", sampling="fake")
    assert ask({**equal, "within": 6}, [*records, lost], tmp_path).verdict == Verdict.UNDECIDED


def test_a_list_selects_the_cells_of_each_of_its_values(tmp_path: Path) -> None:
    records = rx_grid(FLAT, WIDE, NOISE * 2)
    both = ask({"equal": {"loss": ["wgan_div", "wgan_gp"]}, "within": 30}, records, tmp_path)
    assert both.verdict == Verdict.SUPPORTED
    assert both.evidence is not None
    difference = 30 - both.evidence.effect
    assert difference == pytest.approx(max(WIDE) - min(FLAT), abs=0.5)
    one = ask({"equal": {"loss": ["wgan_div", "wgan"]}, "within": 6}, records, tmp_path)
    assert one == ask({"equal": {"loss": "wgan_div"}, "within": 6}, records, tmp_path)


def test_means_rise_or_fall_along_an_axis(tmp_path: Path) -> None:
    records = [record(10 * k + e, k=k, seed=seed) for k in (0.5, 1.0, 2.0, 10.0) for seed, e in enumerate(NOISE)]
    within = {"in": {"loss": "wgan_div"}}
    assert ask({"rises_with": "div.k", **within}, records, tmp_path).verdict == Verdict.SUPPORTED
    assert ask({"falls_with": "div.k", **within}, records, tmp_path).verdict == Verdict.CONTRADICTED
    more = [record(70 + e, k=1.0, p=2.0, seed=seed) for seed, e in enumerate(NOISE)]
    judgement = ask({"rises_with": "div.k", **within}, records + more, tmp_path)
    assert "several cells have div.k=1" in judgement.why


def test_an_event_is_rarer_among_runs_of_one_kind(tmp_path: Path) -> None:
    """With 0 of 8 against 6 of 8 lost, Fisher's one-sided p is C(8, 2) C(8, 0).../C(16, 6) = 28 / 8008."""
    good = of_loss("wgan_div", [1.0] * 8)
    bad = of_loss("wgan_gp", [1.0, 1.0]) + [
        record(None, status="diverged", loss="wgan_gp", seed=seed) for seed in range(2, 8)
    ]
    entry = {"event": "lost", "rarer_in": {"loss": "wgan_div"}, "than_in": {"loss": "wgan_gp"}}
    judgement = ask(entry, good + bad, tmp_path)
    assert judgement.verdict == Verdict.SUPPORTED
    assert judgement.p_for == pytest.approx(28 / 8008)
    assert judgement.evidence is not None
    assert judgement.evidence.effect == float("inf")
    assert ask({**entry, "event": "failed"}, good + bad, tmp_path).verdict == Verdict.UNDECIDED
    high = of_loss("wgan_gp", [9.0] * 8)
    assert ask({**entry, "event": "fid > 5"}, good + high, tmp_path).verdict == Verdict.SUPPORTED
    assert ask({**entry, "event": "fid < 5"}, good + high, tmp_path).verdict == Verdict.CONTRADICTED
    with pytest.raises(InputError, match=r"event 'fid ~ 5' is none of"):
        ask({**entry, "event": "fid ~ 5"}, good, tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"lower": {"los": "wgan"}, "than": {"loss": "wgan"}}, "'los' is no axis; did you mean loss"),
        ({"lower": {"div.k": 1, "train.batch": 3}, "than": {"k": 2}}, "'k' is no axis; did you mean div.k"),
        ({"equal": {"loss": "wgan"}, "within": 0}, "within=0 is not a positive number"),
        ({"equal": {"loss": "wgan"}, "within": True}, "within=True is not a positive number"),
        ({"rises_with": "divk", "in": {"loss": "wgan"}}, "rises_with: 'divk' is no axis; did you mean div"),
        ({"lower": {}, "than": {"loss": "wgan"}}, "lower={} is not a mapping of axes to values"),
    ],
)
def test_a_wrong_claim_is_refused_with_the_key_and_the_value(tmp_path: Path, entry: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(entry, [], tmp_path)


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
