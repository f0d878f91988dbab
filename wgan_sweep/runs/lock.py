"""One process at a time trains a run, on one machine or on many that see the same folder."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from flufl.lock import SEP, Lock, LockState, NotLockedError, TimeOutError

log = logging.getLogger(__name__)

LIFETIME = timedelta(seconds=60)
"""How long a lock holds after its owner's last heartbeat."""
HEARTBEATS = 4
"""In a lifetime."""
SLOP = timedelta(seconds=10)
"""How far the clocks of two machines may be apart."""


class RunLockedError(Exception):
    """Another process holds the lock; the message says which."""


def _lock(path: Path) -> Lock:
    # The library separates the parts of its file's content by a character that the path must not have.
    separator = next(mark for mark in (SEP, "^", "~", "#", "@", "\x1f") if mark not in str(path))
    return Lock(str(path), lifetime=LIFETIME, separator=separator)


def _owner(lock: Lock) -> str:
    try:
        host, process, _ = lock.details
    except (NotLockedError, OSError):
        return "another process"
    return f"process {process} on {host}"


def _is_stale(lock: Lock) -> bool:
    """Say whether the owner is gone: its process, where that can be seen, else its heartbeat."""
    state = lock.state
    if state is LockState.unlocked:
        return False
    try:
        expired = lock.expiration + SLOP < datetime.now()
    except OSError:
        return False
    return state is LockState.stale or expired


def lock_owner(path: Path) -> str | None:
    """Return who holds the lock at `path`, or None where nobody does."""
    if not path.exists():
        return None
    lock = _lock(path)
    return None if _is_stale(lock) else _owner(lock)


def _remove(path: Path) -> None:
    claim = ""
    with suppress(OSError):
        claim = path.read_text().strip()
    path.unlink(missing_ok=True)
    if claim:
        Path(claim).unlink(missing_ok=True)


@contextmanager
def run_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at `path` for the length of the block, with a heartbeat; a lock whose owner is gone is taken over.

    Args:
        path: The lock's file; its folder is made.
        what: What it is the lock of, for messages.

    Raises:
        RunLockedError: if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    if _is_stale(lock):
        log.info("taking over %s from %s, which is gone", what, _owner(lock))
        _remove(path)
    try:
        lock.lock(timeout=timedelta())
    except TimeOutError:
        raise RunLockedError(_owner(lock)) from None
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(LIFETIME.total_seconds() / HEARTBEATS):
            try:
                lock.refresh()
            except (NotLockedError, OSError) as error:
                log.warning("the lock of %s was lost (%s): another process may be at it", what, error)
                return

    beating = threading.Thread(target=beat, name=f"heartbeat of {what}", daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        with suppress(NotLockedError, OSError):
            lock.unlock()
