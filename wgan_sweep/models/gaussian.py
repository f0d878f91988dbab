"""A generator that is a normal distribution with a learned location."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgan_sweep.common.ranges import Coordinate, Length
from wgan_sweep.common.subspaces import random_basis
from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, check_sizes
from wgan_sweep.models.mlp import MLP, Depth


class AffineNoise(nn.Module):
    """A normal distribution: from ``[N, M]`` standard normal z to ``[N, D]`` points.

    Args:
        place: ``[D]``, the mean: the only parameter.
        directions: ``[M, D]``, what each component of z is multiplied by, fixed.
    """

    directions: Tensor

    def __init__(self, place: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(place)
        self.register_buffer("directions", directions)

    def forward(self, z: Tensor) -> Tensor:
        """Return place + z directions."""
        points: Tensor = self.place + z @ self.directions
        return points


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution with a learned location, on a random subspace, and an MLP critic.

    Args:
        latent_dim: Size of z: the dimension of the subspace.
        shift: Initial distance of the mean from 0, along the first coordinate.
        std: Standard deviation in every direction of the subspace.
        dim: Width of the critic's hidden layers.
        depth: Number of the critic's hidden layers; 0 gives a linear critic.

    Raises:
        InputError: If a size is below 1.
    """

    latent_dim: int
    shift: Coordinate
    std: Length
    dim: int
    depth: Depth

    def __post_init__(self) -> None:
        check_sizes(latent_dim=self.latent_dim, dim=self.dim)

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, D]``. The subspace is drawn by torch's global generator.

        Raises:
            InputError: If the data are not points with `latent_dim` coordinates or more.
        """
        if len(shape) != 1:
            raise InputError(f"model=gaussian generates points, but the data has shape {shape}: use model=dcgan")
        (coordinates,) = shape
        if self.latent_dim > coordinates:
            raise InputError(
                f"model.latent_dim must be at most the number of coordinates of the data, {coordinates}, "
                f"got {self.latent_dim}"
            )
        directions = self.std * random_basis(coordinates, self.latent_dim)
        return AffineNoise(self.shift * torch.eye(coordinates)[0], directions)

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, D]`` to ``[N]`` outputs."""
        return MLP(self.dim, self.depth, 1).critic(shape)
