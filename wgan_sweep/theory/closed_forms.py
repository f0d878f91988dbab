"""Closed-form values of distances, divergences and game dynamics."""

import math


def js_of_shifted_uniforms(theta: float) -> float:
    """Return JS(U[0, 1], U[theta, theta + 1]) in nats: min(|theta|, 1) ln 2."""
    return min(abs(theta), 1.0) * math.log(2)


def js_of_parallel_segments(theta: float) -> float:
    """Return JS in nats of two parallel unit segments at distance `theta` (Arjovsky et al. 2017, example 1).

    It is 0 if they coincide, otherwise ln 2.
    """
    return math.log(2) if theta else 0.0


def js_of_a_dropped_mode(theta: float) -> float:
    """Return JS in nats between U[0, 1] and its equal mixture with U[theta, theta + 1]; constant for |theta| >= 1."""
    overlapping = math.log(2 / 3) / 2 + math.log(4 / 3) + math.log(2) / 2
    return min(abs(theta), 1.0) * overlapping / 2


def w1_of_a_dropped_mode(theta: float) -> float:
    """Return W1 between U[0, 1] and its equal mixture with U[theta, theta + 1]: half of the mass moves by |theta|."""
    return abs(theta) / 2


def w1_of_a_shift(theta: float) -> float:
    """Return W1 between a distribution and its translation by `theta`: |theta| (Arjovsky et al. 2017, example 1)."""
    return abs(theta)


def divergence_of_points(distance: float, k: float, p: float) -> tuple[float, float]:
    """Return the norm n of a linear critic that maximises d n - k n^p, and the maximum.

    The maximum is W_{k,p} (Wu et al. 2018, equation 6) between two points at distance d, over linear critics. The
    gradient of a linear critic is constant, so the value does not depend on the sampling scheme r(x).
    """
    norm: float = (distance / (k * p)) ** (1 / (p - 1))
    return norm, distance * norm - k * norm**p


def clipped_objective_of_points(distance: float, k: float, p: float, centre: float, clip: float) -> tuple[float, float]:
    """Return the slope n in [0, clip] that maximises |d| n - k |n - centre|^p, and the maximum.

    The maximum is the supremum of E_real[T] - E_fake[T] - k E[| ||grad T|| - centre |^p] over linear critics T whose
    weights are clipped, for two points at distance |d| on the line. With centre 0 it is W_{k,p} over these critics. A
    linear critic of the opposite sign has the value -|d| n - k |n - centre|^p, which is lower.
    """
    slope = min(clip, centre + (abs(distance) / (k * p)) ** (1 / (p - 1)))
    return slope, abs(distance) * slope - k * abs(slope - centre) ** p


def growth_of_simultaneous_steps(rate: float) -> float:
    """Return the factor by which one simultaneous gradient step on x y moves the players away from (0, 0).

    The step is the matrix [[1, -rate], [rate, 1]], whose eigenvalues have modulus sqrt(1 + rate^2) > 1. The eigenvalues
    of alternating steps have modulus 1 (Mescheder et al. 2018, lemmas 2.4 and 2.5).
    """
    return math.sqrt(1 + rate**2)
