"""FID: the Frechet distance between InceptionV3 features of real and of generated images (Heusel et al. 2017)."""

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.files import cache_dir
from wgan_sweep.scoring.frechet import Accumulator, Statistics, frechet_distance
from wgan_sweep.scoring.inception import FEATURES, inception
from wgan_sweep.scoring.players import Players
from wgan_sweep.scoring.weights import find

log = logging.getLogger(__name__)


class FIDScorer:
    """FID of a generator against a set of real images.

    Args:
        real: The real images.
        device: Where the network runs.
        feature: Which features: 2048 (the FID of the literature), 768, 192 or 64 (cheaper, on another scale).
        num_samples: Images generated per score; FID falls as it grows, so compare at equal counts only.
        num_real: Real images that count, picked at random but always the same; all where there are fewer, or for null.
        batch_size: Images per pass through the network.
        weights: The network's file; null to find it (see `scoring.weights`).

    Raises:
        InputError: for a setting out of range, or if the network cannot be had.
    """

    def __init__(
        self,
        *,
        real: ImageSet,
        device: torch.device,
        feature: int,
        num_samples: int,
        num_real: int | None,
        batch_size: int,
        weights: str | None,
    ) -> None:
        if not isinstance(real, ImageSet):
            raise InputError("FID is for images, this data is points: use scorer=exact")
        if feature not in FEATURES:
            raise InputError(f"scorer.feature={feature}: choose one of {', '.join(map(str, FEATURES))}")
        if num_samples < 2:
            raise InputError(f"scorer.num_samples must be 2 or more, got {num_samples}")
        if num_real is not None and num_real < 2:
            raise InputError(f"scorer.num_real must be 2 or more, or null for all, got {num_real}")
        if batch_size < 1:
            raise InputError(f"scorer.batch_size must be 1 or more, got {batch_size}")
        if real.shape[0] not in (1, 3):
            raise InputError(
                f"FID is for grey or colour images, the data has {real.shape[0]} channels: use scorer=none"
            )
        self._real = real
        self._device = device
        self._feature = feature
        self._num_samples = num_samples
        self._num_real = min(num_real or len(real), len(real))
        self._batch_size = batch_size
        self._weights = find(weights)

    def prepare(self) -> None:
        """Compute the real statistics, or read them: done before training, so that nothing fails after it."""
        _ = self._reference

    def __call__(self, sample: Callable[[int], Tensor], players: Players | None = None) -> dict[str, float]:  # noqa: ARG002
        """Return ``fid`` with its features and both counts; `sample` makes the next N uint8 ``[N, C, H, W]``."""
        generated = (sample(count) for count in self._batch_counts(self._num_samples))
        return {
            "fid": frechet_distance(self._reference, self._statistics(generated)),
            "fid_feature": self._feature,
            "fid_generated": self._num_samples,
            "fid_real": self._num_real,
        }

    def _batch_counts(self, total: int) -> Iterator[int]:
        for start in range(0, total, self._batch_size):
            yield min(self._batch_size, total - start)

    def _statistics(self, batches: Iterator[Tensor]) -> Statistics:
        network = inception(self._weights, self._feature, self._device)
        accumulator = Accumulator()
        for batch in batches:
            accumulator.add(network(batch))
        return accumulator.statistics()

    def _picked(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return which real images count: the data may be sorted by class, so not simply the first ones."""
        total = len(self._real)
        if self._num_real == total:
            return np.arange(total)
        return np.sort(np.random.RandomState(0).permutation(total)[: self._num_real])

    @cached_property
    def _reference(self) -> Statistics:
        key = repr((self._real.digest, self._weights.sha256, self._feature, self._num_real))
        path = cache_dir() / "statistics" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        try:
            return Statistics.read(path)
        except FileNotFoundError:
            pass
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
            log.warning("computing %s again: it cannot be read (%s)", path, error)
        log.info("computing FID statistics of %d real images (once per machine)", self._num_real)
        picked = self._picked()
        batches = (
            torch.from_numpy(self._real.array[part]).permute(0, 3, 1, 2)
            for part in np.array_split(picked, range(self._batch_size, len(picked), self._batch_size))
        )
        found = self._statistics(batches)
        found.save(path)
        return found
