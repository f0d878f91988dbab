"""A report as text: a Markdown or LaTeX table with footnotes, CSV or JSON."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from wgan_sweep.report.cells import METRIC_NAMES, NO_VALUE, Key, Report, Standing
from wgan_sweep.runs.coordinates import MEASURED_WITH, SCORED_IN
from wgan_sweep.runs.record import HIGHER_IS_BETTER, Record, Status, selection_metric
from wgan_sweep.runs.selection import DEAD, NOT_STARTED

BEST_SIGN = "★"
"""Follows the value of the best cell, where it is not in bold type alone."""
POSSIBLY_BEST_SIGN = "°"
"""Follows the value of a cell that cannot be distinguished from the best one."""
LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
"""How LaTeX writes characters that it would read as commands."""
MAX_VALUE = 60
"""How many characters of a value on an axis tables show; CSV and JSON have all."""
COMPLETED = "run the sweep's command again to complete them"
MEANINGS: Mapping[str, tuple[str, str]] = {
    DEAD: ("interrupted, and held by no process", COMPLETED),
    NOT_STARTED: ("requested by a sweep", COMPLETED),
    Status.PRUNED: ("stopped early, since others were better at the same step", "prune=none continues them"),
}
"""What the footnotes say of statuses, and the remedy."""


@dataclass(frozen=True)
class SweepSummary:
    """The summary that is written at the end of a sweep."""

    table: str
    """Markdown table with notes."""
    picture: bytes | None = None
    """PNG; None if there is nothing to draw."""


@dataclass(frozen=True)
class Grid:
    """The places of cells in a table."""

    header: list[str]
    rows: list[tuple[Key, list[Key]]]
    """The labels of each row, and the keys of its places; a place whose key has no cell is blank."""


def grid(report: Report) -> Grid:
    """Return the table of a report: the values of `Report.column_axis` are columns, those of the other axes rows."""
    keys = report.sorted_keys
    if len(report.axes) < 2:
        return Grid([*report.axes, METRIC_NAMES.get(report.metric, report.metric)], [(key, [key]) for key in keys])
    axis = report.column_axis
    columns = report.values(axis)
    others = [name for index, name in enumerate(report.axes) if index != axis]
    rows = dict.fromkeys(key[:axis] + key[axis + 1 :] for key in keys)
    return Grid(
        [*others, *(f"{report.axes[axis]}={value}" for value in columns)],
        [(row, [(*row[:axis], value, *row[axis:]) for value in columns]) for row in rows],
    )


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a Markdown table, in which the best cells are marked."""
    places = grid(report)
    rows = [[*map(shortened, own), *(_marked_text(report, key) for key in keys)] for own, keys in places.rows]
    return [*map(shortened, places.header)], rows


def shortened(value: str) -> str:
    """Return a value on an axis as tables show it: the middle of a very long one is left out."""
    half = MAX_VALUE // 2
    return value if len(value) <= MAX_VALUE else f"{value[:half]}…{value[-half:]}"


def _marked_text(report: Report, key: Key) -> str:
    """Return the text of a place in the table: that of its cell with its mark, or nothing if no run was requested."""
    if key not in report.cells:
        return ""
    text, standing = report.cells[key].text(), report.standings.get(key)
    if standing == Standing.BEST:
        return f"**{text}**"
    return f"{text} {POSSIBLY_BEST_SIGN}" if standing == Standing.POSSIBLY_BEST else text


def footnotes(report: Report, *, with_problems: bool = True) -> list[str]:
    """Return how the values were measured and, with `with_problems`, a line for each run with an error."""
    lines = []
    scored = [result for r in report.records if (result := r.result) and report.metric in result.scores]
    name = METRIC_NAMES.get(report.metric, report.metric)
    protocols = {
        (tuple(r.scores.get(key, 0) for key in MEASURED_WITH), tuple(r.scored_by.get(key, "") for key in SCORED_IN))
        for r in scored
    }
    for (feature, generated, real, points, step), (features, network, resize, split) in sorted(protocols):
        samples = samples_text(feature, generated, real, points, features)
        lines.append(f"{name} {samples}, at step {step:.0f}; mean ± sd over n seeds.")
        if split:
            lines.append(f"Real images: {split}; resize: {resize}; network: {network}.")
    codes = sorted({r.code for r in scored if r.code})
    if len(codes) > 1:
        lines.append(f"Runs of different versions of wgan-sweep: {', '.join(codes)}.")
    if len(protocols) > 1:
        lines.append(f"{name} of different features, counts or steps cannot be compared with each other.")
    lines += _unscored_notes(report)
    lines += _standing_notes(report)
    lines += _incomplete_notes(report)
    return lines + (problems(report.records) if with_problems else [])


def _unscored_notes(report: Report) -> list[str]:
    """Return by which other metrics runs were scored that have no value of the one that is shown."""
    unscored = [r for r in report.records if r.status == Status.DONE and not r.has_value(report.metric)]
    others = Counter(
        name for record in unscored if (name := selection_metric(record.scores)) not in (None, report.metric)
    )
    return [
        f"unscored: {count} of {len(report.records)} runs have {METRIC_NAMES.get(name, name)} instead of "
        f"{METRIC_NAMES.get(report.metric, report.metric)}: --metric {name} shows it."
        for name, count in others.items()
    ]


def samples_text(feature: float, generated: float, real: float, points: float, features: str) -> str:
    """Return on which features, and on how many samples, a metric was measured.

    Args:
        feature: Number of feature dimensions; 0 for points.
        generated: Number of generated images.
        real: Number of real images.
        points: Number of generated points, and of real ones.
        features: The name of the feature space; empty for that of InceptionV3.
    """
    if not feature:
        return f"of {points:.0f} generated against {points:.0f} real points"
    space = features or f"InceptionV3 {feature:.0f}"
    return f"on {space} features, {generated:.0f} generated against {real:.0f} real images"


def _standing_notes(report: Report) -> list[str]:
    """Return what the marks of the best cells mean, if there are any."""
    if not report.standings:
        return []
    best = list(report.standings.values()).count(Standing.BEST)
    order = "highest" if report.metric in HIGHER_IS_BETTER else "lowest"
    where = f"the {order} mean" if best == 1 else f"the {order} mean among cells on the same data, measured alike"
    note = f"Bold: {where}, of the cells with two seeds or more."
    if len(report.standings) > best:
        note += (
            f" {POSSIBLY_BEST_SIGN}: not distinguishable from it (95 % over seeds), or only one seed"
            f"{', or pruned seeds' * any(cell.has_pruned_runs for cell in report.cells.values())}; all other cells are "
            "worse."
        )
    return [note]


def _incomplete_notes(report: Report) -> list[str]:
    """Return how many runs are dead, have not started or were pruned, if there are any, and the remedy."""
    counts = Counter(map(report.status, report.records))
    return [
        f"{status}: {counts[status]} of {len(report.records)} runs ({meaning}); {remedy}."
        for status, (meaning, remedy) in MEANINGS.items()
        if counts[status]
    ]


def problems(records: Iterable[Record]) -> list[str]:
    """Return a line for each failed or diverged run, with its overrides, its earlier result and the reason."""
    return [
        f"{record.status}: {record.run_id} ({' '.join(record.overrides) or 'defaults'})"
        f"{f', done before at step {record.result.step}' if record.result else ''}: {record.reason}"
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
    widths = [max(cell_len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(set_cell_size, cells, widths))} |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows), "", *notes]) + "\n"


def to_latex(report: Report) -> str:
    """Return a LaTeX table, which needs the package booktabs, with footnotes as comments above it."""
    places = grid(report)
    labels = len(places.rows[0][0]) if places.rows else len(report.axes)
    header = " & ".join(map(_latex, map(shortened, places.header)))
    rows = [
        " & ".join([*map(_latex, map(shortened, own)), *(_latex_cell(report, key) for key in keys)])
        for own, keys in places.rows
    ]
    lines = [
        *(f"% {printable(note)}" for note in footnotes(report)),
        f"\\begin{{tabular}}{{{'l' * labels}{'r' * (len(places.header) - labels)}}}",
        "\\toprule",
        f"{header} \\\\",
        "\\midrule",
        *(f"{row} \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(report: Report, key: Key) -> str:
    """Return the text of a place in a LaTeX table, with the marks of the Markdown table."""
    if key not in report.cells:
        return ""
    text, standing = _latex(report.cells[key].text()), report.standings.get(key)
    if standing == Standing.BEST:
        return f"\\textbf{{{text}}}"
    return f"{text}$^\\circ$" if standing == Standing.POSSIBLY_BEST else text


def _latex(text: str) -> str:
    """Return a text such that LaTeX prints it as it is."""
    return "".join(LATEX.get(c, c) for c in printable(text))


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
    """Yield the cells of the table as rows of CSV and JSON."""
    for key in report.sorted_keys:
        cell = report.cells[key]
        scores = [(record.result or record).scores for record in cell.records]
        yield {
            **dict(zip(report.axes, key, strict=True)),
            report.metric: cell.mean,
            "sd": cell.sd,
            "n": len(cell.values),
            **{name: next((s[name] for s in scores if name in s), None) for name in MEASURED_WITH},
            "status": " ".join(f"{count} {status}" for status, count in cell.counts_without_value.items()) or "done",
            "continued": " ".join(f"{count} {status}" for status, count in cell.counts_continued.items()),
            "standing": report.standings.get(key),
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
            "status": report.status(r),
            "step": r.step,
            "seed": r.config.get("seed"),
            "scores": r.scores,
            "best": r.best,
            "error": r.error,
        }
        for r in report.records
    ]
    return json.dumps(finite({"axes": report.axes, "cells": list(_entries(report)), "runs": runs}), indent=2) + "\n"
