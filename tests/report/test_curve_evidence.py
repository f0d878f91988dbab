"""Tests of correlations along runs and of times to a goal: against SciPy, closed forms and counts by hand."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise, product
from math import comb

import numpy as np
import pytest
from scipy import stats

from wgan_sweep.report.inference.correlations import (
    MAX_ENUMERATED,
    correlated,
    fisher_z,
    rank_correlation,
    seeds_for_correlation,
)
from wgan_sweep.report.inference.evidence import LEVEL, POWER, Array, Evidence
from wgan_sweep.report.inference.times import Time, mann_whitney_cdf, median, p_value, seeds_for_times, sooner


def test_rank_correlations_are_spearmans() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 8, (2, 12))  # with ties
        assert rank_correlation(list(first), list(second)) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert rank_correlation([1.0, 2.0, 9.0], [-3.0, 0.0, 1.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 1.0, 1.0], [3.0, 2.0, 1.0]) == 0
    assert fisher_z(0.5, 20) == pytest.approx(np.arctanh(0.5))


def test_a_correlation_of_1_is_replaced_by_the_midpoint_to_the_next() -> None:
    """The largest rank correlation below 1 is that of two neighbours that change places."""
    steps = 7
    exchanged = [1.0, 0.0, *range(2, steps)]
    next_one = stats.spearmanr(range(steps), exchanged).statistic
    assert np.tanh(fisher_z(1.0, steps)) == pytest.approx((1 + next_one) / 2)
    assert fisher_z(-1.0, steps) == pytest.approx(-fisher_z(1.0, steps))
    assert fisher_z(next_one, steps) == pytest.approx(np.arctanh(next_one))


@pytest.mark.parametrize("threshold", [0.0, 0.3, -0.4])
def test_the_correlation_of_runs_is_tested_by_all_reflections(threshold: float) -> None:
    """Against SciPy's permutation test of one sample, which changes signs."""
    rng = np.random.default_rng(1)
    for runs in (3, 7, 9):
        z = rng.normal(0.4, 0.6, runs)
        evidence = correlated([list(z)], threshold)
        for alternative, p in (("greater", evidence.p_for), ("less", evidence.p_against)):
            expected = stats.permutation_test(
                (z - np.arctanh(threshold),), np.mean, permutation_type="samples", alternative=alternative
            )
            assert p == pytest.approx(expected.pvalue)


def test_many_runs_are_reflected_at_random() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(0.25, 0.6, MAX_ENUMERATED + 6)
    evidence = correlated([list(z)])
    expected = stats.ttest_1samp(z, 0, alternative="greater")
    assert evidence.p_for == pytest.approx(expected.pvalue, rel=0.15)
    two_sided = stats.ttest_1samp(z, 0).confidence_interval(0.95)
    assert evidence.low == pytest.approx(np.tanh(two_sided.low), abs=0.03)
    assert evidence.high == pytest.approx(np.tanh(two_sided.high), abs=0.03)


def test_five_runs_never_decide_a_correlation_and_six_do() -> None:
    assert correlated([[2.0] * 5]).p_for == 1 / 32
    assert correlated([[2.0] * 5]).low == -1
    assert correlated([[2.0] * 6]).p_for == 1 / 64
    assert correlated([[2.0] * 6]).low == pytest.approx(np.tanh(2.0))
    assert correlated([[2.0] * 6], 0.99).p_against == 1 / 64


def test_the_cell_with_the_smallest_correlation_decides() -> None:
    high, low = [1.0, 1.2, 1.4, 0.8, 1.1, 0.9, 1.3], [0.1, 0.4, -0.1, 0.3, 0.2, 0.05, 0.15]
    alone, both = correlated([low]), correlated([high, low])
    assert both.p_for == alone.p_for
    assert both.low == alone.low
    assert both.effect == alone.effect == pytest.approx(np.tanh(np.mean(low)))
    negative = [-value for value in high]
    assert correlated([high, negative]).p_against == pytest.approx(2 * correlated([negative]).p_against)
    assert correlated([high, negative]).high == correlated([negative], level=LEVEL / 2).high
    assert correlated([high, negative]).high > correlated([negative]).high


def test_the_runs_that_decide_a_correlation_have_the_nominal_power() -> None:
    z = [0.1, 0.9, 0.5, -0.3, 0.8]
    seeds = seeds_for_correlation([z])
    assert seeds is not None
    rng = np.random.default_rng(0)
    draws = [rng.normal(np.mean(z), np.std(z, ddof=1), seeds) for _ in range(300)]
    power = np.mean([correlated([list(draw)]).p_for < LEVEL / 2 for draw in draws])
    assert power == pytest.approx(POWER, abs=0.08)
    assert seeds_for_correlation([[2.0, 2.1]]) == 6
    assert seeds_for_correlation([[-2.0, -2.1]]) == 6
    assert seeds_for_correlation([[-2.0, -2.1]], level=LEVEL / 2) == 7
    assert seeds_for_correlation([[0.001, -0.5, 0.5]]) is None
    assert seeds_for_correlation([[2.0, 2.1], [2.0, 2.1]]) == 6
    assert seeds_for_correlation([[-2.0, -2.1], [2.0, 2.1]]) == 7  # Bonferroni: 1/128 is below 0.0125, 1/64 is not


def reached(*values: float) -> list[Time]:
    return [Time(value, is_reached=True) for value in values]


def censored(*values: float) -> list[Time]:
    return [Time(value, is_reached=False) for value in values]


def test_the_number_of_pairs_has_mann_and_whitneys_distribution() -> None:
    rng = np.random.default_rng(0)
    for first, second in ((2, 2), (3, 8), (10, 4), (7, 7)):
        a, b = rng.normal(size=first), rng.normal(size=second)
        pairs = np.array(np.sum(a[:, None] > b))
        expected = stats.mannwhitneyu(a, b, alternative="less", method="exact").pvalue
        assert mann_whitney_cdf(pairs, first, second) == pytest.approx(expected)
    a, b = rng.normal(size=60), rng.normal(0.3, 1, 50)
    expected = stats.mannwhitneyu(a, b, alternative="less", method="asymptotic").pvalue
    assert mann_whitney_cdf(np.array(np.sum(a[:, None] > b)), 60, 50) == pytest.approx(expected)


def p_sooner(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Return the p-value of the first being smaller: SciPy's, or that of a sign test of blocks if it is larger."""
    greater = sum(a > b for a, b in product(first, second))

    def sign_test(block: int, count: int) -> float:
        number = int(greater + block // 4) // block
        p, following = (stats.binomtest(min(n, count), count, 0.5, "less").pvalue for n in (number, number + 1))
        is_between = greater % block > 0 and number == greater // block
        return float(min(1.25 * p, following) if is_between else p)

    signs = [sign_test(len(block), len(counted)) for block, counted in ((first, second), (second, first))]
    return max(float(stats.mannwhitneyu(first, second, alternative="less", method="exact").pvalue), *signs)


def test_times_of_runs_that_all_reach_the_goal_are_compared_by_mann_and_whitneys_test() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.lognormal(0, 1, 6), rng.lognormal(1.2, 1, 8)
    evidence = sooner([reached(*first)], [reached(*second)])
    assert evidence.p_for == pytest.approx(p_sooner(first, second))
    assert evidence.p_against == pytest.approx(p_sooner(second, first))
    assert evidence.effect == pytest.approx(np.median(np.log(second) - np.log(first)[:, None]))
    low, high = np.exp(evidence.low), np.exp(evidence.high)
    assert p_sooner(first * low / 1.001, second) < LEVEL / 2 <= p_sooner(first * low * 1.001, second)
    assert p_sooner(second, first * high * 1.001) < LEVEL / 2 <= p_sooner(second, first * high / 1.001)


@pytest.mark.parametrize(("first", "second"), [(6, 6), (6, 9), (12, 7), (20, 20)])
def test_the_p_value_is_that_of_a_sign_test_if_one_side_spreads_far_more_widely(first: int, second: int) -> None:
    """Each of its times is before or after all of the other side."""
    narrow = reached(*np.linspace(1, 2, second))
    for after in range(first + 1):
        wide = reached(*np.linspace(3, 4, after), *np.linspace(0.3, 0.4, first - after))
        p = sooner([wide], [narrow]).p_for
        assert p >= stats.binomtest(after, first, 0.5, "less").pvalue - 1e-12
        assert p == pytest.approx(p_sooner([time.value for time in wide], [time.value for time in narrow]))


@pytest.mark.parametrize(("first", "second", "u"), [(6, 6, 4), (8, 8, 13), (10, 10, 17)])
def test_small_numbers_of_pairs_are_no_more_probable_than_their_p_value(first: int, second: int, u: int) -> None:
    """By simulation, where they are the most probable: at the end of a block, with spreads of 12 to 1."""
    rng = np.random.default_rng(0)
    wide, narrow = 12 * rng.normal(size=(200_000, first, 1)), rng.normal(size=(200_000, 1, second))
    found = np.mean(np.sum(wide >= narrow, axis=(1, 2)) <= u)
    p = float(p_value(np.array(u), first, second))
    error = np.sqrt(p / 200_000)
    assert found <= p + 3 * error
    assert found > p / 1.25 + 3 * error  # the factor is needed


@pytest.mark.parametrize(("first", "second"), [(6, 6), (6, 9), (12, 7), (20, 20), (41, 8)])
def test_the_p_value_rises_with_the_number_of_pairs(first: int, second: int) -> None:
    """Intervals rely on it."""
    assert np.all(np.diff(p_value(np.arange(first * second + 1), first, second)) >= 0)


def test_five_runs_never_decide_which_is_sooner_and_six_do() -> None:
    assert sooner([reached(1, 2, 3, 4, 5)], [reached(*range(40, 60))]).p_for == pytest.approx(1 / 2**5)
    evidence = sooner([reached(1, 2, 3, 4, 5, 6)], [reached(40, 50, 60, 80, 90, 99)])
    assert evidence.p_for == pytest.approx(1 / 2**6)
    # The smallest ratios are 6.7, 8, 8.3, 10 and 10. The test allows up to 4 of the 36 pairs in the other order.
    assert evidence.low == pytest.approx(np.log(10))
    assert evidence.p_against == 1


def test_a_pair_whose_order_is_unknown_counts_against_every_verdict() -> None:
    """1 and 3 are sooner than 4+ and 5; 3+ is before 5 or after it; 2+ may be after both."""
    first, second = [*reached(1, 3), *censored(2)], [*censored(4), *reached(5)]
    unknown = 2  # 2+ with 4+, and with 5
    p = Fraction(1 + 1 + 2, comb(5, 2))  # arrangements of 3 and 2 values with 0, 1 and 2 pairs in the other order
    assert mann_whitney_cdf(np.array(unknown), 3, 2) == pytest.approx(float(p))
    evidence = sooner([first], [second])
    assert evidence.p_for == pytest.approx(p_value(np.array(unknown), 3, 2))
    assert evidence.p_against == 1  # each of the pairs may agree with the claim
    assert sooner([censored(*[9] * 9)], [censored(*[9] * 9)]).p_for == 1
    assert sooner([censored(1, 2, 3)], [censored(7, 8, 9)]).effect == 0
    assert sooner([reached(*[5] * 9)], [reached(*[5] * 9)]).p_for == 1


def test_the_worst_case_of_unknown_times_is_the_test_of_their_least_favourable_values() -> None:
    rng = np.random.default_rng(4)
    times, last = rng.lognormal(0, 1, 14), rng.lognormal(0.7, 1, 14)
    runs = [Time(float(min(t, c)), is_reached=bool(t <= c)) for t, c in zip(times, last, strict=True)]
    first, second = runs[:6], runs[6:]
    assert 0 < sum(run.is_reached for run in runs) < 14
    late = [run.value if run.is_reached else 1e9 for run in first]
    soon = [run.value for run in second]
    assert sooner([first], [second]).p_for == pytest.approx(p_sooner(late, soon))


def test_lost_runs_never_reach_the_goal() -> None:
    lost = censored(*[np.inf] * 6)
    evidence = sooner([reached(4, 5, 6, 7, 8, 9)], [lost])
    assert evidence.p_for == pytest.approx(1 / 64)
    assert (evidence.low, evidence.high) == (np.inf, np.inf)
    assert sooner([lost], [lost]) == Evidence(
        0.0, -np.inf, np.inf, "log ratio of times", "Mann-Whitney, 1 pair", 1.0, 1.0
    )


def test_the_pair_of_cells_with_the_smallest_ratio_decides() -> None:
    first = [reached(1, 2, 3, 4, 5, 6, 7)]
    near, far = reached(3.5, 7.5, 8, 9, 10, 11, 12), reached(30, 40, 50, 60, 70, 80, 90)
    both = sooner(first, [near, far])
    assert both.p_for == sooner(first, [near]).p_for
    assert both.low == sooner(first, [near]).low
    against = sooner([near], [*first, far])
    assert against.p_against == pytest.approx(2 * sooner([near], first).p_against)
    assert against.high == sooner([near], first, LEVEL / 2).high
    assert against.high >= sooner([near], first).high
    assert sooner([near], [*first, far, far, far]).high == np.inf  # the smallest p, 1/128, is above 0.025 / 4


def test_half_of_the_runs_have_reached_a_goal_at_the_product_limit_estimate() -> None:
    assert median(reached(3, 1, 2)) == 2
    assert median([*reached(1, 2), *censored(9, 9)]) == 2
    assert median([*reached(1), *censored(9, 9)]) is None
    assert median([*reached(1, 4, 6), *censored(2, 3)]) == 4  # 4/5 are left after 1, and half of these after 4
    assert median([*reached(1, 4), *censored(np.inf)]) == 4


def test_the_runs_that_decide_which_is_sooner_have_the_nominal_power() -> None:
    """Against drawing whole experiments from the observed runs."""
    rng = np.random.default_rng(0)
    first = [*reached(1, 2, 4, 6, 12), *censored(15)]
    second = [*reached(3, 7, 8, 10), *censored(15, 15)]
    seeds = seeds_for_times([first], [second])
    assert seeds is not None

    def draw(cell: list[Time]) -> list[Time]:
        return [cell[index] for index in rng.integers(0, len(cell), seeds)]

    power = np.mean([sooner([draw(first)], [draw(second)]).p_for < LEVEL / 2 for _ in range(300)])
    assert power == pytest.approx(POWER, abs=0.08)
    assert seeds_for_times([reached(1, 2)], [reached(5, 6)]) == 6
    assert seeds_for_times([reached(5, 6)], [reached(1, 2)]) == 6
    assert seeds_for_times([censored(5, 5)], [censored(5, 5)]) is None
    assert seeds_for_times([reached(1, 2)], [reached(5, 6), reached(50, 60)]) == 6
    assert seeds_for_times([reached(5, 6)], [reached(1, 2), reached(50, 60)]) == 7  # Bonferroni


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_intervals_agree_with_the_tests(level: float) -> None:
    rng = np.random.default_rng(5)
    verdicts = set()
    for shift, n in [(s, n) for s in (-1.5, 0.0, 1.5) for n in (4, 6, 9)] * 5:
        z = list(rng.normal(shift / 3, 0.3, n))
        times = [reached(*rng.lognormal(0, 0.8, n)), reached(*rng.lognormal(shift, 0.8, n))]
        for evidence in (correlated([z], level=level), sooner(times[:1], times[1:], level)):
            assert (evidence.low > 0) == (evidence.p_for < level / 2)
            assert (evidence.high < 0) == (evidence.p_against < level / 2)
            assert evidence.low <= evidence.effect <= evidence.high
            verdicts.add((evidence.low > 0, evidence.high < 0))
    assert len(verdicts) == 3
    p_values = [sooner([reached(*range(1, 9))], [reached(*np.arange(1, 9) * f)]).p_for for f in (1.1, 1.5, 2.1, 4.1)]
    assert all(after < before for before, after in pairwise(p_values))
