"""Independent random streams, each identified by ``(seed, purpose)``; the global generator is not used."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for a purpose, derived by hashing; different purposes give independent streams.

    Args:
        seed: The run's seed; any integer.
        purpose: Name of the stream, for example ``"noise"`` or ``"order", epoch``.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` at the start of the stream ``(seed, purpose)``."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Seed torch's global CPU generator with ``(seed, purpose)``, for code that uses it (initialisation of layers).

    The generator's state is restored on exit. CUDA generators are not affected: networks are initialised on the CPU, so
    that training starts from the same weights on every device.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(derive(seed, *purpose))
    try:
        yield
    finally:
        torch.set_rng_state(state)
