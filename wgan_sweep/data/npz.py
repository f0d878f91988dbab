"""Any images, as the array ``images`` of an npz file."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wgan_sweep.data.store import ImageSet
from wgan_sweep.errors import InputError

WANTED = "data=npz reads a file with an array 'images' of uint8 [N, H, W, C]"


@dataclass(frozen=True)
class Npz:
    """The array ``images`` (uint8 ``[N, H, W, C]``) of the npz file at `path`."""

    path: str

    def load(self) -> ImageSet:
        """Return the images.

        Raises:
            InputError: if there is no such file, it is no npz, or its array is missing or of another type or shape.
        """
        path = Path(self.path).expanduser()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if "images" not in arrays:
                    raise InputError(f"{path} holds {sorted(arrays)} and no 'images': {WANTED}")
                images = arrays["images"]
        except FileNotFoundError:
            raise InputError(f"there is no file {path}: set data.path to an existing npz; {WANTED}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read as npz ({error}): {WANTED}") from error
        if images.dtype != np.uint8:
            raise InputError(f"'images' in {path} is {images.dtype}, not uint8: {WANTED}; scale to 0..255 and convert")
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(f"'images' in {path} has shape {list(images.shape)}: {WANTED}")
        return ImageSet(images)
