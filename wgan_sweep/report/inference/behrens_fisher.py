"""The Behrens-Fisher distribution: the noise of a difference of two means whose standard errors are estimated."""

from functools import cache

import numpy as np
from scipy import optimize, special

from wgan_sweep.report.inference.evidence import Array

_STEP = 0.05
"""Distance of the abscissae of the trapezoidal rule, after the substitution t = sinh(s)."""


def _abscissae(freedom: float) -> Array:
    """Return the abscissae s beyond which Student's t distribution has about 1e-13 of its mass (at most 20)."""
    limit = min(20.0, np.arcsinh(np.sqrt(freedom)) + 30 / freedom)
    count = int(np.ceil(limit / _STEP))
    return _STEP * np.arange(-count, count + 1, dtype=np.float64)


def _log_density(t: Array, freedom: Array) -> Array:
    """Return the logarithm of the density of Student's t distribution."""
    half = (freedom + 1) / 2
    scale = special.gammaln(half) - special.gammaln(freedom / 2) - np.log(np.pi * freedom) / 2
    return np.asarray(scale - half * np.log1p(t**2 / freedom))


def behrens_fisher_sf(x: Array, first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """Return P(a·t + b·u > x) for independent t and u, Student's t variables: a Behrens-Fisher distribution.

    The one-sided p-value of a difference x of two means with standard errors a and b. Its error rate is at most the
    nominal one (Robinson 1976), unlike that of Welch's test with two or three seeds.

    Args:
        x: Differences, of any shape.
        first: a and the degrees of freedom of t; broadcast with `x`.
        second: b and the degrees of freedom of u; likewise.

    Returns:
        Probabilities of the shape of `x`, to about 1e-9: the trapezoidal rule after the substitution t = sinh(s).
    """
    x, a, f, b, g = np.broadcast_arrays(x, *first, *second)
    a, f, b, g = np.where(a <= b, (a, f, b, g), (b, g, a, f))[..., None]
    s = _abscissae(float(np.min(f)))
    t = np.sinh(s)
    weights = np.exp(_log_density(t, f)) * np.cosh(s) * _STEP
    return np.asarray(np.sum(weights * special.stdtr(g, (a * t - x[..., None]) / b), axis=-1))


def behrens_fisher_isf(p: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the x at which `behrens_fisher_sf` is p, for p below 1/2."""
    bound = sum(error * -special.stdtrit(freedom, p / 2) for error, freedom in (first, second))

    def excess(x: float) -> float:
        sides = [(np.array(error), np.array(freedom)) for error, freedom in (first, second)]
        return float(np.log(behrens_fisher_sf(np.array(x), *sides) / p))

    return float(optimize.brentq(excess, 0, bound, xtol=1e-9 * bound, rtol=1e-10))


@cache
def _critical_values(freedom: int, p: float) -> Array:
    """Return quantiles of cos(θ)·t + sin(θ)·u, with equal degrees of freedom, at `_ANGLES`."""
    return np.array(
        [behrens_fisher_isf(p, (float(np.cos(a)), freedom), (float(np.sin(a)) + 1e-12, freedom)) for a in _ANGLES]
    )


_ANGLES = np.linspace(0, np.pi / 4, 9)


def behrens_fisher_exceeds(differences: Array, errors: tuple[Array, Array], freedom: int, p: float) -> Array:
    """Return which differences have p-values of `behrens_fisher_sf` below p, for equal degrees of freedom.

    Args:
        differences: Differences of means, of any shape.
        errors: The standard errors of both means, of the same shape.
        freedom: The degrees of freedom of both standard errors.
        p: A probability below 1/2.
    """
    small, large = np.minimum(*errors), np.maximum(*errors)
    bounds = np.interp(np.arctan2(small, large), _ANGLES, _critical_values(freedom, p))
    return np.asarray(differences > bounds * np.hypot(small, large))
