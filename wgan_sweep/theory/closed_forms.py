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

    Between any two distributions, with W1 for d, n is the slope of the maximiser over all critics if r(x) is their
    transport density (Evans 1997), divided by its mass, W1. The maximiser is then n times a Kantorovich potential.
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


def growth_at_equilibrium(rate: float, curvature: float, *, simultaneous: bool) -> float:
    """Return the factor by which one gradient step on x y + F(y) moves the players away from (0, 0), close to it.

    It is the largest modulus of an eigenvalue of the step (Mescheder et al. 2018, lemmas 2.4 and 2.5). Without F it is
    sqrt(1 + rate^2) for simultaneous steps, and 1 for alternating ones.

    Args:
        rate: Learning rate of both players.
        curvature: F''(0), where F is the critic's gradient term: of k |y|^p, 2 k for p = 2, and 0 for p > 2.
        simultaneous: Whether both players step from the same point, [[1, rate], [-rate, 1 - rate curvature]]; if not,
            the generator's step uses the new critic.
    """
    trace = 2 - rate * curvature - (0 if simultaneous else rate**2)
    determinant = 1 - rate * curvature + (rate**2 if simultaneous else 0)
    discriminant = trace**2 / 4 - determinant
    return abs(trace) / 2 + math.sqrt(discriminant) if discriminant > 0 else math.sqrt(determinant)


def radius_of_the_cycle(rate: float, k: float, p: float) -> float:
    """Return the distance from (0, 0) at which simultaneous gradient steps on x y + k |y|^p end, for p > 2.

    A step on x y multiplies the squared radius r^2 by 1 + rate^2. The term lowers it by 2 rate k p |y|^p, on average
    over a turn by 2 rate k p m r^p, where m is the mean of |sin|^p. Both cancel at r^(p-2) = rate / (2 k p m). For
    p = 6, m is 5/16 and r^4 = 8 rate / (5 k p). This holds to first order in the rate.
    """
    mean_of_sine = math.gamma((p + 1) / 2) / (math.sqrt(math.pi) * math.gamma(p / 2 + 1))
    radius: float = (rate / (2 * k * p * mean_of_sine)) ** (1 / (p - 2))
    return radius
