"""A set of images is one uint8 array; what is slow to make is made once per machine."""

import hashlib
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wgan_sweep.common.files import cache_dir, replacing
from wgan_sweep.common.images import grid, to_uint8
from wgan_sweep.data.batches import Batches
from wgan_sweep.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Real images, uint8 ``[N, H, W, C]``; the array may be a memory map."""

    array: NDArray[np.uint8]
    num_pictured: int = 64
    """How many images a picture shows."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as networks see one image."""
        _, height, width, channels = self.array.shape
        return channels, height, width

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Batches:
        """Return endless batches of the images, in [-1, 1].

        Raises:
            InputError: if a batch is larger than the set.
        """
        return Batches(self.array, batch_size, seed, device)

    def finish(self, made: Tensor) -> Tensor:
        """Return what a generator made, as it is compared: uint8."""
        return to_uint8(made)

    def picture(self, made: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:  # noqa: ARG002
        """Lay images out in a grid, uint8 ``[H, W, C]``."""
        return grid(made)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the shape and the bytes, in hex."""
        hasher = hashlib.sha256(repr(self.array.shape).encode())
        for start in range(0, len(self), 4096):
            hasher.update(np.ascontiguousarray(self.array[start : start + 4096]).data)
        return hasher.hexdigest()


Prepare = Callable[[Image.Image, int], Image.Image]


def pad(image: Image.Image, size: int) -> Image.Image:
    """Centre `image` on black of size x size.

    Raises:
        InputError: if the image is larger.
    """
    if max(image.size) > size:
        raise InputError(f"data.size={size} is below the images' own size {max(image.size)}: they are padded, not cut")
    canvas = Image.new(image.mode, (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def crop_and_resize(image: Image.Image, size: int, crop: int | None = None) -> Image.Image:
    """Cut the central `crop` x `crop` (default: the largest square) and resize it to size x size (bicubic)."""
    side = crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), Image.Resampling.BICUBIC)


MODES = {1: "L", 3: "RGB"}


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return a grey or colour picture as uint8 ``[H, W, C]``."""
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


Source = TypeVar("Source", bound=Sized)


def stored_once(
    key: object, source: Callable[[], Source], images: Callable[[Source], Iterator[NDArray[np.uint8]]]
) -> ImageSet:
    """Return a set of images from the cache; the first time, make them one by one and store them there.

    Args:
        key: All that the result depends on; its ``repr`` names the file.
        source: Opens what the images are made from, as many as its length says; not called where the file exists.
        images: Makes uint8 ``[H, W, C]`` arrays of one shape from the source.
    """
    path = cache_dir() / "images" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        opened = source()
        with replacing(path) as temporary:
            target: NDArray[np.uint8] | None = None
            for index, image in enumerate(images(opened)):
                if target is None:
                    shape = (len(opened), *image.shape)
                    target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                target[index] = image
            del target
    # Copy on write: torch wants a writable array, the file must stay as it is.
    return ImageSet(np.load(path, mmap_mode="c"))
