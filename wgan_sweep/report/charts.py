"""Charts of a report, as Vega-Lite specifications: a page draws them as they are, `to_png` makes a picture of them."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from wgan_sweep.report.cells import NAMES, NO_VALUE, Report
from wgan_sweep.report.text import finite
from wgan_sweep.runs.directory import Record, RunDir, Status
from wgan_sweep.tracking.wandb import FINAL

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# fmt: off
COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac", "#eeca3b",
    "#1f77b4", "#d67195", "#2ca02c", "#8c564b", "#17becf", "#9467bd", "#bcbd22", "#7f7f7f",
)
# fmt: on
"""Of cells, in turn."""
POINTS_OF_A_CURVE = 150
CURVES = ("wasserstein", "gradient_norm", "gradient_term", "generator_gradient_norm")
"""Measurements that are drawn against images seen, beside the scores."""
MOST_AXES = 6
"""So many can be chosen from; the page would grow with their square."""
ROW_HEIGHT = 34


def cell_name(found: Report, record: Record) -> str:
    """Return a run's place on the axes that vary, in words."""
    place = zip(found.axes, found.place(record), strict=True)
    return " ".join(f"{axis}={value}" for axis, value in place if value != NO_VALUE) or "all runs"


def rows(found: Report) -> list[dict[str, Any]]:
    """Return a row per run: ``a0``, ``a1``, ... are its places on the axes."""
    return [
        {
            "run": record.run_id,
            "cell": cell_name(found, record),
            "status": str(record.status),
            "seed": record.config.get("seed"),
            "score": finite(record.scores.get(found.metric)) if record.status == Status.DONE else None,
            **{f"a{index}": value for index, value in enumerate(found.place(record))},
        }
        for record in found.records
    ]


def curves(record: Record, directory: RunDir) -> dict[str, list[list[float]]]:
    """Return what was measured of a run while it was trained as ``[images seen, value]``, thinned out, by name."""
    names = {*CURVES, *(name for name in NAMES if name in record.scores or name in record.best)}
    found: dict[str, list[list[float]]] = {}
    for line in directory.read_metrics():
        if FINAL in line:  # another scorer's: of another scale
            continue
        for name in (name for name in names & line.keys() if math.isfinite(line[name])):
            found.setdefault(name, []).append([line.get("images_seen", 0), float(f"{line[name]:.5g}")])
    return {name: _thinned(points) for name, points in found.items()}


def _thinned(points: Sequence[list[float]]) -> list[list[float]]:
    stride = -(-len(points) // POINTS_OF_A_CURVE)
    return [point for index, point in enumerate(points) if (len(points) - 1 - index) % stride == 0]


def _axis(found: Report, index: int) -> Spec:
    return {
        "field": f"a{index}",
        "type": "ordinal",
        "sort": found.values(index),
        "title": found.axes[index],
        "axis": {"labelAngle": 0, "labelLimit": 160},
    }


def _rest(found: Report, used: Sequence[int]) -> Spec:
    """Return what names a run's place on the axes that are not in use, so that nothing is averaged over unsaid."""
    rest = [index for index in range(len(found.axes)) if index not in used]
    words = [f"(datum.a{index} == '{NO_VALUE}' ? '' : '{found.axes[index]}=' + datum.a{index} + ' ')" for index in rest]
    return {"calculate": " + ".join(words) or "''", "as": "rest"}


SCORED = {"filter": "isValid(datum.score)"}


def _has(axis: int) -> Spec:
    return {"filter": f"datum.a{axis} != '{NO_VALUE}'"}


def heat_map(found: Report, across: int, down: int) -> Spec:
    """Return the mean score over seeds on two axes."""
    name = NAMES.get(found.metric, found.metric)
    mean = {"aggregate": "mean", "field": "score", "type": "quantitative", "title": name}
    colour = {**mean, "scale": {"scheme": {"name": "tealblues", "extent": [0, 0.65]}, "zero": False}}
    tooltip = [
        {"field": f"a{across}", "title": found.axes[across]},
        {"field": f"a{down}", "title": found.axes[down]},
        {**mean, "title": f"mean {name}", "format": ".5g"},
        {"aggregate": "stdev", "field": "score", "title": "sd", "format": ".3g"},
        {"aggregate": "count", "title": "seeds"},
    ]
    layers = [
        {"mark": "rect", "encoding": {"color": colour, "tooltip": tooltip}},
        {"mark": {"type": "text", "color": "black"}, "encoding": {"text": {**mean, "format": ".4g"}}},
    ]
    panel = {
        "width": {"step": 84},
        "height": {"step": ROW_HEIGHT},
        "encoding": {"x": _axis(found, across), "y": _axis(found, down)},
        "layer": layers,
    }
    header = {"title": None, "labelFontWeight": "bold", "labelLimit": 600}
    return {
        "transform": [SCORED, _has(across), _has(down), _rest(found, (across, down))],
        "facet": {"field": "rest", "type": "nominal", "header": header},
        "columns": 3,
        "spec": panel,
    }


def strip(found: Report, across: int) -> Spec:
    """Return the scores of seeds as points along an axis, a colour for each place on the others; ticks are means."""
    score = {
        "field": "score",
        "type": "quantitative",
        "scale": {"zero": False},
        "title": NAMES.get(found.metric, found.metric),
    }
    colour = {
        "field": "rest",
        "type": "nominal",
        "title": None,
        "legend": {"orient": "top", "columns": 2, "labelLimit": 500},
    }
    tooltip = [{"field": "run"}, {"field": "cell"}, {"field": "seed"}, {**score, "format": ".5g"}]
    layers = [
        {
            "mark": {"type": "point", "filled": True, "opacity": 0.75, "size": 45},
            "encoding": {"y": score, "tooltip": tooltip},
        },
        {"mark": {"type": "tick", "thickness": 2}, "encoding": {"y": {**score, "aggregate": "mean"}}},
    ]
    return {
        "transform": [SCORED, _has(across), _rest(found, (across,))],
        "width": {"step": 26},
        "height": 260,
        "encoding": {"x": _axis(found, across), "xOffset": {"field": "rest"}, "color": colour},
        "layer": layers,
    }


def lines(cells: Sequence[str], title: str) -> Spec:
    """Return measurements against images seen: a line per run, in the colour of its cell."""
    return {
        "width": "container",
        "height": 320,
        "encoding": {
            "x": {"field": "images", "type": "quantitative", "title": "images seen", "axis": {"format": "~s"}},
            "y": {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": False}},
            "color": {
                "field": "cell",
                "type": "nominal",
                "scale": {"domain": list(cells), "range": [colour_of(index) for index in range(len(cells))]},
                "legend": None,
            },
            "detail": {"field": "run"},
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.8, "interpolate": "linear"}},
            {
                "params": [
                    {
                        "name": "hover",
                        "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"},
                    }
                ],
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {
                    "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
                    "tooltip": [
                        {"field": "cell"},
                        {"field": "run"},
                        {"field": "seed"},
                        {"field": "images", "title": "images seen", "format": ","},
                        {"field": "value", "title": title, "format": ".5g"},
                    ],
                },
            },
        ],
    }


def colour_of(index: int) -> str:
    """Return the colour of a cell."""
    return COLOURS[index % len(COLOURS)]


def cells(found: Report) -> list[str]:
    """Return the names of cells, in the order of their runs."""
    return list(dict.fromkeys(cell_name(found, record) for record in found.records))


def choices(found: Report) -> Mapping[str, Mapping[str, Spec]]:
    """Return every heat map and strip plot that can be asked for, by the numbers of their axes."""
    axes = range(min(len(found.axes), MOST_AXES))
    return {
        "heat": {f"{across},{down}": heat_map(found, across, down) for across, down in permutations(axes, 2)},
        "strip": {str(across): strip(found, across) for across in axes},
    }


def usual(found: Report) -> dict[str, str]:
    """Return which of the choices is looked at first: p against k, and r(x), where they vary."""

    def pick(*wanted: str) -> list[int]:
        axes = range(min(len(found.axes), MOST_AXES))
        first = [found.axes.index(name) for name in wanted if name in found.axes[: len(axes)]]
        return first + [index for index in axes if index not in first]

    heat, along = pick("div.p", "div.k"), pick("sampling")
    return {
        "heat": ",".join(map(str, heat[:2])) if len(heat) > 1 else "",
        "strip": str(along[0]) if along else "",
    }


def all_curves(found: Report, runs: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Return the curves of each run, by its id."""
    return {record.run_id: curves(record, RunDir(runs / record.run_id)) for record in found.records}


def to_png(found: Report, runs: Path) -> bytes:
    """Draw the heat map, the strip plot and the learning curves of runs, as PNG."""
    import vl_convert

    specs, first, shown, measured = choices(found), usual(found), rows(found), all_curves(found, runs)
    drawn = [{**specs[kind][first[kind]], "data": {"values": shown}} for kind in ("heat", "strip") if first[kind]]
    for metric in (found.metric, "wasserstein"):
        points = [
            {"run": row["run"], "cell": row["cell"], "seed": row["seed"], "images": images, "value": value}
            for row in shown
            for images, value in measured[row["run"]].get(metric, [])
        ]
        if len(points) > len({point["run"] for point in points}):  # a curve, not only its end
            panel = lines(cells(found), NAMES.get(metric, metric))
            panel["encoding"]["color"]["legend"] = {"title": None, "labelLimit": 400}
            drawn.append({**panel, "width": 520, "data": {"values": points}})
    picture = {
        "$schema": SCHEMA,
        "background": "white",
        "vconcat": drawn,
        "resolve": {"scale": {"color": "independent", "x": "independent", "y": "independent"}},
    }
    made: bytes = vl_convert.vegalite_to_png(picture, scale=2)
    return made
