"""Checkpoints that survive a kill at any moment and a flipped bit on the disk."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from wgan_sweep.files import replacing


class CorruptCheckpointError(Exception):
    """A checkpoint that is there but cannot be trusted."""


def previous(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically; the checkpoint that was there is kept as the previous one."""
    with replacing(path) as temporary:
        torch.save(state, temporary)
        if path.exists():
            with replacing(previous(path)) as kept:
                _link_or_copy(path, kept)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink()
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    try:
        # torch.load does not compare the checksums that torch.save wrote; zipfile does.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CorruptCheckpointError(f"{path}: checksum of {damaged} is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError) as error:
        raise CorruptCheckpointError(f"{path}: {error}") from error
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
        raise CorruptCheckpointError("; ".join(problems))
    return None, []
