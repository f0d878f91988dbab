"""r(x): where the critic's gradient is looked at.

A sampling takes the batch's real and fake examples (both ``[N, ...]``) and a generator, and returns ``N`` points. Every
scheme returns the same number of points, so that sweeping r(x) changes where the gradient is looked at and neither the
cost of a step nor the variance that comes from a smaller sample. An interpolation draws one epsilon per example.

Wu et al., Wasserstein Divergence for GANs, ECCV 2018 (the six schemes).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Sampling = Callable[[Tensor, Tensor, torch.Generator], Tensor]


class Split(NamedTuple):
    """The pool of a batch's real and fake examples, in two halves of N."""

    points: Tensor
    """``[N, ...]``: where the gradient is looked at."""
    rest: Tensor
    """``[N, ...]``: all others."""
    places: Tensor
    """``[2 N]``: where each real example is, then each fake one, in points and rest one after the other."""


def _between(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Return one point on each segment from `second` to `first`, uniform along it."""
    shape = (first.shape[0],) + (1,) * (first.dim() - 1)
    epsilon = torch.rand(shape, generator=generator, device=first.device, dtype=first.dtype)
    return torch.lerp(second, first, epsilon)


def _shuffled(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=like.device)


def _pairs_within(batch: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Interpolate `count` pairs of one batch; an example meets itself only where the batch holds no other."""
    total = batch.shape[0]
    order = _shuffled(total, batch, generator)
    partner = (torch.arange(count, device=batch.device) + count) % total
    return _between(batch[order[:count]], batch[order[partner]], generator)


def real_fake(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(1) Between a real and a fake example (WGAN-GP's choice and the default of the W-div paper)."""
    return _between(real, fake, generator)


def within_source(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(2) Between two real examples, and between two fake ones: half of the points each (real has the odd one)."""
    fakes = fake.shape[0] // 2
    inside_real = _pairs_within(real, real.shape[0] - fakes, generator)
    return torch.cat([inside_real, _pairs_within(fake, fakes, generator)]) if fakes else inside_real


def mixed_pairs(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(3) Between two examples picked at random from the pool of real and fake ones."""
    return _pairs_within(torch.cat([real, fake]), real.shape[0], generator)


def _split_mixture(real: Tensor, fake: Tensor, generator: torch.Generator) -> Split:
    count = real.shape[0]
    fakes = fake.shape[0] // 2
    of_real = _shuffled(count, real, generator).split([count - fakes, fakes])
    of_fake = _shuffled(fake.shape[0], fake, generator).split([fakes, fake.shape[0] - fakes])
    halves = [torch.cat([real[r], fake[f]]) for r, f in zip(of_real, of_fake, strict=True)]
    order = torch.cat([of_real[0], count + of_fake[0], of_real[1], count + of_fake[1]])
    return Split(halves[0], halves[1], order.argsort())


def mixture(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(4) The raw pool: half of the points real examples, half fake ones (real has the odd one), picked at random."""
    return _split_mixture(real, fake, generator).points


def fake(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """(5) The raw fake examples."""
    return fake


def real(real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """(6) The raw real examples (where R1 looks, too)."""
    return real


def perturbed_real(real: Tensor, fake: Tensor, generator: torch.Generator, scale: float = 0.5) -> Tensor:  # noqa: ARG001
    """Around the real examples (DRAGAN, Kodali et al. 2017, in its public code's form).

    x + epsilon * scale * s * u with s the standard deviation of the whole batch, u uniform in [0, 1] per value, and one
    epsilon uniform in [0, 1] per example.
    """
    noise = torch.rand(real.shape, generator=generator, device=real.device, dtype=real.dtype)
    return _between(real + scale * real.std() * noise, real, generator)


POOL_SPLITS: dict[Sampling, Callable[[Tensor, Tensor, torch.Generator], Split]] = {mixture: _split_mixture}


def pool_split(sampling: Sampling) -> Callable[[Tensor, Tensor, torch.Generator], Split] | None:
    """Return what splits the pool into a sampling's points and the rest; None where it makes points of its own."""
    return POOL_SPLITS.get(sampling.func if isinstance(sampling, partial) else sampling)
