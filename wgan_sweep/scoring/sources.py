"""Image sets that can be compared: npz files of images or statistics, and folders of pictures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.data import Npz
from wgan_sweep.data.npz import array_names
from wgan_sweep.data.pictures import PictureReader, pictures_in
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.collect import image_batches
from wgan_sweep.scoring.frechet import Statistics, read_statistics

Batches = Callable[[int], Iterator[Tensor]]


@dataclass(frozen=True)
class Source:
    """A set of images, as batches of images or as statistics only."""

    name: str
    """Description with the number of images."""
    count: int | None
    """Number of images; None if a statistics file does not contain it."""
    batches: Batches | None = None
    """Function from a batch size to uint8 batches ``[N, 3 or 1, H, W]``; None for statistics."""
    statistics: Statistics | None = None
    notes: Callable[[], list[str]] = list
    """Returns what there is to say about the images after the batches were read."""


def open_source(path: Path) -> Source:
    """Open a folder of pictures, or an npz file of images or statistics.

    Raises:
        InputError: if `path` does not exist or has no usable content.
    """
    if path.is_dir():
        return folder_source(path)
    if path.exists():
        return npz_source(path)
    raise InputError(f"there is no {path}: give a run's directory, a folder of pictures or an npz file")


def npz_source(path: Path) -> Source:
    """Open an npz file.

    Args:
        path: A file with an array ``images`` (uint8 ``[N, H, W, C]``), with the arrays that `Statistics.save` writes,
            or with ``mu`` ``[D]`` and ``sigma`` ``[D, D]``, as other FID implementations write them.

    Raises:
        InputError: for a file with other contents.
    """
    names = array_names(path)
    if "images" in names:
        images = Npz(str(path)).load()
        if images.shape[0] not in (1, 3):
            raise InputError(f"'images' in {path} has {images.shape[0]} channels: 1 (grey) or 3 (colour) can be scored")
        batches = partial(image_batches, images, range(len(images)))
        return Source(f"{len(images)} images of {path}", len(images), batches)
    if not names & {"mean", "mu"}:
        raise InputError(
            f"{path} holds {', '.join(sorted(names)) or 'nothing'}: an array `images` (uint8 [N, H, W, C]), or "
            "statistics, `mu` and `sigma` or what wgan-score --save writes, can be scored"
        )
    statistics = read_statistics(path)
    if not statistics.count:
        return Source(f"statistics in {path}, which does not give the number of images", None, None, statistics)
    return Source(f"statistics of {statistics.count} images in {path}", statistics.count, statistics=statistics)


def folder_source(path: Path) -> Source:
    """Open a folder of pictures, its subfolders included; each picture keeps its own size.

    Raises:
        InputError: if there are no pictures, or they are grids of samples of runs. A picture that cannot be read raises
            it when the batches are iterated.
    """
    files = pictures_in(path)
    reader = PictureReader(3)

    def batches(size: int) -> Iterator[Tensor]:
        """Yield batches of consecutive pictures with equal shapes."""
        nonlocal reader
        reader = PictureReader(3)
        batch: list[Tensor] = []
        for file in files:
            picture = torch.from_numpy(np.array(reader(file))).permute(2, 0, 1)
            if batch and (len(batch) == size or batch[0].shape != picture.shape):
                yield torch.stack(batch)
                batch = []
            batch.append(picture)
        yield torch.stack(batch)

    return Source(f"{len(files)} pictures in {path}", len(files), batches, notes=lambda: reader.notes())
