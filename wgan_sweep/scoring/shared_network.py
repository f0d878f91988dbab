"""A feature space as a module, for metrics of torchmetrics that take a network of the user."""

import torch
from torch import Tensor, nn

from wgan_sweep.scoring.features import FeatureSpace


class SharedNetwork(nn.Module):
    """The network of a feature space, as the ``feature`` of a torchmetrics metric such as FID, KID or IS.

    The network is loaded when it is first called, once per process, however many metrics share it.

    Args:
        features: The feature space.
        logits: Whether to return logits, as the Inception Score needs them, instead of features.

    Raises:
        InputError: if logits are needed and the network has none.
    """

    def __init__(self, features: FeatureSpace, logits: bool = False) -> None:
        super().__init__()
        features.check(logits=logits)
        self._space, self._logits = features, logits

    @property
    def num_features(self) -> int:
        """Number of dimensions of the features."""
        known = None if self._logits else getattr(self._space, "dimensions", None)
        return int(known or self(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[N, D]``, or logits ``[N, classes]``, of uint8 images ``[N, 1 or 3, H, W]``."""
        extracted = self._space.extract(images.device, logits=self._logits)(images)
        return extracted.features if extracted.logits is None else extracted.logits
