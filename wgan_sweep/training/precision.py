"""Numeric precision of training: TF32 and autocast, as context managers that restore the previous settings."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

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
    weight_dtype: torch.dtype | None = None
    """The dtype to which autocast converts the weights of layers; None without autocast."""
    scales_loss: bool = False
    """Whether gradients need a loss scale (`LossScale`): their range is smaller than that of float32."""
    reason: str = ""
    """Why ``auto`` chose this precision; empty if the user chose it."""

    def apply(self, network: Network, batch: Tensor) -> Tensor:
        """Return a network's output in this precision, converted to float32 unless it is wider."""
        with self.forward(), self._converted_weights(network):
            output = network(batch)
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def _converted_weights(self, network: Network) -> AbstractContextManager[object]:
        if self.weight_dtype is None or not isinstance(network, nn.Module):
            return nullcontext()
        return _ConvertedWeights(network, self.weight_dtype)


class _ConvertedWeights(TorchFunctionMode):
    """Converts the weights and biases of all convolutions and linear layers at once, in one kernel on a GPU.

    Autocast would convert each where it is used, and its gradient back. The results are the same.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        layers = (module for module in network.modules() if isinstance(module, LAYERS))
        weights = [w for layer in layers for w in layer.parameters(recurse=False) if w.dtype == torch.float32]
        converted = _Conversion.apply(dtype, *weights) if weights else ()
        self._converted = {id(weight): value for weight, value in zip(weights, converted, strict=True)}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in APPLY_WEIGHTS:
            args = [self._converted.get(id(value), value) for value in args]
            kwargs = {name: self._converted.get(id(value), value) for name, value in kwargs.items()}
        return function(*args, **kwargs)


LAYERS = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
APPLY_WEIGHTS = {torch.conv2d, torch.conv_transpose2d, F.linear}
"""The functions by which `LAYERS` apply their weights."""


class _Conversion(Function):
    """Converts tensors to another dtype, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return tuple(_convert(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        converted = iter(_convert([gradient for gradient in gradients if gradient is not None], ctx.dtype))
        return None, *(None if gradient is None else next(converted) for gradient in gradients)


def _convert(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    converted = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if converted:
        torch._foreach_copy_(converted, list(tensors))
    return converted


def precision(name: str, device: torch.device, key: str = "train.precision") -> Precision:
    """Return a precision by name.

    Args:
        name: ``fp32`` (without TF32), ``tf32`` (CUDA only), ``bf16`` or ``fp16`` (autocast; weights, gradient norms,
            gradient terms and losses stay float32; fp16 has a dynamic loss scale), or ``auto`` (tf32 on CUDA, otherwise
            fp32).
        device: Device of the networks.
        key: The key or option that names it, for error messages.

    Raises:
        InputError: If the name is unknown, or for tf32 without CUDA.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"{key}=tf32 needs a CUDA device, this run is on {device}: use fp32")

    def autocast(dtype: torch.dtype) -> Context:
        return lambda: torch.autocast(device.type, dtype, cache_enabled=False)

    choices = {
        "fp32": Precision("fp32", lambda: tf32(allowed=False), nullcontext),
        "tf32": Precision("tf32", lambda: tf32(allowed=True), nullcontext),
        "bf16": Precision("bf16", lambda: tf32(allowed=True), autocast(torch.bfloat16), torch.bfloat16),
        "fp16": Precision("fp16", lambda: tf32(allowed=True), autocast(torch.float16), torch.float16, scales_loss=True),
    }
    if name == "auto":
        if device.type == "cuda":
            return replace(choices["tf32"], reason="auto: the fastest on a GPU with errors below 1%")
        return replace(choices["fp32"], reason="auto: bf16 is faster on some CPUs, but has errors of several percent")
    if name not in choices:
        raise InputError(f"unknown {key}={name}: choose one of auto, {', '.join(choices)}")
    return choices[name]
