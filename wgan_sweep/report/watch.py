"""A live table of the runs in a folder, which may be on a shared file system and written by other machines."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wgan_sweep.report.cells import METRIC_NAMES, check_metric, group_runs
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.record import Status
from wgan_sweep.runs.requests import not_started
from wgan_sweep.runs.selection import DEAD, NOT_STARTED

REFRESH_SECONDS = 2.0
STYLES: dict[str, str] = {
    Status.DONE: "green",
    Status.RUNNING: "cyan",
    Status.DIVERGED: "yellow",
    Status.FAILED: "red",
    Status.PRUNED: "blue",
    DEAD: "magenta",
    NOT_STARTED: "dim",
}


def _time_since_update(directory: RunDir) -> str:
    """Return the time since the run wrote its last metrics; empty if there are none."""
    try:
        seconds = time.time() - directory.metrics.stat().st_mtime
    except FileNotFoundError:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def view(runs: Path, metric: str | None = None) -> Group:
    """Return a table with the current state of each run in a folder; running ones come first."""
    report = group_runs([*find_runs(runs).records, *not_started(runs)], metric, runs)
    metric_name = METRIC_NAMES.get(report.metric, report.metric)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for column, min_width in {"run": 12, "status": 8}.items():
        table.add_column(column, no_wrap=True, min_width=min_width)
    for axis in report.axes:  # without a minimum: a narrow terminal truncates axis values before numbers
        table.add_column(axis, no_wrap=True)
    for column, min_width in {"seed": 4, "step": 9, "W": 6, metric_name: 6, "updated": 6}.items():
        table.add_column(column, no_wrap=True, min_width=min_width)
    for record in sorted(report.records, key=lambda record: report.status(record) != Status.RUNNING):
        directory = RunDir(runs / record.run_id)
        latest = directory.last_metrics()
        value = record.scores.get(report.metric)
        table.add_row(
            record.run_id,
            Text(report.status(record), STYLES.get(report.status(record), "")),
            *report.key(record),
            str(record.config.get("seed", "")),
            f"{record.step}/{record.config.get('train', {}).get('steps', '?')}",
            f"{latest['wasserstein']:.3g}" if "wasserstein" in latest else "",
            f"{value:.4g}" if value is not None else "",
            _time_since_update(directory) if report.status(record) == Status.RUNNING else "",
        )
    counts = Counter(map(report.status, report.records))
    summary = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no runs yet"
    return Group(table, Text(f"\n{datetime.now(UTC):%H:%M:%S} UTC  {runs}: {summary}", "dim"))


def watch(runs: Path, metric: str | None = None, console: Console | None = None) -> None:
    """Show the runs of a folder until Ctrl-C.

    Raises:
        InputError: if the folder cannot be read, or no run has the metric, although there are metrics.
    """
    check_metric(find_runs(runs).records, metric)
    try:
        with Live(view(runs, metric), console=console or Console(), auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_SECONDS)
                live.update(view(runs, metric), refresh=True)
    except KeyboardInterrupt:
        return
