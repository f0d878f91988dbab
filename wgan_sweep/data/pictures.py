"""Picture files as 8-bit images; what a conversion drops is counted."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wgan_sweep.common.pictures import PICTURE_ERRORS
from wgan_sweep.errors import InputError, one_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
MODES = {1: "L", 3: "RGB"}
"""Modes of Pillow by number of channels."""


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files below a folder, its subfolders included, sorted by path.

    Raises:
        InputError: if there are none, or one of them is a grid of samples of a run.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}): give a folder that does")
    for parent in {file.parent.absolute() for file in files}:
        if parent.name == "samples" and (parent.parent / "record.json").is_file():
            raise InputError(
                f"{folder} holds grids of samples of the run {parent.parent}, not images: give a folder of images, or "
                "one run's directory to wgan-score"
            )
    return files


class PictureReader:
    """Reads pictures in grey or colour with 8 bits, and counts those of which something is dropped.

    Args:
        channels: 1 (grey) or 3 (colour).
    """

    def __init__(self, channels: int) -> None:
        self._mode = MODES[channels]
        self._read = 0
        self._dropped: Counter[str] = Counter()

    def __call__(self, file: Path) -> Image.Image:
        """Read a picture: its first frame, without transparency, and the upper 8 bits of 16.

        Raises:
            InputError: if the file cannot be read as a picture, or has 32 bits per value; the message names it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata, which is not used
                with Image.open(file) as opened:
                    picture, dropped = self._convert(opened, file)
        except InputError:
            raise
        except PICTURE_ERRORS as error:
            raise InputError(
                f"{file} cannot be read as a picture ({one_line(error)}): repair it or remove it from the folder"
            ) from error
        self._read += 1
        self._dropped.update(dropped)
        return picture

    def _convert(self, opened: Image.Image, file: Path) -> tuple[Image.Image, list[str]]:
        dropped = ["several frames, of which the first is used"] if getattr(opened, "n_frames", 1) > 1 else []
        picture: Image.Image = opened
        if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM")):
            values = np.asarray(opened).clip(0, 2**16 - 1) >> 8
            picture = Image.fromarray(values.astype(np.uint8))
            dropped.append("16 bits, of which the upper 8 are used")
        elif opened.mode in ("I", "F"):
            raise InputError(f"{file} has 32 bits per value, whose range is unknown: convert it to 8 or 16 bits")
        elif opened.has_transparency_data:
            picture = opened.convert("RGBA")
            lowest, _ = picture.getchannel("A").getextrema()
            if isinstance(lowest, int) and lowest < 255:
                dropped.append("transparency, which is dropped: the colours below it are used")
        return picture.convert(self._mode), dropped

    def notes(self) -> list[str]:
        """Return a line for each thing that was dropped, with the number of pictures."""
        return [f"{count} of {self._read} pictures have {what}" for what, count in sorted(self._dropped.items())]


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a grey or colour picture to uint8 ``[H, W, C]``."""
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels
