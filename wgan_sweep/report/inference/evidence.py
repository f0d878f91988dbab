"""The result of a test, and what all tests share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sample = Sequence[float]
"""The metric values of a cell, one per seed."""
Array = NDArray[np.float64]

LEVEL = 0.05
"""Error rate of a verdict: of supported and contradicted together, `LEVEL` / 2 each. Intervals cover 1 - `LEVEL`
unless a test is given another level."""
POWER = 0.8
"""Target power of the recommended number of seeds, if the estimates equalled the true values."""
MAX_SEEDS = 1000
"""Largest number of seeds per cell that is considered."""
DRAWS = 8000
"""Draws of a simulated null distribution."""
TRIALS = 400
"""Simulated experiments, to find the power of a number of seeds."""


@dataclass(frozen=True)
class Evidence:
    """Result of testing a statement on samples."""

    effect: float
    """Estimated effect; positive if it agrees with the statement."""
    low: float
    """Lower end of the effect's confidence interval; above 0 exactly if `p_for` is below half the test's level."""
    high: float
    """Upper end of the effect's confidence interval; below 0 exactly if `p_against` is below half the test's level."""
    measure: str
    """Description of the effect."""
    test: str
    """Name of the test."""
    p_for: float
    """One-sided p-value of the null hypothesis that the statement is false."""
    p_against: float
    """One-sided p-value of the null hypothesis that the statement is true."""


def with_interval(effect: float, low: float, high: float, digits: int = 4) -> str:
    """Return an effect with its interval, as tables show it."""
    return f"{effect:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple testing (Holm 1979)."""
    order = np.argsort(values)
    steps = [(len(values) - rank) * values[index] for rank, index in enumerate(order)]
    adjusted = np.minimum(1, np.maximum.accumulate(steps)) if steps else np.array([])
    result = np.empty(len(values))
    result[order] = adjusted
    return [float(value) for value in result]


def smallest(is_enough: Callable[[int], bool]) -> int | None:
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
