"""Arithmetic of a step: contexts that set it and put the old one back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

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

    name: str
    step: Context
    """Around forward and backward passes alike."""
    forward: Context
    """Around a network's forward pass, inside of `step`."""
    scale: float = 1.0
    """What an objective is multiplied with for its backward pass, and its gradient divided by."""
    why: str = ""
    """Why it was chosen, where the user left that open."""


FP16_SCALE = 1024.0
"""A power of two, so that it rounds nothing; without it small gradients fall out of float16's range."""


def precision(name: str, device: torch.device) -> Precision:
    """Return the contexts that networks run in.

    Args:
        name: ``fp32`` (no TF32 anywhere), ``tf32`` (CUDA only), ``bf16`` or ``fp16`` (autocast: weights, norms of
            gradients, the gradient term and the losses stay float32), or ``auto``: tf32 on CUDA, else
            fp32.
        device: Where the networks are.

    Raises:
        InputError: for another name, or for tf32 without CUDA.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"train.precision=tf32 needs a CUDA device, this run is on {device}: use fp32")

    def cast(dtype: torch.dtype) -> Context:
        return lambda: torch.autocast(device.type, dtype, cache_enabled=False)

    choices = {
        "fp32": Precision("fp32", lambda: _tf32(allowed=False), nullcontext),
        "tf32": Precision("tf32", lambda: _tf32(allowed=True), nullcontext),
        "bf16": Precision("bf16", lambda: _tf32(allowed=True), cast(torch.bfloat16)),
        "fp16": Precision("fp16", lambda: _tf32(allowed=True), cast(torch.float16), FP16_SCALE),
    }
    if name == "auto":
        if device.type == "cuda":
            return replace(choices["tf32"], why="auto: the fastest on a GPU that errs by less than a hundredth")
        return replace(choices["fp32"], why="auto: on some CPUs bf16 is faster, but errs by hundredths")
    if name not in choices:
        raise InputError(f"unknown train.precision={name}: choose one of auto, {', '.join(choices)}")
    return choices[name]
