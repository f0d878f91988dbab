"""Multilayer perceptrons, for points and for images (a generator without convolutions, Arjovsky et al. 2017)."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import nn

from wgan_sweep.common.ranges import Range
from wgan_sweep.models.layers import Critic, check_sizes

Depth = Annotated[int, Range(0, 1000)]
"""Number of hidden layers."""


@dataclass(frozen=True)
class MLP:
    """Two networks of linear layers with ReLU between them.

    Args:
        dim: Width of the hidden layers.
        depth: Number of hidden layers of each network; 0 gives linear networks.
        latent_dim: Size of z.

    Raises:
        InputError: If `dim` or `latent_dim` is below 1.
    """

    dim: int
    depth: Depth
    latent_dim: int

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, latent_dim=self.latent_dim)

    def _hidden_layers(self, in_features: int) -> tuple[list[nn.Module], int]:
        """Return the hidden layers and the width of their output."""
        widths = [in_features] + [self.dim] * self.depth
        layers: list[nn.Module] = []
        for layer_inputs, layer_outputs in pairwise(widths):
            layers += [nn.Linear(layer_inputs, layer_outputs), nn.ReLU()]
        return layers, widths[-1]

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]``: images in [-1, 1], points unbounded."""
        bounding: list[nn.Module] = [nn.Tanh()] if len(shape) == 3 else []
        hidden, width = self._hidden_layers(self.latent_dim)
        return nn.Sequential(*hidden, nn.Linear(width, math.prod(shape)), *bounding, nn.Unflatten(1, shape))

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        hidden, width = self._hidden_layers(math.prod(shape))
        return Critic(nn.Sequential(nn.Flatten(), *hidden), width)
