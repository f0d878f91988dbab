import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.config import objects
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN
from wgan_sweep.objectives import sampling
from wgan_sweep.objectives.constraints import (
    all_of,
    gradient_penalty,
    lipschitz_penalty,
    none,
    spectral_norm,
    weight_clip,
)
from wgan_sweep.objectives.gradient_terms import Centred, OneSided, critic_pass, evaluate_term


@pytest.fixture
def critic() -> nn.Module:
    with rng.seeded(0, "critic"):
        return DCGAN(4, 8, "batch", "none").critic((1, 16, 16))


def test_the_constraint_none_has_no_effect(critic: nn.Module) -> None:
    before = [p.clone() for p in critic.parameters()]
    constraint = none()
    assert constraint.wrap(critic) is critic
    assert constraint.terms == ()
    constraint.project(critic)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


def test_weight_clipping_clamps_every_parameter(critic: nn.Module) -> None:
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.linspace(-0.05, 0.05, parameter.numel()).view_as(parameter))
    before = [p.clone() for p in critic.parameters()]
    assert any(p.dim() == 1 and p.min() < -0.01 for p in before)  # biases, too
    weight_clip(0.01).project(critic)
    for old, new in zip(before, critic.parameters(), strict=True):
        assert torch.equal(new, old.clamp(-0.01, 0.01))
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))


def test_the_gradient_penalty_is_a_gradient_term() -> None:
    (term,) = gradient_penalty(10, 1, 2, sampling.real).terms
    assert term.psi == Centred(10, 1, 2)
    assert term.sampling is sampling.real


def test_r1_is_half_gamma_times_the_squared_gradient_at_real_examples(make) -> None:
    (term,) = objects.make(make("constraint=r1", "loss=wgan").constraint, "constraint").terms
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    real, fake = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    evaluate_term(critic_pass(network, term.sampling(real, fake, rng.generator(0))), term.psi).loss.backward()
    actual_gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(network(real).sum(), real, create_graph=True)
    (10 / 2 * gradient.square().sum(1).mean()).backward()
    expected_gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(actual_gradients) == len(expected_gradients) == 3
    for actual, expected in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


def test_all_of_wraps_adds_terms_and_projects_as_its_parts_do_one_after_another() -> None:
    def make_critic(constraint) -> nn.Module:
        with rng.seeded(0, "critic"):
            return constraint.wrap(DCGAN(4, 8, "batch", "none").critic((1, 16, 16)))

    parts = {
        "b": spectral_norm(1),
        "a": weight_clip(0.05),
        "d": gradient_penalty(10, 1, 2, sampling.real),
        "c": all_of(y=lipschitz_penalty(1, 1, sampling.fake, every=4), x=gradient_penalty(5, 0, 2, sampling.real)),
    }
    composed, separate = make_critic(all_of(**parts)), make_critic(spectral_norm(1))
    for _ in range(3):
        all_of(**parts).project(composed)
        weight_clip(0.05).project(separate)
        parts["b"].project(separate)
    for actual, expected in zip(composed.state_dict().values(), separate.state_dict().values(), strict=True):
        assert torch.equal(actual, expected)
    terms = all_of(**parts).terms
    assert [term.name for term in terms] == ["c_x", "c_y", "d"]  # in the order of the names
    assert [term.psi for term in terms] == [Centred(5, 0, 2), OneSided(1, 1), Centred(10, 1, 2)]
    assert [term.sampling for term in terms] == [sampling.real, sampling.fake, sampling.real]
    assert [term.every for term in terms] == [1, 4, 1]


def test_all_of_nothing_has_no_effect(critic: nn.Module) -> None:
    assert all_of() == none()
    assert all_of(a=none()) == none()


def weight_matrices(critic: nn.Module) -> list[torch.Tensor]:
    return [m.weight.detach().flatten(1) for m in critic.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def test_spectral_norm_sets_the_largest_singular_value_of_every_layer_to_one(critic: nn.Module) -> None:
    with rng.seeded(0, "spectral"):
        constraint = spectral_norm(1)
        critic = constraint.wrap(critic)
    for _ in range(100):
        constraint.project(critic)
    assert len(weight_matrices(critic)) == 3
    for matrix in weight_matrices(critic):
        assert float(torch.linalg.svdvals(matrix)[0]) == pytest.approx(1, abs=1e-3)


def test_several_power_iterations_after_a_step_are_single_ones_in_a_row() -> None:
    def make_critic(iterations: int) -> nn.Module:
        with rng.seeded(0, "critic"):
            return spectral_norm(iterations).wrap(DCGAN(4, 8, "batch", "none").critic((1, 16, 16)))

    three, single = make_critic(3), make_critic(1)
    single.load_state_dict(three.state_dict())  # wrapping has iterated, too
    with torch.no_grad():  # a step, after which the estimates are wrong
        for critic in (three, single):
            for number, parameter in enumerate(critic.parameters()):
                parameter.add_(torch.randn(parameter.shape, generator=rng.generator(number)))
    spectral_norm(3).project(three)
    for done in range(3):
        assert not torch.equal(weight_matrices(three)[0], weight_matrices(single)[0]), done
        spectral_norm(1).project(single)
    for actual, expected in zip(weight_matrices(three), weight_matrices(single), strict=True):
        assert torch.equal(actual, expected)


def test_spectral_norm_does_not_change_the_weights_between_steps(critic: nn.Module) -> None:
    with rng.seeded(0, "spectral"):
        constraint = spectral_norm(1)
        critic = constraint.wrap(critic)
    points = torch.randn(2, 1, 16, 16, generator=rng.generator(0))
    outputs = critic(points)
    assert torch.equal(critic(points), outputs)
    constraint.project(critic)
    assert not torch.equal(critic(points), outputs)


@pytest.mark.parametrize(
    ("create", "name"),
    [
        (lambda: gradient_penalty(0, 1, 2, sampling.real), "weight"),
        (lambda: gradient_penalty(1, -1, 2, sampling.real), "centre"),
        (lambda: gradient_penalty(1, 1, 1, sampling.real), "exponent"),
        (lambda: gradient_penalty(1, 1, 2, sampling.real, every=0), "every"),
    ],
)
def test_settings_out_of_range_are_refused(create, name: str) -> None:
    with pytest.raises(InputError, match=name):
        create()
