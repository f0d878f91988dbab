"""Arithmetic of a step: contexts that set it and put the old one back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from wgan_sweep.errors import InputError

Context = Callable[[], AbstractContextManager[None]]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in CUDA's matrix products and convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Precision:
    """How numbers are computed with."""

    step: Context
    """Around forward and backward passes alike."""
    forward: Context
    """Around a network's forward pass, inside of `step`."""


def precision(name: str, device: torch.device) -> Precision:
    """Return the contexts that networks run in.

    Args:
        name: ``fp32`` (no TF32 anywhere), ``tf32`` (CUDA only) or ``bf16`` (autocast: weights, norms of gradients, the
            gradient term and the losses stay float32).
        device: Where the networks are.

    Raises:
        InputError: for another name, or for tf32 without CUDA.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"train.precision=tf32 needs a CUDA device, this run is on {device}: use fp32")
    choices = {
        "fp32": Precision(lambda: _tf32(allowed=False), nullcontext),
        "tf32": Precision(lambda: _tf32(allowed=True), nullcontext),
        "bf16": Precision(
            lambda: _tf32(allowed=True), lambda: torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
        ),
    }
    if name not in choices:
        raise InputError(f"unknown train.precision={name}: choose one of {', '.join(choices)}")
    return choices[name]
