"""The CPU cores that this process may use, and how the commands that train on one machine share them.

A command that trains has a file in a folder of its user, and holds a lock on it. The lock ends with the process,
however it ends. A command that starts beside others computes with its share of the cores. One that started alone keeps
its threads, but while there are others, its idle threads sleep instead of spinning.
"""

import ctypes
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

import joblib
import torch

SECONDS_BETWEEN_LOOKS = 1.0
"""How often a run in training looks for other commands."""


def available_cores() -> int:
    """Return how many CPU cores this process may use: SLURM's allocation, else its affinity mask and cgroup's quota."""
    if allocated := os.environ.get("SLURM_CPUS_PER_TASK"):
        return int(allocated)
    return int(joblib.cpu_count())


@dataclass(frozen=True)
class CoreShare:
    """The part of the cores that belongs to this command."""

    available: int
    """Cores that this process may use."""
    others: int
    """Other commands that train on them."""

    @property
    def cores(self) -> int:
        """Cores of this command, at least 1."""
        return max(1, self.available // (self.others + 1))

    def __str__(self) -> str:
        cores = f"{self.available} core{' is' if self.available == 1 else 's are'}"
        return f"{cores} shared with {self.others} other command{'' if self.others == 1 else 's'}"


def core_share() -> CoreShare:
    """Return this command's share of the cores, as of now."""
    return CoreShare(available_cores(), other_commands())


def user_chose_threads() -> bool:
    """Return whether the user set the number of threads, which then stays."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def threads(count: int) -> str:
    """Return a number of threads in words."""
    return f"{count} thread{'' if count == 1 else 's'}"


def use_threads(count: int) -> None:
    """Compute with this number of threads in this process, unless the user set it."""
    if not user_chose_threads():
        torch.set_num_threads(count)


@contextmanager
def registered() -> Iterator[None]:
    """Let other commands count this process as one that trains, until the context or the process ends.

    Where the folder cannot be used, nobody counts it.
    """
    folder = _folder()
    with ExitStack() as stack:
        if folder is not None:
            with suppress(OSError):
                stack.enter_context(_entry(folder))
        yield


def other_commands() -> int:
    """Return how many other commands train on cores that this process may use.

    Workers belong to their command. The cores of a SLURM job are not those of other jobs, whatever they may use.
    """
    folder, parent, ours = _folder(), parent_process(), _affinity()
    own = {str(os.getpid()), str(parent.pid if parent else "")}
    entries = [] if folder is None else [path for path in folder.glob("[0-9]*") if path.name.split("-")[0] not in own]
    return sum(bool(ours & _cores_of(path)) and path.name.split("-")[1] == _job() for path in entries)


@contextmanager
def limited_spinning_beside_others() -> Iterator[None]:
    """Let idle threads of this process sleep while other commands train, and spin for a few milliseconds otherwise.

    Spinning spares a lone run the time to wake its threads (a tenth of its speed), and takes most of the machine away
    from another run. libgomp spins briefly in a process that has more OpenMP threads than cores, so a second team of
    threads, which always sleep, limits the spinning of the first. A wait policy that the user set stays.
    """
    if torch.get_num_threads() == 1 or os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        yield
        return
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(ended,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(ended: threading.Event) -> None:
    """Keep a second team while other commands train, until the event is set."""
    with ExitStack() as team:
        has_team = False
        while not ended.is_set():
            has_others = other_commands() > 0
            if has_others and not has_team:
                team.enter_context(_second_team())
            elif has_team and not has_others:
                team.close()
            has_team = has_others
            ended.wait(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _second_team() -> Iterator[None]:
    """Keep so many sleeping OpenMP threads that there are more than cores. They belong to a thread, and end with it."""
    size = max(2, len(_affinity()) - torch.get_num_threads() + 2)  # all but one are new
    started, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with suppress(AttributeError):  # another OpenMP library
            start_team = ctypes.CDLL(torch._C.__file__).GOMP_parallel
            do_nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
            start_team(do_nothing, None, ctypes.c_uint(size), ctypes.c_uint(0))
        started.set()
        ended.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    started.wait()
    try:
        yield
    finally:
        ended.set()
        holder.join()


def _affinity() -> set[int]:
    """Return the numbers of the cores on which this process may run."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _folder() -> Path | None:
    """Return the folder of this user's commands on this machine, or None if it cannot be made or is not private."""
    folder = Path(tempfile.gettempdir()) / f"wgan-sweep-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if is_private else None


def _job() -> str:
    """Return the id of the SLURM job that this process belongs to, or 0."""
    return os.environ.get("SLURM_JOB_ID", "0")


@contextmanager
def _entry(folder: Path) -> Iterator[None]:
    """Hold a file with the cores of this process. Its name is never used twice, and it is locked before it has it."""
    with tempfile.NamedTemporaryFile("w", prefix=f".{os.getpid()}-{_job()}-", dir=folder, delete=False) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(" ".join(map(str, _affinity())))
        file.flush()
        path = Path(file.name).rename(folder / Path(file.name).name.removeprefix("."))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _cores_of(path: Path) -> set[int]:
    """Return the cores of a registered command. If it has ended, remove its file and return none."""
    with suppress(OSError), path.open() as file:  # an ended command may remove the file at any moment
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return set(map(int, file.read().split()))
        path.unlink(missing_ok=True)
    return set()
