"""The display: lines in a log, bars on a terminal."""

import importlib.abc
import importlib.util
import io
import logging
import re
import signal
import sys
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from wgan_sweep.common import progress, redrawing
from wgan_sweep.common.progress import Display, LabelledDisplay, RemoteDisplay
from wgan_sweep.common.redrawing import LiveBars
from wgan_sweep.common.verbosity import Verbosity


def display(terminal: bool) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(Console(file=out, force_terminal=terminal, width=150)), out


def test_a_log_shows_lines(monkeypatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    shown, out = display(terminal=False)
    shown.sweep(2)
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

    def after_10_s(step: int, **values: float) -> None:
        clock[0] += 10
        run.update(step, {"images_seen": 64.0 * step, **values})

    with shown.run("run a", 100) as run:
        after_10_s(10, wasserstein=1.5)
        after_10_s(15)  # 320 images in 10 s
        run.working_on("scoring")  # does not count in the rate
        after_10_s(15)
        after_10_s(20, wasserstein=1.25, fid=30.0)
        run.summary = "done: FID 30.00"
    shown.close()
    text = out.getvalue()
    assert "\x1b" not in text
    assert "run a  step 20/100" in text
    assert all(word in text for word in ("img/s", "W 1.25", "FID 30.00", " left"))
    assert "img/s" not in text.splitlines()[0]  # the rate is not known yet
    assert text.count("32 img/s") == 3
    assert "0:02:40 left" in text  # 80 steps at 10 steps in 20 s
    assert text.splitlines()[-1] == "run a  done: FID 30.00"


def test_a_terminal_shows_bars_and_one_line_per_finished_run() -> None:
    shown, out = display(terminal=True)
    shown.sweep(2)
    for name in ("run a", "run b"):
        with shown.run(name, 10) as run:
            run.update(10, {"images_seen": 640, "wasserstein": 1.5})
            run.summary = f"{name} is done"
    shown.close()
    assert "sweep" in out.getvalue()
    assert out.getvalue().count("is done") == 2


def test_a_run_that_raises_shows_the_exception() -> None:
    shown, out = display(terminal=False)
    try:
        with shown.run("run a", 10):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert "run a  interrupted (KeyboardInterrupt)" in out.getvalue()


def test_the_number_of_items_is_shown_on_a_log_and_on_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    for terminal, words in ((False, "real  7 of 9\nreal  9 of 9\n"), (True, "9/9")):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=80)
        assert list(progress.show_progress([[0] * 7, [0] * 2], 9, "real", console)) == [[0] * 7, [0] * 2]
        assert words in out.getvalue()


def test_a_log_and_the_bar_of_a_sweep_say_how_many_runs_are_complete_and_the_time_left(monkeypatch) -> None:
    """Four runs: the first one was complete before, each other one takes 100 s."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    clock: list[float] = []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[-1])
    for terminal in (False, True):
        clock.append(1000.0)
        shown, out = display(terminal)
        shown.sweep(4)
        for seconds in (0.0, 100.0, 100.0, 100.0):
            with shown.run("a run", 10) as run:
                clock.append(clock[-1] + seconds)
                run.summary = "done"
            if terminal:
                shown._live.refresh()
        shown.close()
        text = out.getvalue()
        for words in ("about 0:03:20 left", "about 0:01:40 left"):
            assert words in text
        if not terminal:
            lines = [line for line in text.splitlines() if line.startswith("sweep")]
            assert lines[0] == "sweep  1 of 4 runs"
            assert lines[1:] == [
                "sweep  2 of 4 runs  about 0:03:20 left",
                "sweep  3 of 4 runs  about 0:01:40 left",
                "sweep  4 of 4 runs",
            ]


def test_the_time_left_counts_the_fractions_of_runs_in_training(monkeypatch) -> None:
    """Four runs of 100 s each, two at a time, from the beginning; then one that resumes at half of its steps."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown, out = display(terminal=False)
    shown.sweep(4)
    first, second = (shown.add_bar(name, 200) for name in "ab")
    for bar in (first, second):
        shown.update_bar(bar, 0, "")
    clock[0] = 25.0
    for bar in (first, second):
        shown.update_bar(bar, 50, "")
    shown.line_if_no_bars("here")  # half a run of four is done
    assert out.getvalue().splitlines() == ["here  (sweep: about 0:02:55 left)"]
    clock[0] = 100.0
    for bar in (first, second):
        shown.update_bar(bar, 200, "")
    for bar in (first, second):
        shown.remove_bar(bar)
    shown.line_if_no_bars("here")
    resumed = shown.add_bar("c", 200)
    shown.update_bar(resumed, 100, "")
    shown.line_if_no_bars("here")  # 1.5 runs are left, at a run per 50 s
    shown.close()
    lines = out.getvalue().splitlines()[1:]
    assert lines == [
        "sweep  1 of 4 runs  about 0:01:40 left",  # the other one is about to end
        "here  (sweep: about 0:01:40 left)",
        "here  (sweep: about 0:01:15 left)",
    ]


def test_the_time_left_of_the_last_runs_is_that_of_scoring_them(monkeypatch) -> None:
    """Three runs are trained for 60 s; the first one is then scored for 40 s, the other two, side by side, for 50 s."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown, out = display(terminal=False)
    shown.sweep(3)

    def said(at: float) -> str:
        clock[0] = at
        out.seek(0)
        out.truncate()
        shown.line_if_no_bars("here")
        return out.getvalue().strip()

    first = shown.add_bar("a", 100)
    shown.update_bar(first, 0, "")
    clock[0] = 60.0
    shown.update_bar(first, 100, "")
    assert "left" in said(90.0)  # of the runs that have not begun
    clock[0] = 100.0
    shown.remove_bar(first)
    second, third = shown.add_bar("b", 100), shown.add_bar("c", 100)
    clock[0] = 150.0
    shown.update_bar(second, 100, "")
    assert "scoring" not in said(150.0)  # the third one is in training
    clock[0] = 160.0
    shown.update_bar(third, 100, "")
    assert said(160.0) == "here  (sweep: scoring, about 0:00:40 left)"
    shown.update_bar(third, None, "scoring: 100 samples")
    assert said(190.0) == "here  (sweep: scoring, about 0:00:10 left)"
    assert said(205.0) == "here  (sweep: scoring)"
    shown.remove_bar(second)
    shown.remove_bar(third)
    assert said(210.0) == "here"
    shown.close()
    shown.sweep(2)
    for bar in (shown.add_bar("d", 100), shown.add_bar("e", 100)):
        shown.update_bar(bar, 100, "")
    assert said(220.0) == "here  (sweep: scoring)"  # it is not known how long that takes


def test_a_run_at_its_last_step_says_nothing_of_the_time_left() -> None:
    shown, out = display(terminal=False)
    with shown.run("a run", 20) as run:
        run._last_line -= progress.SECONDS_BETWEEN_LINES
        run.update(10, {"images_seen": 640})
        run._last_line -= progress.SECONDS_BETWEEN_LINES
        run.update(20, {"images_seen": 1280})
    line = next(line for line in out.getvalue().splitlines() if "step 20/20" in line)
    assert "img/s" in line
    assert "left" not in line


class Screen:
    """A terminal that wraps its lines anew when its width changes, as most terminals do."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = [""]
        """Logical lines: as they were written, before they are wrapped. The last one holds the cursor."""
        self.row, self.column = 0, 0

    def _rows(self) -> list[str]:
        return [row for line in self.lines for row in (re.findall(f".{{1,{self.width}}}", line) or [""])]

    def resize(self, width: int) -> None:
        """Wrap the lines anew; the cursor stays at the end of the last line, where drawing has left it."""
        rows = self._rows()
        assert not any(rows[self.row + 1 :])
        self.lines, self.width = rows[: self.row + 1], width
        self.row, self.column = len(self._rows()) - 1, len(self._rows()[-1])

    def write(self, text: str) -> None:
        """Show text: line feeds, carriage returns, cursor up and erase line; colours are left out."""
        for part in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|\n|\r|[^\x1b\n\r]+", text):
            rows = self._rows()
            if part == "\n":
                self.row, self.column = self.row + 1, 0
                rows += [""] * (self.row + 1 - len(rows))
            elif part == "\r":
                self.column = 0
            elif part == "\x1b[1A":
                self.row -= 1
                assert self.row >= 0
            elif part == "\x1b[2K":
                rows[self.row] = ""
            elif part[0] != "\x1b":
                before = rows[self.row].ljust(self.column)
                rows[self.row] = before[: self.column] + part + before[self.column + len(part) :]
                self.column += len(part)
                assert self.column <= self.width
            self.lines = rows

    @property
    def text(self) -> list[str]:
        """The rows that show anything."""
        return [row.rstrip() for row in self._rows() if row.strip()]


class Terminal(io.StringIO):
    """A file that writes to a screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen

    def write(self, text: str) -> int:
        self.screen.write(text)
        return len(text)


@pytest.mark.parametrize(("term", "stale"), [("xterm-256color", 0), ("linux", 3)])
def test_a_narrower_terminal_keeps_no_rows_of_earlier_bars(monkeypatch, term: str, stale: int) -> None:
    """A terminal that is said not to wrap its lines anew is left as it is, which shows what the others would show."""
    monkeypatch.delenv("XTERM_VERSION", raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(redrawing, "REDRAWS_PER_SECOND", 0.01)  # only the test draws
    screen = Screen(150)
    console = Console(file=Terminal(screen), force_terminal=True, width=150, height=50)
    console.print("earlier")
    shown = Display(console)
    shown.sweep(2)
    bars = [
        shown.add_bar(f"{number} of 2  a run with a long name, as of many overrides {number}", 600) for number in (1, 2)
    ]
    for bar in bars:
        shown.update_bar(bar, 120, "4,253 img/s  W 1.23  FID 153.20  0:00:02 left")
    shown._live.refresh()
    assert [line.split()[0] for line in screen.text] == ["earlier", "sweep", "1", "2"]
    for width in (80, 150, 100):
        console.width = width
        screen.resize(width)
        shown._live.refresh()
        rows = screen.text
        assert [line.split()[0] for line in rows[-3:]] == ["sweep", "1", "2"]
        if not stale:
            assert rows[0] == "earlier"
            assert len(rows) == 4
            assert all("/600" in line for line in rows[-2:])  # also on a narrow terminal
    assert (len(screen.text) > 4) is bool(stale)
    shown.close()
    if not stale:
        assert screen.text == ["earlier"]


def test_a_notebook_shows_one_area_that_is_redrawn(monkeypatch) -> None:
    """The area is one widget, which holds only the latest bars and closes at the end; lines are output of the cell."""
    areas: list[Any] = []
    cell: list[str] = []

    class Area:
        """What ipywidgets calls Output."""

        current: Any = None

        def __init__(self) -> None:
            self.shown: list[str] = []
            self.is_open = True
            areas.append(self)

        def clear_output(self, wait: bool) -> None:
            assert wait  # no flicker
            self.shown.clear()

        def __enter__(self) -> None:
            Area.current = self

        def __exit__(self, *_: object) -> None:
            Area.current = None

        def close(self) -> None:
            self.is_open = False

    def show(shown: object) -> None:
        if not isinstance(shown, Area):
            (cell if Area.current is None else Area.current.shown).append(shown._repr_mimebundle_([], [])["text/plain"])

    for name, parts in (
        ("ipywidgets", {"Output": Area}),
        ("IPython", {}),
        ("IPython.display", {"display": show}),
    ):
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("wgan_sweep.common.redrawing.find_spec", lambda name: name if name == "ipywidgets" else None)
    shown = Display(Console(force_jupyter=True, width=100))
    shown.sweep(2)
    with shown.run("run a", 10) as run:
        for step in (5, 10):
            run.update(step, {"images_seen": 64 * step})
            shown._live.refresh()
        assert len(areas) == 1
        assert len(areas[0].shown) == 1
        assert "10/10" in areas[0].shown[0]
        run.summary = "done"
    assert areas[0].is_open
    shown.close()
    assert not areas[0].is_open
    assert [text for text in cell if text] == ["run a  done\n"]


def test_a_notebook_without_widgets_shows_lines(monkeypatch) -> None:
    monkeypatch.setattr("wgan_sweep.common.redrawing.find_spec", lambda _: None)
    shown = Display(Console(force_jupyter=True, width=100, file=io.StringIO()))
    shown.sweep(2)
    assert shown._live is None


@pytest.mark.parametrize(
    ("verbosity", "words"),
    [
        (Verbosity.SILENT, []),
        (Verbosity.QUIET, ["warned"]),
        (Verbosity.NORMAL, ["told", "warned", "progress"]),
        (Verbosity.VERBOSE, ["detailed", "told", "warned", "progress"]),
    ],
)
@pytest.mark.parametrize("is_remote", [False, True])
def test_a_display_shows_the_lines_that_its_verbosity_names(verbosity: Verbosity, words: list[str], is_remote) -> None:
    out = io.StringIO()
    shown = Display(Console(file=out, force_terminal=True, width=100), verbosity)
    relay = progress.DisplayRelay(shown)
    asked = RemoteDisplay(relay.show, verbosity) if is_remote else shown
    shown.sweep(2)
    assert (shown._live is not None) is verbosity.shows_progress
    shown._hide_bars()
    out.truncate(0)
    asked.line("detailed", logging.DEBUG)
    asked.line("told")
    asked.line("warned", logging.WARNING)
    asked.line_if_no_bars("progress")
    assert re.findall(r"[a-z]{4,}", out.getvalue()) == words


def test_every_line_of_a_labelled_display_begins_with_its_words() -> None:
    shown, out = display(terminal=False)
    labelled = LabelledDisplay(shown, "3 of 24")
    with labelled.run("run a", 10) as run:
        run.working_on("scoring")
        labelled.line("told")
        run.summary = "done"
    assert out.getvalue().splitlines() == ["3 of 24  run a  scoring", "3 of 24  told", "3 of 24  run a  done"]


def test_progress_of_items_is_hidden_from_a_quiet_command() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    assert list(progress.show_progress([[0]], 1, "real", console, Verbosity.QUIET)) == [[0]]
    assert out.getvalue() == ""


def test_bars_that_are_stopped_leave_the_console_as_it_was() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with LiveBars(console, lambda: "bars"):
        assert len(console._render_hooks) == 2
    assert console._render_hooks == []


def test_a_signal_that_interrupts_an_import_of_rich_during_a_line_still_writes_its_own_line(monkeypatch) -> None:
    shown, out = display(terminal=False)
    emoji = "rich._emoji_codes"  # imported by the first line that a process writes
    source = importlib.util.find_spec(emoji)
    monkeypatch.delitem(sys.modules, emoji, raising=False)

    class Interrupted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            return importlib.util.spec_from_loader(name, self) if name == emoji else None

        def exec_module(self, module: ModuleType) -> None:
            signal.raise_signal(signal.SIGTERM)
            source.loader.exec_module(module)

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    before = signal.signal(signal.SIGTERM, lambda *_: shown.line_from_signal_handler("stopping", logging.WARNING))
    try:
        shown.line("step 1")
    finally:
        signal.signal(signal.SIGTERM, before)
    shown.close()
    assert sorted(out.getvalue().splitlines()) == ["step 1", "stopping"]
