"""The exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """A copy of a network, in evaluation mode, whose parameters are the exponential moving average of the network's.

    Buffers (such as BatchNorm's running statistics) are copied without averaging.

    Args:
        network: The network.
        decay: Decay per update, in [0, 1); 0 copies the network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False).eval()
        self._source, self._decay = network, decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after generator update `step`, counted from 1.

        The decay is at most (1 + step) / (10 + step), so that the initial weights are soon forgotten. A step whose
        update was skipped counts: the average moves towards the unchanged weights.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.network.parameters())
        parameters: list[Tensor] = list(self._source.parameters())
        torch._foreach_lerp_(averages, parameters, 1 - decay)
        if buffers := list(self.network.buffers()):
            torch._foreach_copy_(buffers, list(self._source.buffers()))
