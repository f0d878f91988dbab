"""Conversion between uint8 images and the networks' range [-1, 1], image grids, and PNG encoding."""

import io
import logging
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

log = logging.getLogger("wgan_sweep")

THUMBNAIL = 320
"""Longer side of a reduced picture, in pixels; small, so that a phone can open a page of 500 runs."""

PICTURE_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(NotImplementedError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for files that are no pictures, or damaged ones."""


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


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 ``[H, W, C]`` as PNG: RGB from the first three channels, or grey from the first one if C < 3."""
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def with_description(picture: bytes, text: str) -> bytes:
    """Return a PNG with a text in its metadata, under ``Description``."""
    metadata, buffer = PngInfo(), io.BytesIO()
    metadata.add_text("Description", text)
    with Image.open(io.BytesIO(picture)) as image:
        image.save(buffer, "png", pnginfo=metadata)
    return buffer.getvalue()


def open_picture(path: Path) -> Image.Image | None:
    """Return a picture in RGB; None, with a line in the log, if it is damaged or cannot be read."""
    try:
        if not path.is_file():  # not a pipe or a device
            raise OSError("it is not a regular file")
        with Image.open(path) as image:
            return image.convert("RGB")
    except PICTURE_ERRORS as error:
        log.warning("%s cannot be read and is left out: %s", path, error)
        return None


def open_thumbnail(path: Path) -> Image.Image | None:
    """Return a picture in RGB, reduced to `THUMBNAIL` pixels; None, with a line in the log, if it is damaged."""
    picture = open_picture(path)
    if picture is not None:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture
