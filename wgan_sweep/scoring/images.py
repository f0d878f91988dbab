"""Scores generated images against real ones in a feature space."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Protocol, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from wgan_sweep.common.ranges import LARGEST_INT, Count, Range
from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.collect import (
    FeatureSet,
    extract_in_parts,
    image_batches,
    real_features,
    real_features_are_being_computed,
    reference_indices,
)
from wgan_sweep.scoring.features import Extracted, FeatureSpace
from wgan_sweep.scoring.metric_updates import (
    check_metrics,
    compute,
    consumed,
    contribute,
    needs_features,
    needs_images,
    needs_logits,
    takes_real,
    update_with_batch,
    update_with_features,
    update_with_nothing,
)
from wgan_sweep.scoring.players import Players


class _Skipping(Protocol):
    """A stream of samples that need not all be generated."""

    def skip(self, count: int) -> None:
        """Leave out the next `count` samples."""


class ImageScorer:
    """Computes metrics of a generator against a set of real images.

    Args:
        real: The real images.
        device: Device of the feature network.
        features: The feature space.
        metrics: The metrics to compute. The key names the values of a metric that does not name them itself.
        num_samples: Generated images per evaluation. FID decreases as it grows, so only values with equal counts are
            comparable.
        num_real: Real images to use, a fixed random choice; null, or a number above their count, uses all of them.
        split: The data split of the real images; reported with every score.
        repeats: Number of independent sets of generated images; metric values are means over them.
        batch_size: Images per forward pass of the feature network.

    Raises:
        InputError: for points, images that are not grey or colour, or too few of them for a metric; if no metric is
            named, or the feature network's weights are unavailable.
    """

    def __init__(
        self,
        *,
        real: ImageSet,
        device: torch.device,
        features: FeatureSpace,
        metrics: Mapping[str, Metric],
        num_samples: Annotated[int, Range(2, LARGEST_INT)],
        num_real: Annotated[int, Range(2, LARGEST_INT, remedy="null takes all")] | None,
        split: str,
        repeats: Count,
        batch_size: Count,
    ) -> None:
        if not isinstance(real, ImageSet):
            raise InputError("FID is for images, this data is points: use scorer=exact")
        if not metrics:
            raise InputError("scorer.metrics names no metric: give one, or use scorer=none")
        if real.shape[0] not in (1, 3):
            raise InputError(
                f"FID is for grey or colour images, the data has {real.shape[0]} channels: use scorer=none"
            )
        self._real = real
        self._device = device
        self._space = features
        self._metrics = dict(metrics)
        self._num_samples = num_samples
        self._num_real = min(num_real or len(real), len(real))
        self._split = split
        self._repeats = repeats
        self._batch_size = batch_size
        check_metrics(self._metrics, num_samples, self._num_real, getattr(features, "dimensions", None))
        names: list[Sequence[str]] = [getattr(metric, "names", ()) for metric in self._metrics.values()]
        self.measures = frozenset(name for some in names for name in some) if all(names) else None
        """The names of the metric values; None if one of `metrics` does not say what its own are."""
        self._uses_network = any(consumed(metric) != "images" for metric in self._metrics.values())
        for metric in self._metrics.values():
            if hasattr(metric, "reset_real_features"):  # as torchmetrics' FID: the real images stay the same
                metric.reset_real_features = False
        self._knows_real: set[str] = set()
        """The keys of the metrics that have been given the real images, and keep them."""
        features.check(logits=needs_logits(self._metrics))

    def describe(self) -> dict[str, str]:
        """Return the settings that metric values depend on: features, network, resize rule, images and their counts."""
        return {
            "features": self._space.name,
            "network": self._space.network,
            "resize": self._space.resize,
            "real": f"{self._split}, {self._num_real} of {len(self._real)}",
            "generated": f"{self._num_samples}" + (f", {self._repeats} times" if self._repeats > 1 else ""),
        }

    def prepare(self) -> None:
        """Load or compute the features of the real images, so that errors appear before training.

        If another process computes them, this one does not wait: it reads them when it scores.
        """
        if self._uses_network and not real_features_are_being_computed(self._real, self._num_real, self._space):
            _ = self._real_features

    def is_shared_by(self, processes: int) -> bool:
        """Return whether several processes can score together: each must get a batch, and all metrics allow it."""
        batches = -(-self._num_samples // self._batch_size)
        return 1 < processes <= batches and all(
            getattr(metric, "shardable", False) for metric in self._metrics.values()
        )

    def __call__(
        self,
        sample: Callable[[int], Tensor],
        players: Players | None = None,  # noqa: ARG002
        part: tuple[int, int] = (0, 1),
    ) -> dict[str, float]:
        """Return metric values by name.

        ``fid_feature`` is the number of feature dimensions, if a metric uses them; ``fid_generated`` and ``fid_real``
        are the image counts. With several repeats, ``<metric>_repeat_sd`` and ``repeats`` are added.

        Args:
            sample: Returns the next N generated images, uint8 ``[N, C, H, W]``; with several processes, it also has
                a method `skip`.
            players: Not used.
            part: Rank of this process and number of processes that call this together, if `is_shared_by` says so. Each
                generates a part of the same images; the result is that of one process, up to rounding, in the process
                of rank 0, and empty in the other ones.

        Raises:
            InputError: if a metric cannot be computed from these images.
        """
        extract = None
        if self._uses_network:
            extract = self._space.extract(self._device, logits=needs_logits(self._metrics))
        rank, processes = part
        for metric in self._metrics.values():
            metric.to(self._device)
            for part_of_metric in metric.modules():  # a metric may wrap another one
                if isinstance(part_of_metric, Metric):
                    part_of_metric.distributed_available_fn = partial(bool, processes > 1)
            if processes > 1 and self._device.type == "cuda":
                metric.compute_on_cpu = False  # NCCL exchanges what is on GPUs
        sizes = list(self._batch_sizes())
        first, end = (len(sizes) * number // processes for number in (rank, rank + 1))
        repetitions: list[dict[str, float]] = []
        for _ in range(self._repeats):
            for metric in self._metrics.values():
                metric.reset()
            if rank == 0:
                self._update_with_real()
            if processes > 1:
                cast("_Skipping", sample).skip(sum(sizes[:first]))
            for index in range(first, end):
                images = sample(sizes[index])
                extracted = extract_in_parts(extract, images) if extract else None
                update_with_batch(self._metrics, index, images, extracted, device=self._device, real=False)
                if rank and index == first:
                    self._update_with_nothing(images, extracted)
            if processes > 1:
                cast("_Skipping", sample).skip(sum(sizes[end:]))
            if rank:
                contribute(self._metrics)
            else:
                repetitions.append(compute(self._metrics))
        if rank:
            return {}
        names = [name for name in repetitions[0] if all(name in scores for scores in repetitions)]
        result = {name: statistics.fmean(scores[name] for scores in repetitions) for name in names}
        if self._repeats > 1:
            for name in names:
                result[f"{name}_repeat_sd"] = statistics.stdev(scores[name] for scores in repetitions)
            result["repeats"] = float(self._repeats)
        if self._uses_network:
            result["fid_feature"] = self._real_features.statistics.mean.numel()
        return {**result, "fid_generated": self._num_samples, "fid_real": self._num_real}

    def _batch_sizes(self) -> Iterator[int]:
        for start in range(0, self._num_samples, self._batch_size):
            yield min(self._batch_size, self._num_samples - start)

    def _update_with_real(self) -> None:
        """Give the real images to the metrics that do not know them."""
        waiting = self._without_real()
        if any(consumed(metric) == "features" and takes_real(metric) for metric in waiting.values()):
            update_with_features(waiting, self._real_features, real=True)
        of_images = {key: metric for key, metric in waiting.items() if consumed(metric) != "features"}
        if needs_images(of_images, "real"):
            extract = self._space.extract(self._device, logits=True) if needs_logits(of_images) else None
            indices = reference_indices(self._real, self._num_real)
            for index, images in enumerate(image_batches(self._real, indices, self._batch_size)):
                extracted = extract_in_parts(extract, images) if extract else None
                update_with_batch(of_images, index, images, extracted, device=self._device, real=True)
        self._note_real(waiting)

    def _update_with_nothing(self, images: Tensor, extracted: Extracted | None) -> None:
        """Give no real images to the metrics, in a process that another one gives them in."""
        waiting = self._without_real()
        update_with_nothing(waiting, images, extracted, device=self._device)
        self._note_real(waiting)

    def _without_real(self) -> dict[str, Metric]:
        """Return the metrics that do not know the real images."""
        return {key: metric for key, metric in self._metrics.items() if key not in self._knows_real}

    def _note_real(self, updated: Mapping[str, Metric]) -> None:
        """Note which of the metrics that were given the real images keep them when they are reset."""
        self._knows_real |= {key for key, metric in updated.items() if not getattr(metric, "reset_real_features", True)}

    @cached_property
    def _real_features(self) -> FeatureSet:
        features = needs_features(self._metrics, "real")
        return real_features(self._real, self._num_real, self._space, self._device, self._batch_size, features=features)
