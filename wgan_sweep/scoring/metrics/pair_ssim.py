"""How similar the images of one set are to each other."""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from wgan_sweep.common.ranges import Range
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.frechet import Statistics
from wgan_sweep.scoring.metrics.two_sided import SIDES, TwoSidedMetric, as_values

WINDOW = 11
"""Side of the window of SSIM, in pixels (Wang et al. 2004)."""


class PairSSIM(TwoSidedMetric):
    """Mean structural similarity (SSIM) between random pairs of generated images, and between pairs of real ones.

    A value above that of the real images means less diversity than theirs. Odena et al. (2017) used the multi-scale
    form; its five scales need images of more than 160 pixels, so this is the one of a single scale, for images of every
    size. All images are kept in memory, as uint8.

    Args:
        pairs: Number of random pairs.
    """

    consumes = "images"
    names = ("pair_ssim", "pair_ssim_real")

    def __init__(self, pairs: Annotated[int, Range(1, 10**6)] = 1000) -> None:
        super().__init__()
        self._pairs = pairs
        self._shape: torch.Size | None = None

    def update(self, features: Tensor | Statistics, real: bool) -> None:
        """Add images.

        Args:
            features: Images, uint8 ``[N, C, H, W]``.
            real: Whether the images are real ones, or generated.

        Raises:
            InputError: for images of different sizes, or smaller than SSIM's window.
        """
        if isinstance(features, Tensor):
            shape = features.shape[1:]
            if min(shape[-2:]) < WINDOW:
                raise InputError(f"pair_ssim needs images of {WINDOW} x {WINDOW} pixels or more, got {list(shape)}")
            if self._shape not in (None, shape):
                raise InputError(f"pair_ssim needs images of one size, got {list(self._shape or ())} and {list(shape)}")
            self._shape = shape
        super().update(features, real)

    def compute(self) -> dict[str, Tensor]:
        """Return ``pair_ssim`` and ``pair_ssim_real``, from -1 to 1; 1 if all images are the same.

        Raises:
            ValueError: if there are fewer than 2 images of a side.
        """
        real, generated = (_mean_of_pairs(self._features(side), self._pairs) for side in SIDES)
        return as_values(pair_ssim=generated, pair_ssim_real=real)


def _mean_of_pairs(images: Tensor, pairs: int) -> float:
    """Return the mean SSIM of random pairs of different images, uint8 ``[N, C, H, W]``."""
    count = len(images)
    if count < 2:
        raise ValueError(f"a pair needs 2 images or more, got {count}")
    draw = np.random.RandomState(0)
    left = torch.from_numpy(draw.randint(count, size=pairs))
    right = (left + 1 + torch.from_numpy(draw.randint(count - 1, size=pairs))) % count
    similarities = [
        structural_similarity_index_measure(images[a].float(), images[b].float(), data_range=255.0, reduction="none")
        for a, b in zip(left.split(50), right.split(50), strict=True)
    ]
    return float(torch.cat([torch.atleast_1d(part) for part in similarities]).mean())
