"""Two ways to compare means: by the noise of each cell, or by the differences between runs with the same seed."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from wgan_sweep.report.inference.behrens_fisher import behrens_fisher_exceeds, behrens_fisher_isf, behrens_fisher_sf
from wgan_sweep.report.inference.cells import SAME, Means, shrunken, summarise
from wgan_sweep.report.inference.evidence import Array, Sample

Sides = Sequence[Sequence[Sample]]
"""The cells of each side of a comparison."""
Positions = NDArray[np.intp]


class Pairs(NamedTuple):
    """Pairs of cells, by their positions through all sides. A difference is that of the second cell minus the first."""

    first: Positions
    """``[pairs]``."""
    second: Positions
    """``[pairs]``."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]]) -> Self:
        """Return pairs of positions."""
        return cls(*(np.array(side) for side in zip(*pairs, strict=True)))

    def __str__(self) -> str:
        return f"{len(self.first)} {'pair' if len(self.first) == 1 else 'pairs'}"


class Simulated(NamedTuple):
    """Simulated experiments: differences of means, and whether such noise is improbable."""

    differences: Array
    """``[trials, pairs]``."""
    exceed: Callable[[Array, float], Array]
    """Whether noise exceeds values ``[trials, pairs]`` with a probability below p, by the noise seen in each trial."""


class Comparison(Protocol):
    """The means of cells, and the noise of their differences."""

    test: str
    """Name of the test of one difference."""
    too_few: str
    """What it says of cells with too few seeds."""
    means: Array
    """``[cells]``."""

    @classmethod
    def of(cls, sides: Sides) -> Self | None:
        """Return the comparison of the cells of all sides; None if the noise is unknown, since values do not vary."""

    def shrunken(self) -> list[Array]:
        """Return the means of each side, shrunken towards the mean of their side."""

    def errors(self, pairs: Pairs) -> Array:
        """Return the standard errors of the differences ``[pairs]``."""

    def sf(self, excess: Array, pairs: Pairs) -> Array:
        """Return the probabilities that the noise of each pair's difference exceeds a value ``[pairs]``."""

    def isf(self, p: float, pairs: Pairs) -> Array:
        """Return the values that the noise of each pair's difference exceeds with probability p ``[pairs]``."""

    def simulate(self, pairs: Pairs, trials: int, seeds: int, rng: np.random.Generator) -> Simulated:
        """Simulate experiments with that many seeds, as if the estimates were the true values."""


class Unpaired:
    """Compares means by the noise of each cell, whatever the seeds of the cells."""

    test = "Behrens-Fisher"
    too_few = "a cell has only one seed: two or more are needed in each cell"

    def __init__(self, sides: Sequence[Means]) -> None:
        self._sides = sides
        self._cells = Means.join(sides)
        self.means = self._cells.means

    @classmethod
    def of(cls, sides: Sides) -> Self | None:
        """Return the comparison; None if no cell has different values."""
        summaries = summarise(*sides)
        return None if summaries is None else cls(summaries)

    def shrunken(self) -> list[Array]:
        """Return the means of each side, shrunken by the share of their variance that is due to noise."""
        return [shrunken(side.means, float(np.mean(side.errors**2))) for side in self._sides]

    def errors(self, pairs: Pairs) -> Array:
        """Return the standard errors of the differences ``[pairs]``."""
        return np.asarray(np.hypot(self._cells.errors[pairs.first], self._cells.errors[pairs.second]))

    def _noise(self, pairs: Pairs) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return the standard errors and degrees of freedom of both cells of each pair."""
        errors, freedom = self._cells.errors, self._cells.freedom
        return (errors[pairs.first], freedom[pairs.first]), (errors[pairs.second], freedom[pairs.second])

    def sf(self, excess: Array, pairs: Pairs) -> Array:
        """Return the probabilities that noise exceeds the given values ``[pairs]``."""
        return behrens_fisher_sf(excess, *self._noise(pairs))

    def isf(self, p: float, pairs: Pairs) -> Array:
        """Return the values that noise exceeds with probability p ``[pairs]``."""
        (a, f), (b, g) = self._noise(pairs)
        return np.array([behrens_fisher_isf(p, (a[i], f[i]), (b[i], g[i])) for i in range(len(a))])

    def simulate(self, pairs: Pairs, trials: int, seeds: int, rng: np.random.Generator) -> Simulated:
        """Simulate experiments with that many seeds, as if the estimates were the true values."""
        means, errors = self._cells.simulate(trials, seeds, rng)
        both = errors[:, pairs.first], errors[:, pairs.second]
        return Simulated(
            means[:, pairs.second] - means[:, pairs.first],
            lambda values, p: behrens_fisher_exceeds(values, both, seeds - 1, p),
        )


class Paired:
    """Compares means by the differences between runs with the same seed: all cells have the same seeds, in one order.

    What the runs of a seed have in common cancels, and unequal noise does no harm: if the differences of a pair are
    normal, Student's t distribution is exact for it.
    """

    test = "t-test paired by seed"
    too_few = "its cells have fewer than two seeds in common, by which runs are paired"

    def __init__(self, values: Array, sides: Sequence[int]) -> None:
        """Take values ``[cells, seeds]`` and the number of cells of each side."""
        self.means: Array = values.mean(axis=1)
        self._sides = sides
        self._centred = values - values.mean(axis=1, keepdims=True)
        self._seeds = values.shape[1]
        everything = Pairs(*np.triu_indices(len(values), 1))
        self._scale = SAME * float(np.max(np.abs(values)))
        self._largest = float(np.max(self._sds(everything)))

    @classmethod
    def of(cls, sides: Sides) -> Self | None:
        """Return the comparison; None if no two cells have different differences by seed."""
        comparison = cls(
            np.array([cell for side in sides for cell in side], dtype=float), [len(side) for side in sides]
        )
        return comparison if comparison._largest > 0 else None

    def _sds(self, pairs: Pairs) -> Array:
        """Return the standard deviations of the differences by seed ``[pairs]``; 0 if they are equal up to rounding."""
        differences = self._centred[pairs.second] - self._centred[pairs.first]
        sds = np.sqrt(np.sum(differences**2, axis=1) / (self._seeds - 1))
        return np.where(np.ptp(differences, axis=1) <= self._scale, 0.0, sds)

    def errors(self, pairs: Pairs) -> Array:
        """Return the standard errors of the differences ``[pairs]``.

        Equal differences do not show how noisy they are. They are taken to be as noisy as the noisiest ones.
        """
        sds = self._sds(pairs)
        return np.asarray(np.where(sds == 0, self._largest, sds) / np.sqrt(self._seeds))

    def shrunken(self) -> list[Array]:
        """Return the means of each side, shrunken by the share of their differences that is due to noise."""
        ends = accumulate(self._sides, initial=0)
        sides = []
        for start, end in pairwise(ends):
            first, second = np.triu_indices(end - start, 1)
            errors = self.errors(Pairs(start + first, start + second))
            sides.append(shrunken(self.means[start:end], float(np.mean(errors**2)) / 2 if len(errors) else 0.0))
        return sides

    def sf(self, excess: Array, pairs: Pairs) -> Array:
        """Return the probabilities that noise exceeds the given values ``[pairs]``."""
        return np.asarray(special.stdtr(self._seeds - 1, -excess / self.errors(pairs)))

    def isf(self, p: float, pairs: Pairs) -> Array:
        """Return the values that noise exceeds with probability p ``[pairs]``."""
        return np.asarray(-special.stdtrit(self._seeds - 1, p) * self.errors(pairs))

    def simulate(self, pairs: Pairs, trials: int, seeds: int, rng: np.random.Generator) -> Simulated:
        """Simulate experiments with that many seeds, as if the estimates were the true values.

        The means of all cells vary together as observed; the standard deviations of pairs are drawn one by one.
        """
        means = rng.normal(size=(trials, self._seeds)) @ self._centred.T / np.sqrt((self._seeds - 1) * seeds)
        spread = np.sqrt(rng.chisquare(seeds - 1, (trials, len(pairs.first))) / (seeds - 1))
        errors = spread * self.errors(pairs) * np.sqrt(self._seeds / seeds)
        differences = (
            self.means[pairs.second] - self.means[pairs.first] + means[:, pairs.second] - means[:, pairs.first]
        )
        return Simulated(differences, lambda values, p: values > -special.stdtrit(seeds - 1, p) * errors)
