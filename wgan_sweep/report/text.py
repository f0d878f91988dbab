"""A report as text: a Markdown table with footnotes, CSV or JSON."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wgan_sweep.report.cells import METRIC_NAMES, NO_VALUE, Cell, Key, Report
from wgan_sweep.runs.coordinates import MEASURED_WITH, SCORED_IN
from wgan_sweep.runs.record import Record, Status


@dataclass(frozen=True)
class SweepSummary:
    """The summary that is written at the end of a sweep."""

    table: str
    """Markdown table with notes."""
    picture: bytes | None = None
    """PNG; None if there is nothing to draw."""


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: the values of the last axis are columns, those of the others rows."""
    keys = sorted(report.cells, key=_order(report))
    if len(report.axes) < 2:
        header = [*report.axes, METRIC_NAMES.get(report.metric, report.metric)]
        return header, [[*key, report.cells[key].text()] for key in keys]
    columns = report.values(len(report.axes) - 1)
    header = [*report.axes[:-1], *(f"{report.axes[-1]}={value}" for value in columns)]
    rows = {key[:-1]: None for key in keys}
    if len(report.axes) == 2:
        rows = {(value,): None for value in report.values(0)}
    empty = Cell(())
    return header, [[*row, *(report.cells.get((*row, value), empty).text() for value in columns)] for row in rows]


def _order(report: Report) -> Callable[[Key], tuple[int, ...]]:
    """Return the sort key of cells: the ranks of their values on the axes."""
    ranks = [{value: rank for rank, value in enumerate(report.values(axis))} for axis in range(len(report.axes))]
    return lambda key: tuple(rank[value] for rank, value in zip(ranks, key, strict=True))


def footnotes(report: Report, *, with_problems: bool = True) -> list[str]:
    """Return how the values were measured and, with `with_problems`, a line for each run with an error."""
    lines = []
    scored = [r for r in report.records if r.status == Status.DONE and report.metric in r.scores]
    name = METRIC_NAMES.get(report.metric, report.metric)
    protocols = {
        (tuple(r.scores.get(key, 0) for key in MEASURED_WITH), tuple(r.scored_by.get(key, "") for key in SCORED_IN))
        for r in scored
    }
    for (feature, generated, real, points, step), (features, network, resize, split) in sorted(protocols):
        space = features or f"InceptionV3 {feature:.0f}"
        counts = (
            f" on {space} features, {generated:.0f} generated against {real:.0f} real images,"
            if feature
            else f" of {points:.0f} generated against {points:.0f} real points,"
        )
        lines.append(f"{name}{counts} at step {step:.0f}; mean ± sd over n seeds.")
        if split:
            lines.append(f"Real images: {split}; resize: {resize}; network: {network}.")
    codes = sorted({r.code for r in scored if r.code})
    if len(codes) > 1:
        lines.append(f"Runs of different versions of wgan-sweep: {', '.join(codes)}.")
    if len(protocols) > 1:
        lines.append(f"{name} of different features, counts or steps cannot be compared with each other.")
    return lines + (problems(report.records) if with_problems else [])


def problems(records: Iterable[Record]) -> list[str]:
    """Return a line for each failed or diverged run, with its overrides and the reason."""
    return [
        f"{record.status}: {record.run_id} ({' '.join(record.overrides) or 'defaults'}): {record.reason}"
        for record in records
        if record.reason
    ]


def to_markdown(report: Report) -> str:
    """Return a Markdown table with footnotes."""
    return markdown(*table(report), footnotes(report))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Iterable[str]) -> str:
    """Return a Markdown table with notes below it. Values of runs cannot break its form or control a terminal."""
    header = [printable(cell).replace("|", "\\|") for cell in header]
    rows = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
    notes = [printable(note) for note in notes]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows), "", *notes]) + "\n"


def printable(text: str) -> str:
    """Return a text on one line, without control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def finite(value: Any) -> Any:
    """Return a value with None in place of each number that is not finite, for JSON."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _entries(report: Report) -> Iterator[dict[str, Any]]:
    """Yield the cells of the table, including those without runs, as rows of CSV and JSON."""
    columns = report.values(len(report.axes) - 1) if report.axes else []
    rows = dict.fromkeys(key[:-1] for key in report.cells)
    keys = [(*row, value) for row in rows for value in columns] if report.axes else list(report.cells)
    empty = Cell(())
    for key in keys:
        cell = report.cells.get(key, empty)
        yield {
            **dict(zip(report.axes, key, strict=True)),
            report.metric: cell.mean,
            "sd": cell.sd,
            "n": len(cell.values),
            **{name: next((r.scores[name] for r in cell.records if name in r.scores), None) for name in MEASURED_WITH},
            "status": " ".join(f"{count} {status}" for status, count in cell.counts_without_value.items())
            or ("done" if cell.records else "missing"),
            "runs": [record.run_id for record in cell.records],
        }


def to_csv(report: Report) -> str:
    """Return the cells as CSV, one line per cell."""
    entries = [{**entry, "runs": " ".join(entry["runs"])} for entry in _entries(report)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_csv_cell(name) for name in (entries[0] if entries else [])])
    writer.writerows([_csv_cell(value) for value in entry.values()] for entry in entries)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    """Return a value such that a spreadsheet does not read a text as a formula."""
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r") or value == NO_VALUE:
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def to_json(report: Report) -> str:
    """Return the axes, the cells and the runs as JSON."""
    runs = [
        {
            "run_id": r.run_id,
            "status": r.status,
            "step": r.step,
            "seed": r.config.get("seed"),
            "scores": r.scores,
            "best": r.best,
            "error": r.error,
        }
        for r in report.records
    ]
    return json.dumps(finite({"axes": report.axes, "cells": list(_entries(report)), "runs": runs}), indent=2) + "\n"
