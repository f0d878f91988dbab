"""What most metrics have in common: the states of real and of generated images, and when they are reset."""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from wgan_sweep.errors import InputError
from wgan_sweep.scoring.frechet import Statistics, add_to_moments, merge_moments, no_moments, statistics_from

SIDES = ("real", "generated")


class TwoSidedMetric(Metric):
    """A metric between real and generated images, which sees their features.

    Of each side, either the features or their moments (float64) are kept; moments take memory that does not grow with
    the number of images. States are combined over processes as torchmetrics does it: features in the
    order of the processes, moments by `merge_moments`. In each process, `update` must have been called for both sides;
    a process without images of a side passes features ``[0, D]``.

    What is known about the real images survives `reset`, as with torchmetrics' ``reset_real_features=False``, so that
    one set of generated images after another is compared with them.

    Args:
        moments: The sides of which moments are kept; features are kept of the other ones.
    """

    full_state_update = False
    is_differentiable = False
    shardable = True
    """Whether several processes may each see a part of the images."""
    consumes = "features"
    """What `update` takes, for scorers: features, logits or images."""
    names: ClassVar[tuple[str, ...]] = ()
    """The names of the values that `compute` returns."""

    def __init__(self, *, moments: Collection[str] = ()) -> None:
        super().__init__(compute_on_cpu=set(moments) != set(SIDES))  # features are kept on the CPU
        self.from_statistics = frozenset(moments)
        """The sides of which `update` also takes statistics."""
        self.reset_real_features = False
        """Whether `reset` also forgets the real images."""
        self._known: dict[str, Statistics] = {}
        for side in SIDES:
            if side in moments:
                self.add_state(f"{side}_moments", no_moments(), dist_reduce_fx=merge_moments)
            else:
                self.add_state(f"{side}_features", [], dist_reduce_fx="cat")

    def check(self, generated: int, real: int, dimensions: int | None = None) -> None:
        """Check the number of images, before there are any: this metric accepts any.

        Args:
            generated: Number of generated images.
            real: Number of real images.
            dimensions: Number of dimensions of the features; None if it is not known yet.
        """

    def update(self, features: Tensor | Statistics, real: bool) -> None:
        """Add images.

        Args:
            features: Features ``[N, D]``, or statistics, which replace all features of this side in this process.
            real: Whether the images are real ones, or generated.

        Raises:
            InputError: for statistics where features are needed.
            ValueError: for features after statistics.
        """
        side: str = "real" if real else "generated"
        if isinstance(features, Statistics):
            if side not in self.from_statistics:
                raise InputError("this metric needs features, and a file of statistics holds none: give the images")
            self._known[side] = features
        elif side in self._known:
            raise ValueError(f"there are statistics of the {side} images already, to which no features can be added")
        elif side in self.from_statistics:
            setattr(self, f"{side}_moments", add_to_moments(getattr(self, f"{side}_moments"), features))
        else:
            getattr(self, f"{side}_features").append(features)

    def reset(self) -> None:
        """Forget the generated images, and the real ones too if `reset_real_features`."""
        kept = {} if self.reset_real_features else {name: self._defaults[name] for name in self._real_states()}
        for name in kept:
            del self._defaults[name]
        super().reset()
        self._defaults |= kept
        self._known = {} if self.reset_real_features else {side: s for side, s in self._known.items() if side == "real"}

    def _real_states(self) -> list[str]:
        return [name for name in self._defaults if name.startswith("real_")]

    def _features(self, side: str) -> Tensor:
        """Return the features of a side ``[N, D]``, on the CPU.

        Raises:
            ValueError: if there are none.
        """
        features: Any = getattr(self, f"{side}_features")
        if not len(features):
            raise ValueError(f"there are no features of {side} images")
        return dim_zero_cat(features).cpu()

    def _statistics(self, side: str) -> Statistics:
        """Return the statistics of a side.

        Raises:
            ValueError: if there are fewer than 2 images.
        """
        return self._known.get(side) or statistics_from(getattr(self, f"{side}_moments"))


def as_values(**values: float) -> dict[str, Tensor]:
    """Return numbers as float64 tensors, by name."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
