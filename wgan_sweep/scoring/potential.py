"""Comparison of a critic with the Kantorovich potential on the same points (Stanczuk et al. 2021)."""

import math

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.objectives.gradient_terms import input_gradient
from wgan_sweep.scoring.players import Players
from wgan_sweep.scoring.transport import Array, Plan, Potential


def compare(
    players: Players, real: Tensor, generated: Tensor, plan: Plan, potential: Potential, steepest: float
) -> dict[str, float]:
    """Return how the critic compares with the Kantorovich potential; what is not defined is left out.

    The critic may add any constant to its outputs, so only differences between outputs count.

    - ``potential_correlation``: Pearson correlation of critic and potential over all points, real and generated.
    - ``potential_slope``: slope of the regression of the critic on the potential over all points.
    - ``potential_freedom``: how far the potential is from unique (see `transport.kantorovich_potential`).
    - ``potential_w1``: W1 between these points. ``w1_ratio``: (mean of T over the real points - mean over the
      generated ones) / W1. ``w1_ratio_normalised``: the same for T divided by the largest norm of its gradient that
      was seen, which would be at most 1 if that were its Lipschitz constant.
    - ``ray_gradient_mean``, ``ray_gradient_sd``: norm of the critic's gradient at points that are uniform on the
      segments between matched points of the optimal plan; pairs are weighted by their mass. ``ray_slope_mean``,
      ``ray_slope_sd``: its component from the generated to the real point. Almost everywhere on these segments, both
      are 1 for a potential.

    Args:
        players: Generator and critic.
        real: Real points ``[N, ...]``, as the critic sees them.
        generated: Generated points ``[M, ...]``.
        plan: Optimal plan between them for Euclidean distances.
        potential: Its potential.
        steepest: Largest norm of the critic's gradient that was seen at other points.
    """
    with torch.no_grad():
        outputs = [_numbers(players.critic_outputs(points)) for points in (real, generated)]
    gap = float(outputs[0].mean() - outputs[1].mean())
    critic, values = np.concatenate(outputs), np.concatenate([potential.real, potential.generated])
    covariance = np.cov(critic, values)
    rays = _on_rays(players, real, generated, plan)
    steepest = max(steepest, rays.pop("ray_gradient_max", 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.float64(gap) / plan.cost
        result = {
            "potential_correlation": covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]),
            "potential_slope": covariance[0, 1] / covariance[1, 1],
            "potential_freedom": potential.freedom,
            "potential_w1": plan.cost,
            "w1_ratio": ratio,
            "w1_ratio_normalised": ratio / steepest,
            **rays,
        }
    return {name: float(value) for name, value in result.items() if math.isfinite(value)}


def _on_rays(players: Players, real: Tensor, generated: Tensor, plan: Plan) -> dict[str, float]:
    """Return statistics of the critic's gradient on the segments of a plan; none if all have length 0."""
    targets, sources = real[torch.from_numpy(plan.real)], generated[torch.from_numpy(plan.generated)]
    offsets = (targets - sources).flatten(1).double()
    lengths = offsets.norm(dim=1)
    moves = lengths > 0
    if not moves.any():
        return {}
    share = torch.rand(len(lengths), generator=rng.generator(0, "rays"))
    points = sources + share.view(-1, *[1] * (sources.ndim - 1)) * (targets - sources)
    gradient = input_gradient(players.critic_outputs, points[moves]).flatten(1).double()
    weight = plan.mass[moves.numpy()]
    norms = gradient.norm(dim=1).numpy()
    slopes = (gradient * offsets[moves] / lengths[moves, None]).sum(1).numpy()
    return {
        **_mean_and_sd("ray_gradient", norms, weight),
        **_mean_and_sd("ray_slope", slopes, weight),
        "ray_gradient_max": float(norms.max()),
    }


def _mean_and_sd(name: str, values: Array, weight: Array) -> dict[str, float]:
    mean = np.average(values, weights=weight)
    return {
        f"{name}_mean": float(mean),
        f"{name}_sd": float(np.average((values - mean) ** 2, weights=weight) ** 0.5),
    }


def _numbers(values: Tensor) -> Array:
    return values.double().numpy()
