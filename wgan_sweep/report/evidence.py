"""What seeds say: tests of means and of spreads, with intervals and the number of seeds that would decide."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Sample = Sequence[float]
"""The scores of a cell's seeds."""
Array = NDArray[np.float64]

LEVEL = 0.05
"""Of every test, after correction; intervals hold 1 - LEVEL."""
POWER = 0.8
"""With which the named number of seeds would decide, if the estimates were the truth."""
MOST_SEEDS = 1000
DRAWS = 20000
"""Of a parametric bootstrap."""


@dataclass(frozen=True)
class Evidence:
    """What samples say of a statement."""

    effect: float
    """Positive where the samples are on the statement's side."""
    low: float
    high: float
    """The effect's interval."""
    measure: str
    """What the effect is."""
    test: str
    p_for: float
    """Of the hypothesis that the statement is false."""
    p_against: float
    """Of the hypothesis that it is true."""
    seeds: int | None
    """Seeds per cell that would decide; None for more than `MOST_SEEDS`."""


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979)."""
    order = np.argsort(values)
    steps = [(len(values) - rank) * values[index] for rank, index in enumerate(order)]
    adjusted = np.minimum(1, np.maximum.accumulate(steps)) if steps else np.array([])
    result = np.empty(len(values))
    result[order] = adjusted
    return [float(value) for value in result]


def _first(enough: Callable[[int], bool]) -> int | None:
    """Return the least number from 2 on that is enough, for what more never spoils."""
    low, high = 2, 2
    while not enough(high):
        low, high = high + 1, high * 2
        if low > MOST_SEEDS:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low if low <= MOST_SEEDS else None


def seeds_for_a_difference(difference: float, sd: float, level: float = LEVEL) -> int | None:
    """Return the seeds per cell with which a one-sided t-test would find a difference of means.

    Args:
        difference: Of the means.
        sd: Standard deviation over seeds, the root mean square of both cells.
        level: Of the test.
    """
    if difference == 0 or sd == 0:
        return None

    def enough(count: int) -> bool:
        freedom = 2 * count - 2
        bound = stats.t.ppf(1 - level, freedom)
        return bool(stats.nct.sf(bound, freedom, abs(difference) / sd * np.sqrt(count / 2)) >= POWER)

    return _first(enough)


def every_mean_lower(these: Sequence[Sample], those: Sequence[Sample], level: float = LEVEL) -> Evidence:
    """Judge that each of these cells has a lower mean than each of those.

    It holds if all pairs do: an intersection-union test, whose p-value is the largest of Welch's one-sided ones and
    needs no correction (Berger 1982). It fails if any pair does: there, the smallest times their number.

    Args:
        these: The cells that are to be lower, two seeds or more of each.
        those: The cells they are compared with.
        level: At which the named number of seeds would decide.
    """
    pairs = list(product(these, those))
    lower = [_p_lower(one, other) for one, other in pairs]
    higher = [_p_lower(other, one) for one, other in pairs]
    one, other = min(pairs, key=lambda pair: float(np.mean(pair[1]) - np.mean(pair[0])))  # the closest, or the worst
    difference = float(np.mean(other) - np.mean(one))
    spread = float(np.sqrt((np.var(one, ddof=1) + np.var(other, ddof=1)) / 2))
    low = high = difference
    if spread > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            interval = stats.ttest_ind(other, one, equal_var=False).confidence_interval(1 - LEVEL)
        low, high = float(interval.low), float(interval.high)
    return Evidence(
        difference,
        low,
        high,
        "difference of means, closest pair",
        f"Welch's t, {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}",
        max(lower),
        min(1.0, len(pairs) * min(higher)),
        seeds_for_a_difference(difference, spread, level if difference > 0 else level / len(pairs)),
    )


def _p_lower(lower: Sample, higher: Sample) -> float:
    """Return Welch's one-sided p-value: that so much speaks for a lower mean which is not lower."""
    if np.var(lower) == np.var(higher) == 0:  # seeds that differ in nothing say nothing of their noise
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a cell whose seeds differ in nothing
        return float(stats.ttest_ind(higher, lower, equal_var=False, alternative="greater").pvalue)


@dataclass(frozen=True)
class _Group:
    """Cells along an axis: their means, and the noise of those."""

    means: Array
    variance: float
    """Over seeds, pooled."""
    freedom: int
    counts: Array

    @classmethod
    def of(cls, cells: Sequence[Sample]) -> "_Group":
        counts = np.array([len(cell) for cell in cells], float)
        freedom = int(counts.sum()) - len(cells)
        squares = sum(float(np.var(cell)) * len(cell) for cell in cells)
        return cls(np.array([np.mean(cell) for cell in cells]), squares / freedom, freedom, counts)

    @property
    def noise(self) -> float:
        """The variance that seeds alone give the means."""
        return self.variance * float(np.mean(1 / self.counts))

    @property
    def effect_variance(self) -> float:
        """The means' variance, less what seeds alone give (it may be negative)."""
        return float(np.var(self.means, ddof=1)) - self.noise

    def draw(self, centres: Array, rng: np.random.Generator, count: float | None = None) -> Array:
        """Return standard deviations of means that seeds would give around true means ``[draws, cells]``.

        The variance over seeds is itself uncertain: it is drawn, too.
        """
        variance = self.variance * self.freedom / rng.chisquare(self.freedom, (len(centres), 1))
        seeds = self.counts if count is None else np.full(len(self.counts), count)
        found: Array = np.std(centres + rng.normal(size=centres.shape) * np.sqrt(variance / seeds), axis=1, ddof=1)
        return found

    def patterns(self, sd: float, rng: np.random.Generator, draws: int) -> Array:
        """Return true means ``[draws, cells]`` whose standard deviation is `sd`, in any direction."""
        found = rng.normal(size=(draws, len(self.means)))
        found -= found.mean(1, keepdims=True)
        found *= sd / np.std(found, axis=1, ddof=1, keepdims=True)
        return found


def spread_less(these: Sequence[Sample], those: Sequence[Sample], level: float = LEVEL) -> Evidence:
    """Judge that the means of these cells differ less from each other than the means of those.

    The statistic is the difference of the standard deviations of the cells' means. Its distribution where both true
    spreads are equal is simulated (a parametric bootstrap, with the seeds' noise of each side), so that more noise on
    one side is not taken for more spread. That depends on how large the equal spread is: of none and of the estimated
    one, the p-value is the larger.

    Args:
        these: The cells whose means are to differ less: two or more, of two seeds or more.
        those: The cells they are compared with.
        level: At which the named number of seeds would decide.
    """
    one, other = _Group.of(these), _Group.of(those)
    rng = np.random.default_rng(0)
    found = float(np.std(other.means, ddof=1) - np.std(one.means, ddof=1))

    estimated = float(np.sqrt(max(0.0, (one.effect_variance + other.effect_variance) / 2)))

    def if_equal(sd: float, draws: int, count: float | None = None) -> Array:
        sides = (group.draw(group.patterns(sd, rng, draws), rng, count) for group in (one, other))
        first, second = sides
        return second - first

    nulls = [if_equal(sd, DRAWS) for sd in (0.0, estimated)]
    spreads = []
    for group in (one, other):
        again = group.draw(np.tile(group.means, (DRAWS, 1)), rng)
        spreads.append(np.sqrt(np.maximum(0, again**2 - 2 * group.noise)))  # noise of the means, and of the draw
    low, high = np.quantile(spreads[1] - spreads[0], [LEVEL / 2, 1 - LEVEL / 2])
    truth = [float(np.sqrt(max(0.0, group.effect_variance))) for group in (one, other)]
    sign = 1 if truth[1] >= truth[0] else -1

    def enough(count: int) -> bool:
        draws = DRAWS // 10
        bound = max(np.quantile(sign * if_equal(sd, draws, count), 1 - level) for sd in (0.0, estimated))
        first, second = (
            g.draw(g.patterns(sd, rng, draws), rng, count) for g, sd in zip((one, other), truth, strict=True)
        )
        return bool(np.mean(sign * (second - first) > bound) >= POWER)

    return Evidence(
        truth[1] - truth[0],
        float(low),
        float(high),
        "difference of the means' standard deviations",
        "parametric bootstrap",
        max(float((1 + np.sum(null >= found)) / (1 + DRAWS)) for null in nulls),
        max(float((1 + np.sum(null <= found)) / (1 + DRAWS)) for null in nulls),
        None if truth[0] == truth[1] else _first(enough),
    )
