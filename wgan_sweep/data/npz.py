"""Images stored as the array ``images`` of an npz file."""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from wgan_sweep.common.ranges import NonEmpty
from wgan_sweep.data.store import ImageSet, cached_digest, file_key
from wgan_sweep.errors import InputError, one_line

EXPECTED = "data=npz reads a file with an array 'images' of uint8 [N, H, W, C]"
NPZ_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, tokenize.TokenError),
    *(OSError, ValueError, TypeError, EOFError, KeyError, AttributeError, IndexError, SyntaxError),
    *(MemoryError, OverflowError, NotImplementedError, RuntimeError),
)
"""What NumPy and zipfile raise for damaged files, and for files that are not npz."""


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open an npz file; arrays of Python objects, which would run code, are refused.

    Raises:
        FileNotFoundError: if there is no file.
        InputError: if it is not an npz file, or damaged; also for errors in the block.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait
        raise InputError(f"{path} is not a regular file: give an npz file")
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, NpzFile):
                raise InputError(f"{path} holds a single array (npy): save it with numpy.savez")  # noqa: TRY301
            with arrays:
                yield arrays
    except (FileNotFoundError, InputError):
        raise
    except NPZ_ERRORS as error:
        raise InputError(
            f"{path} cannot be read as npz ({one_line(error)}): give another file, or save it again"
        ) from error


def array_names(path: Path) -> set[str]:
    """Return the names of the arrays of an npz file; raises the errors of `open_npz`."""
    with open_npz(path) as arrays:
        return set(arrays.files)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of an npz file by name; their checksums are verified. Raises the errors of `open_npz`."""
    with open_npz(path) as arrays:
        return {name: arrays[name] for name in names}


@dataclass(frozen=True)
class Npz:
    """The array ``images`` (uint8 ``[N, H, W, C]``) of an npz file.

    Args:
        path: The file.
        flip: Whether batches hold each image or its mirror image, with equal probability.
    """

    path: NonEmpty
    flip: bool = False

    def load(self) -> ImageSet:
        """Return the images.

        Raises:
            InputError: if the file is missing or not an npz file, or the array is missing or has another type or shape.
        """
        path = Path(self.path).expanduser()
        try:
            with open_npz(path) as arrays:
                if "images" not in arrays:
                    raise InputError(f"{path} holds {sorted(arrays)} and no 'images': {EXPECTED}")
                images = arrays["images"]
        except FileNotFoundError:
            raise InputError(f"there is no file {path}: set data.path to an existing npz file; {EXPECTED}") from None
        if images.dtype != np.uint8:
            raise InputError(
                f"'images' in {path} is {images.dtype}, not uint8: {EXPECTED}; scale to 0..255 and convert"
            )
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(f"'images' in {path} has shape {list(images.shape)}: {EXPECTED}")
        return ImageSet(images, flip=self.flip)

    def fingerprint(self) -> str:
        """Return the digest of the images; raises the errors of `load`."""
        try:
            return cached_digest(file_key(Path(self.path).expanduser()), self.load)
        except OSError:  # the file's status cannot be read: `load` says why
            return self.load().digest
