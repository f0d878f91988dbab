"""Layers, initialisers and checks that the models share."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from wgan_sweep.errors import InputError
from wgan_sweep.models.group_norm import GroupNorm

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),  # noqa: ARG005
    "batch": nn.BatchNorm2d,
    # Over channels and pixels with a gain per channel, as in the public WGAN-GP code: GroupNorm with one group.
    "layer": lambda channels: GroupNorm(1, channels),
    "instance": lambda channels: GroupNorm(channels, channels),
}


def norm_layer(name: str, channels: int) -> nn.Module:
    """Return the normalisation layer `name` (none, batch, layer or instance) for ``[N, channels, H, W]``.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in NORMS:
        raise InputError(
            f"model.generator_norm and model.critic_norm have no norm {name!r}: choose one of {', '.join(NORMS)}"
        )
    return NORMS[name](channels)


class GlobalPool(nn.Module):
    """The sum or the mean over pixels: ``[N, C, H, W]`` to ``[N, C]``.

    Args:
        reduce: From a tensor and dimensions to the tensor without them, such as `torch.sum`.
    """

    def __init__(self, reduce: Callable[[Tensor, list[int]], Tensor]) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, C]``."""
        return self.reduce(x, [2, 3])


POOLS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "mean": lambda: GlobalPool(torch.mean),
    "sum": lambda: GlobalPool(torch.sum),
}


def pool_layer(name: str, channels: int, size: int) -> tuple[nn.Module, int]:
    """Return the pooling `name` (none, mean or sum) of ``[N, channels, size, size]``, and how many features remain.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in POOLS:
        raise InputError(f"model.pool has no pooling {name!r}: choose one of {', '.join(POOLS)}")
    return POOLS[name](), channels * (size**2 if name == "none" else 1)


class OutputHead(nn.Module):
    """The last layer of a critic: from ``[N, C, H, W]`` or ``[N, C]`` features to ``[N]`` outputs."""

    def __init__(self, features: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1, bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[N]``."""
        outputs: Tensor = self.linear(features.flatten(1)).squeeze(1)
        return outputs


class Critic(nn.Module):
    """A critic in two parts: `body` computes ``[N, ...]`` features, `head` maps them to ``[N]`` outputs.

    Args:
        body: Its output must have `features` values per example.
        features: Number of features per example.
        head_bias: Whether the head has a bias.
    """

    def __init__(self, body: nn.Module, features: int, head_bias: bool = True) -> None:
        super().__init__()
        self.features = features
        self.body = body
        self.head: nn.Module = OutputHead(features, head_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N]``."""
        outputs: Tensor = self.head(self.body(x))
        return outputs


class _Pool(Function):
    """The mean of each 2 x 2 block: ``[N, C, H, W]`` to ``[N, C, H/2, W/2]``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ARG004
        return cast("Tensor", _Spread.apply(grad_output))


class _Spread(Function):
    """A quarter of each pixel to each pixel of a 2 x 2 block: the adjoint of `_Pool`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return upsample(x * 0.25)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ARG004
        return cast("Tensor", _Pool.apply(grad_output))


class MeanPool(nn.Module):
    """Downsample ``[N, C, H, W]`` by 2: the mean of each 2 x 2 block. H and W must be even.

    It is linear, so its backward pass is its adjoint, and the double backward pass is the pooling itself. The backward
    pass of PyTorch's ``avg_pool2d`` is slow on CUDA, and its double backward more so.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, C, H/2, W/2]``."""
        if torch.compiler.is_compiling():  # a compiler writes its own backward pass
            return nn.functional.avg_pool2d(x, 2)
        return cast("Tensor", _Pool.apply(x))


def conv_and_pool(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``MeanPool()(conv(x))``, computed as one convolution with stride 2 and a kernel that is larger by 1.

    The larger kernel is the mean of the kernel at the four places of a 2 x 2 block. For a 3 x 3 kernel, this takes 16
    instead of 36 multiplications per output.

    Args:
        conv: A convolution with stride 1 that keeps the size.
        x: ``[N, C, H, W]``, H and W even.
    """
    return nn.functional.conv2d(x, _spread_kernel(conv.weight), conv.bias, stride=2, padding=_padding(conv))


def upsample_and_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``conv(upsample(x))``, computed as one transposed convolution with stride 2.

    It is the adjoint of `conv_and_pool` for the flipped kernel, times 4: upsampling sends each pixel to four.

    Args:
        conv: A convolution with stride 1 that keeps the size.
        x: ``[N, C, H, W]``.
    """
    weight = 4 * _spread_kernel(conv.weight.flip(2, 3).transpose(0, 1))
    return nn.functional.conv_transpose2d(x, weight, conv.bias, stride=2, padding=_padding(conv))


def _padding(conv: nn.Conv2d) -> list[int]:
    """Return the padding with which a convolution keeps the size."""
    return [size // 2 for size in conv.kernel_size]


def _spread_kernel(weight: Tensor) -> Tensor:
    """Return the mean of a kernel ``[O, I, K, K]`` at the four places of a 2 x 2 block: ``[O, I, K + 1, K + 1]``."""
    return nn.functional.avg_pool2d(nn.functional.pad(weight, (1, 1, 1, 1)), 2, 1)


def check_sizes(**sizes: int) -> None:
    """Check that all sizes of a model are positive.

    Raises:
        InputError: If a size is below 1; the message names its key ``model.<name>``.
    """
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"model.{name} must be 1 or more, got {size}")


def image_channels_and_size(
    shape: tuple[int, ...], model: str, supported_sizes: str, is_supported: Callable[[int], bool]
) -> tuple[int, int]:
    """Return (channels, size) of a square image shape that `model` supports.

    Args:
        shape: ``(channels, height, width)``.
        model: Name of the model, for messages.
        supported_sizes: Description of the supported images, for messages.
        is_supported: Whether the model supports a height and width.

    Raises:
        InputError: If the data are points, if the images are not square, or if their size is not supported.
    """
    if len(shape) != 3:
        raise InputError(f"model={model} generates images, but the data has shape {shape}: use model=mlp")
    channels, height, width = shape
    if height != width or not is_supported(height):
        raise InputError(
            f"model={model} generates {supported_sizes}, but the data is {height}x{width}: "
            "set data.size to a supported size if the data has that key, use another model, or resize the images"
        )
    return channels, height


def init_normal_(module: nn.Module, std: float) -> None:
    """Initialise the convolutions and linear layers of `module` in place: weights N(0, std^2), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def is_power_of_two(size: int, minimum: int) -> bool:
    """Return whether `size` is a power of two and at least `minimum`."""
    return size >= minimum and size & (size - 1) == 0


def upsample(x: Tensor, mode: str = "nearest") -> Tensor:
    """Upsample ``[N, C, H, W]`` by 2, in the dtype of x: autocast would convert it to float32.

    Args:
        x: ``[N, C, H, W]``.
        mode: ``nearest`` neighbour or ``bilinear`` interpolation.
    """
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.interpolate(x, scale_factor=2.0, mode=mode)
