"""The memory of this machine and of its GPUs."""

import os
from pathlib import Path

import torch

GIB = 2**30


def total_bytes(device: torch.device) -> int:
    """Return the memory of a GPU, or of this machine; a limit of the control group counts."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(text)) if text.isdigit() else machine
