"""Options that every command has."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from wgan_sweep import __version__

VERSION = f"wgan-sweep {__version__}"
"""What ``--version`` prints."""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has: ``--version``."""
    parser.add_argument("--version", action="version", version=VERSION)


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
