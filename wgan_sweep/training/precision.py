"""Numeric precision of training: TF32 and autocast, as context managers that restore the previous settings."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wgan_sweep.common.tf32 import tf32
from wgan_sweep.errors import InputError
from wgan_sweep.training.aliases import Network

Context = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Precision:
    """The numeric precision of a run."""

    name: str
    step: Context
    """Context of forward and backward passes."""
    forward: Context
    """Context of a network's forward pass, inside `step`."""
    scales_loss: bool = False
    """Whether gradients need a loss scale (`LossScale`): their range is smaller than that of float32."""
    reason: str = ""
    """Why ``auto`` chose this precision; empty if the user chose it."""

    def apply(self, network: Network, batch: Tensor) -> Tensor:
        """Return a network's output in this precision, converted to float32 unless it is wider."""
        with self.forward():
            output = network(batch)
        return output.to(torch.promote_types(output.dtype, torch.float32))


def precision(name: str, device: torch.device) -> Precision:
    """Return a precision by name.

    Args:
        name: ``fp32`` (without TF32), ``tf32`` (CUDA only), ``bf16`` or ``fp16`` (autocast; weights, gradient norms,
            gradient terms and losses stay float32; fp16 has a dynamic loss scale), or ``auto`` (tf32 on CUDA, otherwise
            fp32).
        device: Device of the networks.

    Raises:
        InputError: If the name is unknown, or for tf32 without CUDA.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"train.precision=tf32 needs a CUDA device, this run is on {device}: use fp32")

    def autocast(dtype: torch.dtype) -> Context:
        return lambda: torch.autocast(device.type, dtype, cache_enabled=False)

    choices = {
        "fp32": Precision("fp32", lambda: tf32(allowed=False), nullcontext),
        "tf32": Precision("tf32", lambda: tf32(allowed=True), nullcontext),
        "bf16": Precision("bf16", lambda: tf32(allowed=True), autocast(torch.bfloat16)),
        "fp16": Precision("fp16", lambda: tf32(allowed=True), autocast(torch.float16), scales_loss=True),
    }
    if name == "auto":
        if device.type == "cuda":
            return replace(choices["tf32"], reason="auto: the fastest on a GPU with errors below 1%")
        return replace(choices["fp32"], reason="auto: bf16 is faster on some CPUs, but has errors of several percent")
    if name not in choices:
        raise InputError(f"unknown train.precision={name}: choose one of auto, {', '.join(choices)}")
    return choices[name]
