"""Differentiable augmentation of the critic's input (Zhao et al. 2020): the same kinds for real and generated images.

Each image gets random numbers of its own, from the stabiliser's stream. Gradient terms are taken at augmented images.
"""

from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from wgan_sweep.common.ranges import Range
from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic
from wgan_sweep.objectives.stabilisers import Stabiliser

Strength = Annotated[float, Range(0, 2)]
UpTo1 = Annotated[float, Range(0, 1)]


def diff_augment(
    brightness: Strength, saturation: UpTo1, contrast: UpTo1, translation: UpTo1, cutout: UpTo1
) -> Stabiliser:
    """Random colours, shifts and holes in all images that the critic sees (Zhao et al. 2020); 0 leaves a part out.

    Args:
        brightness: Range of the number that is added to an image in [-1, 1]: at most half of it, up or down.
        saturation: Largest distance from 1 of the factor that scales a pixel's channels about their mean.
        contrast: The same for the whole image about its mean.
        translation: Largest shift, up to which zeros come in, as a share of height and width.
        cutout: Height and width of the hole of zeros, as a share of those of the image; its centre is in the image.

    Raises:
        InputError: When applied, if the critic has no convolution, and so may take points.
    """
    if not any((brightness, saturation, contrast, translation, cutout)):
        raise InputError("all values of stabiliser=diff_augment are 0: set one above 0, or choose stabiliser=none")

    def augment(images: Tensor, step: int, stream: torch.Generator) -> Tensor:  # noqa: ARG001
        if brightness:
            images = images + brightness / 2 * _uniform(images, stream)
        if saturation:
            images = _stretch(images, 1 + saturation * _uniform(images, stream), [1])
        if contrast:
            images = _stretch(images, 1 + contrast * _uniform(images, stream), [1, 2, 3])
        if translation:
            images = _shift(images, translation, stream)
        return _cut_out(images, cutout, stream) if cutout else images

    def check_critic(critic: Critic) -> nn.Module:
        if not any(isinstance(module, nn.Conv2d) for module in critic.modules()):
            raise InputError(
                "stabiliser=diff_augment changes images, but this critic has no convolution: choose a convolutional "
                "model such as model=dcgan, or stabiliser=none"
            )
        return critic

    return Stabiliser(augment_input=augment, uses_step=False, adapt_critic=check_critic)


def _pixels(share: float, size: int) -> int:
    """Return a share of a size in whole pixels; halves are rounded up, as in the published code."""
    return int(share * size + 0.5)


def _uniform(images: Tensor, stream: torch.Generator) -> Tensor:
    """Draw a number in [-1, 1] for each of N images ``[N, C, H, W]``: ``[N, 1, 1, 1]``."""
    size = (len(images), 1, 1, 1)
    return 2 * torch.rand(size, generator=stream, device=images.device, dtype=images.dtype) - 1


def _integers(images: Tensor, low: int, high: int, stream: torch.Generator) -> Tensor:
    """Draw an integer from `low` to `high` for each of N images, both included: ``[N, 1]``."""
    return torch.randint(low, high + 1, (len(images), 1), generator=stream, device=images.device)


def _stretch(images: Tensor, factor: Tensor, dims: list[int]) -> Tensor:
    """Multiply the distance of images from their mean over some dimensions by a factor ``[N, 1, 1, 1]``."""
    mean = images.mean(dims, keepdim=True)
    return mean + factor * (images - mean)


def _shift(images: Tensor, share: float, stream: torch.Generator) -> Tensor:
    """Shift each image by a random number of rows and columns, up to a share of them; zeros come in."""
    height, width = images.shape[2:]
    rows, columns = _pixels(share, height), _pixels(share, width)
    padded = F.pad(images, (columns, columns, rows, rows)).permute(0, 2, 3, 1)
    device = images.device
    first_row, first_column = (_integers(images, 0, 2 * most, stream) for most in (rows, columns))
    chosen = (
        torch.arange(len(images), device=device)[:, None, None],
        (first_row + torch.arange(height, device=device))[:, :, None],
        (first_column + torch.arange(width, device=device))[:, None, :],
    )
    return padded[chosen].permute(0, 3, 1, 2)


def _cut_out(images: Tensor, share: float, stream: torch.Generator) -> Tensor:
    """Set a rectangle of each image to 0, around a random centre; what lies outside of the image is lost."""
    inside = []
    for size in images.shape[2:]:
        length = _pixels(share, size)
        first = _integers(images, 0, size - length % 2, stream) - length // 2
        position = torch.arange(size, device=images.device)
        inside.append((position >= first) & (position < first + length))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hole, 0)
