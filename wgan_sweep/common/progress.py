"""Progress of runs and sweeps: live bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import timedelta
from typing import Any, Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from wgan_sweep.errors import InputError, RunLockedError

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is written where there are no bars."""
SHORTEST_RUN = 0.5
"""Seconds; a run that takes less was complete before."""


def _describe(values: Mapping[str, float], rate: float | None, seconds_left: float | None) -> str:
    parts = [f"{rate:,.0f} img/s"] if rate is not None else []
    if "wasserstein" in values:
        parts.append(f"W {values['wasserstein']:.3g}")
    if "fid" in values:
        parts.append(f"FID {values['fid']:.2f}")
    if seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(seconds_left))} left")
    return "  ".join(parts)


Batch = TypeVar("Batch", bound=Sized)


def show_progress(
    batches: Iterable[Batch], total: int | None, label: str, console: Console | None = None
) -> Iterator[Batch]:
    """Yield batches and show how many of `total` items were yielded: a bar on a terminal, lines elsewhere."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn(label), BarColumn(), MofNCompleteColumn(), console=console, transient=True
        ) as progress:
            task = progress.add_task(label, total=total)
            for batch in batches:
                yield batch
                progress.advance(task, len(batch))
        return
    yield from log_progress(
        batches, total, lambda text: console.print(f"{label}  {text}", highlight=False, soft_wrap=True)
    )


def log_progress(batches: Iterable[Batch], total: int | None, write: Callable[[str], None]) -> Iterator[Batch]:
    """Yield batches and write, every `SECONDS_BETWEEN_LINES`, how many of `total` items were yielded."""
    done, last_line = 0, time.monotonic()
    for batch in batches:
        yield batch
        done += len(batch)
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            write(f"{done} of {total if total is not None else '?'}")


class ProgressReporter(Protocol):
    """Shows the progress of runs: the `Display` of this process, or of another process (`RemoteDisplay`)."""

    def run(self, label: str, total: int) -> "RunProgress":
        """Return the progress of a run of `total` steps, which shows itself here."""

    def add_bar(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""

    def update_bar(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Set the step and the text of a bar; None keeps the step."""

    def remove_bar(self, task: TaskID | None, *, completed: bool = True) -> None:
        """Remove the bar of a run, and advance the bar of the sweep if the run is completed."""

    def line(self, text: str) -> None:
        """Write a line."""

    def line_if_no_bars(self, text: str) -> None:
        """Write a line if there are no bars."""


class RunProgress:
    """The progress of one run: a bar while it is in the context, and its `summary` as a line at the end.

    Args:
        display: Where it is shown.
        label: The name of the run on the display.
        total: Number of steps.
    """

    def __init__(self, display: ProgressReporter, label: str, total: int) -> None:
        self.summary = "interrupted"
        self._display = display
        self._label = label
        self._total = total
        self._task = display.add_bar(label, total)
        self._previous: tuple[float, int, int] | None = None
        """Time, step and images seen of the previous update."""
        self._seconds, self._steps, self._images = 0.0, 0, 0
        """Totals over the intervals between updates that count in the rate."""
        self._values: dict[str, float] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._display.remove_bar(self._task, completed=kind is None or not issubclass(kind, RunLockedError))
        if kind is None:
            self._line(self.summary)
        elif not issubclass(kind, InputError | RunLockedError):  # the caller reports these two
            self._line(f"{self.summary} ({kind.__name__})")

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show metrics of a step, which include `images_seen`. The rate ignores time spent in `working_on`."""
        now, images_seen = time.monotonic(), int(values["images_seen"])
        if self._previous is not None:
            previous_time, previous_step, previous_images = self._previous
            self._seconds, self._steps, self._images = (
                self._seconds + now - previous_time,
                self._steps + step - previous_step,
                self._images + images_seen - previous_images,
            )
        self._previous = now, step, images_seen
        self._values |= values
        rate = self._images / self._seconds if self._steps else None
        seconds_left = (self._total - step) * self._seconds / self._steps if self._steps else None
        text = _describe(self._values, rate, seconds_left)
        self._display.update_bar(self._task, step, text)
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._display.line_if_no_bars(f"{self._label}  step {step}/{self._total}  {text}")

    def working_on(self, text: str) -> None:
        """Show what the run does between two steps, for example scoring."""
        self._previous = None
        self._last_line = time.monotonic()
        self._display.update_bar(self._task, None, text)
        self._display.line_if_no_bars(f"{self._label}  {text}")

    def still_working_on(self, text: str) -> None:
        """Update the text of `working_on`; if there are no bars, every `SECONDS_BETWEEN_LINES`."""
        self._display.update_bar(self._task, None, text)
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._display.line_if_no_bars(f"{self._label}  {text}")

    def _line(self, text: str) -> None:
        self._display.line(f"{self._label}  {text}")


class _Pace:
    """How many runs of a sweep are complete, and when the others will be.

    Runs that were complete before take no time, and do not count in the estimate.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._previous = time.monotonic()
        self._seconds, self._trained = 0.0, 0

    def complete_one(self) -> None:
        """Count a run that is complete."""
        self.done += 1
        now = time.monotonic()
        seconds, self._previous = now - self._previous, now
        if seconds >= SHORTEST_RUN:
            self._seconds, self._trained = self._seconds + seconds, self._trained + 1

    def __str__(self) -> str:
        if not self._trained or self.done >= self.total:
            return ""
        seconds = (self.total - self.done) * self._seconds / self._trained
        return f"about {timedelta(seconds=round(seconds))} left"


class Display:
    """Shows a bar for the sweep and one per run on a terminal; writes lines to anything else.

    Args:
        console: Where to write. Default: standard error, so that standard output holds only results.
        quiet: Whether the default shows nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self._live: Progress | None = None
        self._sweep: TaskID | None = None
        self._pace: _Pace | None = None
        self._last_line = time.monotonic()

    def _progress(self) -> Progress | None:
        if self._live is None and self.console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                transient=True,
            )
            self._live.start()
        return self._live

    def sweep(self, total: int) -> None:
        """Show a bar for a sweep of `total` runs, until `close`. Another call adds runs."""
        self._pace = self._pace or _Pace()
        self._pace.total += total
        if progress := self._progress():
            if self._sweep is None:
                self._sweep = progress.add_task("sweep", total=0, text="runs")
            previous_total = next(task.total or 0 for task in progress.tasks if task.id == self._sweep)
            progress.update(self._sweep, total=previous_total + total)

    def run(self, label: str, total: int) -> RunProgress:
        """Return the progress of a run of `total` steps, which shows itself here."""
        return RunProgress(self, label, total)

    def add_bar(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""
        progress = self._progress()
        return progress.add_task(label, total=total, text="") if progress else None

    def update_bar(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Set the step and the text of a bar; None keeps the step."""
        if self._live and task is not None:
            self._live.update(task, completed=step, text=text)

    def remove_bar(self, task: TaskID | None, *, completed: bool = True) -> None:
        """Remove the bar of a run, and advance the bar of the sweep if the run is completed."""
        if self._pace is not None and completed:
            self._pace.complete_one()
            self._show_pace(self._pace)
        if self._live and task is not None:
            self._live.remove_task(task)
            if self._sweep is None:
                self.close()

    def _show_pace(self, pace: _Pace) -> None:
        """Show how many runs of the sweep are complete."""
        if self._live and self._sweep is not None:
            self._live.update(self._sweep, completed=pace.done, text=f"runs  {pace}")
        elif self._live is None and pace.total > 1 and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.line(f"sweep  {pace.done} of {pace.total} runs  {pace}".rstrip())

    def line(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line_if_no_bars(self, text: str) -> None:
        """Write a line if there are no bars."""
        if self._live is None:
            self.line(text)

    def close(self) -> None:
        """Remove all bars."""
        if self._live:
            self._live.stop()
        self._live = self._sweep = self._pace = None


class RemoteDisplay:
    """A display in another process: calls are sent there, and a `DisplayRelay` repeats them.

    Args:
        send: Sends the name of a call and its arguments to the other process.
    """

    def __init__(self, send: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._send = send
        self._bars = 0

    def run(self, label: str, total: int) -> RunProgress:
        """Return the progress of a run of `total` steps, which shows itself here."""
        return RunProgress(self, label, total)

    def add_bar(self, label: str, total: int) -> TaskID:
        """Add a bar."""
        self._bars += 1
        self._send("add_bar", (self._bars, label, total))
        return TaskID(self._bars)

    def update_bar(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Set the step and the text of a bar; None keeps the step."""
        self._send("update_bar", (task, step, text))

    def remove_bar(self, task: TaskID | None, *, completed: bool = True) -> None:
        """Remove the bar of a run, and advance the bar of the sweep if the run is completed."""
        self._send("remove_bar", (task, completed))

    def line(self, text: str) -> None:
        """Write a line."""
        self._send("line", (text,))

    def line_if_no_bars(self, text: str) -> None:
        """Write a line if there are no bars."""
        self._send("line_if_no_bars", (text,))


class DisplayRelay:
    """Repeats the calls of a `RemoteDisplay` of another process on the display of this one."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._tasks: dict[int, TaskID | None] = {}

    def show(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Repeat a call."""
        calls: dict[str, Callable[..., None]] = {
            "add_bar": self._add_bar,
            "update_bar": self._update_bar,
            "remove_bar": self._remove_bar,
            "line": self._display.line,
            "line_if_no_bars": self._display.line_if_no_bars,
        }
        calls[name](*arguments)

    def close(self) -> None:
        """Remove the bars of the other process after it has died."""
        for bar in list(self._tasks):
            self._remove_bar(bar, completed=True)

    def _add_bar(self, bar: int, label: str, total: int) -> None:
        self._tasks[bar] = self._display.add_bar(label, total)

    def _update_bar(self, bar: int, step: int | None, text: str) -> None:
        self._display.update_bar(self._tasks.get(bar), step, text)

    def _remove_bar(self, bar: int, completed: bool) -> None:
        self._display.remove_bar(self._tasks.pop(bar, None), completed=completed)
