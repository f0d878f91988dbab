"""The Inception Score."""

from typing import Annotated, Any

from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from wgan_sweep.common.ranges import LARGEST_INT, Range
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.metrics.two_sided import as_values


class InceptionScore(Metric):
    """exp(mean KL(p(y|x) || p(y))) of the predicted classes y (Salimans et al. 2016), by torch-fidelity.

    From 1 to the number of classes; higher is better.

    Args:
        splits: Number of parts that the images are split into; the Inception Score is the mean over them.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    shardable = True
    consumes = "logits"
    names = ("inception_score", "inception_score_sd")

    def __init__(self, splits: Annotated[int, Range(1, LARGEST_INT)] = 10) -> None:
        super().__init__(compute_on_cpu=True)
        self._splits = splits
        self.add_state("logits", [], dist_reduce_fx="cat")

    def check(self, generated: int, real: int, dimensions: int | None = None) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer generated images than `splits`.
        """
        if generated < self._splits:
            raise InputError(f"the Inception Score of {self._splits} splits needs as many images, got {generated}")

    def update(self, logits: Tensor) -> None:
        """Add the logits ``[N, classes]`` of generated images."""
        self.logits: Any
        self.logits.append(logits.float())

    def compute(self) -> dict[str, Tensor]:
        """Return ``inception_score`` and ``inception_score_sd``, the standard deviation over splits.

        Raises:
            InputError: for fewer generated images than `splits`.
        """
        logits = dim_zero_cat(self.logits).cpu()
        self.check(len(logits), 0)
        values = isc_features_to_metric(logits, self._splits)
        return as_values(
            inception_score=values["inception_score_mean"], inception_score_sd=values["inception_score_std"]
        )
