"""Divergences from samples alone, by nearest neighbours: for distributions without a density in closed form."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma

Points = NDArray[np.float64]

NEIGHBOURS = 5
"""Which neighbour's distance is looked at: more lessen the variance and add bias."""


def jensen_shannon(one: Points, other: Points, neighbours: int = NEIGHBOURS) -> float:
    """Estimate JS(P, Q) in nats (0 to ln 2) from samples of P and Q.

    JS is the mutual information between a point of the equal mixture and which of the two it came from, and that is
    estimated by nearest neighbours (Ross 2014, Mutual Information between Discrete and Continuous Data Sets, equation
    2; ties, as of points on one place, are counted as in Gao et al. 2017). It needs no density, so it holds for
    distributions on lines and points, too; it errs by about 1/sqrt(N), to both sides.

    Args:
        one: ``[N, D]``.
        other: ``[N, D]``, as many.
        neighbours: Which neighbour of its own kind sets a point's radius.
    """
    pooled, count = cKDTree(np.concatenate([one, other])), len(one)
    gains = []
    for sample in (one, other):
        own = cKDTree(sample)
        radius = np.nextafter(own.query(sample, [neighbours + 1])[0][:, 0], np.inf)  # the point itself is the first
        of_own, of_all = (tree.query_ball_point(sample, radius, return_length=True) - 1 for tree in (own, pooled))
        gains.append(digamma(of_own) - digamma(of_all))
    return float(digamma(2 * count) - digamma(count) + np.concatenate(gains).mean())


def kullback_leibler(one: Points, other: Points, neighbours: int = NEIGHBOURS) -> float:
    """Estimate KL(P || Q) in nats from samples of P and Q (Wang, Kulkarni & Verdu 2009, equation 5).

    Too low where P has mass that Q has hardly a sample of: what is in Q's tails cannot be seen.

    Args:
        one: ``[N, D]``, of P.
        other: ``[M, D]``, of Q.
        neighbours: Which neighbour's distance stands for the density.

    Returns:
        The estimate; infinite or not a number where points coincide, as no density does.
    """
    own = cKDTree(one).query(one, [neighbours + 1])[0][:, 0]
    across = cKDTree(other).query(one, [neighbours])[0][:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(across / own).mean()
    return float(one.shape[1] * ratio + np.log(len(other) / (len(one) - 1)))
