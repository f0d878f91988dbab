"""The library that injects faults into system calls: compiling it, loading it, and its control block."""

import ctypes
import errno
import mmap
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
CONTROL = "FAULTS_CONTROL"
"""Environment variable with the path of the control block, which processes that a trial starts attach to."""
EVER = 2**31 - 1
NOTHING, KILL, TORN, SHORT, FAIL, SIGNAL = range(6)


def obstacle() -> str | None:
    """Return why the library cannot be compiled here, or None."""
    if not Path("/proc/self/fd").exists():
        return "faults are injected on Linux only"
    return None if shutil.which("cc") else "faults are injected by a C library, and there is no compiler (cc)"


def compile_to(folder: Path) -> Path:
    """Compile the library; return its path."""
    library = folder / "shim.so"
    subprocess.run(
        ["cc", "-O1", "-D_FORTIFY_SOURCE=0", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True
    )
    return library


@dataclass(frozen=True)
class Fault:
    """What happens to the calls of a trial."""

    action: int = NOTHING
    value: int = 0
    """The error number, or the signal."""
    length: int = 1
    """How many calls have the fault, from the first one on."""


NO_FAULT = Fault()

KINDS = {
    "kill": Fault(KILL),
    "torn": Fault(TORN),
    "short": Fault(SHORT),
    "enospc": Fault(FAIL, errno.ENOSPC),
    "enospc-8": Fault(FAIL, errno.ENOSPC, 8),
    "enospc-ever": Fault(FAIL, errno.ENOSPC, EVER),
    "eio": Fault(FAIL, errno.EIO),
    "sigint": Fault(SIGNAL, signal.SIGINT),
    "sigterm": Fault(SIGNAL, signal.SIGTERM),
    "sighup": Fault(SIGNAL, signal.SIGHUP),
}
"""The faults by name: killed before a call; killed in the middle of a write; a write of half the bytes; a full disk for
one call, for eight, and until the process ends; an error of the disk; a signal to the process group."""


class _Block(ctypes.Structure):
    _fields_ = [("folders", ctypes.c_char * 1024 * 4)] + [
        (name, ctypes.c_int) for name in ("action", "value", "at", "length", "count", "fired")
    ]


class Control:
    """The control block of a trial, at `path`; the processes of the trial share it.

    Args:
        path: Its file, which is created.
        folders: The folders below which calls are counted, 4 at most.
        fault: What happens to them.
        at: Number of the first call with the fault, from 1.
    """

    def __init__(self, path: Path, folders: Sequence[Path], fault: Fault, at: int) -> None:
        self.path = path
        self.trace_path = Path(f"{path}.trace")
        self.trace_path.unlink(missing_ok=True)
        path.write_bytes(bytes(ctypes.sizeof(_Block)))
        with path.open("r+b") as file:
            self._block = _Block.from_buffer(mmap.mmap(file.fileno(), 0))
        for slot, folder in zip(self._block.folders, folders, strict=False):
            slot.value = os.fsencode(folder)
        self._block.action, self._block.value, self._block.length = fault.action, fault.value, fault.length
        self._block.at = at

    @property
    def count(self) -> int:
        """Number of calls so far."""
        return int(self._block.count)

    @property
    def fired(self) -> int:
        """Number of calls that had the fault."""
        return int(self._block.fired)

    def trace(self) -> dict[int, str]:
        """Return the calls so far, by number: their name and path."""
        lines = self.trace_path.read_text().splitlines() if self.trace_path.exists() else []
        return {int(number): f"{name} {path}" for number, name, path in (line.split("\t", 2) for line in lines)}

    def attach(self) -> None:
        """Count the calls of this process from now on, and those of processes that it starts."""
        os.environ[CONTROL] = str(self.path)
        ctypes.CDLL(None).faults_attach(os.fsencode(self.path))
