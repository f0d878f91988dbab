"""Endless batches of real images: every image once per epoch, each epoch in an order of its own."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep.common import gpu_memory, rng
from wgan_sweep.common.images import to_range
from wgan_sweep.errors import InputError


class Batches:
    """Batches of a set of images, in [-1, 1], on a device.

    The stream is the concatenation of all epochs' orders cut into batches, so a batch may straddle two epochs. Order
    and position depend on the seed and on the number of batches drawn, on nothing else: the position is the state.

    Args:
        images: uint8 ``[N, H, W, C]``, perhaps a memory map; they live on a GPU when they take at most half of the
            memory free there, else the next batch is read and sent while the last one is in use.
        batch_size: Images per batch.
        seed: The run's seed.
        device: Where batches are wanted.
        resident: Whether the images live on the device; None decides as above.

    Raises:
        InputError: if a batch is larger than the set.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        batch_size: int,
        seed: int,
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        if batch_size > len(images):
            raise InputError(f"train.batch_size={batch_size} is larger than the data ({len(images)} images): lower it")
        self.batch_size = batch_size
        self.drawn = 0
        self._seed = seed
        self._device = device
        pixels = torch.from_numpy(images)
        if resident is None:
            resident = device.type != "cuda" or 2 * pixels.nbytes <= gpu_memory.free(device)
        self._pixels = pixels.to(device) if resident else pixels
        self._reader = None if resident else ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[int, Future[Tensor]] | None = None
        self._orders: dict[int, Tensor] = {}

    def _order(self, epoch: int) -> Tensor:
        orders = self._orders  # which another thread may replace
        if epoch not in orders:
            order = torch.randperm(len(self._pixels), generator=rng.generator(self._seed, "order", epoch))
            orders = {past: kept for past, kept in orders.items() if past == epoch - 1}
            self._orders = orders = orders | {epoch: order.to(self._pixels.device)}
        return orders[epoch]

    def _indices(self, batch: int) -> Tensor:
        total = len(self._pixels)
        epoch, start = divmod(batch * self.batch_size, total)
        indices = self._order(epoch)[start : start + self.batch_size]
        if missing := self.batch_size - len(indices):
            indices = torch.cat([indices, self._order(epoch + 1)[:missing]])
        return indices

    def next_raw(self) -> Tensor:
        """Return what the next batch is made of, on the device: indices ``[batch_size]``, or its pixels."""
        batch, self.drawn = self.drawn, self.drawn + 1
        if self._reader is None:
            return self._indices(batch)
        at, reading = self._ahead or (-1, None)
        pixels = reading.result() if reading is not None and at == batch else self._read(batch)
        self._ahead = batch + 1, self._reader.submit(self._read, batch + 1)
        return pixels.to(self._device, non_blocking=True)

    def _read(self, batch: int) -> Tensor:
        picked = self._pixels[self._indices(batch)]
        return picked.pin_memory() if self._device.type == "cuda" else picked

    def decode(self, raw: Tensor) -> Tensor:
        """Return the batch made of what `next_raw` returned: float ``[batch_size, C, H, W]`` in [-1, 1]."""
        pixels = self._pixels[raw] if self._reader is None else raw
        return to_range(pixels.permute(0, 3, 1, 2))

    def __call__(self) -> Tensor:
        """Return the next batch."""
        return self.decode(self.next_raw())

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self.drawn = int(state["drawn"])
