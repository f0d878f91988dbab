"""Checkpoints: written atomically, with a checksum over their values; the one before the latest is kept."""

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wgan_sweep.common.files import atomic_replacement
from wgan_sweep.common.reading import again_if_replaced
from wgan_sweep.runs.directory import previous as previous

NO_MEMORY = "can't allocate memory"
"""What torch says, in a RuntimeError, if there is not enough memory."""
CHUNK_BYTES = 2**20


class CorruptCheckpointError(Exception):
    """A checkpoint that is damaged."""


def save(path: Path, state: dict[str, Any], staging: Path | None = None, *, keep_previous: bool = True) -> None:
    """Write a checkpoint atomically; the one that it replaces is kept as the previous one.

    Args:
        path: The checkpoint.
        state: Its values.
        staging: The folder for temporary files; by default, that of `path`.
        keep_previous: Whether to keep the one that it replaces.

    Raises:
        OSError: if it cannot be written; the old checkpoint stays.
    """
    with atomic_replacement(path, staging) as temporary:
        try:
            torch.save({**state, "digest": _digest(state)}, temporary)
        except RuntimeError as error:  # torch's zip writer does not give the reason
            free_bytes = shutil.disk_usage(path.parent).free
            raise OSError(
                f"{path} cannot be written ({free_bytes / 2**20:.1f} MiB are free on its file system; a quota may "
                f"leave less to you): {error}"
            ) from error
        if keep_previous and path.exists():
            _keep(path, previous(path), staging)


def _keep(path: Path, kept: Path, staging: Path | None) -> None:
    """Make `kept` another name for the file at `path`."""
    with atomic_replacement(kept, staging) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)


def _digest(state: Any) -> str:
    """Return the SHA-256 of the values of nested containers, in hex."""
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


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU. Only values are loaded: no code that the file names is run.

    One that was replaced on the file server meanwhile is read again.

    Raises:
        CorruptCheckpointError: if it is damaged, or no checkpoint.
        OSError: if it cannot be read now.
        MemoryError: if there is not enough memory.
    """
    return again_if_replaced(lambda: _read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        return _intact(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror or error}): try again when it can be read"
        raise OSError(error.errno or errno.EIO, message) from error


def _intact(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        # torch.load compares no checksums: a flipped bit would be loaded as a weight.
        is_intact = state.pop("digest") == _digest(state)
    except IsADirectoryError as error:
        raise CorruptCheckpointError(f"{path} is a folder") from error
    except (OSError, MemoryError):  # which say nothing about the file's content
        raise
    except Exception as error:  # damage can raise any error of the unzipper or the unpickler
        if NO_MEMORY in str(error):
            raise MemoryError(f"{path}: {error}") from error
        _check_readable(path)
        raise CorruptCheckpointError(f"{path}: {type(error).__name__}: {error}") from error
    if not is_intact:
        raise CorruptCheckpointError(f"{path}: its checksum is wrong")
    return state


def _check_readable(path: Path) -> None:
    """Read all bytes of a file: the unzipper may hide that it could not.

    Raises:
        OSError: if they cannot be read.
    """
    with path.open("rb") as file:
        while file.read(CHUNK_BYTES):
            pass


def load(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the latest checkpoint that is not damaged.

    Returns:
        The checkpoint on the CPU, or None if there is none; and a line for each later one that is damaged.

    Raises:
        CorruptCheckpointError: if all checkpoints are damaged.
        OSError, MemoryError: if one cannot be read now, which does not mean that it is damaged.
    """
    problems: list[str] = []
    for candidate in (path, previous(path)):
        try:
            return read(candidate), problems
        except FileNotFoundError:
            continue
        except CorruptCheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CorruptCheckpointError(f"{'; '.join(problems)}. Move the checkpoints away to train anew")
    return None, []


def set_aside(path: Path, staging: Path | None = None) -> None:
    """Keep a damaged checkpoint under another name, and put the previous one in its place.

    Saving the next checkpoint then does not replace the intact previous one by the damaged one.
    """
    if path.exists():
        _keep(path, path.with_name(f"{path.stem}.corrupt{path.suffix}"), staging)
        _keep(previous(path), path, staging)
