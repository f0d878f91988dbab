"""A generator whose only parameter is a location: its distances to the data have closed forms."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, check_sizes
from wgan_sweep.models.mlp import MLP, Depth


class UniformBox(nn.Module):
    """The uniform distribution on a box: from ``[N, D]`` normal z to ``[N, D]`` points.

    Args:
        place: ``[D]``, the lowest corner of the box: the only parameter.
        sides: ``[D]``, the lengths of the sides, fixed.
    """

    sides: Tensor

    def __init__(self, place: Tensor, sides: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(place)
        self.register_buffer("sides", sides)

    def forward(self, z: Tensor) -> Tensor:
        """Return place + sides * u, where u = Phi(z) is uniform in [0, 1] (Phi: the normal distribution function)."""
        points: Tensor = self.place + self.sides * (1 + torch.erf(z / math.sqrt(2))) / 2
        return points


@dataclass(frozen=True)
class Location:
    """A uniform box with a learned location, and an MLP critic.

    Arjovsky et al. 2017, example 1, trains such a generator: (theta, u) with theta the parameter and u uniform.

    Args:
        sides: Lengths of the sides: [1] is an interval, [0, 1] a segment in the plane, zeros are a point.
        place: Initial location of the lowest corner.
        dim: Width of the critic's hidden layers.
        depth: Number of the critic's hidden layers; 0 gives a linear critic.

    Raises:
        InputError: If `sides` and `place` differ in length, or if a size is out of range.
    """

    sides: list[float]
    place: list[float]
    dim: int
    depth: Depth

    def __post_init__(self) -> None:
        if len(self.sides) != len(self.place):
            raise InputError(
                f"model.sides and model.place must have the same length, got {self.sides} and {self.place}"
            )
        check_sizes(dim=self.dim)

    @property
    def latent_dim(self) -> int:
        """Size of z: one value per coordinate."""
        return len(self.sides)

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return the box, a network from ``[N, D]`` to ``[N, D]``.

        Raises:
            InputError: If the data are not points with D coordinates.
        """
        if shape != (len(self.sides),):
            raise InputError(f"model=location has {len(self.sides)} coordinates (model.sides), the data has {shape}")
        return UniformBox(*(torch.tensor(values, dtype=torch.float32) for values in (self.place, self.sides)))

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, D]`` to ``[N]`` outputs."""
        return MLP(self.dim, self.depth, 1).critic(shape)
