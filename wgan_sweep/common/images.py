"""Conversion between uint8 images and the networks' range [-1, 1], and image grids."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_range(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images to [-1, 1]: 0 to -1, 255 to 1.

    The divisor is a tensor, by which CPU and GPU divide alike: by a number, CUDA multiplies with its rounded inverse.
    """
    return images.to(dtype).div_(torch.full((), 127.5, dtype=dtype, device=images.device)).sub_(1)


def to_uint8(values: Tensor) -> Tensor:
    """Map [-1, 1] to uint8: round to the nearest level and clamp values outside. The inverse of `to_range`."""
    return values.detach().float().mul(127.5).add(127.5).round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None) -> NDArray[np.uint8]:
    """Arrange images in a grid, row by row.

    Args:
        images: uint8 ``[N, C, H, W]``.
        columns: Images per row; by default the grid is nearly square.

    Returns:
        uint8 ``[rows * H, columns * W, C]``; cells beyond the last image are black.
    """
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    cells[:count] = images.cpu()
    ordered = cells.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return ordered.reshape(rows * height, columns * width, channels).numpy()
