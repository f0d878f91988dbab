"""Tests of whether an event is rarer among some runs than among others."""

import warnings

import numpy as np

from wgan_sweep.report.inference.evidence import LEVEL, POWER, Evidence, smallest

MAX_RUNS = 300
"""Largest number of runs per side that is considered for a decision."""

Counts = tuple[int, int]
"""Events and runs."""


def rarer(first: Counts, second: Counts, level: float = LEVEL) -> Evidence:
    """Test whether an event is rarer on the first side than on the second: Fisher's exact test.

    The effect is the logarithm of the odds ratio, positive if the event is rarer on the first side; its interval is the
    conditional one, which agrees with the test.

    Args:
        first: Events and runs of the side on which the event is claimed to be rarer.
        second: Events and runs of the other side.
        level: Error rate of the verdict; the interval covers 1 - `level`.
    """
    from scipy import stats  # it takes most of a second to import

    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    measure = f"log odds ratio, {first[0]} of {first[1]} against {second[0]} of {second[1]}"
    if first[0] + second[0] in (0, first[1] + second[1]):  # the event says nothing about a difference
        return Evidence(0.0, -np.inf, np.inf, measure, "Fisher's exact test", 1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an odds ratio of 0 or infinity
        ratio = stats.contingency.odds_ratio(table[::-1])
        interval = ratio.confidence_interval(1 - level)
        effect, low, high = (float(np.log(value)) for value in (ratio.statistic, interval.low, interval.high))
    return Evidence(
        effect,
        low,
        high,
        measure,
        "Fisher's exact test",
        float(stats.fisher_exact(table, alternative="less").pvalue),
        float(stats.fisher_exact(table, alternative="greater").pvalue),
    )


def seeds_for_rates(first: Counts, second: Counts, level: float = LEVEL) -> int | None:
    """Return the runs per side at which `rarer` decides with power `POWER`, if the observed rates were the true ones.

    Args:
        first: Events and runs of the side on which the event is claimed to be rarer.
        second: Events and runs of the other side.
        level: Error rate of the verdict.

    Returns:
        The number; None if the rates are equal, or if it is above `MAX_RUNS`.
    """
    from scipy import stats

    rates = sorted((first[0] / first[1], second[0] / second[1]))
    if rates[0] == rates[1]:
        return None

    def is_enough(runs: int) -> bool:
        if runs > MAX_RUNS:
            return True
        low, high = np.meshgrid(np.arange(runs + 1), np.arange(runs + 1), indexing="ij")
        rejected = stats.hypergeom.cdf(low, 2 * runs, low + high, runs) < level / 2
        chances = stats.binom.pmf(low, runs, rates[0]) * stats.binom.pmf(high, runs, rates[1])
        return bool(np.sum(chances[rejected]) >= POWER)

    runs = smallest(is_enough)
    return runs if runs is not None and runs <= MAX_RUNS else None
