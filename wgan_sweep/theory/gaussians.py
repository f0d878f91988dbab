"""Divergences of two isotropic normal distributions, in closed form or by quadrature."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

REACH = 12.0
"""Standard deviations about each mean that the grid of a quadrature covers."""
GRID = 4001
"""Points of the grid."""


def entropy(std: float, dim: int) -> float:
    """Return the differential entropy in nats of a normal distribution with one std in all `dim` directions."""
    return dim * (math.log(std) + math.log(2 * math.pi * math.e) / 2)


@dataclass(frozen=True)
class GaussianPair:
    """P = N(shift e_1, std^2 I) and Q = N(other_shift e_1, other_std^2 I) in R^dim, where e_1 is the first axis.

    JS, total variation and the optimal discriminator are those of the first coordinate. With equal stds, they hold in
    any dimension: the other coordinates do not tell P from Q.
    """

    shift: float
    std: float
    other_shift: float = 0.0
    other_std: float = 1.0
    dim: int = 1

    def kullback_leibler(self) -> float:
        """Return KL(P || Q) in nats, in R^dim."""
        ratio = self.std / self.other_std
        distance = (self.shift - self.other_shift) / self.other_std
        return self.dim * ((ratio**2 - 1) / 2 - math.log(ratio)) + distance**2 / 2

    def grid(self) -> Values:
        """Return equally spaced points ``[GRID]`` that cover both distributions."""
        places = [(self.shift, self.std), (self.other_shift, self.other_std)]
        ends = [mean + sign * REACH * std for mean, std in places for sign in (-1, 1)]
        return np.linspace(min(ends), max(ends), GRID)

    def densities(self, x: Values) -> tuple[Values, Values]:
        """Return the densities of P and Q at points ``[N]``."""
        return _density(x, self.shift, self.std), _density(x, self.other_shift, self.other_std)

    def log_ratio(self, x: Values) -> Values:
        """Return log p(x) - log q(x) at points ``[N]``."""
        p, q = ((self.shift, self.std), (self.other_shift, self.other_std))
        return _log_density(x, *p) - _log_density(x, *q)

    def optimal_discriminator(self, x: Values) -> Values:
        """Return p(x) / (p(x) + q(x)) at points ``[N]`` (Goodfellow et al. 2014, proposition 1)."""
        return np.exp(-np.logaddexp(0, -self.log_ratio(x)))

    def integral(self, x: Values, of_p: Values, of_q: Values) -> float:
        """Return E_P[f] + E_Q[g] from the values of f and g at the points of `grid`."""
        p, q = self.densities(x)
        return float((p * of_p + q * of_q).sum() * (x[1] - x[0]))  # the trapezoidal rule: both densities end at 0

    def jensen_shannon(self) -> float:
        """Return JS(P, Q) in nats, by quadrature: ln 2 + (E_P[log D*] + E_Q[log(1 - D*)]) / 2."""
        x = self.grid()
        ratio = self.log_ratio(x)
        return math.log(2) - self.integral(x, np.logaddexp(0, -ratio), np.logaddexp(0, ratio)) / 2

    def total_variation(self) -> float:
        """Return the total variation distance, P(A) - Q(A) for A = {p > q}, in closed form."""
        if self.std == self.other_std:
            return math.erf(abs(self.shift - self.other_shift) / self.std / math.sqrt(8))
        narrow, wide = sorted([(self.std, self.shift), (self.other_std, self.other_shift)])
        # The narrow density is above the wide one between the roots of a quadratic equation in its standard units.
        std, shift = wide[0] / narrow[0], (wide[1] - narrow[1]) / narrow[0]
        root = std * math.sqrt(shift**2 + 2 * (std**2 - 1) * math.log(std))
        low, high = ((-shift + sign * root) / (std**2 - 1) for sign in (-1, 1))
        return _mass(low, high) - _mass((low - shift) / std, (high - shift) / std)


def _log_density(x: Values, mean: float, std: float) -> Values:
    return -(((x - mean) / std) ** 2) / 2 - math.log(std * math.sqrt(2 * math.pi))


def _density(x: Values, mean: float, std: float) -> Values:
    return np.exp(_log_density(x, mean, std))


def _mass(low: float, high: float) -> float:
    """Return the probability that a standard normal variable is between two numbers."""
    return (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
