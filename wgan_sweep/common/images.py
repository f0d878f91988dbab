"""One rule between uint8 images and the networks' range, and pictures of samples."""

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def to_range(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images to [-1, 1]: 0 to -1, 255 to 1."""
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(values: Tensor) -> Tensor:
    """Map values in [-1, 1] to uint8, to the nearest level; what lies outside is clamped. Inverse of `to_range`."""
    return values.detach().float().mul(127.5).add(127.5).round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None) -> NDArray[np.uint8]:
    """Lay uint8 images ``[N, C, H, W]`` out in rows, near a square unless `columns` is given.

    Returns:
        uint8 ``[rows * H, columns * W, C]``; cells beyond the last image are black.
    """
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    cells[:count] = images.cpu()
    laid = cells.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return laid.reshape(rows * height, columns * width, channels).numpy()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 ``[H, W, 1 or 3]`` as PNG (the first three channels where there are more; two count as grey)."""
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
