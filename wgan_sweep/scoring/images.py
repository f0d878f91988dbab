"""Scores of generated images against real ones, in a feature space."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.collect import collect, reference
from wgan_sweep.scoring.features import FeatureSpace
from wgan_sweep.scoring.metrics import Metric, Side
from wgan_sweep.scoring.players import Players


class ImageScorer:
    """Metrics of a generator against a set of real images.

    Args:
        real: The real images.
        device: Where the network runs.
        features: The feature space.
        metrics: What is computed, by any name.
        num_samples: Images generated per score; FID falls as it grows, so compare at equal counts only.
        num_real: Real images that count, picked at random but always the same; all where there are fewer, or for null.
        split: Which split of the data the real images are of; said beside every score.
        repeats: Independent sets of generated images; scores are means over them.
        batch_size: Images per pass through the network.

    Raises:
        InputError: for a setting out of range, or if the network cannot be had.
    """

    def __init__(
        self,
        *,
        real: ImageSet,
        device: torch.device,
        features: FeatureSpace,
        metrics: Mapping[str, Metric],
        num_samples: int,
        num_real: int | None,
        split: str,
        repeats: int,
        batch_size: int,
    ) -> None:
        if not isinstance(real, ImageSet):
            raise InputError("FID is for images, this data is points: use scorer=exact")
        if num_samples < 2:
            raise InputError(f"scorer.num_samples must be 2 or more, got {num_samples}")
        if num_real is not None and num_real < 2:
            raise InputError(f"scorer.num_real must be 2 or more, or null for all, got {num_real}")
        if batch_size < 1 or repeats < 1:
            raise InputError(f"scorer.batch_size and scorer.repeats must be 1 or more, got {batch_size} and {repeats}")
        if not metrics:
            raise InputError("scorer.metrics names no metric: give one, or use scorer=none")
        if real.shape[0] not in (1, 3):
            raise InputError(
                f"FID is for grey or colour images, the data has {real.shape[0]} channels: use scorer=none"
            )
        self._real = real
        self._device = device
        self._space = features
        self._metrics = list(metrics.values())
        self._num_samples = num_samples
        self._num_real = min(num_real or len(real), len(real))
        self._split = split
        self._repeats = repeats
        self._batch_size = batch_size
        self._needs_features = any(metric.needs_features for metric in self._metrics)
        self._needs_logits = any(metric.needs_logits for metric in self._metrics)
        for metric in self._metrics:
            metric.check(num_samples, self._num_real)
        features.check(logits=self._needs_logits)

    def describe(self) -> dict[str, str]:
        """Return what a score says only together with: features, network, resize, real images, and their counts."""
        return {
            "features": self._space.name,
            "network": self._space.network,
            "resize": self._space.resize,
            "real": f"{self._split}, {self._num_real} of {len(self._real)}",
            "generated": f"{self._num_samples}" + (f", {self._repeats} times" if self._repeats > 1 else ""),
        }

    def prepare(self) -> None:
        """Compute the real side, or read it: done before training, so that nothing fails after it."""
        _ = self._reference

    def __call__(self, sample: Callable[[int], Tensor], players: Players | None = None) -> dict[str, float]:  # noqa: ARG002
        """Return scores with ``fid_feature`` (dimensions), ``fid_generated`` and ``fid_real`` (counts).

        Args:
            sample: Makes the next N uint8 images ``[N, C, H, W]``.
            players: Not looked at.
        """
        extract = self._space.extract(self._device, logits=self._needs_logits)
        found: list[dict[str, float]] = []
        for _ in range(self._repeats):
            batches = (sample(count) for count in self._batch_counts())
            side = collect(batches, extract, features=self._needs_features, logits=self._needs_logits)
            scores: dict[str, float] = {}
            for metric in self._metrics:
                scores |= metric(self._reference, side)
            found.append(scores)
        result = {name: statistics.fmean(scores[name] for scores in found) for name in found[0]}
        if self._repeats > 1:
            spread = {f"{name}_repeat_sd": statistics.stdev(s[name] for s in found) for name in found[0]}
            result |= {**spread, "repeats": float(self._repeats)}
        return {
            **result,
            "fid_feature": self._reference.statistics.mean.numel(),
            "fid_generated": self._num_samples,
            "fid_real": self._num_real,
        }

    def _batch_counts(self) -> Iterator[int]:
        for start in range(0, self._num_samples, self._batch_size):
            yield min(self._batch_size, self._num_samples - start)

    @cached_property
    def _reference(self) -> Side:
        return reference(
            self._real, self._num_real, self._space, self._device, self._batch_size, features=self._needs_features
        )
