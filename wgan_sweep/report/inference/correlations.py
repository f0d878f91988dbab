"""Tests of whether two measurements of a run are correlated along its curve, with runs as the unit of replication."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from wgan_sweep.report.inference.evidence import DRAWS, LEVEL, POWER, TRIALS, Array, Evidence, Sample, smallest

MAX_ENUMERATED = 14
"""Runs of a cell up to which all subsets of them are considered; of more runs, `MAX_SUBSETS` random ones."""
MAX_SUBSETS = 2**MAX_ENUMERATED


def rank_correlation(first: Sample, second: Sample) -> float:
    """Return Spearman's correlation of two curves at the same steps; 0 if one of them is constant."""
    ranks = np.array([stats.rankdata(values) for values in (first, second)])
    if np.any(np.ptp(ranks, axis=1) == 0):
        return 0.0
    return float(np.clip(np.corrcoef(ranks)[0, 1], -1, 1))


def largest_shown(steps: int) -> float:
    """Return what replaces a correlation of 1: the midpoint between 1 and the next value of ranks without ties."""
    return 1 - 6 / (steps * (steps**2 - 1))


def fisher_z(correlation: float, steps: int) -> float:
    """Return Fisher's transform of a rank correlation over a number of steps.

    The largest correlations, 1 and -1, are replaced by `largest_shown` and its negative.
    """
    largest = largest_shown(steps)
    return float(np.arctanh(np.clip(correlation, -largest, largest)))


def _subsets(runs: int, most: int) -> Array:
    """Return all non-empty subsets of a number of runs, or random ones if they are too many.

    Returns:
        Weights ``[subsets, runs]``: 1 over the size of the subset, and 0 for runs outside it.
    """
    if 2**runs - 1 <= most:
        members = (np.arange(1, 2**runs)[:, None] >> np.arange(runs)) & 1
    else:
        members = np.random.default_rng(0).integers(0, 2, (most, runs))
        members = members[members.any(axis=1)]
    return np.asarray(members / members.sum(axis=1, keepdims=True))


def _num_excluded(subsets: int, level: float) -> int:
    """Return how many subset means may lie on the wrong side of a value that a one-sided test rejects; -1: none does.

    It is the largest number k with (1 + k) / (1 + subsets) below the level.
    """
    return int(np.ceil(level * (1 + subsets) - 1e-9)) - 2


class _Centres:
    """The centres of the cells' distributions of z, tested by reflecting the runs of a cell about them.

    If the distribution is symmetric about c, each deviation from c could as well have had the other sign. The mean is
    at least as far above c as observed, for the signs that reflect a subset of runs, exactly if the mean of the subset
    is not above c. So the share of subset means up to c is the p-value (Hartigan 1969).
    """

    def __init__(self, cells: Sequence[Sample]) -> None:
        self._means = [np.sort(_subsets(len(cell), MAX_SUBSETS) @ np.array(cell)) for cell in cells]

    def p_above(self, value: float) -> list[float]:
        """Return the one-sided p-values ``[cells]`` of centres above a value."""
        return [float((1 + np.sum(means <= value)) / (1 + len(means))) for means in self._means]

    def p_below(self, value: float) -> list[float]:
        """Return the one-sided p-values ``[cells]`` of centres below a value."""
        return [float((1 + np.sum(means >= value)) / (1 + len(means))) for means in self._means]

    def bounds(self, level: float, end: int) -> list[float]:
        """Return the lower (`end` 1) or upper (-1) confidence bounds ``[cells]`` at a one-sided level."""
        excluded = [_num_excluded(len(means), level) for means in self._means]
        return [
            float(means[::end][k]) if k >= 0 else -end * np.inf for means, k in zip(self._means, excluded, strict=True)
        ]


def correlated(cells: Sequence[Sample], threshold: float = 0.0, level: float = LEVEL) -> Evidence:
    """Test whether the mean correlation along the runs of every cell is above a threshold.

    Each run is one observation, however many steps it has: values along a curve depend on each other. The test is
    exact if z is distributed symmetrically about its centre, as independent curves are about 0, whatever their trends.
    A t-test is not: independent curves with trends have correlations near 1 or -1, so a few seeds often agree by
    chance. No fewer than 6 runs are decided at a one-sided level of 0.025. The statement is true if it holds for all
    cells (an intersection-union test), and false if one cell violates it (Bonferroni). The effect is the smallest
    mean correlation (of z, transformed back) minus the threshold.

    Args:
        cells: For each cell, Fisher's z of the correlation of each run.
        threshold: The correlation that is to be exceeded, between -1 and 1.
        level: Error rate of the verdict; the interval covers 1 - `level`.
    """
    bound, count = float(np.arctanh(threshold)), len(cells)
    centres = _Centres(cells)

    def excess(z: float) -> float:
        return float(np.tanh(z)) - threshold

    low, high = min(centres.bounds(level / 2, 1)), min(centres.bounds(level / 2 / count, -1))
    effect = float(np.clip(min(float(np.mean(cell)) for cell in cells), low, high))
    what = (
        "mean rank correlation along runs"
        if count == 1
        else f"smallest mean rank correlation along runs, {count} cells"
    )
    return Evidence(
        excess(effect),
        excess(low),
        excess(high),
        what if threshold == 0 else f"{what}, minus {threshold:g}",
        "reflected runs, exact" if max(map(len, cells)) <= MAX_ENUMERATED else "reflected runs, random",
        max(centres.p_above(bound)),
        min(1.0, count * min(centres.p_below(bound))),
    )


def seeds_for_correlation(cells: Sequence[Sample], threshold: float = 0.0, level: float = LEVEL) -> int | None:
    """Return the runs per cell at which `correlated` decides with power `POWER`, if the estimates were the true values.

    The test is simulated, with normally distributed z.

    Args:
        cells: For each cell, Fisher's z of the correlation of each run; two runs or more.
        threshold: The correlation that is to be exceeded.
        level: Error rate of the verdict.

    Returns:
        The number; None if it is above `MAX_SEEDS`.
    """
    distances = np.array([np.mean(cell) for cell in cells]) - np.arctanh(threshold)
    sds = np.array([np.std(cell, ddof=1) for cell in cells])
    supports = bool(np.min(distances) > 0)
    one_sided = level / 2 if supports else level / 2 / len(cells)

    def is_enough(seeds: int) -> bool:
        subsets = _subsets(seeds, DRAWS).T
        excluded = _num_excluded(subsets.shape[1], one_sided)
        if excluded < 0:
            return False
        rng = np.random.default_rng(1)
        rejected = [
            np.sum((d + sd * rng.normal(size=(TRIALS, seeds))) @ subsets <= 0, axis=1) <= excluded
            for d, sd in zip(distances if supports else -distances, sds, strict=True)
        ]
        decided = np.all(rejected, axis=0) if supports else np.any(rejected, axis=0)
        return bool(np.mean(decided) >= POWER)

    return smallest(is_enough)
