import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wgan_sweep.objectives import losses, sampling
from wgan_sweep.objectives.gradient_terms import Power

REAL = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
FAKE = torch.tensor([-1.0, 0.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("loss", [losses.wasserstein(), losses.wasserstein_divergence(2, 6, sampling.real_fake)])
def test_wasserstein_is_the_gap_of_the_means(loss: losses.Loss) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    value = loss.critic(real, fake)
    assert float(value.detach()) == -2.0
    value.backward()
    assert real.grad.tolist() == [-1 / 3] * 3
    assert fake.grad.tolist() == [1 / 3] * 3
    assert float(loss.generator(FAKE)) == -1.0


def test_the_divergence_brings_its_term_and_plain_wasserstein_none() -> None:
    (term,) = losses.wasserstein_divergence(2, 6, sampling.fake).terms
    assert term.psi == Power(2, 6)
    assert term.sampling is sampling.fake
    assert losses.wasserstein().terms == ()


def p(score: float) -> float:
    return 1 / (1 + math.exp(-score))


@pytest.mark.parametrize("loss", [losses.minimax(), losses.non_saturating()])
def test_the_gans_critic_is_the_log_likelihood_of_a_logistic_classifier(loss: losses.Loss) -> None:
    wanted = -sum(math.log(p(s)) for s in REAL.tolist()) / 3 - sum(math.log(1 - p(s)) for s in FAKE.tolist()) / 3
    assert float(loss.critic(REAL, FAKE)) == pytest.approx(wanted, rel=1e-12)


def test_the_gans_generators_are_the_two_of_the_paper() -> None:
    lost, won = (
        sum(math.log(q) for q in qs) / 3 for qs in zip(*[(1 - p(s), p(s)) for s in FAKE.tolist()], strict=True)
    )
    assert float(losses.minimax().generator(FAKE)) == pytest.approx(lost, rel=1e-12)
    assert float(losses.non_saturating().generator(FAKE)) == pytest.approx(-won, rel=1e-12)


@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_logarithms_do_not_overflow(score: float) -> None:
    scores = torch.tensor([score])
    for loss in (losses.minimax(), losses.non_saturating()):
        assert float(loss.critic(scores, scores)) == 1e4
    assert float(losses.non_saturating().generator(scores)) == max(-score, 0)
    assert float(losses.minimax().generator(scores)) == min(-score, 0)


@pytest.mark.parametrize(("loss", "wanted"), [(losses.minimax(), 0), (losses.non_saturating(), -1)])
def test_where_the_critic_wins_the_gradient_vanishes_for_one_generator_only(loss: losses.Loss, wanted: float) -> None:
    fake = torch.tensor([-50.0], requires_grad=True)
    loss.generator(fake).backward()
    assert float(fake.grad) == pytest.approx(wanted, abs=1e-12)


EVERY_LOSS = [
    losses.minimax(),
    losses.non_saturating(),
    losses.least_squares(),
    losses.hinge(),
    losses.wasserstein(),
    losses.wasserstein_divergence(2, 6, sampling.real_fake),
]


@pytest.mark.parametrize("loss", EVERY_LOSS)
@given(data=st.data(), size=st.integers(1, 6))
def test_the_order_of_the_examples_does_not_matter(loss: losses.Loss, data, size: int) -> None:
    scores = st.lists(st.floats(-50, 50), min_size=size, max_size=size)
    real, fake = (torch.tensor(data.draw(scores), dtype=torch.float64) for _ in range(2))
    order = data.draw(st.permutations(range(size)))
    torch.testing.assert_close(loss.critic(real[order], fake), loss.critic(real, fake), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss.critic(real, fake[order]), loss.critic(real, fake), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss.generator(fake[order]), loss.generator(fake), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", EVERY_LOSS)
@given(data=st.data(), size=st.integers(1, 6))
def test_the_critic_wants_real_scores_up_and_fake_ones_down_and_the_generator_wants_them_up(
    loss: losses.Loss, data, size: int
) -> None:
    """By the signs of the gradients, between the labels 0 and 1 and inside the margins."""
    scores = st.lists(st.floats(1e-3, 0.9), min_size=size, max_size=size)
    real, fake = (torch.tensor(data.draw(scores), dtype=torch.float64, requires_grad=True) for _ in range(2))
    of_real, of_fake = torch.autograd.grad(loss.critic(real, fake), (real, fake))
    assert bool((of_real < 0).all())
    assert bool((of_fake > 0).all())
    (of_generator,) = torch.autograd.grad(loss.generator(fake), fake)
    assert bool((of_generator < 0).all())


def test_least_squares_is_half_the_squared_distance_to_the_labels() -> None:
    loss = losses.least_squares()
    assert float(loss.critic(REAL, FAKE)) == pytest.approx(((0 + 1 + 25) / 3 + (1 + 0 + 16) / 3) / 2)
    assert float(loss.generator(FAKE)) == pytest.approx((4 + 1 + 9) / 3 / 2)


def test_hinge_counts_what_is_inside_the_margins() -> None:
    loss = losses.hinge()
    real, fake = torch.tensor([2.0, 1.0, 0.5, -1.0]), torch.tensor([-2.0, -1.0, -0.5, 1.0])
    assert float(loss.critic(real, fake)) == pytest.approx((0 + 0 + 0.5 + 2) / 4 * 2)
    assert float(loss.generator(fake)) == pytest.approx(2.5 / 4)
    real.requires_grad_()
    loss.critic(real, fake).backward()
    assert real.grad.tolist() == [0, 0, -0.25, -0.25]


@pytest.mark.parametrize("loss", [losses.minimax(), losses.non_saturating(), losses.least_squares()])
def test_a_smoothed_label_is_where_the_critic_wants_a_real_score(loss: losses.Loss) -> None:
    smooth = loss.with_real_label(0.9)
    assert smooth is not None
    assert smooth.generator is loss.generator
    best = torch.tensor([0.9 if loss.generator is losses._square_to_real else math.log(0.9 / 0.1)], dtype=torch.float64)
    fake = torch.zeros(1, dtype=torch.float64)
    for off in (-0.1, 0.1):
        assert float(smooth.critic(best + off, fake)) > float(smooth.critic(best, fake))
    one = loss.with_real_label(1.0)
    assert one is not None
    assert float(one.critic(REAL, FAKE)) == float(loss.critic(REAL, FAKE))


@pytest.mark.parametrize(
    "loss", [losses.wasserstein(), losses.hinge(), losses.wasserstein_divergence(2, 6, sampling.real)]
)
def test_a_loss_without_labels_has_none_to_smooth(loss: losses.Loss) -> None:
    assert loss.with_real_label(0.9) is None
