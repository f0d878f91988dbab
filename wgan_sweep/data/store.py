"""Sets of images as uint8 arrays, and their cache on disk."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wgan_sweep.common.files import cache_dir, replacing, write
from wgan_sweep.common.images import grid, to_uint8
from wgan_sweep.data.batches import Batches
from wgan_sweep.errors import InputError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Real images, uint8 ``[N, H, W, C]``; the array may be a memory map."""

    array: NDArray[np.uint8]
    num_pictured: int = 64
    """Number of images in a picture of samples."""
    file: Path | None = None
    """The cached file that the array is mapped from, if any."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image, as the networks see it."""
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

    def to_samples(self, generated: Tensor) -> Tensor:
        """Return the generator's outputs as images that are shown and scored: uint8."""
        return to_uint8(generated)

    def draw_samples(self, samples: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:  # noqa: ARG002
        """Arrange generated images in a grid.

        Args:
            samples: uint8 ``[N, C, H, W]``.
            critic: Not used.

        Returns:
            uint8 ``[H, W, C]``.
        """
        return grid(samples)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the shape and the bytes, in hex."""
        hasher = hashlib.sha256(repr(self.array.shape).encode())
        for start in range(0, len(self), 4096):
            hasher.update(np.ascontiguousarray(self.array[start : start + 4096]).data)
        return hasher.hexdigest()


def digest_folder() -> Path:
    """Return the folder of cached digests."""
    return cache_dir() / "digests"


def cached_digest(file: Path, load: Callable[[], ImageSet], *parameters: object) -> str:
    """Return the digest of the images that are read from a file; it is computed once and cached on disk.

    The key of the cache is the file's path, size, modification time and inode, and the parameters.

    Args:
        file: The file that the images are read from.
        load: Reads the images; called only if the digest is not cached.
        *parameters: Parameters of `load` that the images depend on.
    """
    status = file.stat()
    key = (str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ino, parameters)
    path = digest_folder() / hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    with suppress(OSError):
        if re.fullmatch("[0-9a-f]{64}", cached := path.read_text()):
            return cached
    digest = load().digest
    with suppress(OSError):  # a cache that cannot be written costs time only
        write(path, digest)
    return digest


Prepare = Callable[[Image.Image, int], Image.Image]


def pad(image: Image.Image, size: int) -> Image.Image:
    """Pad `image` with black to size x size, centred.

    Raises:
        InputError: if the image is larger.
    """
    if max(image.size) > size:
        raise InputError(
            f"data.size={size} is smaller than the images ({max(image.size)} pixels): they are padded, not cropped"
        )
    canvas = Image.new(image.mode, (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def crop_and_resize(image: Image.Image, size: int, crop: int | None = None) -> Image.Image:
    """Crop the central `crop` x `crop` square (default: the largest one) and resize it to size x size (bicubic)."""
    side = crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), Image.Resampling.BICUBIC)


MODES = {1: "L", 3: "RGB"}
"""Modes of Pillow by number of channels."""


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a grey or colour picture to uint8 ``[H, W, C]``."""
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


Items = TypeVar("Items", bound=Sized)


def cached_images(
    key: object, open_items: Callable[[], Items], decode: Callable[[Items], Iterator[NDArray[np.uint8]]]
) -> ImageSet:
    """Return a set of images, memory-mapped from the cache; if it is not cached, decode it image by image.

    Args:
        key: Everything that the images depend on; the name of the cached file is a hash of its ``repr``.
        open_items: Returns the items to decode, one per image; not called if the images are cached.
        decode: Yields one uint8 array ``[H, W, C]`` per item, all of one shape.
    """
    path = cache_dir() / "images" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        items = open_items()
        with replacing(path) as temporary:
            target: NDArray[np.uint8] | None = None
            for index, image in enumerate(decode(items)):
                if target is None:
                    shape = (len(items), *image.shape)
                    target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                target[index] = image
            del target
    # Copy on write, because torch needs a writable array and the file must not change.
    return ImageSet(np.load(path, mmap_mode="c"), file=path)
