"""Tests of means and spreads: against SciPy, and against their nominal error rates and power by simulation."""

import numpy as np
import pytest
from scipy import stats

from wgan_sweep.report.evidence import (
    LEVEL,
    POWER,
    behrens_fisher_sf,
    every_mean_lower,
    holm,
    seeds_for_means,
    seeds_for_spreads,
    spread_less,
)


def test_holm_matches_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_pair_is_compared_by_the_behrens_fisher_distribution() -> None:
    """Against a simulation of its definition, and Student's t where one mean has no noise."""
    lower, higher = [1.0, 2.0, 4.0], [5.0, 5.5, 9.0, 7.0]
    evidence = every_mean_lower([lower], [higher])
    rng = np.random.default_rng(0)
    noise = stats.sem(lower) * rng.standard_t(2, 400_000) + stats.sem(higher) * rng.standard_t(3, 400_000)
    difference = np.mean(higher) - np.mean(lower)
    assert evidence.effect == pytest.approx(difference, abs=0.1)
    assert evidence.p_for == pytest.approx(np.mean(noise > difference), rel=0.03)
    assert evidence.p_against == pytest.approx(1 - evidence.p_for)
    assert evidence.low == pytest.approx(difference - np.quantile(noise, 0.975), rel=0.03)
    assert evidence.high == pytest.approx(difference + np.quantile(noise, 0.975), rel=0.03)
    x = np.linspace(-5, 5, 11)
    sides = (np.array(1.0), np.array(4.0)), (np.array(1e-9), np.array(2.0))
    assert behrens_fisher_sf(x, *sides) == pytest.approx(stats.t.sf(x, 4), abs=1e-8)


def test_the_pair_with_the_smallest_difference_decides() -> None:
    lower, higher = [[1.0, 1.1, 0.9], [2.0, 2.2, 1.8]], [[5.0, 5.1, 4.9], [2.5, 2.9, 2.1]]
    evidence = every_mean_lower(lower, higher)
    assert evidence.effect == pytest.approx(0.5, abs=0.05)
    assert evidence.p_for == pytest.approx(every_mean_lower(lower[1:], higher[1:]).p_for)
    assert evidence.low == pytest.approx(every_mean_lower(lower[1:], higher[1:]).low)
    assert every_mean_lower(higher, lower).p_against < LEVEL / 2


def test_identical_values_do_not_count_as_free_of_noise() -> None:
    for lower, higher in (([1.0, 1.0], [2.0, 2.0]), ([1.0, 1.0, 1.0], [2.0, 2.0, np.nextafter(2.0, 3)])):
        for test in (every_mean_lower, lambda a, b: spread_less(a * 2, [*b, [9.0, 9.0]])):
            evidence = test([lower], [higher])
            assert evidence.p_for == evidence.p_against == 1
            assert (evidence.low, evidence.high) == (-np.inf, np.inf)
        assert seeds_for_means([lower], [higher]) is None
    same, varied = [1.0, 1.0, 1.0], [2.0, 2.1, 1.9]
    evidence = every_mean_lower([same], [varied])
    assert evidence.p_for == pytest.approx(every_mean_lower([[1.0, 1.1, 0.9]], [varied]).p_for)


def test_the_recommended_seeds_are_the_fewest_with_the_nominal_power() -> None:
    """Against separate simulations of the whole test."""
    rng = np.random.default_rng(0)

    def power(lower: list[list[float]], higher: list[list[float]], count: int, level: float) -> float:
        def again(cell: list[float]) -> np.ndarray:
            return rng.normal(np.mean(cell), np.std(cell, ddof=1), count)

        results = [every_mean_lower([*map(again, lower)], [*map(again, higher)]) for _ in range(150)]
        return float(np.mean([result.p_for < level / 2 for result in results]))

    one, other = [[0.0, 1.0, -1.0]], [[1.6, 2.6, 0.6]]
    three = [[1.6, 2.6, 0.6], [1.8, 2.8, 0.8], [2.0, 3.0, 1.0]]
    for higher, level in ((other, LEVEL), (three, LEVEL), (other, LEVEL / 3)):
        seeds = seeds_for_means(one, higher, level)
        assert seeds is not None
        assert power(one, higher, seeds, level) > POWER - 0.1
        assert power(one, higher, seeds - 1, level) < POWER + 0.1
    assert seeds_for_means([[0.0, 1.0]], [[0.001, 1.001]]) is None


def cells(rng: np.random.Generator, means: list[float], sd: float, seeds: int = 3) -> list[list[float]]:
    return [list(rng.normal(mean, sd, seeds)) for mean in means]


FLAT = [0.0] * 6
WIDE = [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0]


def test_closer_spreads_need_more_seeds() -> None:
    rng = np.random.default_rng(3)
    flat = cells(rng, FLAT, 1.0)
    near = seeds_for_spreads(flat, cells(rng, [mean / 4 for mean in WIDE], 1.0))
    far = seeds_for_spreads(flat, cells(rng, WIDE, 1.0))
    assert far is not None
    assert near is None or near > far >= 2


def test_the_spread_of_means_without_noise_is_their_standard_deviation() -> None:
    tiny = [-1e-6, 0.0, 1e-6]
    narrow, wide = [[m + e for e in tiny] for m in (0, 1)], [[m + e for e in tiny] for m in (0, 3)]
    evidence = spread_less(narrow, wide)
    assert evidence.effect == pytest.approx(2 / np.sqrt(2), rel=3e-3)
    assert evidence.low == pytest.approx(evidence.effect, rel=0.02)
    assert evidence.high == pytest.approx(evidence.effect, rel=0.02)
    assert spread_less(wide, narrow).effect == pytest.approx(-evidence.effect, rel=3e-3)
