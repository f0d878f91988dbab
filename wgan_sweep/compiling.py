"""Networks and gradients as functions that torch.compile makes; what it has made is kept for other processes.

torch.compile does not see through a gradient of a gradient. Here the gradient of a whole objective in a network's
weights is first written down as the list of its operations, gradients of gradients among them, and that is compiled.
"""

import logging
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wgan_sweep.files import cache_dir

log = logging.getLogger(__name__)

Values = dict[str, Tensor]
Objective = Callable[[Sequence[Tensor]], tuple[Tensor, Values]]
"""From batches to the scalar whose gradient is wanted, and what else there is to say, detached."""

AGREEMENT = 0.1
"""Largest relative difference of the first gradient from the one that is not compiled: either rounds in its own way."""


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a network's passes, compiled when they are first made; as they are, where that fails."""
    _keep_for_others()
    way: Callable[[Tensor], Tensor] = torch.compile(network)

    def apply(batch: Tensor) -> Tensor:
        nonlocal way
        try:
            return way(batch)
        except Exception as error:  # whatever a compiler stumbles over; what else is wrong comes again
            if way is network:
                raise
            log.warning("a network's passes go on layer by layer: %s", _failure(error))
            way = network
            made: Tensor = network(batch)
            return made

    return apply


def _keep_for_others() -> None:
    """Let the compiler keep what it makes in this package's cache, unless it was told where."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


def _failure(error: Exception) -> str:
    return f"compiling failed: {type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"


class CompiledGradient:
    """The gradient of an objective in a network's weights, compiled when it is first wanted.

    Args:
        network: One without state beside its weights.
        scale: What the objective is multiplied with for the backward pass, and the gradient divided by.
        why_not: Why it is not to be compiled, if so.
    """

    def __init__(self, network: nn.Module, scale: float = 1.0, why_not: str | None = None) -> None:
        self._network, self._scale = network, scale
        self._compiled: Callable[..., Sequence[Tensor]] | None = None
        self._names: list[str] = []
        self._told = False
        if why_not is None and any(True for _ in network.buffers()):
            why_not = "the critic has state beside its weights"
        self.why_not = why_not
        """Why there is none, if so."""

    def __call__(self, objective: Objective, batches: Sequence[Tensor]) -> Values | None:
        """Put the gradient where the weights keep theirs; return the values of the objective, detached.

        None, and nothing done, where it could not be compiled.

        Args:
            objective: The same at each call but for the batches, without randomness.
            batches: ``[N, ...]`` each, of the same shapes at each call.
        """
        weights = list(self._network.parameters())
        if self._compiled is None and not self.why_not:
            self.why_not = self._compile(objective, weights, batches)
        if self.why_not or self._compiled is None:
            if not self._told:
                log.warning("the critic's gradient goes on layer by layer: %s", self.why_not)
            self._told = True
            return None
        with torch.no_grad():
            found = self._compiled(*weights, *batches)
        for weight, gradient in zip(weights, found, strict=False):
            weight.grad = gradient
        return dict(zip(self._names, found[len(weights) :], strict=True))

    def _compile(self, objective: Objective, weights: list[nn.Parameter], batches: Sequence[Tensor]) -> str | None:
        from torch.fx.experimental.proxy_tensor import make_fx  # heavy

        _keep_for_others()
        whole = _Whole(self._network, objective)
        names = [f"network.{name}" for name, _ in self._network.named_parameters()]

        def gradient(*tensors: Tensor) -> list[Tensor]:
            given = [tensor.detach().requires_grad_() for tensor in tensors[: len(names)]]
            with torch.enable_grad():
                value, values = torch.func.functional_call(
                    whole, dict(zip(names, given, strict=True)), tensors[len(names) :]
                )
                found = torch.autograd.grad(value * self._scale, given, allow_unused=True)
            self._names = list(values)
            unscaled = [g if g is None or self._scale == 1 else g / self._scale for g in found]
            return [*unscaled, *values.values()]

        tensors = [*weights, *batches]
        try:
            operations = make_fx(gradient, tracing_mode="fake")(*tensors)
            self._compiled = torch.compile(operations, dynamic=False, fullgraph=True)
            with torch.no_grad():
                found = self._compiled(*tensors)
        except Exception as error:  # whatever a compiler stumbles over
            return _failure(error)
        off = _relative_difference(found[: len(weights)], gradient(*tensors)[: len(weights)])
        return None if off <= AGREEMENT else f"the compiled gradient differs by {off:.1e}"


class _Whole(nn.Module):
    """An objective as a module, for weights to be put in the place of its network's during a call."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self._objective = network, objective

    def forward(self, *batches: Tensor) -> tuple[Tensor, Values]:
        return self._objective(batches)


def _relative_difference(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> float:
    """Return the norm of the difference over that of `wanted`, all together."""
    off = size = 0.0
    for f, w in zip(found, wanted, strict=True):
        if f is None or w is None:
            off += float(f is not w)
            continue
        off += float((f - w).double().square().sum())
        size += float(w.double().square().sum())
    return float((off / size) ** 0.5) if size else float(off > 0)
