"""The residual networks of WGAN-GP's public code, which the W-div paper trains too (Gulrajani et al. 2017)."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from wgan_sweep.models.layers import Critic, MeanPool, check_sizes, image_shape, norm, upsample

SIZES = (32, 64, 128)


def _conv(before: int, after: int, kernel: int, gain: float) -> nn.Conv2d:
    """Return a convolution that keeps the size, uniform Glorot weights times `gain`, zero bias."""
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight, gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _linear(before: int, after: int) -> nn.Linear:
    linear = nn.Linear(before, after)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class _Block(nn.Module):
    """norm, ReLU, 3x3, norm, ReLU, 3x3 beside a 1x1 shortcut. He's gain where a ReLU comes before, 1 elsewhere."""

    def __init__(self, before: int, middle: int, after: int, kind: str) -> None:
        super().__init__()
        self.norm1 = norm(kind, before)
        self.conv1 = _conv(before, middle, 3, 2**0.5)
        self.norm2 = norm(kind, middle)
        self.conv2 = _conv(middle, after, 3, 2**0.5)
        self.shortcut = _conv(before, after, 1, 1.0)
        self.relu = nn.ReLU()


class UpBlock(_Block):
    """``[N, before, S, S]`` to ``[N, after, 2S, 2S]``."""

    def __init__(self, before: int, after: int, kind: str) -> None:
        super().__init__(before, after, after, kind)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample before the first convolution (the 1x1 shortcut commutes with it, and is cheaper first)."""
        y = self.conv1(upsample(self.relu(self.norm1(x))))
        y = self.conv2(self.relu(self.norm2(y)))
        result: Tensor = y + upsample(self.shortcut(x))
        return result


class DownBlock(_Block):
    """``[N, before, S, S]`` to ``[N, after, S/2, S/2]``."""

    def __init__(self, before: int, after: int, kind: str) -> None:
        super().__init__(before, before, after, kind)
        self.pool = MeanPool()

    def forward(self, x: Tensor) -> Tensor:
        """Pool after the second convolution, and before the shortcut's."""
        y = self.conv1(self.relu(self.norm1(x)))
        y = self.pool(self.conv2(self.relu(self.norm2(y))))
        result: Tensor = y + self.shortcut(self.pool(x))
        return result


@dataclass(frozen=True)
class ResNet:
    """Residual blocks between 4 x 4 and 32, 64 or 128.

    Args:
        dim: Channels next to the image; they double at each halving, up to 8 times `dim` (64 in the paper).
        latent_dim: Size of z (128 in the paper).
        generator_norm: none, batch, layer or instance (batch in the paper).
        critic_norm: The same for the critic (layer in the paper).
    """

    dim: int
    latent_dim: int
    generator_norm: str
    critic_norm: str

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim)

    def _widths(self, size: int) -> list[int]:
        return [self.dim * min(2**i, 8) for i in range((size // 4).bit_length())]

    def _image(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return image_shape(shape, "resnet", "square images of size 32, 64 or 128", SIZES.__contains__)

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels, size = self._image(shape)
        widths = self._widths(size)[::-1]
        blocks = [UpBlock(before, after, self.generator_norm) for before, after in pairwise(widths)]
        return nn.Sequential(
            _linear(self.latent_dim, 16 * widths[0]),
            nn.Unflatten(1, (widths[0], 4, 4)),
            *blocks,
            norm(self.generator_norm, widths[-1]),
            nn.ReLU(),
            _conv(widths[-1], channels, 3, 1.0),
            nn.Tanh(),
        )

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` scores."""
        channels, size = self._image(shape)
        widths = self._widths(size)
        blocks = [DownBlock(before, after, self.critic_norm) for before, after in pairwise(widths)]
        critic = Critic(nn.Sequential(_conv(channels, widths[0], 3, 1.0), *blocks), 16 * widths[-1])
        for parameter in critic.head.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
        return critic
