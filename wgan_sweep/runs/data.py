"""The real data that a config names: loaded once per process, identified by content."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wgan_sweep.common.source import user_source
from wgan_sweep.config import objects
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.training.trainer import RealExamples


class RealData(Protocol):
    """Real examples: a set of images, or a distribution of points."""

    num_pictured: int
    """How many samples a picture shows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, as networks see it."""

    def batches(self, batch_size: int, seed: int, device: torch.device) -> RealExamples:
        """Return endless batches."""

    def to_samples(self, generated: Tensor) -> Tensor:
        """Return the generator's output as it is shown and scored (uint8 images, or points)."""

    def draw_samples(self, samples: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """Return a picture of samples, uint8 ``[H, W, C]``."""


def content_digest(node: Mapping[str, Any]) -> str | None:
    """Return the digest of the images that a data node names, or None where it names a distribution.

    Raises:
        InputError: if the images cannot be read.
    """
    fingerprint = _fingerprint(node)
    return fingerprint or getattr(_load(_named(node), None), "digest", None)


def load_data(node: Mapping[str, Any]) -> RealData:
    """Return the data that a node names. While its content stays the same, it is loaded once per process.

    Raises:
        InputError: if the data cannot be read.
    """
    return _load(_named(node), _fingerprint(node))


def load_split(config: Config, split: str | None = None) -> RealData:
    """Return the data of a config, or another split of it.

    Raises:
        InputError: if the data has no such split.
    """
    node = config.data
    if split not in (None, trained_split(config)):
        if "splits" not in node:
            raise InputError(
                f"scorer.split={split}, but data={config.choices.get('data', '?')} has one split only "
                f"({trained_split(config)}): leave scorer.split null"
            )
        node = {**node, "split": split}
    return load_data(node)


def trained_split(config: Config) -> str:
    """Return the name of the split that a run is trained on."""
    return str(config.data.get("split", "train"))


def _fingerprint(node: Mapping[str, Any]) -> str | None:
    """Return the digest that a data option gives of its files as they are now; None if it gives none."""
    option = _option(_named(node))
    return cast("str", option.fingerprint()) if hasattr(option, "fingerprint") else None


class _Named(NamedTuple):
    """A node, and the source of what it names: a module may be edited and loaded again."""

    node: str
    """The node as JSON."""
    sources: tuple[str | None, ...]
    """The digests of the user's source that defines its targets."""


def _named(node: Mapping[str, Any]) -> _Named:
    return _Named(json.dumps(node, sort_keys=True), tuple(_sources(node, "data")))


def _sources(node: Any, key: str) -> Iterator[str | None]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _sources(item, f"{key}[{index}]")
    if isinstance(node, Mapping):
        if node.get("_target_") is not None:
            yield user_source(str(node["_target_"]), objects.target_of(node, key))
        for name, value in node.items():
            yield from _sources(value, f"{key}.{name}")


@lru_cache(maxsize=16)
def _option(named: _Named) -> Any:
    return objects.make(json.loads(named.node), "data")


@lru_cache(maxsize=2)
def _load(named: _Named, fingerprint: str | None) -> RealData:  # noqa: ARG001 (data whose content changed is loaded again)
    return cast("RealData", _option(named).load())
