"""Progress of runs and sweeps: live bars on a terminal, plain lines elsewhere."""

import _thread
import itertools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Protocol, Self, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from wgan_sweep.common.redrawing import LiveBars, has_live_display
from wgan_sweep.common.stopping import leave_if_asked
from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.errors import InputError, RunLockedError

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is written where there are no bars."""
WIDTH_OF_BARS = 120
"""Columns of a terminal below which there is room for numbers only."""
SHORTEST_RUN = 0.5
"""Seconds; a shorter run was already complete."""


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
    batches: Iterable[Batch],
    total: int | None,
    label: str,
    console: Console | None = None,
    verbosity: Verbosity = Verbosity.NORMAL,
) -> Iterator[Batch]:
    """Yield batches and show how many of `total` items were yielded: a bar on a terminal, lines elsewhere."""
    console = console or Console(stderr=True)
    if not verbosity.shows_progress:
        yield from batches
    elif has_live_display(console):
        progress = Progress(TextColumn(label), BarColumn(), MofNCompleteColumn(), console=console)
        task = progress.add_task(label, total=total)
        with LiveBars(console, progress.get_renderable):
            for batch in batches:
                yield batch
                progress.advance(task, len(batch))
    else:
        yield from log_progress(
            batches, total, lambda text: console.print(f"{label}  {text}", highlight=False, soft_wrap=True)
        )


def log_progress(batches: Iterable[Batch], total: int | None, write: Callable[[str], None]) -> Iterator[Batch]:
    """Yield batches and write, every `SECONDS_BETWEEN_LINES`, how many of `total` items were yielded.

    Raises:
        KeyboardInterrupt: before a batch, if the work should stop (see `stopping`).
    """
    done, last_line = 0, time.monotonic()
    for batch in batches:
        leave_if_asked()
        yield batch
        done += len(batch)
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            write(f"{done} of {total if total is not None else '?'}")


class ProgressReporter(Protocol):
    """Shows the progress of runs: the `Display` of this process, or of another process (`RemoteDisplay`)."""

    @property
    def verbosity(self) -> Verbosity:
        """What is shown."""

    def run(self, label: str, total: int) -> "RunProgress":
        """Return the progress of a run of `total` steps, which shows itself here."""

    def add_bar(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""

    def update_bar(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Set the step and the text of a bar; None keeps the step."""

    def remove_bar(self, task: TaskID | None, *, completed: bool = True) -> None:
        """Remove the bar of a run, and advance the bar of the sweep if the run is completed."""

    def line(self, text: str, level: int = logging.INFO) -> None:
        """Write a line, if messages of its level are shown."""

    def line_if_no_bars(self, text: str) -> None:
        """Write a line of progress if there are no bars."""


class RunProgress:
    """The progress of one run: a bar while it is in the context, and its `summary` as a line at the end.

    Args:
        display: Where it is shown.
        label: The name of the run on the display.
        total: Number of steps.
    """

    def __init__(self, display: ProgressReporter, label: str, total: int) -> None:
        self.summary = "interrupted"
        self.level = logging.INFO
        """The level of the summary: a warning if the run needs attention."""
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
            self._line(self.summary, self.level)
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
        # The time that it is scored for after its last step is not known.
        knows_left = bool(self._steps) and step < self._total
        seconds_left = (self._total - step) * self._seconds / self._steps if knows_left else None
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

    def _line(self, text: str, level: int = logging.INFO) -> None:
        self._display.line(f"{self._label}  {text}", level)


@dataclass
class _Bar:
    """The bar of a run; where no bars are shown, what one would say."""

    task: TaskID | None
    total: int
    began: float
    start: float | None = None
    """The completed fraction of the run when it was first known: a resumed run does not start at zero."""
    fraction: float = 0.0
    """The completed fraction of the run."""
    trained: float | None = None
    """When its last step was complete; what follows, such as scoring, is not part of `fraction`."""

    @property
    def worked(self) -> float:
        """The fraction of the run that was completed while the bar was shown."""
        return self.fraction - (self.start or 0.0)

    def reach(self, step: int, now: float) -> None:
        """Note that a step is complete."""
        self.fraction = min(step / max(self.total, 1), 1.0)
        self.start = self.fraction if self.start is None else self.start
        if step >= self.total and self.trained is None:
            self.trained = now


class _TimeEstimate:
    """How many runs of a sweep are complete, and when the others will be.

    The rate is the number of runs, with fractions of those in training, over the time since the first one began. Runs
    that were complete before take no time, and do not count in the rate.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._began: float | None = None
        self._ignored, self._worked = 0.0, 0.0
        """Seconds that do not count in the rate; fractions of runs that are over, as in `_Bar.worked`."""
        self._scoring: list[float] = []
        """Seconds that each complete run took after its last step."""

    def begin_one(self, now: float) -> None:
        """Note that a run begins."""
        self._began = now if self._began is None else self._began

    def complete_one(self, bar: _Bar, now: float, *, is_alone: bool) -> None:
        """Count a run that is complete."""
        self.done += 1
        if now - bar.began >= SHORTEST_RUN:
            self._worked += 1 - (bar.start or 0.0)
            self._scoring += [] if bar.trained is None else [now - bar.trained]
        elif is_alone:
            self._ignored += now - bar.began

    def left(self, bars: Iterable[_Bar], now: float) -> str:
        """Return the time that is left, as text; empty if it is not known, or nothing is left.

        When all runs are trained, it is the time until they are scored, as known from runs that are complete.

        Args:
            bars: The runs in training.
            now: The time, by `time.monotonic`.
        """
        bars = list(bars)
        if self._began is None or self.done >= self.total:
            return ""
        trained = [bar.trained for bar in bars if bar.trained is not None]
        if len(trained) == self.total - self.done:
            return self._scoring_left(trained, now)
        worked = self._worked + sum(bar.worked for bar in bars)
        if worked <= 0:
            return ""
        remaining = self.total - self.done - sum(bar.fraction for bar in bars)
        seconds = remaining * (now - self._began - self._ignored) / worked
        return f"about {timedelta(seconds=round(seconds))} left"

    def _scoring_left(self, trained: Sequence[float], now: float) -> str:
        """Return, as text, the time that is left when all runs are trained; without a time if it is not known.

        Args:
            trained: When each run that is not complete was trained.
            now: The time, by `time.monotonic`.
        """
        usual = statistics.fmean(self._scoring) if self._scoring else 0.0
        seconds = round(max(trained) + usual - now)
        return "scoring" + (f", about {timedelta(seconds=seconds)} left" if seconds > 0 else "")


class _Label(ProgressColumn):
    """The name of a run, which is cut off where the terminal is too narrow."""

    def render(self, task: Task) -> Text:
        """Return the name."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class Display:
    """Shows a bar for the sweep and one per run on a terminal and in a notebook; writes lines to anything else.

    Args:
        console: Where to write. Default: standard error, so that standard output holds only results.
        verbosity: What is shown.
    """

    def __init__(self, console: Console | None = None, verbosity: Verbosity = Verbosity.NORMAL) -> None:
        self.console = console or Console(stderr=True)
        self.verbosity = verbosity
        """What is shown."""
        self._shows_bars = verbosity.shows_progress and has_live_display(self.console)
        self._progress = Progress(console=self.console)
        self._live: LiveBars | None = None
        self._sweep: TaskID | None = None
        self._estimate: _TimeEstimate | None = None
        self._bars: dict[TaskID, _Bar] = {}
        self._numbers = itertools.count(1)
        self._last_line = time.monotonic()
        self._waiting: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._writing = threading.Lock()

    def _show_bars(self) -> bool:
        """Return whether there are bars, after starting to show them where they are shown."""
        if self._live is None and self._shows_bars:
            self._live = LiveBars(self.console, self._draw).start()
        return self._live is not None

    def _draw(self) -> RenderableType:
        """Return the bars as a table, without their graphic part on a narrow terminal."""
        step, text = MofNCompleteColumn(), TextColumn("{task.fields[text]}", markup=False)
        is_wide = self.console.width >= WIDTH_OF_BARS
        self._progress.columns = (_Label(), *([BarColumn(24)] if is_wide else []), step, text)
        return self._progress.get_renderable()

    def sweep(self, total: int) -> None:
        """Show a bar for a sweep of `total` runs, until `close`. Another call adds runs."""
        self._estimate = self._estimate or _TimeEstimate()
        self._estimate.total += total
        if self._show_bars():
            if self._sweep is None:
                self._sweep = self._progress.add_task("sweep", total=0, text="runs")
            self._progress.update(self._sweep, total=self._estimate.total)

    def run(self, label: str, total: int) -> RunProgress:
        """Return the progress of a run of `total` steps, which shows itself here."""
        return RunProgress(self, label, total)

    def add_bar(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""
        now, bar = time.monotonic(), TaskID(next(self._numbers))
        task = self._progress.add_task(label, total=total, text="") if self._show_bars() else None
        self._bars[bar] = _Bar(task, total, now)
        if self._estimate is not None:
            self._estimate.begin_one(now)
        return bar

    def update_bar(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Set the step and the text of a bar; None keeps the step."""
        bar = None if task is None else self._bars.get(task)
        if bar is None:
            return
        if step is not None:
            bar.reach(step, time.monotonic())
        if bar.task is not None:
            self._progress.update(bar.task, completed=step, text=text)
            self._show_time_left()

    def remove_bar(self, task: TaskID | None, *, completed: bool = True) -> None:
        """Remove the bar of a run, and advance the bar of the sweep if the run is completed."""
        bar = None if task is None else self._bars.pop(task, None)
        if bar is None:
            return
        if bar.task is not None:
            self._progress.remove_task(bar.task)
        if self._estimate is not None and completed:
            self._estimate.complete_one(bar, time.monotonic(), is_alone=not self._bars)
            self._show_time_left()
        if self._sweep is None:
            self._hide_bars()

    def _time_left(self) -> str:
        return "" if self._estimate is None else self._estimate.left(self._bars.values(), time.monotonic())

    def _show_time_left(self) -> None:
        """Show how many runs of the sweep are complete."""
        estimate = self._estimate
        if estimate is None:
            return
        if self._sweep is not None:
            self._progress.update(self._sweep, completed=estimate.done, text=f"runs  {self._time_left()}")
        elif estimate.total > 1 and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.line(f"sweep  {estimate.done} of {estimate.total} runs  {self._time_left()}".rstrip())

    def line(self, text: str, level: int = logging.INFO) -> None:
        """Write a line, if messages of its level are shown."""
        if self.verbosity.shows(level):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line_from_signal_handler(self, text: str, level: int = logging.INFO) -> None:
        """Write a line from a signal handler, which may have interrupted a call of `line` or an import.

        `line` is not reentrant, so another thread calls it. A `SimpleQueue` is reentrant, and `_thread` starts a thread
        without the locks of `threading.Thread`, which the interrupted code may hold. `close` writes what is left.
        """
        self._waiting.put((text, level))
        _thread.start_new_thread(self._write_waiting, ())

    def _write_waiting(self) -> None:
        with self._writing:
            while not self._waiting.empty():
                self.line(*self._waiting.get())

    def line_if_no_bars(self, text: str) -> None:
        """Write a line of progress if there are no bars, with the time that the sweep has left."""
        if self._live is None:
            left = self._time_left() if self._estimate is not None and self._estimate.total > 1 else ""
            self.line(f"{text}  (sweep: {left})" if left else text)

    def _hide_bars(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None

    def close(self) -> None:
        """Remove all bars, and write lines of signal handlers that are left."""
        self._write_waiting()
        self._hide_bars()
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._bars.clear()
        self._sweep = self._estimate = None


class LabelledDisplay:
    """A display on which every line begins with the same words, such as which run of a sweep it is about.

    Args:
        display: Where it is shown.
        words: The words.
    """

    def __init__(self, display: ProgressReporter, words: str) -> None:
        self._display, self._words = display, words

    @property
    def verbosity(self) -> Verbosity:
        """What is shown."""
        return self._display.verbosity

    def run(self, label: str, total: int) -> RunProgress:
        """Return the progress of a run of `total` steps, which shows itself here."""
        return RunProgress(self, label, total)

    def add_bar(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""
        return self._display.add_bar(f"{self._words}  {label}", total)

    def update_bar(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Set the step and the text of a bar; None keeps the step."""
        self._display.update_bar(task, step, text)

    def remove_bar(self, task: TaskID | None, *, completed: bool = True) -> None:
        """Remove the bar of a run, and advance the bar of the sweep if the run is completed."""
        self._display.remove_bar(task, completed=completed)

    def line(self, text: str, level: int = logging.INFO) -> None:
        """Write a line, if messages of its level are shown."""
        self._display.line(f"{self._words}  {text}", level)

    def line_if_no_bars(self, text: str) -> None:
        """Write a line of progress if there are no bars."""
        self._display.line_if_no_bars(f"{self._words}  {text}")


class RemoteDisplay:
    """A display in another process: calls are sent there, and a `DisplayRelay` repeats them.

    Args:
        send: Sends the name of a call and its arguments to the other process.
        verbosity: What the other process shows.
    """

    def __init__(self, send: Callable[[str, tuple[Any, ...]], None], verbosity: Verbosity) -> None:
        self._send = send
        self.verbosity = verbosity
        """What is shown."""
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

    def line(self, text: str, level: int = logging.INFO) -> None:
        """Write a line, if messages of its level are shown."""
        if self.verbosity.shows(level):
            self._send("line", (text, level))

    def line_if_no_bars(self, text: str) -> None:
        """Write a line of progress if there are no bars."""
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
