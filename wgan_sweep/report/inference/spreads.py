"""Tests of whether the means of one set of cells spread less than those of another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wgan_sweep.report.inference.cells import standardised
from wgan_sweep.report.inference.comparisons import Comparison, Unpaired
from wgan_sweep.report.inference.evidence import DRAWS, LEVEL, POWER, Array, Evidence, Sample, smallest

SPREAD_TRIALS, SPREAD_DRAWS = 100, 500
"""Simulated experiments to find the power of a number of seeds, and draws of the null distribution of each."""
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
    def around(cls, sides: Comparison, draws: int, rng: np.random.Generator) -> "_NullSpreads":
        """Return the simulation for the noise and the arrangement of the observed means of two sides."""
        means = sides.split(sides.means)
        observed = [standardised(side[None]) for side in means]
        random = [standardised(rng.normal(size=(draws, len(side)))) for side in means]
        narrow, wide = sides.split(sides.noise(draws, rng))
        scale = max(float(np.std(side, ddof=1)) for side in means)
        return cls(
            tuple((a, b) for a, b in (observed, random)),
            (narrow, wide),
            scale or float(np.sqrt(max(sides.noise_variances()))),
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


def _difference_of_sds(sides: Comparison) -> float:
    """Return the standard deviation of the observed means of the second side minus that of the first."""
    narrow, wide = (float(np.std(means, ddof=1)) for means in sides.split(sides.means))
    return wide - narrow


def _true_sds(sides: Comparison) -> list[float]:
    """Estimate the standard deviations of the true means: without the part that is due to noise over seeds."""
    variances = [float(np.var(means, ddof=1)) for means in sides.split(sides.means)]
    noise = sides.noise_variances()
    return [float(np.sqrt(max(0.0, total - part))) for total, part in zip(variances, noise, strict=True)]


def spread_less(
    narrow: Sequence[Sample],
    wide: Sequence[Sample],
    level: float = LEVEL,
    compare: type[Comparison] = Unpaired,
) -> Evidence:
    """Test whether the means of one set of cells spread less than the means of another set.

    The effect is the difference of the standard deviations of the true means. The statistic is the same difference of
    the observed means. Its null distribution is simulated with the noise over seeds, of every single cell or of all
    cells together, at the least favourable common spread. The interval consists of the effects that this test, for
    other effects than 0, does not reject.

    Args:
        narrow: Cells whose means are claimed to spread less: two or more, each with two seeds or more.
        wide: Cells whose means are claimed to spread more, likewise.
        level: Error rate of the verdict; the interval covers 1 - `level`.
        compare: How means are compared. If runs are paired, what the cells of a side have in common at each seed does
            not count as noise, and the noise of all cells varies together as observed. The error rate is higher if a
            seed scales all differences of one side: in simulations, 6 % with 6 cells and 20 seeds, and 9 % with 20
            cells and 5 seeds.
    """
    measure = "difference of the means' standard deviations"
    test = f"simulated null distribution{compare.pairing}"
    sides = compare.within_sides([narrow, wide])
    if sides is None:
        sds = [float(np.std([np.mean(cell) for cell in side], ddof=1)) for side in (narrow, wide)]
        return Evidence(sds[1] - sds[0], -np.inf, np.inf, measure, test, 1.0, 1.0)
    statistic = _difference_of_sds(sides)
    null = _NullSpreads.around(sides, DRAWS, np.random.default_rng(0))
    p_for, p_against = null.p_values(statistic)
    true_sds = _true_sds(sides)
    low = _bound(lambda effect: null.p_values(statistic, effect)[0] < level / 2, statistic, -null.scale)
    high = _bound(lambda effect: null.p_values(statistic, effect)[1] < level / 2, statistic, null.scale)
    effect = float(np.clip(true_sds[1] - true_sds[0], low, high))
    return Evidence(effect, low, high, measure, test, p_for, p_against)


def seeds_for_spreads(
    narrow: Sequence[Sample],
    wide: Sequence[Sample],
    level: float = LEVEL,
    compare: type[Comparison] = Unpaired,
) -> int | None:
    """Return the seeds per cell at which `spread_less` decides with power `POWER`; see `seeds_for_means`."""
    sides = compare.within_sides([narrow, wide])
    if sides is None:
        return None
    true_sds = _true_sds(sides)
    if true_sds[0] == true_sds[1]:
        return None
    true_means = np.concatenate(
        [side.mean() + sd * standardised(side) for side, sd in zip(sides.split(sides.means), true_sds, strict=True)]
    )

    def is_enough(seeds: int) -> bool:
        rng = np.random.default_rng(1)
        decided = 0
        for trial in sides.experiments(true_means, SPREAD_TRIALS, seeds, rng):
            simulation = _NullSpreads.around(trial, SPREAD_DRAWS, rng)
            p = simulation.p_values(_difference_of_sds(trial))
            decided += p[0 if true_sds[1] > true_sds[0] else 1] <= max(level / 2, 1 / SPREAD_DRAWS)
        return decided >= POWER * SPREAD_TRIALS

    return smallest(is_enough)
