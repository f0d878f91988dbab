"""Optimal transport between samples against SciPy and closed forms, and its certificate."""

import re

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from scipy.sparse.csgraph import csgraph_from_dense, dijkstra
from scipy.spatial.distance import cdist
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.common.capacity import total_bytes
from wgan_sweep.data import GaussianRing
from wgan_sweep.errors import InputError
from wgan_sweep.scoring import transport
from wgan_sweep.scoring.transport import NotOptimalError, Plan, Potential


def gaussians(real: int, generated: int, dim: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(real, dim)) + 1, 2 * draw.normal(size=(generated, dim))


def potential_of(real: np.ndarray, generated: np.ndarray) -> tuple[Plan, Potential]:
    distance = cdist(real, generated)
    plan = transport.solve(distance)
    return plan, transport.kantorovich_potential(distance, plan)


def extreme_difference(real: np.ndarray, generated: np.ndarray, cost: float, first: int, second: int) -> float:
    """Return the largest T(z_first) - T(z_second) of all optimal potentials T, by SciPy's linear programming."""
    points = np.concatenate([real, generated])
    distance, count = cdist(points, points), len(points)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    lipschitz = np.zeros((len(pairs), count))
    for row, (i, j) in enumerate(pairs):
        lipschitz[row, i], lipschitz[row, j] = 1, -1
    value = np.concatenate([np.full(len(real), 1 / len(real)), np.full(len(generated), -1 / len(generated))])
    objective = np.zeros(count)
    objective[first] -= 1
    objective[second] += 1
    solution = scipy.optimize.linprog(
        objective,
        A_ub=np.concatenate([lipschitz, -value[None]]),
        b_ub=np.concatenate([[distance[pair] for pair in pairs], [-cost + 1e-12]]),
        bounds=[(0, 0), *[(None, None)] * (count - 1)],
    )
    assert solution.success
    return -solution.fun


@pytest.mark.parametrize(("real", "generated"), [(30, 30), (20, 33)])
def test_a_plan_and_its_duals_solve_the_linear_program(real: int, generated: int) -> None:
    cost = cdist(*gaussians(real, generated), "sqeuclidean")
    plan = transport.solve(cost)
    marginals = [np.kron(np.eye(real), np.ones(generated)), np.kron(np.ones(real), np.eye(generated))]
    masses = np.concatenate([np.full(real, 1 / real), np.full(generated, 1 / generated)])
    expected = scipy.optimize.linprog(cost.ravel(), A_eq=np.concatenate(marginals), b_eq=masses).fun
    assert plan.cost == pytest.approx(expected, rel=1e-9)
    assert (plan.mass * cost[plan.real, plan.generated]).sum() == pytest.approx(expected, rel=1e-9)
    assert plan.real_dual.mean() + plan.generated_dual.mean() == pytest.approx(expected, rel=1e-9)
    assert (plan.real_dual[:, None] + plan.generated_dual - cost).max() < 1e-12
    np.testing.assert_allclose(np.bincount(plan.real, plan.mass), 1 / real)
    np.testing.assert_allclose(np.bincount(plan.generated, plan.mass), 1 / generated)


def test_a_solver_that_stops_early_is_refused() -> None:
    with pytest.raises(NotOptimalError, match=r"30 and 30 points was not solved: .*numItermax"):
        transport.solve(cdist(*gaussians(30, 30)), max_pivots=3)


def test_costs_of_any_power_match_scipy() -> None:
    real, generated = gaussians(40, 40)
    for power in (1, 2):
        cost = cdist(real, generated) ** power
        expected = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
        found = transport.mean_cost(torch.from_numpy(real), torch.from_numpy(generated), power)
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("real", "generated", "dim"), [(50, 50, 2), (30, 45, 2), (40, 40, 5)])
def test_a_potential_is_optimal_and_1_lipschitz_on_all_points(real: int, generated: int, dim: int) -> None:
    points = gaussians(real, generated, dim)
    plan, potential = potential_of(*points)
    assert potential.real.mean() - potential.generated.mean() == pytest.approx(plan.cost, rel=1e-9)
    values = np.concatenate([potential.real, potential.generated])
    assert values.mean() == pytest.approx(0, abs=1e-12)
    both = np.concatenate(points)
    assert (abs(values[:, None] - values) - cdist(both, both)).max() < 1e-9
    others = np.random.default_rng(1).normal(size=(100, dim))
    extended = potential.extended(*map(torch.from_numpy, (np.concatenate([both, others]), *points))).numpy()
    np.testing.assert_allclose(extended[: len(both)], values, atol=1e-9)
    everywhere = np.concatenate([both, others])
    assert (abs(extended[:, None] - extended) - cdist(everywhere, everywhere)).max() < 1e-9


@pytest.mark.parametrize(("real", "generated"), [(5, 5), (3, 6)])
def test_a_potential_is_the_mean_of_the_extremes_that_linear_programming_finds(real: int, generated: int) -> None:
    points = gaussians(real, generated, seed=3)
    plan, potential = potential_of(*points)
    count = real + generated
    largest = np.array([[extreme_difference(*points, plan.cost, b, a) for b in range(count)] for a in range(count)])
    middle = (largest.mean(0) - largest.mean(1)) / 2
    values = np.concatenate([potential.real, potential.generated])
    np.testing.assert_allclose(values, middle - middle.mean(), atol=1e-6)
    differences = values[:, None] - values
    half_widths = (largest + largest.T) / 2
    assert potential.freedom == pytest.approx(
        np.sqrt((half_widths**2).mean() / (differences**2).mean()), rel=1e-5, abs=1e-9
    )
    assert potential.freedom > 0.01


def test_exchanging_the_samples_changes_the_sign() -> None:
    real, generated = gaussians(40, 40)
    _, potential = potential_of(real, generated)
    _, exchanged = potential_of(generated, real)
    np.testing.assert_allclose(potential.real, -exchanged.generated, atol=1e-9)
    np.testing.assert_allclose(potential.generated, -exchanged.real, atol=1e-9)
    assert potential.freedom == pytest.approx(exchanged.freedom)


def test_between_shifted_uniforms_the_potential_is_the_coordinate() -> None:
    draw = np.random.default_rng(0)
    generated, real = draw.uniform(size=(200, 1)), 0.5 + draw.uniform(size=(200, 1))
    plan, potential = potential_of(real, generated)
    assert plan.cost == pytest.approx(scipy.stats.wasserstein_distance(real[:, 0], generated[:, 0]))
    # Mass flows to the right everywhere between these samples, which leaves no freedom.
    values = np.concatenate([potential.real, potential.generated])
    coordinates = np.concatenate([real, generated])[:, 0]
    np.testing.assert_allclose(values, coordinates - coordinates.mean(), atol=1e-9)
    assert potential.freedom == pytest.approx(0, abs=1e-6)


def test_between_two_points_the_potential_rises_by_the_distance() -> None:
    real, generated = np.tile([[3.0, 4.0]], (7, 1)), np.zeros((7, 2))
    plan, potential = potential_of(real, generated)
    assert plan.cost == pytest.approx(5)
    np.testing.assert_allclose(potential.real, 2.5)
    np.testing.assert_allclose(potential.generated, -2.5)
    assert potential.freedom == pytest.approx(0, abs=1e-6)


def test_between_translated_gaussians_the_potential_is_nearly_linear() -> None:
    generated, _ = gaussians(300, 1)
    shift = np.array([3.0, -4.0])
    real = generated + shift
    plan, potential = potential_of(real, generated)
    assert plan.cost == pytest.approx(5)
    values = np.concatenate([potential.real, potential.generated])
    along = np.concatenate([real, generated]) @ shift / 5
    assert np.corrcoef(values, along)[0, 1] > 0.995
    assert 0.97 < np.cov(values, along)[0, 1] / along.var() < 1.03
    assert 0 < potential.freedom < 0.2


def test_potentials_of_two_samples_agree_nearly() -> None:
    """The sampling error of a potential bounds the correlation that a perfect critic can have with it."""
    ring, stream = GaussianRing(8, 2.0, 0.02).load(), rng.generator(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return ring.draw(count, stream), 4 * torch.rand(count, 2, generator=stream) - 2

    further = torch.cat(draw(500))
    extended = []
    for _ in range(2):
        points = draw(500)
        _, potential = transport.potential_between(*points)
        extended.append(potential.extended(further, *points))
    correlation = torch.corrcoef(torch.stack(extended))[0, 1].item()
    assert 0.8 < correlation < 0.99


def test_coinciding_samples_have_a_constant_potential() -> None:
    points, _ = gaussians(1, 1)
    plan, potential = potential_of(np.tile(points, (5, 1)), np.tile(points, (4, 1)))
    assert plan.cost == 0
    assert not potential.real.any()
    assert not potential.generated.any()
    assert potential.freedom == 0


def gaussian_sinkhorn(std_a: float, std_b: float, shift: float, epsilon: float) -> float:
    """Return the Sinkhorn divergence of Gaussians on the line (Janati et al. 2020, theorem 1)."""

    def spread(a: float, b: float) -> float:
        root = np.sqrt(4 * a**2 * b**2 + (epsilon / 2) ** 2)
        return a**2 + b**2 - root + epsilon / 2 * np.log((2 * root + epsilon) / (2 * epsilon))

    return shift**2 + spread(std_a, std_b) - (spread(std_a, std_a) + spread(std_b, std_b)) / 2


@pytest.mark.parametrize(("shift", "regularisation"), [(1.5, 1.0), (0.5, 4.0), (0.0, 8.0)])
def test_the_sinkhorn_divergence_of_gaussians_matches_the_closed_form(shift: float, regularisation: float) -> None:
    quantiles = scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)[:, None]
    found = transport.sinkhorn_divergence(shift + 2 * quantiles, quantiles, regularisation)
    assert found == pytest.approx(gaussian_sinkhorn(2, 1, shift, regularisation), abs=0.005)


def test_the_sinkhorn_divergence_is_a_divergence_and_tends_to_w2_squared() -> None:
    real, generated = gaussians(60, 50)
    forth, back = (transport.sinkhorn_divergence(*pair, 0.5) for pair in ((real, generated), (generated, real)))
    assert forth is not None
    assert forth == pytest.approx(back, rel=1e-4)
    assert transport.sinkhorn_divergence(real, real, 0.5) == pytest.approx(0, abs=1e-6)
    w2_squared = transport.solve(cdist(real, generated, "sqeuclidean")).cost
    errors = []
    for regularisation in (5.0, 0.5, 0.1):
        divergence = transport.sinkhorn_divergence(real, generated, regularisation)
        assert divergence is not None
        errors.append(abs(divergence - w2_squared))
    assert errors[0] > errors[1] > errors[2]
    far = transport.sinkhorn_divergence(real + 1e3, generated, 0.5)  # exp(-cost / regularisation) is 0
    shift = real.mean(0) + 1e3 - generated.mean(0)
    near = transport.sinkhorn_divergence(real - real.mean(0), generated - generated.mean(0), 0.5)
    assert far == pytest.approx(near + shift @ shift, rel=1e-6)


def test_sinkhorn_without_convergence_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ITERATIONS", 2)
    assert transport.sinkhorn_divergence(*gaussians(30, 30), 0.01) is None


def test_costs_that_do_not_fit_into_memory_are_refused_with_a_size_that_does() -> None:
    total = total_bytes(torch.device("cpu"))
    with pytest.raises(
        InputError, match=r"scorer\.num_samples=10000000: .* GiB of memory, .* lower it to \d+ or"
    ) as error:
        transport.check_fits("scorer.num_samples=10000000", 10**7, 10**7)
    (largest,) = map(int, re.findall(r"lower it to (\d+)", str(error.value)))
    assert largest**2 * 8 * transport.MATRICES <= total < (largest + 1) ** 2 * 8 * transport.MATRICES
    transport.check_fits("scorer.num_samples", largest, largest)


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.3])
def test_edges_longer_than_a_detour_change_no_shortest_path(share_of_zeros: float) -> None:
    random = np.random.default_rng(1)
    lengths = random.exponential(size=(60, 60)) * (random.uniform(size=(60, 60)) >= share_of_zeros)
    np.fill_diagonal(lengths, 0)
    expected = dijkstra(csgraph_from_dense(lengths, null_value=np.inf))
    graph = transport._without_detours(lengths.copy(), np.array([0, 20, 40]))
    assert graph.nnz < 60 * 60 / 2
    np.testing.assert_array_equal(dijkstra(graph), expected)
