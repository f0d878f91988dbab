"""What is computed from the features of generated and real images; each metric says what it needs of them."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from wgan_sweep.errors import InputError
from wgan_sweep.scoring.frechet import Statistics, frechet_distance, statistics_of


@dataclass(frozen=True, eq=False)
class Side:
    """What is known of one side of a comparison; a metric gets what it needs."""

    statistics: Statistics
    features: Tensor | None = None
    """``[N, D]``, float32, on the CPU."""
    logits: Tensor | None = None
    """``[N, classes]``, of the generated side."""


class Metric(Protocol):
    """A comparison of generated with real images."""

    @property
    def needs_features(self) -> bool:
        """Whether statistics are not enough."""

    @property
    def needs_logits(self) -> bool:
        """Whether the generated side's logits are needed."""

    def check(self, generated: int, real: int) -> None:
        """Refuse counts that it cannot be computed from."""

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:
        """Return scores by name."""


def _features(side: Side) -> Tensor:
    if side.features is None:
        raise InputError("this metric needs features, and a file of statistics holds none: give the images")
    return side.features


@dataclass(frozen=True)
class FID:
    """The Frechet distance of Gaussians configure_for_device to the features (Heusel et al. 2017); lower is better."""

    needs_features = needs_logits = False

    def check(self, generated: int, real: int) -> None:
        """Two images of each are enough."""

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:
        """Return ``fid``."""
        return {"fid": frechet_distance(real.statistics, generated.statistics)}


@dataclass(frozen=True)
class FIDInfinity:
    """FID extrapolated to infinitely many generated images (Chong & Forsyth 2020, Effectively Unbiased FID).

    FID is nearly linear in 1/N: a line through the FIDs of random subsets meets 1/N = 0 there.

    Args:
        points: How many subset sizes, from a tenth of all to all.

    Raises:
        InputError: unless points >= 3.
    """

    points: int = 15
    needs_features = True
    needs_logits = False

    def __post_init__(self) -> None:
        if self.points < 3:
            raise InputError(f"the extrapolated FID needs 3 points or more, got {self.points}")

    def check(self, generated: int, real: int) -> None:  # noqa: ARG002
        """Refuse fewer than 100 generated images.

        Raises:
            InputError: saying so.
        """
        if generated < 100:
            raise InputError(f"the extrapolated FID needs 100 generated images or more, got {generated}")

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:
        """Return ``fid_infinity`` and ``fid_infinity_error``, the standard error of the line's value at 1/N = 0."""
        features = _features(generated)
        draw = np.random.RandomState(0)
        sizes = np.linspace(len(features) / 10, len(features), self.points).astype(int)
        found = [
            frechet_distance(real.statistics, statistics_of(features[draw.permutation(len(features))[:size]]))
            for size in sizes
        ]
        fit, covariance = np.polyfit(1 / sizes, found, 1, cov=True)
        return {"fid_infinity": float(fit[1]), "fid_infinity_error": math.sqrt(covariance[1, 1])}


@dataclass(frozen=True)
class KID:
    """The unbiased squared MMD with the cubic kernel (Binkowski et al. 2018), by torch-fidelity; lower is better.

    Args:
        subsets: How many random subsets it is the mean over.
        subset_size: Images of each kind in one.

    Raises:
        InputError: for a number that is not positive.
    """

    subsets: int = 100
    subset_size: int = 1000
    needs_features = True
    needs_logits = False

    def __post_init__(self) -> None:
        if self.subsets < 1 or self.subset_size < 2:
            raise InputError(f"KID needs subsets >= 1 and subset_size >= 2, got {self.subsets} and {self.subset_size}")

    def check(self, generated: int, real: int) -> None:
        """Refuse fewer images than a subset takes.

        Raises:
            InputError: saying so.
        """
        if min(generated, real) < self.subset_size:
            raise InputError(
                f"KID's subsets of {self.subset_size} need as many images of each kind, got {generated} generated and "
                f"{real} real: lower kid.subset_size or take more images"
            )

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:
        """Return ``kid`` and ``kid_sd``, the standard deviation over subsets."""
        found = kid_features_to_metric(
            _features(generated),
            _features(real),
            kid_subsets=self.subsets,
            kid_subset_size=self.subset_size,
            verbose=False,
        )
        return {"kid": found["kernel_inception_distance_mean"], "kid_sd": found["kernel_inception_distance_std"]}


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of one kind within the other's nearest-neighbour balls (Kynkaanniemi et al. 2019), by torch-fidelity.

    Args:
        neighbours: Which neighbour of its own kind sets a ball's radius.

    Raises:
        InputError: unless neighbours >= 1.
    """

    neighbours: int = 3
    needs_features = True
    needs_logits = False

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InputError(f"precision and recall need 1 neighbour or more, got {self.neighbours}")

    def check(self, generated: int, real: int) -> None:
        """Refuse fewer images than neighbours.

        Raises:
            InputError: saying so.
        """
        if min(generated, real) <= self.neighbours:
            raise InputError(f"precision and recall need more than {self.neighbours} images of each kind")

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:
        """Return ``precision`` (generated within the real) and ``recall`` (real within the generated)."""
        found = prc_features_to_metric(
            _features(generated),
            _features(real),
            prc_neighborhood=self.neighbours,
            prc_batch_size=5000,
            save_cpu_ram=True,
            verbose=False,
        )
        return {"precision": found["precision"], "recall": found["recall"]}


@dataclass(frozen=True)
class InceptionScore:
    """exp of the mean KL from a class posterior to the marginal (Salimans et al. 2016), by torch-fidelity.

    Args:
        splits: Parts of the sample it is the mean over.

    Raises:
        InputError: unless splits >= 1.
    """

    splits: int = 10
    needs_features = False
    needs_logits = True

    def __post_init__(self) -> None:
        if self.splits < 1:
            raise InputError(f"the Inception Score needs 1 split or more, got {self.splits}")

    def check(self, generated: int, real: int) -> None:  # noqa: ARG002
        """Refuse fewer images than splits.

        Raises:
            InputError: saying so.
        """
        if generated < self.splits:
            raise InputError(f"the Inception Score of {self.splits} splits needs as many images, got {generated}")

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:  # noqa: ARG002
        """Return ``inception_score`` and ``inception_score_sd``, the standard deviation over splits."""
        if generated.logits is None:
            raise InputError("the Inception Score needs the logits of generated images: give the images")
        found = isc_features_to_metric(generated.logits, self.splits)
        return {"inception_score": found["inception_score_mean"], "inception_score_sd": found["inception_score_std"]}


def nearest(of: Tensor, among: Tensor, count: int, *, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Return distances and indices ``[N, count]`` of the nearest features, after the `skip` nearest."""
    distances, indices = zip(
        *(torch.cdist(part, among).topk(count + skip, 1, largest=False) for part in of.split(1000)), strict=True
    )
    return torch.cat(distances)[:, skip:], torch.cat(indices)[:, skip:]


@dataclass(frozen=True)
class Memorisation:
    """How near generated images are to single real ones, beside how near real images are to each other."""

    needs_features = True
    needs_logits = False

    def check(self, generated: int, real: int) -> None:  # noqa: ARG002
        """Refuse a single real image.

        Raises:
            InputError: saying so.
        """
        if real < 2:
            raise InputError("memorisation needs 2 real images or more")

    def __call__(self, real: Side, generated: Side) -> dict[str, float]:
        """Return ``nearest_real`` and ``copied``.

        ``nearest_real`` is the median distance of a generated image to the nearest real one, over the median distance
        of a real image to the nearest other one: 1 for new images of the same distribution, 0 for copies. ``copied``
        is the share of generated images that are nearer to a real one than 99 % of the real ones are to any other: 0.01
        for new images of the same distribution.
        """
        of_generated = nearest(_features(generated), _features(real), 1)[0][:, 0]
        of_real = nearest(_features(real), _features(real), 1, skip=1)[0][:, 0]
        return {
            "nearest_real": float(of_generated.median() / of_real.median().clamp_min(torch.finfo(torch.float32).tiny)),
            "copied": float((of_generated < of_real.quantile(0.01)).float().mean()),
        }


METRICS: dict[str, type[Metric]] = {
    "fid": FID,
    "fid_infinity": FIDInfinity,
    "kid": KID,
    "precision_recall": PrecisionRecall,
    "inception_score": InceptionScore,
    "memorisation": Memorisation,
}
"""Every metric by name, with its published settings."""
