"""A generator whose only parameters say where it is: what theory can be computed for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, check_sizes
from wgan_sweep.models.mlp import MLP


class MovedBox(nn.Module):
    """The uniform distribution on a box at `place`, its parameter: ``[N, D]`` normal z to ``[N, D]`` points."""

    sides: Tensor

    def __init__(self, place: Tensor, sides: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(place)
        self.register_buffer("sides", sides)

    def forward(self, z: Tensor) -> Tensor:
        """Return place + sides * u, with u uniform in [0, 1] by the normal distribution function."""
        moved: Tensor = self.place + self.sides * (1 + torch.erf(z / math.sqrt(2))) / 2
        return moved


@dataclass(frozen=True)
class Location:
    """A box that is moved (Arjovsky et al. 2017, example 1: (theta, u), theta the parameter), against an MLP critic.

    Args:
        sides: Of the box: [1] is an interval, [0, 1] a segment in the plane, zeros are a point.
        place: Where its corner is at first.
        dim: Width of the critic's hidden layers.
        depth: How many of them; 0 makes the critic linear.

    Raises:
        InputError: for sides and a place of different lengths, or a size out of range.
    """

    sides: list[float]
    place: list[float]
    dim: int
    depth: int

    def __post_init__(self) -> None:
        if len(self.sides) != len(self.place):
            raise InputError(
                f"model.sides and model.place must have as many coordinates, got {self.sides} and {self.place}"
            )
        check_sizes(dim=self.dim)
        _ = self._critic

    @property
    def latent_dim(self) -> int:
        """One number per coordinate."""
        return len(self.sides)

    @property
    def _critic(self) -> MLP:
        return MLP(self.dim, self.depth, 1)

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return the box, ``[N, D]`` to ``[N, D]``.

        Raises:
            InputError: for data of another shape.
        """
        if shape != (len(self.sides),):
            raise InputError(f"model=location has {len(self.sides)} coordinates (model.sides), the data has {shape}")
        return MovedBox(*(torch.tensor(values, dtype=torch.float32) for values in (self.place, self.sides)))

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, D]`` to ``[N]`` scores."""
        return self._critic.critic(shape)
