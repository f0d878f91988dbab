"""A loss and a model of your own. The YAML files in the folders beside this module make them options of wgan-sweep."""

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from wgan_sweep.common.ranges import Range
from wgan_sweep.models.layers import Critic
from wgan_sweep.objectives.losses import Loss

Size = Annotated[int, Range(1, 10_000)]
"""Values outside of the range are refused before anything is trained."""


def drift(weight: Annotated[float, Range(0)]) -> Loss:
    """Return the Wasserstein loss with weight * E_real[T^2], which keeps the critic's outputs near 0.

    Karras et al. 2018, appendix A.1: weight 0.001.
    """

    def critic(real_outputs: Tensor, fake_outputs: Tensor) -> Tensor:
        return fake_outputs.mean() - real_outputs.mean() + weight * real_outputs.square().mean()

    def generator(fake_outputs: Tensor) -> Tensor:
        return -fake_outputs.mean()

    return Loss(critic, generator)


@dataclass(frozen=True)
class SiluMLP:
    """Two networks with SiLU between their linear layers, for points: a critic that is smooth everywhere.

    Args:
        dim: Width of the hidden layers.
        latent_dim: Size of z.
    """

    dim: Size
    latent_dim: Size

    def _hidden(self, in_features: int) -> list[nn.Module]:
        return [nn.Linear(in_features, self.dim), nn.SiLU(), nn.Linear(self.dim, self.dim), nn.SiLU()]

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]``."""
        last = nn.Linear(self.dim, math.prod(shape))
        return nn.Sequential(*self._hidden(self.latent_dim), last, nn.Unflatten(1, shape))

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        return Critic(nn.Sequential(nn.Flatten(), *self._hidden(math.prod(shape))), self.dim)
