"""The Frechet distance between two Gaussians, from streamed float64 statistics (Heusel et al. 2017, equation 6)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.common.files import replacing


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of `count` features; float64, on the CPU."""

    mean: Tensor
    """``[D]``"""
    covariance: Tensor
    """``[D, D]``, with N - 1 below."""
    count: int
    space: str = ""
    """The feature space, where the statistics leave their context."""

    @cached_property
    def root(self) -> Tensor:
        """The covariance's symmetric square root ``[D, D]``."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return root

    def save(self, path: Path) -> None:
        """Write mean, covariance, its root and count to an npz file, atomically."""
        with replacing(path) as temporary, temporary.open("wb") as out:
            np.savez(
                out, mean=self.mean, covariance=self.covariance, root=self.root, count=self.count, space=self.space
            )

    @classmethod
    def read(cls, path: Path) -> "Statistics":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[name]) for name in ("mean", "covariance"))
            found = cls(mean, covariance, int(arrays["count"]), str(arrays["space"]))
            found.__dict__["root"] = torch.from_numpy(arrays["root"])
        return found


class Accumulator:
    """Collects statistics batch by batch: memory does not grow with the number of features seen.

    Sums are taken about the first batch's mean, so that nothing cancels when the mean is large.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Add features ``[N, D]``."""
        features = features.double()
        if self._shift is None:
            self._shift = features.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._outer = torch.zeros(2 * self._shift.shape, dtype=torch.float64, device=features.device)
        centred = features - self._shift
        self._sum += centred.sum(0)
        self._outer.addmm_(centred.T, centred)
        self.count += len(features)

    def statistics(self) -> Statistics:
        """Return the statistics of all features so far.

        Raises:
            ValueError: if there are fewer than 2.
        """
        if self._shift is None or self.count < 2:
            raise ValueError(f"a covariance needs 2 features or more, got {self.count}")
        offset = self._sum / self.count
        covariance = (self._outer - self.count * torch.outer(offset, offset)) / (self.count - 1)
        return Statistics((self._shift + offset).cpu(), covariance.cpu(), self.count)


def statistics_of(features: Tensor) -> Statistics:
    """Return the statistics of features ``[N, D]``."""
    accumulator = Accumulator()
    for part in features.split(4096):
        accumulator.add(part)
    return accumulator.statistics()


def frechet_distance(reference: Statistics, other: Statistics) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    The last trace is that of (R S2 R)^(1/2) with R the reference's root: a symmetric matrix, so its eigenvalues are
    real and the result has no imaginary part to drop, also where a covariance is singular (fewer features than
    dimensions).

    Raises:
        ValueError: if the dimensions differ, or a statistic is not finite.
    """
    if reference.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(reference.mean)} and of {len(other.mean)} dimensions cannot be compared")
    for name, found in (("reference", reference), ("other", other)):
        if not (found.mean.isfinite().all() and found.covariance.isfinite().all()):
            raise ValueError(f"the {name} features are not finite: the images or the network are damaged")
    product = reference.root @ other.covariance @ reference.root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    cross = eigenvalues.clamp_min(0).sqrt().sum()
    gap = (reference.mean - other.mean).square().sum()
    return float(gap + reference.covariance.trace() + other.covariance.trace() - 2 * cross)
