"""Bars that are redrawn in place, on a terminal or in a notebook."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Self

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

REDRAWS_PER_SECOND = 10


def has_live_display(console: Console) -> bool:
    """Return whether bars can be redrawn: on a terminal, and in a Jupyter notebook that has widgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _terminal_rewraps() -> bool:
    """Return whether the terminal wraps the lines that it shows anew when it is resized; most do."""
    return "XTERM_VERSION" not in os.environ and os.environ.get("TERM") != "linux"


class _Measured:
    """Lines that are drawn and redrawn, and how wide each was when it was last drawn."""

    def __init__(self, get_renderable: Callable[[], RenderableType]) -> None:
        self._get_renderable = get_renderable
        self._widths: list[int] = []
        self._console_width = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the lines."""
        lines = console.render_lines(self._get_renderable(), options, pad=False)
        self._widths = [Segment.get_line_length(line) for line in lines[: options.size.height]]
        self._console_width = options.size.width
        for line in lines:
            yield from line
            yield Segment.line()

    def wrapped_rows(self, width: int) -> int:
        """Return how many rows the drawn lines have gained since, because the terminal was made narrower.

        Args:
            width: The width of the terminal now, in columns.
        """
        if width >= self._console_width or not _terminal_rewraps():
            return 0
        return sum(max(0, line - 1) // width for line in self._widths)


class _RowsAbove(RenderHook):
    """Erases the rows that the drawn lines have gained, above those that `Live` erases before it draws again."""

    def __init__(self, console: Console, drawn: _Measured) -> None:
        self._console, self._drawn = console, drawn

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Put what erases these rows before what is printed."""
        rows = self._drawn.wrapped_rows(self._console.width)
        erase = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * rows
        return [Control(*erase), *renderables] if rows else renderables


class LiveBars:
    """Shows bars below all other output, in place, until `stop`; a narrower terminal keeps no rows of earlier bars.

    Args:
        console: Where they are shown, which `has_live_display`.
        get_renderable: Returns the bars as they are now.
    """

    def __init__(self, console: Console, get_renderable: Callable[[], RenderableType]) -> None:
        self._console = console
        drawn = _Measured(get_renderable)
        self._rows_above = _RowsAbove(console, drawn)
        self._live = Live(drawn, console=console, refresh_per_second=REDRAWS_PER_SECOND, transient=True)

    def start(self) -> Self:
        """Show the bars."""
        self._console.push_render_hook(self._rows_above)  # before that of `Live`, which erases first
        self._live.start(refresh=True)
        return self

    def refresh(self) -> None:
        """Draw the bars now, and not only at the next of `REDRAWS_PER_SECOND`."""
        self._live.refresh()

    def stop(self) -> None:
        """Remove the bars."""
        self._live.stop()
        self._console.pop_render_hook()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
