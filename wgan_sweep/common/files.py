"""Files appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wgan_sweep.errors import InputError


def cache_dir() -> Path:
    """Return the folder of what can be made again: ``$WGAN_SWEEP_CACHE``, else ``wgan-sweep`` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgan-sweep"
    return Path(os.environ.get("WGAN_SWEEP_CACHE") or default).expanduser()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes its place when the block ends well.

    Readers see the old file or the new one, whatever happens in between, a power cut included. If the block raises,
    `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path, key: str) -> None:
    """Refuse a folder that cannot be made or written to.

    Raises:
        InputError: naming the config key that holds it.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{key}={folder} cannot be a folder: {existing} is a file; set {key} to another place")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{key}={folder} cannot be written to ({existing} is read-only); set {key} to another place")
