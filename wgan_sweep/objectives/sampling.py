"""Sampling schemes r(x): the points at which the critic's gradient is penalised.

A scheme takes a batch of real and of fake examples (``[N, ...]`` each) and a random number generator, and returns ``N``
points. All schemes return the same number of points, so that sweeping r(x) changes neither the cost of a step nor the
variance of the gradient term through the sample size. Interpolations draw one epsilon per example.

Wu et al., Wasserstein Divergence for GANs, ECCV 2018 (schemes 1 to 6).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Sampling = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""From (real ``[N, ...]``, fake ``[N, ...]``, random number generator) to points ``[N, ...]``."""


class PoolSplit(NamedTuple):
    """The real and fake examples of a batch, split into two halves of N."""

    points: Tensor
    """``[N, ...]``: the examples at which the critic's gradient is penalised."""
    rest: Tensor
    """``[N, ...]``: all other examples."""
    indices: Tensor
    """``[2 N]``: ``torch.cat([points, rest])[indices]`` is ``torch.cat([real, fake])``."""


PoolSplitter = Callable[[Tensor, Tensor, torch.Generator], PoolSplit]


def _interpolate(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Return one point per pair of examples, uniform on the segment from `second` to `first`."""
    shape = (first.shape[0],) + (1,) * (first.dim() - 1)
    epsilon = torch.rand(shape, generator=generator, device=first.device, dtype=first.dtype)
    return torch.lerp(second, first, epsilon)


def _random_order(count: int, device: torch.device, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=device)


def _interpolate_pairs(batch: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` interpolations between random pairs of `batch`.

    The two examples of a pair differ, unless the batch has only one example.
    """
    total = batch.shape[0]
    order = _random_order(total, batch.device, generator)
    partners = (torch.arange(count, device=batch.device) + count) % total
    return _interpolate(batch[order[:count]], batch[order[partners]], generator)


def real_fake(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(1) Between a real and a fake example (as WGAN-GP; the default of the W-div paper)."""
    return _interpolate(real, fake, generator)


def within_source(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(2) Between two real, or two fake examples: half of the points each (real gets the odd point)."""
    fake_count = fake.shape[0] // 2
    real_points = _interpolate_pairs(real, real.shape[0] - fake_count, generator)
    return torch.cat([real_points, _interpolate_pairs(fake, fake_count, generator)]) if fake_count else real_points


def mixed_pairs(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(3) Between two random examples of the pool of real and fake examples."""
    return _interpolate_pairs(torch.cat([real, fake]), real.shape[0], generator)


def _split_mixture(real: Tensor, fake: Tensor, generator: torch.Generator) -> PoolSplit:
    count = real.shape[0]
    fake_count = fake.shape[0] // 2
    real_parts = _random_order(count, real.device, generator).split([count - fake_count, fake_count])
    fake_parts = _random_order(fake.shape[0], fake.device, generator).split([fake_count, fake.shape[0] - fake_count])
    points, rest = (torch.cat([real[r], fake[f]]) for r, f in zip(real_parts, fake_parts, strict=True))
    order = torch.cat([real_parts[0], count + fake_parts[0], real_parts[1], count + fake_parts[1]])
    return PoolSplit(points, rest, order.argsort())


def mixture(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(4) Random examples of the pool: half of the points real, half fake (real gets the odd point)."""
    return _split_mixture(real, fake, generator).points


def fake(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """(5) The fake examples."""
    return fake


def real(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """(6) The real examples (also the points of R1)."""
    return real


def perturbed_real(real: Tensor, fake: Tensor, generator: torch.Generator, scale: float = 0.5) -> Tensor:  # noqa: ARG001
    """Near the real examples (DRAGAN, Kodali et al. 2017, as in its public code).

    x + epsilon * scale * s * u, where s is the standard deviation of the whole batch, u is uniform in [0, 1] for each
    value, and epsilon is uniform in [0, 1] for each example.
    """
    noise = torch.rand(real.shape, generator=generator, device=real.device, dtype=real.dtype)
    return _interpolate(real + scale * real.std() * noise, real, generator)


POOL_SPLITTERS: dict[Sampling, PoolSplitter] = {mixture: _split_mixture}


def pool_splitter(sampling: Sampling) -> PoolSplitter | None:
    """Return the function that splits a batch into a scheme's points and all other examples.

    The critic can then process points and rest as two batches, without a separate pass for the gradient term. None if
    the scheme returns other points than a selection from the pool.
    """
    return POOL_SPLITTERS.get(sampling.func if isinstance(sampling, partial) else sampling)
