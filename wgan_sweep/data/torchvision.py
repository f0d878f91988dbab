"""Data sets of torchvision, converted to cached arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wgan_sweep.common.ranges import Range
from wgan_sweep.common.source import user_source
from wgan_sweep.data.pictures import MODES, as_array
from wgan_sweep.data.store import MAX_SIZE, ImageSet, Prepare, cached_images
from wgan_sweep.errors import InputError


@dataclass(frozen=True)
class Torchvision:
    """The images of a data set of torchvision.

    Args:
        name: Name of the set in messages.
        dataset: torchvision's class, with options bound; called with ``root``, the options of the split, and
            ``download=True`` if files are missing.
        split: Part of the set, a key of `splits`.
        splits: Options of the class for each split.
        downloads: Whether the class can download its files.
        root: The folder in which torchvision looks for the files.
        files: The files that are needed; an error message names them if they are unavailable.
        size: Side of the prepared images, in pixels.
        prepare: Crops, pads or resizes a picture to that size.
        channels: 3 (colour) or 1 (grey).
        flip: Whether batches hold each image or its mirror image, with equal probability.
    """

    name: str
    dataset: Callable[..., Any]
    split: str
    splits: Mapping[str, Mapping[str, Any]]
    downloads: bool
    root: str
    files: Sequence[str]
    size: Annotated[int, Range(1, MAX_SIZE)]
    prepare: Prepare
    channels: int
    flip: bool = False

    def load(self) -> ImageSet:
        """Return the images, uint8 ``[N, H, W, channels]``.

        Raises:
            InputError: for an unknown split, or if files are missing and cannot be downloaded; the message names the
                files and their folder.
        """
        self._check_split()
        root = Path(self.root).expanduser()
        images = cached_images(self._key(root), lambda: self._open(root), self._images)
        return images.with_flips(flip=self.flip)

    def labels(self) -> NDArray[np.int64]:
        """Return the classes ``[N]`` of the images.

        Raises:
            InputError: if the data set has none; also the errors of `load`.
        """
        self._check_split()
        targets = getattr(self._open(Path(self.root).expanduser()), "targets", None)
        if targets is None:
            raise InputError(f"{self.name} has no classes: choose data with labels, such as mnist or cifar10")
        return np.asarray(targets, np.int64)

    def fingerprint(self) -> str:
        """Return the digest of the images; raises the errors of `load`."""
        return self.load().digest

    def _check_split(self) -> None:
        if self.split not in self.splits:
            raise InputError(f"{self.name} has no split {self.split!r}: choose one of {', '.join(self.splits)}")

    def _key(self, root: Path) -> tuple[Any, ...]:
        functions = [_function_key(function) for function in (self.dataset, self.prepare)]
        return (
            "torchvision",
            *functions,
            sorted(self.splits[self.split].items()),
            str(root.resolve()),
            self.size,
            self.channels,
        )

    def _open(self, root: Path) -> Any:
        attempts = [{}, {"download": True}] if self.downloads else [{}]
        problem: Exception | None = None
        for options in attempts:
            try:
                root.mkdir(parents=True, exist_ok=True)
                return self.dataset(root=str(root), **self.splits[self.split], **options)
            except (OSError, RuntimeError, ImportError, ValueError) as error:
                problem = error
        raise InputError(
            f"the files of {self.name} are not in {root} and could not be downloaded ({problem}): "
            f"put {', '.join(self.files)} into {root}, or set data.root to the folder that holds them"
        ) from problem

    def _images(self, dataset: Any) -> Iterator[NDArray[np.uint8]]:
        for example in dataset:
            picture: Image.Image = example[0]
            yield as_array(self.prepare(picture.convert(MODES[self.channels]), self.size))


def _function_key(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return what a function depends on, as parts of a cache key: name, bound options, and the source of a user's."""
    called, options = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    source = user_source(f"{called.__module__}.{called.__qualname__}", called)
    return called.__qualname__, repr(sorted(options.items())), *([source] if source else [])
