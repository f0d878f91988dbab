"""The field's standard sets, as torchvision reads them, each turned once into a cached array."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wgan_sweep.data.store import MODES, ImageSet, Prepare, as_array, stored_once
from wgan_sweep.errors import InputError


@dataclass(frozen=True)
class Torchvision:
    """A data set of torchvision, its labels dropped.

    Args:
        name: What the set is called in messages.
        dataset: torchvision's class with its options; called with ``root``, those of the split, and ``download=True``
            where files miss.
        split: Which part of the set, a key of `splits`.
        splits: The class's options for each part.
        downloads: Whether that class can fetch its files.
        root: The folder that torchvision looks in.
        files: The files it needs there, for the error when they cannot be had.
        size: Side of the images made, in pixels.
        prepare: Brings a picture to that size.
        channels: 3 (colour) or 1 (grey).
    """

    name: str
    dataset: Callable[..., Any]
    split: str
    splits: Mapping[str, Mapping[str, Any]]
    downloads: bool
    root: str
    files: Sequence[str]
    size: int
    prepare: Prepare
    channels: int

    def load(self) -> ImageSet:
        """Return uint8 ``[N, H, W, channels]``.

        Raises:
            InputError: for a split that there is none of, or if files are missing and cannot be fetched; the message
                names them and their place.
        """
        if self.split not in self.splits:
            raise InputError(f"{self.name} has no split {self.split!r}: choose one of {', '.join(self.splits)}")
        root = Path(self.root).expanduser()
        return stored_once(self._key(root), lambda: self._open(root), self._images)

    def _key(self, root: Path) -> tuple[Any, ...]:
        called = [_spelled(function) for function in (self.dataset, self.prepare)]
        return (
            "torchvision",
            *called,
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
            f"the files of {self.name} are not in {root} and could not be fetched ({problem}): "
            f"put {', '.join(self.files)} into {root}, or set data.root to the folder that holds them"
        ) from problem

    def _images(self, dataset: Any) -> Iterator[NDArray[np.uint8]]:
        for example in dataset:
            picture: Image.Image = example[0]
            yield as_array(self.prepare(picture.convert(MODES[self.channels]), self.size))


def _spelled(function: Callable[..., Any]) -> tuple[str, str]:
    """Return a function's name and the options it is bound to."""
    if isinstance(function, partial):
        return function.func.__qualname__, repr(sorted(function.keywords.items()))
    return function.__qualname__, "[]"
