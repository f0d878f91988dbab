"""Metrics between generated and real images, computed from their features."""

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from wgan_sweep.common.ranges import LARGEST_INT, Range
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.frechet import Statistics, frechet_distance, statistics_of


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a set of images: their statistics, and whatever else the requested metrics need."""

    statistics: Statistics
    features: Tensor | None = None
    """``[N, D]``, float32, on the CPU."""
    logits: Tensor | None = None
    """``[N, classes]``, float32, on the CPU; for generated images only."""


class Metric(Protocol):
    """A metric between real and generated images.

    It may also have `names`, those of its values. A sweep that is to be pruned by another metric is then refused before
    it starts.
    """

    @property
    def needs_features(self) -> bool:
        """Whether the metric needs features and not only their statistics."""

    @property
    def needs_logits(self) -> bool:
        """Whether the metric needs the logits of the generated images."""

    def check(self, generated: int, real: int) -> None:
        """Check the number of generated and real images.

        Raises:
            InputError: if the metric cannot be computed from so few images.
        """

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:
        """Return metric values by name."""


def _features(images: FeatureSet) -> Tensor:
    if images.features is None:
        raise InputError("this metric needs features, and a file of statistics holds none: give the images")
    return images.features


@dataclass(frozen=True)
class FID:
    """Frechet distance between Gaussians fitted to the features (Heusel et al. 2017); lower is better."""

    names = ("fid",)
    needs_features = needs_logits = False

    def check(self, generated: int, real: int) -> None:
        """Do nothing: FID accepts any number of images."""

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:
        """Return ``fid``."""
        return {"fid": frechet_distance(real.statistics, generated.statistics)}


@dataclass(frozen=True)
class FIDInfinity:
    """FID extrapolated to infinitely many generated images (Chong & Forsyth 2020, Effectively Unbiased FID).

    FID is nearly linear in 1/N. A line fitted to the FIDs of random subsets of different sizes is evaluated at 1/N = 0.

    Args:
        points: Number of subset sizes, evenly spaced from a tenth of the images to all of them.
    """

    points: Annotated[int, Range(3, 1000)] = 15
    names = ("fid_infinity", "fid_infinity_error")
    needs_features = True
    needs_logits = False

    def check(self, generated: int, real: int) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer than 100 generated images.
        """
        if generated < 100:
            raise InputError(f"the extrapolated FID needs 100 generated images or more, got {generated}")

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:
        """Return ``fid_infinity`` and its standard error ``fid_infinity_error``."""
        features = _features(generated)
        draw = np.random.RandomState(0)
        sizes = np.linspace(len(features) / 10, len(features), self.points).astype(int)
        fids = [
            frechet_distance(real.statistics, statistics_of(features[draw.permutation(len(features))[:size]]))
            for size in sizes
        ]
        fit, covariance = np.polyfit(1 / sizes, fids, 1, cov=True)
        return {"fid_infinity": float(fit[1]), "fid_infinity_error": math.sqrt(covariance[1, 1])}


SubsetSize = Annotated[int, Range(2, LARGEST_INT)]


@dataclass(frozen=True)
class KID:
    """Unbiased squared MMD with the cubic kernel (Binkowski et al. 2018), by torch-fidelity; lower is better.

    Args:
        subsets: Number of random subsets; KID is the mean over them.
        subset_size: Real images, and generated images, per subset.
    """

    subsets: Annotated[int, Range(1, 10**6)] = 100
    subset_size: SubsetSize = 1000
    names = ("kid", "kid_sd")
    needs_features = True
    needs_logits = False

    def check(self, generated: int, real: int) -> None:
        """Check the number of images.

        Raises:
            InputError: for fewer real or generated images than `subset_size`.
        """
        if min(generated, real) < self.subset_size:
            raise InputError(
                f"KID's subsets of {self.subset_size} need as many images of each kind, got {generated} generated and "
                f"{real} real: lower kid.subset_size or take more images"
            )

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:
        """Return ``kid`` and ``kid_sd``, the standard deviation over subsets."""
        values = kid_features_to_metric(
            _features(generated),
            _features(real),
            kid_subsets=self.subsets,
            kid_subset_size=self.subset_size,
            verbose=False,
        )
        return {"kid": values["kernel_inception_distance_mean"], "kid_sd": values["kernel_inception_distance_std"]}


@dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019), by torch-fidelity; in [0, 1], higher is better.

    Args:
        neighbours: Index k; the radius of a ball is the distance to the k-th nearest neighbour in the same set.
    """

    neighbours: Annotated[int, Range(1, LARGEST_INT)] = 3
    names = ("precision", "recall")
    needs_features = True
    needs_logits = False

    def check(self, generated: int, real: int) -> None:
        """Check the number of images.

        Raises:
            InputError: unless there are more real and more generated images than `neighbours`.
        """
        if min(generated, real) <= self.neighbours:
            raise InputError(f"precision and recall need more than {self.neighbours} images of each kind")

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:
        """Return ``precision`` and ``recall``.

        ``precision`` is the share of generated images inside a ball of the real ones, ``recall`` the share of real
        images inside a ball of the generated ones.
        """
        values = prc_features_to_metric(
            _features(generated),
            _features(real),
            prc_neighborhood=self.neighbours,
            prc_batch_size=5000,
            save_cpu_ram=True,
            verbose=False,
        )
        return {"precision": values["precision"], "recall": values["recall"]}


@dataclass(frozen=True)
class InceptionScore:
    """exp(mean KL(p(y|x) || p(y))) of the predicted classes y (Salimans et al. 2016), by torch-fidelity.

    From 1 to the number of classes; higher is better.

    Args:
        splits: Number of parts that the images are split into; the Inception Score is the mean over them.
    """

    splits: Annotated[int, Range(1, LARGEST_INT)] = 10
    names = ("inception_score", "inception_score_sd")
    needs_features = False
    needs_logits = True

    def check(self, generated: int, real: int) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer generated images than `splits`.
        """
        if generated < self.splits:
            raise InputError(f"the Inception Score of {self.splits} splits needs as many images, got {generated}")

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:  # noqa: ARG002
        """Return ``inception_score`` and ``inception_score_sd``, the standard deviation over splits."""
        if generated.logits is None:
            raise InputError("the Inception Score needs the logits of generated images: give the images")
        values = isc_features_to_metric(generated.logits, self.splits)
        return {"inception_score": values["inception_score_mean"], "inception_score_sd": values["inception_score_std"]}


def nearest_neighbours(queries: Tensor, references: Tensor, count: int, *, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Return the nearest references of each query.

    Args:
        queries: Features ``[N, D]``.
        references: Features ``[M, D]``.
        count: Neighbours per query.
        skip: Number of nearest references to leave out; 1 where the queries are the references themselves.

    Returns:
        Distances and indices into `references`, both ``[N, count]``, the nearest first.
    """
    distances, indices = zip(
        *(torch.cdist(part, references).topk(count + skip, 1, largest=False) for part in queries.split(1000)),
        strict=True,
    )
    return torch.cat(distances)[:, skip:], torch.cat(indices)[:, skip:]


@dataclass(frozen=True)
class Memorisation:
    """Distance of generated images to their nearest real image, relative to distances between real images."""

    names = ("nearest_real", "copied")
    needs_features = True
    needs_logits = False

    def check(self, generated: int, real: int) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer than 2 real images.
        """
        if real < 2:
            raise InputError("memorisation needs 2 real images or more")

    def __call__(self, real: FeatureSet, generated: FeatureSet) -> dict[str, float]:
        """Return ``nearest_real`` and ``copied``.

        ``nearest_real`` is the median distance from a generated image to its nearest real image, divided by the median
        distance from a real image to its nearest other real image: 1 for new images of the same distribution, 0 for
        copies. ``copied`` is the share of generated images whose distance to the nearest real image is below the first
        percentile of the same distance between real images: 0.01 for new images of the same distribution.
        """
        from_generated = nearest_neighbours(_features(generated), _features(real), 1)[0][:, 0]
        from_real = nearest_neighbours(_features(real), _features(real), 1, skip=1)[0][:, 0]
        tiny = torch.finfo(torch.float32).tiny
        return {
            "nearest_real": float(from_generated.median() / from_real.median().clamp_min(tiny)),
            "copied": float((from_generated < from_real.quantile(0.01)).float().mean()),
        }


METRICS: dict[str, type[Metric]] = {
    "fid": FID,
    "fid_infinity": FIDInfinity,
    "kid": KID,
    "precision_recall": PrecisionRecall,
    "inception_score": InceptionScore,
    "memorisation": Memorisation,
}
"""Metric classes by name; the defaults of their arguments are the published settings."""
