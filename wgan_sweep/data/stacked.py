"""Stacked images: colour images whose channels are grey images that were drawn at random (Metz et al. 2017)."""

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np

from wgan_sweep.common.ranges import LARGEST_INT, Range
from wgan_sweep.data.store import ImageSet, cached_digest
from wgan_sweep.errors import InputError


class GreyImages(Protocol):
    """Data whose images have one channel."""

    def load(self) -> ImageSet:
        """Return the images, uint8 ``[N, H, W, 1]``."""


@dataclass(frozen=True)
class Stacked:
    """Colour images of three grey ones each, drawn independently: of 10 digits, there are 1,000 combinations.

    The same count draws the same images, in any run.

    Args:
        images: Data of grey images.
        count: Number of stacked images.
        flip: Whether batches hold each image or its mirror image, with equal probability.
    """

    images: GreyImages
    count: Annotated[int, Range(1, LARGEST_INT)]
    flip: bool = False

    def load(self) -> ImageSet:
        """Return the stacked images, uint8 ``[count, H, W, 3]``.

        Raises:
            InputError: if the images to stack are not grey; also the errors of their data.
        """
        grey = self.images.load()
        if grey.shape[0] != 1:
            raise InputError(f"data.images has {grey.shape[0]} channels: only grey images can be stacked")
        drawn = np.random.RandomState(0).randint(len(grey), size=(self.count, 3))
        return ImageSet(np.concatenate([grey.array[drawn[:, channel]] for channel in range(3)], axis=3), flip=self.flip)

    def fingerprint(self) -> str:
        """Return the digest of the images; raises the errors of `load`."""
        return cached_digest(("stacked", self.images.load().digest, self.count), self.load)
