"""Tests of means and spreads: against SciPy, and against their nominal error rates and power by simulation."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from wgan_sweep.report.inference.behrens_fisher import behrens_fisher_sf
from wgan_sweep.report.inference.comparisons import Paired
from wgan_sweep.report.inference.evidence import DRAWS, LEVEL, POWER, Evidence, holm
from wgan_sweep.report.inference.means import (
    every_mean_lower,
    means_rise,
    means_within,
    possibly_lowest,
    seeds_for_equivalence,
    seeds_for_means,
)
from wgan_sweep.report.inference.rates import rarer, seeds_for_rates
from wgan_sweep.report.inference.spreads import seeds_for_spreads, spread_less

from .test_calibration import Blocks


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
    pairs = [([low], [high]) for low in lower for high in higher]  # Bonferroni
    assert evidence.high == pytest.approx(min(every_mean_lower(*pair, LEVEL / 4).high for pair in pairs))
    opposite = every_mean_lower(higher, lower).p_against
    assert opposite == pytest.approx(4 * min(every_mean_lower(high, low).p_against for low, high in pairs))


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


def correlated_cells(means: list[float], seeds: int = 4, common: float = 5.0) -> list[list[float]]:
    """Cells whose runs with the same seed have common noise, larger than their own."""
    return Blocks(means, common, seeds=seeds).sample(np.random.default_rng(0))


def test_one_pair_of_cells_with_common_seeds_is_compared_by_the_paired_t_test() -> None:
    lower, higher = correlated_cells([0.0, 1.0], seeds=8)
    evidence = every_mean_lower([lower], [higher], compare=Paired)
    expected = stats.ttest_rel(higher, lower, alternative="greater")
    interval = stats.ttest_rel(higher, lower).confidence_interval(1 - LEVEL)
    assert evidence.effect == pytest.approx(np.mean(higher) - np.mean(lower))
    assert (evidence.p_for, evidence.p_against) == pytest.approx((expected.pvalue, 1 - expected.pvalue))
    assert (evidence.low, evidence.high) == pytest.approx((interval.low, interval.high))
    assert evidence.p_for < LEVEL / 2 < every_mean_lower([lower], [higher]).p_for
    within = means_within([lower, higher], 4.0, compare=Paired)
    assert within.p_for == pytest.approx(
        max(
            stats.ttest_rel(higher, np.array(lower) + 4, alternative="less").pvalue,
            stats.ttest_rel(higher, np.array(lower) - 4, alternative="greater").pvalue,
        )
    )
    assert within.low == pytest.approx(4 - max(abs(interval.low), abs(interval.high)))


def test_noise_that_the_runs_of_a_seed_have_in_common_does_not_change_paired_tests() -> None:
    cells = correlated_cells([0.0, 1.0, 4.0, 4.0], common=0.0)
    shifted = (np.array(cells) + np.array([100.0, -300.0, 0.0, 7.0])).tolist()
    for test in (
        lambda cells: every_mean_lower(cells[:2], cells[2:], compare=Paired),
        lambda cells: means_rise(cells[:3], compare=Paired),
        lambda cells: means_within(cells, 5.0, compare=Paired),
    ):
        one, other = test(cells), test(shifted)
        assert (one.p_for, one.p_against, one.low, one.high) == pytest.approx(
            (other.p_for, other.p_against, other.low, other.high)
        )
        assert one.effect == pytest.approx(other.effect)
    assert seeds_for_means(cells[:2], cells[2:], compare=Paired) == seeds_for_means(
        shifted[:2], shifted[2:], compare=Paired
    )
    assert possibly_lowest(shifted, Paired) == [True, True, False, False]
    assert possibly_lowest(shifted) == [True] * 4


def test_the_pair_with_the_smallest_paired_difference_decides() -> None:
    cells = correlated_cells([0.0, 1.0, 5.0, 9.0])
    lower, higher = cells[:2], cells[2:]
    pairs = [every_mean_lower([one], [other], compare=Paired) for one in lower for other in higher]
    corrected = [every_mean_lower([one], [other], LEVEL / 4, Paired) for one in lower for other in higher]
    evidence = every_mean_lower(lower, higher, compare=Paired)
    assert evidence.p_for == pytest.approx(max(pair.p_for for pair in pairs))
    assert evidence.p_against == pytest.approx(min(1.0, 4 * min(pair.p_against for pair in pairs)))
    assert evidence.low == pytest.approx(min(pair.low for pair in pairs))
    assert evidence.high == pytest.approx(min(pair.high for pair in corrected))


def test_equal_differences_do_not_count_as_free_of_noise() -> None:
    first, second, third = [1.0, 2.0, 4.0], [3.1, 4.1, 6.1], [7.0, 8.5, 10.0]
    evidence = every_mean_lower([first], [second], compare=Paired)
    assert (evidence.p_for, evidence.p_against, evidence.low, evidence.high) == (1, 1, -np.inf, np.inf)
    assert seeds_for_means([first], [second], compare=Paired) is None
    noisiest = max(np.std(np.subtract(third, cell), ddof=1) for cell in (first, second))
    three = every_mean_lower([first], [second, third], compare=Paired)
    assert three.p_for == pytest.approx(
        max(
            stats.t.sf(2.1 / (noisiest / np.sqrt(3)), 2),
            stats.t.sf(np.mean(np.subtract(third, first)) / stats.sem(np.subtract(third, first)), 2),
        )
    )


def test_a_cell_with_an_exploded_run_does_not_change_the_noise_of_other_pairs() -> None:
    lower, higher = [[3.0, 3.2, 2.9, 3.1]], [[1.0, 1.1, 0.9, 1.05]]
    exploded = [*higher, [2.5, 2.6, 2.4, 1e30]]
    alone = every_mean_lower(lower, higher, compare=Paired)
    assert every_mean_lower(lower, exploded, compare=Paired).p_against == pytest.approx(2 * alone.p_against)
    assert alone.p_against < 1e-4


@pytest.mark.integration
def test_the_recommended_seeds_are_the_fewest_with_the_nominal_power() -> None:
    """Against separate simulations of the whole test."""
    rng = np.random.default_rng(0)

    def power(lower: list[list[float]], higher: list[list[float]], count: int, level: float) -> float:
        def again(cell: list[float]) -> np.ndarray:
            return rng.normal(np.mean(cell), np.std(cell, ddof=1), count)

        results = [every_mean_lower([*map(again, lower)], [*map(again, higher)]) for _ in range(150)]
        return float(np.mean([result.p_for < level / 2 for result in results]))

    def paired_power(cells: list[list[float]], count: int) -> float:
        def again() -> list[list[float]]:
            return rng.multivariate_normal(
                np.mean(cells, axis=1), np.cov(cells), count, check_valid="ignore"
            ).T.tolist()

        results = [every_mean_lower(values[:1], values[1:], compare=Paired) for values in (again() for _ in range(150))]
        return float(np.mean([result.p_for < LEVEL / 2 for result in results]))

    one, other = [[0.0, 1.0, -1.0]], [[1.6, 2.6, 0.6]]
    three = [[1.6, 2.6, 0.6], [1.8, 2.8, 0.8], [2.0, 3.0, 1.0]]
    for spread in ([0.0, 1.5], [0.0, 1.5, 1.6, 1.7]):
        cells = correlated_cells(spread, seeds=8)
        seeds = seeds_for_means(cells[:1], cells[1:], compare=Paired)
        assert seeds is not None
        assert paired_power(cells, seeds) > POWER - 0.1
        assert paired_power(cells, seeds - 1) < POWER + 0.1
        unpaired = seeds_for_means(cells[:1], cells[1:])
        assert unpaired is None or unpaired > 3 * seeds
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


@pytest.mark.integration
def test_closer_spreads_need_more_seeds() -> None:
    rng = np.random.default_rng(3)
    flat = cells(rng, FLAT, 1.0)
    near = seeds_for_spreads(flat, cells(rng, [mean / 4 for mean in WIDE], 1.0))
    far = seeds_for_spreads(flat, cells(rng, WIDE, 1.0))
    assert near is not None
    assert far is not None
    assert 2 <= far < 5 < 25 < near


def test_the_spread_of_means_without_noise_is_their_standard_deviation() -> None:
    tiny = [-1e-6, 0.0, 1e-6]
    narrow, wide = [[m + e for e in tiny] for m in (0, 1)], [[m + e for e in tiny] for m in (0, 3)]
    evidence = spread_less(narrow, wide)
    assert evidence.effect == pytest.approx(2 / np.sqrt(2), rel=3e-3)
    assert evidence.low == pytest.approx(evidence.effect, rel=0.02)
    assert evidence.high == pytest.approx(evidence.effect, rel=0.02)
    assert spread_less(wide, narrow).effect == pytest.approx(-evidence.effect, rel=3e-3)
    assert evidence.p_for == 1 / (1 + DRAWS)  # never 0: what was observed counts as a draw
    assert evidence.p_against == 1


@pytest.mark.parametrize("further", [0.0, 1.5, 4.0, -6.0])
def test_far_spreads_of_two_paired_cells_are_compared_by_the_t_test_of_what_differs_by_seed(further: float) -> None:
    """The standard deviation of two means is their distance over the square root of 2, and noise changes it linearly.

    Of random arrangements, half turn one side round: its noise then counts with the opposite sign.
    """
    first, second, third, fourth = correlated_cells([0.0, 100.0, 5.0, 105.0 + further], seeds=5)
    narrow, wide = np.subtract(second, first) / np.sqrt(2), np.subtract(fourth, third) / np.sqrt(2)
    statistic = abs(np.mean(wide - narrow))
    as_observed, turned = (stats.t.sf(statistic / stats.sem(by_seed), 4) for by_seed in (wide - narrow, wide + narrow))
    expected = max(as_observed, (as_observed + turned) / 2)
    evidence = spread_less([first, second], [third, fourth], compare=Paired)
    assert evidence.test == "simulated null distribution, paired by seed"
    p = evidence.p_for if further >= 0 else evidence.p_against
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected / DRAWS) + 1 / DRAWS)
    interval = stats.ttest_1samp(wide - narrow, 0).confidence_interval(1 - LEVEL)
    assert evidence.low < interval.low + 0.05 < interval.high - 0.05 < evidence.high
    assert evidence.high - evidence.low < 1.3 * (interval.high - interval.low)  # no spread is the least favourable one
    assert evidence.effect == pytest.approx(np.mean(wide - narrow), abs=0.02)


@pytest.mark.integration
def test_noise_that_the_runs_of_a_seed_have_in_common_does_not_change_paired_spreads() -> None:
    cells = correlated_cells([0.0, 1.0, 2.0, 0.0, 4.0, 9.0], common=0.0)
    shift = np.array([100.0, -300.0, 0.0, 7.0])
    shifted = [list(np.add(cell, shift * factor)) for cell, factor in zip(cells, (1, 1, 1, -2, -2, -2), strict=True)]
    one, other = (spread_less(sides[:3], sides[3:], compare=Paired) for sides in (cells, shifted))
    assert (one.p_for, one.p_against) == pytest.approx((other.p_for, other.p_against), abs=1 / DRAWS)
    assert (one.low, one.effect, one.high) == pytest.approx((other.low, other.effect, other.high))
    assert one.p_for < LEVEL / 2 < spread_less(shifted[:3], shifted[3:]).p_for
    seeds = seeds_for_spreads(cells[:3], cells[3:], compare=Paired)
    assert seeds == seeds_for_spreads(shifted[:3], shifted[3:], compare=Paired)


def paired_noise(*sides: list[list[float]]) -> np.ndarray:
    comparison = Paired.within_sides(sides)
    assert comparison is not None
    return comparison.noise(100_000, np.random.default_rng(0))


def test_cells_that_do_not_vary_against_each_other_are_as_noisy_as_the_noisiest_pair() -> None:
    rng = np.random.default_rng(0)
    common, others = 100 * rng.normal(size=5), list(rng.normal(size=(2, 5)) + 100 * rng.normal(size=5))
    constant, nearly = [list(common), list(common + 1)], [list(common), list(common + 1), list(common + 3 * others[0])]
    quantiles = [0.1, 0.5, 0.9]
    expected = stats.sem(others[1] - others[0]) * stats.t.ppf(quantiles, 4)
    for side, pairs in ((constant, ((0, 1), (2, 3))), (nearly, ((3, 4),))):
        noise = paired_noise(side, others)
        for first, second in pairs:
            observed = np.quantile(noise[:, second] - noise[:, first], quantiles)
            assert observed == pytest.approx(expected, rel=0.03, abs=0.02)
    noise = paired_noise(nearly, others)
    assert np.quantile(noise[:, 1] - noise[:, 0], 0.9) >= expected[2]
    evidence = spread_less(constant, [list(3 * common), list(3 * common + 9)], compare=Paired)
    assert (evidence.p_for, evidence.p_against, evidence.low, evidence.high) == (1, 1, -np.inf, np.inf)


def test_rising_means_are_compared_with_their_neighbours() -> None:
    noise = [-0.1, 0.0, 0.1]
    cells = [[mean + e for e in noise] for mean in (1.0, 2.0, 5.0)]
    evidence = means_rise(cells)
    assert evidence.effect == pytest.approx(1.0, abs=0.02)
    assert evidence.p_for == pytest.approx(every_mean_lower(cells[:1], cells[1:2]).p_for)
    assert means_rise(cells[::-1]).p_against < LEVEL / 2
    assert means_rise([cells[0], cells[2], cells[1]]).p_for > 0.5


def test_means_within_a_margin_are_two_one_sided_tests() -> None:
    """Against SciPy's one-sided t-tests, which are the same for equal noise but for their degrees of freedom."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 200), rng.normal(0.3, 1, 200)
    evidence = means_within([list(first), list(second)], 0.6)
    upper = stats.ttest_ind(second, first + 0.6, alternative="less").pvalue
    lower = stats.ttest_ind(second, first - 0.6, alternative="greater").pvalue
    assert evidence.p_for == pytest.approx(max(upper, lower), rel=0.05)
    assert evidence.effect == pytest.approx(0.6 - abs(np.mean(second) - np.mean(first)), abs=0.06)  # shrunken
    assert means_within([list(first), list(first[::-1])], 0.6).high == 0.6  # they may not: no difference is below 0
    far = means_within([list(first), list(second + 0.7)], 0.6)
    one_sided = stats.ttest_ind(second + 0.7, first + 0.6, alternative="greater")
    assert 1e-4 < one_sided.pvalue < LEVEL / 4
    assert far.p_for > 0.98
    assert far.p_against == pytest.approx(2 * one_sided.pvalue, rel=0.05)  # in either direction
    size = float(np.mean(second) + 0.7 - np.mean(first))
    error = float(np.hypot(stats.sem(first), stats.sem(second)))
    assert far.high == pytest.approx(0.6 - size + stats.t.isf(LEVEL / 4, 398) * error, abs=0.003)
    assert far.high < 0


def test_equivalence_needs_more_seeds_for_a_narrower_margin() -> None:
    cells = [[0.0, 1.0, -1.0], [0.1, 1.1, -0.9]]
    narrow, wide = seeds_for_equivalence(cells, 0.5), seeds_for_equivalence(cells, 2.0)
    assert narrow is not None
    assert wide is not None
    assert narrow > wide > 3
    rng = np.random.default_rng(0)
    trials = [means_within([list(rng.normal(mean, 1, wide)) for mean in (0.0, 0.1)], 2.0) for _ in range(200)]
    assert np.mean([trial.p_for < LEVEL / 2 for trial in trials]) == pytest.approx(POWER, abs=0.1)


def test_seeds_that_contradict_one_of_several_pairs_are_those_of_a_corrected_level() -> None:
    low, high, far = ([mean + e for e in (-1.0, 0.0, 1.0)] for mean in (0.0, 1.0, 9.0))
    single, corrected = seeds_for_means([low], [high]), seeds_for_means([low], [high], LEVEL / 3)
    assert single is not None
    assert corrected is not None
    assert seeds_for_means([high], [low, far, far]) == pytest.approx(corrected, rel=0.1)
    assert corrected > 1.2 * single
    apart = [value + 0.5 for value in high]  # 1.5 above, which is 1 more than the margin; in either direction
    assert seeds_for_equivalence([low, apart], 0.5) == seeds_for_means([low], [high], LEVEL / 2)


def test_the_lowest_cell_is_almost_never_excluded_and_distant_cells_are() -> None:
    rng = np.random.default_rng(0)
    kept = np.array([possibly_lowest([list(rng.normal(m, 1, 5)) for m in (0.0, 0.0, 0.2, 8.0)]) for _ in range(300)])
    assert kept[:, 0].mean() > 1 - LEVEL - 2 * np.sqrt(LEVEL / 300)
    assert kept[:, 3].mean() < 0.05
    assert possibly_lowest([[1.0, 1.0], [2.0, 2.0]]) == [True, True]


@pytest.mark.integration
def test_a_cell_is_excluded_if_and_only_if_another_is_lower_by_its_own_test() -> None:
    """Every pair is tested, by an integral over Student's t of SciPy; cells of 3 to 5 seeds, some with equal values."""

    def noise_exceeds(x: float, first: tuple[float, int], second: tuple[float, int]) -> float:
        (a, f), (b, g) = first, second
        constant = stats.t.pdf(0, f)

        def density(t: float) -> float:
            return constant * (1 + t * t / f) ** (-(f + 1) / 2) * special.stdtr(g, (a * t - x) / b)

        return integrate.quad(density, -np.inf, np.inf)[0]

    rng = np.random.default_rng(3)
    for spread in (0.0, 2.0, 6.0):
        cells = [list(rng.normal(spread * rng.normal(), rng.uniform(0.3, 1), rng.integers(3, 6))) for _ in range(6)]
        cells.append([cells[0][0]] * 3)  # as noisy as the noisiest
        sds = [float(np.std(cell, ddof=1)) for cell in cells[:-1]]
        sides = [(sd / np.sqrt(len(cell)), len(cell) - 1) for sd, cell in zip([*sds, max(sds)], cells, strict=True)]
        means = [float(np.mean(cell)) for cell in cells]
        lower = [
            [noise_exceeds(means[i] - means[j], sides[j], sides[i]) < LEVEL / 6 for j in range(7)] for i in range(7)
        ]
        assert possibly_lowest(cells) == [not any(row) for row in lower]
        assert spread < 6 or 1 <= sum(possibly_lowest(cells)) < 7


def single(events: int, runs: int) -> list[tuple[int, int]]:
    """Return a side on which each seed has one run."""
    return [(1, 1)] * events + [(0, 1)] * (runs - events)


def test_rarer_events_are_compared_by_fishers_test() -> None:
    """Fisher's tea: 3 of 4 against 1 of 4, one-sided p = 17/70 (Fisher 1935)."""
    assert rarer(single(1, 4), single(3, 4)).p_for == pytest.approx(17 / 70)
    assert rarer(single(3, 4), single(1, 4)).p_against == pytest.approx(17 / 70)
    nothing = rarer(single(0, 4), single(0, 9))
    assert nothing.p_for == nothing.p_against == 1
    for first, second in (((0, 9), (7, 9)), ((2, 9), (4, 9)), ((9, 9), (1, 9))):
        agrees_with_its_interval(rarer(single(*first), single(*second)))


def agrees_with_its_interval(evidence: Evidence) -> None:
    assert (evidence.low > 0) == (evidence.p_for < LEVEL / 2)
    assert (evidence.high < 0) == (evidence.p_against < LEVEL / 2)


def test_the_runs_of_a_seed_do_not_count_as_independent() -> None:
    """Of 8 seeds, 4 are chosen for the first side: one of C(8, 4) = 70 choices separates them."""
    separate = rarer([(0, 3)] * 4, [(3, 3)] * 4)
    assert separate.p_for == pytest.approx(1 / 70)
    assert separate.p_against == 1
    assert "permutations of seeds" in separate.test
    few = rarer([(0, 6)] * 3, [(6, 6)] * 3)  # 18 of 18 against 0 of 18 runs, but only C(6, 3) = 20 choices of seeds
    assert few.p_for == pytest.approx(1 / 20)
    for evidence in (separate, few, rarer([(1, 3)] * 8, [(3, 3), (0, 3)] * 4), rarer([(3, 3)] * 5, [(1, 3)] * 5)):
        agrees_with_its_interval(evidence)
    # Where runs of a seed are alike by chance only, Fisher's p-value is the larger one.
    mixed = [(1, 3), (2, 3), (1, 3), (2, 3)]
    fisher = stats.fisher_exact([[3, 9], [6, 6]], alternative="less").pvalue
    assert rarer([(1, 3), (1, 3), (0, 3), (1, 3)], mixed).p_for == pytest.approx(fisher)


def test_many_seeds_are_exchanged_at_random() -> None:
    """20 seeds per side have 1.4e11 choices; 20,000 random ones are near the exact p-value of Fisher's test."""
    from wgan_sweep.report.inference.rates import _permutation_p_values

    first, second = single(4, 20), single(10, 20)
    exact = stats.fisher_exact([[4, 16], [10, 10]], alternative="less").pvalue
    assert _permutation_p_values(first, second)[0] == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


@pytest.mark.slow
def test_the_runs_that_decide_a_rate_have_the_nominal_power() -> None:
    runs = seeds_for_rates(single(1, 10), single(6, 10))
    assert runs is not None
    rng = np.random.default_rng(0)
    draws = zip(rng.binomial(runs, 0.1, 400), rng.binomial(runs, 0.6, 400), strict=True)
    power = np.mean([rarer(single(int(a), runs), single(int(b), runs)).p_for < LEVEL / 2 for a, b in draws])
    assert power == pytest.approx(POWER, abs=0.08)
    assert seeds_for_rates(single(1, 10), single(1, 10)) is None
    assert seeds_for_rates(single(10, 100), single(11, 100)) is None
    alike = seeds_for_rates([(3, 3)] + [(0, 3)] * 9, [(3, 3)] * 6 + [(0, 3)] * 4)
    # Three runs of a seed tell as much as one. Both variances are those of samples, of 10 seeds and of 30 runs.
    assert alike == pytest.approx((10 / 9) / (10 / 29) * runs, abs=1.01)


def test_of_single_runs_as_many_decide_a_rate_as_fishers_test_needs() -> None:
    def power(runs: int) -> float:
        events = range(runs + 1)
        tables = [(a, b) for a in events for b in events if a / runs < b / runs]
        chances = stats.binom.pmf(events, runs, 0.1), stats.binom.pmf(events, runs, 0.6)
        p_values = [stats.hypergeom.cdf(a, 2 * runs, a + b, runs) for a, b in tables]
        return sum(chances[0][a] * chances[1][b] for (a, b), p in zip(tables, p_values, strict=True) if p < LEVEL / 2)

    runs = seeds_for_rates(single(1, 10), single(6, 10))
    assert runs is not None
    assert power(runs - 1) < POWER <= power(runs)
