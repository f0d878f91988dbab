"""What a scorer may look at beside samples; looking changes nothing."""

from typing import Protocol

from torch import Tensor, nn


class Players(Protocol):
    """Generator and critic, as they are."""

    generator: nn.Module
    critic: nn.Module

    def score(self, points: Tensor) -> Tensor:
        """Return the critic's scores ``[N]`` of examples ``[N, ...]``, both on the CPU; differentiable."""

    def critic_loss(self, real: Tensor, fake: Tensor) -> float:
        """Return what the critic minimises, with its gradient terms, at examples ``[N, ...]`` on the CPU."""

    def generator_gradient_norm(self, real: Tensor) -> Tensor:
        """Return the norm, over all parameters, of the gradient of what the generator minimises.

        Args:
            real: Examples ``[N, ...]``, to go with as many generated ones.
        """
