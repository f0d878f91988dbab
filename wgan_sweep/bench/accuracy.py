"""Error of the critic's parameter gradient, by implementation and precision, against double backward in float64."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgan_sweep.bench.workloads import Workload
from wgan_sweep.common import rng
from wgan_sweep.objectives.gradient_terms import (
    Critic,
    Power,
    critic_pass,
    double_backward,
    evaluate_term,
    input_gradient,
    per_example_norm,
)
from wgan_sweep.training.compilation import CompiledGradient
from wgan_sweep.training.precision import precision

NORM = 0.6
"""Mean norm of the critic's input gradient, set by scaling its last layer: a typical value in WGAN-div training."""
PSI = Power(2, 6)

Method = Callable[[nn.Module, Critic, Tensor], None]
"""Adds the term's gradient to the ``grad`` of the critic's parameters.

Arguments: the critic; a function that applies it in some precision; the points, ``[N, ...]``.
"""


def _double_backward(critic: nn.Module, apply_critic: Critic, points: Tensor) -> None:  # noqa: ARG001
    double_backward(apply_critic, points, PSI).loss.backward()


def _ours(critic: nn.Module, apply_critic: Critic, points: Tensor) -> None:  # noqa: ARG001
    evaluate_term(critic_pass(apply_critic, points), PSI).loss.backward()


def _compiled(critic: nn.Module, apply_critic: Critic, points: Tensor) -> None:
    gradient = CompiledGradient("the gradient", critic)
    if gradient(lambda batches: (evaluate_term(critic_pass(apply_critic, batches[0]), PSI).loss, {}), [points]) is None:
        raise RuntimeError(gradient.fallback_reason)


METHODS: dict[str, Method] = {"double backward": _double_backward, "ours": _ours, "ours, compiled": _compiled}


@dataclass(frozen=True)
class Error:
    """Error of one method in one precision."""

    workload: str
    precision: str
    method: str
    relative: float
    """Norm of the error over the norm of the gradient, all parameters together."""
    ratio: float
    """Relative to the error of double backward in the same precision."""


def measure_errors(
    workload: Workload, precisions: list[str], device: torch.device, methods: Mapping[str, Method] = METHODS
) -> Iterator[Error]:
    """Yield the errors for the term 2 n^6, n the per-example gradient norm, at `workload.batch` images of noise."""
    critic = workload.networks(device)[1].double()
    shape = (workload.batch, 3, workload.size, workload.size)
    points = torch.rand(shape, generator=rng.generator(0, "bench"), dtype=torch.float64).to(device) * 2 - 1
    with torch.no_grad():
        last = list(critic.parameters())[-2]
        last.mul_(NORM / per_example_norm(input_gradient(critic, points)).mean())
    reference = _parameter_gradient(critic, points, _double_backward, critic)
    critic, points = critic.float(), points.float()
    for name in precisions:
        context = precision(name, device)

        def apply_critic(batch: Tensor) -> Tensor:
            with context.forward():  # noqa: B023
                outputs: Tensor = critic(batch)
            return outputs.float()

        relative_errors = {}
        for method_name, method in methods.items():
            with context.step():
                gradient = _parameter_gradient(critic, points, method, apply_critic)
            relative_errors[method_name] = float((gradient.double() - reference).norm() / reference.norm())
        for method_name, error in relative_errors.items():
            yield Error(workload.name, name, method_name, error, error / relative_errors["double backward"])


def _parameter_gradient(critic: nn.Module, points: Tensor, method: Method, apply_critic: Critic) -> Tensor:
    """Return the gradient of all parameters as one vector."""
    critic.zero_grad()
    method(critic, apply_critic, points)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]
    vector: Tensor = torch.cat([gradient.flatten() for gradient in gradients])
    return vector
