"""Nearest-neighbour estimates of divergences from samples, for distributions without a density in closed form."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

Points = NDArray[np.float64]

NEIGHBOURS = 5
"""Index k of the nearest neighbour that estimates use; a larger k lowers the variance and raises the bias."""


def jensen_shannon(p_samples: Points, q_samples: Points, neighbours: int = NEIGHBOURS) -> float:
    """Estimate JS(P, Q) in nats (0 to ln 2) from samples of P and Q.

    JS is the mutual information between a point of the equal mixture and the label of its component. It is estimated
    with nearest neighbours (Ross 2014, Mutual Information between Discrete and Continuous Data Sets, equation 2;
    coinciding points are handled as in Gao et al. 2017). The estimate needs no density, so it is valid for
    distributions on lines and points. Its error is about 1/sqrt(N), in either direction.

    Args:
        p_samples: ``[N, D]``.
        q_samples: ``[N, D]``, with the same N.
        neighbours: Index k of the neighbour, within the point's own sample, whose distance is the point's radius.
    """
    pooled_tree, count = cKDTree(np.concatenate([p_samples, q_samples])), len(p_samples)
    terms = []
    for samples in (p_samples, q_samples):
        own_tree = cKDTree(samples)
        # The nearest neighbour of a point is the point itself, hence the 1.
        radius = np.nextafter(own_tree.query(samples, [neighbours + 1])[0][:, 0], np.inf)
        own_count, pooled_count = (
            tree.query_ball_point(samples, radius, return_length=True) - 1 for tree in (own_tree, pooled_tree)
        )
        terms.append(digamma(own_count) - digamma(pooled_count))
    return float(digamma(2 * count) - digamma(count) + np.concatenate(terms).mean())


def kullback_leibler(p_samples: Points, q_samples: Points, neighbours: int = NEIGHBOURS) -> float:
    """Estimate KL(P || Q) in nats from samples of P and Q (Wang, Kulkarni & Verdu 2009, equation 5).

    The estimate is too low where P has mass in the tails of Q, of which there are few samples.

    Args:
        p_samples: ``[N, D]``.
        q_samples: ``[M, D]``.
        neighbours: Index k of the neighbour whose distance estimates the density.

    Returns:
        The estimate; infinite or NaN if points coincide, because the distribution then has no density.
    """
    own_distance = cKDTree(p_samples).query(p_samples, [neighbours + 1])[0][:, 0]
    cross_distance = cKDTree(q_samples).query(p_samples, [neighbours])[0][:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(cross_distance / own_distance).mean()
    return float(p_samples.shape[1] * log_ratio + np.log(len(q_samples) / (len(p_samples) - 1)))


def total_variation(p_samples: Points, q_samples: Points) -> float:
    """Estimate the total variation distance of P and Q (0 to 1) from samples: 2 accuracy - 1 of a classifier.

    The classifier votes with the nearest neighbours of a point among all other points; their number is about sqrt(N).
    The best classifier of all reaches the total variation distance, so the estimate is too low, up to sampling error.

    Args:
        p_samples: ``[N, D]``.
        q_samples: ``[N, D]``, with the same N.
    """
    pooled, count = np.concatenate([p_samples, q_samples]), len(p_samples)
    is_p = np.arange(2 * count) < count
    neighbours = 2 * (math.isqrt(count) // 2) + 1  # odd: no ties
    # A point is its own nearest neighbour, and does not vote.
    voters = cKDTree(pooled).query(pooled, neighbours + 1)[1][:, 1:]
    is_right = (is_p[voters].mean(1) > 0.5) == is_p
    return float(2 * is_right.mean() - 1)


def entropy(samples: Points, neighbours: int = NEIGHBOURS) -> float:
    """Estimate the differential entropy in nats from samples (Kozachenko & Leonenko 1987; Kraskov et al. 2004, eq. 20).

    Args:
        samples: ``[N, D]``.
        neighbours: Index k of the neighbour whose distance estimates the density.

    Returns:
        The estimate; minus infinity if points coincide, because the distribution then has no density.
    """
    count, dim = samples.shape
    distance = cKDTree(samples).query(samples, [neighbours + 1])[0][:, 0]
    log_ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    with np.errstate(divide="ignore"):
        return float(digamma(count) - digamma(neighbours) + log_ball + dim * np.log(distance).mean())
