"""A small classifier of images, trained once per machine and data set, with which class histograms are made."""

import hashlib
import logging
import pickle
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.common.cache import cache_dir, cached
from wgan_sweep.common.files import atomic_replacement
from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError

log = logging.getLogger("wgan_sweep")

VERSION = 1
"""Changes with the network or its training."""
EPOCHS, BATCH_SIZE, RATE = 6, 64, 1e-3
HELD_OUT = 10
"""Each `HELD_OUT`-th image, in a random order, is not trained on; the accuracy is measured on these."""


class Labelled(Protocol):
    """Data with a class for each image."""

    def load(self) -> ImageSet:
        """Return the images, uint8 ``[N, H, W, C]``."""

    def labels(self) -> NDArray[np.int64]:
        """Return their classes ``[N]``, from 0."""


class Classifier(NamedTuple):
    """A trained classifier."""

    network: nn.Module
    """From float images in [-1, 1], ``[N, C, H, W]``, to logits ``[N, classes]``."""
    shares: Tensor
    """The share of each class in the data, float64 ``[classes]``."""
    accuracy: float
    """On images that it was not trained on."""


def _network(channels: int, side: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def as_input(images: Tensor) -> Tensor:
    """Return uint8 images as the classifier sees them: float32, in [-1, 1]."""
    return images.float() / 127.5 - 1


def classifier_of(data: Labelled) -> Classifier:
    """Return a classifier of the images of a data set: read from the cache, or trained and cached.

    Training takes some ten seconds for 5,000 images on a CPU core.

    Raises:
        InputError: if there is not one class per image, or the images are not square; also the errors of the data.
    """
    images, labels = data.load(), data.labels()
    if labels.shape != (len(images),) or labels.min() < 0:
        raise InputError(f"there are {len(images)} images and classes {list(labels.shape)}: one for each is needed")
    channels, height, width = images.shape
    if height != width or height < 4:
        raise InputError(f"the classifier needs square images of 4 pixels or more, got {height} x {width}")
    classes = int(labels.max()) + 1
    shares = torch.from_numpy(np.bincount(labels, minlength=classes) / len(labels))
    key = repr((VERSION, images.digest, hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()))
    path = cache_dir() / "classifiers" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pt"
    network = _network(channels, height, classes)

    def make() -> float:
        log.info("training a classifier of %d images (once per machine)", len(images))
        accuracy = _train(network, images, labels)
        try:
            with atomic_replacement(path) as temporary:
                torch.save({"network": network.state_dict(), "accuracy": accuracy}, temporary)
        except OSError as error:
            log.warning("the classifier cannot be cached in %s: %s", path.parent, error)
        return accuracy

    accuracy = cached(path, "a classifier of the same images", lambda: _read(path, network), make)
    return Classifier(network.eval().requires_grad_(requires_grad=False), shares, accuracy)


def _read(path: Path, network: nn.Module) -> float | None:
    """Load a cached classifier into `network`; return its accuracy, or None if the file is missing or damaged."""
    try:
        stored = torch.load(path, weights_only=True)
        network.load_state_dict(stored["network"])
        return float(stored["accuracy"])
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        log.warning("training the classifier of %s again, which is damaged (%s)", path, error)
        return None


def _train(network: nn.Module, images: ImageSet, labels: NDArray[np.int64]) -> float:
    """Train, and return the accuracy on the images that were held out."""
    order = np.random.RandomState(0).permutation(len(images))
    held_out, trained = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])

    def batch(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(images.array[indices]).permute(0, 3, 1, 2)
        return as_input(pixels), torch.from_numpy(labels[indices])

    with rng.seeded(0, "classifier"), torch.enable_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        for epoch in range(EPOCHS):
            shuffled = np.random.RandomState(epoch).permutation(trained)
            for start in range(0, len(shuffled), BATCH_SIZE):
                pixels, targets = batch(shuffled[start : start + BATCH_SIZE])
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(pixels), targets).backward()
                optimizer.step()
    with torch.no_grad():
        right = [
            (network(pixels).argmax(1) == targets).sum()
            for pixels, targets in (batch(part) for part in np.array_split(held_out, -(-len(held_out) // 1000)))
        ]
    return float(torch.stack(right).sum()) / len(held_out)
