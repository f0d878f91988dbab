"""DCGAN: strided and transposed convolutions (Radford et al. 2016)."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from wgan_sweep.models.layers import (
    Critic,
    check_sizes,
    image_channels_and_size,
    init_normal_,
    is_power_of_two,
    norm_layer,
)


@dataclass(frozen=True)
class DCGAN:
    """Convolutions of stride 2, between 4 x 4 features and images of a power-of-two size of 16 or more.

    Args:
        dim: Channels of the layer next to the image; they double at each halving of the size, up to 8 times `dim`.
        latent_dim: Size of z.
        generator_norm: Normalisation in the generator: none, batch, layer or instance.
        critic_norm: Normalisation in the critic; the first layer is never normalised.

    Raises:
        InputError: If `dim` or `latent_dim` is below 1.
    """

    dim: int
    latent_dim: int
    generator_norm: str
    critic_norm: str

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim)

    def _widths(self, size: int) -> list[int]:
        return [self.dim * min(2**i, 8) for i in range((size // 4).bit_length() - 1)]

    def _channels_and_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return image_channels_and_size(
            shape, "dcgan", "square images of a power-of-two size of 16 or more", lambda size: is_power_of_two(size, 16)
        )

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)[::-1]
        layers: list[nn.Module] = [
            nn.Linear(self.latent_dim, 16 * widths[0]),
            nn.Unflatten(1, (widths[0], 4, 4)),
            norm_layer(self.generator_norm, widths[0]),
            nn.ReLU(),
        ]
        for in_channels, out_channels in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1),
                norm_layer(self.generator_norm, out_channels),
                nn.ReLU(),
            ]
        network = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())
        init_normal_(network, 0.02)
        return network

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for in_channels, out_channels in pairwise(widths):
            layers += [
                nn.Conv2d(in_channels, out_channels, 4, 2, 1),
                norm_layer(self.critic_norm, out_channels),
                nn.LeakyReLU(0.2),
            ]
        network = Critic(nn.Sequential(*layers), 16 * widths[-1])
        init_normal_(network, 0.02)
        return network
