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
def test_wasserstein_is_the_difference_of_mean_outputs(loss: losses.Loss) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    value = loss.critic(real, fake)
    assert float(value.detach()) == -2.0
    value.backward()
    assert real.grad.tolist() == [-1 / 3] * 3
    assert fake.grad.tolist() == [1 / 3] * 3
    assert float(loss.generator(FAKE)) == -1.0


def test_the_divergence_has_a_gradient_term_and_wasserstein_has_none() -> None:
    (term,) = losses.wasserstein_divergence(2, 6, sampling.fake).terms
    assert term.psi == Power(2, 6)
    assert term.sampling is sampling.fake
    assert losses.wasserstein().terms == ()


def probability(output: float) -> float:
    return 1 / (1 + math.exp(-output))


@pytest.mark.parametrize("loss", [losses.minimax(), losses.non_saturating()])
def test_the_gan_critic_loss_is_the_negative_log_likelihood_of_a_logistic_classifier(loss: losses.Loss) -> None:
    real = sum(math.log(probability(output)) for output in REAL.tolist()) / 3
    fake = sum(math.log(1 - probability(output)) for output in FAKE.tolist()) / 3
    assert float(loss.critic(REAL, FAKE)) == pytest.approx(-real - fake, rel=1e-12)


def test_the_gan_generator_losses_are_those_of_the_paper() -> None:
    probabilities = [probability(output) for output in FAKE.tolist()]
    log_fake = sum(math.log(1 - p) for p in probabilities) / 3
    log_real = sum(math.log(p) for p in probabilities) / 3
    assert float(losses.minimax().generator(FAKE)) == pytest.approx(log_fake, rel=1e-12)
    assert float(losses.non_saturating().generator(FAKE)) == pytest.approx(-log_real, rel=1e-12)


@pytest.mark.parametrize("output", [-1e4, 1e4])
def test_logarithms_do_not_overflow(output: float) -> None:
    outputs = torch.tensor([output])
    for loss in (losses.minimax(), losses.non_saturating()):
        assert float(loss.critic(outputs, outputs)) == 1e4
    assert float(PAIRING.critic(-outputs, outputs)) == max(2 * output, 0)
    assert float(losses.relativistic_average().critic(-outputs, outputs)) == 2 * max(2 * output, 0)
    assert float(losses.non_saturating().generator(outputs)) == max(-output, 0)
    assert float(losses.minimax().generator(outputs)) == min(-output, 0)


@pytest.mark.parametrize(("loss", "gradient"), [(losses.minimax(), 0), (losses.non_saturating(), -1)])
def test_with_a_confident_critic_only_the_minimax_generator_gradient_vanishes(
    loss: losses.Loss, gradient: float
) -> None:
    fake = torch.tensor([-50.0], requires_grad=True)
    loss.generator(fake).backward()
    assert float(fake.grad) == pytest.approx(gradient, abs=1e-12)


PAIRING = losses.relativistic_pairing()
EVERY_LOSS = [
    losses.minimax(),
    losses.non_saturating(),
    losses.least_squares(),
    losses.hinge(),
    losses.total_variation(),
    losses.wasserstein(),
    losses.wasserstein_divergence(2, 6, sampling.real_fake),
    losses.relativistic_average(),
    PAIRING,
]


def generator_loss(loss: losses.Loss, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return loss.generator(real, fake) if loss.compares else loss.generator(fake)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_gradients_agree_with_finite_differences(loss: losses.Loss) -> None:
    """With respect to all outputs that a player's loss depends on."""
    real, fake = (outputs.clone().requires_grad_() for outputs in (REAL + 0.3, FAKE + 0.3))
    assert torch.autograd.gradcheck(loss.critic, (real, fake))
    assert torch.autograd.gradcheck(lambda *outputs: generator_loss(loss, *outputs), (real, fake))


@pytest.mark.parametrize("loss", EVERY_LOSS)
@given(data=st.data(), size=st.integers(1, 6))
def test_the_order_of_the_examples_does_not_matter(loss: losses.Loss, data, size: int) -> None:
    """Of real and of fake examples; of pairs, if the loss compares pairs."""
    outputs = st.lists(st.floats(-50, 50), min_size=size, max_size=size)
    real, fake = (torch.tensor(data.draw(outputs), dtype=torch.float64) for _ in range(2))
    order = data.draw(st.permutations(range(size)))
    orders = [(real[order], fake[order])] + ([(real[order], fake), (real, fake[order])] if loss is not PAIRING else [])
    for reordered in orders:
        torch.testing.assert_close(loss.critic(*reordered), loss.critic(real, fake), rtol=1e-12, atol=1e-12)
        expected = generator_loss(loss, real, fake)
        torch.testing.assert_close(generator_loss(loss, *reordered), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", EVERY_LOSS)
@given(data=st.data(), size=st.integers(1, 6))
def test_the_critic_raises_real_and_lowers_fake_outputs_and_the_generator_raises_fake_outputs(
    loss: losses.Loss, data, size: int
) -> None:
    """Checks the signs of the gradients, for outputs between the labels 0 and 1 and inside the margins."""
    outputs = st.lists(st.floats(1e-3, 0.9), min_size=size, max_size=size)
    real, fake = (torch.tensor(data.draw(outputs), dtype=torch.float64, requires_grad=True) for _ in range(2))
    real_gradient, fake_gradient = torch.autograd.grad(loss.critic(real, fake), (real, fake))
    assert bool((real_gradient < 0).all())
    assert bool((fake_gradient > 0).all())
    (generator_gradient,) = torch.autograd.grad(generator_loss(loss, real, fake), fake)
    assert bool((generator_gradient < 0).all())


def test_relativistic_pairing_is_the_cross_entropy_of_the_difference_of_pairs() -> None:
    """RSGAN of Jolicoeur-Martineau 2018, which Huang et al. 2024 call RpGAN."""
    pairs = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))
    critic = -sum(math.log(probability(real - fake)) for real, fake in pairs) / 3
    generator = -sum(math.log(probability(fake - real)) for real, fake in pairs) / 3
    assert float(PAIRING.critic(REAL, FAKE)) == pytest.approx(critic, rel=1e-12)
    assert float(PAIRING.generator(REAL, FAKE)) == pytest.approx(generator, rel=1e-12)
    unpaired = REAL[[1, 2, 0]]
    assert float(PAIRING.critic(unpaired, FAKE)) != pytest.approx(critic, rel=1e-3)


def test_the_relativistic_average_is_the_cross_entropy_of_the_difference_to_the_other_mean() -> None:
    """RaSGAN of Jolicoeur-Martineau 2018: D(x) = sigmoid(C(x) - mean of C over the other kind)."""
    loss = losses.relativistic_average()
    real = [probability(output - 1) for output in REAL.tolist()]  # the mean fake output is 1
    fake = [probability(output - 3) for output in FAKE.tolist()]  # the mean real output is 3
    critic = -sum(map(math.log, real)) / 3 - sum(math.log(1 - p) for p in fake) / 3
    generator = -sum(map(math.log, fake)) / 3 - sum(math.log(1 - p) for p in real) / 3
    assert float(loss.critic(REAL, FAKE)) == pytest.approx(critic, rel=1e-12)
    assert float(loss.generator(REAL, FAKE)) == pytest.approx(generator, rel=1e-12)


def test_least_squares_is_half_the_squared_distance_to_the_labels() -> None:
    loss = losses.least_squares()
    assert float(loss.critic(REAL, FAKE)) == pytest.approx(((0 + 1 + 25) / 3 + (1 + 0 + 16) / 3) / 2)
    assert float(loss.generator(FAKE)) == pytest.approx((4 + 1 + 9) / 3 / 2)


def test_hinge_penalises_outputs_inside_the_margins() -> None:
    loss = losses.hinge()
    real, fake = torch.tensor([2.0, 1.0, 0.5, -1.0]), torch.tensor([-2.0, -1.0, -0.5, 1.0])
    assert float(loss.critic(real, fake)) == pytest.approx((0 + 0 + 0.5 + 2) / 4 * 2)
    assert float(loss.generator(fake)) == pytest.approx(2.5 / 4)
    real.requires_grad_()
    loss.critic(real, fake).backward()
    assert real.grad.tolist() == [0, 0, -0.25, -0.25]


@pytest.mark.parametrize("loss", [losses.minimax(), losses.non_saturating(), losses.least_squares()])
def test_the_critic_loss_is_lowest_where_a_real_output_matches_the_smoothed_label(loss: losses.Loss) -> None:
    smoothed = loss.with_real_label(0.9)
    assert smoothed is not None
    assert smoothed.generator is loss.generator
    is_least_squares = loss.generator is losses._least_squares_generator_loss
    best = torch.tensor([0.9 if is_least_squares else math.log(0.9 / 0.1)], dtype=torch.float64)
    fake = torch.zeros(1, dtype=torch.float64)
    for offset in (-0.1, 0.1):
        assert float(smoothed.critic(best + offset, fake)) > float(smoothed.critic(best, fake))
    unsmoothed = loss.with_real_label(1.0)
    assert unsmoothed is not None
    assert float(unsmoothed.critic(REAL, FAKE)) == float(loss.critic(REAL, FAKE))


@pytest.mark.parametrize(
    "loss", [losses.wasserstein(), losses.hinge(), losses.wasserstein_divergence(2, 6, sampling.real), PAIRING]
)
def test_a_loss_without_labels_cannot_be_smoothed(loss: losses.Loss) -> None:
    assert loss.with_real_label(0.9) is None
