"""The memory that a model needs at least, before it is built."""

from collections.abc import Iterable

import torch

from wgan_sweep.common.capacity import GIB, total_bytes
from wgan_sweep.errors import InputError

BYTES_PER_NUMBER = 4
COPIES_OF_WEIGHTS = 5
"""Weights, gradients, the two moments of Adam, and the moving average (or the buffers of the step)."""


def needed_bytes(networks: Iterable[torch.nn.Module], batch_numbers: int) -> int:
    """Return the bytes that training takes at least: activations between the first and last layer are not counted.

    Args:
        networks: Generator and critic, on the meta device.
        batch_numbers: Numbers in a batch of examples and of latent vectors.
    """
    weights = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return BYTES_PER_NUMBER * (COPIES_OF_WEIGHTS * weights + 3 * batch_numbers)


def check_fits(needed: int, device: torch.device, settings: str) -> None:
    """Check that training can fit in a device's memory.

    Args:
        needed: Bytes.
        device: The device.
        settings: The keys and values that decide how much is needed, for the message.

    Raises:
        InputError: if it cannot.
    """
    total = total_bytes(device)
    if needed > total:
        raise InputError(
            f"{settings} needs at least {needed / GIB:,.0f} GiB of memory, but {device.type} has {total / GIB:,.1f}: "
            "lower them"
        )
