"""What a scorer may evaluate besides samples."""

from typing import Protocol

from torch import Tensor, nn


class Players(Protocol):
    """Generator and critic of a run. Evaluating them changes neither their state nor that of training."""

    generator: nn.Module
    critic: nn.Module

    def critic_outputs(self, points: Tensor) -> Tensor:
        """Return the critic's outputs ``[N]`` for examples ``[N, ...]``, both on the CPU; differentiable."""

    def critic_loss(self, real: Tensor, fake: Tensor) -> float:
        """Return the critic's loss, with its gradient terms, on real and generated examples ``[N, ...]`` on the CPU."""

    def generator_gradient_norm(self, real: Tensor) -> Tensor:
        """Return the norm of the gradient of the generator's loss with respect to all of its parameters (scalar).

        Args:
            real: Real examples ``[N, ...]``, which are paired with N generated ones.
        """
