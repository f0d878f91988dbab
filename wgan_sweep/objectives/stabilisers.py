"""Stabilisers: changes to training other than the loss and the constraint.

A stabiliser acts on the critic's input, on the loss, on a network, on the generator's loss, or on both players' weights
(Salimans et al. 2016, Improved Techniques for Training GANs; Arjovsky & Bottou 2017).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, OutputHead
from wgan_sweep.objectives.losses import Loss


def _same_input(batch: Tensor, step: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return batch


def _same_loss(loss: Loss) -> Loss:
    return loss


def _same_critic(critic: Critic) -> nn.Module:
    return critic


def _same_generator(generator: nn.Module, latent_dim: int) -> nn.Module:  # noqa: ARG001
    return generator


@dataclass(frozen=True)
class Stabiliser:
    """A stabiliser. By default, every field has no effect."""

    augment_input: Callable[[Tensor, int, torch.Generator], Tensor] = _same_input
    """From (real or fake batch ``[N, ...]``, step, random number generator) to the critic's input ``[N, ...]``."""
    uses_step: bool = True
    """Whether `augment_input` may depend on the step. If it does not, a CUDA graph can record it."""
    adapt_loss: Callable[[Loss], Loss] = _same_loss
    """Returns the loss to train with."""
    adapt_critic: Callable[[Critic], nn.Module] = _same_critic
    """Returns the critic to train; called once, when it is built, before its constraint is applied."""
    adapt_generator: Callable[[nn.Module, int], nn.Module] = _same_generator
    """From (generator, size of z) to the generator to train; called once, when it is built."""
    generator_loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    """From (critic, real batch, fake batch) to the generator's loss, a scalar; None for that of the loss."""
    history_weight: float = 0.0
    """Weight of the squared distance of each player's parameters from their historical average."""


def none() -> Stabiliser:
    """No stabiliser."""
    return Stabiliser()


def instance_noise(std: float, steps: int) -> Stabiliser:
    """Gaussian noise on the critic's input, annealed to 0 (Arjovsky & Bottou 2017; Sonderby et al. 2017).

    Args:
        std: Standard deviation at step 0, in units of the data (images: [-1, 1]).
        steps: Number of generator updates over which the standard deviation decreases linearly to 0.

    Raises:
        InputError: Unless std > 0 and steps >= 1.
    """
    if not std > 0 or steps < 1:
        raise InputError(
            f"instance noise needs std > 0 and steps >= 1, got stabiliser.std={std:g} stabiliser.steps={steps}"
        )

    def add_noise(batch: Tensor, step: int, generator: torch.Generator) -> Tensor:
        scale = max(0.0, 1.0 - step / steps)
        if scale == 0.0:
            return batch
        noise = torch.randn(batch.shape, generator=generator, device=batch.device, dtype=batch.dtype)
        return batch + std * scale * noise

    return Stabiliser(augment_input=add_noise)


def label_smoothing(real_label: float) -> Stabiliser:
    """A critic label below 1 for real examples; that of fake examples remains 0 (Salimans et al. 2016, section 3.4).

    Raises:
        InputError: Unless 0 < real_label < 1; when applied, if the loss has no labels.
    """
    if not 0 < real_label < 1:
        raise InputError(f"stabiliser.real_label must be between 0 and 1, got {real_label:g}")

    def smooth_labels(loss: Loss) -> Loss:
        smoothed_loss = loss.with_real_label(real_label)
        if smoothed_loss is None:
            raise InputError(
                "stabiliser=label_smoothing needs a loss with labels (gan, nsgan, lsgan): Wasserstein and hinge losses "
                "have no label to smooth"
            )
        return smoothed_loss

    return Stabiliser(adapt_loss=smooth_labels)


def _feature_distance(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    body = critic.get_submodule("body")
    with torch.no_grad():
        target = body(real).flatten(1).float().mean(0)
    distance: Tensor = (body(fake).flatten(1).float().mean(0) - target).square().sum()
    return distance


def feature_matching() -> Stabiliser:
    """The generator minimises ||E f(real) - E f(fake)||^2 (Salimans et al. 2016, section 3.1).

    f is the output of the critic's body, the features before its head. The critic's loss does not change.
    """
    return Stabiliser(generator_loss=_feature_distance)


DISTANCES_AT_ONCE = 2**19
"""Number of distances between examples that a CPU computes at once: more do not fit into its caches."""


class MinibatchFeatures(nn.Module):
    """Appends the closeness of each example to the rest of its batch to its features.

    Salimans et al. 2016, section 3.2: from ``[N, ...]`` features, A per example, to ``[N, A + kernels]``. With M = x T
    as ``[N, kernels, dim]``, the closeness of example i is the sum over the other examples j of exp(-||M_i - M_j||_1).

    Args:
        features: A.
        kernels: Number of closeness values per example.
        dim: Dimension of the space in which a kernel compares examples.
    """

    couples_examples = True

    def __init__(self, features: int, kernels: int, dim: int) -> None:
        super().__init__()
        self.kernels, self.dim = kernels, dim
        self.tensor = nn.Parameter(torch.randn(features, kernels * dim) / features**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, A + kernels]``."""
        x = x.flatten(1)
        projected = (x @ self.tensor).view(-1, self.kernels, self.dim).permute(2, 0, 1)
        kernels = max(1, DISTANCES_AT_ONCE // len(x) ** 2) if x.device.type == "cpu" else self.kernels
        return torch.cat([x, *(_closeness(part.contiguous()) for part in projected.split(kernels, 2))], 1)


def _closeness(projected: Tensor) -> Tensor:
    """Return the closeness of each example to the others, from ``[dim, N, kernels]`` to ``[N, kernels]``."""
    distances = torch.zeros((), device=projected.device)
    for coordinate in projected:  # [N, N, kernels, dim] at once would take twice as long
        distances = distances + (coordinate[:, None] - coordinate).abs()
    return (-distances).exp().sum(1) - 1  # -1: the example itself


def minibatch_discrimination(kernels: int, dim: int) -> Stabiliser:
    """The critic's head also sees how similar the examples of a batch are (Salimans et al. 2016, section 3.2).

    The paper uses 100 kernels of dimension 5. The critic's outputs then depend on the whole batch: gradient terms use
    the gradient of the sum of a batch's outputs with respect to each example.

    Raises:
        InputError: Unless kernels >= 1 and dim >= 1.
    """
    if kernels < 1 or dim < 1:
        raise InputError(
            f"minibatch discrimination needs positive sizes, got stabiliser.kernels={kernels} stabiliser.dim={dim}"
        )

    def add_minibatch_features(critic: Critic) -> nn.Module:
        critic.body = nn.Sequential(critic.body, MinibatchFeatures(critic.features, kernels, dim))
        critic.head = OutputHead(critic.features + kernels)
        return critic

    return Stabiliser(adapt_critic=add_minibatch_features)


class VirtualBatchNorm(nn.Module):
    """BatchNorm with the statistics of a fixed reference batch and the example itself.

    The first `reference_size` examples of the input ``[reference_size + N, C, H, W]`` are the reference batch. All
    computations are in float32 or wider, about the mean of the reference batch: a mean square minus a squared mean
    cancels where the mean is large.

    Args:
        batch_norm: The layer whose weight, bias and eps are used.
        reference_size: Number of reference examples.
    """

    def __init__(self, batch_norm: nn.BatchNorm2d, reference_size: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = batch_norm.weight, batch_norm.bias, batch_norm.eps
        self.reference_size = reference_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, in float32 or wider.

        The reference examples use the statistics of the reference batch only.
        """
        count = self.reference_size
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide[:count].detach().mean((0, 2, 3), keepdim=True)  # any constant gives the same output
        mean, square = centred.mean((2, 3)), centred.square().mean((2, 3))
        reference_mean, reference_square = mean[:count].mean(0), square[:count].mean(0)
        mean = torch.cat([reference_mean.expand(count, -1), (count * reference_mean + mean[count:]) / (count + 1)])
        square = torch.cat(
            [reference_square.expand(count, -1), (count * reference_square + square[count:]) / (count + 1)]
        )
        scale = self.weight * torch.rsqrt((square - mean.square()).clamp_min(0) + self.eps)
        return centred * scale[:, :, None, None] + (self.bias - mean * scale)[:, :, None, None]


class _GeneratorWithReference(nn.Module):
    """A generator that prepends a fixed reference batch of z to each batch, and drops its examples from the output."""

    reference: Tensor

    def __init__(self, generator: nn.Module, reference: Tensor) -> None:
        super().__init__()
        self.inner = generator
        self.register_buffer("reference", reference)

    def forward(self, z: Tensor) -> Tensor:
        generated: Tensor = self.inner(torch.cat([self.reference, z]))
        return generated[len(self.reference) :]


def virtual_batch_norm(reference: int) -> Stabiliser:
    """Virtual batch normalisation in place of the generator's BatchNorm layers (Salimans et al. 2016, section 3.5).

    The critic does not change.

    Args:
        reference: Size of the reference batch of z. It is drawn when the networks are built, and is part of every
            forward pass.

    Raises:
        InputError: Unless reference >= 2; when applied, if the generator has no BatchNorm.
    """
    if reference < 2:
        raise InputError(f"stabiliser.reference must be 2 or more, got {reference}")

    def replace_batch_norm(generator: nn.Module, latent_dim: int) -> nn.Module:
        layer_names = [name for name, module in generator.named_modules() if isinstance(module, nn.BatchNorm2d)]
        if not layer_names:
            raise InputError("stabiliser=virtual_batch_norm replaces the generator's BatchNorm, but this one has none")
        for layer_name in layer_names:
            parent_name, _, attribute = layer_name.rpartition(".")
            layer = generator.get_submodule(layer_name)
            if isinstance(layer, nn.BatchNorm2d):
                setattr(generator.get_submodule(parent_name), attribute, VirtualBatchNorm(layer, reference))
        return _GeneratorWithReference(generator, torch.randn(reference, latent_dim))

    return Stabiliser(adapt_generator=replace_batch_norm)


def historical_averaging(weight: float) -> Stabiliser:
    """Adds weight ||theta - historical mean of theta||^2 to both players' losses (Salimans et al. 2016, section 3.3).

    Raises:
        InputError: Unless weight > 0.
    """
    if not weight > 0:
        raise InputError(f"stabiliser.weight must be above 0, got {weight:g}")
    return Stabiliser(history_weight=weight)


class HistoricalAverage:
    """The mean of a network's parameters over its initial state and all updates so far."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._means = [parameter.detach().clone() for parameter in self._parameters]
        self._count = 1

    def squared_distance(self) -> Tensor:
        """Return the squared distance of the parameters from their mean (scalar, differentiable)."""
        pairs = zip(self._parameters, self._means, strict=True)
        return torch.stack([(parameter - mean).square().sum() for parameter, mean in pairs]).sum()

    @torch.no_grad()
    def update(self) -> None:
        """Add the current parameters to the mean."""
        self._count += 1
        torch._foreach_lerp_(self._means, self._parameters, 1 / self._count)

    def state_dict(self) -> dict[str, Any]:
        """Return the means and the number of parameter states in them."""
        return {"means": self._means, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._count = int(state["count"])
        for mean, stored_mean in zip(self._means, state["means"], strict=True):
            mean.copy_(stored_mean)
