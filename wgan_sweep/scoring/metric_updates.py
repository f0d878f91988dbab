"""Updates of metrics: any `torchmetrics.Metric` is updated with what it consumes, and its values get names.

A metric of features or logits says so by an attribute ``consumes``; every other one gets images. It is given the real
and the generated images if its `update` has a parameter ``real``, and otherwise the generated ones only.
"""

import inspect
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError, one_line
from wgan_sweep.scoring.collect import FeatureSet
from wgan_sweep.scoring.features import Extracted

log = logging.getLogger(__name__)

KINDS = ("features", "logits", "images")
"""What a metric may consume."""
Metrics = Mapping[str, Metric]
"""Metrics by their keys in a config."""


class Checked(Protocol):
    """A metric that needs a certain number of images."""

    def check(self, generated: int, real: int, dimensions: int | None) -> None:
        """Raise InputError for too few images; `dimensions` is None if that of the features is not known yet."""


def check_metrics(metrics: Metrics, generated: int | None, real: int | None, dimensions: int | None) -> None:
    """Check that metrics can be updated, and that there are enough images.

    Args:
        metrics: The metrics.
        generated: Number of generated images; None if it is not known, as in a file of statistics.
        real: Number of real images; None if it is not known.
        dimensions: Number of dimensions of the features; None if it is not known yet.

    Raises:
        InputError: for an object that is not a metric, consumes something else, or needs more images.
    """
    for key, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise InputError(
                f"the metric {key} is a {type(metric).__name__}: a metric is a torchmetrics.Metric, with update and "
                "compute"
            )
        if consumed(metric) not in KINDS:
            raise InputError(f"the metric {key} consumes {consumed(metric)!r}: choose one of {', '.join(KINDS)}")
        if hasattr(metric, "check") and generated is not None and real is not None:
            cast("Checked", metric).check(generated, real, dimensions)


def consumed(metric: Metric) -> str:
    """Return what a metric consumes: features, logits or images."""
    return str(getattr(metric, "consumes", "images"))


def takes_real(metric: Metric) -> bool:
    """Return whether a metric is also given the real images."""
    return "real" in inspect.signature(metric.update).parameters


def needs_features(metrics: Metrics, side: str) -> bool:
    """Return whether a metric needs the features of a side, ``real`` or ``generated``, and not only statistics."""
    return any(
        consumed(metric) == "features" and side not in getattr(metric, "from_statistics", ()) and _sees(metric, side)
        for metric in metrics.values()
    )


def needs_images(metrics: Metrics, side: str) -> bool:
    """Return whether a metric needs the images of a side, or their logits, and not only features or statistics."""
    return any(consumed(metric) != "features" and _sees(metric, side) for metric in metrics.values())


def needs_logits(metrics: Metrics) -> bool:
    """Return whether a metric needs logits."""
    return any(consumed(metric) == "logits" for metric in metrics.values())


def _sees(metric: Metric, side: str) -> bool:
    return side == "generated" or takes_real(metric)


def update_with_features(metrics: Metrics, images: FeatureSet, *, real: bool) -> None:
    """Update the metrics of features with a set of images: by its statistics where they are enough."""
    side = "real" if real else "generated"
    for key, metric in metrics.items():
        if consumed(metric) == "features" and _sees(metric, side):
            if side in getattr(metric, "from_statistics", ()):
                _update(key, metric, 0, images.statistics, real=real)
            elif images.features is not None:
                on_device = images.features if metric.compute_on_cpu else images.features.to(metric.device)
                _update(key, metric, 0, on_device, real=real)


def update_with_batch(
    metrics: Metrics, index: int, images: Tensor, extracted: Extracted | None, *, device: torch.device, real: bool
) -> None:
    """Update metrics with a batch.

    Args:
        metrics: The metrics; those of features and logits are left out if there are none.
        index: The number of batches before it.
        images: uint8 images ``[N, 1 or 3, H, W]``; metrics are given three channels.
        extracted: Features and logits of the images.
        device: Device of the metrics of images.
        real: Whether the images are real ones.
    """
    side = "real" if real else "generated"
    seeing = {key: metric for key, metric in metrics.items() if _sees(metric, side)}
    values = {} if extracted is None else extracted._asdict()
    if any(consumed(metric) == "images" for metric in seeing.values()):
        values["images"] = images.to(device).expand(-1, 3, -1, -1).contiguous()
    on_cpu: dict[str, Tensor] = {}
    for key, metric in seeing.items():
        kind = consumed(metric)
        if (value := values.get(kind)) is not None:
            if metric.compute_on_cpu:  # one copy for all metrics that keep it there
                if kind not in on_cpu:
                    on_cpu[kind] = value.cpu()
                value = on_cpu[kind]
            _update(key, metric, index, value, real=real)


def update_with_nothing(metrics: Metrics, images: Tensor, extracted: Extracted | None, *, device: torch.device) -> None:
    """Update metrics with no real images, in a process that has none: their states get the shapes of another process's.

    Args:
        metrics: The metrics.
        images: Any batch of images.
        extracted: Its features and logits.
        device: Device of the metrics of images.
    """
    unknown = {key: metric for key, metric in metrics.items() if "real" not in getattr(metric, "from_statistics", ())}
    if extracted is not None:
        logits = None if extracted.logits is None else extracted.logits[:0]
        extracted = Extracted(extracted.features[:0], logits)
    update_with_batch(unknown, 0, images[:0], extracted, device=device, real=True)


def contribute(metrics: Metrics) -> None:
    """Send the states of metrics to the process that computes their values (see `compute`), which does so meanwhile."""
    for metric in metrics.values():
        metric.sync()
        metric.unsync()


def _update(key: str, metric: Metric, index: int, value: object, *, real: bool) -> None:
    with _isolated(key, "real" if real else "generated", index):
        if takes_real(metric):
            metric.update(value, real=real)
        else:
            metric.update(value)


def compute(metrics: Metrics) -> dict[str, float]:
    """Return the values of metrics by name.

    A metric with ``names`` names its values: `compute` returns them by name. Of other metrics, the key stands for a
    single value; of a pair, such as mean and standard deviation, the second one gets the suffix ``_sd``; values by name
    get the key as prefix.

    Values that are not finite are left out, with a warning.

    Raises:
        InputError: if a metric cannot be computed, or its result is not such a value.
    """
    return {name: value for key, metric in metrics.items() for name, value in _compute(key, metric).items()}


def _compute(key: str, metric: Metric) -> dict[str, float]:
    with _isolated(key, "compute"):
        result = metric.compute()
    if getattr(metric, "names", None):
        named = dict(result)
    elif isinstance(result, Mapping):
        named = {f"{key}_{name}": value for name, value in result.items()}
    elif isinstance(result, tuple | list) and len(result) == 2:
        named = {key: result[0], f"{key}_sd": result[1]}
    else:
        named = {key: result}
    values: dict[str, float] = {}
    for name, value in named.items():
        if not isinstance(value, int | float) and not (isinstance(value, Tensor) and value.numel() == 1):
            raise InputError(
                f"the metric {key} returns a {type(value).__name__} as {name}: a metric returns a number, a pair of "
                "them, or numbers by name"
            )
        values[name] = float(value)
    if odd := [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]:
        log.warning("the metric %s is not finite and left out: %s", key, ", ".join(odd))
    return {name: value for name, value in values.items() if math.isfinite(value)}


@contextmanager
def _isolated(key: str, *purpose: object) -> Iterator[None]:
    """Give a metric random numbers of its own, without gradients, and name it in its errors of bad input."""
    with rng.seeded(0, "metric", key, *purpose), torch.no_grad():
        try:
            yield
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"the metric {key} cannot be computed: {one_line(error)}") from error
