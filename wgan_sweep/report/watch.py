"""The table of runs that go on, again and again: read from their folder, on this machine or another that sees it."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wgan_sweep.report.cells import NAMES, Report, report
from wgan_sweep.runs.directory import RunDir, Status, find_runs

SECONDS_BETWEEN_LOOKS = 2.0
STYLES = {Status.DONE: "green", Status.RUNNING: "cyan", Status.DIVERGED: "yellow", Status.FAILED: "red"}


def _age(record: RunDir) -> str:
    try:
        seconds = time.time() - record.metrics.stat().st_mtime
    except FileNotFoundError:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def view(runs: Path, metric: str | None = None) -> Group:
    """Return the runs of a folder as they are now: a row per run, those at work first."""
    found: Report = report(find_runs(runs)[0], metric)
    name = NAMES.get(found.metric, found.metric)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for column, letters in {"run": 12, "status": 8}.items():
        table.add_column(column, no_wrap=True, min_width=letters)
    for axis in found.axes:  # on a narrow terminal, words are cut before numbers
        table.add_column(axis, no_wrap=True)
    for column, letters in {"seed": 4, "step": 9, "W": 6, name: 6, "heard": 6}.items():
        table.add_column(column, no_wrap=True, min_width=letters)
    for record in sorted(found.records, key=lambda one: one.status != Status.RUNNING):
        directory = RunDir(runs / record.run_id)
        last = directory.last_metrics()
        running = record.status == Status.RUNNING
        score = record.scores.get(found.metric)
        table.add_row(
            record.run_id,
            Text(record.status, STYLES.get(record.status, "")),
            *found.place(record),
            str(record.config.get("seed", "")),
            f"{record.step}/{record.config.get('train', {}).get('steps', '?')}",
            f"{last['wasserstein']:.3g}" if "wasserstein" in last else "",
            f"{score:.4g}" if score is not None else "",
            _age(directory) if running else "",
        )
    counts = Counter(str(record.status) for record in found.records)
    said = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no runs yet"
    return Group(table, Text(f"\n{datetime.now(UTC):%H:%M:%S} UTC  {runs}: {said}", "dim"))


def watch(runs: Path, metric: str | None = None, console: Console | None = None) -> None:
    """Show the runs of a folder until Ctrl-C."""
    try:
        with Live(view(runs, metric), console=console or Console(), auto_refresh=False) as live:
            while True:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                live.update(view(runs, metric), refresh=True)
    except KeyboardInterrupt:
        return
