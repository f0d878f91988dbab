"""Measurements of generator and critic, and samples. None of them changes the state of training or draws from it."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wgan_sweep.common import rng
from wgan_sweep.objectives import gradient_terms
from wgan_sweep.objectives.sampling import real_fake
from wgan_sweep.training.critic_objective import CriticObjective
from wgan_sweep.training.loss_scaling import LossScale
from wgan_sweep.training.precision import Precision
from wgan_sweep.training.replicas import sharding_obstacle
from wgan_sweep.training.sampler import Sampler, SampleStream, draw_z

GeneratorLoss = Callable[[Tensor | None, Tensor], Tensor]
"""From (real batch ``[N, ...]`` or None, fake batch ``[N, ...]``) to the generator's loss (scalar)."""


class Probes:
    """Measurements of a run's networks.

    Random numbers come from streams that are derived from the seed, the step and the measurement.

    Args:
        generator: ``[N, latent_dim]`` to ``[N, ...]``.
        critic: ``[N, ...]`` to ``[N]``.
        averaged: The moving average of `generator`.
        objective: The critic's objective.
        precision: The precision of training.
        generator_loss_scale: The loss scale of the generator, if `precision` needs one.
        to_samples: From the generator's output to samples as they are shown and scored.
        latent_dim: Size of z.
        seed: The run's seed.
        batch_size: Examples per forward pass of a critic that compares each example with the rest of its batch. Other
            critics see all examples at once.
        device: Device of the networks.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        critic: nn.Module,
        averaged: nn.Module,
        objective: CriticObjective,
        precision: Precision,
        generator_loss_scale: LossScale | None,
        to_samples: Callable[[Tensor], Tensor],
        latent_dim: int,
        seed: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._generator, self._critic = generator, critic
        self._examples_at_once = batch_size if sharding_obstacle(critic) else None
        self._objective, self._precision = objective, precision
        self._generator_loss_scale = generator_loss_scale
        self._latent_dim, self._seed, self._device = latent_dim, seed, device
        self._sampler = Sampler(averaged, latent_dim, seed, precision, to_samples, device)

    def gradient_norm(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        """Return the mean norm of the critic's gradient at points between real and fake examples (scalar)."""
        points = real_fake(real, fake, self._stream("probe", step))
        with self._precision.step():
            gradient = gradient_terms.input_gradient(self._apply_critic, points)
        return gradient_terms.per_example_norm(gradient).mean()

    def generator_gradient_norm(self, generator_loss: GeneratorLoss, real: Tensor, step: int) -> Tensor:
        """Return the norm of the gradient of the generator's loss with respect to all of its parameters (scalar).

        It is computed on a copy, so that neither gradients nor BatchNorm's running statistics of the generator change.
        If the critic compares the examples of a batch, it is that of one batch of the training size.

        Args:
            generator_loss: The generator's loss.
            real: Real examples ``[N, ...]``, which are paired with N generated ones.
            step: The current step.
        """
        generator, real = copy.deepcopy(self._generator), real[: self._examples_at_once]
        z = draw_z(len(real), self._latent_dim, generator, self._stream("probe z", step))
        with self._precision.step(), _copied_buffers(self._critic):
            fake = self._precision.apply(generator, z)
            loss = generator_loss(real.to(self._device, z.dtype), fake)
            parameters, loss_scale = list(generator.parameters()), self._generator_loss_scale
            gradient = loss_scale.gradient(loss, parameters) if loss_scale else torch.autograd.grad(loss, parameters)
        return torch.nn.utils.get_total_norm(gradient)

    def critic_outputs(self, points: Tensor) -> Tensor:
        """Return the critic's outputs ``[N]`` for examples ``[N, ...]``, both on the CPU; differentiable."""
        with self._precision.step():
            return self._apply_critic(points.to(self._device)).cpu()

    def critic_loss(self, real: Tensor, fake: Tensor, step: int) -> float:
        """Return the critic's objective on real and fake examples ``[N, ...]``, on the CPU."""
        dtype = next(self._generator.parameters()).dtype
        real, fake = real.to(self._device, dtype), fake.to(self._device, dtype)
        with self._precision.step():
            return float(self._objective.evaluate(real, fake, self._apply_critic, self._stream("probe", step)))

    def sampler(self, purpose: str, *, live: bool = False) -> SampleStream:
        """Return the samples of the averaged generator of the stream (seed, `purpose`).

        Args:
            purpose: The purpose of the samples.
            live: Whether they are those of the generator as it is now instead of its average.
        """
        sampler = self._sampler
        if live:
            sampler = replace(
                sampler, generator=copy.deepcopy(self._generator).requires_grad_(requires_grad=False).eval()
            )
        return sampler.stream(purpose)

    def _apply_critic(self, batch: Tensor) -> Tensor:
        if self._examples_at_once is None:
            return self._apply_unchanged_critic(batch)
        # Such a critic needs memory for each pair of examples, so its forward pass is repeated for the gradient.
        parts = batch.split(self._examples_at_once)
        return torch.cat([checkpoint(self._apply_unchanged_critic, part, use_reentrant=False) for part in parts])

    def _apply_unchanged_critic(self, batch: Tensor) -> Tensor:
        with _copied_buffers(self._critic):
            return self._precision.apply(self._critic, batch)

    def _stream(self, *purpose: object) -> torch.Generator:
        return rng.generator(self._seed, *purpose, device=self._device)


@contextmanager
def _copied_buffers(network: nn.Module) -> Iterator[None]:
    """Let a network use copies of its buffers, so that those of training, such as running statistics, stay as they are.

    They are the same tensors afterwards: CUDA graphs write to them, and gradients may need the copies.
    """
    buffers = {module: dict(module._buffers) for module in network.modules()}
    for module, own in buffers.items():
        module._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in own.items()})
    try:
        yield
    finally:
        for module, own in buffers.items():
            module._buffers.update(own)
