"""Optimizers for the device: fused on CUDA, and capturable where a CUDA graph records their steps."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_MODULE = import_module("torch.optim.optimizer")  # `torch.optim` deletes the attribute of that name


def configure_for_device(optimizer: torch.optim.Optimizer, *, capturable: bool) -> torch.optim.Optimizer:
    """Set an optimizer's options for the device of its parameters, in place, and return it.

    On CUDA, `fused` is enabled where the optimizer offers it and the user has not chosen an implementation, and the
    step counts of a fused or capturable optimizer's state are moved to the parameters' device.

    Args:
        optimizer: New, or with a state that was loaded from another device.
        capturable: Whether a CUDA graph records its steps. Has no effect on a CPU.
    """
    for group in optimizer.param_groups:
        on_gpu = any(parameter.is_cuda for parameter in group["params"])
        if on_gpu and "fused" in group and group["fused"] is None and not group["foreach"]:
            group["fused"] = True
        if "capturable" in group:
            group["capturable"] = on_gpu and capturable
        steps_on_gpu = on_gpu and (group.get("fused") or group.get("capturable"))
        for parameter in group["params"] if steps_on_gpu else []:
            if isinstance(step := optimizer.state.get(parameter, {}).get("step"), Tensor):
                optimizer.state[parameter]["step"] = step.to(parameter.device)
    return optimizer


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float], *, capturable: bool) -> None:
    """Set the learning rate of each parameter group.

    Args:
        optimizer: The optimizer.
        rates: The learning rates.
        capturable: Whether a CUDA graph records the optimizer's steps. If the optimizer can read a rate from the
            device, it is then a tensor, which stays the same and whose value replays read.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if not capturable or not _reads_tensors(group):
            group["lr"] = rate
            continue
        device = group["params"][0].device
        if not isinstance(group["lr"], Tensor) or group["lr"].device != device:
            group["lr"] = torch.empty((), dtype=torch.float32, device=device)  # what fused kernels read
        group["lr"].fill_(rate)


def _reads_tensors(group: Mapping[str, Any]) -> bool:
    """Return whether an optimizer's kernels read a learning rate on their device.

    Those that update one parameter after the other ask for its number.
    """
    return bool(group.get("fused")) or ("capturable" in group and group.get("foreach") is not False)


def reads_rates_from_tensors(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether all learning rates are tensors."""
    return all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether Python code observes each step: hooks, or a learning rate scheduler (which wraps `step`)."""
    own = (getattr(optimizer, f"_optimizer_step_{moment}_hooks", None) for moment in ("pre", "post"))
    of_all = (getattr(_MODULE, f"_global_optimizer_{moment}_hooks", None) for moment in ("pre", "post"))
    return any(own) or any(of_all) or "step" in vars(optimizer)
