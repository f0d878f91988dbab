"""Tests of whether means lie in an order or close together, and which cell may be the best."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, combinations, pairwise, product

import numpy as np
from scipy import optimize, special

from wgan_sweep.report.inference.cells import Means, summarise
from wgan_sweep.report.inference.evidence import LEVEL, POWER, TRIALS, Array, Evidence, Sample, smallest

_STEP = 0.05
"""Distance of the abscissae of the trapezoidal rule, after the substitution t = sinh(s)."""


def _abscissae(freedom: float) -> Array:
    """Return the abscissae s beyond which Student's t distribution has about 1e-13 of its mass (at most 20)."""
    limit = min(20.0, np.arcsinh(np.sqrt(freedom)) + 30 / freedom)
    count = int(np.ceil(limit / _STEP))
    return _STEP * np.arange(-count, count + 1, dtype=np.float64)


def _log_density(t: Array, freedom: Array) -> Array:
    """Return the logarithm of the density of Student's t distribution."""
    half = (freedom + 1) / 2
    scale = special.gammaln(half) - special.gammaln(freedom / 2) - np.log(np.pi * freedom) / 2
    return np.asarray(scale - half * np.log1p(t**2 / freedom))


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
    s = _abscissae(float(np.min(f)))
    t = np.sinh(s)
    weights = np.exp(_log_density(t, f)) * np.cosh(s) * _STEP
    return np.asarray(np.sum(weights * special.stdtr(g, (a * t - x[..., None]) / b), axis=-1))


def behrens_fisher_isf(p: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the x at which `behrens_fisher_sf` is p, for p below 1/2."""
    bound = sum(error * -special.stdtrit(freedom, p / 2) for error, freedom in (first, second))

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


Pairs = Sequence[tuple[int, int]]
"""Indices of cells, the one with the lower mean first."""


def _pairs(sides: Sequence[Sequence[Sample]]) -> Pairs:
    """Return the pairs of cells of neighbouring sides; cells are counted through all sides."""
    ends = list(accumulate((len(side) for side in sides), initial=0))
    ranges = [range(start, end) for start, end in pairwise(ends)]
    return [pair for first, second in pairwise(ranges) for pair in product(first, second)]


def _count(pairs: Sequence[object]) -> str:
    return f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"


class _Differences:
    """Differences of means ``[pairs]``, with the standard errors and degrees of freedom of both sides."""

    def __init__(self, cells: Means, pairs: Pairs) -> None:
        first, second = (np.array(side) for side in zip(*pairs, strict=True))
        self.values: Array = cells.means[second] - cells.means[first]
        self.sides = tuple((cells.errors[side], cells.freedom[side]) for side in (first, second))

    def sf(self, excess: Array) -> Array:
        """Return the probabilities that noise exceeds the given values ``[pairs]``."""
        return behrens_fisher_sf(excess, *self.sides)

    def isf(self, p: float) -> Array:
        """Return the values that noise exceeds with probability p ``[pairs]``."""
        (a, f), (b, g) = self.sides
        return np.array([behrens_fisher_isf(p, (a[i], f[i]), (b[i], g[i])) for i in range(len(a))])


def _ordered(sides: Sequence[Sequence[Sample]], level: float) -> Evidence:
    """Test whether every mean of a side is lower than every mean of the next side; see `every_mean_lower`."""
    pairs = _pairs(sides)
    measure = "smallest difference of means" if len(pairs) > 1 else "difference of means"
    test = f"Behrens-Fisher, {_count(pairs)}"
    summaries = summarise(*sides)
    if summaries is None:
        means = [float(np.mean(sample)) for side in sides for sample in side]
        difference = min(means[second] - means[first] for first, second in pairs)
        return Evidence(difference, -np.inf, np.inf, measure, test, 1.0, 1.0)
    differences = _Differences(Means.join(summaries), pairs)
    low = float(np.min(differences.values - differences.isf(level / 2)))
    high = float(np.min(differences.values + differences.isf(level / 2 / len(pairs))))
    return Evidence(
        float(np.clip(_smallest_difference(summaries), low, high)),
        low,
        high,
        measure,
        test,
        float(np.max(differences.sf(differences.values))),
        min(1.0, len(pairs) * float(np.min(differences.sf(-differences.values)))),
    )


def _smallest_difference(sides: Sequence[Means]) -> float:
    """Estimate the smallest difference of true means between neighbouring sides, from shrunken means."""
    shrunken = [side.shrunken() for side in sides]
    return min(float(second.min() - first.max()) for first, second in pairwise(shrunken))


def _seeds_for_order(sides: Sequence[Sequence[Sample]], level: float) -> int | None:
    """Return the seeds at which `_ordered` decides; see `seeds_for_means`."""
    summaries = summarise(*sides)
    if summaries is None:
        return None
    pairs, cells = _pairs(sides), Means.join(summaries)
    supports = _smallest_difference(summaries) > 0
    first, second = (np.array(side) for side in zip(*pairs, strict=True))

    def is_enough(seeds: int) -> bool:
        means, errors = cells.simulate(TRIALS, seeds, np.random.default_rng(1))
        differences, both = means[:, second] - means[:, first], (errors[:, first], errors[:, second])
        if supports:
            decided = _are_larger(differences, both, seeds - 1, level / 2).all(axis=1)
        else:
            decided = _are_larger(-differences, both, seeds - 1, level / 2 / len(pairs)).any(axis=1)
        return bool(np.mean(decided) >= POWER)

    return smallest(is_enough)


def every_mean_lower(lower: Sequence[Sample], higher: Sequence[Sample], level: float = LEVEL) -> Evidence:
    """Test whether every cell of one set has a lower mean than every cell of another set.

    The effect is the smallest difference of means over all pairs. The statement is true if it holds for all pairs: an
    intersection-union test, whose p-value is the largest of the pairs' one-sided p-values and needs no correction
    (Berger 1982). It is false if one pair violates it: the p-value against it is the smallest of the opposite p-values,
    times the number of pairs (Bonferroni). The interval consists of the bounds that belong to these tests. The smallest
    of several noisy differences is too small on average, so the effect is estimated from means shrunken towards
    the mean of their side.

    Args:
        lower: Cells whose means are claimed to be lower, each with two seeds or more.
        higher: Cells whose means are claimed to be higher, likewise.
        level: Error rate of the verdict; the interval covers 1 - `level`.
    """
    return _ordered([lower, higher], level)


def seeds_for_means(lower: Sequence[Sample], higher: Sequence[Sample], level: float = LEVEL) -> int | None:
    """Return the seeds per cell at which `every_mean_lower` decides with power `POWER`.

    The test is simulated, as if the estimated means and noise were the true ones. The target is the verdict that
    the estimated effect suggests.

    Args:
        lower: Cells whose means are claimed to be lower, each with two seeds or more.
        higher: Cells whose means are claimed to be higher, likewise.
        level: Error rate of the verdict.

    Returns:
        The number; None if it is above `MAX_SEEDS`, or if there is no estimate of the noise.
    """
    return _seeds_for_order([lower, higher], level)


def means_rise(cells: Sequence[Sample], level: float = LEVEL) -> Evidence:
    """Test whether the means of a sequence of cells rise strictly, as in `every_mean_lower` for neighbouring cells."""
    return _ordered([[cell] for cell in cells], level)


def seeds_for_rise(cells: Sequence[Sample], level: float = LEVEL) -> int | None:
    """Return the seeds per cell at which `means_rise` decides with power `POWER`; see `seeds_for_means`."""
    return _seeds_for_order([[cell] for cell in cells], level)


def means_within(cells: Sequence[Sample], margin: float, level: float = LEVEL) -> Evidence:
    """Test whether all means of a set of cells differ by less than a margin.

    Two one-sided tests of each pair (Schuirmann 1987). The effect is the margin minus the largest difference. The
    statement is true if every pair is closer than the margin (an intersection-union test), and false if one pair is not
    (Bonferroni, over pairs and directions).

    Args:
        cells: Two cells or more, each with two seeds or more.
        margin: The largest difference that counts as equal, in units of the metric; positive.
        level: Error rate of the verdict; the interval covers 1 - `level`.
    """
    pairs = tuple(combinations(range(len(cells)), 2))
    measure, test = f"{margin:g} minus the largest difference of means", f"two one-sided tests, {_count(pairs)}"
    summary = summarise(cells)
    if summary is None:
        return Evidence(margin - float(np.ptp([np.mean(c) for c in cells])), -np.inf, margin, measure, test, 1.0, 1.0)
    differences = _Differences(summary[0], pairs)
    sizes = np.abs(differences.values)
    low = margin - float(np.max(sizes + differences.isf(level / 2)))
    high = margin - max(0.0, float(np.max(sizes - differences.isf(level / 4 / len(pairs)))))  # no difference is below 0
    return Evidence(
        float(np.clip(margin - float(np.ptp(summary[0].shrunken())), low, high)),
        low,
        high,
        measure,
        test,
        float(np.max(differences.sf(margin - sizes))),
        min(1.0, 2 * len(pairs) * float(np.min(differences.sf(sizes - margin)))),
    )


def seeds_for_equivalence(cells: Sequence[Sample], margin: float, level: float = LEVEL) -> int | None:
    """Return the seeds per cell at which `means_within` decides with power `POWER`; see `seeds_for_means`."""
    summary = summarise(cells)
    if summary is None:
        return None
    pairs = tuple(combinations(range(len(cells)), 2))
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    supports = float(np.ptp(summary[0].shrunken())) < margin

    def is_enough(seeds: int) -> bool:
        means, errors = summary[0].simulate(TRIALS, seeds, np.random.default_rng(1))
        sizes, both = np.abs(means[:, second] - means[:, first]), (errors[:, first], errors[:, second])
        if supports:
            decided = _are_larger(margin - sizes, both, seeds - 1, level / 2).all(axis=1)
        else:
            decided = _are_larger(sizes - margin, both, seeds - 1, level / 4 / len(pairs)).any(axis=1)
        return bool(np.mean(decided) >= POWER)

    return smallest(is_enough)


def possibly_lowest(cells: Sequence[Sample]) -> list[bool]:
    """Return which cells may have the lowest true mean: a set that contains it with a probability of 1 - `LEVEL`.

    A cell is excluded if another one's mean is lower by a one-sided test at `LEVEL` over the number of other cells
    (subset selection, Gupta 1965, with Bonferroni's bound for unequal noise).

    Args:
        cells: Cells with two seeds or more each.
    """
    summary = summarise(cells)
    others = len(cells) - 1
    if summary is None or others == 0:
        return [True] * len(cells)
    means, errors = summary[0].means, summary[0].errors
    p = LEVEL / others
    least = -special.ndtri(p)  # the sum of two t variables has heavier tails than that of two normal ones

    def is_higher(cell: int, rivals: Sequence[int]) -> bool:
        differences = _Differences(summary[0], [(rival, cell) for rival in rivals])
        return bool(np.any(differences.sf(differences.values) < p))

    def is_excluded(cell: int) -> bool:
        distances = (means[cell] - means) / np.hypot(errors, errors[cell])
        rivals = np.argsort(-distances)[: np.count_nonzero(distances > least)].tolist()
        return bool(rivals) and (is_higher(cell, rivals[:1]) or is_higher(cell, rivals))  # most are by the first

    return [not is_excluded(cell) for cell in range(len(cells))]
