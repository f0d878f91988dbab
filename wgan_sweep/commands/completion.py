"""Completion of the commands' options by a shell: ``--shell-completion``, as Hydra offers it to ``wgan-sweep``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from wgan_sweep.commands.options import user_path

SHELLS = ("bash", "zsh", "fish")
"""The shells for which Hydra writes a script, too."""
RUN_IDS = "sh -c 'printenv WGAN_SWEEP_RUNS || echo runs' | xargs -I @ ls @ 2>/dev/null | grep -xE '[0-9a-f]{12}'"
"""Lists the ids of runs: names of directories, of which none is opened. The shell that reads the list expands its
words, so it holds only digits and letters. The scripts of some shells have it between double quotes: it has none, and
no dollar sign."""


def add_completion_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--shell-completion`` to a command."""
    parser.add_argument(
        "--shell-completion",
        action=_PrintScript,
        choices=[f"install={shell}" for shell in SHELLS],
        metavar="install=SHELL",
        help=f"print a script by which a shell ({', '.join(SHELLS)}) completes the command",
    )


class _PrintScript(argparse.Action):
    """Prints the script and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, value: Any, *__: object) -> NoReturn:
        """Print the script."""
        import shtab

        for action in _actions(parser):
            if found := _completion_of(action):
                action.complete = found  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(parser, value.removeprefix("install=")) + "\n")
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a command and of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
        else:
            yield action


def _completion_of(action: argparse.Action) -> Any:
    """Return what completes the value of an argument, as shtab takes it; None for what its choices complete."""
    import shtab

    if action.dest in ("id", "ids", "words"):
        return shtab.cmd(RUN_IDS)
    if action.metavar == "FOLDER" and action.dest != "runs":  # runs may be an archive
        return "directory"
    return "file" if action.type in (Path, user_path) or action.dest == "weights" else None
