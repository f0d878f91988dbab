"""Statistical tests on metric values over seeds: differences of means and of spreads, with intervals and power.

Every cell has its own noise over seeds, estimated from its own seeds: a pooled estimate would be wrong where one cell
is noisier than the others. With few seeds the tests are conservative; `tests/report/test_calibration.py` measures their
error rates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Sample = Sequence[float]
"""The metric values of a cell, one per seed."""
Array = NDArray[np.float64]

LEVEL = 0.05
"""Error rate of a verdict: of supported and contradicted together, `LEVEL` / 2 each. Intervals cover 1 - `LEVEL`."""
POWER = 0.8
"""Target power of the recommended number of seeds, if the estimates equalled the true values."""
MAX_SEEDS = 1000
"""Largest number of seeds per cell that is considered."""
DRAWS = 8000
"""Draws of a simulated null distribution."""
TRIALS = 400
"""Simulated experiments, to find the power of a number of seeds."""
SPREAD_TRIALS, SPREAD_DRAWS = 100, 500
"""The same, and `DRAWS`, for tests of spreads, which simulate a null distribution in every trial."""
SAME = 1e-12
"""Values that differ by less than this, relative to their size, count as identical."""


@dataclass(frozen=True)
class Evidence:
    """Result of testing a statement on samples."""

    effect: float
    """Estimated effect; positive if it agrees with the statement."""
    low: float
    """Lower end of the effect's confidence interval; above 0 exactly if `p_for` is below `LEVEL` / 2."""
    high: float
    """Upper end of the effect's confidence interval; below 0 exactly if `p_against` is below `LEVEL` / 2."""
    measure: str
    """Description of the effect."""
    test: str
    """Name of the test."""
    p_for: float
    """One-sided p-value of the null hypothesis that the statement is false."""
    p_against: float
    """One-sided p-value of the null hypothesis that the statement is true."""


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple testing (Holm 1979)."""
    order = np.argsort(values)
    steps = [(len(values) - rank) * values[index] for rank, index in enumerate(order)]
    adjusted = np.minimum(1, np.maximum.accumulate(steps)) if steps else np.array([])
    result = np.empty(len(values))
    result[order] = adjusted
    return [float(value) for value in result]


@dataclass(frozen=True)
class _Means:
    """The means of cells and what is known about them: ``[cells]`` each."""

    means: Array
    sds: Array
    """Standard deviations over seeds."""
    counts: Array
    """Seeds."""

    @property
    def errors(self) -> Array:
        """Standard errors."""
        return self.sds / np.sqrt(self.counts)

    @property
    def freedom(self) -> Array:
        """Degrees of freedom of the standard errors."""
        return self.counts - 1

    def noise(self, draws: int, rng: np.random.Generator) -> Array:
        """Draw deviations of the observed means from the true ones ``[draws, cells]``, whose size is not known exactly.

        The uncertainty of the size is common to all cells, with Satterthwaite's degrees of freedom for the sum of the
        squared errors: of all cells, or weighted by how far each cell lies from the mean, whichever is smaller.
        """
        squares = self.errors**2
        distances = _standardised(self.means[None])[0] ** 2
        weighted = [squares * weights for weights in (np.ones_like(squares), distances) if weights.any()]
        freedom = min(float(np.sum(part) ** 2 / np.sum(part**2 / self.freedom)) for part in weighted)
        common = np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)))
        return np.asarray(self.errors * rng.normal(size=(draws, len(squares))) * common)

    def repeated(self, trials: int, seeds: int, rng: np.random.Generator) -> list["_Means"]:
        """Simulate experiments with that many seeds in each cell, as if the estimates were the true values."""
        cells = len(self.means)
        means = self.means + self.sds * rng.normal(size=(trials, cells)) / np.sqrt(seeds)
        sds = self.sds * np.sqrt(rng.chisquare(seeds - 1, (trials, cells)) / (seeds - 1))
        counts = np.full(cells, float(seeds))
        return [_Means(mean, sd, counts) for mean, sd in zip(means, sds, strict=True)]


def _summaries(*sides: Sequence[Sample]) -> list[_Means] | None:
    """Return the means of each side's cells; None if no cell has different values.

    Identical values do not show how noisy their cell is. It is taken to be as noisy as the noisiest other cell.
    """
    sds = [np.array([_sd(cell) for cell in side]) for side in sides]
    largest = max(float(np.max(side)) for side in sds)
    if largest == 0:
        return None
    return [
        _Means(
            np.array([float(np.mean(cell)) for cell in side]),
            np.where(side_sds == 0, largest, side_sds),
            np.array([float(len(cell)) for cell in side]),
        )
        for side, side_sds in zip(sides, sds, strict=True)
    ]


def _sd(cell: Sample) -> float:
    """Return the standard deviation over seeds; 0 for values that are identical up to rounding."""
    return 0.0 if np.ptp(cell) <= SAME * np.max(np.abs(cell)) else float(np.std(cell, ddof=1))


def _smallest(is_enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 2 to `MAX_SEEDS` that satisfies a monotone condition; None if there is none."""
    low, high = 2, 2
    while not is_enough(high):
        if high == MAX_SEEDS:
            return None
        low, high = high + 1, min(MAX_SEEDS, high * 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


_ABSCISSAE = np.linspace(-20, 20, 801)


def behrens_fisher_sf(x: Array, first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """Return P(a·t + b·u > x) for independent t and u, Student's t variables: a Behrens-Fisher distribution.

    The one-sided p-value of a difference x of two means with standard errors a and b. Its error rate is at most the
    nominal one (Robinson 1976), unlike that of Welch's test with two or three seeds.

    Args:
        x: Differences, of any shape.
        first: a and the degrees of freedom of t; broadcast with `x`.
        second: b and the degrees of freedom of u; likewise.

    Returns:
        Probabilities of the shape of `x`, to about 1e-9: the trapezoidal rule after the substitution t = sinh(s).
    """
    x, a, f, b, g = np.broadcast_arrays(x, *first, *second)
    a, f, b, g = np.where(a <= b, (a, f, b, g), (b, g, a, f))[..., None]
    t = np.sinh(_ABSCISSAE)
    weights = stats.t.pdf(t, f) * np.cosh(_ABSCISSAE) * (_ABSCISSAE[1] - _ABSCISSAE[0])
    return np.asarray(np.sum(weights * stats.t.sf((x[..., None] - a * t) / b, g), axis=-1))


def behrens_fisher_isf(p: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the x at which `behrens_fisher_sf` is p, for p below 1/2."""
    bound = sum(error * stats.t.isf(p / 2, freedom) for error, freedom in (first, second))

    def excess(x: float) -> float:
        sides = [(np.array(error), np.array(freedom)) for error, freedom in (first, second)]
        return float(np.log(behrens_fisher_sf(np.array(x), *sides) / p))

    return float(optimize.brentq(excess, 0, bound, xtol=1e-9 * bound, rtol=1e-10))


@cache
def _critical_values(freedom: int, p: float) -> Array:
    """Return quantiles of cos(θ)·t + sin(θ)·u, with equal degrees of freedom, at `_ANGLES`."""
    return np.array(
        [behrens_fisher_isf(p, (float(np.cos(a)), freedom), (float(np.sin(a)) + 1e-12, freedom)) for a in _ANGLES]
    )


_ANGLES = np.linspace(0, np.pi / 4, 9)


def _are_larger(differences: Array, errors: tuple[Array, Array], freedom: int, p: float) -> Array:
    """Return which differences have one-sided Behrens-Fisher p-values below p; equal degrees of freedom."""
    small, large = np.minimum(*errors), np.maximum(*errors)
    bounds = np.interp(np.arctan2(small, large), _ANGLES, _critical_values(freedom, p))
    return np.asarray(differences > bounds * np.hypot(small, large))


def every_mean_lower(lower: Sequence[Sample], higher: Sequence[Sample]) -> Evidence:
    """Test whether every cell of one set has a lower mean than every cell of another set.

    The effect is the smallest difference of means over all pairs. The statement is true if it holds for all pairs: an
    intersection-union test, whose p-value is the largest of the pairs' one-sided p-values and needs no correction
    (Berger 1982). It is false if one pair violates it: the p-value against it is the smallest of the opposite p-values,
    times the number of pairs (Bonferroni). The interval consists of the bounds that belong to these tests. The smallest
    of several noisy differences is too small on average; the estimate is corrected by the bias of a simulation.

    Args:
        lower: Cells whose means are claimed to be lower, each with two seeds or more.
        higher: Cells whose means are claimed to be higher, likewise.
    """
    summaries = _summaries(lower, higher)
    count = len(lower) * len(higher)
    measure = "smallest difference of means" if count > 1 else "difference of means"
    test = f"Behrens-Fisher, {count} {'pair' if count == 1 else 'pairs'}"
    if summaries is None:
        difference = min(float(np.mean(b) - np.mean(a)) for a, b in product(lower, higher))
        return Evidence(difference, -np.inf, np.inf, measure, test, 1.0, 1.0)
    low, high = summaries
    differences = high.means[None] - low.means[:, None]
    sides = (low.errors[:, None], low.freedom[:, None]), (high.errors[None], high.freedom[None])
    p_for = behrens_fisher_sf(differences, *sides)
    p_against = behrens_fisher_sf(-differences, *sides)

    def half_widths(p: float) -> Array:
        return np.array(
            [
                [behrens_fisher_isf(p, (a, f), (b, g)) for b, g in zip(high.errors, high.freedom, strict=True)]
                for a, f in zip(low.errors, low.freedom, strict=True)
            ]
        )

    interval = (
        float(np.min(differences - half_widths(LEVEL / 2))),
        float(np.min(differences + half_widths(LEVEL / 2 / count))),
    )
    rng = np.random.default_rng(0)
    draws = [side.means + side.errors * rng.normal(size=(DRAWS, len(side.means))) for side in summaries]
    smallest = float(np.min(differences))
    bias = float(np.mean(np.min(draws[1], axis=1) - np.max(draws[0], axis=1))) - smallest
    effect = float(np.clip(smallest - bias, *interval))
    return Evidence(
        effect,
        *interval,
        measure,
        test,
        float(np.max(p_for)),
        min(1.0, count * float(np.min(p_against))),
    )


def seeds_for_means(lower: Sequence[Sample], higher: Sequence[Sample], level: float = LEVEL) -> int | None:
    """Return the seeds per cell at which `every_mean_lower` decides with power `POWER`.

    The test is simulated, as if the estimated means and noise were the true ones. The verdict that is aimed at is the
    one of the estimated effect.

    Args:
        lower: Cells whose means are claimed to be lower, each with two seeds or more.
        higher: Cells whose means are claimed to be higher, likewise.
        level: Error rate of the verdict.

    Returns:
        The number; None if it is above `MAX_SEEDS`, or if there is no estimate of the noise.
    """
    summaries = _summaries(lower, higher)
    if summaries is None:
        return None
    count = len(lower) * len(higher)
    supports = every_mean_lower(lower, higher).effect > 0

    def is_enough(seeds: int) -> bool:
        rng = np.random.default_rng(1)
        means, errors = [], []
        for side in summaries:
            repeated = side.repeated(TRIALS, seeds, rng)
            means.append(np.array([item.means for item in repeated]))
            errors.append(np.array([item.errors for item in repeated]))
        differences = means[1][:, None, :] - means[0][:, :, None]
        pair_errors = errors[0][:, :, None], errors[1][:, None, :]
        if supports:
            decided = _are_larger(differences, pair_errors, seeds - 1, level / 2).all(axis=(1, 2))
        else:
            decided = _are_larger(-differences, pair_errors, seeds - 1, level / 2 / count).any(axis=(1, 2))
        return bool(np.mean(decided) >= POWER)

    return _smallest(is_enough)


SPREADS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 8.0)
"""Common spreads at which the null distribution is simulated, relative to the larger spread of the observed means."""


@dataclass(frozen=True)
class _NullSpreads:
    """Simulates the difference of two sets' standard deviations of means, for given true spreads.

    The distribution depends on the common spread, and on how the true means are arranged: with one cell apart from the
    others, the noise of that cell counts most. p-values are therefore the largest over several spreads and two
    arrangements, the observed one and random ones.
    """

    arrangements: tuple[tuple[Array, Array], ...]
    """Means of narrow and wide cells with standard deviation 1, ``[draws or 1, cells]`` each."""
    noise: tuple[Array, Array]
    """Noise of the means ``[draws, cells]``."""
    scale: float
    """Unit of `SPREADS`."""

    @classmethod
    def around(cls, narrow: _Means, wide: _Means, draws: int, rng: np.random.Generator) -> "_NullSpreads":
        """Return the simulation for the noise and the arrangement of observed means."""
        sides = narrow, wide
        observed = [_standardised(side.means[None]) for side in sides]
        random = [_standardised(rng.normal(size=(draws, len(side.means)))) for side in sides]
        noise = tuple(side.noise(draws, rng) for side in sides)
        scale = max(float(np.std(side.means, ddof=1)) for side in sides)
        return cls(
            tuple((a, b) for a, b in (observed, random)),
            (noise[0], noise[1]),
            scale or max(float(np.max(side.errors)) for side in sides),
        )

    def p_values(self, statistic: float, effect: float = 0.0) -> tuple[float, float]:
        """Return the largest probabilities of a difference that is at least, and at most, an observed one.

        Args:
            statistic: The observed difference: the wide cells' standard deviation minus the narrow cells'.
            effect: The true difference.
        """
        above = below = 0
        for relative in SPREADS:
            narrow_spread = relative * self.scale + max(0.0, -effect)
            for narrow, wide in self.arrangements:
                sds = [
                    np.std(means * spread + noise, axis=1, ddof=1)
                    for means, spread, noise in zip(
                        (narrow, wide), (narrow_spread, narrow_spread + effect), self.noise, strict=True
                    )
                ]
                differences = sds[1] - sds[0]
                above = max(above, int(np.sum(differences >= statistic)))
                below = max(below, int(np.sum(differences <= statistic)))
        draws = len(self.noise[0])
        return (1 + above) / (1 + draws), (1 + below) / (1 + draws)


def _standardised(means: Array) -> Array:
    """Centre means and scale them to standard deviation 1 along the last axis; equal means stay 0."""
    centred = means - means.mean(axis=-1, keepdims=True)
    sds = np.asarray(np.std(centred, axis=-1, ddof=1, keepdims=True))
    return np.asarray(centred / np.where(sds > 0, sds, 1.0))


def _bound(is_rejected: Callable[[float], bool], estimate: float, step: float) -> float:
    """Return the last effect that is not rejected in the direction of `step`.

    Args:
        is_rejected: Whether an effect is rejected.
        estimate: An effect that is not rejected.
        step: Size of the search's first step, negative for a lower bound.
    """
    if is_rejected(0.0):
        inside, outside = estimate, 0.0
    else:
        inside, outside = 0.0, step
        while not is_rejected(outside):
            inside, outside = outside, 4 * outside
            if abs(outside) > 1e6 * abs(step):
                return float(np.copysign(np.inf, step))
    while abs(outside - inside) > 1e-3 * abs(step):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_rejected(middle) else (middle, outside)
    return inside


def _with_spread(side: _Means, sd: float) -> _Means:
    """Return the means rescaled to a standard deviation."""
    return replace(side, means=side.means.mean() + sd * _standardised(side.means))


def _difference_of_spreads(narrow: _Means, wide: _Means) -> float:
    return float(np.std(wide.means, ddof=1) - np.std(narrow.means, ddof=1))


def _true_spread(side: _Means) -> float:
    """Estimate the standard deviation of the true means: without the part that is due to noise over seeds."""
    return float(np.sqrt(max(0.0, float(np.var(side.means, ddof=1)) - float(np.mean(side.errors**2)))))


def spread_less(narrow: Sequence[Sample], wide: Sequence[Sample]) -> Evidence:
    """Test whether the means of one set of cells spread less than the means of another set.

    The effect is the difference of the standard deviations of the true means. The statistic is the same difference of
    the observed means. Its null distribution is simulated with the noise over seeds of every single cell, at the least
    favourable common spread. The interval consists of the effects that this test, for other effects than 0, does not
    reject.

    Args:
        narrow: Cells whose means are claimed to spread less: two or more, each with two seeds or more.
        wide: Cells whose means are claimed to spread more, likewise.
    """
    measure, test = "difference of the means' standard deviations", "simulated null distribution"
    summaries = _summaries(narrow, wide)
    if summaries is None:
        sds = [float(np.std([np.mean(cell) for cell in side], ddof=1)) for side in (narrow, wide)]
        return Evidence(sds[1] - sds[0], -np.inf, np.inf, measure, test, 1.0, 1.0)
    statistic = _difference_of_spreads(*summaries)
    null = _NullSpreads.around(summaries[0], summaries[1], DRAWS, np.random.default_rng(0))
    p_for, p_against = null.p_values(statistic)
    true_sds = [_true_spread(side) for side in summaries]
    low = _bound(lambda effect: null.p_values(statistic, effect)[0] < LEVEL / 2, statistic, -null.scale)
    high = _bound(lambda effect: null.p_values(statistic, effect)[1] < LEVEL / 2, statistic, null.scale)
    effect = float(np.clip(true_sds[1] - true_sds[0], low, high))
    return Evidence(effect, low, high, measure, test, p_for, p_against)


def seeds_for_spreads(narrow: Sequence[Sample], wide: Sequence[Sample], level: float = LEVEL) -> int | None:
    """Return the seeds per cell at which `spread_less` decides with power `POWER`; see `seeds_for_means`."""
    summaries = _summaries(narrow, wide)
    if summaries is None:
        return None
    spreads = [_true_spread(side) for side in summaries]
    if spreads[0] == spreads[1]:
        return None
    targets = [_with_spread(side, sd) for side, sd in zip(summaries, spreads, strict=True)]

    def is_enough(seeds: int) -> bool:
        rng = np.random.default_rng(1)
        decided = 0
        for sides in zip(*(side.repeated(SPREAD_TRIALS, seeds, rng) for side in targets), strict=True):
            simulation = _NullSpreads.around(sides[0], sides[1], SPREAD_DRAWS, rng)
            p = simulation.p_values(_difference_of_spreads(*sides))
            decided += p[0 if spreads[1] > spreads[0] else 1] <= max(level / 2, 1 / SPREAD_DRAWS)
        return decided >= POWER * SPREAD_TRIALS

    return _smallest(is_enough)
