"""Draws generated images beside their nearest real images in feature space, to reveal memorised training images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from wgan_sweep.common.images import grid
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.collect import FeatureSet
from wgan_sweep.scoring.neighbours import nearest_neighbours
from wgan_sweep.scoring.sources import Source

ROWS = 8
"""Number of generated images; those nearest to any real image, in ascending order of distance."""
COLUMNS = 5
"""Number of real neighbours per generated image."""


def _load_images(source: Source, indices: Tensor, size: int, batch_size: int) -> dict[int, Tensor]:
    """Return the images at `indices` of a source, keyed by index: RGB, resized to size x size (nearest pixel)."""
    requested = set(indices.flatten().tolist())
    images: dict[int, Tensor] = {}
    start = 0
    for batch in source.batches(batch_size) if source.batches else ():
        for index in range(start, start + len(batch)):
            if index in requested:
                image = batch[index - start : index - start + 1].cpu().expand(-1, 3, -1, -1)
                images[index] = interpolate(image, (size, size)).squeeze(0)
        start += len(batch)
    return images


def draw_nearest_images(
    real: Source,
    fake: Source,
    real_features: FeatureSet,
    fake_features: FeatureSet,
    batch_size: int,
    size: int = 64,
) -> NDArray[np.uint8]:
    """Return a picture with one row per generated image: the image, then its nearest real images.

    Args:
        real: The real images.
        fake: The generated images.
        real_features: Features of the real images, in the order of `real`.
        fake_features: Features of the generated images, in the order of `fake`.
        batch_size: Images per batch while reading.
        size: Side of each image in the picture, in pixels.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: if either side has no features.
    """
    if real_features.features is None or fake_features.features is None:
        raise InputError("neighbours need the images of both sides")
    count = min(COLUMNS, len(real_features.features))
    distances, indices = nearest_neighbours(fake_features.features, real_features.features, count)
    rows = distances[:, 0].argsort()[:ROWS]
    fake_images = _load_images(fake, rows, size, batch_size)
    real_images = _load_images(real, indices[rows], size, batch_size)
    images = [
        image
        for row in rows.tolist()
        for image in (fake_images[row], *(real_images[index] for index in indices[row].tolist()))
    ]
    return grid(torch.stack(images), 1 + indices.shape[1])
