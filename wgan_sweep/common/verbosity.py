"""How much a command says beside its results: what ``--quiet`` and ``--verbose`` mean."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class Verbosity(Enum):
    """The lowest level of the messages that are shown. Each value is a level of `logging`."""

    SILENT = logging.CRITICAL + 1
    """Nothing is shown: for callers from Python, which get results and exceptions."""
    QUIET = logging.WARNING
    """Only warnings and errors are shown."""
    NORMAL = logging.INFO
    """Progress is shown, too."""
    VERBOSE = logging.DEBUG
    """What helps to find a problem is shown, too."""

    def shows(self, level: int) -> bool:
        """Return whether messages of a level are shown."""
        return level >= self.value

    @property
    def shows_progress(self) -> bool:
        """Whether progress bars and progress lines are shown."""
        return self.shows(logging.INFO)


FLAGS = {
    "-q": Verbosity.QUIET,
    "--quiet": Verbosity.QUIET,
    "-v": Verbosity.VERBOSE,
    "--verbose": Verbosity.VERBOSE,
}
"""The options of the commands, and what each means. Two different ones exclude each other."""
HELP = {
    Verbosity.QUIET: "show results, warnings and errors only",
    Verbosity.VERBOSE: "show debug messages, too",
}


def announce(text: str, verbosity: Verbosity) -> None:
    """Write a line to standard error before work that takes seconds, such as importing torch, if it is a terminal."""
    if sys.stderr.isatty() and verbosity.shows_progress:
        sys.stderr.write(f"{text} ...\n")
        sys.stderr.flush()


class _StandardError(logging.Handler):
    """Writes messages to what `sys.stderr` is at the time, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        sys.stderr.write(f"{self.format(record)}\n")


@contextmanager
def logging_to_stderr(command: str, verbosity: Verbosity) -> Iterator[None]:
    """Write the log messages of this package to standard error inside this context.

    Args:
        command: The name of the command, which begins each line.
        verbosity: Which messages are written.
    """
    log = logging.getLogger("wgan_sweep")
    handler = _StandardError(verbosity.value)
    handler.setFormatter(logging.Formatter(f"{command}: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(verbosity.value)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
