"""Claims: their verdicts on simulated runs, and the conditions under which they stay undecided."""

import json
from pathlib import Path

import pytest

from wgan_sweep.commands import report as command
from wgan_sweep.errors import InputError
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
    others = [claims.Lower(f"no {n}", {"div.k": 1, "div.p": 2}, {"div.k": 1, "div.p": 6}) for n in range(30)]
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
    loose = claims.SpreadsLess("x", "sampling", {"loss": "wgan_div"}, {"loss": "wgan_gp"})
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
