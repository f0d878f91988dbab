"""A report as text: Markdown with its footnotes, CSV, JSON."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wgan_sweep.report.cells import NAMES, Cell, Key, Report
from wgan_sweep.runs.coordinates import MEASURED_WITH, SCORED_IN
from wgan_sweep.runs.record import Record, Status


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep ends in."""

    table: str
    """Markdown."""
    picture: bytes | None = None
    """PNG; None where there is nothing to draw."""


def table(found: Report) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of text: the last axis runs across, the others down."""
    if len(found.axes) < 2:
        header = [*found.axes, NAMES.get(found.metric, found.metric)]
        return header, [[*key, found.cells[key].text()] for key in sorted(found.cells, key=_order(found))]
    across = found.values(len(found.axes) - 1)
    header = [*found.axes[:-1], *(f"{found.axes[-1]}={value}" for value in across)]
    down = {key[:-1]: None for key in sorted(found.cells, key=_order(found))}
    if len(found.axes) == 2:
        down = {(value,): None for value in found.values(0)}
    nothing = Cell(())
    return header, [[*key, *(found.cells.get((*key, value), nothing).text() for value in across)] for key in down]


def _order(found: Report) -> Callable[[Key], tuple[int, ...]]:
    ranks = [{value: rank for rank, value in enumerate(found.values(axis))} for axis in range(len(found.axes))]
    return lambda key: tuple(rank[value] for rank, value in zip(ranks, key, strict=True))


def footnotes(found: Report, *, with_problems: bool = True) -> list[str]:
    """Return what the numbers mean, and what went wrong."""
    lines = []
    scored = [r for r in found.records if r.status == Status.DONE and found.metric in r.scores]
    name = NAMES.get(found.metric, found.metric)
    ways = {
        (tuple(r.scores.get(key, 0) for key in MEASURED_WITH), tuple(r.scored_by.get(key, "") for key in SCORED_IN))
        for r in scored
    }
    for (feature, generated, real, points, step), (features, network, resize, split) in sorted(ways):
        space = features or f"InceptionV3 {feature:.0f}"
        how = (
            f" on {space} features, {generated:.0f} generated against {real:.0f} real images,"
            if feature
            else f" of {points:.0f} generated against as many real points,"
        )
        lines.append(f"{name}{how} at step {step:.0f}; mean ± sd over n seeds.")
        if split:
            lines.append(f"Real images: {split}; resize: {resize}; network: {network}.")
    codes = sorted({r.code for r in scored if r.code})
    if len(codes) > 1:
        lines.append(f"Runs of different versions of wgan-sweep: {', '.join(codes)}.")
    if len(ways) > 1:
        lines.append(f"{name} of different features, counts or steps cannot be compared with each other.")
    return lines + (problems(found.records) if with_problems else [])


def problems(records: Iterable[Record]) -> list[str]:
    """Return a line for each run that failed or diverged, with the reason."""
    return [
        f"{record.status}: {record.run_id} ({' '.join(record.overrides) or 'defaults'}): {record.reason}"
        for record in records
        if record.reason
    ]


def to_markdown(found: Report) -> str:
    """Return the table and its footnotes as Markdown."""
    return markdown(*table(found), footnotes(found))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Iterable[str]) -> str:
    """Return a table, and the notes below it, as Markdown."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    ruled = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), ruled, *map(line, rows), "", *notes]) + "\n"


def finite(value: Any) -> Any:
    """Return a value as JSON knows it: null for a number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _entries(found: Report) -> Iterator[dict[str, Any]]:
    last = found.values(len(found.axes) - 1) if found.axes else []
    down = dict.fromkeys(key[:-1] for key in found.cells)
    everywhere = [(*key, value) for key in down for value in last] if found.axes else list(found.cells)
    nothing = Cell(())
    for key in everywhere:
        cell = found.cells.get(key, nothing)
        yield {
            **dict(zip(found.axes, key, strict=True)),
            found.metric: cell.mean,
            "sd": cell.sd,
            "n": len(cell.values),
            **{name: next((r.scores[name] for r in cell.records if name in r.scores), None) for name in MEASURED_WITH},
            "status": " ".join(f"{count} {status}" for status, count in cell.others.items())
            or ("done" if cell.records else "missing"),
            "runs": [record.run_id for record in cell.records],
        }


def to_csv(found: Report) -> str:
    """Return one line per cell as CSV."""
    entries = [{**entry, "runs": " ".join(entry["runs"])} for entry in _entries(found)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(entries[0]) if entries else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return out.getvalue()


def to_json(found: Report) -> str:
    """Return axes, cells and runs as JSON."""
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
        for r in found.records
    ]
    return json.dumps(finite({"axes": found.axes, "cells": list(_entries(found)), "runs": runs}), indent=2) + "\n"
