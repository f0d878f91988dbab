"""How far a run and its sweep are: live bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import timedelta
from typing import Any, Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from wgan_sweep.errors import InputError
from wgan_sweep.runs.lock import RunLockedError

SECONDS_BETWEEN_LINES = 10.0


def _describe(values: Mapping[str, float], rate: float | None, left: float | None) -> str:
    parts = [f"{rate:,.0f} img/s"] if rate is not None else []
    if "wasserstein" in values:
        parts.append(f"W {values['wasserstein']:.3g}")
    if "fid" in values:
        parts.append(f"FID {values['fid']:.2f}")
    if left is not None:
        parts.append(f"{timedelta(seconds=round(left))} left")
    return "  ".join(parts)


Batch = TypeVar("Batch", bound=Sized)


def show_progress(
    batches: Iterable[Batch], total: int | None, label: str, console: Console | None = None
) -> Iterator[Batch]:
    """Yield batches, and show how many of `total` items went by: a bar on a terminal, a line now and then elsewhere."""
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


def log_progress(batches: Iterable[Batch], total: int | None, say: Callable[[str], None]) -> Iterator[Batch]:
    """Yield batches, and say now and then how many of `total` items went by."""
    done, said = 0, time.monotonic()
    for batch in batches:
        yield batch
        done += len(batch)
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"{done} of {total if total is not None else '?'}")


class ProgressReporter(Protocol):
    """Where runs show how far they are: the `Display` of this process, or that of another (`RemoteDisplay`)."""

    def run(self, label: str, total: int) -> "RunProgress":
        """Start to show a run of `total` steps."""

    def add(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""

    def move(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Move a bar."""

    def remove(self, task: TaskID | None, *, over: bool = True) -> None:
        """Take a run's bar away, and move the sweep's where the run is over."""

    def line(self, text: str) -> None:
        """Write a line."""

    def line_if_plain(self, text: str) -> None:
        """Write a line where there are no bars."""


class RunProgress:
    """One run's share of the display: a bar while it goes on, its `summary` as one line at the end."""

    def __init__(self, display: ProgressReporter, label: str, total: int) -> None:
        self.summary = "interrupted"
        self._display = display
        self._label = label
        self._total = total
        self._task = display.add(label, total)
        self._last: tuple[float, int, int] | None = None
        self._spent, self._steps, self._images = 0.0, 0, 0
        self._shown: dict[str, float] = {}
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._display.remove(self._task, over=kind is None or not issubclass(kind, RunLockedError))
        if kind is None:
            self.say(self.summary)
        elif not issubclass(kind, InputError | RunLockedError):  # these are said by whoever shows errors
            self.say(f"{self.summary} ({kind.__name__})")

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show measurements of a step; they hold `images_seen`. Time that `working_on` took counts in no rate."""
        now, seen = time.monotonic(), int(values["images_seen"])
        if self._last is not None:
            then, last_step, last_seen = self._last
            self._spent, self._steps, self._images = (
                self._spent + now - then,
                self._steps + step - last_step,
                self._images + seen - last_seen,
            )
        self._last = now, step, seen
        self._shown |= values
        rate = self._images / self._spent if self._steps else None
        left = (self._total - step) * self._spent / self._steps if self._steps else None
        text = _describe(self._shown, rate, left)
        self._display.move(self._task, step, text)
        if now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            self._display.line_if_plain(f"{self._label}  step {step}/{self._total}  {text}")

    def working_on(self, text: str) -> None:
        """Show what the run does while its steps stand still (such as scoring)."""
        self._last = None
        self._said = time.monotonic()
        self._display.move(self._task, None, text)
        self._display.line_if_plain(f"{self._label}  {text}")

    def still_working_on(self, text: str) -> None:
        """Show how far that is; where there are no bars, now and then."""
        self._display.move(self._task, None, text)
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._display.line_if_plain(f"{self._label}  {text}")

    def say(self, text: str) -> None:
        """Say a line about the run."""
        self._display.line(f"{self._label}  {text}")


class Display:
    """The terminal, or a log: a bar for the sweep and one per run.

    Args:
        console: Where to write; standard error by default, so that standard output holds results only.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Progress | None = None
        self._sweep: TaskID | None = None

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
        """Show a bar for a sweep of `total` runs (or of so many more), until `close`."""
        if progress := self._progress():
            if self._sweep is None:
                self._sweep = progress.add_task("sweep", total=0, text="runs")
            before = next(task.total or 0 for task in progress.tasks if task.id == self._sweep)
            progress.update(self._sweep, total=before + total)

    def run(self, label: str, total: int) -> RunProgress:
        """Start to show a run of `total` steps."""
        return RunProgress(self, label, total)

    def add(self, label: str, total: int) -> TaskID | None:
        """Add a bar."""
        progress = self._progress()
        return progress.add_task(label, total=total, text="") if progress else None

    def move(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Move a bar."""
        if self._live and task is not None:
            self._live.update(task, completed=step, text=text)

    def remove(self, task: TaskID | None, *, over: bool = True) -> None:
        """Take a run's bar away, and move the sweep's where the run is over."""
        if self._live and task is not None:
            self._live.remove_task(task)
            if self._sweep is None:
                self.close()
            elif over:
                self._live.advance(self._sweep)

    def line(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line_if_plain(self, text: str) -> None:
        """Write a line where there are no bars."""
        if self._live is None:
            self.line(text)

    def close(self) -> None:
        """Take all bars away."""
        if self._live:
            self._live.stop()
        self._live = self._sweep = None


class RemoteDisplay:
    """The display of another process: what is shown here is sent there, where a `DisplayRelay` shows it.

    Args:
        send: Takes the name of a method of `DisplayRelay` and its arguments.
    """

    def __init__(self, send: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._send = send
        self._bars = 0

    def run(self, label: str, total: int) -> RunProgress:
        """Start to show a run of `total` steps."""
        return RunProgress(self, label, total)

    def add(self, label: str, total: int) -> TaskID:
        """Add a bar."""
        self._bars += 1
        self._send("add", (self._bars, label, total))
        return TaskID(self._bars)

    def move(self, task: TaskID | None, step: int | None, text: str) -> None:
        """Move a bar."""
        self._send("move", (task, step, text))

    def remove(self, task: TaskID | None, *, over: bool = True) -> None:
        """Take a run's bar away, and move the sweep's where the run is over."""
        self._send("remove", (task, over))

    def line(self, text: str) -> None:
        """Write a line."""
        self._send("line", (text,))

    def line_if_plain(self, text: str) -> None:
        """Write a line where there are no bars."""
        self._send("line_if_plain", (text,))


class DisplayRelay:
    """The receiving end of a `RemoteDisplay` display."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._tasks: dict[int, TaskID | None] = {}

    def show(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Do what was sent."""
        acts: dict[str, Callable[..., None]] = {
            "add": self._add,
            "move": self._move,
            "remove": self._remove,
            "line": self._display.line,
            "line_if_plain": self._display.line_if_plain,
        }
        acts[name](*arguments)

    def close(self) -> None:
        """Take away the bars of a sender that is gone."""
        for bar in list(self._tasks):
            self._remove(bar, over=True)

    def _add(self, bar: int, label: str, total: int) -> None:
        self._tasks[bar] = self._display.add(label, total)

    def _move(self, bar: int, step: int | None, text: str) -> None:
        self._display.move(self._tasks.get(bar), step, text)

    def _remove(self, bar: int, over: bool) -> None:
        self._display.remove(self._tasks.pop(bar, None), over=over)
