"""No score."""

from collections.abc import Callable

import torch
from torch import Tensor

from wgan_sweep.data import ImageSet


class NoScorer:
    """Measures nothing."""

    def __init__(self, *, real: ImageSet, device: torch.device) -> None:
        pass

    def prepare(self) -> None:
        """Do nothing."""

    def __call__(self, sample: Callable[[int], Tensor]) -> dict[str, float]:  # noqa: ARG002
        """Return no scores."""
        return {}
