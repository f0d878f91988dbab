"""Networks and gradients as functions that torch.compile makes; what it has made is kept for other processes.

torch.compile does not see through a gradient of a gradient. Here the gradient of a whole objective in a network's
weights is first written down as the list of its operations, gradients of gradients among them, and that is compiled.
What does not compile goes on as it is, and says so in a line.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_sweep.common.files import cache_dir
from wgan_sweep.training.cuda_graphs import Values, relative_difference

log = logging.getLogger(__name__)

Objective = Callable[[Sequence[Tensor]], tuple[Tensor, Values]]
"""From batches to the scalar whose gradient is wanted, and what else there is to say, detached."""

AGREEMENT = 0.1
"""Largest relative difference of the first gradient from the one that is not compiled: either rounds in its own way."""


class _Compiled:
    """What is compiled when it is first wanted, unless that fails."""

    def __init__(self, what: str) -> None:
        _keep_for_others()  # before anything of the compiler is loaded, which settles where it keeps things
        self._what = what
        self._is_made = False
        self.why_not: str | None = None
        """Why it is not compiled, if so."""

    @property
    def how(self) -> str:
        """Whether it is compiled."""
        if self.why_not:
            return f"not compiled ({self.why_not})"
        return "compiled" if self._is_made else "not yet compiled"

    def _refuse(self, why: str) -> None:
        self.why_not = why
        log.warning("%s is not compiled: %s", self._what, why)


class CompiledNetwork(_Compiled):
    """A network's passes."""

    def __init__(self, what: str, network: nn.Module) -> None:
        super().__init__(what)
        self._network = network
        self._made: Callable[[Tensor], Tensor] = torch.compile(network)
        self._tried: set[tuple[bool, ...]] = set()

    def __call__(self, batch: Tensor) -> Tensor:
        """Apply the network."""
        kind = torch.is_grad_enabled(), batch.requires_grad, any(p.requires_grad for p in self._network.parameters())
        if self.why_not is None and kind not in self._tried:
            self._tried.add(kind)
            self._try(batch)
        made: Tensor = (self._network if self.why_not else self._made)(batch)
        return made

    def _try(self, batch: Tensor) -> None:
        """Have both directions compiled, which change nothing but the network's buffers."""
        before = [(buffer, buffer.clone()) for buffer in self._network.buffers()]
        try:
            made = self._made(batch)
            if made.requires_grad:
                leaves = [tensor for tensor in (batch, *self._network.parameters()) if tensor.requires_grad]
                torch.autograd.grad(made.sum(), leaves, allow_unused=True)
            self._is_made = True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler stumbles over; what else is wrong comes again
            self._refuse(_failure(error))
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


class CompiledGradient(_Compiled):
    """The gradient of an objective in a network's weights.

    Args:
        what: Its name.
        network: One without state beside its weights.
        scale: What the objective is multiplied with for the backward pass, and the gradient divided by.
        why_not: Why it is not to be compiled, if so.
    """

    def __init__(self, what: str, network: nn.Module, scale: float = 1.0, why_not: str | None = None) -> None:
        super().__init__(what)
        self._network, self._scale = network, scale
        self._made: Callable[..., Sequence[Tensor]] | None = None
        self._names: list[str] = []
        if why_not is None and any(True for _ in network.buffers()):
            why_not = "the network has state beside its weights"
        if why_not:
            self._refuse(why_not)

    def __call__(self, objective: Objective, batches: Sequence[Tensor]) -> Values | None:
        """Put the gradient where the weights keep theirs; return the values of the objective, detached.

        None, and nothing done, where it is not compiled.

        Args:
            objective: The same at each call but for the batches, without randomness.
            batches: ``[N, ...]`` each, of the same shapes at each call.
        """
        weights = list(self._network.parameters())
        if self._made is None and not self.why_not and (why_not := self._make(objective, weights, batches)):
            self._refuse(why_not)
        if self.why_not or self._made is None:
            return None
        with torch.no_grad():
            found = self._made(*weights, *batches)
        for weight, gradient in zip(weights, found, strict=False):
            weight.grad = gradient
        return dict(zip(self._names, found[len(weights) :], strict=True))

    def _make(self, objective: Objective, weights: list[nn.Parameter], batches: Sequence[Tensor]) -> str | None:
        """Compile; return why it is not to be believed, or None."""
        from torch.fx.experimental.proxy_tensor import make_fx  # heavy

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
            self._made = torch.compile(operations, dynamic=False, fullgraph=True)
            with torch.no_grad():
                found = self._made(*tensors)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler stumbles over
            return _failure(error)
        wanted = gradient(*tensors)
        used = [index for index in range(len(weights)) if found[index] is not None]
        off = relative_difference([found[index] for index in used], [wanted[index] for index in used])
        self._is_made = off <= AGREEMENT
        return None if self._is_made else f"the compiled gradient differs by {off:.1e}"


class _Whole(nn.Module):
    """An objective as a module, for weights to be put in the place of its network's during a call."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self._objective = network, objective

    def forward(self, *batches: Tensor) -> tuple[Tensor, Values]:
        return self._objective(batches)


def _failure(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"


def _keep_for_others() -> None:
    """Let the compiler keep what it makes in this package's cache, unless it was told where."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled" / _processor()))


def _processor() -> str:
    """Return a name for what this machine's processor can do: code for one may be none for another."""
    said, about = [platform.machine()], Path("/proc/cpuinfo")
    for name in ("model name", "flags", "Features") if about.exists() else ():
        said += [line for line in about.read_text().splitlines() if line.startswith(name)][:1]
    return f"{platform.machine()}-{hashlib.sha256(repr(said).encode()).hexdigest()[:8]}"
