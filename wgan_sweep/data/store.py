"""Sets of images as uint8 arrays, and their cache on disk."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wgan_sweep.common.cache import cache_dir, cached
from wgan_sweep.common.files import atomic_replacement, write
from wgan_sweep.common.images import grid, to_uint8
from wgan_sweep.common.progress import log_progress
from wgan_sweep.common.reading import read_document
from wgan_sweep.data.batches import Batches
from wgan_sweep.errors import InputError

log = logging.getLogger("wgan_sweep")

NPY_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    MemoryError,
    OverflowError,
    SyntaxError,
)
"""What NumPy and JSON raise for damaged files."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Real images, uint8 ``[N, H, W, C]``; the array may be a memory map."""

    array: NDArray[np.uint8]
    num_pictured: int = 64
    """Number of images in a picture of samples."""
    notes: tuple[str, ...] = ()
    """What there is to say about how the images were read."""
    flip: bool = False
    """Whether batches hold each image or its mirror image, with equal probability."""

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
        return Batches(self.array, batch_size, seed, device, flip=self.flip)

    def with_flips(self, *, flip: bool) -> "ImageSet":
        """Return the same images, whose batches hold flipped images if `flip` is true."""
        flipped = replace(self, flip=flip)
        if "digest" in vars(self):  # it takes a while to compute
            vars(flipped)["digest"] = self.digest
        return flipped

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


def cached_digest(key: object, load: Callable[[], ImageSet]) -> str:
    """Return the digest of images; it is computed once and cached on disk. A damaged entry is replaced.

    Args:
        key: Everything that the images depend on.
        load: Returns the images; called only if the digest is not cached.
    """
    text = repr(key)
    path = digest_folder() / _name(text)
    with suppress(OSError, UnicodeDecodeError):
        digest, _, checksum = path.read_text().partition(" ")
        if checksum == _checksum(digest, text):
            return digest
    digest = load().digest
    with suppress(OSError):  # a cache that cannot be written costs time only; the checksum tells an incomplete entry
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{digest} {_checksum(digest, text)}")
    return digest


def file_state(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file's content: size, inode and times of change, not all of which a copy can keep."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def file_key(file: Path, *parameters: object) -> tuple[object, ...]:
    """Return a key of what is read from a file: its path, size, inode and times of change, and the parameters.

    Args:
        file: The file.
        *parameters: What else the content that is read depends on.
    """
    return str(file.resolve()), *file_state(file.stat()), parameters


def _name(key: str) -> str:
    """Return the name of a cached file: a hash of its key."""
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def _checksum(digest: str, key: str) -> str:
    return hashlib.sha256(f"{digest} {key}".encode()).hexdigest()


MAX_SIZE = 4096
"""The largest side of images, in pixels."""
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


Items = TypeVar("Items", bound=Sized)


def cached_images(
    key: object,
    open_items: Callable[[], Items],
    decode: Callable[[Items], Iterator[NDArray[np.uint8]]],
    notes: Callable[[], list[str]] = list,
) -> ImageSet:
    """Return a set of images, memory-mapped from the cache; if it is not cached, decode it image by image.

    Their digest is stored beside them. A file with another digest, which is damaged, is made again.

    Args:
        key: Everything that the images depend on; the name of the cached file is a hash of its ``repr``.
        open_items: Returns the items to decode, one per image; not called if the images are cached.
        decode: Yields one uint8 array ``[H, W, C]`` per item, all of one shape.
        notes: Returns what there is to say about the images after they were decoded; it is cached with them.

    Raises:
        InputError: if an item cannot be read, or the cache cannot be written.
    """
    path = cache_dir() / "images" / f"{_name(repr(key))}.npy"

    def make() -> ImageSet:
        items = open_items()
        log.info("decoding %d images (once per machine)", len(items))
        try:
            digest = _write_cached(path, _decoded(decode, items), len(items))
            description = json.dumps({"digest": digest, "notes": notes()})
            write(_description_path(path), description)
        except OSError as error:
            raise InputError(
                f"the images cannot be cached in {path.parent} ({error.strerror or error}): make room there, or set "
                "WGAN_SWEEP_CACHE to another folder"
            ) from error
        if (images := _read_cached(path)) is None:
            raise InputError(f"the images that were cached in {path} read back differently: check the disk")
        return images

    return cached(path, "the same images", lambda: _read_cached(path), make)


def _description_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_cached(path: Path) -> ImageSet | None:
    """Return the images of a cached file, or None if it is missing or damaged."""
    try:
        description = json.loads(read_document(_description_path(path)))
        # Copy on write, because torch needs a writable array and the file must not change.
        pixels = np.load(path, mmap_mode="c", allow_pickle=False)
        images = ImageSet(pixels, notes=tuple(map(str, description["notes"])))
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise ValueError(f"it holds {pixels.dtype} {list(pixels.shape)}")
        digest = cached_digest(file_key(path), lambda: images)
        if digest != description["digest"]:
            raise ValueError("the checksum differs")
    except FileNotFoundError:
        return None
    except NPY_ERRORS as error:
        log.warning("decoding the images of %s again, which is damaged (%s)", path, error)
        return None
    images.__dict__["digest"] = digest
    return images


def write_npy_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the start of an npy file, after which the values of an array can be written part by part."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decoded(decode: Callable[[Items], Iterator[NDArray[np.uint8]]], items: Items) -> Iterator[NDArray[np.uint8]]:
    try:
        single = ((image,) for image in decode(items))
        for (image,) in log_progress(single, len(items), lambda text: log.info("decoding images: %s", text)):
            yield image
    except OSError as error:
        raise InputError(f"the images cannot be read ({error}): check their files") from error


def _write_cached(path: Path, images: Iterator[NDArray[np.uint8]], count: int) -> str:
    """Write images as one array, one after the other; return their digest.

    A memory map would kill the process if the disk were full.
    """
    first = next(images, None)
    if first is None:
        raise InputError("the data set has no images: choose another one")
    shape = (count, *first.shape)
    hasher = hashlib.sha256(repr(shape).encode())
    written = 0
    with atomic_replacement(path) as temporary, temporary.open("wb") as file:
        write_npy_header(file, np.dtype(np.uint8), shape)
        for image in chain([first], images):
            if image.dtype != np.uint8 or image.shape != first.shape:
                raise InputError(f"image {written} is {image.dtype} {image.shape}, the first is uint8 {first.shape}")
            pixels = image.tobytes()
            hasher.update(pixels)
            file.write(pixels)
            written += 1
    if written != count:
        raise InputError(f"{written} images were decoded instead of {count}")
    return hasher.hexdigest()
