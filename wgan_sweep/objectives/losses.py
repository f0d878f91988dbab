"""What critic and generator minimise: scores in, scalar out.

Scores are ``[N]``, high for real. A loss is made of two functions, and of the gradient terms that belong to the
objective itself (the Wasserstein divergence has one; a penalty that enforces a Lipschitz bound is a constraint).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import relu, softplus

from wgan_sweep.objectives.gradient_terms import GradientTerm, Power
from wgan_sweep.objectives.sampling import Sampling


@dataclass(frozen=True)
class Loss:
    """An adversarial objective."""

    critic: Callable[[Tensor, Tensor], Tensor]
    """(real scores, fake scores) to the scalar that the critic minimises."""
    generator: Callable[[Tensor], Tensor]
    """Fake scores to the scalar that the generator minimises."""
    terms: tuple[GradientTerm, ...] = ()
    """Gradient terms of the critic's objective."""
    towards: Callable[[Tensor, Tensor, float], Tensor] | None = None
    """The critic's part with a label for real examples as third argument (1 gives `critic`); None without labels."""

    def with_real_label(self, label: float) -> "Loss | None":
        """Return the loss with another label for real examples, or None where it has no labels."""
        if self.towards is None:
            return None
        towards = self.towards
        return replace(self, critic=lambda real_scores, fake_scores: towards(real_scores, fake_scores, label))


def _labelled(towards: Callable[[Tensor, Tensor, float], Tensor], generator: Callable[[Tensor], Tensor]) -> Loss:
    return Loss(lambda real_scores, fake_scores: towards(real_scores, fake_scores, 1.0), generator, towards=towards)


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


def _cross_entropy(real_scores: Tensor, fake_scores: Tensor, label: float) -> Tensor:
    """Return the negative log-likelihood of a logistic classifier, by softplus(-s) = -log sigmoid(s): no overflow."""
    real = (
        label * softplus(-real_scores) + (1 - label) * softplus(real_scores) if label != 1 else softplus(-real_scores)
    )
    return real.mean() + softplus(fake_scores).mean()


def _saturating(fake_scores: Tensor) -> Tensor:
    return -softplus(fake_scores).mean()


def _non_saturating(fake_scores: Tensor) -> Tensor:
    return softplus(-fake_scores).mean()


def minimax() -> Loss:
    """The original GAN with scores as logits: the generator minimises E[log(1 - D)] (Goodfellow et al. 2014, eq. 1)."""
    return _labelled(_cross_entropy, _saturating)


def non_saturating() -> Loss:
    """The original GAN, its generator maximising E[log D] instead (Goodfellow et al. 2014, section 3)."""
    return _labelled(_cross_entropy, _non_saturating)


def _squares(real_scores: Tensor, fake_scores: Tensor, label: float) -> Tensor:
    return ((real_scores - label).square().mean() + fake_scores.square().mean()) / 2


def _square_to_real(fake_scores: Tensor) -> Tensor:
    return (fake_scores - 1).square().mean() / 2


def least_squares() -> Loss:
    """Squared distance to labels 1 (real) and 0 (fake); the generator wants 1 (Mao et al. 2017: a=0, b=c=1)."""
    return _labelled(_squares, _square_to_real)


def _margins(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    return relu(1 - real_scores).mean() + relu(1 + fake_scores).mean()


def hinge() -> Loss:
    """Margins of 1 for the critic, -E_fake[T] for the generator (Lim & Ye 2017; Miyato et al. 2018, eqs. 16-17)."""
    return Loss(_margins, _raise_scores)
