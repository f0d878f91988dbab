"""Ownership of a run: one process at a time writes to it, on one machine or on several that share the folder.

A run's lock is a folder of numbered token files. The owner is the process that created the token with the highest
number. A token is created by linking a complete file to the next number, which exactly one process can do. A process
that was superseded finds a higher number, and stops writing.
"""

import errno
import json
import logging
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Self

from wgan_sweep.errors import InputError, RunLockedError, RunTakenOverError

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 60.0
"""How long a token of a process that cannot be checked is valid without a heartbeat."""
HEARTBEATS_PER_LIFETIME = 4
LIFETIMES_UNTIL_SILENT = 10
"""After so many lifetimes without a heartbeat, a process that cannot be checked is taken for gone at the first look."""
MAX_SECONDS_BETWEEN_LOOKS = 15.0
"""The longest time between two looks at tokens that counts as watching them. After a longer one, the file server may
have been away, and with it all heartbeats."""
SECONDS_BETWEEN_LOOKS = 1.0
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""The errors of `os.link` on a file system that has no hard links."""
REMOVED = ".removed-"
"""Prefix of the names of folders that are being removed."""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()  # the name of a process may be any bytes
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _stat_fields(pid: int | str) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` from the third on (the state), or none if it cannot be read."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _start_time(pid: int | str) -> str:
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else ""


def _is_hidden(pid: int) -> bool:
    """Return whether a process exists, but its state cannot be read: one of another user, with hidepid=2 for /proc."""
    if _stat_fields(pid):
        return False
    try:
        with suppress(PermissionError):
            os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    return True


@dataclass(frozen=True)
class Process:
    """A process, distinguished from all others: those of other boots, containers and machines, and later ones."""

    host: str = field(default_factory=platform.node)
    boot: str = field(default_factory=lambda: _read("/proc/sys/kernel/random/boot_id"))
    """Id of the machine's boot; empty where the system has none."""
    namespace: str = field(default_factory=_namespace)
    """The PID namespace, in which `pid` has its meaning."""
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _start_time("self"))
    """When it started, in clock ticks after the boot."""
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Return the process that a token names, or None if its text names none."""
        try:
            values = json.loads(text)
            process = cls(**values)
        except (ValueError, TypeError, RecursionError):
            return None
        is_complete = values.keys() == {
            item.name for item in fields(cls)
        }  # a missing field would get the value of this process
        is_valid = isinstance(process.pid, int) and all(
            isinstance(value, str) for name, value in values.items() if name != "pid"
        )
        return process if is_complete and is_valid else None

    def is_this_one(self) -> bool:
        """Return whether this is the process that asks."""
        here = Process()
        return replace(self, nonce=here.nonce) == here

    def is_checkable(self) -> bool:
        """Return whether this process can be looked up here: the same boot and PID namespace, and not hidden."""
        here = Process()
        is_here = bool(here.boot and here.namespace) and (self.boot, self.namespace) == (here.boot, here.namespace)
        return is_here and not _is_hidden(self.pid)

    def is_gone(self) -> bool:
        """Return whether a process that can be checked has ended."""
        return _start_time(self.pid) != self.started or _stat_fields(self.pid)[:1] == ["Z"]

    def is_stopped(self) -> bool:
        """Return whether a process that can be checked is stopped, by SIGSTOP for example."""
        return _stat_fields(self.pid)[:1] in (["T"], ["t"])


_first_seen: dict[Path, tuple[int, float]] = {}
"""For tokens of processes that cannot be checked: the time of their last heartbeat, and when this process first saw
that time, by its own monotonic clock."""
_last_look: dict[Path, float] = {}
"""When this process last looked at any token, by the folder of the runs' locks."""
_clocks: dict[Path, float] = {}
"""The clock of the file server, which sets the times of tokens, less the monotonic clock of this process, by the folder
of the runs' locks. The clocks of two machines are never compared."""
_held: set[str] = set()
"""The nonces of the tokens that this process holds."""


def _has_expired(token: Path) -> bool:
    """Return whether a token had no heartbeat while this process looked at it for a lifetime, without a long pause."""
    try:
        heartbeat = token.stat().st_mtime_ns
    except OSError:
        return False
    now, locks = time.monotonic(), token.parent.parent
    if now - _last_look.get(locks, now) > MAX_SECONDS_BETWEEN_LOOKS:
        for path in [path for path in _first_seen if path.parent.parent == locks]:
            del _first_seen[path]
    _last_look[locks] = now
    seen, since = _first_seen.get(token, (None, 0.0))
    if seen != heartbeat:
        _first_seen[token] = heartbeat, now
        return False
    return now - since > LIFETIME_SECONDS


def _is_silent(token: Path) -> bool:
    """Return whether a token had no heartbeat for many lifetimes, by the clock of the file server.

    Where no file can be written, that clock is not known, and no token is silent.
    """
    locks = token.parent.parent
    try:
        if locks not in _clocks:
            with tempfile.TemporaryFile(dir=token.parent) as file:
                os.utime(file.fileno())
                _clocks[locks] = os.fstat(file.fileno()).st_mtime - time.monotonic()
        seconds = time.monotonic() + _clocks[locks] - token.stat().st_mtime
    except OSError:
        return False
    return seconds > LIFETIMES_UNTIL_SILENT * LIFETIME_SECONDS


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of a lock's tokens, in ascending order."""
    try:
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    except (FileNotFoundError, NotADirectoryError):
        return []


@dataclass(frozen=True)
class _Holder:
    """The process that holds a lock, or held it when it ended."""

    token: Path
    process: Process | None
    """None if the token names no process."""

    def __str__(self) -> str:
        return str(self.process or "another process")

    def is_alive(self) -> bool:
        """Return whether the process is known to be alive, or may be: only a lock without a live holder is taken."""
        known = self._is_known_to_be_alive()
        return not _has_expired(self.token) if known is None else known

    def seems_alive(self) -> bool:
        """Return whether the process is alive as far as one look can tell, which is enough to report it."""
        known = self._is_known_to_be_alive()
        return not (_has_expired(self.token) or _is_silent(self.token)) if known is None else known

    def is_suspended(self) -> bool:
        """Return whether the process is stopped on this machine: it may go on, however long it had no heartbeat."""
        process = self.process
        return process is not None and process.is_checkable() and not process.is_gone() and process.is_stopped()

    def _is_known_to_be_alive(self) -> bool | None:
        """Return whether the process is alive, or None if only its heartbeat can tell."""
        if self.process is None or not self.process.is_checkable():
            return None
        if self.process.is_this_one():
            return self.process.nonce in _held  # a token that this process failed to release is nobody's
        if self.process.is_gone():
            return False
        return None if self.process.is_stopped() else True


def _holder(folder: Path, number: int) -> _Holder | None:
    """Return who holds the token of a number, or None if it was released (it is empty) or is gone."""
    token = folder / str(number)
    try:
        text = token.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return _Holder(token, None)
    return _Holder(token, Process.from_json(text)) if text else None


def lock_owner(folder: Path) -> str | None:
    """Return the owner of the lock at `folder`, or None if nobody holds it or its owner is gone.

    This takes one look. The lock of an owner that is gone may not be free yet: `run_lock` watches it for a lifetime.
    """
    try:
        holder = _last_holder(folder)
    except OSError as error:
        return f"a process that cannot be determined ({folder}: {error.strerror})"
    return str(holder) if holder is not None and holder.seems_alive() else None


def is_suspended(folder: Path) -> bool:
    """Return whether the owner of the lock at `folder` is a process of this machine that is stopped."""
    try:
        holder = _last_holder(folder)
    except OSError:
        return False
    return holder is not None and holder.is_suspended()


def watch(folders: Iterable[Path]) -> None:
    """Begin to watch the owners of locks, so that the lifetimes until they are known to be gone pass together."""
    for folder in folders:
        lock_owner(folder)


def _last_holder(folder: Path) -> _Holder | None:
    """Return who holds the token with the highest number, or None if it was released or there is none."""
    numbers = _numbers(folder)
    return _holder(folder, numbers[-1]) if numbers else None


class Ownership:
    """A token that this process created. It is valid until another process creates one with a higher number.

    Args:
        folder: The lock's folder.
        number: The token's number.
        process: This process, as the token names it.
        name: What is locked, for messages.
    """

    def __init__(self, folder: Path, number: int, process: Process, name: str) -> None:
        self.number = number
        self.is_lost = False
        """Whether another process is known to have taken over."""
        self._folder = folder
        self._token = folder / str(number)
        self._process = process
        self._name = name
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name=f"heartbeat of {name}", daemon=True)
        self._heartbeat.start()

    def check(self) -> None:
        """Check that this process still owns the run; called immediately before each write.

        Raises:
            RunTakenOverError: if another process has taken over, or the lock was removed.
        """
        holder = _last_holder(self._folder)
        # A lock that was removed and made anew has the same numbers, and another holder.
        if holder is None or holder.process != self._process:
            self.is_lost = True
        if self.is_lost:
            raise RunTakenOverError(str(holder or "another process"))

    def _beat(self) -> None:
        while not self._stop.wait(LIFETIME_SECONDS / HEARTBEATS_PER_LIFETIME):
            try:
                self.check()
                os.utime(self._token)
            except RunTakenOverError:  # the next write or step ends the work
                return
            except OSError as error:  # the next heartbeat may succeed
                log.debug("no heartbeat for %s: %s", self._name, error)

    def release(self) -> None:
        """Give up the token. The empty file stays: its number must not be used again."""
        self._stop.set()
        self._heartbeat.join()
        try:
            if _holder(self._folder, self.number) == _Holder(self._token, self._process):
                os.truncate(self._token, 0)
        except OSError as error:
            log.debug("the token of %s is not emptied: %s", self._name, error)
        finally:
            _held.discard(self._process.nonce)


def _acquire(folder: Path, name: str) -> Ownership | None:
    """Try to create the next token; return None if another process was faster.

    Raises:
        RunLockedError: if another process holds the lock.
        InputError: if the file system has no hard links.
    """
    process = Process()
    _held.add(process.nonce)  # first, so that no other thread takes the token for one that was not released
    ownership = None
    try:
        ownership = _acquire_as(process, folder, name)
    finally:
        if ownership is None:
            _held.discard(process.nonce)
    return ownership


def _acquire_as(process: Process, folder: Path, name: str) -> Ownership | None:
    """Try to create the next token for a process, as `_acquire`."""
    numbers = _numbers(folder)
    number = numbers[-1] + 1 if numbers else 1
    holder = _holder(folder, numbers[-1]) if numbers else None
    if holder is not None and holder.is_alive():
        raise RunLockedError(str(holder))
    claim = folder / f"claim-{process.nonce}"
    try:
        with claim.open("x") as file:
            json.dump(asdict(process), file)
            file.flush()
            os.fsync(file.fileno())
        token = folder / str(number)
        try:
            os.link(claim, token)
        except FileNotFoundError:  # a new owner has removed the claim
            return None
        except FileExistsError:
            # On NFS, the reply of a link that succeeded may be lost, and its repetition fails.
            if claim.stat().st_nlink != 2 or Process.from_json(token.read_text()) != process:
                return None
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            raise InputError(
                f"{folder} is on a file system without hard links, by which runs are locked ({error.strerror}): set "
                "runs to a folder on another file system"
            ) from error
    except FileNotFoundError:
        return None
    finally:
        claim.unlink(missing_ok=True)
    if _numbers(folder)[-1:] != [number]:  # others have come and gone since, or the folder was removed
        token.unlink(missing_ok=True)
        return None
    if holder is not None:
        log.info("taking over %s from %s, which %s", name, holder, _why_taken_over(holder))
    return Ownership(folder, number, process, name)


def _why_taken_over(holder: _Holder) -> str:
    if holder.process is not None and holder.process.is_checkable():
        return "is gone" if holder.process.is_gone() else "is stopped"
    return f"gave no sign of life for {LIFETIME_SECONDS:.0f} s"


def _remove_leftovers(folder: Path, number: int) -> None:
    """Remove the tokens before `number`, and claims. A process whose claim was removed starts over."""
    for path in folder.iterdir():
        if path.name.startswith("claim-") or (path.name.isdigit() and int(path.name) < number):
            path.unlink(missing_ok=True)


@contextmanager
def run_lock(folder: Path, name: str, *, watch_silent: bool = False) -> Iterator[Ownership]:
    """Own a run during the block, with a heartbeat. A run whose owner is gone is taken over.

    A process on this machine is gone when it has ended. A process that cannot be checked (on another machine, in
    another container, or hidden by the system), and one that is stopped, is gone when it had no heartbeat while this
    process looked at it for a lifetime.

    Args:
        folder: The lock's folder, which is created.
        name: What is locked, for messages.
        watch_silent: Whether to wait if `lock_owner` takes the owner for gone: until it was watched for a lifetime.
            Otherwise that raises, too.

    Raises:
        RunLockedError: if another process owns the run.
        InputError: if the file system cannot hold locks, or the lock is not a folder.
    """
    ownership = None
    is_watching = False
    while ownership is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)  # each time: somebody may remove it
            ownership = _acquire(folder, name)
        except (FileExistsError, NotADirectoryError) as error:
            blocking = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), folder)
            raise InputError(
                f"{blocking} is where the folder of a lock belongs ({error.strerror}): move it away"
            ) from error
        except RunLockedError as owner:
            if not watch_silent or lock_owner(folder) is not None:
                raise
            if not is_watching:
                log.warning(
                    "%s: %s has had no heartbeat for long: watching it for %.0f s before taking over",
                    name,
                    owner,
                    LIFETIME_SECONDS,
                )
                is_watching = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        with suppress(OSError):
            _remove_leftovers(folder, ownership.number)
        yield ownership
    finally:
        ownership.release()


def rename_for_removal(path: Path, remover: Ownership | None) -> Path:
    """Rename a folder that is to be removed, and return its new path. One that was renamed before keeps its name.

    Another process may be using it: all paths into it become invalid at once.

    Args:
        path: The folder.
        remover: The token of this process; None if it could not write one, as on a full disk.
    """
    if path.name.startswith(REMOVED):
        return path
    number = remover.number if remover else f"0-{uuid.uuid4().hex[:8]}"
    removed = path.with_name(f"{REMOVED}{number}-{path.name.lstrip('.')}")
    with suppress(FileNotFoundError):
        path.rename(removed)
    return removed
