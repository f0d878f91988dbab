"""The means of cells, each with the noise of its own seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from wgan_sweep.report.inference.evidence import Array, Sample

SAME = 1e-12
"""Values that differ by less than this, relative to their size, count as identical."""


@dataclass(frozen=True)
class Means:
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

    @classmethod
    def join(cls, sides: Sequence[Self]) -> Self:
        """Return the cells of several sides, one side after the other."""
        means, sds, counts = (
            np.concatenate(parts) for parts in zip(*((s.means, s.sds, s.counts) for s in sides), strict=True)
        )
        return cls(means, sds, counts)

    def noise(self, draws: int, rng: np.random.Generator) -> Array:
        """Draw deviations of the observed means from the true ones ``[draws, cells]``, whose size is not known exactly.

        The uncertainty of the size is common to all cells, with Satterthwaite's degrees of freedom for the sum of the
        squared errors: of all cells, or weighted by how far each cell lies from the mean, whichever is smaller.
        """
        squares = self.errors**2
        distances = standardised(self.means[None])[0] ** 2
        weighted = [squares * weights for weights in (np.ones_like(squares), distances) if weights.any()]
        freedom = min(float(np.sum(part) ** 2 / np.sum(part**2 / self.freedom)) for part in weighted)
        common = np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)))
        return np.asarray(self.errors * rng.normal(size=(draws, len(squares))) * common)

    def simulate(self, trials: int, seeds: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Simulate experiments with that many seeds in each cell, as if the estimates were the true values.

        Returns:
            Means and standard errors, ``[trials, cells]`` each.
        """
        cells = len(self.means)
        means = self.means + self.sds * rng.normal(size=(trials, cells)) / np.sqrt(seeds)
        sds = self.sds * np.sqrt(rng.chisquare(seeds - 1, (trials, cells)) / (seeds - 1))
        return means, sds / np.sqrt(seeds)


def summarise(*sides: Sequence[Sample]) -> list[Means] | None:
    """Return the means of each side's cells; None if no cell has different values.

    Identical values do not show how noisy their cell is. It is taken to be as noisy as the noisiest other cell.
    """
    sds = [np.array([_sd(cell) for cell in side]) for side in sides]
    largest = max(float(np.max(side)) for side in sds)
    if largest == 0:
        return None
    return [
        Means(
            np.array([float(np.mean(cell)) for cell in side]),
            np.where(side_sds == 0, largest, side_sds),
            np.array([float(len(cell)) for cell in side]),
        )
        for side, side_sds in zip(sides, sds, strict=True)
    ]


def _sd(cell: Sample) -> float:
    """Return the standard deviation over seeds; 0 for values that are identical up to rounding."""
    return 0.0 if np.ptp(cell) <= SAME * np.max(np.abs(cell)) else float(np.std(cell, ddof=1))


def shrunken(means: Array, noise: float) -> Array:
    """Return means shrunken towards their common mean, by the share of their variance that is due to noise.

    Args:
        means: The means.
        noise: The variance that noise alone gives them.
    """
    variance = float(np.var(means, ddof=1)) if len(means) > 1 else 0.0
    kept = max(0.0, 1 - noise / variance) if variance > 0 else 1.0
    centre = means.mean()
    return np.asarray(centre + kept * (means - centre))


def standardised(means: Array) -> Array:
    """Centre means and scale them to standard deviation 1 along the last axis; equal means stay 0."""
    centred = means - means.mean(axis=-1, keepdims=True)
    sds = np.asarray(np.std(centred, axis=-1, ddof=1, keepdims=True))
    return np.asarray(centred / np.where(sds > 0, sds, 1.0))
