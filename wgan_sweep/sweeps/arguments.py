"""Options of the command line that this package reads itself, before Hydra reads the others."""

from collections.abc import Sequence

from wgan_sweep.config import folders

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
