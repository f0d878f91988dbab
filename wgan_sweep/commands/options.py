"""Options that every command has."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from wgan_sweep import __version__
from wgan_sweep.common.verbosity import FLAGS, HELP, Verbosity

VERSION = f"wgan-sweep {__version__}"
"""What ``--version`` prints."""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has: ``--version``, and those of `add_verbosity_options`."""
    parser.add_argument("--version", action="version", version=VERSION)
    add_verbosity_options(parser)
    parser.set_defaults(verbosity=Verbosity.NORMAL)


def add_verbosity_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--verbose``, which set `verbosity` if they are given."""
    flags = parser.add_mutually_exclusive_group()
    for verbosity, text in HELP.items():
        names = [flag for flag, meaning in FLAGS.items() if meaning is verbosity]
        flags.add_argument(
            *names, dest="verbosity", action="store_const", const=verbosity, default=argparse.SUPPRESS, help=text
        )


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a user allows code that a run's config names: ``--allow`` and ``--config-dir``."""
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="allow a run's config to use code of MODULE"
    )
    add_folders_option(parser, "allow a run's config to use code of the modules in FOLDER")


def add_folders_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--config-dir``, which may be given several times, with a help text; the folders are in `folders`."""
    flag = "--config-dir"  # `folders.FLAG`, whose module imports Hydra
    parser.add_argument(flag, action="append", default=[], metavar="FOLDER", dest="folders", help=text)


def allowed_names(options: argparse.Namespace) -> list[str]:
    """Return the names that the options of `add_trust_options` allow; the modules of the folders become importable.

    Raises:
        InputError: if a folder cannot be used.
    """
    from wgan_sweep.config import folders

    for folder in options.folders:
        folders.use(folder)
    return [*options.allow, *folders.trusted_names()]


def user_path(text: str) -> Path:
    """Return the path that an argument names, with ``~`` expanded."""
    return Path(text).expanduser()


@contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """End the command without a message if the program that reads its output has ended, as in ``... | head``.

    The exit code is that of a command that the signal SIGPIPE ended.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is left to write goes nowhere; else Python reports it at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


class RemovedOption(argparse.Action):
    """An option that was removed or renamed: it is refused, with a hint, and does not appear in the help.

    Args:
        remedy: What to write instead.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, remedy: str) -> None:
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
        self._remedy = remedy

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Exit with a message."""
        parser.error(f"there is no {self.option_strings[0]}: {self._remedy}")
