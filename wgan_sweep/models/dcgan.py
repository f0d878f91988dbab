"""DCGAN: strided and transposed convolutions (Radford et al. 2016)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import nn

from wgan_sweep.common.ranges import Range
from wgan_sweep.models.layers import (
    Critic,
    check_sizes,
    image_channels_and_size,
    init_normal_,
    is_power_of_two,
    norm_layer,
    pool_layer,
)

Kernel = Annotated[int, Range(2, 63)]
"""Height and width of a convolution's kernel."""


@dataclass(frozen=True)
class DCGAN:
    """Convolutions of stride 2, between 4 x 4 features and images of a power-of-two size of 16 or more.

    Args:
        dim: Channels of the layer next to the image; they double at each halving of the size, up to `max_factor` times
            `dim`.
        latent_dim: Size of z.
        generator_norm: Normalisation in the generator: none, batch, layer or instance.
        critic_norm: Normalisation in the critic; the first layer is never normalised.
        kernel: Height and width of all kernels. For odd kernels, where TensorFlow pads one side more, the other side is
            padded more here: the same network for mirrored images.
        pool: What the critic's last layer sees of its 4 x 4 features: all values (none), or their mean or sum.
        max_factor: Largest number of channels, as a multiple of `dim`.
        generator_bias: Whether the generator's linear layer and convolutions have biases.
        critic_bias: Whether the critic's convolutions and last layer have biases.
        norm_each_feature: Whether the generator's first norm takes each output of the linear layer as a channel.

    Raises:
        InputError: If a size is below 1, or if a norm or pooling is unknown.
    """

    dim: int
    latent_dim: int
    generator_norm: str
    critic_norm: str
    kernel: Kernel = 4
    pool: str = "none"
    max_factor: int = 8
    generator_bias: bool = True
    critic_bias: bool = True
    norm_each_feature: bool = False

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim, max_factor=self.max_factor)

    def _widths(self, size: int) -> list[int]:
        return [self.dim * min(2**i, self.max_factor) for i in range((size // 4).bit_length() - 1)]

    def _channels_and_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return image_channels_and_size(
            shape, "dcgan", "square images of a power-of-two size of 16 or more", lambda size: is_power_of_two(size, 16)
        )

    @property
    def _padding(self) -> int:
        return (self.kernel - 1) // 2

    def _up(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a transposed convolution that doubles the size."""
        bias, extra = self.generator_bias, self.kernel % 2
        return nn.ConvTranspose2d(in_channels, out_channels, self.kernel, 2, self._padding, extra, bias=bias)

    def _down(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a convolution that halves an even size."""
        return nn.Conv2d(in_channels, out_channels, self.kernel, 2, self._padding, bias=self.critic_bias)

    def _first_norm(self, channels: int) -> list[nn.Module]:
        """Return the layers that shape and normalise the output of the generator's linear layer."""
        to_image = nn.Unflatten(1, (channels, 4, 4))
        if not self.norm_each_feature:
            return [to_image, norm_layer(self.generator_norm, channels)]
        to_channels = nn.Unflatten(1, (16 * channels, 1, 1))
        return [to_channels, norm_layer(self.generator_norm, 16 * channels), nn.Flatten(), to_image]

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)[::-1]
        layers: list[nn.Module] = [
            nn.Linear(self.latent_dim, 16 * widths[0], self.generator_bias),
            *self._first_norm(widths[0]),
            nn.ReLU(),
        ]
        for in_channels, out_channels in pairwise(widths):
            layers += [
                self._up(in_channels, out_channels),
                norm_layer(self.generator_norm, out_channels),
                nn.ReLU(),
            ]
        network = nn.Sequential(*layers, self._up(widths[-1], channels), nn.Tanh())
        init_normal_(network, 0.02)
        return network

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)
        layers: list[nn.Module] = [self._down(channels, widths[0]), nn.LeakyReLU(0.2)]
        for in_channels, out_channels in pairwise(widths):
            layers += [
                self._down(in_channels, out_channels),
                norm_layer(self.critic_norm, out_channels),
                nn.LeakyReLU(0.2),
            ]
        pool, features = pool_layer(self.pool, widths[-1], 4)
        network = Critic(nn.Sequential(*layers, pool), features, self.critic_bias)
        init_normal_(network, 0.02)
        return network
