"""What critic and generator minimise: scores in, scalar out.

Scores are ``[N]``, high for real. A loss is made of two functions, and of the gradient terms that belong to the
objective itself (the Wasserstein divergence has one; a penalty that enforces a Lipschitz bound is a constraint).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from wgan_sweep.gradient_terms import GradientTerm, Power
from wgan_sweep.sampling import Sampling


@dataclass(frozen=True)
class Loss:
    """An adversarial objective."""

    critic: Callable[[Tensor, Tensor], Tensor]
    """(real scores, fake scores) to the scalar that the critic minimises."""
    generator: Callable[[Tensor], Tensor]
    """Fake scores to the scalar that the generator minimises."""
    terms: tuple[GradientTerm, ...] = ()
    """Gradient terms of the critic's objective."""


def _score_gap(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    return fake_scores.mean() - real_scores.mean()


def _raise_scores(fake_scores: Tensor) -> Tensor:
    return -fake_scores.mean()


def wasserstein() -> Loss:
    """E_fake[T] - E_real[T] for the critic, -E_fake[T] for the generator (Arjovsky et al. 2017, algorithm 1)."""
    return Loss(_score_gap, _raise_scores)


def wasserstein_divergence(k: float, p: float, sampling: Sampling) -> Loss:
    """The Wasserstein loss with k E_{x~r}[||grad T(x)||^p] as part of the objective (Wu et al. 2018)."""
    return Loss(_score_gap, _raise_scores, (GradientTerm(Power(k, p), sampling),))


def _log_likelihood(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    return softplus(-real_scores).mean() + softplus(fake_scores).mean()


def _non_saturating(fake_scores: Tensor) -> Tensor:
    return softplus(-fake_scores).mean()


def non_saturating() -> Loss:
    """The original GAN with scores as logits and the non-saturating generator (Goodfellow et al. 2014, section 3)."""
    return Loss(_log_likelihood, _non_saturating)
