"""Checkpoints that survive a kill at any moment and a flipped bit on the disk."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wgan_sweep.common.files import replacing


class CorruptCheckpointError(Exception):
    """A checkpoint that is there but cannot be trusted."""


def previous(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically; the checkpoint that was there is kept as the previous one."""
    with replacing(path) as temporary:
        try:
            torch.save({**state, "digest": _digest(state)}, temporary)
        except RuntimeError as error:  # of torch's zip writer, which does not say why
            free = shutil.disk_usage(path.parent).free
            raise OSError(f"{path} cannot be written ({free / 2**20:.1f} MiB are free there): {error}") from error
        if path.exists():
            with replacing(previous(path)) as kept:
                _link_or_copy(path, kept)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink()
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _digest(state: Any) -> str:
    """Return a SHA-256 over the values of nested containers, in hex."""
    hasher = hashlib.sha256()

    def add(value: Any) -> None:
        hasher.update(type(value).__name__.encode())
        if isinstance(value, torch.Tensor):
            hasher.update(repr((value.dtype, tuple(value.shape))).encode())
            hasher.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                add(name)
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            hasher.update(repr(value).encode())

    add(state)
    return hasher.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        # torch.load compares no checksums: a flipped bit would pass for a weight.
        whole = state.pop("digest") == _digest(state)
    except Exception as error:  # damage shows as whatever the unzipper or the unpickler stumbles over
        raise CorruptCheckpointError(f"{path}: {type(error).__name__}: {error}") from error
    if not whole:
        raise CorruptCheckpointError(f"{path}: its checksum is wrong")
    return state


def load(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the newest checkpoint that is whole.

    Returns:
        The state on the CPU, or None where there is none at all; and what was wrong with newer ones, a line each.

    Raises:
        CorruptCheckpointError: if there are checkpoints and none of them can be read.
    """
    problems: list[str] = []
    for candidate in (path, previous(path)):
        if candidate.exists():
            try:
                return _read(candidate), problems
            except CorruptCheckpointError as error:
                problems.append(str(error))
    if problems:
        raise CorruptCheckpointError(f"{'; '.join(problems)}. Move the checkpoints away to train anew")
    return None, []


def set_aside(path: Path) -> None:
    """Rename the damaged checkpoint at `path`, so that the next one saved does not take the whole one's place."""
    if path.exists():
        path.replace(path.with_name(f"{path.stem}.corrupt{path.suffix}"))
