"""Endless batches of real images: every epoch contains each image once, in a new random order."""

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

    The permutations of all epochs are concatenated and cut into batches, so a batch may span two epochs. The stream
    depends only on the seed and the number of batches drawn; that number is the whole state. An index below 0 stands
    for a flipped image: ~index is that of the image.

    Args:
        images: uint8 ``[N, H, W, C]``; may be a memory map.
        batch_size: Images per batch.
        seed: The run's seed.
        device: Device of the batches.
        resident: Whether all images are kept on the device. By default they are on a CPU, and on a GPU if they take at
            most half of its free memory. Otherwise a thread reads the next batch while the current one is in use.
        flip: Whether each image is flipped horizontally with probability 1/2, anew in every epoch.

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
        *,
        flip: bool = False,
    ) -> None:
        if batch_size > len(images):
            raise InputError(f"train.batch_size={batch_size} is larger than the data ({len(images)} images): lower it")
        self.batch_size = batch_size
        self.drawn = 0
        self._seed = seed
        self._device = device
        self._flip = flip
        pixels = torch.from_numpy(images)
        if resident is None:
            resident = device.type != "cuda" or 2 * pixels.nbytes <= gpu_memory.free_bytes(device)
        self._pixels = pixels.to(device) if resident else pixels
        self._reader = None if resident else ThreadPoolExecutor(1, "batches")
        self._prefetch: tuple[int, Future[Tensor]] | None = None
        self._orders: dict[int, Tensor] = {}

    def _order(self, epoch: int) -> Tensor:
        orders = self._orders  # the reader thread may replace the attribute
        if epoch not in orders:
            order = torch.randperm(len(self._pixels), generator=rng.generator(self._seed, "order", epoch))
            if self._flip:
                draws = torch.rand(len(order), generator=rng.generator(self._seed, "flips", epoch))
                order = torch.where(draws < 0.5, ~order, order)
            orders = {past: indices for past, indices in orders.items() if past == epoch - 1}
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
        """Return the next batch in undecoded form, on the device: its indices ``[batch_size]``, or its uint8 pixels."""
        batch, self.drawn = self.drawn, self.drawn + 1
        if self._reader is None:
            return self._indices(batch)
        prefetched, future = self._prefetch or (-1, None)
        pixels = future.result() if future is not None and prefetched == batch else self._read(batch)
        self._prefetch = batch + 1, self._reader.submit(self._read, batch + 1)
        return pixels.to(self._device, non_blocking=True)

    def _read(self, batch: int) -> Tensor:
        pixels = self._at(self._indices(batch))
        return pixels.pin_memory() if self._device.type == "cuda" else pixels

    def _at(self, indices: Tensor) -> Tensor:
        """Return the images ``[batch_size, H, W, C]`` at some indices; at ~index, the flipped image."""
        if not self._flip:
            return self._pixels[indices]
        is_flipped = indices < 0
        pixels = self._pixels[torch.where(is_flipped, ~indices, indices)]
        return torch.where(is_flipped[:, None, None, None], pixels.flip(2), pixels)

    def decode(self, raw: Tensor) -> Tensor:
        """Decode a batch that `next_raw` returned to float ``[batch_size, C, H, W]`` in [-1, 1]."""
        pixels = self._at(raw) if self._reader is None else raw
        return to_range(pixels.permute(0, 3, 1, 2))

    def __call__(self) -> Tensor:
        """Return the next batch."""
        return self.decode(self.next_raw())

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        self.drawn = int(state["drawn"])
