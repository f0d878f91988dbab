"""Frechet distance between two Gaussians, from streamed float64 statistics (Heusel et al. 2017, equation 6)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep.common.files import atomic_replacement
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
        with atomic_replacement(path) as temporary, temporary.open("wb") as out:
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
        InputError: for another file, or arrays that are not statistics.
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


def no_moments() -> Tensor:
    """Return the moments of no features, of any number of dimensions: ``[1, 1]``, float64."""
    return torch.zeros(1, 1, dtype=torch.float64)


def add_to_moments(moments: Tensor, features: Tensor) -> Tensor:
    """Return the moments of some features and of further ones; memory does not grow with their number.

    Moments are a matrix ``[D + 3, D]``, float64. Its first D rows hold the sum of the outer products of the features
    relative to a shift, and the last three the sum of the features relative to the shift, the shift, and the number of
    features (in each column). The shift is the mean of the first batch, which avoids cancellation when the mean is
    large.

    Args:
        moments: Moments of the earlier features, which are changed in place, or `no_moments`.
        features: The further features ``[N, D]``; N may be 0.
    """
    features = features.double()
    dimensions = features.shape[1]
    if len(moments) == 1:
        moments = torch.zeros(dimensions + 3, dimensions, dtype=torch.float64, device=features.device)
    if not len(features):
        return moments
    outer, total, shift, count = _parts(moments)
    shift.copy_(torch.where(count == 0, features.mean(0), shift))  # without waiting for a GPU
    centred = features - shift
    total += centred.sum(0)
    outer.addmm_(centred.T, centred)
    count += len(features)
    return moments


def _parts(moments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the parts of moments, which share their memory: sum of outer products, sum, shift and number."""
    return moments[:-3], moments[-3], moments[-2], moments[-1]


def merge_moments(moments: Tensor) -> Tensor:
    """Return the moments of several sets of features together (Chan et al. 1979).

    Args:
        moments: The moments of P sets, ``[P, D + 3, D]``.
    """
    filled = [part for part in moments if part[-1, 0]]
    if len(filled) < 2:
        only: Tensor = (filled or list(moments))[0]
        return only.clone()
    count, mean, scatter = _central(filled[0])
    for part in filled[1:]:
        other_count, other_mean, other_scatter = _central(part)
        total, gap = count + other_count, other_mean - mean
        scatter = scatter + other_scatter + torch.outer(gap, gap) * (count * other_count / total)
        mean = mean + gap * (other_count / total)
        count = total
    return torch.cat([scatter, torch.zeros_like(mean)[None], mean[None], count.expand_as(mean)[None]])


def _central(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of features, their mean, and the sum of the outer products relative to it."""
    outer, total, shift, counts = _parts(moments)
    offset = total / counts[0]
    return counts[0], shift + offset, outer - counts[0] * torch.outer(offset, offset)


def statistics_from(moments: Tensor) -> Statistics:
    """Return the statistics of features from their moments.

    Raises:
        ValueError: if there are fewer than 2 features.
    """
    count = int(moments[-1, 0])
    if count < 2:
        raise ValueError(f"a covariance needs 2 features or more, got {count}")
    _, mean, scatter = _central(moments)
    return Statistics(mean.cpu(), (scatter / (count - 1)).cpu(), count)


def statistics_of(features: Tensor) -> Statistics:
    """Return the statistics of features ``[N, D]``."""
    moments = no_moments()
    for part in features.split(4096):
        moments = add_to_moments(moments, part)
    return statistics_from(moments)


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


RANK = 1e-10
"""Eigenvalues below this, relative to the largest, count as 0 where their inverses are needed."""


def frechet_influence(real: Statistics, generated: Statistics, features: Tensor) -> Tensor:
    """Return how much each feature vector moves the Frechet distance: its influence function ``[N]``, float64.

    If one of N generated features is replaced, the distance changes by the difference of their influences divided by N,
    to first order. The gradient with respect to the generated mean is 2 (m2 - m1), and with respect to their covariance
    it is I - T, where T = R (R S2 R)^(-1/2) R maps the generated Gaussian optimally to the real one (up to the means).

    Args:
        real: Statistics with m1 and S1; R is the square root of S1.
        generated: Statistics with m2 and S2.
        features: Feature vectors ``[N, D]``, whose statistics are `generated`.
    """
    product = real.root @ generated.covariance @ real.root
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    inverse_roots = torch.where(values > RANK * values[-1], values.clamp_min(0).rsqrt(), 0)
    optimal_map = real.root @ (vectors * inverse_roots) @ vectors.T @ real.root
    gradient = torch.eye(len(values), dtype=torch.float64) - optimal_map
    gap = generated.mean - real.mean
    influences = []
    for part in features.split(4096):
        centred = part.double() - generated.mean
        influences.append(2 * centred @ gap + ((centred @ gradient) * centred).sum(1))
    return torch.cat(influences)
