"""Options of the command line that this package reads itself, before Hydra reads the others."""

from collections.abc import Sequence

from wgan_sweep.common import verbosity
from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.config import folders
from wgan_sweep.errors import InputError

FOLDER_FLAGS = (*(folders.FLAG[:length] for length in range(len("--config-d"), len(folders.FLAG) + 1)), "-cd")
"""``--config-dir``, shortened as Hydra allows it."""


def take(arguments: list[str], flags: Sequence[str]) -> str | None:
    """Remove an option with its value from the arguments, and return the value; None if it is not given."""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in flags and equals:
            del arguments[index]
            return value
        if flag in flags and index + 1 < len(arguments):
            value = arguments[index + 1]
            del arguments[index : index + 2]
            return value
    return None


def take_verbosity(arguments: list[str]) -> Verbosity:
    """Remove ``--quiet`` and ``--verbose`` from the arguments, and return what they mean.

    Raises:
        InputError: if both are given.
    """
    given = [argument for argument in arguments if argument in verbosity.FLAGS]
    arguments[:] = [argument for argument in arguments if argument not in verbosity.FLAGS]
    chosen = {verbosity.FLAGS[flag] for flag in given} or {Verbosity.NORMAL}
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: give one of them")
    return chosen.pop()


def use_folders(arguments: Sequence[str]) -> list[str]:
    """Use the folders that the arguments name by ``--config-dir``, and return the other arguments.

    Raises:
        InputError: if a folder or a plugin cannot be used.
    """
    folders.plugins()
    others = list(arguments)
    while (folder := take(others, FOLDER_FLAGS)) is not None:
        folders.use(folder)
    return others
