import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN
from wgan_sweep.objectives import sampling
from wgan_sweep.objectives.constraints import gradient_penalty, none, spectral_norm, weight_clip
from wgan_sweep.objectives.gradient_terms import Centred, critic_pass, evaluate


@pytest.fixture
def critic() -> nn.Module:
    with rng.seeded(0, "critic"):
        return DCGAN(4, 8, "batch", "none").critic((1, 16, 16))


def test_none_does_nothing(critic: nn.Module) -> None:
    before = [p.clone() for p in critic.parameters()]
    constraint = none()
    assert constraint.wrap(critic) is critic
    assert constraint.terms == ()
    constraint.project(critic)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


def test_clipping_clips_and_leaves_what_is_inside(critic: nn.Module) -> None:
    before = [p.clone() for p in critic.parameters()]
    weight_clip(0.01).project(critic)
    for old, new in zip(before, critic.parameters(), strict=True):
        assert torch.equal(new, old.clamp(-0.01, 0.01))
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


def test_the_penalty_is_its_term() -> None:
    (term,) = gradient_penalty(10, 1, 2, sampling.real).terms
    assert term.psi == Centred(10, 1, 2)
    assert term.sampling is sampling.real


def test_r1_is_half_gamma_times_the_squared_gradient_at_real_examples(make) -> None:
    from wgan_sweep.runs.build import _make

    (term,) = _make(make("constraint=r1", "loss=wgan").constraint, "constraint").terms
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    real, fake = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    evaluate(critic_pass(network, term.sampling(real, fake, rng.generator(0))), term.psi).objective.backward()
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(network(real).sum(), real, create_graph=True)
    (10 / 2 * gradient.square().sum(1).mean()).backward()
    wanted = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(found) == len(wanted) == 3
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def matrices(critic: nn.Module) -> list[torch.Tensor]:
    return [m.weight.detach().flatten(1) for m in critic.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def test_spectral_norm_brings_the_largest_singular_value_of_every_layer_to_one(critic: nn.Module) -> None:
    with rng.seeded(0, "spectral"):
        constraint = spectral_norm(1)
        critic = constraint.wrap(critic)
    for _ in range(100):
        constraint.project(critic)
    assert len(matrices(critic)) == 3
    for matrix in matrices(critic):
        assert float(torch.linalg.svdvals(matrix)[0]) == pytest.approx(1, abs=1e-3)


def test_between_two_steps_every_evaluation_sees_the_same_weights(critic: nn.Module) -> None:
    with rng.seeded(0, "spectral"):
        constraint = spectral_norm(1)
        critic = constraint.wrap(critic)
    points = torch.randn(2, 1, 16, 16, generator=rng.generator(0))
    first = critic(points)
    assert torch.equal(critic(points), first)
    constraint.project(critic)
    assert not torch.equal(critic(points), first)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: weight_clip(0.0), "constraint.c"),
        (lambda: spectral_norm(0), "n_power_iterations"),
        (lambda: gradient_penalty(0, 1, 2, sampling.real), "weight"),
        (lambda: gradient_penalty(1, -1, 2, sampling.real), "centre"),
        (lambda: gradient_penalty(1, 1, 1, sampling.real), "exponent"),
    ],
)
def test_settings_out_of_range_are_refused(make, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()
