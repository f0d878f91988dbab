"""Pictures as files: PNG encoding, descriptions, and reading files that may be damaged. It needs no torch."""

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

log = logging.getLogger("wgan_sweep")

THUMBNAIL = 320
"""Longer side of a reduced picture, in pixels; small, so that a phone can open a page of 500 runs."""

PICTURE_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(NotImplementedError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for files that are not pictures, or damaged ones."""


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
