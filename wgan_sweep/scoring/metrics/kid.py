"""The Kernel Inception Distance."""

from typing import Annotated

from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from wgan_sweep.common.ranges import LARGEST_INT, Range
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.metrics.two_sided import TwoSidedMetric, as_values

SubsetSize = Annotated[int, Range(2, LARGEST_INT)]


class KID(TwoSidedMetric):
    """Unbiased squared MMD with the cubic kernel (Binkowski et al. 2018), by torch-fidelity; lower is better.

    Args:
        subsets: Number of random subsets; KID is the mean over them.
        subset_size: Real images, and generated images, per subset.
    """

    higher_is_better = False
    names = ("kid", "kid_sd")

    def __init__(self, subsets: Annotated[int, Range(1, 10**6)] = 100, subset_size: SubsetSize = 1000) -> None:
        super().__init__()
        self._subsets, self._subset_size = subsets, subset_size

    def check(self, generated: int, real: int, dimensions: int | None = None) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer real or generated images than `subset_size`.
        """
        if min(generated, real) < self._subset_size:
            raise InputError(
                f"KID's subsets of {self._subset_size} need as many images of each kind, got {generated} generated and "
                f"{real} real: lower kid.subset_size or take more images"
            )

    def compute(self) -> dict[str, Tensor]:
        """Return ``kid`` and ``kid_sd``, the standard deviation over subsets.

        Raises:
            InputError: for fewer real or generated images than `subset_size`.
        """
        generated, real = self._features("generated"), self._features("real")
        self.check(len(generated), len(real))
        values = kid_features_to_metric(
            generated, real, kid_subsets=self._subsets, kid_subset_size=self._subset_size, verbose=False
        )
        return as_values(kid=values["kernel_inception_distance_mean"], kid_sd=values["kernel_inception_distance_std"])
