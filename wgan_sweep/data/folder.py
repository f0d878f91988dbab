"""Any folder of pictures, cropped and resized once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wgan_sweep.data.store import MODES, ImageSet, as_array, crop_and_resize, stored_once
from wgan_sweep.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures below a folder, in the order of their names."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def read_picture(file: Path, mode: str) -> Image.Image:
    """Read a picture in a mode of Pillow.

    Raises:
        InputError: naming the file, if it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            return opened.convert(mode)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{file} cannot be read as a picture ({error}): mend it or take it out of the folder"
        ) from error


@dataclass(frozen=True)
class ImageFolder:
    """All pictures below `path`, in the order of their names, their largest central square resized to size x size.

    Args:
        path: The folder; its subfolders count too.
        size: Side of the images made, in pixels.
        channels: 3 (colour) or 1 (grey).
    """

    path: str
    size: int
    channels: int

    def load(self) -> ImageSet:
        """Return uint8 ``[N, size, size, channels]``, made once and cached until the folder's files change.

        Raises:
            InputError: if the folder is missing or holds no picture, or a picture (named) cannot be read.
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
        return stored_once(key, lambda: files, lambda found: map(self._read, found))

    def _read(self, file: Path) -> NDArray[np.uint8]:
        return as_array(crop_and_resize(read_picture(file, MODES[self.channels]), self.size))
