"""What theory says, as numbers."""

import math


def js_of_shifted_uniforms(theta: float) -> float:
    """Return JS(U[0, 1], U[theta, theta + 1]) in nats: the densities differ on 2 |theta| of the line, ln 2 at most."""
    return min(abs(theta), 1.0) * math.log(2)


def js_of_parallel_segments(theta: float) -> float:
    """Return JS of two unit segments at distance `theta` (Arjovsky et al. 2017, example 1): ln 2 unless they meet."""
    return math.log(2) if theta else 0.0


def w1_of_a_shift(theta: float) -> float:
    """Return W1 between a distribution and itself moved by `theta`: the distance (Arjovsky et al. 2017, example 1)."""
    return abs(theta)


def divergence_of_points(distance: float, k: float, p: float) -> tuple[float, float]:
    """Return what maximises d n - k n^p over the norm n of a linear critic, and the maximum.

    That is W_{k,p} (Wu et al. 2018, equation 6) between two points at `distance`, over linear critics: their gradient
    is the same everywhere, so r(x) plays no part.
    """
    norm: float = (distance / (k * p)) ** (1 / (p - 1))
    return norm, distance * norm - k * norm**p


def growth_of_simultaneous_steps(rate: float) -> float:
    """Return by how much one simultaneous gradient step on x y takes two players away from their equilibrium.

    The step is the matrix [[1, -rate], [rate, 1]], whose eigenvalues have modulus sqrt(1 + rate^2) > 1; alternating
    steps have modulus 1 (Mescheder et al. 2018, lemmas 2.4 and 2.5).
    """
    return math.sqrt(1 + rate**2)
