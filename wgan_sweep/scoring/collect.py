"""From images to one side of a comparison, batch by batch; the real side once per machine."""

import hashlib
import logging
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from wgan_sweep.common.files import cache_dir, replacing
from wgan_sweep.common.progress import log_progress
from wgan_sweep.data import ImageSet
from wgan_sweep.scoring.features import Extract, Extracted, FeatureSpace
from wgan_sweep.scoring.frechet import Accumulator, Statistics
from wgan_sweep.scoring.metrics import Side

log = logging.getLogger(__name__)


def collect(batches: Iterable[Tensor], extract: Extract, *, features: bool, logits: bool = False) -> Side:
    """Return what is known of images; without features kept, memory does not grow with their number.

    Args:
        batches: uint8 images ``[N, C, H, W]``; batches may differ in N, H and W.
        extract: The map to features.
        features: Whether to keep them.
        logits: Whether to keep logits.
    """
    accumulator = Accumulator()
    kept: list[Tensor] = []
    kept_logits: list[Tensor] = []
    for batch in batches:
        found = _fitting(extract, batch)
        accumulator.add(found.features)
        if features:
            kept.append(found.features.float().cpu())
        if logits and found.logits is not None:
            kept_logits.append(found.logits.float().cpu())
    return Side(
        accumulator.statistics(),
        torch.cat(kept) if kept else None,
        torch.cat(kept_logits) if kept_logits else None,
    )


def _fitting(extract: Extract, images: Tensor) -> Extracted:
    """Extract in as few passes as memory allows: halve what does not fit."""
    try:
        return extract(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    torch.cuda.empty_cache()  # does nothing without CUDA
    parts = [_fitting(extract, half) for half in images.split(-(-len(images) // 2))]
    logits = [part.logits for part in parts if part.logits is not None]
    return Extracted(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


def in_batches(images: ImageSet, picked: Iterable[int], batch_size: int) -> Iterator[Tensor]:
    """Yield the picked images as uint8 ``[N, C, H, W]``."""
    order = np.fromiter(picked, np.int64)
    for start in range(0, len(order), batch_size):
        yield torch.from_numpy(images.array[order[start : start + batch_size]]).permute(0, 3, 1, 2)


def picked(images: ImageSet, count: int) -> list[int]:
    """Return which images count: the data may be sorted by class, so not simply the first ones; always the same."""
    total = len(images)
    order = np.arange(total) if count >= total else np.sort(np.random.RandomState(0).permutation(total)[:count])
    return [int(index) for index in order]


def reference(
    images: ImageSet, count: int, space: FeatureSpace, device: torch.device, batch_size: int, *, features: bool
) -> Side:
    """Return the real side: from the cache, or computed and stored there.

    However many processes ask at once, one computes and the others wait for it.

    Args:
        images: The real images.
        count: How many of them count (`picked`).
        space: The feature space.
        device: Where to compute.
        batch_size: Images per pass.
        features: Whether features are needed, too.
    """
    key = repr((images.digest, space.name, space.network, space.resize, count))
    path = cache_dir() / "statistics" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which computes the statistics of the same real images")
        lock.acquire()
    try:
        if (found := _read(path, features=features)) is not None:
            return found
        log.info("computing statistics of %d real images in %s (once per machine)", count, space.name)
        batches = in_batches(images, picked(images, count), batch_size)
        spoken = log_progress(batches, count, lambda text: log.info("statistics of real images: %s", text))
        side = collect(spoken, space.extract(device), features=features)
        if side.features is not None:
            with replacing(_features_of(path)) as temporary, temporary.open("wb") as out:
                np.save(out, side.features.numpy())
        side.statistics.save(path)
        return side
    finally:
        lock.release()


def _features_of(path: Path) -> Path:
    return path.with_suffix(".features.npy")


def _read(path: Path, *, features: bool) -> Side | None:
    try:
        statistics = Statistics.read(path)
        kept = torch.from_numpy(np.load(_features_of(path))) if features else None
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        log.warning("computing %s again: it cannot be read (%s)", path, error)
        return None
    return Side(statistics, kept)
