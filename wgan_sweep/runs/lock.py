"""Ownership of a run: one process at a time writes to it, on one machine or on several that share the folder.

A run's lock is a folder of numbered token files. The owner is the process that created the token with the highest
number. A token is created by linking a complete file to the next number, which exactly one process can do. A process
that was superseded finds a higher number, and stops writing.
"""

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from wgan_sweep.errors import RunLockedError, RunTakenOverError

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 60.0
"""How long a token of a process that cannot be checked is valid without a heartbeat."""
HEARTBEATS_PER_LIFETIME = 4
REMOVED = ".removed-"
"""Prefix of the names of folders that are being removed."""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
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
        is_valid = isinstance(process.pid, int) and all(
            isinstance(value, str) for name, value in values.items() if name != "pid"
        )
        return process if is_valid else None

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
that time, by its own monotonic clock. The clocks of two machines are never compared."""


def _has_expired(token: Path) -> bool:
    """Return whether a token had no heartbeat while this process looked at it for a lifetime."""
    try:
        heartbeat = token.stat().st_mtime_ns
    except OSError:
        return False
    seen, since = _first_seen.get(token, (None, 0.0))
    now = time.monotonic()
    if seen != heartbeat:
        _first_seen[token] = heartbeat, now
        return False
    return now - since > LIFETIME_SECONDS


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of a lock's tokens, in ascending order."""
    try:
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    except FileNotFoundError:
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
        if self.process is not None and self.process.is_checkable():
            if self.process.is_gone():
                return False
            if not self.process.is_stopped():
                return True
        return not _has_expired(self.token)


def _holder(folder: Path, number: int) -> _Holder | None:
    """Return who holds the token of a number, or None if it was released (it is empty) or is gone."""
    token = folder / str(number)
    try:
        text = token.read_text(errors="replace")
    except FileNotFoundError:
        return None
    return _Holder(token, Process.from_json(text)) if text else None


def lock_owner(folder: Path) -> str | None:
    """Return the owner of the lock at `folder`, or None if nobody holds it or its owner is gone."""
    numbers = _numbers(folder)
    holder = _holder(folder, numbers[-1]) if numbers else None
    return str(holder) if holder is not None and holder.is_alive() else None


class Ownership:
    """A token that this process created. It is valid until another process creates one with a higher number.

    Args:
        folder: The lock's folder.
        number: The token's number.
        name: What is locked, for messages.
    """

    def __init__(self, folder: Path, number: int, name: str) -> None:
        self.number = number
        self.is_lost = False
        """Whether another process is known to have taken over."""
        self._folder = folder
        self._token = folder / str(number)
        self._name = name
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name=f"heartbeat of {name}", daemon=True)
        self._heartbeat.start()

    def check(self) -> None:
        """Check that this process still owns the run; called immediately before each write.

        Raises:
            RunTakenOverError: if another process has taken over, or the lock was removed.
        """
        numbers = _numbers(self._folder)
        if not numbers or numbers[-1] != self.number:
            self.is_lost = True
        if self.is_lost:
            holder = _holder(self._folder, numbers[-1]) if numbers else None
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
        with suppress(OSError):
            os.truncate(self._token, 0)


def _acquire(folder: Path, name: str) -> Ownership | None:
    """Try to create the next token; return None if another process was faster.

    Raises:
        RunLockedError: if another process holds the lock.
    """
    numbers = _numbers(folder)
    number = numbers[-1] + 1 if numbers else 1
    holder = _holder(folder, numbers[-1]) if numbers else None
    if holder is not None and holder.is_alive():
        raise RunLockedError(str(holder))
    process = Process()
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
    except FileNotFoundError:
        return None
    finally:
        claim.unlink(missing_ok=True)
    if _numbers(folder)[-1] != number:  # others have come and gone since the tokens were listed
        token.unlink(missing_ok=True)
        return None
    if holder is not None:
        log.info("taking over %s from %s, which %s", name, holder, _why_taken_over(holder))
    return Ownership(folder, number, name)


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
def run_lock(folder: Path, name: str) -> Iterator[Ownership]:
    """Own a run during the block, with a heartbeat. A run whose owner is gone is taken over.

    A process on this machine is gone when it has ended. A process that cannot be checked (on another machine, in
    another container, or hidden by the system), and one that is stopped, is gone when it had no heartbeat while this
    process looked at it for a lifetime.

    Args:
        folder: The lock's folder, which is created.
        name: What is locked, for messages.

    Raises:
        RunLockedError: if another process owns the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ownership = None
    while ownership is None:
        ownership = _acquire(folder, name)
    try:
        with suppress(OSError):
            _remove_leftovers(folder, ownership.number)
        yield ownership
    finally:
        ownership.release()


def put_away(path: Path, remover: Ownership) -> Path:
    """Rename a folder that is to be removed, and return its new path.

    Another process may be using it: all paths into it become invalid at once.
    """
    removed = path.with_name(f"{REMOVED}{remover.number}-{path.name.lstrip('.')}")
    with suppress(FileNotFoundError):
        path.rename(removed)
    return removed
