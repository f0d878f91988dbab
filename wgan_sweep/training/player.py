"""A player of the game: a network with its optimizer."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from wgan_sweep.objectives.stabilisers import HistoricalAverage
from wgan_sweep.training.aliases import Network
from wgan_sweep.training.optimizers import configure_for_device

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Player:
    """The critic or the generator under training.

    Args:
        network: The network, on its device.
        forward: Its forward pass for training: the network itself, or compiled.
        make_optimizer: Returns an optimizer of the given parameters.
        keeps_history: Whether to keep the historical average of the parameters, for a stabiliser.
        capturable: Whether a CUDA graph may record the optimizer's steps.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        forward: Network,
        make_optimizer: MakeOptimizer,
        keeps_history: bool,
        capturable: bool,
    ) -> None:
        self.network, self.forward = network, forward
        self._make_optimizer, self._capturable = make_optimizer, capturable
        self._keeps_history = keeps_history
        self.restart()

    def restart(self) -> None:
        """Start with a new optimizer, and a history that begins with the current parameters."""
        optimizer = self._make_optimizer(self.network.parameters())
        self.optimizer = configure_for_device(optimizer, capturable=self._capturable)
        self.history = HistoricalAverage(self.network.parameters()) if self._keeps_history else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimizer updates."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def update(self) -> None:
        """Update the parameters along their gradient, and the history with them."""
        self.optimizer.step()
        if self.history is not None:
            self.history.update()

    def load_optimizer(self, state: dict[str, object]) -> None:
        """Load the optimizer's state, which may come from another device."""
        self.optimizer.load_state_dict(state)
        configure_for_device(self.optimizer, capturable=self._capturable)
