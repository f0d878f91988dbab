"""Reading files that somebody else may have written: regular files of a limited size, as UTF-8."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from wgan_sweep.errors import InputError

Content = TypeVar("Content")

MAX_DOCUMENT_BYTES = 16 * 2**20
"""The largest record or config that is read. Real ones have some kilobytes."""
MAX_METRICS_BYTES = 2 * 2**30
"""The largest file of measurements that is read."""


class UnreadableError(InputError):
    """A file that is there and cannot be read now: its content is not known to be damaged."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading in binary mode.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is none.
        InputError: if it is not a regular file, or cannot be read (`UnreadableError`).
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 (`Path.open` has no opener)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except IsADirectoryError as error:
        raise InputError(f"{path} is not a regular file") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror})") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{path} is not a regular file")
        yield file


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe, do not wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file. One that was replaced on the file server meanwhile is read again.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is none.
        InputError: if it is not a regular file, too large, or cannot be read (`UnreadableError`).
    """
    return again_if_replaced(lambda: _read_bytes(path, max_bytes))


def again_if_replaced(read: Callable[[], Content]) -> Content:
    """Return what a function reads. If the file was replaced on the file server meanwhile, it is called again."""
    try:
        return read()
    except (OSError, UnreadableError) as error:
        reason = error.__cause__ if isinstance(error, UnreadableError) else error
        if not (isinstance(reason, OSError) and reason.errno == errno.ESTALE):
            raise
    return read()


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size <= max_bytes:
                return file.read(max_bytes)
        except OSError as error:
            raise UnreadableError(f"{path} cannot be read ({error.strerror})") from error
    raise InputError(f"{path} has {size:,} bytes, more than the {max_bytes:,} that are read")


def read_document(path: Path) -> str:
    """Return the text of a record, a config or claims.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is none.
        InputError: if it is not a regular file, too large, not UTF-8, or cannot be read (`UnreadableError`).
    """
    try:
        return read_bytes(path, MAX_DOCUMENT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
