"""Two ways to compare means: by the noise of each cell, or by the differences between runs with the same seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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

    @classmethod
    def all(cls, count: int) -> Self:
        """Return all pairs of a number of cells."""
        return cls(*np.triu_indices(count, 1))

    def take(self, positions: Positions) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.first[positions], self.second[positions])

    def differences(self, values: Array) -> Array:
        """Return the differences ``[..., pairs]`` of the values ``[..., cells]``."""
        return np.asarray(values[..., self.second] - values[..., self.first])

    def __str__(self) -> str:
        return f"{len(self.first)} {'pair' if len(self.first) == 1 else 'pairs'} of cells"


class Simulated(NamedTuple):
    """Simulated experiments: differences of means, and the test of such values in each trial."""

    differences: Array
    """``[trials, pairs]``."""
    exceed: Callable[[Array, float], Array]
    """Returns which values ``[trials, pairs]`` are significant at level p, by the noise estimated in each trial."""


class Comparison(Protocol):
    """The means of cells, and the noise of their differences."""

    test: str
    """Name of the test of one difference."""
    pairing: str
    """How runs are paired, to be added to the name of a test; empty if they are not."""
    too_few: str
    """Why cells with too few seeds cannot be compared."""
    means: Array
    """``[cells]``."""

    @classmethod
    def of(cls, sides: Sides) -> Self | None:
        """Return the comparison of the cells of all sides; None if the noise is unknown, since values do not vary."""

    @classmethod
    def within_sides(cls, sides: Sides) -> Self | None:
        """Return the comparison for use within sides alone: what all cells of a side have in common is no noise."""

    def split(self, values: Array) -> list[Array]:
        """Return those of the values ``[..., cells]`` that belong to each side."""

    def noise_variances(self) -> list[float]:
        """Return the variance that noise alone is expected to give the means of each side."""

    def noise(self, draws: int, rng: np.random.Generator) -> Array:
        """Draw deviations of the observed means from the true ones ``[draws, cells]``, whose size is not known exactly.

        Only their differences within a side count.
        """

    def errors(self, pairs: Pairs) -> Array:
        """Return the standard errors of the differences ``[pairs]``."""

    def sf(self, excess: Array, pairs: Pairs) -> Array:
        """Return the probabilities that the noise of each pair's difference exceeds a value ``[pairs]``."""

    def isf(self, p: float, pairs: Pairs) -> Array:
        """Return the values that the noise of each pair's difference exceeds with probability p ``[pairs]``."""

    def simulate(self, pairs: Pairs, trials: int, seeds: int, rng: np.random.Generator) -> Simulated:
        """Simulate experiments with that many seeds, as if the estimates were the true values."""

    def experiments(self, means: Array, trials: int, seeds: int, rng: np.random.Generator) -> Iterator[Self]:
        """Simulate experiments with that many seeds, these true means ``[cells]``, and the estimated noise."""


def shrunken_sides(comparison: Comparison) -> list[Array]:
    """Return the means of each side, shrunken by the share of their variance that is due to noise."""
    sides = zip(comparison.split(comparison.means), comparison.noise_variances(), strict=True)
    return [shrunken(means, noise) for means, noise in sides]


class Unpaired:
    """Compares means by the noise of each cell, whatever the seeds of the cells."""

    test = "Behrens-Fisher"
    pairing = ""
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

    @classmethod
    def within_sides(cls, sides: Sides) -> Self | None:
        """Return the comparison; the noise of all cells counts."""
        return cls.of(sides)

    def split(self, values: Array) -> list[Array]:
        """Return those of the values ``[..., cells]`` that belong to each side."""
        return _split(values, [len(side.means) for side in self._sides])

    def noise_variances(self) -> list[float]:
        """Return the variance that noise alone is expected to give the means of each side."""
        return [float(np.mean(side.errors**2)) for side in self._sides]

    def noise(self, draws: int, rng: np.random.Generator) -> Array:
        """Draw deviations of the observed means from the true ones ``[draws, cells]``, independent for each cell."""
        return np.concatenate([side.noise(draws, rng) for side in self._sides], axis=1)

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
            pairs.differences(means),
            lambda values, p: behrens_fisher_exceeds(values, both, seeds - 1, p),
        )

    def experiments(self, means: Array, trials: int, seeds: int, rng: np.random.Generator) -> Iterator[Self]:
        """Simulate experiments with that many seeds, these true means ``[cells]``, and the estimated noise."""
        true = [replace(side, means=part) for side, part in zip(self._sides, self.split(means), strict=True)]
        simulated = [side.simulate(trials, seeds, rng) for side in true]
        for trial in range(trials):
            yield type(self)(
                [
                    Means(means[trial], errors[trial] * np.sqrt(seeds), np.full(len(means[trial]), float(seeds)))
                    for means, errors in simulated
                ]
            )


class Paired:
    """Compares means by the differences between runs with the same seed: all cells have the same seeds, in one order.

    What the runs of a seed have in common cancels, and unequal noise does no harm: if the differences of a pair are
    normal, Student's t distribution is exact for it.
    """

    test = "t-test paired by seed"
    pairing = ", paired by seed"
    too_few = "its cells have fewer than two seeds in common, by which runs are paired"

    def __init__(self, values: Array, cells_per_side: Sequence[int]) -> None:
        """Take values ``[cells, seeds]`` and the number of cells of each side."""
        self.means: Array = values.mean(axis=1)
        self._cells_per_side = cells_per_side
        self._centred = values - values.mean(axis=1, keepdims=True)
        self._seeds = values.shape[1]
        self._sizes = np.abs(values).max(axis=1)
        self._largest = float(np.max(self._sds(Pairs.all(len(values)))))

    @classmethod
    def of(cls, sides: Sides) -> Self | None:
        """Return the comparison; None if no two cells have different differences by seed."""
        values = np.array([cell for side in sides for cell in side], dtype=float)
        comparison = cls(values, [len(side) for side in sides])
        return comparison if comparison._largest > 0 else None

    @classmethod
    def within_sides(cls, sides: Sides) -> Self | None:
        """Return the comparison without what all cells of a side have in common at each seed."""
        arrays = [np.array(side, dtype=float) for side in sides]
        return cls.of([cells - cells.mean(axis=0) + cells.mean() for cells in arrays])

    def _sds(self, pairs: Pairs) -> Array:
        """Return the standard deviations of the differences by seed ``[pairs]``; 0 if they are equal up to rounding."""
        differences = pairs.differences(self._centred.T)
        sds = np.sqrt(np.sum(differences**2, axis=0) / (self._seeds - 1))
        rounding = SAME * np.maximum(self._sizes[pairs.first], self._sizes[pairs.second])
        return np.where(np.ptp(differences, axis=0) <= rounding, 0.0, sds)

    def errors(self, pairs: Pairs) -> Array:
        """Return the standard errors of the differences ``[pairs]``.

        Equal differences do not show how noisy they are. They are taken to be as noisy as the noisiest ones.
        """
        sds = self._sds(pairs)
        return np.asarray(np.where(sds == 0, self._largest, sds) / np.sqrt(self._seeds))

    def split(self, values: Array) -> list[Array]:
        """Return those of the values ``[..., cells]`` that belong to each side."""
        return _split(values, self._cells_per_side)

    def _pairs_within(self) -> list[Pairs]:
        """Return the pairs of cells of each side."""
        ends = accumulate(self._cells_per_side, initial=0)
        return [Pairs(*(start + position for position in Pairs.all(end - start))) for start, end in pairwise(ends)]

    def noise_variances(self) -> list[float]:
        """Return the variance that noise alone is expected to give the means of each side; 0 for a single cell."""
        errors = [self.errors(pairs) for pairs in self._pairs_within()]
        return [float(np.mean(side**2)) / 2 if len(side) else 0.0 for side in errors]

    def _combined(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Draw noise of runs ``[*shape, cells]``, as combinations of the observed seeds."""
        return np.asarray(rng.normal(size=(*shape, self._seeds)) @ self._centred.T / np.sqrt(self._seeds - 1))

    def noise(self, draws: int, rng: np.random.Generator) -> Array:
        """Draw deviations of the observed means from the true ones ``[draws, cells]``.

        All cells vary together as observed: the deviations are combinations of the observed seeds. Cells that do not
        vary against each other are taken to be as noisy as the noisiest pair of cells.
        """
        noise = self._combined((draws,), rng)
        equal = np.zeros(len(self.means), dtype=bool)
        for pairs in self._pairs_within():
            constant = pairs.take(np.flatnonzero(self._sds(pairs) == 0))
            equal[[*constant.first, *constant.second]] = True
        noise[:, equal] += self._largest / np.sqrt(2) * rng.normal(size=(draws, int(equal.sum())))
        size_is_estimated = np.sqrt((self._seeds - 1) / rng.chisquare(self._seeds - 1, (draws, 1)))
        return np.asarray(noise * size_is_estimated / np.sqrt(self._seeds))

    def sf(self, excess: Array, pairs: Pairs) -> Array:
        """Return the probabilities that noise exceeds the given values ``[pairs]``."""
        return np.asarray(special.stdtr(self._seeds - 1, -excess / self.errors(pairs)))

    def isf(self, p: float, pairs: Pairs) -> Array:
        """Return the values that noise exceeds with probability p ``[pairs]``."""
        return np.asarray(-special.stdtrit(self._seeds - 1, p) * self.errors(pairs))

    def simulate(self, pairs: Pairs, trials: int, seeds: int, rng: np.random.Generator) -> Simulated:
        """Simulate experiments with that many seeds, as if the estimates were the true values.

        The runs of a seed vary together as observed.
        """
        weights = pairs.differences(self._centred.T) / np.sqrt(self._seeds - 1)
        draws = rng.normal(size=(trials, seeds, self._seeds))
        means = draws.mean(axis=1)
        centred = draws - means[:, None]
        covariances = centred.transpose(0, 2, 1) @ centred / (seeds - 1)
        sds = np.sqrt(np.einsum("tij,ip,jp->tp", covariances, weights, weights, optimize=True))
        errors = np.where(self._sds(pairs) == 0, self._largest, sds) / np.sqrt(seeds)
        return Simulated(
            pairs.differences(self.means) + means @ weights,
            lambda values, p: values > -special.stdtrit(seeds - 1, p) * errors,
        )

    def experiments(self, means: Array, trials: int, seeds: int, rng: np.random.Generator) -> Iterator[Self]:
        """Simulate experiments with that many seeds and these true means ``[cells]``; seeds vary as observed."""
        for values in means + self._combined((trials, seeds), rng):
            yield type(self)(values.T, self._cells_per_side)


def _split(values: Array, cells_per_side: Sequence[int]) -> list[Array]:
    return np.split(values, np.cumsum(cells_per_side)[:-1], axis=-1)
