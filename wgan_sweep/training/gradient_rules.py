"""The choice of the rules that differentiate gradient terms: the fast ones, if they agree with plain double backward.

A critic may do what the fast rules do not foresee. So at a run's first critic update, both ways are compared on a few
examples of the batch. The choice is part of the trainer's state, so that a resumed run keeps it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wgan_sweep.common.tf32 import tf32
from wgan_sweep.errors import summary
from wgan_sweep.objectives.gradient_terms import (
    Critic,
    CriticPass,
    critic_pass,
    evaluate_term,
    plain_critic_pass,
)
from wgan_sweep.training.cuda_graphs import relative_difference
from wgan_sweep.training.replicas import Replicas

log = logging.getLogger(__name__)

EXAMPLES = 4
"""Number of examples of the comparison: few, but more than one, for critics with statistics of the batch."""
PERTURBATION = 0.1, 0.01
"""Standard deviation of the noise on each parameter: relative to the parameter's root mean square, plus absolute.

Layers and gates that start at zero hide what is behind them, and so do biases of 0 and gains of 1.
"""
MAX_RELATIVE_DIFFERENCE = 1e-3
"""Largest accepted relative difference, in float32 or wider. Rounding gives 1e-6 on a CPU and up to 2e-4 on a GPU."""


class GradientRules:
    """The rules that gradient terms are differentiated by."""

    def __init__(self) -> None:
        self.is_chosen = False
        self.fallback_reason: str | None = None
        """Why plain double backward is used; None before the choice and if the fast rules are used."""

    @property
    def status(self) -> str:
        """Which rules are used, and why if they are not the fast ones."""
        if self.fallback_reason:
            return f"double backward ({self.fallback_reason})"
        return "fast double backward" if self.is_chosen else "fast double backward (not compared yet)"

    def critic_pass(self, critic: Critic, points: Tensor) -> CriticPass:
        """Apply a critic to `points` (``[N, ...]``), to be differentiated by the chosen rules."""
        return (plain_critic_pass if self.fallback_reason else critic_pass)(critic, points)

    def choose(self, critic: nn.Module, points: Tensor, noise: torch.Generator, replicas: Replicas) -> None:
        """Compare both ways of differentiation; if they differ in any process, all use plain double backward.

        Args:
            critic: ``[N, ...]`` to ``[N]``. Its parameters, gradients and buffers stay as they are.
            points: ``[N, ...]``, the same in all processes.
            noise: Perturbs the parameters; the same in all processes.
            replicas: The processes of the run. Each compares on its own.
        """
        with replicas.alone():
            reason = disagreement(critic, points[:EXAMPLES], noise)
        if replicas.any(reason is not None, points.device) and reason is None:
            reason = "the fast rules disagree with it in another process"
        self.is_chosen, self.fallback_reason = True, reason
        if reason and replicas.rank == 0:
            log.warning("gradient terms use plain double backward: %s", reason)

    def state_dict(self) -> dict[str, Any]:
        """Return the choice."""
        return {"is_chosen": self.is_chosen, "fallback_reason": self.fallback_reason}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.is_chosen, self.fallback_reason = bool(state["is_chosen"]), state["fallback_reason"]


class _Results(NamedTuple):
    """What is compared."""

    outputs: list[Tensor]
    norms: list[Tensor]
    output_gradient: list[Tensor]
    norm_gradient: list[Tensor]


def disagreement(critic: nn.Module, points: Tensor, noise: torch.Generator) -> str | None:
    """Compare the fast rules with plain double backward, at slightly perturbed parameters.

    Compared are the critic's outputs, the norms of its gradient at the points, and the gradients of the means of both
    with respect to the parameters.

    Args:
        critic: ``[N, ...]`` to ``[N]``. Its parameters, gradients and buffers stay as they are, and so do the global
            random number generators.
        points: ``[N, ...]``.
        noise: Perturbs the parameters.

    Returns:
        What differs by how much, or which error occurred; None if both agree.
    """
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    with tf32(allowed=False), _restored(critic, points.device):
        _perturb(parameters, noise)
        results = []
        for make_pass in (critic_pass, plain_critic_pass):
            try:
                with _restored(critic, points.device):
                    results.append(_evaluate(make_pass, critic, points, parameters))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a critic may raise any type; an error of the critic recurs in training
                return summary(error)
        for name, actual, expected in zip(_Results._fields, *results, strict=True):
            difference = relative_difference(actual, expected)
            if not difference <= MAX_RELATIVE_DIFFERENCE:  # also if it is not a number
                return f"the {name.replace('_', ' ')} of the fast rules differs by {difference:.1e}"
    return None


def _evaluate(
    make_pass: Callable[[Critic, Tensor], CriticPass], critic: Critic, points: Tensor, parameters: list[nn.Parameter]
) -> _Results:
    def gradient(value: Tensor) -> list[Tensor]:
        if not value.requires_grad:  # for example, the norm at all points is 1
            return [torch.zeros_like(parameter) for parameter in parameters]
        return list(torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True))

    forward_pass = make_pass(critic, points)
    term = evaluate_term(forward_pass, lambda norms: norms)
    mean = forward_pass.outputs.mean()
    return _Results([forward_pass.outputs.detach()], [term.norms], gradient(mean), gradient(term.loss))


@torch.no_grad()
def _perturb(parameters: list[nn.Parameter], noise: torch.Generator) -> None:
    relative, absolute = PERTURBATION
    for parameter in parameters:
        scale = relative * parameter.abs().square().mean().sqrt() + absolute
        values = torch.randn(parameter.shape, generator=noise, device=parameter.device, dtype=parameter.dtype)
        parameter.add_(scale * values)


@contextmanager
def _restored(critic: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore on exit what a forward pass may change: parameters, buffers and global random number generators."""
    buffers = dict(critic.named_buffers())
    tensors = [*critic.parameters(), *buffers.values()]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for name, buffer in buffers.items():  # a forward pass may have assigned another tensor
            module_name, _, attribute = name.rpartition(".")
            module = critic.get_submodule(module_name)
            if getattr(module, attribute) is not buffer:
                setattr(module, attribute, buffer)
