"""Exceptions that several parts of the package raise and catch, and how errors are shown."""

from typing import Any


class InputError(ValueError):
    """Input that cannot work. The message states what is wrong, the value, and the remedy."""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, or the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def summary(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"


class RunLockedError(Exception):
    """Another process holds the lock of a run. The message names that process."""


class RunTakenOverError(RunLockedError):
    """Another process has taken over a run that this process was working on. The message names that process."""


class RunFailedError(Exception):
    """A run that was trained from Python has failed or diverged. The message names the run and the reason.

    Args:
        message: The message.
        run: The run, a `wgan_sweep.Run`.
    """

    def __init__(self, message: str, run: Any) -> None:
        super().__init__(message)
        self.run = run
