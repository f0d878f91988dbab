"""Adversarial losses: functions of the critic's outputs.

Critic outputs are ``[N]``, high for real examples. A loss has one function per player, and the gradient terms that its
definition includes (the Wasserstein divergence has one). A penalty that enforces a Lipschitz bound is a constraint.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import relu, softplus

from wgan_sweep.objectives.gradient_terms import GradientTerm, Interval, Power
from wgan_sweep.objectives.sampling import Sampling


@dataclass(frozen=True)
class Loss:
    """The losses of both players."""

    critic: Callable[[Tensor, Tensor], Tensor]
    """From (real outputs, fake outputs) to the critic's loss, a scalar."""
    generator: Callable[..., Tensor]
    """From fake outputs to the generator's loss, a scalar; from (real outputs, fake outputs) if it `compares`."""
    terms: tuple[GradientTerm, ...] = ()
    """Gradient terms of the critic's objective."""
    critic_with_label: Callable[[Tensor, Tensor, float], Tensor] | None = None
    """`critic` with the label of real examples as third argument (1 gives `critic`); None if the loss has no labels."""
    compares: bool = False
    """Whether the generator's loss compares fake with real outputs. The generator's update then has a real batch of its
    own; without, no real examples are drawn or passed through the critic for it."""

    def with_real_label(self, label: float) -> "Loss | None":
        """Return the loss with another label for real examples, or None if it has no labels."""
        if self.critic_with_label is None:
            return None
        critic = self.critic_with_label
        return replace(self, critic=lambda real_outputs, fake_outputs: critic(real_outputs, fake_outputs, label))


def _loss_with_labels(critic: Callable[[Tensor, Tensor, float], Tensor], generator: Callable[[Tensor], Tensor]) -> Loss:
    return Loss(
        lambda real_outputs, fake_outputs: critic(real_outputs, fake_outputs, 1.0), generator, critic_with_label=critic
    )


def _wasserstein_critic_loss(real_outputs: Tensor, fake_outputs: Tensor) -> Tensor:
    return fake_outputs.mean() - real_outputs.mean()


def _wasserstein_generator_loss(fake_outputs: Tensor) -> Tensor:
    return -fake_outputs.mean()


def wasserstein() -> Loss:
    """E_fake[T] - E_real[T] for the critic, -E_fake[T] for the generator (Arjovsky et al. 2017, algorithm 1)."""
    return Loss(_wasserstein_critic_loss, _wasserstein_generator_loss)


def wasserstein_divergence(k: float, p: float, sampling: Sampling, every: Interval = 1) -> Loss:
    """The Wasserstein loss, with k E_{x~r}[||grad T(x)||^p] in the critic's objective (Wu et al. 2018)."""
    return Loss(_wasserstein_critic_loss, _wasserstein_generator_loss, (GradientTerm(Power(k, p), sampling, every),))


def _cross_entropy_critic_loss(real_outputs: Tensor, fake_outputs: Tensor, label: float) -> Tensor:
    """Return the negative log-likelihood of a logistic classifier.

    Uses softplus(-t) = -log sigmoid(t), which does not overflow.
    """
    real = (
        label * softplus(-real_outputs) + (1 - label) * softplus(real_outputs)
        if label != 1
        else softplus(-real_outputs)
    )
    return real.mean() + softplus(fake_outputs).mean()


def _saturating_generator_loss(fake_outputs: Tensor) -> Tensor:
    return -softplus(fake_outputs).mean()


def _non_saturating_generator_loss(fake_outputs: Tensor) -> Tensor:
    return softplus(-fake_outputs).mean()


def minimax() -> Loss:
    """The original GAN, critic outputs being logits (Goodfellow et al. 2014, equation 1).

    The generator minimises E[log(1 - D)].
    """
    return _loss_with_labels(_cross_entropy_critic_loss, _saturating_generator_loss)


def non_saturating() -> Loss:
    """The original GAN with a generator that maximises E[log D] (Goodfellow et al. 2014, section 3)."""
    return _loss_with_labels(_cross_entropy_critic_loss, _non_saturating_generator_loss)


def _total_variation_critic_loss(real_outputs: Tensor, fake_outputs: Tensor) -> Tensor:
    return (fake_outputs.tanh().mean() - real_outputs.tanh().mean()) / 2


def _total_variation_generator_loss(fake_outputs: Tensor) -> Tensor:
    return -fake_outputs.tanh().mean() / 2


def total_variation() -> Loss:
    """The Wasserstein loss of t = tanh(T) / 2, which is bounded by 1/2 (Nowozin et al. 2016, f-GAN).

    Minus the critic's loss is a lower bound of the total variation distance, sup over |t| <= 1/2 of
    E_real[t] - E_fake[t].
    """
    return Loss(_total_variation_critic_loss, _total_variation_generator_loss)


def _least_squares_critic_loss(real_outputs: Tensor, fake_outputs: Tensor, label: float) -> Tensor:
    return ((real_outputs - label).square().mean() + fake_outputs.square().mean()) / 2


def _least_squares_generator_loss(fake_outputs: Tensor) -> Tensor:
    return (fake_outputs - 1).square().mean() / 2


def least_squares() -> Loss:
    """Squared distance to the labels 1 (real) and 0 (fake), 1 for the generator (Mao et al. 2017, a=0, b=c=1)."""
    return _loss_with_labels(_least_squares_critic_loss, _least_squares_generator_loss)


def _hinge_critic_loss(real_outputs: Tensor, fake_outputs: Tensor) -> Tensor:
    return relu(1 - real_outputs).mean() + relu(1 + fake_outputs).mean()


def hinge() -> Loss:
    """Margins of 1 for the critic, -E_fake[T] for the generator (Lim & Ye 2017; Miyato et al. 2018, eqs. 16-17)."""
    return Loss(_hinge_critic_loss, _wasserstein_generator_loss)


def _relativistic_average_loss(higher: Tensor, lower: Tensor) -> Tensor:
    return softplus(lower.mean() - higher).mean() + softplus(lower - higher.mean()).mean()


def relativistic_average() -> Loss:
    """Each output is compared with the mean output of the other kind (Jolicoeur-Martineau 2018, RaSGAN).

    The critic minimises -E_real[log sigmoid(T - E_fake[T])] - E_fake[log(1 - sigmoid(T - E_real[T]))], and the
    generator the same with real and fake exchanged.
    """
    return Loss(_relativistic_average_loss, _exchanged(_relativistic_average_loss), compares=True)


def _relativistic_pairing_loss(higher: Tensor, lower: Tensor) -> Tensor:
    return softplus(lower - higher).mean()


def relativistic_pairing() -> Loss:
    """Each real output is compared with one fake output (Jolicoeur-Martineau 2018, RSGAN; Huang et al. 2024, RpGAN).

    The critic minimises E[-log sigmoid(T(real) - T(fake))], the generator E[-log sigmoid(T(fake) - T(real))]. Examples
    are paired in the order of the batches, which is random.
    """
    return Loss(_relativistic_pairing_loss, _exchanged(_relativistic_pairing_loss), compares=True)


def _exchanged(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda real_outputs, fake_outputs: loss(fake_outputs, real_outputs)
