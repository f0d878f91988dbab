"""Atomic file writes, and checks of folders."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wgan_sweep.errors import InputError


@contextmanager
def atomic_replacement(path: Path, staging: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; the file written there replaces `path` at the end of the block.

    Other processes see either the old file or the new one, even after a crash or a power failure. If the block raises,
    `path` is unchanged.

    Args:
        path: The file to replace; its folder is created.
        staging: An existing folder of the same file system for the temporary file; by default, the folder of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=staging or path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~umask())
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed processes left of `path` and of files with other suffixes.

    No other process may be writing them.
    """
    for left in path.parent.glob(f".{path.stem}.*"):
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power failure, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """Return the mask of permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, atomically."""
    with atomic_replacement(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path, key: str) -> None:
    """Check that a folder exists or can be created, and that it can be written to.

    Raises:
        InputError: if not. The message names `key`, the config key of the folder.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise InputError(
            f"{key}={folder} cannot be a folder ({error.strerror}); set {key} to another folder"
        ) from error
    if not existing.is_dir():
        raise InputError(f"{key}={folder} cannot be a folder: {existing} is a file; set {key} to another folder")
    is_of_kernel = existing.parts[1:2] in (("proc",), ("sys",))  # root may access it, but nobody can create a file
    if is_of_kernel or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{key}={folder} cannot be written to ({existing} is read-only); set {key} to another folder")


def check_output(path: Path, key: str) -> None:
    """Check that a file can be written, in a folder that exists.

    Raises:
        InputError: if not. The message names `key`, the option of the file.
    """
    if not path.parent.is_dir():
        raise InputError(f"{key} {path}: there is no folder {path.parent}; create it, or give another file")
    if path.exists() and not path.is_file():
        raise InputError(f"{key} {path} is not a regular file; give another one")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{key} {path}: {path.parent} cannot be written to; give a file in another folder")
