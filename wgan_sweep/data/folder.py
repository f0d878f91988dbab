"""A folder of pictures, cropped and resized to one size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wgan_sweep.data.store import MODES, ImageSet, as_array, cached_digest, cached_images, crop_and_resize
from wgan_sweep.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files below a folder, its subfolders included, sorted by path."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def read_picture(file: Path, mode: str) -> Image.Image:
    """Read a picture and convert it to a mode of Pillow, such as ``RGB``.

    Raises:
        InputError: if the file cannot be read; the message names it.
    """
    try:
        with Image.open(file) as opened:
            return opened.convert(mode)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{file} cannot be read as a picture ({error}): repair it or remove it from the folder"
        ) from error


@dataclass(frozen=True)
class ImageFolder:
    """All pictures below a folder, sorted by path; the largest central square of each is resized to size x size.

    Args:
        path: The folder; its subfolders are included.
        size: Side of the resized images, in pixels.
        channels: 3 (colour) or 1 (grey).
    """

    path: str
    size: int
    channels: int

    def load(self) -> ImageSet:
        """Return the images, uint8 ``[N, size, size, channels]``; they are cached until the folder's files change.

        Raises:
            InputError: if a parameter is out of range, the folder is missing or has no pictures, or a picture cannot be
                read.
        """
        folder = Path(self.path).expanduser()
        if self.channels not in MODES:
            raise InputError(f"data.channels must be 1 (grey) or 3 (colour), got {self.channels}")
        if self.size < 1:
            raise InputError(f"data.size must be 1 or more, got {self.size}")
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}: set data.path to a folder of pictures")
        files = pictures_in(folder)
        if not files:
            raise InputError(
                f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}): set data.path to a folder that does"
            )
        listing = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        key = ("folder", str(folder.resolve()), self.size, self.channels, listing)
        return cached_images(key, lambda: files, lambda paths: map(self._read, paths))

    def fingerprint(self) -> str:
        """Return the digest of the images; raises the errors of `load`."""
        images = self.load()
        return images.digest if images.file is None else cached_digest(images.file, lambda: images)

    def _read(self, file: Path) -> NDArray[np.uint8]:
        return as_array(crop_and_resize(read_picture(file, MODES[self.channels]), self.size))
