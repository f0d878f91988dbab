"""Type aliases of training."""

from collections.abc import Callable

from torch import Tensor

Metrics = dict[str, Tensor]
"""Detached scalars of an update, by name, on the device."""
Network = Callable[[Tensor], Tensor]
"""A network's forward pass, eager or compiled."""
