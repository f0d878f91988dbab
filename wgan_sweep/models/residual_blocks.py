"""Residual blocks of the published ResNets, and their initialisation."""

from collections.abc import Callable
from typing import Annotated

from torch import Tensor, nn

from wgan_sweep.common.ranges import Range
from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import MeanPool, conv_and_pool, norm_layer, upsample, upsample_and_conv

Gain = Annotated[float, Range(above=0)]
"""A factor of initial weights."""
HE_GAIN = 2**0.5
"""The gain of convolutions after a ReLU (He et al. 2015)."""


def glorot_conv(in_channels: int, out_channels: int, kernel: int, gain: float, bias: bool = True) -> nn.Conv2d:
    """Return a size-preserving convolution: uniform Glorot weights times `gain`, bias 0."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
    nn.init.xavier_uniform_(conv.weight, gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def init_linear_(module: nn.Module) -> None:
    """Initialise the linear layers of `module` in place: uniform Glorot weights, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _bilinear_upsample_and_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    result: Tensor = conv(upsample(x, "bilinear"))
    return result


UPSAMPLINGS: dict[str, Callable[[nn.Conv2d, Tensor], Tensor]] = {
    "nearest": upsample_and_conv,
    "bilinear": _bilinear_upsample_and_conv,
}
"""Functions that upsample ``[N, C, H, W]`` by 2 and convolve the result."""


class Block(nn.Module):
    """The layers of a residual block: norm, ReLU, 3x3, norm, ReLU, 3x3, and a shortcut.

    Convolutions after a ReLU have the gain of He et al. 2015 (sqrt 2), the shortcut has gain 1.

    Args:
        in_channels: Channels of the input.
        hidden_channels: Channels between the two 3x3 convolutions.
        out_channels: Channels of the output.
        norm_name: Normalisation: none, batch, layer or instance.
        first_bias: Whether the first 3x3 convolution has a bias.
        relu_shortcut: Whether the shortcut, too, comes after the first norm and ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        norm_name: str,
        first_bias: bool = True,
        relu_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm_name, in_channels)
        self.conv1 = glorot_conv(in_channels, hidden_channels, 3, HE_GAIN, first_bias)
        self.norm2 = norm_layer(norm_name, hidden_channels)
        self.conv2 = glorot_conv(hidden_channels, out_channels, 3, HE_GAIN)
        self.shortcut: nn.Module = glorot_conv(in_channels, out_channels, 1, 1.0)
        self.relu = nn.ReLU()
        self.relu_shortcut = relu_shortcut

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of the first convolution and of the shortcut."""
        y = self.relu(self.norm1(x))
        return y, y if self.relu_shortcut else x


class UpBlock(Block):
    """Upsampling residual block: ``[N, in_channels, S, S]`` to ``[N, out_channels, 2S, 2S]``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_name: Normalisation: none, batch, layer or instance.
        first_bias: Whether the first 3x3 convolution has a bias.
        upsampling: ``nearest`` or ``bilinear``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm_name: str, first_bias: bool = True, upsampling: str = "nearest"
    ) -> None:
        super().__init__(in_channels, out_channels, out_channels, norm_name, first_bias)
        if upsampling not in UPSAMPLINGS:
            raise InputError(
                f"model.upsampling has no interpolation {upsampling!r}: choose one of {', '.join(UPSAMPLINGS)}"
            )
        self.upsampling = upsampling

    def forward(self, x: Tensor) -> Tensor:
        """Upsample before the first convolution, and after the shortcut's (a 1x1 convolution: same result, cheaper)."""
        y, shortcut = self.branches(x)
        y = UPSAMPLINGS[self.upsampling](self.conv1, y)
        y = self.conv2(self.relu(self.norm2(y)))
        result: Tensor = y + upsample(self.shortcut(shortcut), self.upsampling)
        return result


class DownBlock(Block):
    """Downsampling residual block: ``[N, in_channels, S, S]`` to ``[N, out_channels, S/2, S/2]``.

    The first convolution keeps the number of channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm_name: str, first_bias: bool = True, relu_shortcut: bool = False
    ) -> None:
        super().__init__(in_channels, in_channels, out_channels, norm_name, first_bias, relu_shortcut)
        self.pool = MeanPool()

    def forward(self, x: Tensor) -> Tensor:
        """Pool after the second convolution, and before the shortcut's convolution."""
        y, shortcut = self.branches(x)
        y = self.conv1(y)
        y = conv_and_pool(self.conv2, self.relu(self.norm2(y)))
        result: Tensor = y + self.shortcut(self.pool(shortcut))
        return result


class FirstDownBlock(Block):
    """The first block of a critic: from images ``[N, in_channels, S, S]`` to ``[N, out_channels, S/2, S/2]``.

    It has no norm, and no ReLU before its first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, out_channels, "none")
        self.pool = MeanPool()

    def forward(self, x: Tensor) -> Tensor:
        """Pool after the second convolution, and before the shortcut's convolution."""
        y = conv_and_pool(self.conv2, self.relu(self.conv1(x)))
        result: Tensor = y + self.shortcut(self.pool(x))
        return result


class PlainBlock(Block):
    """Residual block that keeps size and channels, ``[N, channels, S, S]``; the shortcut has no parameters."""

    def __init__(self, channels: int, norm_name: str, relu_shortcut: bool = False) -> None:
        super().__init__(channels, channels, channels, norm_name, relu_shortcut=relu_shortcut)
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        y, shortcut = self.branches(x)
        result: Tensor = self.conv2(self.relu(self.norm2(self.conv1(y)))) + self.shortcut(shortcut)
        return result
