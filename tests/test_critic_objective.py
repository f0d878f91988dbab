"""The critic's objective with several gradient terms, compared with double backward that is written out, in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.config import objects
from wgan_sweep.errors import InputError
from wgan_sweep.objectives import losses, sampling
from wgan_sweep.objectives.gradient_terms import Centred, GradientTerm, OneSided, Power
from wgan_sweep.training.critic_objective import CriticObjective
from wgan_sweep.training.replicas import Replicas


@pytest.fixture
def critic() -> nn.Module:
    with rng.seeded(0, "critic"):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).double()


def batch(seed: int) -> Tensor:
    return torch.randn(6, 3, generator=rng.generator(seed), dtype=torch.float64)


REAL, FAKE = batch(1), batch(2)


def squared_norms(critic: nn.Module, points: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return gradient.square().sum(1)


def gradient_of(critic: nn.Module, value: Tensor) -> Tensor:
    gradients = torch.autograd.grad(value, list(critic.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def objective_with(loss: losses.Loss, terms: Sequence[GradientTerm]) -> CriticObjective:
    return CriticObjective(loss, terms, Replicas(), per_example=True)


def update(objective: CriticObjective, critic: nn.Module, number: int = 0) -> tuple[Tensor, dict[str, float]]:
    """Return the gradient of the objective in the critic update of this number, and the metrics."""
    batches = objective.prepare(REAL, FAKE, rng.generator(number), objective.terms_at(number))
    loss, metrics = objective.loss_and_metrics(batches, critic, critic)
    return gradient_of(critic, loss), {name: float(value) for name, value in metrics.items()}


def test_rpgan_with_r1_and_r2_is_the_objective_of_its_paper(make, critic: nn.Module) -> None:
    config = make("loss=rpgan", "constraint.r1.weight=2", "constraint.r2.weight=0.5")
    loss, constraint = objects.make(config.loss, "loss"), objects.make(config.constraint, "constraint")
    actual, metrics = update(objective_with(loss, constraint.terms), critic)
    pairs = -torch.log(torch.sigmoid(critic(REAL) - critic(FAKE))).mean()
    r1, r2 = squared_norms(critic, REAL), squared_norms(critic, FAKE)
    expected = pairs + 4 / 2 * r1.mean() + 1 / 2 * r2.mean()  # gamma is 4 and 1
    torch.testing.assert_close(actual, gradient_of(critic, expected), rtol=1e-10, atol=1e-14)
    assert metrics["critic_loss"] == pytest.approx(float(expected.detach()), rel=1e-10)
    assert metrics["gradient_term_r1"] == pytest.approx(2 * float(r1.mean().detach()), rel=1e-10)
    assert metrics["gradient_norm_r2"] == pytest.approx(float(r2.sqrt().mean().detach()), rel=1e-10)
    assert metrics["gradient_norm"] == pytest.approx(float(torch.cat([r1, r2]).sqrt().mean().detach()), rel=1e-10)


def test_terms_at_the_same_points_share_a_pass_and_add_up(critic: nn.Module) -> None:
    terms = (
        GradientTerm(Power(2, 6), sampling.mixture),
        GradientTerm(Centred(10), sampling.real_fake),
        GradientTerm(Centred(5, 0), sampling.fake),
        GradientTerm(OneSided(3, 0.1), sampling.fake),
    )
    objective = objective_with(losses.wasserstein(), terms)
    batches = objective.prepare(REAL, FAKE, rng.generator(0))
    sizes: list[int] = []
    handle = critic.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    actual = gradient_of(critic, objective.loss_and_metrics(batches, critic, critic)[0])
    handle.remove()
    assert sizes == [6] * 4  # the points of the mixture and the rest; those between real and fake; the fake ones
    expected = critic(FAKE).mean() - critic(REAL).mean()
    for term, index in zip(terms, batches.term_batches, strict=True):
        expected = expected + term.psi(squared_norms(critic, batches.batches[index]).sqrt()).mean()
    assert torch.equal(batches.batches[batches.term_batches[3]], FAKE)
    torch.testing.assert_close(actual, gradient_of(critic, expected), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("intervals", [(1, 4), (2, 3), (6, 6)])
def test_lazy_terms_have_the_same_sum_over_their_interval(critic: nn.Module, intervals: tuple[int, int]) -> None:
    """At fixed weights and batches: 12 updates with lazy terms have the sum of 12 updates with all terms."""

    def sum_of_updates(*every: int) -> Tensor:
        terms = [GradientTerm(Centred(5, 0), s, n) for s, n in zip((sampling.real, sampling.fake), every, strict=True)]
        objective = objective_with(losses.wasserstein(), terms)
        return torch.stack([update(objective, critic, number)[0] for number in range(12)]).sum(0)

    torch.testing.assert_close(sum_of_updates(*intervals), sum_of_updates(1, 1), rtol=1e-10, atol=1e-12)
    wasserstein = gradient_of(critic, critic(FAKE).mean() - critic(REAL).mean())
    penalties = 5 * (squared_norms(critic, REAL).mean() + squared_norms(critic, FAKE).mean())
    expected = 12 * (wasserstein + gradient_of(critic, penalties))
    torch.testing.assert_close(sum_of_updates(*intervals), expected, rtol=1e-10, atol=1e-12)


def test_the_metrics_of_a_lazy_term_have_its_own_weight_and_its_latest_value(critic: nn.Module) -> None:
    objective = objective_with(losses.wasserstein(), [GradientTerm(Centred(5, 0), sampling.real, every=3)])
    expected = 5 * float(squared_norms(critic, REAL).mean().detach())
    wasserstein = float((critic(FAKE).mean() - critic(REAL).mean()).detach())
    for number in range(2):
        _, metrics = update(objective, critic, number)
        assert metrics["gradient_term"] == pytest.approx(expected, rel=1e-10)
        assert metrics["critic_loss"] == pytest.approx(wasserstein + expected, rel=1e-10)
    with torch.no_grad():
        critic[0].weight.mul_(2)
    _, metrics = update(objective, critic, 2)
    assert metrics["gradient_term"] == pytest.approx(expected, rel=1e-10)
    _, metrics = update(objective, critic, 3)
    new = 5 * float(squared_norms(critic, REAL).mean().detach())
    assert metrics["gradient_term"] == pytest.approx(new, rel=1e-10)
    assert abs(new - expected) > 0.1 * expected


def test_the_metrics_of_an_update_are_not_changed_by_later_ones(critic: nn.Module) -> None:
    """They may be read later; the latest value of a lazy term is kept in one place."""
    objective = objective_with(losses.wasserstein(), [GradientTerm(Centred(5, 0), sampling.real, every=3)])

    def metrics_of(number: int) -> dict[str, Tensor]:
        batches = objective.prepare(REAL, FAKE, rng.generator(number), objective.terms_at(number))
        return objective.loss_and_metrics(batches, critic, critic)[1]

    seen = [metrics_of(number) for number in range(3)]
    before = [{name: float(value) for name, value in metrics.items()} for metrics in seen]
    with torch.no_grad():
        critic[0].weight.mul_(2)
    later = metrics_of(3)
    assert [{name: float(value) for name, value in metrics.items()} for metrics in seen] == before
    assert float(later["gradient_norm"]) > 1.1 * before[2]["gradient_norm"]


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="every must be 1 or more, got 0"):
        GradientTerm(Centred(10), sampling.real, every=0)
