"""Multilayer perceptrons: for points in the plane, and the weakest generator for images (Arjovsky et al. 2017)."""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from wgan_sweep.models.layers import Critic, check_sizes


@dataclass(frozen=True)
class MLP:
    """ReLU layers of one width.

    Args:
        dim: Width of the hidden layers.
        depth: How many hidden layers each network has.
        latent_dim: Size of z.
    """

    dim: int
    depth: int
    latent_dim: int

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, depth=self.depth, latent_dim=self.latent_dim)

    def _hidden(self, before: int) -> list[nn.Module]:
        widths = [before] + [self.dim] * self.depth
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return layers

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]``: images in [-1, 1], points unbounded."""
        bound: list[nn.Module] = [nn.Tanh()] if len(shape) == 3 else []
        last = nn.Linear(self.dim, math.prod(shape))
        return nn.Sequential(*self._hidden(self.latent_dim), last, *bound, nn.Unflatten(1, shape))

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` scores."""
        return Critic(nn.Sequential(nn.Flatten(), *self._hidden(math.prod(shape))), self.dim)
