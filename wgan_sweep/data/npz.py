"""Images stored as the array ``images`` of an npz file."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wgan_sweep.data.store import ImageSet, cached_digest
from wgan_sweep.errors import InputError

EXPECTED = "data=npz reads a file with an array 'images' of uint8 [N, H, W, C]"


@dataclass(frozen=True)
class Npz:
    """The array ``images`` (uint8 ``[N, H, W, C]``) of the npz file at `path`."""

    path: str

    def load(self) -> ImageSet:
        """Return the images.

        Raises:
            InputError: if the file is missing or not an npz file, or the array is missing or has another type or shape.
        """
        path = Path(self.path).expanduser()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if "images" not in arrays:
                    raise InputError(f"{path} holds {sorted(arrays)} and no 'images': {EXPECTED}")
                images = arrays["images"]
        except FileNotFoundError:
            raise InputError(f"there is no file {path}: set data.path to an existing npz file; {EXPECTED}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read as npz ({error}): {EXPECTED}") from error
        if images.dtype != np.uint8:
            raise InputError(
                f"'images' in {path} is {images.dtype}, not uint8: {EXPECTED}; scale to 0..255 and convert"
            )
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(f"'images' in {path} has shape {list(images.shape)}: {EXPECTED}")
        return ImageSet(images)

    def fingerprint(self) -> str:
        """Return the digest of the images; raises the errors of `load`."""
        try:
            return cached_digest(Path(self.path).expanduser(), self.load)
        except OSError:  # the file's status cannot be read: `load` says why
            return self.load().digest
