"""Features of image sets, computed batch by batch; those of real images are cached on disk."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.common.cache import cache_dir, cached, is_being_made
from wgan_sweep.common.files import atomic_replacement
from wgan_sweep.common.progress import log_progress
from wgan_sweep.data import ImageSet
from wgan_sweep.data.npz import read_arrays
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.features import Extract, Extracted, FeatureSpace
from wgan_sweep.scoring.frechet import Statistics, add_to_moments, no_moments, read_statistics, statistics_from

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The statistics of the features of a set of images, and the features where they are needed."""

    statistics: Statistics
    features: Tensor | None = None
    """``[N, D]``, float32, on the CPU."""


def collect(
    batches: Iterable[Tensor],
    extract: Extract,
    *,
    features: bool,
    each: Callable[[int, Tensor, Extracted], None] = lambda *_: None,
) -> FeatureSet:
    """Return the statistics of a set of images, and their features on request.

    Without features, memory does not grow with the number of images.

    Args:
        batches: uint8 images ``[N, C, H, W]``; batches may differ in N, H and W.
        extract: Maps images to features.
        features: Whether to return the features.
        each: Called with the index of each batch, the batch, and what was extracted from it.
    """
    moments = no_moments()
    feature_batches: list[Tensor] = []
    for index, batch in enumerate(batches):
        extracted = extract_in_parts(extract, batch)
        moments = add_to_moments(moments, extracted.features)
        if features:
            feature_batches.append(extracted.features.float().cpu())
        each(index, batch, extracted)
    return FeatureSet(statistics_from(moments), torch.cat(feature_batches) if feature_batches else None)


def extract_in_parts(extract: Extract, images: Tensor) -> Extracted:
    """Extract features; if the batch does not fit into GPU memory, halve it until it does."""
    try:
        return extract(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    torch.cuda.empty_cache()  # does nothing without CUDA
    parts = [extract_in_parts(extract, half) for half in images.split(-(-len(images) // 2))]
    logits = [part.logits for part in parts if part.logits is not None]
    return Extracted(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


def image_batches(images: ImageSet, indices: Iterable[int], batch_size: int) -> Iterator[Tensor]:
    """Yield the images at `indices` as uint8 batches ``[N, C, H, W]``."""
    order = np.fromiter(indices, np.int64)
    for start in range(0, len(order), batch_size):
        yield torch.from_numpy(images.array[order[start : start + batch_size]]).permute(0, 3, 1, 2)


def reference_indices(images: ImageSet, count: int) -> list[int]:
    """Return the sorted indices of `count` images: a fixed random choice, because data may be sorted by class."""
    total = len(images)
    order = np.arange(total) if count >= total else np.sort(np.random.RandomState(0).permutation(total)[:count])
    return [int(index) for index in order]


def real_features(
    images: ImageSet, count: int, space: FeatureSpace, device: torch.device, batch_size: int, *, features: bool
) -> FeatureSet:
    """Return statistics, and features on request, of real images: read from the cache, or computed and cached.

    One of several concurrent processes computes them. If they cannot be cached, each does.

    Args:
        images: The real images.
        count: How many of them to use (see `reference_indices`).
        space: The feature space.
        device: Where to compute.
        batch_size: Images per forward pass.
        features: Whether to return the features.
    """
    path = _statistics_path(images, count, space)

    def make() -> FeatureSet:
        log.info("computing statistics of %d real images in %s (once per machine)", count, space.name)
        batches = image_batches(images, reference_indices(images, count), batch_size)
        logged_batches = log_progress(batches, count, lambda text: log.info("statistics of real images: %s", text))
        computed = collect(logged_batches, space.extract(device), features=features)
        try:
            if computed.features is not None:
                with atomic_replacement(_features_path(path)) as temporary, temporary.open("wb") as out:
                    np.savez(out, features=computed.features.numpy())
            computed.statistics.save(path)
        except OSError as error:
            log.warning("the statistics of the real images cannot be cached in %s: %s", path.parent, error)
        return computed

    return cached(path, "the statistics of the same real images", lambda: _read_cached(path, features=features), make)


def real_features_are_being_computed(images: ImageSet, count: int, space: FeatureSpace) -> bool:
    """Return whether another process computes what `real_features` would compute."""
    return is_being_made(_statistics_path(images, count, space))


def _statistics_path(images: ImageSet, count: int, space: FeatureSpace) -> Path:
    key = repr((images.digest, space.name, space.network, space.resize, count))
    return cache_dir() / "statistics" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def _features_path(path: Path) -> Path:
    return path.with_suffix(".features.npz")


def _read_cached(path: Path, *, features: bool) -> FeatureSet | None:
    """Return cached statistics, whose files contain checksums; None if they are missing or damaged."""
    try:
        statistics = read_statistics(path)
        values = read_arrays(_features_path(path), ["features"])["features"] if features else None
    except FileNotFoundError:
        return None
    except InputError as error:
        log.warning("recomputing cached statistics: %s", error)
        return None
    return FeatureSet(statistics, None if values is None else torch.from_numpy(values))
