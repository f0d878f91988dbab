"""Exact quantities between samples of points: optimal transport by POT, and the modes of a mixture that are there."""

from collections.abc import Callable

import ot
import torch
from torch import Tensor

from wgan_sweep import rng
from wgan_sweep.data import Points
from wgan_sweep.errors import InputError

HIGH_QUALITY_STDS = 3.0
"""A sample counts for a mode within so many standard deviations of its centre (Srivastava et al. 2017)."""


class ExactScorer:
    """Distances between equally many generated and real points.

    Args:
        real: The distribution of points.
        device: Where the generator is; the distances are computed on the CPU.
        num_samples: Points of each kind; the real ones are the same in every run.
        projections: Random directions of the sliced distance.

    Raises:
        InputError: for images, or a number out of range.
    """

    def __init__(self, *, real: Points, device: torch.device, num_samples: int, projections: int) -> None:  # noqa: ARG002
        if not isinstance(real, Points):
            raise InputError("scorer=exact is for points (data=gaussians8 and the like): use scorer=fid for images")
        if num_samples < 2 or projections < 1:
            raise InputError(
                "scorer.num_samples must be 2 or more and scorer.projections 1 or more, "
                f"got {num_samples} and {projections}"
            )
        self._real = real
        self._count = num_samples
        self._projections = projections

    def prepare(self) -> None:
        """Do nothing: real points are drawn when needed."""

    def __call__(self, sample: Callable[[int], Tensor]) -> dict[str, float]:
        """Return ``w1``, ``w2`` and ``sliced_w2`` with the count; for a mixture also ``modes`` and ``high_quality``.

        w1 and w2 are the Wasserstein distances between the two samples, exact by linear programming; the sliced one is
        a mean over random directions. ``modes`` counts the centres with a sample near, ``high_quality`` is the share of
        samples near any centre.
        """
        made = sample(self._count).double()
        real = self._real.draw(self._count, rng.generator(0, "exact")).double()
        scores = {
            "w1": float(ot.emd2([], [], ot.dist(made, real, metric="euclidean"))),
            "w2": float(ot.emd2([], [], ot.dist(made, real, metric="sqeuclidean"))) ** 0.5,
            "sliced_w2": float(ot.sliced_wasserstein_distance(made, real, n_projections=self._projections, seed=0)),
            "exact_samples": float(self._count),
        }
        return scores | self._near_modes(made)

    def _near_modes(self, made: Tensor) -> dict[str, float]:
        if self._real.modes is None:
            return {}
        distance, nearest = torch.cdist(made, self._real.modes.double()).min(1)
        near = distance <= HIGH_QUALITY_STDS * self._real.std
        return {"modes": float(len(set(nearest[near].tolist()))), "high_quality": float(near.double().mean())}
