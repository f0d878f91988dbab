"""Tests of means and spreads: against SciPy's own, and against what they promise (error rates, power) by simulation."""

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


def test_holm_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_pair_is_welchs_test() -> None:
    one, other = [1.0, 2.0, 4.0], [5.0, 5.5, 9.0, 7.0]
    found = every_mean_lower([one], [other])
    wanted = stats.ttest_ind(other, one, equal_var=False)
    assert found.effect == pytest.approx(np.mean(other) - np.mean(one))
    assert found.p_for == pytest.approx(wanted.pvalue / 2)
    assert found.p_against == pytest.approx(1 - wanted.pvalue / 2)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))


def test_of_many_pairs_the_closest_one_counts() -> None:
    these, those = [[1.0, 1.1, 0.9], [2.0, 2.2, 1.8]], [[5.0, 5.1, 4.9], [2.5, 2.9, 2.1]]
    found = every_mean_lower(these, those)
    assert found.effect == pytest.approx(0.5)
    assert found.p_for == pytest.approx(every_mean_lower(these[1:], those[1:]).p_for)
    assert every_mean_lower(those, these).p_against < LEVEL


def test_seeds_that_differ_in_nothing_decide_nothing() -> None:
    found = every_mean_lower([[1.0, 1.0]], [[2.0, 2.0]])
    assert found.p_for == found.p_against == 1
    assert found.seeds is None
    assert every_mean_lower([[1.0, 1.0, 1.0]], [[2.0, 2.1, 1.9]]).p_for < LEVEL


def test_the_number_of_seeds_has_the_power_it_promises_and_one_less_has_not() -> None:
    """Cohen's d = 1: 14 of each for a one-sided test at 0.05 with power 0.8 (Cohen 1988, table 2.4.1)."""
    assert seeds_for_a_difference(1.0, 1.0) == 14
    rng = np.random.default_rng(0)

    def power(count: int) -> float:
        one, other = rng.normal(0, 1, (4000, count)), rng.normal(1.5, 1, (4000, count))
        return float(np.mean(stats.ttest_ind(other, one, axis=1, alternative="greater").pvalue < LEVEL))

    needed = seeds_for_a_difference(-1.5, 1.0)
    assert needed is not None
    assert power(needed) > POWER - 0.02
    assert power(needed - 1) < POWER + 0.02
    assert seeds_for_a_difference(0.001, 1.0) is None


def cells(rng: np.random.Generator, means: list[float], sd: float, seeds: int = 3) -> list[list[float]]:
    return [list(rng.normal(mean, sd, seeds)) for mean in means]


FLAT = [0.0] * 6
WIDE = [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0]


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from wgan_sweep.report import evidence

    monkeypatch.setattr(evidence, "DRAWS", 1000)
    monkeypatch.setattr(evidence, "_first", lambda _: None)


@pytest.mark.parametrize(("these", "those"), [(FLAT, FLAT), (WIDE, WIDE), (WIDE, WIDE[::-1])])
@pytest.mark.parametrize("noise", [(1.0, 1.0), (0.5, 2.0), (2.0, 0.5)])
def test_equal_spreads_are_seldom_told_apart_whatever_their_noise(these, those, noise, few_draws) -> None:
    rng = np.random.default_rng(1)
    found = [spread_less(cells(rng, these, noise[0]), cells(rng, those, noise[1])) for _ in range(200)]
    for p in ([one.p_for for one in found], [one.p_against for one in found]):
        assert np.mean(np.array(p) < LEVEL) <= 0.09  # 0.05, and two standard errors of 200 draws


def test_a_wider_spread_is_found_and_its_size_is_in_the_interval(few_draws) -> None:
    rng = np.random.default_rng(2)
    found = [spread_less(cells(rng, FLAT, 1.0), cells(rng, WIDE, 1.0)) for _ in range(100)]
    assert np.mean([one.p_for < LEVEL for one in found]) > 0.9
    truth = np.std(WIDE, ddof=1)
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.85
    assert np.mean([one.effect for one in found]) == pytest.approx(truth, abs=0.5)
    assert (
        np.mean([spread_less(cells(rng, WIDE, 1.0), cells(rng, FLAT, 1.0)).p_against < LEVEL for _ in range(50)]) > 0.9
    )


def test_the_seeds_that_would_tell_spreads_apart_are_more_where_they_are_closer() -> None:
    rng = np.random.default_rng(3)
    near = spread_less(cells(rng, FLAT, 1.0), cells(rng, [mean / 4 for mean in WIDE], 1.0))
    far = spread_less(cells(rng, FLAT, 1.0), cells(rng, WIDE, 1.0))
    assert far.seeds is not None
    assert near.seeds is None or near.seeds > far.seeds >= 2
