"""Tests of whether an event is rarer among some runs than among others."""

import itertools
import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wgan_sweep.report.inference.evidence import LEVEL, POWER, Evidence, smallest

MAX_RUNS = 300
"""Largest number of runs per side that is considered for a decision."""
MAX_SPLITS = 20_000
"""Largest number of ways to split the seeds between two sides that are all considered; else, as many random ones."""

Counts = tuple[int, int]
"""Events and runs."""


def rarer(first: Sequence[Counts], second: Sequence[Counts], level: float = LEVEL) -> Evidence:
    """Test whether an event is rarer on the first side than on the second.

    If each seed has one run on its side, this is Fisher's exact test. Several runs of a seed, in the cells of a side,
    are not independent: what happens to one tends to happen to the others. Then the p-value is the larger one of
    Fisher's test and of a permutation test, which exchanges whole seeds between the sides and compares their shares of
    events. The first alone errs several times too often; the second alone errs if the seeds of one side are much
    more alike than those of the other.

    The effect is the logarithm of the odds ratio, positive if the event is rarer on the first side. Its interval is the
    conditional one of Fisher's test, at a level that is lower by the ratio of both p-values, so that it agrees with the
    test.

    Args:
        first: For each seed, events and runs of the side on which the event is claimed to be rarer.
        second: Likewise, of the other side.
        level: Error rate of the verdict; the interval covers 1 - `level`.
    """
    from scipy import stats  # it takes most of a second to import

    (events, runs), (other_events, other_runs) = _total(first), _total(second)
    table = [[events, runs - events], [other_events, other_runs - other_events]]
    measure = f"log odds ratio, {events} of {runs} against {other_events} of {other_runs}"
    clustered = any(count > 1 for _, count in (*first, *second))
    test = "Fisher's exact test" + (" and permutations of seeds" if clustered else "")
    if events + other_events in (0, runs + other_runs):  # the event says nothing about a difference
        return Evidence(0.0, -np.inf, np.inf, measure, test, 1.0, 1.0)
    fisher = [float(stats.fisher_exact(table, alternative=side).pvalue) for side in ("less", "greater")]
    p_for, p_against = np.maximum(fisher, _permutation_p_values(first, second)) if clustered else fisher
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an odds ratio of 0 or infinity
        ratio = stats.contingency.odds_ratio(table[::-1])
        low = ratio.confidence_interval(1 - level * fisher[0] / p_for).low
        high = ratio.confidence_interval(1 - level * fisher[1] / p_against).high
        effect, low, high = (float(np.log(value)) for value in (ratio.statistic, low, high))
    return Evidence(effect, low, high, measure, test, float(p_for), float(p_against))


def _total(side: Sequence[Counts]) -> Counts:
    return sum(events for events, _ in side), sum(runs for _, runs in side)


def _shares(side: Sequence[Counts]) -> NDArray[np.float64]:
    return np.array([events / runs for events, runs in side])


def _permutation_p_values(first: Sequence[Counts], second: Sequence[Counts]) -> tuple[float, float]:
    """Return the p-values of a lower and of a higher mean share of events on the first side, by exchanging seeds."""
    shares = np.concatenate([_shares(first), _shares(second)])
    size, count = len(first), len(shares)
    if math.comb(count, size) <= MAX_SPLITS:
        chosen = np.array(list(itertools.combinations(range(count), size)))
    else:
        generator = np.random.default_rng(0)
        others = generator.permuted(np.tile(np.arange(count), (MAX_SPLITS - 1, 1)), axis=1)[:, :size]
        chosen = np.concatenate([np.arange(size)[None], others])  # the split that was observed is one of them
    sums, observed = shares[chosen].sum(axis=1), shares[:size].sum()
    close = 1e-9  # sums of the same shares in another order
    return float(np.mean(sums <= observed + close)), float(np.mean(sums >= observed - close))


def _design_effect(side: Sequence[Counts]) -> float:
    """Return the factor by which a side needs more runs than if the runs of a seed were independent; 1 or more."""
    events, runs = _total(side)
    rate = events / runs
    if len(side) < 2 or rate in (0, 1):
        return 1.0
    independent = rate * (1 - rate) * len(side) / (runs - 1)  # its estimate from a sample, like that of the shares
    return max(1.0, float(np.var(_shares(side), ddof=1)) / independent)


def seeds_for_rates(first: Sequence[Counts], second: Sequence[Counts], level: float = LEVEL) -> int | None:
    """Return the runs per side at which `rarer` decides with power `POWER`, if the observed rates were the true ones.

    Args:
        first: For each seed, events and runs of the side on which the event is claimed to be rarer.
        second: Likewise, of the other side.
        level: Error rate of the verdict.

    Returns:
        The number; None if the rates are equal, or if it is above `MAX_RUNS`.
    """
    from scipy import stats

    rates = sorted(events / runs for events, runs in (_total(first), _total(second)))
    if rates[0] == rates[1]:
        return None

    def is_enough(runs: int) -> bool:
        if runs > MAX_RUNS:
            return True
        low, high = np.meshgrid(np.arange(runs + 1), np.arange(runs + 1), indexing="ij")
        rejected = stats.hypergeom.cdf(low, 2 * runs, low + high, runs) < level / 2
        chances = stats.binom.pmf(low, runs, rates[0]) * stats.binom.pmf(high, runs, rates[1])
        return bool(np.sum(chances[rejected]) >= POWER)

    independent = smallest(is_enough)
    if independent is None or independent > MAX_RUNS:
        return None
    runs = math.ceil(independent * max(_design_effect(first), _design_effect(second)))
    return runs if runs <= MAX_RUNS else None
