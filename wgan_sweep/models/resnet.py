"""The residual networks of the public WGAN-GP code (Gulrajani et al. 2017), also used by Wu et al. 2018."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from wgan_sweep.models.layers import (
    Critic,
    MeanPool,
    check_sizes,
    conv_and_pool,
    image_channels_and_size,
    norm_layer,
    upsample,
    upsample_and_conv,
)

SIZES = (32, 64, 128)


def _conv(in_channels: int, out_channels: int, kernel: int, gain: float) -> nn.Conv2d:
    """Return a size-preserving convolution: uniform Glorot weights times `gain`, bias 0."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight, gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class _Block(nn.Module):
    """The layers of a residual block: norm, ReLU, 3x3, norm, ReLU, 3x3, and a 1x1 shortcut.

    Convolutions after a ReLU have the gain of He et al. 2015 (sqrt 2), the shortcut has gain 1.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, norm_name: str) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm_name, in_channels)
        self.conv1 = _conv(in_channels, hidden_channels, 3, 2**0.5)
        self.norm2 = norm_layer(norm_name, hidden_channels)
        self.conv2 = _conv(hidden_channels, out_channels, 3, 2**0.5)
        self.shortcut = _conv(in_channels, out_channels, 1, 1.0)
        self.relu = nn.ReLU()


class UpBlock(_Block):
    """Upsampling residual block: ``[N, in_channels, S, S]`` to ``[N, out_channels, 2S, 2S]``."""

    def __init__(self, in_channels: int, out_channels: int, norm_name: str) -> None:
        super().__init__(in_channels, out_channels, out_channels, norm_name)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample before the first convolution, and after the shortcut's (a 1x1 convolution: same result, cheaper)."""
        y = upsample_and_conv(self.conv1, self.relu(self.norm1(x)))
        y = self.conv2(self.relu(self.norm2(y)))
        result: Tensor = y + upsample(self.shortcut(x))
        return result


class DownBlock(_Block):
    """Downsampling residual block: ``[N, in_channels, S, S]`` to ``[N, out_channels, S/2, S/2]``."""

    def __init__(self, in_channels: int, out_channels: int, norm_name: str) -> None:
        super().__init__(in_channels, in_channels, out_channels, norm_name)
        self.pool = MeanPool()

    def forward(self, x: Tensor) -> Tensor:
        """Pool after the second convolution, and before the shortcut's convolution."""
        y = self.conv1(self.relu(self.norm1(x)))
        y = conv_and_pool(self.conv2, self.relu(self.norm2(y)))
        result: Tensor = y + self.shortcut(self.pool(x))
        return result


@dataclass(frozen=True)
class ResNet:
    """Residual blocks between 4 x 4 features and images of size 32, 64 or 128.

    Args:
        dim: Channels of the block next to the image; they double at each halving of the size, up to 8 times `dim`
            (64 in the paper).
        latent_dim: Size of z (128 in the paper).
        generator_norm: Normalisation in the generator: none, batch, layer or instance (batch in the paper).
        critic_norm: Normalisation in the critic (layer in the paper).

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
        return [self.dim * min(2**i, 8) for i in range((size // 4).bit_length())]

    def _channels_and_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return image_channels_and_size(shape, "resnet", "square images of size 32, 64 or 128", SIZES.__contains__)

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)[::-1]
        blocks = [
            UpBlock(in_channels, out_channels, self.generator_norm) for in_channels, out_channels in pairwise(widths)
        ]
        return nn.Sequential(
            _linear(self.latent_dim, 16 * widths[0]),
            nn.Unflatten(1, (widths[0], 4, 4)),
            *blocks,
            norm_layer(self.generator_norm, widths[-1]),
            nn.ReLU(),
            _conv(widths[-1], channels, 3, 1.0),
            nn.Tanh(),
        )

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        channels, size = self._channels_and_size(shape)
        widths = self._widths(size)
        blocks = [
            DownBlock(in_channels, out_channels, self.critic_norm) for in_channels, out_channels in pairwise(widths)
        ]
        critic = Critic(nn.Sequential(_conv(channels, widths[0], 3, 1.0), *blocks), 16 * widths[-1])
        for parameter in critic.head.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
        return critic
