"""Exceptions that several parts of the package raise and catch."""


class InputError(ValueError):
    """Input that cannot work. The message states what is wrong, the value, and the remedy."""


class RunLockedError(Exception):
    """Another process holds the lock of a run. The message names that process."""


class RunTakenOverError(RunLockedError):
    """Another process has taken over a run that this process was working on. The message names that process."""
