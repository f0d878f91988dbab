"""What is done to training beside the objective and the constraint, to keep it stable."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wgan_sweep.errors import InputError


def _as_is(batch: Tensor, step: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return batch


@dataclass(frozen=True)
class Stabiliser:
    """A stabiliser; it does nothing unless given."""

    view: Callable[[Tensor, int, torch.Generator], Tensor] = _as_is
    """(batch ``[N, ...]``, step, generator) to what the critic sees of it, real and fake alike."""


def none() -> Stabiliser:
    """No stabiliser."""
    return Stabiliser()


def instance_noise(std: float, steps: int) -> Stabiliser:
    """Gaussian noise on all that the critic sees, annealed to 0 (Arjovsky & Bottou 2017; Sonderby et al. 2017).

    Args:
        std: Standard deviation at step 0, in units of the data (images: [-1, 1]).
        steps: Generator updates over which it falls to 0, linearly.

    Raises:
        InputError: unless std > 0 and steps >= 1.
    """
    if not std > 0 or steps < 1:
        raise InputError(
            f"instance noise needs std > 0 and steps >= 1, got stabiliser.std={std:g} stabiliser.steps={steps}"
        )

    def view(batch: Tensor, step: int, generator: torch.Generator) -> Tensor:
        left = max(0.0, 1.0 - step / steps)
        if left == 0.0:
            return batch
        noise = torch.randn(batch.shape, generator=generator, device=batch.device, dtype=batch.dtype)
        return batch + std * left * noise

    return Stabiliser(view)
