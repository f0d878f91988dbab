"""Constraints on the critic: applied when it is built, in its objective, or after each optimizer step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, cast

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as parametrize_spectral_norm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from wgan_sweep.common.ranges import Range
from wgan_sweep.objectives.gradient_terms import Centred, GradientTerm, Interval, OneSided
from wgan_sweep.objectives.sampling import Sampling

Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Exponent = Annotated[float, Range(above=1)]


def _no_wrapping(critic: nn.Module) -> nn.Module:
    return critic


def _no_projection(critic: nn.Module) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Constraint:
    """A constraint on the critic. By default, every field has no effect."""

    wrap: Callable[[nn.Module], nn.Module] = _no_wrapping
    """Returns the constrained critic; called once, when the critic is built."""
    terms: tuple[GradientTerm, ...] = ()
    """Gradient terms of the critic's objective."""
    project: Callable[[nn.Module], None] = _no_projection
    """Changes the critic in place; called after each step of its optimizer."""


def none() -> Constraint:
    """No constraint."""
    return Constraint()


def gradient_penalty(
    weight: Positive, centre: NotNegative, exponent: Exponent, sampling: Sampling, every: Interval = 1
) -> Constraint:
    """Two-sided penalty weight |n - centre|^exponent of the gradient norm n.

    Gulrajani et al. 2017, equation 3: weight 10, centre 1, exponent 2.
    """
    return Constraint(terms=(GradientTerm(Centred(weight, centre, exponent), sampling, every),))


def lipschitz_penalty(weight: Positive, bound: NotNegative, sampling: Sampling, every: Interval = 1) -> Constraint:
    """One-sided penalty weight max(0, n - bound)^2 of the gradient norm n.

    WGAN-LP, Petzka et al. 2018: weight 10, bound 1.
    """
    return Constraint(terms=(GradientTerm(OneSided(weight, bound), sampling, every),))


def weight_clip(c: Positive) -> Constraint:
    """Clamp every parameter of the critic to [-c, c] after each step (Arjovsky et al. 2017, algorithm 1)."""

    def clip(critic: nn.Module) -> None:
        with torch.no_grad():
            torch._foreach_clamp_min_(list(critic.parameters()), -c)
            torch._foreach_clamp_max_(list(critic.parameters()), c)

    return Constraint(project=clip)


def spectral_norm(n_power_iterations: Annotated[int, Range(1, 1000)]) -> Constraint:
    """Divide linear and convolution weights, as ``[out, in * kernel]`` matrices, by their largest singular value.

    The singular value is estimated by power iteration (Miyato et al. 2018, algorithm 1): `n_power_iterations` after
    each step of the critic and none in between, so that all forward passes between two steps use the same weights.
    """

    def wrap(critic: nn.Module) -> nn.Module:
        for module in list(critic.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                parametrize_spectral_norm(module, n_power_iterations=n_power_iterations)
        for module in _normalised_layers(critic):
            _weight_parametrizations(module).eval()  # fixes the estimate: in training mode every access iterates
        return critic

    def iterate(critic: nn.Module) -> None:
        for module in _normalised_layers(critic):
            _weight_parametrizations(module).train()
            with torch.no_grad():
                module.weight  # noqa: B018 (the access runs the power iteration)
            _weight_parametrizations(module).eval()

    return Constraint(wrap=wrap, project=iterate)


def all_of(**parts: Constraint) -> Constraint:
    """Several constraints at once: all wrap the critic, add their gradient terms, and change it after each step.

    They act in the order of their names, whatever the order in which they are given. The names also distinguish their
    gradient terms in the metrics.
    """
    ordered = dict(sorted(parts.items()))
    wraps = [part.wrap for part in ordered.values() if part.wrap is not _no_wrapping]
    projections = [part.project for part in ordered.values() if part.project is not _no_projection]

    def wrap(critic: nn.Module) -> nn.Module:
        for wrap_by_part in wraps:
            critic = wrap_by_part(critic)
        return critic

    def project(critic: nn.Module) -> None:
        for project_by_part in projections:
            project_by_part(critic)

    return Constraint(
        wrap=wrap if wraps else _no_wrapping,
        terms=tuple(
            replace(term, name="_".join(filter(None, (name, term.name))))
            for name, part in ordered.items()
            for term in part.terms
        ),
        project=project if projections else _no_projection,
    )


def _normalised_layers(critic: nn.Module) -> list[nn.Module]:
    return [module for module in critic.modules() if is_parametrized(module, "weight")]


def _weight_parametrizations(module: nn.Module) -> ParametrizationList:
    return cast("ParametrizationList", cast("nn.ModuleDict", module.parametrizations)["weight"])
