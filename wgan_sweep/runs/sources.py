"""What can stand on either side of a score: a run, a folder of pictures, an npz of images or of statistics."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.runs import checkpoints
from wgan_sweep.config.schema import read
from wgan_sweep.data import Npz
from wgan_sweep.data.folder import pictures_in, read_picture
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.scoring.collect import in_batches
from wgan_sweep.scoring.frechet import Statistics

Batches = Callable[[int], Iterator[Tensor]]


@dataclass(frozen=True)
class Source:
    """One side: images in batches, or statistics alone."""

    name: str
    """What it is, with its count."""
    count: int | None
    """How many images; None where a file of statistics does not say."""
    batches: Batches | None = None
    """From a batch size to uint8 ``[N, 3 or 1, H, W]`` batches; None for statistics."""
    statistics: Statistics | None = None


def open_source(path: Path, *, num_samples: int, seed: int, device: torch.device) -> Source:
    """Return what is at a path.

    Args:
        path: A run's directory, a folder of pictures, or an npz file of images or statistics.
        num_samples: Images that a run generates.
        seed: Of the noise that a run generates from.
        device: Where a run generates.

    Raises:
        InputError: if there is nothing that can be scored.
    """
    if (path / "record.json").is_file():
        return _run(path, num_samples, seed, device)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _npz(path)
    raise InputError(f"there is no {path}: give a run's directory, a folder of pictures or an npz file")


def _npz(path: Path) -> Source:
    names = _array_names(path)
    if "images" in names:
        images = Npz(str(path)).load()
        if images.shape[0] not in (1, 3):
            raise InputError(f"'images' in {path} has {images.shape[0]} channels: 1 (grey) or 3 (colour) can be scored")
        batches = partial(in_batches, images, range(len(images)))
        return Source(f"{len(images)} images of {path}", len(images), batches)
    if {"mean", "covariance", "root", "count"} <= names:
        found = Statistics.read(path)
        return Source(f"statistics of {found.count} images in {path}", found.count, statistics=found)
    if {"mu", "sigma"} <= names:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
        if mean.dim() != 1 or covariance.shape != (len(mean), len(mean)):
            raise InputError(
                f"mu and sigma in {path} have shapes {list(mean.shape)} and {list(covariance.shape)}: [D] and [D, D] "
                "are a file of statistics"
            )
        return Source(
            f"statistics in {path}, which does not say of how many images", None, None, Statistics(mean, covariance, 0)
        )
    raise InputError(
        f"{path} holds {', '.join(sorted(names)) or 'nothing'}: an array `images` (uint8 [N, H, W, C]), or statistics, "
        "`mu` and `sigma` or what wgan-score --save writes, can be scored"
    )


def _array_names(path: Path) -> set[str]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return set(arrays.files)
    except (ValueError, OSError, EOFError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is no npz file ({error}): give one, a folder of pictures, or a run") from error


def _folder(path: Path) -> Source:
    files = pictures_in(path)
    if not files:
        raise InputError(f"{path} holds no pictures and no record.json: give a folder of pictures or a run's directory")

    def batches(size: int) -> Iterator[Tensor]:
        """Neighbours of one shape share a batch: each picture comes to the network at its own size."""
        waiting: list[Tensor] = []
        for file in files:
            picture = torch.from_numpy(np.array(read_picture(file, "RGB"))).permute(2, 0, 1)
            if waiting and (len(waiting) == size or waiting[0].shape != picture.shape):
                yield torch.stack(waiting)
                waiting = []
            waiting.append(picture)
        yield torch.stack(waiting)

    return Source(f"{len(files)} pictures in {path}", len(files), batches)


def _run(path: Path, num_samples: int, seed: int, device: torch.device) -> Source:
    directory = RunDir(path)
    config = read(directory.config)
    config.device = str(device)
    config.scorer = {"_target_": None, "every": 0}
    trainer = build(config).trainer
    state, _ = checkpoints.load(directory.checkpoint)
    if state is None:
        raise InputError(f"the run {path} has no checkpoint yet: let it train, or give another one")
    trainer.load_state_dict(state["trainer"])

    def batches(size: int) -> Iterator[Tensor]:
        sample = trainer.sampler(f"wgan-score/{seed}")
        for start in range(0, num_samples, size):
            images = sample(min(size, num_samples - start))
            if images.dtype != torch.uint8:
                raise InputError(f"the run {path} makes points, not images: their exact scores are in its record")
            yield images

    record = directory.read_record()
    status = f" ({record.status})" if record is not None else ""
    name = f"{num_samples} images by the moving average of run {path.name} at step {trainer.step}{status}"
    return Source(f"{name}, noise of seed {seed}", num_samples, batches)
