"""Samples of a generator: from named streams of z, through the network, to images or points."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.training.precision import Precision

Z_BLOCK = 256
"""Number of z that a stream draws at a time."""


@dataclass(frozen=True)
class Sampler:
    """Makes samples of a generator. It changes no state, and draws from no random stream of training.

    Args:
        generator: ``[N, latent_dim]`` to ``[N, ...]``, in evaluation mode, on `device`.
        latent_dim: Size of z.
        seed: The run's seed, from which the streams of z are derived.
        precision: The precision of training.
        to_samples: From the generator's output to samples as they are shown and scored.
        device: Device of the generator.
    """

    generator: nn.Module
    latent_dim: int
    seed: int
    precision: Precision
    to_samples: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """Return the samples of z ``[N, latent_dim]``: uint8 images ``[N, C, H, W]``, or points ``[N, D]``."""
        with self.precision.step():
            return self.to_samples(self.precision.apply(self.generator, z))

    def z_stream(self, purpose: str) -> Callable[[int], Tensor]:
        """Return a function from N to the next N z ``[N, latent_dim]`` of the stream (seed, `purpose`).

        The values do not depend on how many are requested at a time: they are drawn in blocks of fixed size, because
        the values that `torch.randn` draws depend on the size of the request.
        """
        stream = rng.generator(self.seed, "sample", purpose, device=self.device)
        buffered = draw_z(0, self.latent_dim, self.generator, stream)

        def draw(count: int) -> Tensor:
            nonlocal buffered
            while len(buffered) < count:
                buffered = torch.cat([buffered, draw_z(Z_BLOCK, self.latent_dim, self.generator, stream)])
            z, buffered = buffered[:count], buffered[count:]
            return z

        return draw

    def stream(self, purpose: str) -> "SampleStream":
        """Return the samples of the stream (seed, `purpose`)."""
        return SampleStream(self, self.z_stream(purpose))


@dataclass(frozen=True)
class SampleStream:
    """The samples of a stream of z, one after another.

    Args:
        sampler: Makes samples of z.
        draw: From N to the next N z of the stream.
    """

    sampler: Sampler
    draw: Callable[[int], Tensor]

    def __call__(self, count: int) -> Tensor:
        """Return the next `count` samples."""
        return self.sampler(self.draw(count))

    def skip(self, count: int) -> None:
        """Leave out the next `count` samples, without generating them."""
        for start in range(0, count, Z_BLOCK):
            self.draw(min(Z_BLOCK, count - start))


def draw_z(count: int, latent_dim: int, generator: nn.Module, stream: torch.Generator) -> Tensor:
    """Return standard normal z ``[count, latent_dim]``, on the device and in the dtype of a generator."""
    parameter = next(generator.parameters())
    return torch.randn(count, latent_dim, generator=stream, device=parameter.device, dtype=parameter.dtype)
