"""Multilayer perceptrons: for points in the plane, and the weakest generator for images (Arjovsky et al. 2017)."""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, check_sizes


@dataclass(frozen=True)
class MLP:
    """ReLU layers of one width.

    Args:
        dim: Width of the hidden layers.
        depth: How many hidden layers each network has; 0 makes both linear.
        latent_dim: Size of z.
    """

    dim: int
    depth: int
    latent_dim: int

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim)
        if self.depth < 0:
            raise InputError(f"model.depth must be 0 or more, got {self.depth}")

    def _hidden(self, before: int) -> tuple[list[nn.Module], int]:
        """Return the hidden layers and the width of their output."""
        widths = [before] + [self.dim] * self.depth
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return layers, widths[-1]

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]``: images in [-1, 1], points unbounded."""
        bound: list[nn.Module] = [nn.Tanh()] if len(shape) == 3 else []
        hidden, width = self._hidden(self.latent_dim)
        return nn.Sequential(*hidden, nn.Linear(width, math.prod(shape)), *bound, nn.Unflatten(1, shape))

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` scores."""
        hidden, width = self._hidden(math.prod(shape))
        return Critic(nn.Sequential(nn.Flatten(), *hidden), width)
