"""Compares two sets of images by metrics in a feature space."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from wgan_sweep.common.progress import show_progress
from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import FeatureSpace
from wgan_sweep.scoring.metrics import FeatureSet, Metric
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
    metrics: Mapping[str, Metric],
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
    check_counts(real, fake, metrics)
    features, logits = _needs(metrics)
    space.check(logits=logits)
    for label, source in (("REAL", real), ("FAKE", fake)):
        _check_space(label, source, space)
    real_features, fake_features = (
        _feature_set(
            source,
            partial(show_progress, label=label, verbosity=verbosity),
            space,
            device,
            batch_size,
            features=features,
            logits=logits and source is fake,
        )
        for label, source in (("real", real), ("fake", fake))
    )
    try:
        values = [metric(real_features, fake_features) for metric in metrics.values()]
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{error}: both sides must be in one feature space, here {space.name}") from error
    scores = {name: value for by_name in values for name, value in by_name.items()}
    return Comparison(scores, real_features, fake_features)


def check_counts(real: Source, fake: Source, metrics: Mapping[str, Metric]) -> None:
    """Check that metrics can be computed from two sources; this needs no network.

    Raises:
        InputError: if there are too few images, or statistics where images are needed.
    """
    features, logits = _needs(metrics)
    for label, source, needs_images in (("REAL", real, features), ("FAKE", fake, features or logits)):
        if source.batches is None and needs_images:
            raise InputError(
                f"{label} is {source.name}: that is enough for fid only, give the images for other metrics"
            )
        if source.batches is not None and source.count is not None and source.count < 2:
            raise InputError(f"{label} is {source.name}: two images or more are needed")
    for metric in metrics.values():
        if None not in (real.count, fake.count):
            metric.check(fake.count or 0, real.count or 0)


def _needs(metrics: Mapping[str, Metric]) -> tuple[bool, bool]:
    """Return whether metrics need features, and whether they need logits of the generated images."""
    features = any(metric.needs_features for metric in metrics.values())
    return features, any(metric.needs_logits for metric in metrics.values())


def _check_space(label: str, source: Source, space: FeatureSpace) -> None:
    """Raise InputError if a source has statistics of another feature space."""
    if source.statistics is not None and source.statistics.space not in ("", space_identity(space)):
        raise InputError(
            f"{label} is {source.name}, computed in {source.statistics.space}, but the chosen feature space is "
            f"{space_identity(space)}: scores are comparable within one feature space only"
        )


def _feature_set(
    source: Source,
    show: Callable[[Iterable[torch.Tensor], int | None], Iterable[torch.Tensor]],
    space: FeatureSpace,
    device: torch.device,
    batch_size: int,
    *,
    features: bool,
    logits: bool,
) -> FeatureSet:
    if source.batches is None:
        if source.statistics is None:
            raise ValueError(f"{source.name} has neither images nor statistics")
        return FeatureSet(source.statistics)
    batches = show(source.batches(batch_size), source.count)
    return collect(batches, space.extract(device, logits=logits), features=features, logits=logits)
