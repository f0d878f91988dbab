"""Tests of whether means lie in an order or close together, and which cell may be the best."""

from collections.abc import Sequence
from itertools import accumulate, pairwise, product

import numpy as np
from scipy import special

from wgan_sweep.report.inference.comparisons import Comparison, Pairs, Sides, Unpaired, shrunken_sides
from wgan_sweep.report.inference.evidence import LEVEL, POWER, TRIALS, Evidence, Sample, smallest


def _pairs(sides: Sides) -> Pairs:
    """Return the pairs of cells of neighbouring sides, the one of the earlier side first."""
    ends = list(accumulate((len(side) for side in sides), initial=0))
    ranges = [range(start, end) for start, end in pairwise(ends)]
    return Pairs.of([pair for first, second in pairwise(ranges) for pair in product(first, second)])


def _ordered(sides: Sides, level: float, compare: type[Comparison]) -> Evidence:
    """Test whether every mean of a side is lower than every mean of the next side; see `every_mean_lower`."""
    pairs = _pairs(sides)
    count = len(pairs.first)
    measure = "smallest difference of means" if count > 1 else "difference of means"
    test = f"{compare.test}, {pairs}"
    comparison = compare.of(sides)
    if comparison is None:
        means = np.array([float(np.mean(sample)) for side in sides for sample in side])
        smallest_difference = float(np.min(pairs.differences(means)))
        return Evidence(smallest_difference, -np.inf, np.inf, measure, test, 1.0, 1.0)
    differences = pairs.differences(comparison.means)
    low = float(np.min(differences - comparison.isf(level / 2, pairs)))
    high = float(np.min(differences + comparison.isf(level / 2 / count, pairs)))
    return Evidence(
        float(np.clip(_smallest_difference(comparison), low, high)),
        low,
        high,
        measure,
        test,
        float(np.max(comparison.sf(differences, pairs))),
        min(1.0, count * float(np.min(comparison.sf(-differences, pairs)))),
    )


def _smallest_difference(comparison: Comparison) -> float:
    """Estimate the smallest difference of true means between neighbouring sides, from shrunken means."""
    return min(float(second.min() - first.max()) for first, second in pairwise(shrunken_sides(comparison)))


def _seeds_for_order(sides: Sides, level: float, compare: type[Comparison]) -> int | None:
    """Return the seeds at which `_ordered` decides; see `seeds_for_means`."""
    comparison = compare.of(sides)
    if comparison is None:
        return None
    pairs = _pairs(sides)
    supports = _smallest_difference(comparison) > 0

    def is_enough(seeds: int) -> bool:
        differences, exceed = comparison.simulate(pairs, TRIALS, seeds, np.random.default_rng(1))
        if supports:
            decided = exceed(differences, level / 2).all(axis=1)
        else:
            decided = exceed(-differences, level / 2 / len(pairs.first)).any(axis=1)
        return bool(np.mean(decided) >= POWER)

    return smallest(is_enough)


def every_mean_lower(
    lower: Sequence[Sample],
    higher: Sequence[Sample],
    level: float = LEVEL,
    compare: type[Comparison] = Unpaired,
) -> Evidence:
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
        compare: How two means are compared.
    """
    return _ordered([lower, higher], level, compare)


def seeds_for_means(
    lower: Sequence[Sample],
    higher: Sequence[Sample],
    level: float = LEVEL,
    compare: type[Comparison] = Unpaired,
) -> int | None:
    """Return the seeds per cell at which `every_mean_lower` decides with power `POWER`.

    The test is simulated, as if the estimated means and noise were the true ones. The target is the verdict that
    the estimated effect suggests.

    Args:
        lower: Cells whose means are claimed to be lower, each with two seeds or more.
        higher: Cells whose means are claimed to be higher, likewise.
        level: Error rate of the verdict.
        compare: How two means are compared.

    Returns:
        The number; None if it is above `MAX_SEEDS`, or if there is no estimate of the noise.
    """
    return _seeds_for_order([lower, higher], level, compare)


def means_rise(cells: Sequence[Sample], level: float = LEVEL, compare: type[Comparison] = Unpaired) -> Evidence:
    """Test whether the means of a sequence of cells rise strictly, as in `every_mean_lower` for neighbouring cells."""
    return _ordered([[cell] for cell in cells], level, compare)


def seeds_for_rise(cells: Sequence[Sample], level: float = LEVEL, compare: type[Comparison] = Unpaired) -> int | None:
    """Return the seeds per cell at which `means_rise` decides with power `POWER`; see `seeds_for_means`."""
    return _seeds_for_order([[cell] for cell in cells], level, compare)


def means_within(
    cells: Sequence[Sample], margin: float, level: float = LEVEL, compare: type[Comparison] = Unpaired
) -> Evidence:
    """Test whether all means of a set of cells differ by less than a margin.

    Two one-sided tests of each pair (Schuirmann 1987). The effect is the margin minus the largest difference. The
    statement is true if every pair is closer than the margin (an intersection-union test), and false if one pair is not
    (Bonferroni, over pairs and directions).

    Args:
        cells: Two cells or more, each with two seeds or more.
        margin: The largest difference that counts as equal, in units of the metric; positive.
        level: Error rate of the verdict; the interval covers 1 - `level`.
        compare: How two means are compared.
    """
    pairs = Pairs.all(len(cells))
    tests = 2 * len(pairs.first)
    measure, test = (
        f"{margin:g} minus the largest difference of means",
        f"two one-sided tests ({compare.test}), {pairs}",
    )
    comparison = compare.of([cells])
    if comparison is None:
        return Evidence(margin - float(np.ptp([np.mean(c) for c in cells])), -np.inf, margin, measure, test, 1.0, 1.0)
    sizes = np.abs(pairs.differences(comparison.means))
    low = margin - float(np.max(sizes + comparison.isf(level / 2, pairs)))
    high = margin - max(0.0, float(np.max(sizes - comparison.isf(level / 2 / tests, pairs))))  # sizes are not below 0
    return Evidence(
        float(np.clip(margin - _largest_difference(comparison), low, high)),
        low,
        high,
        measure,
        test,
        float(np.max(comparison.sf(margin - sizes, pairs))),
        min(1.0, tests * float(np.min(comparison.sf(sizes - margin, pairs)))),
    )


def _largest_difference(comparison: Comparison) -> float:
    """Estimate the largest difference of true means of one side, from shrunken means."""
    (means,) = shrunken_sides(comparison)
    return float(np.ptp(means))


def seeds_for_equivalence(
    cells: Sequence[Sample], margin: float, level: float = LEVEL, compare: type[Comparison] = Unpaired
) -> int | None:
    """Return the seeds per cell at which `means_within` decides with power `POWER`; see `seeds_for_means`."""
    comparison = compare.of([cells])
    if comparison is None:
        return None
    pairs = Pairs.all(len(cells))
    supports = _largest_difference(comparison) < margin

    def is_enough(seeds: int) -> bool:
        differences, exceed = comparison.simulate(pairs, TRIALS, seeds, np.random.default_rng(1))
        sizes = np.abs(differences)
        if supports:
            decided = exceed(margin - sizes, level / 2).all(axis=1)
        else:
            decided = exceed(sizes - margin, level / 4 / len(pairs.first)).any(axis=1)
        return bool(np.mean(decided) >= POWER)

    return smallest(is_enough)


def possibly_lowest(cells: Sequence[Sample], compare: type[Comparison] = Unpaired) -> list[bool]:
    """Return which cells may have the lowest true mean: a set that contains it with a probability of 1 - `LEVEL`.

    A cell is excluded if another one's mean is lower by a one-sided test at `LEVEL` over the number of other cells
    (subset selection, Gupta 1965, with Bonferroni's bound for unequal noise).

    Args:
        cells: Cells with two seeds or more each.
        compare: How two means are compared.
    """
    comparison = compare.of([cells])
    others = len(cells) - 1
    if comparison is None or others == 0:
        return [True] * len(cells)
    p = LEVEL / others
    least = -special.ndtri(p)  # estimated noise has heavier tails than a normal distribution

    def is_excluded(cell: int) -> bool:
        rivals = Pairs.of([(rival, cell) for rival in range(len(cells)) if rival != cell])
        differences = rivals.differences(comparison.means)
        distances = differences / comparison.errors(rivals)
        order = np.argsort(-distances)[: np.count_nonzero(distances > least)]
        # Most cells are excluded by their farthest rival.
        return any(
            bool(np.any(comparison.sf(differences[some], rivals.take(some)) < p))
            for some in (order[:1], order[1:])
            if len(some)
        )

    return [not is_excluded(cell) for cell in range(len(cells))]
