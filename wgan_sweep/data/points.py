"""Toy distributions of points, for which distances to generated samples can be computed exactly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.common.plots import draw_points
from wgan_sweep.common.ranges import Coordinate, Length, Range
from wgan_sweep.common.subspaces import random_basis
from wgan_sweep.errors import InputError

MAX_SIDE = 100
"""The most modes along a side of a grid."""
MAX_DIM = 4096
"""The most coordinates of a point."""
Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True, eq=False)
class Points:
    """A distribution of points.

    Args:
        shape: Shape (D,) of one point.
        draw: Draws N points ``[N, D]``, float32, with a CPU generator.
        modes: Centres ``[M, D]`` of the components of a Gaussian mixture; None for other distributions.
        std: Standard deviation of the components.
        num_pictured: Number of points in a picture of samples.
    """

    shape: tuple[int, ...]
    draw: Draw
    modes: Tensor | None = None
    std: float = 0.0
    num_pictured: int = 1000

    def batches(self, batch_size: int, seed: int, device: torch.device) -> "PointBatches":
        """Return endless batches of new points."""
        return PointBatches(self.draw, batch_size, seed, device)

    def to_samples(self, generated: Tensor) -> Tensor:
        """Return the generator's outputs as points that are shown and scored: detached, on the CPU."""
        return detached(generated)

    def draw_samples(self, samples: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """Draw generated points, as many real ones, and the critic's level sets and gradient field.

        Args:
            samples: Generated points ``[N, D]``, on the CPU.
            critic: Maps points ``[N, D]`` on the CPU to the critic's outputs ``[N]``.

        Returns:
            uint8 ``[H, W, 3]``.
        """
        return draw_points(self.draw(len(samples), rng.generator(0, "picture")), samples, critic)


def detached(points: Tensor) -> Tensor:
    """Return points that are not part of a computation any more, on the CPU."""
    return points.detach().cpu()


class PointBatches:
    """Endless batches of points. Batch i is drawn from its own random stream, so i is the whole state."""

    def __init__(self, draw: Draw, batch_size: int, seed: int, device: torch.device) -> None:
        self.batch_size = batch_size
        self.drawn = 0
        self._draw = draw
        self._seed = seed
        self._device = device

    def next_raw(self) -> Tensor:
        """Return the next batch ``[batch_size, D]``."""
        batch = self._draw(self.batch_size, rng.generator(self._seed, "real", self.drawn))
        self.drawn += 1
        return batch.to(self._device)

    def decode(self, raw: Tensor) -> Tensor:
        """Return the batch itself: points need no decoding."""
        return raw

    def __call__(self) -> Tensor:
        """Return the next batch."""
        return self.next_raw()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        self.drawn = int(state["drawn"])


def _mixture(modes: Tensor, std: float) -> Points:
    def draw(count: int, generator: torch.Generator) -> Tensor:
        component = torch.randint(len(modes), (count,), generator=generator)
        return modes[component] + std * torch.randn(count, modes.shape[1], generator=generator)

    return Points((modes.shape[1],), draw, modes, std)


@dataclass(frozen=True)
class GaussianRing:
    """A mixture of Gaussians with centres evenly spaced on a circle in the plane."""

    modes: Annotated[int, Range(1, MAX_SIDE**2)]
    radius: Length
    std: Length

    def load(self) -> Points:
        """Return the mixture."""
        angle = 2 * math.pi * torch.arange(self.modes) / self.modes
        return _mixture(self.radius * torch.stack([angle.cos(), angle.sin()], 1), self.std)


@dataclass(frozen=True)
class GaussianGrid:
    """A mixture of side x side Gaussians with centres on a grid in the plane, centred at 0."""

    side: Annotated[int, Range(1, MAX_SIDE)]
    spacing: Length
    std: Length

    def load(self) -> Points:
        """Return the mixture."""
        axis = (torch.arange(self.side) - (self.side - 1) / 2) * self.spacing
        return _mixture(torch.cartesian_prod(axis, axis), self.std)


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution on R^dim, or on a random subspace through its mean, with one std in all its directions.

    Args:
        dim: Dimension of the space.
        support: Dimension of the subspace; None for the whole space.
        shift: Distance of the mean from 0, along the first coordinate.
        std: Standard deviation in every direction of the subspace.
    """

    dim: Annotated[int, Range(1, MAX_DIM)]
    support: Annotated[int, Range(1, MAX_DIM)] | None
    shift: Coordinate
    std: Length

    def load(self) -> Points:
        """Return the distribution.

        Raises:
            InputError: if the subspace has more dimensions than the space.
        """
        support = self.dim if self.support is None else self.support
        if support > self.dim:
            raise InputError(f"data.support must be at most data.dim={self.dim}, got {support}")
        basis = random_basis(self.dim, support, rng.generator(0, "subspace", self.dim, support))
        mean = self.shift * torch.eye(self.dim)[0]

        def draw(count: int, generator: torch.Generator) -> Tensor:
            return mean + self.std * torch.randn(count, support, generator=generator) @ basis

        return Points((self.dim,), draw)


@dataclass(frozen=True)
class SwissRoll:
    """A spiral in the plane, t (cos t, sin t) / scale for t uniform in [1.5 pi, 4.5 pi], with Gaussian noise."""

    scale: Length
    noise: Length

    def load(self) -> Points:
        """Return the distribution."""

        def draw(count: int, generator: torch.Generator) -> Tensor:
            t = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
            spiral = torch.stack([t * t.cos(), t * t.sin()], 1) / self.scale
            return spiral + self.noise * torch.randn(count, 2, generator=generator)

        return Points((2,), draw)


@dataclass(frozen=True)
class ShiftedUniform:
    """The uniform distribution on [theta, theta + 1], on the line."""

    theta: Coordinate

    def load(self) -> Points:
        """Return the distribution."""
        return Points((1,), lambda count, generator: self.theta + torch.rand(count, 1, generator=generator))


@dataclass(frozen=True)
class TwoIntervals:
    """The uniform distributions on [0, 1] and on [theta, theta + 1], on the line, in equal shares."""

    theta: Coordinate

    def load(self) -> Points:
        """Return the distribution."""

        def draw(count: int, generator: torch.Generator) -> Tensor:
            is_shifted = torch.rand(count, 1, generator=generator) < 0.5
            return torch.rand(count, 1, generator=generator) + self.theta * is_shifted

        return Points((1,), draw)


@dataclass(frozen=True)
class PointMass:
    """A point mass (the Dirac-GAN of Mescheder et al. 2018)."""

    at: list[Coordinate]

    def load(self) -> Points:
        """Return the distribution.

        Raises:
            InputError: for a point without coordinates.
        """
        if not self.at:
            raise InputError("data.at must have one coordinate or more, got []")
        point = torch.tensor(self.at, dtype=torch.float32)
        return Points((len(self.at),), lambda count, generator: point.expand(count, -1))  # noqa: ARG005


@dataclass(frozen=True)
class ParallelLines:
    """The uniform distribution on the segment {theta} x [0, 1] in the plane (Arjovsky et al. 2017, example 1)."""

    theta: Coordinate

    def load(self) -> Points:
        """Return the distribution."""

        def draw(count: int, generator: torch.Generator) -> Tensor:
            height = torch.rand(count, 1, generator=generator)
            return torch.cat([torch.full_like(height, self.theta), height], 1)

        return Points((2,), draw)
