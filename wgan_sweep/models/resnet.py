"""The residual networks of the public WGAN-GP code (Gulrajani et al. 2017), also used by Wu et al. 2018."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from wgan_sweep.models.layers import Critic, check_sizes, image_channels_and_size, norm_layer
from wgan_sweep.models.residual_blocks import DownBlock, Gain, UpBlock, glorot_conv, init_linear_

SIZES = (32, 64, 128)


@dataclass(frozen=True)
class ResNet:
    """Residual blocks between 4 x 4 features and images of size 32, 64 or 128.

    Args:
        dim: Channels of the block next to the image; they double at each halving of the size, up to 8 times `dim`
            (64 in the paper).
        latent_dim: Size of z (128 in the paper).
        generator_norm: Normalisation in the generator: none, batch, layer or instance (batch in the paper).
        critic_norm: Normalisation in the critic (layer in the paper).
        first_bias: Whether the first convolution of each block has a bias (not so in the public 64 x 64 code).
        output_gain: Gain of the generator's last convolution at initialisation (sqrt 2 in the public 64 x 64 code).

    Raises:
        InputError: If `dim` or `latent_dim` is below 1.
    """

    dim: int
    latent_dim: int
    generator_norm: str
    critic_norm: str
    first_bias: bool = True
    output_gain: Gain = 1.0

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim)

    def _widths(self, size: int) -> list[int]:
        return [self.dim * min(2**i, 8) for i in range((size // 4).bit_length())]

    def _channels_and_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return image_channels_and_size(shape, "resnet", "square images of size 32, 64 or 128", SIZES.__contains__)

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)[::-1]
        blocks = [
            UpBlock(in_channels, out_channels, self.generator_norm, self.first_bias)
            for in_channels, out_channels in pairwise(widths)
        ]
        first = nn.Linear(self.latent_dim, 16 * widths[0])
        init_linear_(first)
        return nn.Sequential(
            first,
            nn.Unflatten(1, (widths[0], 4, 4)),
            *blocks,
            norm_layer(self.generator_norm, widths[-1]),
            nn.ReLU(),
            glorot_conv(widths[-1], channels, 3, self.output_gain),
            nn.Tanh(),
        )

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)
        blocks = [
            DownBlock(in_channels, out_channels, self.critic_norm, self.first_bias)
            for in_channels, out_channels in pairwise(widths)
        ]
        critic = Critic(nn.Sequential(glorot_conv(channels, widths[0], 3, 1.0), *blocks), 16 * widths[-1])
        init_linear_(critic.head)
        return critic
