"""Claims: what runs say of them, and when they say nothing."""

import json
from pathlib import Path

import pytest

from wgan_sweep.commands import report as command
from wgan_sweep.errors import InputError
from wgan_sweep.report import claims
from wgan_sweep.report.claims import PUBLISHED, Verdict, judge, read
from wgan_sweep.runs.directory import Record, RunDir

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
LOWEST, SPREAD, WORST = read(PUBLISHED)


def verdicts(found: list[Record]) -> list[Verdict]:
    return [one.verdict for one in judge(read(PUBLISHED), found)]


def test_the_papers_claims_are_supported_by_runs_that_show_them_and_contradicted_by_their_opposite() -> None:
    assert verdicts(kp_grid(10, 20) + rx_grid(FLAT, WIDE)[18:])[0] == Verdict.SUPPORTED
    assert verdicts(rx_grid(FLAT, WIDE)) == [Verdict.UNDECIDED, Verdict.SUPPORTED, Verdict.SUPPORTED]
    assert verdicts(kp_grid(30, 20))[0] == Verdict.CONTRADICTED
    assert verdicts(rx_grid(WIDE, FLAT))[1:] == [Verdict.CONTRADICTED, Verdict.CONTRADICTED]


def test_close_means_are_undecided_and_more_seeds_of_them_decide() -> None:
    (one, *_) = judge([LOWEST], kp_grid(20.6, 20))
    assert one.verdict == Verdict.UNDECIDED
    assert one.evidence is not None
    assert one.evidence.seeds is not None
    needed = one.evidence.seeds
    assert needed > 3
    assert judge([LOWEST], kp_grid(20.6, 20, NOISE * needed))[0].verdict == Verdict.SUPPORTED


def test_one_seed_decides_nothing_however_clear() -> None:
    found = kp_grid(1, 1000, noise=(0.0,)) + rx_grid([1.0] * 6, [1000.0 * n for n in range(1, 7)], noise=(0.0,))
    judged = judge(read(PUBLISHED), found)
    assert {one.verdict for one in judged} == {Verdict.UNDECIDED}
    assert all("one seed" in one.why for one in judged)
    # Nor does one cell of one seed among others of three.
    found = kp_grid(1, 1000)
    assert judge([LOWEST], found[:-2])[0].verdict == Verdict.UNDECIDED


def test_many_judgements_need_more_each() -> None:
    close = kp_grid(19.3, 20)
    (alone,) = judge([LOWEST], close)
    assert alone.verdict == Verdict.SUPPORTED
    assert alone.p_for is not None
    others = [claims.Lower(f"no {n}", {"div.k": 1, "div.p": 2}, {"div.k": 1, "div.p": 6}) for n in range(30)]
    first, *_ = judge([LOWEST, *others], close)
    assert first.p_for == pytest.approx(min(1, 31 * alone.p_for))
    assert first.verdict == Verdict.UNDECIDED


def test_a_run_that_diverged_is_not_left_out_of_a_mean_without_a_word() -> None:
    good = kp_grid(10, 20)
    (one,) = judge([LOWEST], [*good, record(None, status="diverged", loss="wgan_div", k=2.0, p=6.0, seed=8)])
    assert one.verdict == Verdict.UNDECIDED
    assert one.lost == 1
    assert "diverged" in one.why
    assert "(1 lost)" in claims.to_markdown([one], "fid")
    (one,) = judge([LOWEST], [*good, record(None, status="diverged", loss="wgan_div", k=1.0, p=6.0, seed=8)])
    assert one.verdict == Verdict.SUPPORTED  # a rival did


def test_a_copy_of_a_run_and_a_score_that_is_no_number_are_no_seeds() -> None:
    one_seed = kp_grid(10, 20, noise=(0.0,))
    copies = kp_grid(10, 20, noise=(0.1,))
    (one,) = judge([LOWEST], one_seed + copies)
    assert one.seeds == 1
    (one,) = judge([LOWEST], kp_grid(10, 20, noise=(0.0, float("nan"))))
    assert one.seeds == 1


def test_a_spread_is_of_one_axis_only() -> None:
    found = rx_grid(FLAT, WIDE)
    found += [
        record(mean + 90 + e, k=10.0, sampling=s, seed=n)
        for s, mean in zip(SCHEMES, FLAT, strict=True)
        for n, e in enumerate(NOISE)
    ]
    loose = claims.SpreadsLess("x", "sampling", {"loss": "wgan_div"}, {"loss": "wgan_gp"})
    (one,) = judge([loose], found)
    assert one.verdict == Verdict.UNDECIDED
    assert "name more axes" in one.why
    assert judge([SPREAD], found)[0].verdict == Verdict.SUPPORTED


def test_only_what_can_be_compared_is_compared() -> None:
    """Other counts, and runs without a score, are no evidence."""
    good = kp_grid(10, 20)
    other = [record(1.0, loss="wgan_div", k=1.0, p=2.0, seed=s, counts=(2048, 50000, 5000)) for s in (5, 6, 7)]
    failed = [record(None, status="diverged", loss="wgan_div", k=1.0, p=2.0, seed=8)]
    (one,) = judge([LOWEST], good + other + failed)
    assert one.verdict == Verdict.SUPPORTED
    assert set(one.runs) == {r.run_id for r in good}


def test_each_setting_is_judged_on_its_own() -> None:
    def on(name: str, found: list[Record]) -> list[Record]:
        for one in found:
            one.config["choices"]["data"] = name
        return found

    judged = judge([LOWEST], on("cifar10", kp_grid(10, 20)) + on("celeba", kp_grid(30, 20)))
    assert [(one.verdict, "data=cifar10" in one.setting) for one in judged] == [
        (Verdict.SUPPORTED, True),
        (Verdict.CONTRADICTED, False),
    ]


def test_a_claim_without_runs_is_undecided_and_says_so() -> None:
    (one,) = judge([SPREAD], kp_grid(10, 20))
    assert one.verdict == Verdict.UNDECIDED
    assert "no two sides" in one.why


def write(folder: Path, found: list[Record]) -> Path:
    for one in found:
        one.config["scorer"] = {}
        RunDir(folder / one.run_id).write_record(one)
    return folder


def test_the_command_judges_a_users_claims(tmp_path: Path, capsys) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "claims:\n- {claim: small k is worse, higher: {div.k: 1.0, div.p: 2}, than: {div.k: 2, div.p: 6}}\n"
    )
    runs = write(tmp_path / "runs", kp_grid(10, 20))
    command.main([str(runs), "--claims", str(mine)])
    said = capsys.readouterr().out
    assert "small k is worse" in said
    assert "supported" in said
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
def test_what_is_no_claim_is_refused_with_the_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="claims"):
        read(path)
