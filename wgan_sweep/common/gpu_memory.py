"""The part of a GPU's memory that this process may use, if several processes share the GPU."""

import gc

import torch

CUDA_CONTEXT_BYTES = 3 * 2**28
"""Bytes that CUDA itself uses in each process, about 0.75 GiB. PyTorch's limit does not include them."""


class _Process:
    """The settings of this process."""

    processes_per_gpu = 1


def limit_to_share(processes_per_gpu: int) -> None:
    """Limit this process to an equal part of the memory of each visible GPU; larger allocations then fail.

    Args:
        processes_per_gpu: Number of processes that share each GPU.
    """
    _Process.processes_per_gpu = processes_per_gpu
    for device in range(torch.cuda.device_count()) if processes_per_gpu > 1 else ():
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(_limit(total) / total, device)


def release() -> None:
    """Return the memory of finished runs to the GPUs, so that the next run starts as in a new process.

    No CUDA graph may be replayed afterwards: the workspaces of cuBLAS are freed, too, which graphs use. cuBLAS has
    one for each stream, and each graph has a stream of its own.
    """
    if torch.cuda.is_initialized():
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def processes_per_gpu() -> int:
    """Return how many processes share each GPU."""
    return _Process.processes_per_gpu


def free_bytes(device: torch.device) -> int:
    """Return how many bytes this process may still allocate on a GPU."""
    free, total = torch.cuda.mem_get_info(device)
    if _Process.processes_per_gpu == 1:
        return free
    return min(free, _limit(total) - torch.cuda.memory_reserved(device))


def _limit(total: int) -> int:
    """Return how many of a GPU's bytes PyTorch may allocate in this process."""
    return max(0, total // _Process.processes_per_gpu - CUDA_CONTEXT_BYTES)
