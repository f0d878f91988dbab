"""What the subcommands of ``wgan-runs`` share: the option ``--runs``, opening the runs, and asking before a removal."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from wgan_sweep.commands.options import add_verbosity_options
from wgan_sweep.errors import InputError
from wgan_sweep.runs.places import DEFAULT_FOLDER, no_runs, opened
from wgan_sweep.runs.selection import StoredRun, stored_runs

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `argparse.ArgumentParser.add_subparsers` returns."""
Execute = Callable[[argparse.Namespace], bool]
"""Executes a subcommand; returns whether all was done."""

FILTERS = "filters: key=value or key=value,value, as in loss=wgan_div div.k=1,2 status=done"


def add_command(
    subparsers: Subparsers, name: str, description: str, execute: Execute, *, reads_archives: bool = False
) -> argparse.ArgumentParser:
    """Add a subcommand with the option ``--runs``; return its parser.

    Args:
        subparsers: The subcommands.
        name: The subcommand's name.
        description: One sentence for the help.
        execute: Executes it.
        reads_archives: Whether ``--runs`` may be an archive.
    """
    parser = subparsers.add_parser(name, help=description, description=description)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path(os.environ.get("WGAN_SWEEP_RUNS") or DEFAULT_FOLDER),
        metavar="FOLDER",
        help=f"folder of run directories{', or an archive' * reads_archives} (default: $WGAN_SWEEP_RUNS, else ./runs)",
    )
    add_verbosity_options(parser)
    parser.set_defaults(execute=execute)
    return parser


class Opened(NamedTuple):
    """The runs that a subcommand works on."""

    folder: Path
    """The folder of the run directories; a temporary one for an archive."""
    runs: list[StoredRun]
    is_complete: bool
    """Whether all records could be read."""


@contextmanager
def opened_runs(options: argparse.Namespace, others: Sequence[Path] = ()) -> Iterator[Opened]:
    """Open the runs that ``--runs`` names; write what is left out to standard error.

    Args:
        options: The options of the command.
        others: Further folders and archives. A run that several have is that of the first that finished it.

    Raises:
        InputError: if they cannot be read, or there are none.
    """
    with opened([options.runs, *others]) as place:
        folder, found = place.folder, place.found
        for line in [*found.problems, *place.notes]:
            sys.stderr.write(f"wgan-runs: {line}\n")
        if not found.records and not found.problems:
            raise InputError(no_runs([options.runs], "--runs FOLDER"))
        yield Opened(folder, stored_runs(found.records, folder), not found.problems)


def check_folder(options: argparse.Namespace) -> Path:
    """Return the folder of runs, for a subcommand that changes it.

    Raises:
        InputError: if ``--runs`` names no folder.
    """
    folder: Path = options.runs
    if not folder.is_dir():
        raise InputError(f"--runs {folder} is not a folder: give the folder that holds the run directories")
    return folder


def is_confirmed(question: str, options: argparse.Namespace) -> bool:
    """Ask on the terminal, unless ``--yes`` was given.

    Raises:
        InputError: if standard input is not a terminal.
    """
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise InputError("nothing was done: standard input is not a terminal to ask on; give --yes")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
