"""DCGAN: strided convolutions up and down (Radford et al. 2016)."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from wgan_sweep.models.layers import Critic, check_sizes, image_shape, is_power_of_two, norm, normal_


@dataclass(frozen=True)
class DCGAN:
    """Convolutions of stride 2 between 4 x 4 and any power-of-two size from 16 on.

    Args:
        dim: Channels next to the image; they double at each halving, up to 8 times `dim`.
        latent_dim: Size of z.
        generator_norm: none, batch, layer or instance.
        critic_norm: The same for the critic, whose first layer never has one.
    """

    dim: int
    latent_dim: int
    generator_norm: str
    critic_norm: str

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim)

    def _widths(self, size: int) -> list[int]:
        return [self.dim * min(2**i, 8) for i in range((size // 4).bit_length() - 1)]

    def _image(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return image_shape(
            shape, "dcgan", "square images of a power-of-two size from 16 on", lambda s: is_power_of_two(s, 16)
        )

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels, size = self._image(shape)
        widths = self._widths(size)[::-1]
        layers: list[nn.Module] = [
            nn.Linear(self.latent_dim, 16 * widths[0]),
            nn.Unflatten(1, (widths[0], 4, 4)),
            norm(self.generator_norm, widths[0]),
            nn.ReLU(),
        ]
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), norm(self.generator_norm, after), nn.ReLU()]
        network = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())
        normal_(network, 0.02)
        return network

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` scores."""
        channels, size = self._image(shape)
        widths = self._widths(size)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), norm(self.critic_norm, after), nn.LeakyReLU(0.2)]
        network = Critic(nn.Sequential(*layers), 16 * widths[-1])
        normal_(network, 0.02)
        return network
