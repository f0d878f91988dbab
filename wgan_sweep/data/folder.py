"""A folder of pictures, cropped and resized to one size."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from wgan_sweep.common.ranges import NonEmpty, Range
from wgan_sweep.data.pictures import MODES, PictureReader, as_array, pictures_in
from wgan_sweep.data.store import MAX_SIZE, ImageSet, cached_images, crop_and_resize, file_state
from wgan_sweep.errors import InputError

log = logging.getLogger("wgan_sweep")


@dataclass(frozen=True)
class ImageFolder:
    """All pictures below a folder, sorted by path; the largest central square of each is resized to size x size.

    Args:
        path: The folder; its subfolders are included.
        size: Side of the resized images, in pixels.
        channels: 3 (colour) or 1 (grey).
        flip: Whether batches hold each image or its mirror image, with equal probability.
    """

    path: NonEmpty
    size: Annotated[int, Range(1, MAX_SIZE)]
    channels: int
    flip: bool = False

    def load(self) -> ImageSet:
        """Return the images, uint8 ``[N, size, size, channels]``; they are cached until the folder's files change.

        Raises:
            InputError: if a parameter is out of range, the folder is missing or has no pictures, or a picture cannot be
                read.
        """
        folder = Path(self.path).expanduser()
        if self.channels not in MODES:
            raise InputError(f"data.channels must be 1 (grey) or 3 (colour), got {self.channels}")
        if not folder.is_dir():
            raise InputError(f"data.path={folder} is not a folder: set data.path to a folder of pictures")
        files = pictures_in(folder)
        listing = [(str(file.relative_to(folder)), *file_state(file.stat())) for file in files]
        key = ("folder", str(folder.resolve()), self.size, self.channels, listing)
        reader = PictureReader(self.channels)

        def decode(files: list[Path]) -> Iterator[NDArray[np.uint8]]:
            return (as_array(crop_and_resize(reader(file), self.size)) for file in files)

        images = cached_images(key, lambda: files, decode, reader.notes)
        for note in images.notes:
            log.warning("%s: %s", folder, note)
        return images.with_flips(flip=self.flip)

    def fingerprint(self) -> str:
        """Return the digest of the images; raises the errors of `load`."""
        return self.load().digest
