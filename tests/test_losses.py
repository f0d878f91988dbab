import math

import pytest
import torch

from wgan_sweep import losses, sampling
from wgan_sweep.gradient_terms import Power

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


def test_non_saturating_is_the_log_likelihood_of_a_logistic_classifier() -> None:
    loss = losses.non_saturating()

    def p(score: float) -> float:
        return 1 / (1 + math.exp(-score))

    wanted = -sum(math.log(p(s)) for s in REAL.tolist()) / 3 - sum(math.log(1 - p(s)) for s in FAKE.tolist()) / 3
    assert float(loss.critic(REAL, FAKE)) == pytest.approx(wanted, rel=1e-12)
    assert float(loss.generator(FAKE)) == pytest.approx(-sum(math.log(p(s)) for s in FAKE.tolist()) / 3, rel=1e-12)


@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_non_saturating_does_not_overflow(score: float) -> None:
    loss, scores = losses.non_saturating(), torch.tensor([score])
    assert float(loss.critic(scores, scores)) == 1e4
    assert float(loss.generator(scores)) == max(-score, 0)


def test_the_generator_of_non_saturating_gets_its_gradient_where_the_critic_wins() -> None:
    fake = torch.tensor([-50.0], requires_grad=True)
    losses.non_saturating().generator(fake).backward()
    assert float(fake.grad) == pytest.approx(-1)
