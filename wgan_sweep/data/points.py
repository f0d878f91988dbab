"""Toy distributions of points, sampled endlessly: small enough that exact quantities can be computed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.common.plots import draw_points
from wgan_sweep.errors import InputError

Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True, eq=False)
class Points:
    """A distribution of points.

    Args:
        shape: (D,), the shape of one point.
        draw: Draws N points ``[N, D]``, float32, with a generator of the CPU.
        modes: Centres ``[M, D]`` of a mixture of Gaussians; none for another distribution.
        std: Their standard deviation.
        num_pictured: How many points a picture shows.
    """

    shape: tuple[int, ...]
    draw: Draw
    modes: Tensor | None = None
    std: float = 0.0
    num_pictured: int = 1000

    def batches(self, batch_size: int, seed: int, device: torch.device) -> "PointBatches":
        """Return endless batches, all of them new points."""
        return PointBatches(self.draw, batch_size, seed, device)

    def finish(self, made: Tensor) -> Tensor:
        """Return what a generator made, as it is compared: points as they are."""
        return made.detach().cpu()

    def picture(self, made: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """Draw points over the distribution's own, with the critic's level sets and gradient field; ``[H, W, 3]``."""
        return draw_points(self.draw(len(made), rng.generator(0, "picture")), made, critic)


class PointBatches:
    """Batch i of a seed is drawn from a stream of its own, so the position is all of the state."""

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
        """Return the batch made of what `next_raw` returned: that itself."""
        return raw

    def __call__(self) -> Tensor:
        """Return the next batch."""
        return self.next_raw()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self.drawn = int(state["drawn"])


def _mixture(modes: Tensor, std: float) -> Points:
    def draw(count: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(modes), (count,), generator=generator)
        return modes[which] + std * torch.randn(count, modes.shape[1], generator=generator)

    return Points((modes.shape[1],), draw, modes, std)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"data.{name} must be above 0, got {value:g}")


@dataclass(frozen=True)
class GaussianRing:
    """Gaussians evenly on a circle in the plane."""

    modes: int
    radius: float
    std: float

    def load(self) -> Points:
        """Return the mixture.

        Raises:
            InputError: for a number that is not positive.
        """
        _positive(modes=self.modes, radius=self.radius, std=self.std)
        angle = 2 * math.pi * torch.arange(self.modes) / self.modes
        return _mixture(self.radius * torch.stack([angle.cos(), angle.sin()], 1), self.std)


@dataclass(frozen=True)
class GaussianGrid:
    """side x side Gaussians on a grid about 0 in the plane."""

    side: int
    spacing: float
    std: float

    def load(self) -> Points:
        """Return the mixture.

        Raises:
            InputError: for a number that is not positive.
        """
        _positive(side=self.side, spacing=self.spacing, std=self.std)
        axis = (torch.arange(self.side) - (self.side - 1) / 2) * self.spacing
        return _mixture(torch.cartesian_prod(axis, axis), self.std)


@dataclass(frozen=True)
class SwissRoll:
    """A spiral in the plane, t (cos t, sin t) / scale for t uniform in [1.5 pi, 4.5 pi], with Gaussian noise."""

    scale: float
    noise: float

    def load(self) -> Points:
        """Return the distribution.

        Raises:
            InputError: for a number that is not positive.
        """
        _positive(scale=self.scale, noise=self.noise)

        def draw(count: int, generator: torch.Generator) -> Tensor:
            t = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
            spiral = torch.stack([t * t.cos(), t * t.sin()], 1) / self.scale
            return spiral + self.noise * torch.randn(count, 2, generator=generator)

        return Points((2,), draw)


@dataclass(frozen=True)
class ShiftedUniform:
    """The uniform distribution on [theta, theta + 1], on the line."""

    theta: float

    def load(self) -> Points:
        """Return the distribution."""
        return Points((1,), lambda count, generator: self.theta + torch.rand(count, 1, generator=generator))


@dataclass(frozen=True)
class PointMass:
    """One point, always (the Dirac-GAN of Mescheder et al. 2018)."""

    at: list[float]

    def load(self) -> Points:
        """Return the distribution.

        Raises:
            InputError: for a point of no coordinates.
        """
        if not self.at:
            raise InputError("data.at must have one coordinate or more, got []")
        place = torch.tensor(self.at, dtype=torch.float32)
        return Points((len(self.at),), lambda count, generator: place.expand(count, -1))  # noqa: ARG005


@dataclass(frozen=True)
class ParallelLines:
    """(theta, u) with u uniform in [0, 1]: parallel to the segment at theta = 0 (Arjovsky et al. 2017, example 1)."""

    theta: float

    def load(self) -> Points:
        """Return the distribution."""

        def draw(count: int, generator: torch.Generator) -> Tensor:
            height = torch.rand(count, 1, generator=generator)
            return torch.cat([torch.full_like(height, self.theta), height], 1)

        return Points((2,), draw)
