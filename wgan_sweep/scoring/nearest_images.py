"""Generated images beside the real ones nearest to them in feature space: is anything learned by heart?"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from wgan_sweep.common.images import grid
from wgan_sweep.errors import InputError
from wgan_sweep.runs.sources import Source
from wgan_sweep.scoring.metrics import Side, nearest

ROWS = 8
"""Generated images shown, the nearest to any real one first."""
COLUMNS = 5
"""Real neighbours of each."""


def _pick(source: Source, wanted: Tensor, size: int, batch_size: int) -> dict[int, Tensor]:
    """Return images by their index, brought to size x size (nearest pixel), colour."""
    indices = set(wanted.flatten().tolist())
    found: dict[int, Tensor] = {}
    start = 0
    for batch in source.batches(batch_size) if source.batches else ():
        for index in range(start, start + len(batch)):
            if index in indices:
                image = batch[index - start : index - start + 1].cpu().expand(-1, 3, -1, -1)
                found[index] = interpolate(image, (size, size)).squeeze(0)
        start += len(batch)
    return found


def draw_nearest_images(
    real: Source, fake: Source, real_side: Side, fake_side: Side, batch_size: int, size: int = 64
) -> NDArray[np.uint8]:
    """Return a picture: in each row a generated image and its nearest real ones, uint8 ``[H, W, 3]``.

    Raises:
        InputError: where a side has no images.
    """
    if real_side.features is None or fake_side.features is None:
        raise InputError("neighbours need the images of both sides")
    distances, indices = nearest(fake_side.features, real_side.features, min(COLUMNS, len(real_side.features)))
    rows = distances[:, 0].argsort()[:ROWS]
    generated, neighbours = _pick(fake, rows, size, batch_size), _pick(real, indices[rows], size, batch_size)
    images = [
        image
        for row in rows.tolist()
        for image in (generated[row], *(neighbours[index] for index in indices[row].tolist()))
    ]
    return grid(torch.stack(images), 1 + indices.shape[1])
