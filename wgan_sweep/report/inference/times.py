"""Tests of whether runs of one kind reach a goal sooner than runs of another kind."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wgan_sweep.report.inference.evidence import LEVEL, POWER, TRIALS, Array, Evidence, smallest

MAX_EXACT = 40
"""Runs of a side up to which the null distribution is exact; beyond, it is the normal one."""
WITHIN_BLOCKS = 1.25
"""Factor of the p-value of a sign test where U is between whole numbers of blocks, see `p_value`."""


@dataclass(frozen=True)
class Time:
    """When a run reached the goal, or until when it had not."""

    value: float
    """Positive; infinite for a run that will never reach it."""
    is_reached: bool


Cell = Sequence[Time]
"""The times of a cell, one per run."""


def median(cell: Cell) -> float | None:
    """Return the time by which half of the runs have reached the goal (Kaplan and Meier); None if fewer have."""
    data = stats.CensoredData(
        uncensored=[time.value for time in cell if time.is_reached],
        right=[min(time.value, sys.float_info.max) for time in cell if not time.is_reached],
    )
    remaining = stats.ecdf(data).sf
    halves = remaining.quantiles[remaining.probabilities <= 0.5 + 1e-9]
    return float(halves[0]) if len(halves) else None


@cache
def _exact_cdf(first: int, second: int) -> Array:
    """Return P(U <= u) for u = 0, 1, ..., first * second, if both samples have the same continuous distribution.

    The numbers of arrangements are the coefficients of a Gaussian binomial (Mann and Whitney 1947).
    """
    counts = [1] + [0] * (first * second)
    for factor in range(1, first + 1):
        for power in range(first * second, second + factor - 1, -1):
            counts[power] -= counts[power - second - factor]
        for power in range(factor, first * second + 1):
            counts[power] += counts[power - factor]
    return np.cumsum(counts, dtype=object).astype(float) / float(sum(counts))


def mann_whitney_cdf(u: NDArray[np.int_], first: int, second: int) -> Array:
    """Return P(U <= u) for the number U of pairs in which the first value is the larger one, under the null hypothesis.

    Args:
        u: Whole numbers from 0 to `first` times `second`, of any shape.
        first: Size of the first sample.
        second: Size of the second sample.
    """
    if max(first, second) <= MAX_EXACT:
        return np.asarray(_exact_cdf(first, second)[u])
    sd = np.sqrt(first * second * (first + second + 1) / 12)
    return np.asarray(stats.norm.cdf((u + 0.5 - first * second / 2) / sd))


def p_value(u: NDArray[np.int_], first: int, second: int) -> Array:
    """Return the one-sided p-value of Mann and Whitney's U for any spreads of the two samples.

    It is the larger of two p-values. The first is that of Mann and Whitney, for samples of the same distribution. The
    second is for a sample that spreads far more widely than the other. Each of its values is then below or above all
    values of the other sample, so U is a multiple of the other sample's size (a block), as in a sign test. Among
    distributions with P(X < Y) = 1/2, U has its largest variance in this case (Birnbaum and Klose 1957).

    With less extreme spreads, U is only near such a multiple. The p-value of a block is therefore also used for the
    last quarter of the block before it, and before that quarter, it is `WITHIN_BLOCKS` times as large. Both were chosen
    by simulation, with 6 to 20 values per sample and spreads from 1:1 to 1:1000: without the factor, the probability of
    so small a U is up to 1.21 times the p-value.

    Args:
        u: Whole numbers from 0 to `first` times `second`, of any shape.
        first: Size of the first sample.
        second: Size of the second sample.
    """
    blocks = [_block_p_value(u, count, block) for count, block in ((first, second), (second, first))]
    return np.asarray(np.max([mann_whitney_cdf(u, first, second), *blocks], axis=0))


def _block_p_value(u: NDArray[np.int_], count: int, block: int) -> Array:
    number = (u + block // 4) // block
    exact, following = (stats.binom.cdf(number + ahead, count, 0.5) for ahead in (0, 1))
    is_within = (u % block > 0) & (number == u // block)
    return np.asarray(np.where(is_within, np.minimum(WITHIN_BLOCKS * exact, following), exact))


@cache
def _critical(first: int, second: int, level: float) -> int:
    """Return the largest u whose p-value is below a one-sided level; -1 if there is none."""
    return int(np.sum(p_value(np.arange(first * second + 1), first, second) < level)) - 1


class _Ratios:
    """Logarithms of the ratios of times of two cells, second over first: ``[first, second]``, between bounds."""

    def __init__(self, first: Cell, second: Cell) -> None:
        logs = [np.log([time.value for time in cell]) for cell in (first, second)]
        are_reached = [np.array([time.is_reached for time in cell]) for cell in (first, second)]
        largest = max(float(np.max(log[np.isfinite(log)], initial=-np.inf)) for log in logs)
        shown = [np.minimum(log, largest if np.isfinite(largest) else 0.0) for log in logs]
        is_known = are_reached[0][:, None] | are_reached[1][None]
        self.estimate = float(np.median(np.where(is_known, shown[1][None] - shown[0][:, None], 0.0)))
        """The median ratio, if a run that has not reached the goal had reached it at the last time that is known of it;
        of two such runs, the ratio counts as 1."""
        with np.errstate(invalid="ignore"):  # two infinite times
            ratios = logs[1][None] - logs[0][:, None]
        self.at_least = np.where(are_reached[0][:, None], ratios, -np.inf)
        self.at_most = np.where(are_reached[1][None], ratios, np.inf)

    @property
    def sizes(self) -> tuple[int, int]:
        return (self.at_least.shape[0], self.at_least.shape[1])

    def p_sooner(self) -> float:
        """Return the one-sided p-value of the first cell being sooner."""
        return float(p_value(np.array(np.sum(self.at_least <= 0), int), *self.sizes))

    def p_later(self) -> float:
        """Return the one-sided p-value of the first cell being later."""
        return float(p_value(np.array(np.sum(self.at_most >= 0), int), *self.sizes))

    def low(self, level: float) -> float:
        """Return the lower confidence bound of the logarithm of the ratio at a one-sided level."""
        u = _critical(*self.sizes, level)
        return float(np.sort(self.at_least, axis=None)[u]) if u >= 0 else -np.inf

    def high(self, level: float) -> float:
        """Return the upper confidence bound of the logarithm of the ratio at a one-sided level."""
        u = _critical(*self.sizes, level)
        return float(np.sort(self.at_most, axis=None)[::-1][u]) if u >= 0 else np.inf


def sooner(first: Sequence[Cell], second: Sequence[Cell], level: float = LEVEL) -> Evidence:
    """Test whether every cell of one set reaches a goal sooner than every cell of another set.

    Mann and Whitney's test of each pair of cells, with the p-value of the least favourable spreads (`p_value`). A pair
    of runs counts against a verdict unless it is certain which run was sooner. Equal times are not, and neither are two
    runs that have not reached the goal, or one that reached it after the last known time of the other. So the error
    rate holds for any censoring: it may be unequal, and depend on the times. The effect is the median logarithm of the
    ratio of times, second over first (Hodges and Lehmann). Its interval consists of the factors that the test, for
    times of the first cells multiplied by them, does not reject. At a one-sided level of 0.025, a cell of fewer than 6
    runs is never decided.

    The null hypothesis is that a run of the first cell is sooner with a probability of at most one half. The spreads of
    the two cells may differ.

    The statement is true if it holds for all pairs of cells (an intersection-union test), and false if one pair
    violates it (Bonferroni). The effect is the smallest of the pairs.

    Args:
        first: Cells that are claimed to be sooner.
        second: Cells that they are compared with.
        level: Error rate of the verdict; the interval covers 1 - `level`.
    """
    pairs = [_Ratios(a, b) for a, b in product(first, second)]
    count = len(pairs)
    low = min(pair.low(level / 2) for pair in pairs)
    high = min(pair.high(level / 2 / count) for pair in pairs)
    return Evidence(
        float(np.clip(min(pair.estimate for pair in pairs), low, high)),
        low,
        high,
        "log ratio of times" if count == 1 else "smallest log ratio of times",
        f"Mann-Whitney, {count} {'pair' if count == 1 else 'pairs'}",
        max(pair.p_sooner() for pair in pairs),
        min(1.0, count * min(pair.p_later() for pair in pairs)),
    )


def seeds_for_times(first: Sequence[Cell], second: Sequence[Cell], level: float = LEVEL) -> int | None:
    """Return the runs per cell at which `sooner` decides with power `POWER`.

    The test is simulated: the runs of further experiments are drawn from the observed ones.

    Args:
        first: Cells that are claimed to be sooner.
        second: Cells that they are compared with.
        level: Error rate of the verdict. The target is the verdict that agrees with the estimates.

    Returns:
        The number; None if it is above `MAX_SEEDS`.
    """
    pairs = {(i, j): _Ratios(a, b) for (i, a), (j, b) in product(enumerate(first), enumerate(second))}
    supports = min(pair.estimate for pair in pairs.values()) > 0
    one_sided = level / 2 if supports else level / 2 / len(pairs)
    against = {key: pair.at_least <= 0 if supports else pair.at_most >= 0 for key, pair in pairs.items()}

    def is_enough(seeds: int) -> bool:
        critical = _critical(seeds, seeds, one_sided)
        rng = np.random.default_rng(1)
        drawn = [
            [rng.multinomial(seeds, np.full(len(cell), 1 / len(cell)), TRIALS) for cell in side]
            for side in (first, second)
        ]
        rejected = [
            np.einsum("ti,ij,tj->t", drawn[0][i], matrix.astype(int), drawn[1][j]) <= critical
            for (i, j), matrix in against.items()
        ]
        decided = np.all(rejected, axis=0) if supports else np.any(rejected, axis=0)
        return bool(np.mean(decided) >= POWER)

    return smallest(is_enough)
