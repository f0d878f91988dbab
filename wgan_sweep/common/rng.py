"""Every random number comes from a generator named by ``(seed, purpose)``; none from the global one."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for one purpose; distinct purposes of one seed are independent streams.

    Args:
        seed: The run's seed; any integer, 0 included.
        purpose: What the numbers are for, for example ``"noise"`` or ``("order", epoch)``.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` at the start of the stream ``(seed, purpose)``."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Make code that draws from torch's global CPU generator (layers' initialisation) draw from ``(seed, purpose)``.

    The global generator's state is put back on leaving. CUDA's generators are not touched: networks are initialised on
    the CPU, so that every device starts from the same weights.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(derive(seed, *purpose))
    try:
        yield
    finally:
        torch.set_rng_state(state)
