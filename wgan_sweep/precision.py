"""Arithmetic of a step: contexts that set it and put the old one back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from wgan_sweep.errors import InputError

Precision = Callable[[], AbstractContextManager[None]]


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


@contextmanager
def _bf16(device: torch.device) -> Iterator[None]:
    with _tf32(allowed=True), torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        yield


def precision(name: str, device: torch.device) -> Precision:
    """Return the context that networks run in.

    Args:
        name: ``fp32`` (no TF32 anywhere), ``tf32`` (CUDA only) or ``bf16`` (autocast: weights, norms of gradients, the
            gradient term and the losses stay float32).
        device: Where the networks are.

    Raises:
        InputError: for another name, or for tf32 without CUDA.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"train.precision=tf32 needs a CUDA device, this run is on {device}: use fp32")
    contexts: dict[str, Precision] = {
        "fp32": lambda: _tf32(allowed=False),
        "tf32": lambda: _tf32(allowed=True),
        "bf16": lambda: _bf16(device),
    }
    if name not in contexts:
        raise InputError(f"unknown train.precision={name}: choose one of {', '.join(contexts)}")
    return contexts[name]
