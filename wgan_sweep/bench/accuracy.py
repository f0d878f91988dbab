"""What each form and precision errs by in the critic's gradient, against double backward in float64."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgan_sweep.bench.ways import Subject
from wgan_sweep.common import rng
from wgan_sweep.objectives.gradient_terms import (
    Critic,
    Power,
    critic_pass,
    double_backward,
    evaluate,
    input_gradient,
    per_example_norm,
)
from wgan_sweep.training.compilation import CompiledGradient
from wgan_sweep.training.precision import precision

NORM = 0.6
"""The mean norm of the critic's gradient that its last layer is scaled to, as in a trained WGAN-div."""


Form = Callable[[nn.Module, Critic, Tensor], None]
"""Puts the gradient at points (``[N, ...]``) where a critic keeps it, given what applies the critic in a precision."""
PSI = Power(2, 6)


def _plain(critic: nn.Module, scores: Critic, points: Tensor) -> None:  # noqa: ARG001
    double_backward(scores, points, PSI).objective.backward()


def _ours(critic: nn.Module, scores: Critic, points: Tensor) -> None:  # noqa: ARG001
    evaluate(critic_pass(scores, points), PSI).objective.backward()


def _compiled(critic: nn.Module, scores: Critic, points: Tensor) -> None:
    gradient = CompiledGradient("the gradient", critic)
    if gradient(lambda batches: (evaluate(critic_pass(scores, batches[0]), PSI).objective, {}), [points]) is None:
        raise RuntimeError(gradient.why_not)


FORMS: dict[str, Form] = {"double backward": _plain, "ours": _ours, "ours, compiled": _compiled}


@dataclass(frozen=True)
class Error:
    """The error of one form in one precision."""

    subject: str
    precision: str
    form: str
    relative: float
    """Norm of the difference over norm of the gradient, all parameters together."""
    ratio: float
    """To that of double backward in the same precision."""


def errors(
    subject: Subject, arithmetics: list[str], device: torch.device, forms: Mapping[str, Form] = FORMS
) -> Iterator[Error]:
    """Yield the errors for the term 2 n^6 at `subject.batch` points of noise."""
    critic = subject.networks(device)[1].double()
    shape = (subject.batch, 3, subject.size, subject.size)
    points = torch.rand(shape, generator=rng.generator(0, "bench"), dtype=torch.float64).to(device) * 2 - 1
    with torch.no_grad():
        last = list(critic.parameters())[-2]
        last.mul_(NORM / per_example_norm(input_gradient(critic, points)).mean())
    wanted = _gradient(critic, points, _plain, critic)
    critic, points = critic.float(), points.float()
    for arithmetic in arithmetics:
        context = precision(arithmetic, device)

        def scores(batch: Tensor) -> Tensor:
            with context.forward():  # noqa: B023
                made: Tensor = critic(batch)
            return made.float()

        relative = {}
        for name, form in forms.items():
            with context.step():
                found = _gradient(critic, points, form, scores)
            relative[name] = float((found.double() - wanted).norm() / wanted.norm())
        for name, error in relative.items():
            yield Error(subject.name, arithmetic, name, error, error / relative["double backward"])


def _gradient(critic: nn.Module, points: Tensor, form: Form, scores: Critic) -> Tensor:
    critic.zero_grad()
    form(critic, scores, points)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]
    gradient: Tensor = torch.cat([one.flatten() for one in found])
    return gradient
