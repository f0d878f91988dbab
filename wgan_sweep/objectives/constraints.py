"""What keeps the critic Lipschitz, at three moments: when it is built, in its objective, after its step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as parametrize_spectral_norm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from wgan_sweep.errors import InputError
from wgan_sweep.objectives.gradient_terms import Centred, GradientTerm, OneSided
from wgan_sweep.objectives.sampling import Sampling


def _unchanged(critic: nn.Module) -> nn.Module:
    return critic


def _leave(critic: nn.Module) -> None:
    """Do nothing after a step."""


@dataclass(frozen=True)
class Constraint:
    """A constraint on the critic; each moment does nothing unless given."""

    wrap: Callable[[nn.Module], nn.Module] = _unchanged
    """Applied once, when the critic is built."""
    terms: tuple[GradientTerm, ...] = ()
    """Added to the critic's objective."""
    project: Callable[[nn.Module], None] = _leave
    """Applied after every step of the critic's optimizer."""


def none() -> Constraint:
    """No constraint."""
    return Constraint()


def gradient_penalty(weight: float, centre: float, exponent: float, sampling: Sampling) -> Constraint:
    """Two-sided penalty weight |n - centre|^exponent (Gulrajani et al. 2017, equation 3: 10, 1, 2)."""
    return Constraint(terms=(GradientTerm(Centred(weight, centre, exponent), sampling),))


def lipschitz_penalty(weight: float, bound: float, sampling: Sampling) -> Constraint:
    """One-sided penalty weight max(0, n - bound)^2 (WGAN-LP, Petzka et al. 2018: 10, 1)."""
    return Constraint(terms=(GradientTerm(OneSided(weight, bound), sampling),))


def weight_clip(c: float) -> Constraint:
    """Every parameter of the critic is clamped to [-c, c] after each step (Arjovsky et al. 2017, algorithm 1).

    Raises:
        InputError: unless c > 0.
    """
    if not c > 0:
        raise InputError(f"constraint.c (the clipping bound) must be above 0, got {c:g}")

    def clip(critic: nn.Module) -> None:
        with torch.no_grad():
            torch._foreach_clamp_min_(list(critic.parameters()), -c)
            torch._foreach_clamp_max_(list(critic.parameters()), c)

    return Constraint(project=clip)


def spectral_norm(n_power_iterations: int) -> Constraint:
    """Linear and convolution weights, as ``[out, in * kernel]`` matrices, are divided by their largest singular value.

    That value is tracked by power iteration (Miyato et al. 2018, algorithm 1): `n_power_iterations` after each step of
    the critic and none at any other time, so that every evaluation between two steps sees the same weights.

    Raises:
        InputError: unless n_power_iterations >= 1.
    """
    if n_power_iterations < 1:
        raise InputError(f"constraint.n_power_iterations must be 1 or more, got {n_power_iterations}")

    def wrap(critic: nn.Module) -> nn.Module:
        for module in list(critic.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                parametrize_spectral_norm(module, n_power_iterations=n_power_iterations)
        for module in _normalised(critic):
            _parametrizations(module).eval()  # holds the estimate; in training mode every access iterates
        return critic

    def iterate(critic: nn.Module) -> None:
        for module in _normalised(critic):
            _parametrizations(module).train()
            with torch.no_grad():
                module.weight  # noqa: B018 (reading it runs the power iteration)
            _parametrizations(module).eval()

    return Constraint(wrap=wrap, project=iterate)


def _normalised(critic: nn.Module) -> list[nn.Module]:
    return [module for module in critic.modules() if is_parametrized(module, "weight")]


def _parametrizations(module: nn.Module) -> ParametrizationList:
    return cast("ParametrizationList", cast("nn.ModuleDict", module.parametrizations)["weight"])
