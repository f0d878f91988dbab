"""Options that every command has."""

import argparse
from collections.abc import Sequence
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
        "--allow", action="append", default=[], metavar="MODULE", help="run a module's code that a run's config names"
    )
    add_folders_option(parser, "use the modules in a folder, and run their code that a run's config names")


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


class Refused(argparse.Action):
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
