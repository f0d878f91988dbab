"""Runs as lists: a table with a line per run, what is known of one run, two runs side by side, and the best one."""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from wgan_sweep.config.keys import leaves
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import METRIC_NAMES, NO_VALUE, axes_of_points, group_runs, short_name, shown_metric
from wgan_sweep.report.charts import cell_name
from wgan_sweep.report.text import finite, footnotes, markdown, printable
from wgan_sweep.report.watch import STYLES
from wgan_sweep.runs.coordinates import MEASURED_WITH, coordinates
from wgan_sweep.runs.record import Record, cost_sign
from wgan_sweep.runs.selection import DEAD, StoredRun

GAP = 2
"""Spaces between columns."""
LESS_NEEDED = ("age", "step")
"""The columns that narrow terminals do not show, in the order in which they are left out."""
MAX_IDS = 8
"""How many runs of a cell are named."""
AGE_UNITS = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
"""For ages of so many seconds or more: the seconds of a unit, and the unit."""


def age(started: str | None, now: datetime) -> str:
    """Return the time since a run was started, in the largest fitting unit; empty if it is not known."""
    try:
        seconds = (now - datetime.fromisoformat(started or "")).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a zone
        return ""
    seconds = max(0.0, seconds)
    size, unit = next((size, unit) for least, size, unit in AGE_UNITS if seconds >= least)
    return f"{seconds / size:.0f} {unit}"


def _values_on_axes(records: Sequence[Record]) -> tuple[list[str], list[dict[str, str]]]:
    """Return the axes on which runs differ, with the seed if it differs, and the values of each run on them."""
    points = [coordinates(record) for record in records]
    seeds = [json.dumps(record.config.get("seed")) for record in records]
    names = axes_of_points(records, points) + ["seed"] * (len({*seeds}) > 1)
    values = [{**point, "seed": seed} for point, seed in zip(points, seeds, strict=True)]
    return names, [{name: own.get(name, NO_VALUE) for name in names} for own in values]


def _number(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.2f}" if metric == "fid" else f"{value:.4g}"


def _cuttable(text: str) -> Text:
    """Return a text that is cut off where a terminal is narrow; a table shrinks only columns that may wrap."""
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


def run_table(runs: Sequence[StoredRun], metric: str | None = None, now: datetime | None = None) -> Table:
    """Return a table with a line per run, in their order: the axes that vary, status, step, metric and age."""
    records = [run.record for run in runs]
    metric = shown_metric(records, metric)
    now = now or datetime.now(UTC)
    names, values = _values_on_axes(records)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("run", no_wrap=True, min_width=12)
    for name in names:
        table.add_column(_cuttable(short_name(name, names)))
    table.add_column("status", no_wrap=True, min_width=8)
    for column, width in (("step", 7), (METRIC_NAMES.get(metric, metric), 6), ("age", 4)):
        table.add_column(column, no_wrap=True, min_width=width, justify="right")
    for run, own in zip(runs, values, strict=True):
        record = run.record
        steps = record.config.get("train", {}).get("steps")
        table.add_row(
            record.run_id,
            *map(_cuttable, own.values()),
            Text(run.status, STYLES.get(run.status, "")),
            f"{record.step}" if steps in (None, record.step) else f"{record.step}/{steps}",
            _number(record.scores.get(metric), metric),
            age(record.started, now),
        )
    return table


class _Console(Console):
    """A console that raises the error that its output has no reader; Rich ends the process with the exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _width(column: Column) -> int:
    """Return the width at which nothing in a column is cut off."""
    return max(column.min_width or 0, *(cell_len(str(cell)) for cell in (column.header, *column.cells)))


def _padded(column: Column) -> Iterator[str]:
    """Yield the header and the cells of a column, all as wide as the widest."""
    width = _width(column)
    for cell in (column.header, *column.cells):
        text, space = str(cell), " " * (width - cell_len(str(cell)))
        yield space + text if column.justify == "right" else text + space


def write_table(table: Table, file: IO[str]) -> None:
    """Write a table: as wide as the terminal or as ``COLUMNS``; to a file or a pipe, without cutting anything off.

    A terminal that is too narrow does not show the columns of `LESS_NEEDED`. If it still is, axis values are cut off.
    """
    console = _Console(file=file, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        columns = [_padded(column) for column in table.columns]
        file.writelines(f"{(GAP * ' ').join(cells).rstrip()}\n" for cells in zip(*columns, strict=True))
        return
    for name in LESS_NEEDED:
        if sum(map(_width, table.columns)) + GAP * (len(table.columns) - 1) > console.width:
            table.columns = [column for column in table.columns if column.header != name]
    console.print(table)


def to_entries(runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """Return the runs as JSON values, in their order."""
    _, values = _values_on_axes([run.record for run in runs])
    entries = [
        {
            "run_id": run.run_id,
            "status": run.status,
            "axes": own,
            "seed": run.record.config.get("seed"),
            "step": run.record.step,
            "steps": run.record.config.get("train", {}).get("steps"),
            "scores": run.record.scores,
            "best": run.record.best,
            "started": run.record.started,
            "finished": run.record.finished,
            "overrides": run.record.overrides,
            "reason": run.record.reason or run.record.pruned,
        }
        for run, own in zip(runs, values, strict=True)
    ]
    return [finite(entry) for entry in entries]


def size_text(size: int) -> str:
    """Return a number of bytes in a fitting unit."""
    return decimal(size)


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"\n{title}\n\n{markdown(header, rows, ())}".rstrip() + "\n" if rows else ""


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _files(run: StoredRun) -> list[list[str]]:
    paths = sorted(path for path in run.directory.path.rglob("*") if path.is_file() and not path.is_symlink())
    return [[str(path.relative_to(run.directory.path)), size_text(path.stat().st_size)] for path in paths]


def describe(run: StoredRun, differences: Sequence[tuple[str, Any, Any]], *, with_files: bool) -> str:
    """Return what is known of a run.

    Args:
        run: The run.
        differences: The keys, values and defaults of its config where they differ.
        with_files: Whether to list the files of its directory.
    """
    record = run.record
    git = record.git or {}
    status = f"{run.status} (its record says running, but no process holds it)" if run.status == DEAD else run.status
    lines = {
        "run": record.run_id,
        "status": f"{status}, at step {record.step}, {record.images_seen:,} images",
        "pruned": record.pruned,
        "overrides": " ".join(record.overrides) or "none",
        "sweep": record.sweep,
        "started": record.started,
        "finished": record.finished,
        "time": f"{record.seconds:.0f} s",
        "host": record.host,
        "execution": _words(record.execution),
        "versions": _words(record.versions),
        "code": record.code,
        "git": f"{git.get('commit')}{' (edited)' if git.get('edited') else ''}" if git else None,
    }
    text = "".join(f"{name:<10} {printable(str(value))}\n" for name, value in lines.items() if value)
    text += _section(
        "Config, where it differs from the defaults",
        ["key", "value", "default"],
        [[key, _json(value), _json(default)] for key, value, default in differences],
    )
    names = list(dict.fromkeys([*record.scores, *record.best]))
    text += _section(
        "Scores",
        ["metric", "last", "best"],
        [[name, *(_score(scores, name) for scores in (record.scores, record.best))] for name in names],
    )
    text += _section("The scores depend on", ["what", "value"], [[*item] for item in record.scored_by.items()])
    text += _section(
        "Earlier scores",
        ["step", "finished", "scores", "depend on"],
        [
            [
                str(e.step),
                e.finished or "",
                _words({name: _score(e.scores, name) for name in e.scores if name != "step"}),
                _words(e.scored_by),
            ]
            for e in record.history
        ],
    )
    if record.error:
        error = "\n".join(f"  {printable(line)}" for line in record.error.strip().splitlines())
        text += f"\nError\n\n{error}\n"
    return text + (_section("Files", ["file", "size"], _files(run)) if with_files else "")


def _json(value: Any) -> str:
    """Return a value as JSON, with letters of all languages as they are."""
    return json.dumps(value, ensure_ascii=False)


def _score(scores: Mapping[str, float], name: str) -> str:
    return f"{scores[name]:.6g}" if name in scores else ""


def compare(first: StoredRun, second: StoredRun) -> str:
    """Return the config values in which two runs differ, and their scores side by side."""
    runs = (first, second)
    configs = [_config_values(run.record) for run in runs]
    keys = [key for key in dict.fromkeys([*configs[0], *configs[1]]) if configs[0].get(key) != configs[1].get(key)]
    header = [run.run_id for run in runs]
    rows = [[key, *(config.get(key, NO_VALUE) for config in configs)] for key in keys]
    text = markdown(["config", *header], rows, ()) if rows else "The configs are equal.\n"
    names = dict.fromkeys(name for run in runs for name in run.record.scores)
    state = [["status", *(run.status for run in runs)], ["steps", *(str(run.record.step) for run in runs)]]
    scores = [[name, *(_score(run.record.scores, name) for run in runs)] for name in names if name != "step"]
    scored_at = [["scored at step", *(_score(run.record.scores, "step") for run in runs)]] if names else []
    return f"{text.rstrip()}\n\n{markdown(['scores', *header], [*state, *scored_at, *scores], ()).rstrip()}\n"


def _config_values(record: Record) -> dict[str, str]:
    """Return the config values as JSON, and the digest of the training images."""
    content = record.science.get("data", {}).get("content")
    values = {key: _json(value) for key, value in leaves(record.config)}
    return {**values, **({"data.content": json.dumps(content)} if content else {})}


def _ids(records: Sequence[Record]) -> str:
    more = len(records) - MAX_IDS
    return " ".join(record.run_id for record in records[:MAX_IDS]) + f" and {more} more" * (more > 0)


def describe_best(runs: Sequence[StoredRun], metric: str | None = None) -> str:
    """Return the best run and the best cell by a metric, over finished runs.

    Raises:
        InputError: if no finished run has the metric, or it is not known whether its low or high values are better.
    """
    records = [run.record for run in runs]
    report = group_runs(records, metric)
    metric = report.metric
    scored = [result for record in records if (result := record.result) and result.has_value(metric)]
    if not scored:
        names = sorted({name for record in records for name in record.scores} - {*MEASURED_WITH})
        remedy = f"choose --metric from {', '.join(names)}" if names else "none has been scored"
        raise InputError(f"no finished run has a value of {metric}: {remedy}")
    if (sign := cost_sign(metric)) is None:
        directed = sorted({name for record in scored for name in record.scores if cost_sign(name) is not None})
        other = f"choose --metric from {', '.join(directed)}, or " if directed else ""
        raise InputError(
            f"it is not known whether low or high values of {metric} are better: {other}list the runs in its "
            f"order with `wgan-runs list --sort {metric}`"
        )
    best = min(scored, key=lambda record: sign * record.scores[metric])
    means = {key: cell.mean for key, cell in report.cells.items() if cell.mean is not None}
    key = min(means, key=lambda key: sign * means[key])
    name = METRIC_NAMES.get(metric, metric)
    cell = report.cells[key]
    own = [cell_name(report, best)] * bool(report.axes) + [f"seed={best.config.get('seed')}"]
    rows = [
        ["run", best.run_id, " ".join(own), _number(best.scores[metric], metric)],
        ["cell", _ids(cell.records), cell_name(report, cell.records[0]), cell.text()],
    ]
    order = "highest" if sign < 0 else "lowest"
    notes = [f"The {order} {name} of {len(scored)} finished runs, and the {order} mean of {len(means)} cells."]
    return markdown(["best", "runs", "values", name], rows, [*notes, *footnotes(report, with_problems=False)])
