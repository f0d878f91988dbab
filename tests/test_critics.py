"""Gradient terms of critics that nobody tuned for."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wgan_sweep.common import rng
from wgan_sweep.objectives.gradient_terms import Centred, CriticPass, critic_pass, evaluate_term, plain_critic_pass
from wgan_sweep.training.aliases import Metrics
from wgan_sweep.training.compilation import CompiledGradient

from .critics import FAST, PLAIN

CRITICS = {**FAST, **PLAIN}


def critic_and_points(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    make, shape = CRITICS[name]
    with rng.seeded(0, name):
        critic = make().to(dtype)
        with torch.no_grad():  # no special values such as biases of 0 and gains of 1
            for parameter in critic.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return critic, torch.randn(6, *shape, dtype=dtype)


class Result(NamedTuple):
    outputs: Tensor
    penalty: Tensor
    norms: Tensor
    gradient: Tensor
    """Of the sum of penalty and mean output, with respect to all parameters."""


def differentiate(critic: nn.Module, evaluate: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> Result:
    """Evaluate (outputs, penalty, norms) from the same buffers and random numbers at each call."""
    state = copy.deepcopy(dict(critic.named_buffers()))
    critic.zero_grad()
    with rng.seeded(1):
        outputs, penalty, norms = evaluate()
        (penalty + outputs.mean()).backward()
    with torch.no_grad():
        for name, buffer in critic.named_buffers():
            buffer.copy_(state[name])
    return Result(outputs.detach(), penalty.detach(), norms.detach(), gradient_of(critic))


def gradient_of(critic: nn.Module) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in critic.parameters()])


def textbook(critic: nn.Module, points: Tensor) -> Result:
    """The gradient penalty of Gulrajani et al. 2017, algorithm 1, by nothing but autograd."""

    def evaluate() -> tuple[Tensor, Tensor, Tensor]:
        x = points.clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            outputs = critic(x)
        (gradient,) = torch.autograd.grad(outputs, x, torch.ones_like(outputs), create_graph=True)
        norms = gradient.flatten(1).square().sum(1).sqrt()
        return outputs, (10 * (norms - 1) ** 2).mean(), norms

    return differentiate(critic, evaluate)


def of_a_pass(make_pass: Callable[[nn.Module, Tensor], CriticPass], critic: nn.Module, points: Tensor) -> Result:
    def evaluate() -> tuple[Tensor, Tensor, Tensor]:
        forward_pass = make_pass(critic, points)
        term = evaluate_term(forward_pass, Centred(10, 1, 2))
        return forward_pass.outputs, term.loss, term.norms

    return differentiate(critic, evaluate)


@pytest.mark.parametrize("name", CRITICS)
def test_gradient_terms_equal_double_backward(name: str) -> None:
    critic, points = critic_and_points(name)
    expected = textbook(critic, points)
    assert float(expected.gradient.norm()) > 1e-3
    for make_pass in [critic_pass, plain_critic_pass] if name in FAST else [plain_critic_pass]:
        for quantity, actual, reference in zip(
            Result._fields, of_a_pass(make_pass, critic, points), expected, strict=True
        ):
            assert float((actual - reference).norm()) <= 1e-12 * float(reference.norm()), quantity


@pytest.mark.parametrize(
    "name",
    ["in place: gated branch", "dynamic: CondConv", "attention: functional", "norm: weight norm", "own gradient"],
)
def test_a_traced_gradient_equals_double_backward(name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    critic, points = critic_and_points(name)
    expected = textbook(critic, points)
    make_pass = critic_pass if name in FAST else plain_critic_pass

    def objective(batches: Sequence[Tensor]) -> tuple[Tensor, Metrics]:
        forward_pass = make_pass(critic, batches[0])
        return evaluate_term(forward_pass, Centred(10, 1, 2)).loss + forward_pass.outputs.mean(), {}

    gradient = CompiledGradient("the gradient", critic)
    assert gradient(objective, [points]) is not None, gradient.fallback_reason
    assert float((gradient_of(critic) - expected.gradient).norm()) <= 1e-12 * float(expected.gradient.norm())
