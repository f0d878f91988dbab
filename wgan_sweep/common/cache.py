"""The cache: the folder of files that are computed or downloaded once per machine."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from wgan_sweep.common.files import remove_leftovers
from wgan_sweep.common.stopping import SECONDS_BETWEEN_CHECKS, leave_if_asked

log = logging.getLogger("wgan_sweep")
Content = TypeVar("Content")


def cache_dir() -> Path:
    """Return the folder of cached files: ``$WGAN_SWEEP_CACHE``, else ``wgan-sweep`` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgan-sweep"
    return Path(os.environ.get("WGAN_SWEEP_CACHE") or default).expanduser()


@contextmanager
def lock_while_computing(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a cached file while it is made, so that one of several processes makes it.

    What killed processes left of the file is removed. If the folder cannot be written to, there is no lock.

    Args:
        path: The file; its folder is created.
        what: The content, for a line in the log while another process makes it.

    Raises:
        KeyboardInterrupt: while another process makes it, if the work should stop (see `stopping`).
    """
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(_lock(path, what))
            remove_leftovers(path)
        except OSError as error:
            log.warning("the cache cannot be written to: %s", error)
        yield


def cached(path: Path, what: str, read: Callable[[], Content | None], make: Callable[[], Content]) -> Content:
    """Return the content of a cached file; if it is missing or damaged, make it, in one of several processes.

    Args:
        path: The file.
        what: The content, for a line in the log.
        read: Returns the content, or None if the file is missing or damaged.
        make: Makes the content and, where possible, the file.
    """
    if (content := read()) is not None:
        return content
    with lock_while_computing(path, what):
        return make() if (content := read()) is None else content


def is_being_made(path: Path) -> bool:
    """Return whether another process makes a cached file at this moment."""
    lock = _lock_file(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # there is no folder yet, or it cannot be written to
        return False
    lock.release()
    return False


def _lock_file(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"))


@contextmanager
def _lock(path: Path, what: str) -> Iterator[None]:
    lock = _lock_file(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which prepares %s", what)
        while not lock.is_locked:
            leave_if_asked()
            with suppress(Timeout):
                lock.acquire(timeout=SECONDS_BETWEEN_CHECKS)
    try:
        yield
    finally:
        lock.release()
