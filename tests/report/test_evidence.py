"""Tests of means and spreads: against SciPy, and against their nominal error rates and power by simulation."""

import numpy as np
import pytest
from scipy import stats

from wgan_sweep.report.evidence import (
    LEVEL,
    POWER,
    every_mean_lower,
    holm,
    seeds_for_a_difference,
    spread_less,
)


def test_holm_matches_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_pair_is_compared_by_welchs_test() -> None:
    lower, higher = [1.0, 2.0, 4.0], [5.0, 5.5, 9.0, 7.0]
    evidence = every_mean_lower([lower], [higher])
    expected = stats.ttest_ind(higher, lower, equal_var=False)
    assert evidence.effect == pytest.approx(np.mean(higher) - np.mean(lower))
    assert evidence.p_for == pytest.approx(expected.pvalue / 2)
    assert evidence.p_against == pytest.approx(1 - expected.pvalue / 2)
    assert (evidence.low, evidence.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_closest_pair_decides() -> None:
    lower, higher = [[1.0, 1.1, 0.9], [2.0, 2.2, 1.8]], [[5.0, 5.1, 4.9], [2.5, 2.9, 2.1]]
    evidence = every_mean_lower(lower, higher)
    assert evidence.effect == pytest.approx(0.5)
    assert evidence.p_for == pytest.approx(every_mean_lower(lower[1:], higher[1:]).p_for)
    assert every_mean_lower(higher, lower).p_against < LEVEL


def test_identical_values_in_both_cells_decide_nothing() -> None:
    evidence = every_mean_lower([[1.0, 1.0]], [[2.0, 2.0]])
    assert evidence.p_for == evidence.p_against == 1
    assert evidence.seeds is None
    assert every_mean_lower([[1.0, 1.0, 1.0]], [[2.0, 2.1, 1.9]]).p_for < LEVEL


def test_the_recommended_seeds_are_the_fewest_with_the_nominal_power() -> None:
    """Cohen's d = 1: 14 of each for a one-sided test at 0.05 with power 0.8 (Cohen 1988, table 2.4.1)."""
    assert seeds_for_a_difference(1.0, 1.0) == 14
    rng = np.random.default_rng(0)

    def power(count: int) -> float:
        lower, higher = rng.normal(0, 1, (4000, count)), rng.normal(1.5, 1, (4000, count))
        return float(np.mean(stats.ttest_ind(higher, lower, axis=1, alternative="greater").pvalue < LEVEL))

    seeds = seeds_for_a_difference(-1.5, 1.0)
    assert seeds is not None
    assert power(seeds) > POWER - 0.02
    assert power(seeds - 1) < POWER + 0.02
    assert seeds_for_a_difference(0.001, 1.0) is None


def cells(rng: np.random.Generator, means: list[float], sd: float, seeds: int = 3) -> list[list[float]]:
    return [list(rng.normal(mean, sd, seeds)) for mean in means]


FLAT = [0.0] * 6
WIDE = [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0]


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from wgan_sweep.report import evidence

    monkeypatch.setattr(evidence, "DRAWS", 1000)
    monkeypatch.setattr(evidence, "_smallest", lambda _: None)


@pytest.mark.parametrize(("narrow", "wide"), [(FLAT, FLAT), (WIDE, WIDE), (WIDE, WIDE[::-1])])
@pytest.mark.parametrize("noise", [(1.0, 1.0), (0.5, 2.0), (2.0, 0.5)])
def test_equal_spreads_are_rarely_told_apart_whatever_their_noise(narrow, wide, noise, few_draws) -> None:
    rng = np.random.default_rng(1)
    results = [spread_less(cells(rng, narrow, noise[0]), cells(rng, wide, noise[1])) for _ in range(200)]
    for p in ([evidence.p_for for evidence in results], [evidence.p_against for evidence in results]):
        assert np.mean(np.array(p) < LEVEL) <= 0.09  # 0.05, and two standard errors of 200 draws


def test_a_larger_spread_is_detected_and_its_size_is_in_the_interval(few_draws) -> None:
    rng = np.random.default_rng(2)
    results = [spread_less(cells(rng, FLAT, 1.0), cells(rng, WIDE, 1.0)) for _ in range(100)]
    assert np.mean([evidence.p_for < LEVEL for evidence in results]) > 0.9
    truth = np.std(WIDE, ddof=1)
    assert np.mean([evidence.low <= truth <= evidence.high for evidence in results]) > 0.85
    assert np.mean([evidence.effect for evidence in results]) == pytest.approx(truth, abs=0.5)
    opposite = [spread_less(cells(rng, WIDE, 1.0), cells(rng, FLAT, 1.0)) for _ in range(50)]
    assert np.mean([evidence.p_against < LEVEL for evidence in opposite]) > 0.9


def test_closer_spreads_need_more_seeds() -> None:
    rng = np.random.default_rng(3)
    near = spread_less(cells(rng, FLAT, 1.0), cells(rng, [mean / 4 for mean in WIDE], 1.0))
    far = spread_less(cells(rng, FLAT, 1.0), cells(rng, WIDE, 1.0))
    assert far.seeds is not None
    assert near.seeds is None or near.seeds > far.seeds >= 2
