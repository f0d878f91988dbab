"""The part of a GPU's memory that this process may use, if several processes share the GPU."""

import torch

CUDA_CONTEXT_BYTES = 3 * 2**28
"""Bytes that CUDA itself uses in each process, about 0.75 GiB. PyTorch's limit does not include them."""


class _Process:
    """The settings of this process."""

    sharing = 1


def divide(sharing: int) -> None:
    """Limit this process to an equal part of the memory of each visible GPU; larger allocations then fail.

    Args:
        sharing: Number of processes that share each GPU.
    """
    _Process.sharing = sharing
    for device in range(torch.cuda.device_count()) if sharing > 1 else ():
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(_limit(total) / total, device)


def sharing() -> int:
    """Return how many processes share each GPU."""
    return _Process.sharing


def free(device: torch.device) -> int:
    """Return how many bytes this process may still allocate on a GPU."""
    free_bytes, total = torch.cuda.mem_get_info(device)
    if _Process.sharing == 1:
        return free_bytes
    return min(free_bytes, _limit(total) - torch.cuda.memory_reserved(device))


def _limit(total: int) -> int:
    """Return how many of a GPU's bytes PyTorch may allocate in this process."""
    return max(0, total // _Process.sharing - CUDA_CONTEXT_BYTES)
