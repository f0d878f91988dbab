"""Data sets of torchvision, converted to cached arrays."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wgan_sweep.common.cache import cache_dir, lock_while_computing
from wgan_sweep.common.ranges import Range
from wgan_sweep.common.source import user_source
from wgan_sweep.data.pictures import MODES, as_array
from wgan_sweep.data.store import MAX_SIZE, ImageSet, Prepare, cached_images, file_state
from wgan_sweep.errors import InputError

LARGE_FOLDER = 10_000
"""A folder of so many files is listed once per process while the folder itself does not change: it takes seconds."""
_LARGE_FOLDERS: dict[tuple[Path, tuple[int, ...]], str] = {}
"""Their states, by path and state of the folder itself."""


class _FilesChangedError(Exception):
    """Opening a data set has changed its files, as a download does.

    Args:
        dataset: The data set.
        key: The key of its images as of now.
    """

    def __init__(self, dataset: Any, key: object) -> None:
        super().__init__(dataset, key)
        self.dataset, self.key = dataset, key


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
        files: The files or folders that are needed; an error message names them if they are unavailable. The images
            are read anew when one of them changes, or what was unpacked beside it under its name without the ending.
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
        key = self._key(root)
        try:
            images = cached_images(key, lambda: self._open_unchanged(root, key), self._images)
        except _FilesChangedError as changed:
            opened = changed.dataset
            images = cached_images(changed.key, lambda: opened, self._images)
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
        needed = [root / name for name in self.files]
        return (
            "torchvision",
            *functions,
            sorted(self.splits[self.split].items()),
            str(root.resolve()),
            self.size,
            self.channels,
            [_state(path) for path in sorted({*needed, *(path.with_suffix("") for path in needed)})],
        )

    def _open_unchanged(self, root: Path, key: object) -> Any:
        """Return the opened data set.

        Raises:
            _FilesChangedError: if its images have another key by now.
            InputError: as `load`.
        """
        dataset = self._open(root)
        if (new_key := self._key(root)) != key:
            raise _FilesChangedError(dataset, new_key)
        return dataset

    def _open(self, root: Path) -> Any:
        """Return the opened data set. One process at a time opens it, so none reads files that another downloads."""
        name = hashlib.sha256(f"{self.name} {root.resolve()}".encode()).hexdigest()[:24]
        with lock_while_computing(cache_dir() / "downloads" / name, f"the files of {self.name}"):
            return self._open_alone(root)

    def _open_alone(self, root: Path) -> Any:
        attempts = [{}, {"download": True}] if self.downloads else [{}]
        problem: Exception | None = None
        mark = root / f".{quote(self.name, safe='')}.download"  # exists while a download has begun and not succeeded
        for options in attempts:
            try:
                root.mkdir(parents=True, exist_ok=True)
                if mark.exists():
                    self._remove_unpacked(root)
                if options:
                    mark.touch()
                dataset = self.dataset(root=str(root), **self.splits[self.split], **options)
                mark.unlink(missing_ok=True)
                return dataset  # noqa: TRY300 (the error of a mark that stays is reported, too)
            except (OSError, RuntimeError, ImportError, ValueError) as error:
                problem = error
        raise InputError(
            f"the files of {self.name} are not in {root} and could not be downloaded ({problem}): "
            f"put {', '.join(self.files)} into {root}, or set data.root to the folder that holds them"
        ) from problem

    def _remove_unpacked(self, root: Path) -> None:
        """Remove what was unpacked from archives, perhaps in part: torchvision checks archives, but not always this."""
        for archive in (root / name for name in self.files):
            unpacked = archive.with_suffix("")
            if archive.exists() and unpacked.is_dir():
                shutil.rmtree(unpacked)
            elif archive.exists() and unpacked != archive:
                unpacked.unlink(missing_ok=True)

    def _images(self, dataset: Any) -> Iterator[NDArray[np.uint8]]:
        for example in dataset:
            picture: Image.Image = example[0]
            yield as_array(self.prepare(picture.convert(MODES[self.channels]), self.size))


def _function_key(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return what a function depends on, as parts of a cache key: name, bound options, and the source of a user's."""
    called, options = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    source = user_source(f"{called.__module__}.{called.__qualname__}", called)
    return called.__qualname__, repr(sorted(options.items())), *([source] if source else [])


def _state(path: Path) -> object:
    """Return what changes with the content of a file, or of the files in a folder; nothing if it is missing."""
    state = _state_of_entry(path)
    try:
        return _LARGE_FOLDERS.get((path, state)) or _state_of_folder(path, state) if path.is_dir() else state
    except OSError:  # it cannot be listed
        return state


def _state_of_folder(folder: Path, state: tuple[int, ...]) -> str:
    with os.scandir(folder) as entries:
        listing = sorted((entry.name, _state_of_entry(entry)) for entry in entries)
    digest = hashlib.sha256(repr(listing).encode()).hexdigest()
    if len(listing) >= LARGE_FOLDER:
        _LARGE_FOLDERS[folder, state] = digest
    return digest


def _state_of_entry(file: "Path | os.DirEntry[str]") -> tuple[int, ...]:
    try:
        return file_state(file.stat())
    except OSError:  # it is missing, or a link to nothing
        return ()
