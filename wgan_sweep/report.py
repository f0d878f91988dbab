"""Tables from run directories alone: the axes that vary, mean and spread over seeds, and what is missing."""

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from wgan_sweep.runs import OBJECTIVES, Record, Status, canonical, find_runs, objective, overridden_key

GROUPS = ("loss", "constraint", "sampling", "div", "stabiliser", "model", "data", "optimizer")
NAMES = {"fid": "FID", "kid": "KID", "w1": "W1", "w2": "W2"}
SCORED_IN = ("features", "network", "resize", "real")
"""The same, in words: of a record's `scored_by`."""
MEASURED_WITH = ("fid_feature", "fid_generated", "fid_real", "exact_samples", "step")
"""What scores must have in common to be compared."""

Key = tuple[str, ...]


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _text(value: Any) -> str:
    value = f"{value:g}" if isinstance(value, float) and abs(value) >= 1e16 else canonical(value)
    return value if isinstance(value, str) else json.dumps(value)


def coordinates(record: Record) -> dict[str, str]:
    """Return where a run stands on every axis: the option of each group by name, and every number by its key."""
    config = record.config
    choices = config.get("choices", {})
    chosen = {group: choices[group] for group in GROUPS if group in choices}
    # `train.steps` does not tell runs apart: it says how far they are.
    ignored = ("train.steps", "train.compile", "data.root")
    numbers = {
        key: _text(value)
        for group in ("div", *chosen, "train")
        if group in chosen or group == "train"
        for key, value in _leaves(config.get(group), group)
        if group != "sampling" and not key.endswith("_target_") and key not in ignored
    }
    scores = record.scores if record.status == Status.DONE else {}
    measured = {name: _text(scores[name]) for name in MEASURED_WITH if name in scores}
    words = {f"scored {name}": record.scored_by[name] for name in SCORED_IN if scores and name in record.scored_by}
    return {**chosen, **numbers, **measured, **words}


def _overridden(record: Record) -> set[str]:
    return {overridden_key(override) for override in record.overrides}


def axes(records: Sequence[Record]) -> list[str]:
    """Return the axes that vary among runs, the slowest first.

    These are the keys that a user set and that differ; and of the other keys that differ, as many as it takes to tell
    runs apart that are otherwise in one place (a loss brings its optimizer: that is no axis of its own).
    """
    places = [coordinates(record) for record in records]
    keys = list(dict.fromkeys(key for place in places for key in place))
    varying = [key for key in keys if len({place.get(key) for place in places}) > 1]
    typed = set().union(*(_overridden(record) for record in records)) if records else set()
    found = [key for key in varying if key in typed]
    together = [*MEASURED_WITH, *(f"scored {name}" for name in SCORED_IN)]

    def groups(by: Iterable[str]) -> int:
        return len({tuple(place.get(key) for key in by) for place in places})

    for key in varying:
        if key not in found and key not in together and groups([*found, key]) > groups(found):
            found.append(key)
    return found + [key for key in together if key in varying and _mixed(places, key)]


def _mixed(places: Sequence[Mapping[str, str]], key: str) -> bool:
    """Say whether a key takes two values among the runs that have it (a failed run has none)."""
    return len({place[key] for place in places if key in place}) > 1


@dataclass(frozen=True)
class Cell:
    """The runs in one place on all axes but the seed."""

    records: tuple[Record, ...]
    metric: str = "fid"
    """The score that is shown."""

    @property
    def _scored(self) -> list[Record]:
        return [r for r in self.records if r.status == Status.DONE and self.metric in r.scores]

    @property
    def values(self) -> list[float]:
        """Scores of the finished runs."""
        return [record.scores[self.metric] for record in self._scored]

    @property
    def mean(self) -> float | None:
        """Their mean."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Their sample standard deviation, from two on."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def others(self) -> dict[str, int]:
        """How many runs have no score, by status (a finished run without one counts as ``unscored``)."""
        left = [r for r in self.records if r not in self._scored]
        return dict(Counter("unscored" if r.status == Status.DONE else str(r.status) for r in left))

    def text(self) -> str:
        """Return ``mean ± sd (n)`` and what else there is; ``missing`` where no run was started."""
        if not self.records:
            return "missing"
        parts = []
        if self.mean is not None:
            digits = ".2f" if self.metric == "fid" else ".4g"
            spread = f" ± {self.sd:{digits}}" if self.sd is not None else ""
            parts.append(f"{self.mean:{digits}}{spread} (n={len(self.values)})")
        parts += [f"{count} {status}" for status, count in self.others.items()]
        return ", ".join(parts)


def _size(value: str) -> float:
    """Return the number that a value is; what is none comes last."""
    try:
        return float(value)
    except ValueError:
        return math.inf


@dataclass(frozen=True)
class Conclusion:
    """What a sweep ends in."""

    table: str
    """Markdown."""
    picture: bytes | None = None
    """PNG; None where there is nothing to draw."""


@dataclass(frozen=True)
class Report:
    """Runs, by their place on the axes."""

    axes: list[str]
    cells: dict[Key, Cell]
    records: list[Record]
    metric: str = "fid"

    def values(self, axis: int) -> list[str]:
        """Return the values on an axis: numbers by size, options in the order they were run."""
        found = list(dict.fromkeys(key[axis] for key in self.cells))
        return sorted(found, key=_size) if any(_size(value) < math.inf for value in found) else found


def report(records: Sequence[Record], metric: str | None = None) -> Report:
    """Sort runs into cells.

    Args:
        records: The runs.
        metric: The score to show; by default the one that the runs are judged by (FID where there is any).
    """
    metric = metric or objective({name: 0.0 for record in records for name in record.scores}) or OBJECTIVES[0]
    found = axes(records)
    cells: dict[Key, list[Record]] = {}
    for record in records:
        place = coordinates(record)
        cells.setdefault(tuple(place.get(axis, "-") for axis in found), []).append(record)
    return Report(found, {key: Cell(tuple(members), metric) for key, members in cells.items()}, list(records), metric)


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


def footnotes(found: Report) -> list[str]:
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
    if len(ways) > 1:
        lines.append(f"{name} of different features, counts or steps cannot be compared with each other.")
    return lines + problems(found.records)


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


def _entries(found: Report) -> Iterator[dict[str, Any]]:
    everywhere = product(*(found.values(axis) for axis in range(len(found.axes))))
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
    return json.dumps({"axes": found.axes, "cells": list(_entries(found)), "runs": runs}, indent=2) + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {"md": to_markdown, "csv": to_csv, "json": to_json}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a report of the runs below a folder (``wgan-report``)."""
    parser = argparse.ArgumentParser("wgan-report", description="Scores of the runs below a folder, as a table.")
    parser.add_argument("runs", type=Path, help="the folder of runs, for example ./runs")
    parser.add_argument("--format", choices=FORMATS, default="md", help="md (default), csv or json")
    parser.add_argument("--metric", help="the score to show: fid, w1, w2, modes, ... (default: fid, else w1)")
    options = parser.parse_args(arguments)
    if not options.runs.is_dir():
        sys.exit(f"wgan-report: there is no folder {options.runs}: give the folder that holds the runs (key `runs`)")
    records, problems = find_runs(options.runs)
    for problem in problems:
        sys.stderr.write(f"wgan-report: {problem}\n")
    if not records:
        sys.exit(f"wgan-report: {options.runs} holds no runs: start some with wgan-sweep, or give another folder")
    sys.stdout.write(FORMATS[options.format](report(records, options.metric)))
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
