"""The device that a config or a command line names."""

import torch

from wgan_sweep.errors import InputError


def find_device(name: str, key: str = "device") -> torch.device:
    """Return a device that this machine has; ``auto`` is a GPU if there is one.

    Args:
        name: ``auto``, or torch's name of a device.
        key: The option that names it, for error messages.

    Raises:
        InputError: if it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":  # without a CUDA context, which an exclusive GPU gives to one process only
            if (device.index or 0) >= torch.cuda.device_count():
                raise ValueError(f"there are {torch.cuda.device_count()} CUDA devices")  # noqa: TRY301
        else:
            torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key}={name} cannot be used ({reason}): use auto, cpu or cuda") from error
    return device


SEVERAL = "several devices"
"""Stands for the name of a GPU where a run was trained on more than one kind of device."""


def gpu_name(device: torch.device) -> str | None:
    """Return the name of a GPU, such as ``NVIDIA H200``; None for any other device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
