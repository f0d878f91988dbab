r"""Optimal transport between two samples: plans with a certificate, Kantorovich potentials, Sinkhorn divergence.

A solution of the linear program consists of a plan and of duals :math:`u_i, v_j` with :math:`u_i + v_j \le c_{ij}`. It
is accepted only if the duals are feasible and their value is the cost of the plan, which proves that both are optimal.

For the cost :math:`c_{ij} = \lVert x_i - y_j \rVert`, the duals are a Kantorovich potential T at the points:
:math:`T(x_i) = u_i`, :math:`T(y_j) = -v_j`. It is 1-Lipschitz on all points together, because its upper extension
:math:`\min_j (T(y_j) + \lVert z - y_j \rVert)` is 1-Lipschitz, optimal, and equal to T at every point that has mass.

T is not unique: on each connected component of the plan (x and y are connected if mass moves between them), a constant
may be added, as far as T stays 1-Lipschitz. `kantorovich_potential` returns the centre of what is possible.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_array
from scipy.sparse.csgraph import connected_components, csgraph_from_dense, dijkstra
from scipy.spatial.distance import cdist
from torch import Tensor

from wgan_sweep.common.capacity import GIB, total_bytes
from wgan_sweep.errors import InputError

Array = NDArray[np.float64]

MAX_PIVOTS = 100_000_000
"""Iteration limit of the linear program; high enough that the solver never stops early with an inexact result."""
TOLERANCE = 1e-7
"""Largest violation of a dual constraint, and largest gap between plan and duals, relative to the largest cost."""
NO_MASS = 1e-6
"""Share of a point's mass up to which a pair's mass is a rounding error: 1/3 and 2/6 differ."""
ANCHORS = 100
"""Components of a plan relative to which the extreme potentials are computed."""
HUBS = 4
"""Number of anchors through which detours are measured: an edge that is longer than a detour is left out."""
MATRICES = 4
"""Matrices of the size of the costs that exist at once: distances, costs, reduced costs and the plan."""
MAX_ITERATIONS = 10_000
"""Iteration limit of Sinkhorn's algorithm."""
MARGINAL_ERROR = 1e-6
"""Error of the marginals at which Sinkhorn's algorithm stops."""
ACCEPTED_MARGINAL_ERROR = 1e-4
"""Largest error of the marginals at the iteration limit with which a Sinkhorn divergence is reported."""


class NotOptimalError(Exception):
    """A transport problem that was not solved to optimality."""


def check_fits(key: str, real: int, generated: int) -> None:
    """Check that a matrix of costs can fit in this machine's memory.

    Args:
        key: The config key that sets the number of points, with its value, for the message.
        real: Number of real points.
        generated: Number of generated points.

    Raises:
        InputError: if it cannot.
    """
    needed, total = 8 * MATRICES * real * generated, total_bytes(torch.device("cpu"))
    if needed > total:
        raise InputError(
            f"{key}: the transport costs between {real} real and {generated} generated points need "
            f"{needed / GIB:,.0f} GiB of memory, but this machine has {total / GIB:,.1f}: lower it to "
            f"{int((total / 8 / MATRICES) ** 0.5)} or fewer"
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """An optimal plan between N real and M generated points of equal weights, with optimal duals."""

    cost: float
    """The minimal mean cost."""
    real: NDArray[np.intp]
    """``[P]``: the real point of each pair between which mass moves."""
    generated: NDArray[np.intp]
    """``[P]``: the generated point of each pair."""
    mass: Array
    """``[P]``: the mass that moves; its sum is 1."""
    real_dual: Array
    """``[N]``: u."""
    generated_dual: Array
    """``[M]``: v."""


def mean_cost(real: Tensor, generated: Tensor, power: int) -> float:
    """Return the minimal mean cost of transporting one sample to another, where the cost is distance^power.

    Args:
        real: ``[N, D]``, float64.
        generated: ``[M, D]``, float64; in one dimension, where points are sorted, M = N.
        power: 1 or 2.

    Raises:
        NotOptimalError: if the linear program was not solved.
    """
    import ot  # slow to import

    if real.shape[1] == 1:
        return float(ot.wasserstein_1d(generated, real, p=power).sum())
    cost = ot.dist(generated, real, metric="euclidean" if power == 1 else "sqeuclidean")
    return solve(cost.numpy()).cost


def solve(cost: Array, max_pivots: int = MAX_PIVOTS) -> Plan:
    """Solve a transport problem by the network simplex of POT.

    Args:
        cost: ``[N, M]``, float64: the cost of moving a generated point (column) to a real one (row).
        max_pivots: Iteration limit.

    Raises:
        NotOptimalError: if the solver stopped early, or its duals do not prove that the plan is optimal.
    """
    import ot  # slow to import

    with _quiet():
        matrix, log = ot.emd([], [], cost, numItermax=max_pivots, log=True)
    u, v = np.asarray(log["u"]), np.asarray(log["v"])
    scale = float(cost.max())
    gap = abs(float(u.mean() + v.mean() - log["cost"]))
    violation = float((u[:, None] + v - cost).max())
    if log["warning"] is not None or max(gap, violation) > TOLERANCE * scale:
        reason = log["warning"] or f"duality gap {gap:g}, violation of a dual constraint {violation:g}"
        raise NotOptimalError(f"the transport problem of {len(u)} and {len(v)} points was not solved: {reason}")
    real, generated = np.nonzero(matrix > NO_MASS / max(cost.shape))
    return Plan(float(log["cost"]), real, generated, matrix[real, generated], u, v)


@dataclass(frozen=True, eq=False)
class Potential:
    """A Kantorovich potential at the points of two samples, high at real ones; its mean over all points is 0."""

    real: Array
    """``[N]``"""
    generated: Array
    """``[M]``"""
    freedom: float
    """How far the potential is from unique: 0 if it is. See `kantorovich_potential`."""

    def extended(self, points: Tensor, real: Tensor, generated: Tensor) -> Tensor:
        """Return the potential ``[K]`` at other points ``[K, D]``; differentiable.

        It is the mean of the largest and the smallest 1-Lipschitz function with the given values (McShane 1934).

        Args:
            points: ``[K, D]``
            real: The real points ``[N, D]``.
            generated: The generated points ``[M, D]``.
        """
        known = torch.cat([real, generated]).to(points.dtype)
        distance = torch.cdist(points, known, compute_mode="donot_use_mm_for_euclid_dist")
        values = torch.from_numpy(np.concatenate([self.real, self.generated])).to(points.dtype)
        return ((values + distance).amin(1) + (values - distance).amax(1)) / 2


def potential_between(real: Tensor, generated: Tensor) -> tuple[Plan, Potential]:
    """Return the optimal plan between two samples for Euclidean distances, and its Kantorovich potential.

    Args:
        real: ``[N, ...]``
        generated: ``[M, ...]``

    Raises:
        NotOptimalError: if the transport problem was not solved.
    """
    distance = cdist(*(points.flatten(1).double().numpy() for points in (real, generated)))
    plan = solve(distance)
    return plan, kantorovich_potential(distance, plan)


def kantorovich_potential(distance: Array, plan: Plan) -> Potential:
    r"""Return the centre of all Kantorovich potentials of a plan.

    Relative to one potential, another one adds a constant :math:`s_a` to each connected component a of the plan. The
    :math:`s` that keep T 1-Lipschitz are those with :math:`s_b - s_a \le r_{ab}` for the smallest reduced cost
    :math:`r_{ab} \ge 0` between a generated point of a and a real one of b. The largest possible :math:`s_b - s_a` is
    the length :math:`d_{ab}` of the shortest path from a to b, and :math:`s_b = d_{ab}` for all b is one solution,
    :math:`s_b = -d_{ba}` another one. The result is the mean of both over all a, weighted by the number of points: a
    mean of solutions, which is a solution, and which changes its sign only if real and generated points are exchanged.
    Of more than `ANCHORS` components, the mean is over that many, evenly spaced.

    ``freedom`` is the root mean square, over these a and all b, of the half-width :math:`(d_{ab} + d_{ba}) / 2` of the
    interval in which T(z) - T(z') can lie, divided by the root mean square of T(z) - T(z'). It is infinite if T is
    constant and need not be, as between equal samples.

    Args:
        distance: ``[N, M]``: Euclidean distances between real (rows) and generated points.
        plan: An optimal plan for these costs.
    """
    u, v = plan.real_dual, plan.generated_dual
    count = len(u) + len(v)
    graph = coo_matrix((plan.mass, (plan.real, plan.generated + len(u))), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    of_real, of_generated = labels[: len(u)], labels[len(u) :]
    reduced = np.maximum(distance - u[:, None] - v, 0)
    between = _smallest_by_label(_smallest_by_label(reduced, of_real).T, of_generated)  # [components, components]
    del reduced
    np.fill_diagonal(between, 0)
    weight = np.bincount(labels) / count
    anchors = np.unique(np.linspace(0, len(weight) - 1, ANCHORS).round().astype(int))
    share = weight[anchors] / weight[anchors].sum()
    paths = _without_detours(between, hubs=anchors[:HUBS])
    rise, fall = dijkstra(paths, indices=anchors), dijkstra(paths.T.tocsr(), indices=anchors)  # [anchors, components]
    shift = share @ (rise - fall) / 2
    values = np.concatenate([u, -v]) + shift[labels]
    values -= values.mean()
    if abs(values).max() <= TOLERANCE * distance.max():
        values = np.zeros_like(values)
    half_width, spread = share @ ((rise + fall) / 2) ** 2 @ weight, 2 * values.var()
    with np.errstate(divide="ignore"):
        freedom = 0.0 if half_width == 0 else float(np.sqrt(half_width / spread))
    return Potential(values[: len(u)], values[len(u) :], freedom)


def _without_detours(lengths: Array, hubs: NDArray[np.intp]) -> csr_array:
    """Return the graph without the edges that are longer than a path through a hub. No shortest path has them.

    Args:
        lengths: ``[nodes, nodes]``: length of the edge from each row to each column. Edges that are left out become
            infinite in place.
        hubs: Indices of some nodes.
    """
    graph = csgraph_from_dense(lengths, null_value=np.inf)
    to_hubs, from_hubs = dijkstra(graph.T.tocsr(), indices=hubs), dijkstra(graph, indices=hubs)
    del graph
    for to_hub, from_hub in zip(to_hubs, from_hubs, strict=True):
        lengths[lengths > to_hub[:, None] + from_hub] = np.inf
    return csgraph_from_dense(lengths, null_value=np.inf)


def _smallest_by_label(values: Array, labels: NDArray[np.intp]) -> Array:
    """Return the smallest row elementwise of each label: from ``[N, K]`` to ``[labels, K]``."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    smallest: Array = np.minimum.reduceat(values[order], starts, axis=0)
    return smallest


def sinkhorn_divergence(real: Array, generated: Array, regularisation: float) -> float | None:
    r"""Return the Sinkhorn divergence of two samples for the cost :math:`\lVert x - y \rVert^2` (Genevay et al. 2018).

    OT(P, Q) - OT(P, P) / 2 - OT(Q, Q) / 2, where OT is the least cost of a plan plus `regularisation` times its
    Kullback-Leibler divergence from independence. It is 0 or more, and 0 for equal samples only (Feydy et al. 2019). It
    tends to W2 squared for small regularisation.

    Args:
        real: ``[N, D]``
        generated: ``[M, D]``
        regularisation: In units of the cost.

    Returns:
        The divergence, or None if Sinkhorn's algorithm did not converge.

    Raises:
        NotOptimalError: if the problem without regularisation, from which the algorithm starts, was not solved.
    """
    pairs = ((real, generated), (real, real), (generated, generated))
    terms = [_regularised_cost(cdist(first, second, "sqeuclidean"), regularisation) for first, second in pairs]
    if any(term is None for term in terms):
        return None
    mixed, *own = (term for term in terms if term is not None)
    return mixed - sum(own) / 2


def _regularised_cost(cost: Array, regularisation: float) -> float | None:
    """Return the regularised transport cost, or None without convergence.

    Optimal duals are subtracted from the costs first. This changes no plan, and keeps exp(-cost / regularisation) from
    vanishing in a whole row or column.
    """
    import ot  # slow to import

    n, m = cost.shape
    exact = solve(cost)
    reduced = np.maximum(cost - exact.real_dual[:, None] - exact.generated_dual, 0)
    with _quiet():
        plan, log = ot.sinkhorn(
            np.full(n, 1 / n),
            np.full(m, 1 / m),
            reduced,
            regularisation,
            stopThr=MARGINAL_ERROR,
            numItermax=MAX_ITERATIONS,
            log=True,
        )
    if not log["err"] or not log["err"][-1] <= ACCEPTED_MARGINAL_ERROR:
        return None
    positive = plan > 0
    divergence = float((plan[positive] * np.log(plan[positive] * n * m)).sum())
    return float((plan * cost).sum()) + regularisation * divergence


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress POT's warnings that a solver stopped early, which its log also says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
