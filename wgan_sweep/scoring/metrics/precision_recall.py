"""Improved precision and recall."""

from typing import Annotated

from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from wgan_sweep.common.ranges import LARGEST_INT, Range
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.metrics.two_sided import TwoSidedMetric, as_values


class PrecisionRecall(TwoSidedMetric):
    """Improved precision and recall (Kynkaanniemi et al. 2019), by torch-fidelity; in [0, 1], higher is better.

    Args:
        neighbours: Index k; the radius of a ball is the distance to the k-th nearest neighbour in the same set.
    """

    higher_is_better = True
    names = ("precision", "recall")

    def __init__(self, neighbours: Annotated[int, Range(1, LARGEST_INT)] = 3) -> None:
        super().__init__()
        self._neighbours = neighbours

    def check(self, generated: int, real: int, dimensions: int | None = None) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: unless there are more real and more generated images than `neighbours`.
        """
        if min(generated, real) <= self._neighbours:
            raise InputError(f"precision and recall need more than {self._neighbours} images of each kind")

    def compute(self) -> dict[str, Tensor]:
        """Return ``precision`` and ``recall``.

        ``precision`` is the share of generated images inside a ball of the real ones, ``recall`` the share of real
        images inside a ball of the generated ones.

        Raises:
            InputError: unless there are more real and more generated images than `neighbours`.
        """
        generated, real = self._features("generated"), self._features("real")
        self.check(len(generated), len(real))
        values = prc_features_to_metric(
            generated,
            real,
            prc_neighborhood=self._neighbours,
            prc_batch_size=5000,
            save_cpu_ram=True,
            verbose=False,
        )
        return as_values(precision=values["precision"], recall=values["recall"])
