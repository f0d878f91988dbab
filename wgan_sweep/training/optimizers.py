"""Optimizers for the device: fused on CUDA, and capturable where a CUDA graph records their steps."""

import torch
from torch import Tensor


def configure_for_device(optimizer: torch.optim.Optimizer, *, capturable: bool) -> torch.optim.Optimizer:
    """Set an optimizer's options for the device of its parameters, in place, and return it.

    On CUDA, `fused` is enabled where the optimizer offers it and the user has not chosen an implementation, and the
    step counts of the optimizer's state are moved to the parameters' device.

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
        for parameter in group["params"] if on_gpu else []:
            if isinstance(step := optimizer.state.get(parameter, {}).get("step"), Tensor):
                optimizer.state[parameter]["step"] = step.to(parameter.device)
    return optimizer


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether Python code observes each step: hooks, or a learning rate scheduler (which wraps `step`)."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return any(hooks) or "step" in vars(optimizer)
