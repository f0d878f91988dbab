"""Statistical tests on metric values over seeds: differences of means and of spreads, with intervals and power."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Sample = Sequence[float]
"""The metric values of a cell, one per seed."""
Array = NDArray[np.float64]

LEVEL = 0.05
"""Significance level of every test, after correction. Confidence intervals have coverage 1 - LEVEL."""
POWER = 0.8
"""Target power of the recommended number of seeds, if the estimates equalled the true values."""
MAX_SEEDS = 1000
"""Largest number of seeds per cell that is considered."""
DRAWS = 20000
"""Draws of the parametric bootstrap."""


@dataclass(frozen=True)
class Evidence:
    """Result of testing a statement on samples."""

    effect: float
    """Estimated effect; positive if it agrees with the statement."""
    low: float
    """Lower end of the effect's confidence interval."""
    high: float
    """Upper end of the effect's confidence interval."""
    measure: str
    """Description of the effect."""
    test: str
    """Name of the test."""
    p_for: float
    """p-value of the null hypothesis that the statement is false."""
    p_against: float
    """p-value of the null hypothesis that the statement is true."""
    seeds: int | None
    """Seeds per cell for a decision with power `POWER`; None for more than `MAX_SEEDS`."""


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple testing (Holm 1979)."""
    order = np.argsort(values)
    steps = [(len(values) - rank) * values[index] for rank, index in enumerate(order)]
    adjusted = np.minimum(1, np.maximum.accumulate(steps)) if steps else np.array([])
    result = np.empty(len(values))
    result[order] = adjusted
    return [float(value) for value in result]


def _smallest(is_enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 2 to `MAX_SEEDS` that satisfies a monotone condition; None if there is none."""
    low, high = 2, 2
    while not is_enough(high):
        low, high = high + 1, high * 2
        if low > MAX_SEEDS:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low if low <= MAX_SEEDS else None


def seeds_for_a_difference(difference: float, sd: float, level: float = LEVEL) -> int | None:
    """Return the seeds per cell at which a one-sided t-test detects a difference of means with power `POWER`.

    Args:
        difference: True difference of the means.
        sd: Standard deviation over seeds: the root mean square of both cells' ones.
        level: Significance level of the test.
    """
    if difference == 0 or sd == 0:
        return None

    def is_enough(count: int) -> bool:
        freedom = 2 * count - 2
        bound = stats.t.ppf(1 - level, freedom)
        return bool(stats.nct.sf(bound, freedom, abs(difference) / sd * np.sqrt(count / 2)) >= POWER)

    return _smallest(is_enough)


def every_mean_lower(lower: Sequence[Sample], higher: Sequence[Sample], level: float = LEVEL) -> Evidence:
    """Test whether every cell of one set has a lower mean than every cell of another set.

    The statement is true if it holds for all pairs: an intersection-union test, whose p-value is the largest of
    Welch's one-sided p-values and needs no correction (Berger 1982). It is false if one pair violates it: the p-value
    against it is the smallest of the opposite p-values, times the number of pairs (Bonferroni).

    Args:
        lower: Cells whose means are claimed to be lower, each with two seeds or more.
        higher: Cells whose means are claimed to be higher, likewise.
        level: Significance level for the recommended number of seeds.
    """
    pairs = list(product(lower, higher))
    p_for = [_p_lower(low_cell, high_cell) for low_cell, high_cell in pairs]
    p_against = [_p_lower(high_cell, low_cell) for low_cell, high_cell in pairs]
    # The pair with the smallest difference (or the largest violation) decides.
    low_cell, high_cell = min(pairs, key=lambda pair: float(np.mean(pair[1]) - np.mean(pair[0])))
    difference = float(np.mean(high_cell) - np.mean(low_cell))
    spread = float(np.sqrt((np.var(low_cell, ddof=1) + np.var(high_cell, ddof=1)) / 2))
    low = high = difference
    if spread > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            interval = stats.ttest_ind(high_cell, low_cell, equal_var=False).confidence_interval(1 - LEVEL)
        low, high = float(interval.low), float(interval.high)
    return Evidence(
        difference,
        low,
        high,
        "difference of means, closest pair",
        f"Welch's t, {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}",
        max(p_for),
        min(1.0, len(pairs) * min(p_against)),
        seeds_for_a_difference(difference, spread, level if difference > 0 else level / len(pairs)),
    )


def _p_lower(lower: Sample, higher: Sample) -> float:
    """Return the p-value of Welch's one-sided test for a lower mean of the first sample."""
    if np.var(lower) == np.var(higher) == 0:  # identical values give no estimate of the noise
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one sample may have identical values
        return float(stats.ttest_ind(higher, lower, equal_var=False, alternative="greater").pvalue)


@dataclass(frozen=True)
class _Group:
    """The cells along an axis: their means and the noise of the means."""

    means: Array
    """One per cell."""
    variance: float
    """Variance over seeds, pooled over the cells."""
    freedom: int
    """Degrees of freedom of `variance`."""
    counts: Array
    """Seeds of each cell."""

    @classmethod
    def from_cells(cls, cells: Sequence[Sample]) -> "_Group":
        counts = np.array([len(cell) for cell in cells], float)
        freedom = int(counts.sum()) - len(cells)
        squares = sum(float(np.var(cell)) * len(cell) for cell in cells)
        return cls(np.array([np.mean(cell) for cell in cells]), squares / freedom, freedom, counts)

    @property
    def noise(self) -> float:
        """Variance of the means that is due to the seeds."""
        return self.variance * float(np.mean(1 / self.counts))

    @property
    def effect_variance(self) -> float:
        """Unbiased estimate of the true means' variance: that of the means minus `noise`. May be negative."""
        return float(np.var(self.means, ddof=1)) - self.noise

    def draw(self, centres: Array, rng: np.random.Generator, count: float | None = None) -> Array:
        """Simulate the standard deviation of the cells' means.

        The variance over seeds is uncertain as well, so it is drawn from its scaled inverse chi-squared distribution.

        Args:
            centres: True means, ``[draws, cells]``.
            rng: Source of randomness.
            count: Seeds per cell; by default the actual ones.

        Returns:
            Standard deviations ``[draws]``.
        """
        variance = self.variance * self.freedom / rng.chisquare(self.freedom, (len(centres), 1))
        seeds = self.counts if count is None else np.full(len(self.counts), count)
        sds: Array = np.std(centres + rng.normal(size=centres.shape) * np.sqrt(variance / seeds), axis=1, ddof=1)
        return sds

    def patterns(self, sd: float, rng: np.random.Generator, draws: int) -> Array:
        """Return random true means ``[draws, cells]`` with standard deviation `sd` in each draw."""
        means = rng.normal(size=(draws, len(self.means)))
        means -= means.mean(1, keepdims=True)
        means *= sd / np.std(means, axis=1, ddof=1, keepdims=True)
        return means


def spread_less(narrow: Sequence[Sample], wide: Sequence[Sample], level: float = LEVEL) -> Evidence:
    """Test whether the means of one set of cells spread less than the means of another set.

    The statistic is the difference of the standard deviations of the cells' means. Its null distribution, in which
    both true spreads are equal, is simulated by a parametric bootstrap with each side's noise over seeds, so that a
    larger noise is not mistaken for a larger spread. The distribution depends on the common spread: the p-value is
    the larger of those for a spread of zero and for the estimated spread.

    Args:
        narrow: Cells whose means are claimed to spread less: two or more, each with two seeds or more.
        wide: Cells whose means are claimed to spread more, likewise.
        level: Significance level for the recommended number of seeds.
    """
    groups = _Group.from_cells(narrow), _Group.from_cells(wide)
    rng = np.random.default_rng(0)
    statistic = float(np.std(groups[1].means, ddof=1) - np.std(groups[0].means, ddof=1))

    common_sd = float(np.sqrt(max(0.0, (groups[0].effect_variance + groups[1].effect_variance) / 2)))

    def null_statistics(sd: float, draws: int, count: float | None = None) -> Array:
        narrow_sds, wide_sds = (group.draw(group.patterns(sd, rng, draws), rng, count) for group in groups)
        return wide_sds - narrow_sds

    nulls = [null_statistics(sd, DRAWS) for sd in (0.0, common_sd)]
    spreads = []
    for group in groups:
        resampled = group.draw(np.tile(group.means, (DRAWS, 1)), rng)
        # Remove the noise twice: the means contain it, and the draw adds it again.
        spreads.append(np.sqrt(np.maximum(0, resampled**2 - 2 * group.noise)))
    low, high = np.quantile(spreads[1] - spreads[0], [LEVEL / 2, 1 - LEVEL / 2])
    true_sds = [float(np.sqrt(max(0.0, group.effect_variance))) for group in groups]
    sign = 1 if true_sds[1] >= true_sds[0] else -1

    def is_enough(count: int) -> bool:
        draws = DRAWS // 10
        bound = max(np.quantile(sign * null_statistics(sd, draws, count), 1 - level) for sd in (0.0, common_sd))
        narrow_sds, wide_sds = (
            group.draw(group.patterns(sd, rng, draws), rng, count) for group, sd in zip(groups, true_sds, strict=True)
        )
        return bool(np.mean(sign * (wide_sds - narrow_sds) > bound) >= POWER)

    return Evidence(
        true_sds[1] - true_sds[0],
        float(low),
        float(high),
        "difference of the means' standard deviations",
        "parametric bootstrap",
        max(float((1 + np.sum(null >= statistic)) / (1 + DRAWS)) for null in nulls),
        max(float((1 + np.sum(null <= statistic)) / (1 + DRAWS)) for null in nulls),
        None if true_sds[0] == true_sds[1] else _smallest(is_enough),
    )
