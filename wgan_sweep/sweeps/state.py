"""The state of one command, and its output."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from wgan_sweep.common.stopping import stopping_if
from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.runs import provenance

if TYPE_CHECKING:
    from wgan_sweep.common.progress import Display
    from wgan_sweep.sweeps.launching import RequestedRun


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask the command to save and end: Ctrl-C, `kill` or a shutdown, and a closed terminal."""
SECONDS_OF_HANGUP = 1.0
"""Signals so soon after a first SIGHUP repeat it: if a terminal closes, the shell and the kernel both send one."""


def discard_output_to_closed_terminal() -> None:
    """Redirect standard output and error to nowhere if their terminal is closed, so that writing to them works."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class CommandState:
    """What Hydra's launcher, Hydra's callback and the command share. Hydra creates the first two itself.

    Args:
        verbosity: What is shown on standard error.
        prints_results: Whether results are written to standard output.
    """

    def __init__(self, *, verbosity: Verbosity = Verbosity.NORMAL, prints_results: bool = True) -> None:
        self.stop_signal: int | None = None
        """The signal that asked to stop, if any: runs in training save and end, the others do not start."""
        self._stop_requested_at = 0.0
        """When it came, by `time.monotonic`."""
        self.requested: list[RequestedRun] = []
        """The runs of the sweep that were launched."""
        self.continuing: set[str] = set()
        """Ids of runs that continue in jobs after the command has ended."""
        self.problems: list[str] = []
        """Why runs were refused or failed, where no record states it."""
        self.conclusion = ""
        """What the sweep has decided on its claims, as text; empty if it has none."""
        self.created_folders: list[Path] = []
        """Folders that Hydra creates for the sweep, innermost first."""
        self.started = provenance.now()
        self.verbosity = verbosity
        """What is shown on standard error; to be set before `display` is used."""
        self._prints_results = prints_results
        self._display: Display | None = None

    @property
    def display(self) -> "Display":
        """The display: a bar for the sweep, and one for each run in training."""
        if self._display is None:
            from wgan_sweep.common.progress import Display
            from wgan_sweep.sweeps.launching import log_to_display

            self._display = Display(verbosity=self.verbosity)
            if self.verbosity is not Verbosity.SILENT:
                log_to_display(self._display)
        return self._display

    def handle_signals(self) -> None:
        """Handle the signals that ask to stop, except those that this process was started to ignore (`nohup`)."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.request_stop)

    @contextmanager
    def handling_interrupts(self) -> Iterator[None]:
        """Handle Ctrl-C, and the interruption of a notebook's cell, inside this context; restore the handler after it.

        Outside the main thread, which alone receives signals, nothing changes.
        """
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or handler in (None, signal.SIG_IGN):
            yield
            return
        signal.signal(signal.SIGINT, self.request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    def request_stop(self, number: int, _: object = None) -> None:
        """Handle a signal: ask the runs in training to save and end. The second time, raise KeyboardInterrupt.

        SIGHUP is never the second one: if a terminal closes, it comes several times, and is not a request to hurry.
        """
        if number == signal.SIGHUP:
            discard_output_to_closed_terminal()
        if self.stop_signal is not None:
            seconds = time.monotonic() - self._stop_requested_at
            is_repeated = self.stop_signal == signal.SIGHUP and seconds < SECONDS_OF_HANGUP
            if number == signal.SIGHUP or is_repeated:
                return
            self.stop_signal = number
            raise KeyboardInterrupt
        self.stop_signal, self._stop_requested_at = number, time.monotonic()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        message = f"{name}: stopping at the next step, with a checkpoint; a second signal or Ctrl-C stops at once"
        if self._display is not None:  # do not create it here: the signal may interrupt an import
            self._display.line_from_signal_handler(message, logging.WARNING)
        else:
            sys.stderr.write(f"{message}\n")

    def should_stop(self) -> bool:
        """Return whether a signal asked to stop."""
        return self.stop_signal is not None

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
        """Remove all bars and write results to standard output, unless this state prints none."""
        self.close()
        if self._prints_results:
            sys.stdout.write(text)
            sys.stdout.flush()


state = CommandState()
"""The state of this command."""


@contextmanager
def separate_state(verbosity: Verbosity) -> Iterator[CommandState]:
    """Give calls from Python a state of their own, and handle interrupts; restore the command's state at the end."""
    before = vars(state).copy()
    vars(state).update(vars(CommandState(verbosity=verbosity, prints_results=False)))
    try:
        with state.handling_interrupts(), stopping_if(state.should_stop):
            yield state
    finally:
        state.close()
        vars(state).update(before)
