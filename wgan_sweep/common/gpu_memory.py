"""The part of a GPU's memory that is this process's, where several processes share it."""

import torch

CONTEXT = 3 * 2**28
"""Bytes that CUDA itself takes in each process, about: 0.75 GiB, of which PyTorch's own bound knows nothing."""


class _This:
    """This process."""

    sharing = 1


def divide(sharing: int) -> None:
    """Let an allocation beyond this process's part fail, where so many processes share each GPU that it sees."""
    _This.sharing = sharing
    for device in range(torch.cuda.device_count()) if sharing > 1 else ():
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(_part(total) / total, device)


def sharing() -> int:
    """Return how many processes share each GPU."""
    return _This.sharing


def free(device: torch.device) -> int:
    """Return how many bytes this process may still allocate on a GPU."""
    left, total = torch.cuda.mem_get_info(device)
    return min(left, _part(total) - torch.cuda.memory_reserved(device)) if _This.sharing > 1 else left


def _part(total: int) -> int:
    return max(0, total // _This.sharing - CONTEXT)
