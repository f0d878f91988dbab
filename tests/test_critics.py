"""Gradient terms of critics that nobody tuned for: by the fast rules, or by plain double backward if those disagree."""

import copy
import logging
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wgan_sweep.common import rng
from wgan_sweep.models import DCGAN
from wgan_sweep.objectives import fast_double_backward
from wgan_sweep.objectives.fast_double_backward import REPLACEMENTS
from wgan_sweep.objectives.gradient_terms import Centred, CriticPass, critic_pass, evaluate_term, plain_critic_pass
from wgan_sweep.runs.build import build
from wgan_sweep.training.aliases import Metrics
from wgan_sweep.training.compilation import CompiledGradient
from wgan_sweep.training.gradient_rules import disagreement

from .critics import FAST, PLAIN, FunctionalCritic, Head, conv, own_gradient
from .helpers import run as run_to_the_end
from .test_graphs import STEPS, SimulatedGraph, build_with_graph  # noqa: F401 (a fixture)
from .test_trainer import assert_bitwise_equal, run

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


@pytest.mark.parametrize("name", CRITICS)
def test_the_fast_rules_are_chosen_where_they_are_right(name: str) -> None:
    """In float32, as in training, and at the initial weights."""
    make, shape = CRITICS[name]
    with rng.seeded(0, name):
        critic, points = make(), torch.randn(4, *shape)
    reason = disagreement(critic, points, rng.generator(0))
    assert (reason is None) == (name in FAST), reason


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


class AssignsBuffers(nn.Module):
    """A critic with statistics that each forward pass replaces, random numbers, and every kind of layer state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        layers = [conv(1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(conv()), Head()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        outputs: Tensor = self.layers(x) * (1 + self.mean)
        return outputs


@pytest.mark.parametrize("fails", [False, True])
def test_the_comparison_changes_nothing(fails: bool) -> None:
    with rng.seeded(0):
        critic, points = AssignsBuffers(), torch.randn(4, 1, 6, 6)
    if fails:
        critic.layers.append(nn.Linear(3, 3))
    for parameter in critic.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    state = {**dict(critic.named_parameters()), **dict(critic.named_buffers())}
    before, generator_state = copy.deepcopy(state), torch.get_rng_state()
    reason = disagreement(critic, points, rng.generator(0))
    assert ("shapes cannot be multiplied" in (reason or "")) == fails
    assert torch.equal(torch.get_rng_state(), generator_state)
    for name, tensor in {**dict(critic.named_parameters()), **dict(critic.named_buffers())}.items():
        assert tensor is state[name]
        assert torch.equal(tensor, before[name]), name
    for parameter in critic.parameters():
        assert bool((parameter.grad == 3).all())


def ignores_inplace(points: Tensor, x: Tensor, inplace: bool = False) -> Tensor:
    return fast_double_backward._relu(points, x)


def scales(points: Tensor, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return fast_double_backward._leaky_relu(points, x, 1.01 * negative_slope, inplace)


def detaches(points: Tensor, x: Tensor, weight: Tensor, *rest, **options) -> Tensor:
    return fast_double_backward._conv2d(points, x, weight.detach() if weight.grad_fn else weight, *rest, **options)


def is_not_finite(points: Tensor, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return F.leaky_relu(x, negative_slope) / 0


@pytest.mark.parametrize(
    ("function", "broken", "name"),
    [
        (F.relu, ignores_inplace, "in place: pre-activation, ReLU"),
        (F.relu, ignores_inplace, "in place: gated branch"),  # the gate is 0 at first
        (F.leaky_relu, scales, "norm: BatchNorm"),
        (F.leaky_relu, is_not_finite, "norm: BatchNorm"),
        (torch.conv2d, detaches, "dynamic: weight"),
        (torch.conv2d, detaches, "norm: weight norm"),
    ],
)
def test_a_wrong_rule_is_noticed(function, broken, name: str, monkeypatch) -> None:
    make, shape = CRITICS[name]
    with rng.seeded(0, name):
        critic, points = make(), torch.randn(4, *shape)
    assert disagreement(critic, points, rng.generator(0)) is None
    monkeypatch.setitem(REPLACEMENTS, function, broken)
    assert "of the fast rules differ" in (disagreement(critic, points, rng.generator(0)) or "")


def test_memory_that_runs_out_is_no_disagreement() -> None:
    def out_of_memory(m: nn.Module, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory left")

    with pytest.raises(torch.OutOfMemoryError):
        disagreement(FunctionalCritic(out_of_memory, first=conv(1)), torch.zeros(2, 1, 4, 4), rng.generator(0))


def test_a_critic_whose_norms_do_not_depend_on_its_parameters_is_compared() -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) + self.offset

    assert disagreement(Offset(), torch.ones(3, 2), rng.generator(0)) is None


FAST_STATUS = "fast double backward"
REASON = r"RuntimeError: .*differentiated Tensor.* appears to not have been used in the graph"
"""In the words of several versions of torch."""


@pytest.fixture
def own_gradient_critic(monkeypatch) -> None:
    """Let model=dcgan have a critic that the fast rules do not fit, on images of one channel."""
    monkeypatch.setattr(
        DCGAN, "critic", lambda *_: FunctionalCritic(own_gradient, first=conv(1, stride=4), second=conv(bias=False))
    )


def test_ordinary_critics_use_the_fast_rules(make) -> None:
    trainer = build(make()).trainer
    assert trainer.execution["gradient term"] == "fast double backward (not compared yet)"
    run(trainer, 1)
    assert trainer.execution["gradient term"] == FAST_STATUS
    assert "gradient term" not in build(make("loss=wgan")).trainer.execution


@pytest.mark.usefixtures("own_gradient_critic")
@pytest.mark.parametrize("overrides", [[], ["sampling=mixture"], ["train.compile=true"]], ids=" ".join)
def test_a_critic_that_the_fast_rules_do_not_fit_is_trained_by_double_backward(
    make, overrides, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    trainer = build(make("loss=wgan_gp", "train.n_critic=1", *overrides)).trainer
    critic, noise = copy.deepcopy(trainer.critic), trainer._streams["noise"].clone_state()
    real = copy.deepcopy(trainer._batches)()
    with torch.no_grad():
        fake = trainer.generator(torch.randn(8, 8, generator=noise))
    (term,) = trainer._objective.terms
    points = term.sampling(real, fake, trainer._streams["points"].clone_state())
    with caplog.at_level(logging.WARNING):
        run(trainer, 1)
    (message,) = (record.getMessage() for record in caplog.records)
    assert re.match(f"gradient terms use plain double backward: {REASON}", message)
    assert re.match(rf"double backward \({REASON}", trainer.execution["gradient term"])
    assert trainer.execution.get("critic's gradient", "compiled") == "compiled"
    x = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    (critic(fake).mean() - critic(real).mean() + 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()).backward()
    torch.testing.assert_close(gradient_of(trainer.critic), gradient_of(critic), rtol=1e-3, atol=1e-6)


@pytest.fixture
def broken_rule(monkeypatch) -> Callable[[], None]:
    """Break the rule of LeakyReLU, until the function that this returns is called."""
    original = REPLACEMENTS[F.leaky_relu]
    monkeypatch.setitem(REPLACEMENTS, F.leaky_relu, scales)
    return lambda: monkeypatch.setitem(REPLACEMENTS, F.leaky_relu, original)


def test_a_resumed_training_keeps_the_choice(make, broken_rule, tmp_path, caplog) -> None:
    """Also if the comparison would come out otherwise now."""
    uninterrupted, interrupted, resumed, right = (build(make()).trainer for _ in range(4))
    metrics = run(uninterrupted, 4)
    run(interrupted, 2)
    broken_rule()
    assert run(right, 4) == [pytest.approx(values, rel=1e-3) for values in metrics]
    assert right.execution["gradient term"] == FAST_STATUS
    torch.save(interrupted.state_dict(), tmp_path / "state.pt")
    caplog.clear()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run(resumed, 4) == metrics[2:]
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())
    assert resumed.execution["gradient term"].startswith("double backward (the norm gradient of the fast rules")
    assert not caplog.records


def test_a_state_of_an_earlier_version_is_loaded(make) -> None:
    uninterrupted, interrupted, resumed = (build(make()).trainer for _ in range(3))
    metrics = run(uninterrupted, 4)
    run(interrupted, 2)
    state = interrupted.state_dict()
    del state["gradient_rules"]
    resumed.load_state_dict(state)
    assert run(resumed, 4) == metrics[2:]


def test_the_record_of_a_run_holds_the_choice(make, broken_rule) -> None:
    record = run_to_the_end(make("train.steps=2"))
    assert record.execution["gradient term"].startswith("double backward (the norm gradient of the fast rules")
    broken_rule()
    assert run_to_the_end(make("train.steps=3")).execution["gradient term"] == record.execution["gradient term"]
    assert run_to_the_end(make("train.steps=3", "seed=1")).execution["gradient term"] == FAST_STATUS


@pytest.mark.usefixtures("broken_rule")
def test_the_choice_is_made_before_a_graph_is_captured(build_with_graph) -> None:  # noqa: F811
    trainer, graphs = build_with_graph(SimulatedGraph)
    run(trainer, 1)
    assert trainer.execution["gradient term"].startswith("double backward")
    run(trainer, STEPS)
    assert trainer.execution["iterations"] == "a CUDA graph"
    assert graphs[0].replays > 0
