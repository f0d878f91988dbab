"""Writing generated examples to files, batch by batch: as an npz file, or as a folder of pictures."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from wgan_sweep.common.files import atomic_replacement, check_output, check_writable, umask
from wgan_sweep.common.pictures import png
from wgan_sweep.data.pictures import SUFFIXES
from wgan_sweep.data.store import write_npy_header
from wgan_sweep.errors import InputError

DIGITS = 5
"""Of the numbers by which pictures are named; more for more than 100,000 pictures."""


def check_destination(path: Path, key: str) -> None:
    """Check that `write_samples` can write to a path.

    Raises:
        InputError: if not; the message names `key`, the option of the path.
    """
    if path.suffix == ".npz":
        check_output(path, key)
        return
    if path.suffix.lower() in {*SUFFIXES, ".npy", ".pt", ".zip"}:
        raise InputError(f"{key} {path}: samples are written to FILE.npz or to a folder of pictures; give one of them")
    if path.exists() and not path.is_dir():
        raise InputError(f"{key} {path} is a file: give FILE.npz, or a folder")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{key} {path} is not empty: give a new folder, so that it holds nothing but the samples")
    check_writable(path, key)


def write_samples(path: Path, batches: Iterable[Tensor], count: int) -> None:
    """Write samples to an npz file or a folder. It appears when it is complete; memory does not grow with the count.

    Args:
        path: A file ``.npz``, which gets the array ``images`` (uint8 ``[N, H, W, C]``) or ``points`` (float32
            ``[N, D]``); or a folder, which gets the pictures ``00000.png``, ...
        batches: uint8 images ``[N, C, H, W]``, or points ``[N, D]``, on the CPU.
        count: How many there are in all batches.

    Raises:
        InputError: for points, or images that are neither grey nor colour, to a folder.
    """
    if path.suffix == ".npz":
        _write_npz(path, batches, count)
    else:
        _write_folder(path, batches, count)


def _write_npz(path: Path, batches: Iterable[Tensor], count: int) -> None:
    with atomic_replacement(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        remaining = iter(batches)
        first = next(remaining)
        name = "images" if first.ndim == 4 else "points"
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            values = _channels_last(first).numpy()
            write_npy_header(file, values.dtype, (count, *values.shape[1:]))
            file.write(values.tobytes())
            for batch in remaining:
                file.write(_channels_last(batch).numpy().tobytes())


def _channels_last(batch: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` as ``[N, H, W, C]``; points as they are."""
    return batch.permute(0, 2, 3, 1) if batch.ndim == 4 else batch


def _write_folder(path: Path, batches: Iterable[Tensor], count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    digits = max(DIGITS, len(str(count - 1)))
    written = 0
    try:
        for batch in batches:
            if batch.ndim != 4 or batch.shape[1] not in (1, 3):
                raise InputError(
                    f"samples of shape {list(batch.shape[1:])} are not grey or colour pictures: write them to FILE.npz"
                )
            for picture in _channels_last(batch).numpy():
                (temporary / f"{written:0{digits}}.png").write_bytes(png(picture))
                written += 1
        temporary.chmod(0o777 & ~umask())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
