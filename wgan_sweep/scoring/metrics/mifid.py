"""The Memorisation-informed Fréchet Inception Distance."""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from wgan_sweep.common.ranges import Range
from wgan_sweep.scoring.frechet import frechet_distance, statistics_of
from wgan_sweep.scoring.metrics.two_sided import TwoSidedMetric, as_values

SMALLEST_DISTANCE = 1e-14
"""Added to the distance, so that it can be 0."""


class MIFID(TwoSidedMetric):
    """FID, divided by how far generated images are from real ones if that is little (Bai et al. 2021).

    Lower is better. A generator that copies training images gets a high value.

    Args:
        threshold: The distance below which FID is divided by it.
    """

    higher_is_better = False
    names = ("mifid",)

    def __init__(self, threshold: Annotated[float, Range(above=0, maximum=1)] = 0.1) -> None:
        super().__init__()
        self._threshold = threshold

    def compute(self) -> dict[str, Tensor]:
        """Return ``mifid``.

        Raises:
            ValueError: if there are fewer than 2 images of a side, or features are not finite.
        """
        generated, real = self._features("generated"), self._features("real")
        fid = frechet_distance(statistics_of(real), statistics_of(generated))
        distance = memorisation_distance(generated, real)
        return as_values(mifid=fid / (distance + SMALLEST_DISTANCE) if distance < self._threshold else fid)


def memorisation_distance(generated: Tensor, real: Tensor) -> float:
    """Return the mean of 1 - abs(cosine) between a generated image and the real one that is nearest by that measure.

    Vectors of zeros, which have no direction, are left out.

    Args:
        generated: Features ``[N, D]``.
        real: Features ``[M, D]``.
    """
    generated, real = (features[features.any(1)] for features in (generated, real))
    directions, smallest = normalize(real, dim=1), []
    for part in generated.split(1000):
        nearest = (normalize(part, dim=1) @ directions.T).abs().argmax(1)
        # 1 - cosine loses small distances to rounding; half the squared distance of unit vectors does not.
        left, right = (normalize(vectors.double(), dim=1) for vectors in (part, real[nearest]))
        sign = (left * right).sum(1, keepdim=True).sign()
        smallest.append((left - sign * right).square().sum(1) / 2)
    return float(torch.cat(smallest).mean())
