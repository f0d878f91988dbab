"""The Fréchet Inception Distance."""

from torch import Tensor

from wgan_sweep.scoring.frechet import frechet_distance
from wgan_sweep.scoring.metrics.two_sided import SIDES, TwoSidedMetric, as_values


class FID(TwoSidedMetric):
    """Frechet distance between Gaussians fitted to the features (Heusel et al. 2017); lower is better."""

    higher_is_better = False
    names = ("fid",)

    def __init__(self) -> None:
        super().__init__(moments=SIDES)

    def compute(self) -> dict[str, Tensor]:
        """Return ``fid``.

        Raises:
            ValueError: if there are fewer than 2 images of a side, or features are not finite.
        """
        return as_values(fid=frechet_distance(self._statistics("real"), self._statistics("generated")))
