"""Endless batches of real images: every image once per epoch, each epoch in an order of its own."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep import rng
from wgan_sweep.errors import InputError
from wgan_sweep.images import to_range


class Batches:
    """Batches of a set of images, in [-1, 1], on a device.

    The stream is the concatenation of all epochs' orders cut into batches, so a batch may straddle two epochs. Order
    and position depend on the seed and on the number of batches drawn, on nothing else: the position is the state.

    Args:
        images: uint8 ``[N, H, W, C]``; they live on `device` when they take at most half of the memory free there, else
            in pinned host memory.
        batch_size: Images per batch.
        seed: The run's seed.
        device: Where batches are wanted.

    Raises:
        InputError: if a batch is larger than the set.
    """

    def __init__(self, images: NDArray[np.uint8], batch_size: int, seed: int, device: torch.device) -> None:
        if batch_size > len(images):
            raise InputError(f"train.batch_size={batch_size} is larger than the data ({len(images)} images): lower it")
        self.batch_size = batch_size
        self.drawn = 0
        self._seed = seed
        self._device = device
        pixels = torch.from_numpy(images)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            pixels = pixels.to(device) if 2 * pixels.nbytes <= free else pixels.pin_memory()
        self._pixels = pixels
        self._orders: dict[int, Tensor] = {}

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            order = torch.randperm(len(self._pixels), generator=rng.generator(self._seed, "order", epoch))
            self._orders = {past: kept for past, kept in self._orders.items() if past == epoch - 1}
            self._orders[epoch] = order.to(self._pixels.device)
        return self._orders[epoch]

    def _indices(self) -> Tensor:
        total = len(self._pixels)
        epoch, start = divmod(self.drawn * self.batch_size, total)
        indices = self._order(epoch)[start : start + self.batch_size]
        if missing := self.batch_size - len(indices):
            indices = torch.cat([indices, self._order(epoch + 1)[:missing]])
        return indices

    def __call__(self) -> Tensor:
        """Return the next batch: float ``[batch_size, C, H, W]`` in [-1, 1]."""
        picked = self._pixels[self._indices()].to(self._device, non_blocking=True)
        self.drawn += 1
        return to_range(picked.permute(0, 3, 1, 2))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self.drawn = int(state["drawn"])
