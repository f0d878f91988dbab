"""Frechet distance between two Gaussians, from streamed float64 statistics (Heusel et al. 2017, equation 6)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep.common.files import replacing
from wgan_sweep.data.npz import array_names, read_arrays
from wgan_sweep.errors import InputError


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of `count` feature vectors; float64, on the CPU."""

    mean: Tensor
    """``[D]``"""
    covariance: Tensor
    """Unbiased sample covariance ``[D, D]`` (divided by N - 1)."""
    count: int
    space: str = ""
    """The feature space; set when the statistics are saved to a file that users exchange."""

    @cached_property
    def root(self) -> Tensor:
        """Symmetric square root ``[D, D]`` of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return root

    def save(self, path: Path) -> None:
        """Write mean, covariance, square root, count and feature space to an npz file, atomically."""
        with replacing(path) as temporary, temporary.open("wb") as out:
            np.savez(
                out, mean=self.mean, covariance=self.covariance, root=self.root, count=self.count, space=self.space
            )


SYMMETRY = 1e-5
"""How far a covariance may be from symmetric, and a square root from the covariance, relative to its largest value."""
NEGATIVE = -1e-4
"""The lowest eigenvalue of a covariance, relative to the highest: files in float32 have values below 0 by rounding."""


def read_statistics(path: Path) -> Statistics:
    """Read statistics that `Statistics.save` wrote, or ``mu`` ``[D]`` and ``sigma`` ``[D, D]`` of another program.

    Raises:
        FileNotFoundError: if there is no file.
        InputError: for another file, or arrays that are no statistics.
    """
    names = array_names(path)
    if {"mu", "sigma"} <= names:
        arrays = read_arrays(path, ["mu", "sigma"])
        mean, covariance = (_numbers(arrays[name], name, path) for name in ("mu", "sigma"))
        count, space, root = 0, "", None
    else:
        if missing := sorted({"mean", "covariance", "root", "count", "space"} - names):
            raise InputError(f"{path} lacks {', '.join(missing)}: statistics are written by wgan-score --save")
        arrays = read_arrays(path, ["mean", "covariance", "root", "count", "space"])
        mean, covariance, root = (_numbers(arrays[name], name, path) for name in ("mean", "covariance", "root"))
        if arrays["count"].shape or arrays["count"].dtype.kind not in "iu" or arrays["count"] < 2:
            raise InputError(f"count in {path} must be an integer of 2 or more")
        if arrays["space"].shape or arrays["space"].dtype.kind != "U":
            raise InputError(f"space in {path} must be a text, the name of the feature space")
        count, space = int(arrays["count"]), str(arrays["space"])
    if mean.dim() != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"the mean and the covariance in {path} have shapes {list(mean.shape)} and {list(covariance.shape)}: "
            "statistics have [D] and [D, D]"
        )
    statistics = Statistics(mean, covariance, count, space)
    largest = covariance.abs().max()
    if (covariance - covariance.T).abs().max() > SYMMETRY * largest:
        raise InputError(f"the covariance in {path} is not symmetric: it is damaged, or no covariance")
    if root is None:
        eigenvalues = torch.linalg.eigvalsh(covariance)
        if eigenvalues[0] < NEGATIVE * eigenvalues[-1].abs():
            raise InputError(f"the covariance in {path} has negative eigenvalues: it is damaged, or no covariance")
    elif root.shape != covariance.shape or not (root @ root - covariance).abs().max() <= SYMMETRY * largest:
        raise InputError(f"root in {path} is not the square root of the covariance: save the statistics again")
    else:
        statistics.__dict__["root"] = root
    return statistics


def _numbers(values: NDArray[Any], name: str, path: Path) -> Tensor:
    """Return finite real numbers as float64."""
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} in {path} is {values.dtype}: statistics are real numbers")
    numbers = torch.from_numpy(values.astype(np.float64))
    if not numbers.isfinite().all():
        raise InputError(f"{name} in {path} has values that are not finite: compute the statistics again")
    return numbers


class Accumulator:
    """Accumulates statistics batch by batch, in memory that does not depend on the number of features.

    Sums are taken relative to the mean of the first batch, which avoids cancellation when the mean is large.
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
        """Return the statistics of all features added so far.

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


def frechet_distance(real: Statistics, generated: Statistics) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    The trace of (S1 S2)^(1/2) equals that of (R S2 R)^(1/2), where R is the square root of S1. R S2 R is symmetric, so
    its eigenvalues are real and no imaginary part has to be discarded, even if a covariance is singular (fewer features
    than dimensions).

    Args:
        real: Statistics with m1 and S1; its square root is cached.
        generated: Statistics with m2 and S2.

    Raises:
        ValueError: if the dimensions differ, or a statistic is not finite.
    """
    if real.mean.shape != generated.mean.shape:
        raise ValueError(f"features of {len(real.mean)} and of {len(generated.mean)} dimensions cannot be compared")
    for name, statistics in (("real", real), ("generated", generated)):
        if not (statistics.mean.isfinite().all() and statistics.covariance.isfinite().all()):
            raise ValueError(f"the {name} features are not finite: the images or the network are damaged")
    product = real.root @ generated.covariance @ real.root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    cross = eigenvalues.clamp_min(0).sqrt().sum()
    gap = (real.mean - generated.mean).square().sum()
    return float(gap + real.covariance.trace() + generated.covariance.trace() - 2 * cross)
