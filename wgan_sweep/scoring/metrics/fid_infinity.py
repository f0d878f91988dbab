"""The Fréchet Inception Distance, extrapolated to infinitely many generated images."""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.common.ranges import Range
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.frechet import frechet_distance, frechet_influence, statistics_of
from wgan_sweep.scoring.metrics.two_sided import TwoSidedMetric, as_values

SMALLEST = 10
"""The smallest subset is this part of the images: a tenth."""
PER_DIMENSION = 20
"""Generated images for each dimension. With 10, the extrapolated FID of two Gaussians was 0.13 instead of 0.66."""


class FIDInfinity(TwoSidedMetric):
    """FID extrapolated to infinitely many generated images (Chong & Forsyth 2020, Effectively Unbiased FID).

    FID is nearly linear in 1/N if N is well above the number of dimensions D. A line fitted to the FIDs of random
    subsets of different sizes is evaluated at 1/N = 0. The smallest subset has 2 D images or more: near D, FID bends.

    Args:
        points: Number of subset sizes, evenly spaced from a tenth of the images to all of them.
    """

    higher_is_better = False
    names = ("fid_infinity", "fid_infinity_error")

    def __init__(self, points: Annotated[int, Range(3, 1000)] = 15) -> None:
        super().__init__(moments=("real",))
        self._points = points

    def check(self, generated: int, real: int, dimensions: int | None = None) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer than 100 generated images, or fewer than 20 for each dimension.
        """
        if generated < (needed := max(SMALLEST**2, PER_DIMENSION * (dimensions or 0))):
            each = f" with {dimensions} features, {PER_DIMENSION} for each" if needed > SMALLEST**2 else ""
            raise InputError(
                f"the extrapolated FID needs {needed} generated images or more{each}, got {generated}: take more "
                "images, a layer with fewer features, or leave fid_infinity out"
            )

    def compute(self) -> dict[str, Tensor]:
        """Return ``fid_infinity`` and ``fid_infinity_error``, the standard error due to the generated images.

        The line's value at 0 is a weighted sum of the subsets' FIDs, and each FID changes, to first order, by the mean
        influence of its images. So the value changes by a sum over the images, each with a known weight, however much
        the subsets overlap; the error is the standard deviation of that sum. The real images are taken as given. If the
        distributions are equal, the first order vanishes, and the error is about a quarter too small.

        Raises:
            InputError: for too few generated images (see `check`).
        """
        real, features = self._statistics("real"), self._features("generated")
        count = len(features)
        self.check(count, real.count, features.shape[1])
        draw = np.random.RandomState(0)
        sizes = np.linspace(count / SMALLEST, count, self._points).astype(int)
        subsets = [torch.from_numpy(draw.permutation(count)[:size]) for size in sizes]
        fids = np.array([frechet_distance(real, statistics_of(features[subset])) for subset in subsets])
        at_zero = np.linalg.pinv(np.stack([1 / sizes, np.ones(len(sizes))], 1))[1]
        weights = torch.zeros(count, dtype=torch.float64)
        for weight, subset, size in zip(at_zero, subsets, sizes, strict=True):
            weights[subset] += weight / size
        influence = frechet_influence(real, statistics_of(features), features)
        error = influence.std() * weights.square().sum().sqrt()
        return as_values(fid_infinity=float(at_zero @ fids), fid_infinity_error=float(error))
