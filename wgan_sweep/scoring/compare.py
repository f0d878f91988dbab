"""Compares two sets of images by metrics in a feature space."""

from dataclasses import dataclass
from functools import partial

import torch

from wgan_sweep.common.progress import show_progress
from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.collect import FeatureSet, collect
from wgan_sweep.scoring.features import FeatureSpace
from wgan_sweep.scoring.metric_updates import (
    Metrics,
    check_metrics,
    compute,
    consumed,
    needs_features,
    needs_images,
    needs_logits,
    update_with_batch,
    update_with_features,
)
from wgan_sweep.scoring.sources import Source


@dataclass(frozen=True)
class Comparison:
    """Metric values between two sets of images, and the features that they were computed from."""

    scores: dict[str, float]
    """Metric values by name."""
    real: FeatureSet
    fake: FeatureSet


def space_identity(space: FeatureSpace) -> str:
    """Return a string that identifies a feature space; saved statistics contain it."""
    return f"{space.name}, network {space.network}"


def compare(
    real: Source,
    fake: Source,
    metrics: Metrics,
    space: FeatureSpace,
    device: torch.device,
    batch_size: int,
    verbosity: Verbosity = Verbosity.NORMAL,
) -> Comparison:
    """Compute metrics between two sets of images.

    Args:
        real: The real images.
        fake: The generated images.
        metrics: The metrics to compute.
        space: The feature space.
        device: Device of the feature network.
        batch_size: Images per forward pass.
        verbosity: Whether progress is shown.

    Raises:
        InputError: if a metric cannot be computed from these sources.
    """
    check_counts(real, fake, metrics, space)
    space.check(logits=needs_logits(metrics))
    for label, source in (("REAL", real), ("FAKE", fake)):
        _check_space(label, source, space)
    for metric in metrics.values():
        metric.to(device)
    extract = space.extract(device, logits=needs_logits(metrics))
    sets: list[FeatureSet] = []
    for source, is_real in ((real, True), (fake, False)):
        side = "real" if is_real else "generated"
        if source.batches is None and source.statistics is not None:
            images = FeatureSet(source.statistics)
        elif source.batches is not None:
            others = {key: metric for key, metric in metrics.items() if consumed(metric) != "features"}
            images = collect(
                show_progress(
                    source.batches(batch_size), source.count, label="real" if is_real else "fake", verbosity=verbosity
                ),
                extract,
                features=needs_features(metrics, side),
                each=partial(update_with_batch, others, device=device, real=is_real),
            )
        else:
            raise ValueError(f"{source.name} has neither images nor statistics")
        update_with_features(metrics, images, real=is_real)
        sets.append(images)
    return Comparison(compute(metrics), *sets)


def check_counts(real: Source, fake: Source, metrics: Metrics, space: FeatureSpace | None = None) -> None:
    """Check that metrics can be computed from two sources; this needs no network.

    Args:
        real: The real images.
        fake: The generated images.
        metrics: The metrics.
        space: The feature space, if it is known.

    Raises:
        InputError: if there are too few images, or statistics where images are needed.
    """
    check_metrics(metrics, fake.count, real.count, getattr(space, "dimensions", None))
    for label, source, side in (("REAL", real, "real"), ("FAKE", fake, "generated")):
        if source.batches is None and (needs_features(metrics, side) or needs_images(metrics, side)):
            raise InputError(
                f"{label} is {source.name}: that is enough for fid only, give the images for other metrics"
            )
        if source.batches is not None and source.count is not None and source.count < 2:
            raise InputError(f"{label} is {source.name}: two images or more are needed")


def _check_space(label: str, source: Source, space: FeatureSpace) -> None:
    """Raise InputError if a source has statistics of another feature space."""
    if source.statistics is not None and source.statistics.space not in ("", space_identity(space)):
        raise InputError(
            f"{label} is {source.name}, computed in {source.statistics.space}, but the chosen feature space is "
            f"{space_identity(space)}: scores are comparable within one feature space only"
        )
