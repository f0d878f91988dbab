"""Networks and gradients compiled by torch.compile, with a cache on disk that all processes share.

torch.compile does not support double backward. For objectives with gradient terms, `CompiledGradient` first traces the
gradient of the whole objective with respect to the weights, double backward included, into a flat list of operations,
and compiles that. What does not compile stays eager, and a warning gives the reason.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgan_sweep.common.cache import cache_dir
from wgan_sweep.errors import summary
from wgan_sweep.training.aliases import Metrics, Network
from wgan_sweep.training.cuda_graphs import relative_difference
from wgan_sweep.training.loss_scaling import MIN_SCALE, LossScale

log = logging.getLogger(__name__)

Objective = Callable[[Sequence[Tensor]], tuple[Tensor, Metrics]]
"""From batches to the loss (scalar) and its detached metrics."""

MAX_RELATIVE_DIFFERENCE = 0.1
"""Largest accepted relative difference between the first compiled and the eager gradient, which round differently."""


class _Compilation:
    """The state of compiling one function: on its first call, with eager execution as the fallback."""

    def __init__(self, name: str) -> None:
        _use_package_cache()
        self._name = name
        self._is_compiled = False
        self.fallback_reason: str | None = None
        """Why the function runs eagerly; None before the first call and if compiling it succeeded."""

    @property
    def status(self) -> str:
        """Whether the function is compiled, and why if it is not."""
        if self.fallback_reason:
            return f"not compiled ({self.fallback_reason})"
        return "compiled" if self._is_compiled else "not yet compiled"

    def _fall_back(self, reason: str) -> None:
        self.fallback_reason = reason
        log.warning("%s is not compiled: %s", self._name, reason)


class CompiledNetwork(_Compilation):
    """A network with compiled forward and backward passes, or the network itself if it does not compile.

    Args:
        name: Name for messages.
        network: The network.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__(name)
        self._network = network
        self._compiled: Network = torch.compile(network)
        self._tested_modes: set[tuple[bool, ...]] = set()

    def __call__(self, batch: Tensor) -> Tensor:
        """Apply the network."""
        mode = torch.is_grad_enabled(), batch.requires_grad, any(p.requires_grad for p in self._network.parameters())
        if self.fallback_reason is None and mode not in self._tested_modes:  # each mode is compiled separately
            self._tested_modes.add(mode)
            self._test(batch)
        output: Tensor = (self._network if self.fallback_reason else self._compiled)(batch)
        return output

    def _test(self, batch: Tensor) -> None:
        """Compile by a forward and a backward pass that leave the network as it was; fall back if that fails."""
        buffers = [(buffer, buffer.clone()) for buffer in self._network.buffers()]
        try:
            output = self._compiled(batch)
            if output.requires_grad:
                leaves = [tensor for tensor in (batch, *self._network.parameters()) if tensor.requires_grad]
                torch.autograd.grad(output.sum(), leaves, allow_unused=True)
            self._is_compiled = True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler raises many types; an error of the network recurs in eager execution
            self._fall_back(summary(error))
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


class CompiledGradient(_Compilation):
    """The compiled gradient of an objective with respect to a network's weights.

    Args:
        name: Name for messages.
        network: A network without buffers.
        loss_scale: If given, the gradient is that of the loss times its current value.
        fallback_reason: If given, why the gradient must not be compiled.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        loss_scale: LossScale | None = None,
        fallback_reason: str | None = None,
    ) -> None:
        super().__init__(name)
        self._network, self._loss_scale = network, loss_scale
        self._compiled: Callable[..., Sequence[Tensor]] | None = None
        self._metric_names: list[str] = []
        if fallback_reason is None and any(True for _ in network.buffers()):
            fallback_reason = "the network has buffers"
        if fallback_reason:
            self._fall_back(fallback_reason)

    def __call__(self, objective: Objective, batches: Sequence[Tensor]) -> Metrics | None:
        """Set `grad` of the network's weights and return the objective's metrics.

        Returns None, and does nothing, if the gradient is not compiled.

        Args:
            objective: The same function at each call, except for the batches; deterministic.
            batches: ``[N, ...]`` each, with the same shapes at each call.
        """
        weights = list(self._network.parameters())
        if self._compiled is None and not self.fallback_reason:
            reason = self._compile(objective, weights, batches)
            if reason:
                self._fall_back(reason)
        if self.fallback_reason or self._compiled is None:
            return None
        with torch.no_grad():
            outputs = self._compiled(*weights, *batches, *([self._loss_scale.value] if self._loss_scale else []))
        for weight, gradient in zip(weights, outputs, strict=False):
            weight.grad = gradient
        return dict(zip(self._metric_names, outputs[len(weights) :], strict=True))

    def _compile(self, objective: Objective, weights: list[nn.Parameter], batches: Sequence[Tensor]) -> str | None:
        """Compile the gradient and compare it with the eager one; return why it must not be used, or None."""
        from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

        module = _ObjectiveModule(self._network, objective)
        names = [f"network.{name}" for name, _ in self._network.named_parameters()]

        def eager(*tensors: Tensor) -> list[Tensor]:
            leaves = [tensor.detach().requires_grad_() for tensor in tensors[: len(names)]]
            inputs, scale = tensors[len(names) : len(names) + len(batches)], tensors[len(names) + len(batches) :]
            with torch.enable_grad():
                loss, metrics = torch.func.functional_call(module, dict(zip(names, leaves, strict=True)), inputs)
                gradients = torch.autograd.grad(loss * scale[0] if scale else loss, leaves, allow_unused=True)
            self._metric_names = list(metrics)
            return [*gradients, *metrics.values()]

        tensors = [*weights, *batches]
        if self._loss_scale:
            tensors.append(_largest_scale_without_overflow(eager, tensors, self._loss_scale.value))
        try:
            operations = make_fx(eager, _decompositions(), tracing_mode="fake")(*tensors)
            self._compiled = torch.compile(operations, dynamic=False, fullgraph=True)
            with torch.no_grad():
                actual = self._compiled(*tensors)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler raises many types
            return summary(error)
        expected = eager(*tensors)
        used = [index for index in range(len(weights)) if actual[index] is not None]
        difference = relative_difference([actual[index] for index in used], [expected[index] for index in used])
        self._is_compiled = difference <= MAX_RELATIVE_DIFFERENCE
        return None if self._is_compiled else f"the compiled gradient differs by {difference:.1e}"


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return replacements for operations that the compiler does not accept in a traced gradient.

    An operation that writes to a given output becomes one that returns its result, followed by a copy, because the
    compiler refuses outputs that are not contiguous. It fuses the copies. Group norms become simpler operations,
    because tracing records a wrong layout for their output.
    """
    from torch._decomp import get_decompositions

    aten = torch.ops.aten
    without_output = {
        aten.addcmul.out: aten.addcmul.default,
        aten.div.out: aten.div.Tensor,
        aten.mul.out: aten.mul.Tensor,
        aten.sum.IntList_out: aten.sum.dim_IntList,
    }

    def copying(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, out, **options: out.copy_(operation(*args, **options))

    copies = {operation: copying(replacement) for operation, replacement in without_output.items()}
    return get_decompositions([aten.native_group_norm, aten.native_group_norm_backward]) | copies


def _largest_scale_without_overflow(
    gradient: Callable[..., Sequence[Tensor | None]], tensors: Sequence[Tensor], scale: Tensor
) -> Tensor:
    """Return a loss scale (scalar), `scale` or smaller, at which a gradient of `tensors` and a scale is finite."""
    scale = scale.clone()
    while scale > MIN_SCALE and not all(g is None or g.isfinite().all() for g in gradient(*tensors, scale)):
        scale /= 2
    return scale


class _ObjectiveModule(nn.Module):
    """An objective as a module, so that `functional_call` can substitute the weights of the network in it."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self._objective = network, objective

    def forward(self, *batches: Tensor) -> tuple[Tensor, Metrics]:
        return self._objective(batches)


def _use_package_cache() -> None:
    """Let torch.compile store its results in this package's cache, unless the user has chosen a directory."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # slow to import

    # Loading the compiler (which optimizers do, too) sets the variable to its default.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir() / "compiled" / _processor_name())


def _processor_name() -> str:
    """Return a name for this machine's processor and its instruction sets, which compiled code depends on."""
    properties, cpuinfo = [platform.machine()], Path("/proc/cpuinfo")
    for name in ("model name", "flags", "Features") if cpuinfo.exists() else ():
        properties += [line for line in cpuinfo.read_text().splitlines() if line.startswith(name)][:1]
    return f"{platform.machine()}-{hashlib.sha256(repr(properties).encode()).hexdigest()[:8]}"
