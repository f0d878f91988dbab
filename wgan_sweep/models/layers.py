"""Layers that every network here is made of."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wgan_sweep.errors import InputError

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),  # noqa: ARG005
    "batch": nn.BatchNorm2d,
    # Over channels and pixels with a gain per channel, as WGAN-GP's public code has it: GroupNorm with one group.
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.GroupNorm(channels, channels),
}


def norm(name: str, channels: int) -> nn.Module:
    """Return the normalisation `name` (none, batch, layer or instance) for ``[N, channels, H, W]``.

    Raises:
        InputError: for any other name.
    """
    if name not in NORMS:
        raise InputError(f"unknown norm {name!r}: choose one of {', '.join(NORMS)}")
    return NORMS[name](channels)


class Scores(nn.Module):
    """A critic's last step: ``[N, C, H, W]`` or ``[N, C]`` features to ``[N]`` scores."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[N]``."""
        scores: Tensor = self.linear(features.flatten(1)).squeeze(1)
        return scores


class Critic(nn.Module):
    """A critic in its two parts: `body` makes ``[N, ...]`` features, `head` turns them into ``[N]`` scores."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.features = features
        self.body = body
        self.head: nn.Module = Scores(features)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N]``."""
        scores: Tensor = self.head(self.body(x))
        return scores


class MeanPool(nn.Module):
    """Halve ``[N, C, H, W]`` by the mean of each 2 x 2 block."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, C, H/2, W/2]``: on CUDA from four strided slices, for the backward of its pooling is slow."""
        if not x.is_cuda:
            return nn.functional.avg_pool2d(x, 2)
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) * 0.25


def check_sizes(**sizes: int) -> None:
    """Refuse sizes of a model that are not positive.

    Raises:
        InputError: naming the key ``model.<name>``.
    """
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"model.{name} must be 1 or more, got {size}")


def image_shape(shape: tuple[int, ...], model: str, sizes: str, fits: Callable[[int], bool]) -> tuple[int, int]:
    """Return (channels, size) of a square image shape that `model` can make.

    Raises:
        InputError: for points, for images that are not square, or for a size that does not fit.
    """
    if len(shape) != 3:
        raise InputError(f"model={model} makes images, but the data has shape {shape}: use model=mlp")
    channels, height, width = shape
    if height != width or not fits(height):
        raise InputError(
            f"model={model} makes {sizes}, but the data is {height}x{width}: "
            "set data.size to such a size where the data has that key, use another model, or resize the images"
        )
    return channels, height


def normal_(module: nn.Module, std: float) -> None:
    """Initialise convolutions and linear layers of `module` with N(0, std) and no bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def is_power_of_two(size: int, at_least: int) -> bool:
    """Say whether `size` is a power of two and not below `at_least`."""
    return size >= at_least and size & (size - 1) == 0


def upsample(x: Tensor) -> Tensor:
    """Double ``[N, C, H, W]`` to the nearest neighbour."""
    return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
