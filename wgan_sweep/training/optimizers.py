"""Optimizers as a trainer wants them: fast on a GPU, in a CUDA graph too, and without torch's compiler."""

import inspect

import torch
from torch import Tensor


def _keep_the_compiler_out() -> None:
    """Let optimizers do without torch's compiler, which they load (2 s in every process) to tell it to keep off."""
    for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(torch.optim.Optimizer, method), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


_keep_the_compiler_out()


def update(optimizer: torch.optim.Optimizer) -> None:
    """Update the weights: `optimizer.step` without its decorators, which load the compiler, too."""
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def configure_for_device(optimizer: torch.optim.Optimizer, in_graph: bool) -> torch.optim.Optimizer:
    """Let an optimizer update all weights at once on a GPU, where it can; if asked, as a CUDA graph can hold it."""
    for group in optimizer.param_groups:
        on_gpu = any(parameter.is_cuda for parameter in group["params"])
        if on_gpu and "fused" in group and group["fused"] is None and not group["foreach"]:
            group["fused"] = True
        if "capturable" in group:
            group["capturable"] = on_gpu and in_graph
        for parameter in group["params"] if on_gpu else []:
            if isinstance(step := optimizer.state.get(parameter, {}).get("step"), Tensor):
                optimizer.state[parameter]["step"] = step.to(parameter.device)
    return optimizer
