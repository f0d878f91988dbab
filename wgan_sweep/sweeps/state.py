"""The state of one command, and its output."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from wgan_sweep.runs import provenance

if TYPE_CHECKING:
    from wgan_sweep.common.progress import Display
    from wgan_sweep.sweeps.launching import RequestedRun


class CommandState:
    """What Hydra's launcher, Hydra's callback and the command share. Hydra creates the first two itself."""

    def __init__(self) -> None:
        self.stop_requested = False
        """Whether Ctrl-C was pressed: runs in training save and end, the others do not start."""
        self.requested: list[RequestedRun] = []
        """The runs of the sweep that were launched."""
        self.continuing: set[str] = set()
        """Ids of runs that continue in jobs after the command has ended."""
        self.problems: list[str] = []
        """Why runs were refused or failed, where no record states it."""
        self.created_folders: list[Path] = []
        """Folders that Hydra creates for the sweep, innermost first."""
        self.started = provenance.now()
        self._display: Display | None = None

    @property
    def display(self) -> "Display":
        """The display: a bar for the sweep, and one for each run in training."""
        if self._display is None:
            from wgan_sweep.common.progress import Display
            from wgan_sweep.sweeps.launching import log_to_display

            self._display = Display()
            log_to_display(self._display)
        return self._display

    def request_stop(self, *_: object) -> None:
        """Handle SIGINT: ask the runs in training to save and end. The second time, raise KeyboardInterrupt."""
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        message = "stopping at the next step, with a checkpoint; press Ctrl-C again to stop at once"
        if self._display is not None:  # do not create it here: the signal may interrupt an import
            self._display.line(message)
        else:
            sys.stderr.write(f"{message}\n")

    def should_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.stop_requested

    def close(self) -> None:
        """Remove all bars, and the folders of a sweep that launched no run."""
        if self._display is not None:
            self._display.close()
        for folder in self.created_folders if not self.requested else []:
            (folder / "multirun.yaml").unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()

    def refuse(self, message: str) -> NoReturn:
        """Exit with an error message."""
        self.close()
        sys.stderr.write(f"wgan-sweep: {message}\n")
        sys.exit(1)

    def print(self, text: str) -> None:
        """Remove all bars and write results to standard output."""
        self.close()
        sys.stdout.write(text)
        sys.stdout.flush()


state = CommandState()
"""The state of this command."""
