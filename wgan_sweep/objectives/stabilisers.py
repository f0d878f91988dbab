"""What is done to training beside the objective and the constraint, to keep it stable.

Each says where it acts: on what the critic sees, on the loss, on a network, on what the generator wants, or on both
players' weights (Salimans et al. 2016, Improved Techniques for Training GANs; Arjovsky & Bottou 2017).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, Scores
from wgan_sweep.objectives.losses import Loss


def _as_is(batch: Tensor, step: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return batch


def _same_loss(loss: Loss) -> Loss:
    return loss


def _same_critic(critic: Critic) -> nn.Module:
    return critic


def _same_generator(generator: nn.Module, latent_dim: int) -> nn.Module:  # noqa: ARG001
    return generator


@dataclass(frozen=True)
class Stabiliser:
    """A stabiliser; it does nothing unless given."""

    view: Callable[[Tensor, int, torch.Generator], Tensor] = _as_is
    """(batch ``[N, ...]``, step, generator) to what the critic sees of it, real and fake alike."""
    loss: Callable[[Loss], Loss] = _same_loss
    """The loss, changed."""
    critic: Callable[[Critic], nn.Module] = _same_critic
    """The critic, changed when it is built, before its constraint wraps it."""
    generator: Callable[[nn.Module, int], nn.Module] = _same_generator
    """(generator, size of z) to the generator, changed when it is built."""
    match: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    """(critic, real, fake) to what the generator minimises instead of its loss."""
    pull: float = 0.0
    """Weight of the squared distance between each player's parameters and the mean of their past."""


def none() -> Stabiliser:
    """No stabiliser."""
    return Stabiliser()


def instance_noise(std: float, steps: int) -> Stabiliser:
    """Gaussian noise on all that the critic sees, annealed to 0 (Arjovsky & Bottou 2017; Sonderby et al. 2017).

    Args:
        std: Standard deviation at step 0, in units of the data (images: [-1, 1]).
        steps: Generator updates over which it falls to 0, linearly.

    Raises:
        InputError: unless std > 0 and steps >= 1.
    """
    if not std > 0 or steps < 1:
        raise InputError(
            f"instance noise needs std > 0 and steps >= 1, got stabiliser.std={std:g} stabiliser.steps={steps}"
        )

    def view(batch: Tensor, step: int, generator: torch.Generator) -> Tensor:
        left = max(0.0, 1.0 - step / steps)
        if left == 0.0:
            return batch
        noise = torch.randn(batch.shape, generator=generator, device=batch.device, dtype=batch.dtype)
        return batch + std * left * noise

    return Stabiliser(view=view)


def label_smoothing(real_label: float) -> Stabiliser:
    """The critic's label for real examples is below 1, that for fake ones stays 0 (Salimans et al. 2016, section 3.4).

    Raises:
        InputError: unless 0 < real_label < 1; or, when applied, for a loss without labels.
    """
    if not 0 < real_label < 1:
        raise InputError(f"stabiliser.real_label must be between 0 and 1, got {real_label:g}")

    def smoothed(loss: Loss) -> Loss:
        found = loss.with_real_label(real_label)
        if found is None:
            raise InputError(
                "stabiliser=label_smoothing needs a loss with labels (gan, nsgan, lsgan): Wasserstein and hinge scores "
                "are not probabilities, there is no label to smooth"
            )
        return found

    return Stabiliser(loss=smoothed)


def _feature_distance(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    body = critic.get_submodule("body")
    with torch.no_grad():
        target = body(real).flatten(1).float().mean(0)
    distance: Tensor = (body(fake).flatten(1).float().mean(0) - target).square().sum()
    return distance


def feature_matching() -> Stabiliser:
    """The generator minimises ||E f(real) - E f(fake)||^2, f the critic's features (Salimans et al. 2016, section 3.1).

    f is the last layer before the scores. The critic's part of the loss is as it was.
    """
    return Stabiliser(match=_feature_distance)


class MinibatchFeatures(nn.Module):
    """Appends to each example's features how close it is to the rest of its batch (Salimans et al. 2016, section 3.2).

    ``[N, ...]`` features, A of them, to ``[N, A + kernels]``: with M = x T as ``[N, kernels, dim]``, the sums over the
    other examples of exp(-||M_i - M_j||_1).
    """

    couples_examples = True

    def __init__(self, features: int, kernels: int, dim: int) -> None:
        super().__init__()
        self.kernels, self.dim = kernels, dim
        self.tensor = nn.Parameter(torch.randn(features, kernels * dim) / features**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return features with closeness."""
        x = x.flatten(1)
        projected = (x @ self.tensor).view(-1, self.kernels, self.dim)
        distance = (projected[:, None] - projected[None]).abs().sum(3)
        return torch.cat([x, (-distance).exp().sum(1) - 1], 1)


def minibatch_discrimination(kernels: int, dim: int) -> Stabiliser:
    """The critic sees how alike the examples of a batch are (Salimans et al. 2016, section 3.2: 100 kernels of 5).

    Scores then depend on the whole batch: a gradient term sees the gradient of the sum of scores at each example.

    Raises:
        InputError: unless kernels >= 1 and dim >= 1.
    """
    if kernels < 1 or dim < 1:
        raise InputError(
            f"minibatch discrimination needs positive sizes, got stabiliser.kernels={kernels} stabiliser.dim={dim}"
        )

    def widened(critic: Critic) -> nn.Module:
        critic.body = nn.Sequential(critic.body, MinibatchFeatures(critic.features, kernels, dim))
        critic.head = Scores(critic.features + kernels)
        return critic

    return Stabiliser(critic=widened)


class VirtualBatchNorm(nn.Module):
    """BatchNorm whose statistics are those of a fixed reference batch and the example itself.

    The first `reference` examples of its input ``[reference + N, C, H, W]`` are the reference batch.
    """

    def __init__(self, like: nn.BatchNorm2d, reference: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.reference = like.weight, like.bias, like.eps, reference

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the reference examples by their own statistics alone."""
        count = self.reference
        mean, square = x.mean((2, 3)), x.square().mean((2, 3))
        common_mean, common_square = mean[:count].mean(0), square[:count].mean(0)
        mean = torch.cat([common_mean.expand(count, -1), (count * common_mean + mean[count:]) / (count + 1)])
        square = torch.cat([common_square.expand(count, -1), (count * common_square + square[count:]) / (count + 1)])
        scale = self.weight * torch.rsqrt(square - mean.square() + self.eps)
        return x * scale[:, :, None, None] + (self.bias - mean * scale)[:, :, None, None]


class _WithReference(nn.Module):
    """A generator that makes its reference batch along with every batch."""

    reference: Tensor

    def __init__(self, generator: nn.Module, reference: Tensor) -> None:
        super().__init__()
        self.inner = generator
        self.register_buffer("reference", reference)

    def forward(self, z: Tensor) -> Tensor:
        made: Tensor = self.inner(torch.cat([self.reference, z]))
        return made[len(self.reference) :]


def virtual_batch_norm(reference: int) -> Stabiliser:
    """The generator's BatchNorm layers become virtual ones (Salimans et al. 2016, section 3.5); the critic stays.

    Args:
        reference: Size of the reference batch of z, fixed when the networks are made; each pass makes it, too.

    Raises:
        InputError: unless reference >= 2; or, when applied, for a generator without BatchNorm.
    """
    if reference < 2:
        raise InputError(f"stabiliser.reference must be 2 or more, got {reference}")

    def virtual(generator: nn.Module, latent_dim: int) -> nn.Module:
        names = [name for name, module in generator.named_modules() if isinstance(module, nn.BatchNorm2d)]
        if not names:
            raise InputError("stabiliser=virtual_batch_norm replaces the generator's BatchNorm, and this one has none")
        for name in names:
            parent, _, own = name.rpartition(".")
            layer = generator.get_submodule(name)
            if isinstance(layer, nn.BatchNorm2d):
                setattr(generator.get_submodule(parent), own, VirtualBatchNorm(layer, reference))
        return _WithReference(generator, torch.randn(reference, latent_dim))

    return Stabiliser(generator=virtual)


def historical_averaging(weight: float) -> Stabiliser:
    """Each player also pays weight ||theta - mean of its past theta||^2 (Salimans et al. 2016, section 3.3).

    Raises:
        InputError: unless weight > 0.
    """
    if not weight > 0:
        raise InputError(f"stabiliser.weight must be above 0, got {weight:g}")
    return Stabiliser(pull=weight)


class PastMean:
    """The mean of a network's parameters over all updates so far, its beginning included."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._means = [parameter.detach().clone() for parameter in self._parameters]
        self._count = 1

    def distance(self) -> Tensor:
        """Return the squared distance of the parameters from their mean, differentiable in the parameters."""
        pairs = zip(self._parameters, self._means, strict=True)
        return torch.stack([(parameter - mean).square().sum() for parameter, mean in pairs]).sum()

    @torch.no_grad()
    def update(self) -> None:
        """Count the parameters as they are now."""
        self._count += 1
        torch._foreach_lerp_(self._means, self._parameters, 1 / self._count)

    def state_dict(self) -> dict[str, Any]:
        """Return means and count."""
        return {"means": self._means, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up means and count."""
        self._count = int(state["count"])
        for mean, stored in zip(self._means, state["means"], strict=True):
            mean.copy_(stored)
