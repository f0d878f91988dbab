"""The lock of a run: one process at a time works on it, on one machine or on several that share the folder."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from flufl.lock import SEP, Lock, LockState, NotLockedError, TimeOutError

from wgan_sweep.errors import RunLockedError

log = logging.getLogger(__name__)

LIFETIME = timedelta(seconds=60)
"""How long a lock is valid after its owner's last heartbeat."""
HEARTBEATS_PER_LIFETIME = 4
CLOCK_TOLERANCE = timedelta(seconds=10)
"""How far the clocks of two machines may differ."""


def _lock(path: Path) -> Lock:
    # The library separates the fields of its file by a character that must not occur in the path.
    separator = next(mark for mark in (SEP, "^", "~", "#", "@", "\x1f") if mark not in str(path))
    return Lock(str(path), lifetime=LIFETIME, separator=separator)


def _owner_of(lock: Lock) -> str:
    try:
        host, process, _ = lock.details
    except (NotLockedError, OSError):
        return "another process"
    return f"process {process} on {host}"


def _is_stale(lock: Lock) -> bool:
    """Return whether the owner is gone: by its process where it can be checked, else by its last heartbeat."""
    state = lock.state
    if state is LockState.unlocked:
        return False
    try:
        expired = lock.expiration + CLOCK_TOLERANCE < datetime.now()
    except OSError:
        return False
    return state is LockState.stale or expired


def lock_owner(path: Path) -> str | None:
    """Return the owner of the lock at `path`, or None if nobody holds it."""
    if not path.exists():
        return None
    lock = _lock(path)
    return None if _is_stale(lock) else _owner_of(lock)


def _remove(path: Path) -> None:
    claim = ""
    with suppress(OSError):
        claim = path.read_text().strip()
    path.unlink(missing_ok=True)
    if claim:
        Path(claim).unlink(missing_ok=True)


@contextmanager
def run_lock(path: Path, name: str) -> Iterator[None]:
    """Hold a lock during the block, with a heartbeat. A lock whose owner is gone is taken over.

    Args:
        path: The lock's file; its folder is created.
        name: What is locked, for messages.

    Raises:
        RunLockedError: if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    if _is_stale(lock):
        log.info("taking over %s from %s, which is gone", name, _owner_of(lock))
        _remove(path)
    try:
        lock.lock(timeout=timedelta())
    except TimeOutError:
        raise RunLockedError(_owner_of(lock)) from None
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(LIFETIME.total_seconds() / HEARTBEATS_PER_LIFETIME):
            try:
                lock.refresh()
            except (NotLockedError, OSError) as error:
                log.warning("the lock of %s was lost (%s): another process may work on it", name, error)
                return

    heartbeat = threading.Thread(target=beat, name=f"heartbeat of {name}", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        with suppress(NotLockedError, OSError):
            lock.unlock()
