"""Charts of a report as Vega-Lite specifications, for the HTML page and for `to_png`."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import METRIC_NAMES, NO_VALUE, Report
from wgan_sweep.report.text import finite
from wgan_sweep.runs.directory import FINAL, RunDir
from wgan_sweep.runs.record import Record, Status

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# fmt: off
COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac", "#eeca3b",
    "#1f77b4", "#d67195", "#2ca02c", "#8c564b", "#17becf", "#9467bd", "#bcbd22", "#7f7f7f",
)
# fmt: on
"""Colours of the cells; repeated if there are more cells."""
MAX_CURVE_POINTS = 150
CURVE_METRICS = ("wasserstein", "gradient_norm", "gradient_term", "generator_gradient_norm")
"""Training metrics with learning curves, in addition to the scorer's metrics."""
MAX_AXES = 6
"""Axes that charts offer; the page holds a heat map for each ordered pair of them."""
ROW_HEIGHT = 34


def cell_name(report: Report, record: Record) -> str:
    """Return a run's values on the axes that vary, as ``axis=value`` words."""
    pairs = zip(report.axes, report.key(record), strict=True)
    return " ".join(f"{axis}={value}" for axis, value in pairs if value != NO_VALUE) or "all runs"


def run_rows(report: Report) -> list[dict[str, Any]]:
    """Return a row per run, the data of heat maps and strip plots; ``a0``, ``a1``, ... are its values on the axes."""
    return [
        {
            "run": record.run_id,
            "cell": cell_name(report, record),
            "status": report.status(record),
            "seed": record.config.get("seed"),
            "value": finite(record.scores.get(report.metric)) if record.status == Status.DONE else None,
            **{f"a{index}": value for index, value in enumerate(report.key(record))},
        }
        for record in report.records
    ]


def learning_curves(record: Record, directory: RunDir) -> dict[str, list[list[float]]]:
    """Return the learning curves of a run, by metric: lists of ``[images seen, value]``, thinned."""
    names = [*CURVE_METRICS, *(name for name in METRIC_NAMES if name in record.scores or name in record.best)]
    lines = [line for line in directory.read_metrics() if FINAL not in line]  # the final scorer's: on another scale
    curves = {
        name: [(line.get("images_seen", 0), line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
        for name in names
    }
    return {
        name: [[images, float(f"{value:.5g}")] for images, value in _thinned(points)]
        for name, points in curves.items()
        if points
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // MAX_CURVE_POINTS)
    return [point for index, point in enumerate(points) if (len(points) - 1 - index) % stride == 0]


def _axis(report: Report, index: int) -> Spec:
    return {
        "field": f"a{index}",
        "type": "ordinal",
        "sort": report.values(index),
        "title": report.axes[index],
        "axis": {"labelAngle": 0, "labelLimit": 160},
    }


def _rest(report: Report, used: Sequence[int]) -> Spec:
    """Return the transform that computes `rest`: a run's values on the axes that a chart does not use.

    A chart separates runs by `rest`, so that it never averages over an axis that it does not show.
    """
    rest = [index for index in range(len(report.axes)) if index not in used]
    words = [
        f"(datum.a{index} == '{NO_VALUE}' ? '' : '{report.axes[index]}=' + datum.a{index} + ' ')" for index in rest
    ]
    return {"calculate": " + ".join(words) or "''", "as": "rest"}


HAS_VALUE = {"filter": "isValid(datum.value)"}


def _is_on(axis: int) -> Spec:
    return {"filter": f"datum.a{axis} != '{NO_VALUE}'"}


def heat_map(report: Report, across: int, down: int) -> Spec:
    """Return a heat map of the mean over seeds against two axes, one panel per combination of the other axes."""
    name = METRIC_NAMES.get(report.metric, report.metric)
    mean = {"aggregate": "mean", "field": "value", "type": "quantitative", "title": name}
    colour = {**mean, "scale": {"scheme": {"name": "tealblues", "extent": [0, 0.65]}, "zero": False}}
    tooltip = [
        {"field": f"a{across}", "title": report.axes[across]},
        {"field": f"a{down}", "title": report.axes[down]},
        {**mean, "title": f"mean {name}", "format": ".5g"},
        {"aggregate": "stdev", "field": "value", "title": "sd", "format": ".3g"},
        {"aggregate": "count", "title": "seeds"},
    ]
    layers = [
        {"mark": "rect", "encoding": {"color": colour, "tooltip": tooltip}},
        {"mark": {"type": "text", "color": "black"}, "encoding": {"text": {**mean, "format": ".4g"}}},
    ]
    panel = {
        "width": {"step": 84},
        "height": {"step": ROW_HEIGHT},
        "encoding": {"x": _axis(report, across), "y": _axis(report, down)},
        "layer": layers,
    }
    header = {"title": None, "labelFontWeight": "bold", "labelLimit": 600}
    return {
        "transform": [HAS_VALUE, _is_on(across), _is_on(down), _rest(report, (across, down))],
        "facet": {"field": "rest", "type": "nominal", "header": header},
        "columns": 3,
        "spec": panel,
    }


def strip_plot(report: Report, across: int) -> Spec:
    """Return a plot of every seed as a point along an axis, with means as ticks; colours separate the other axes."""
    value = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": False},
        "title": METRIC_NAMES.get(report.metric, report.metric),
    }
    colour = {
        "field": "rest",
        "type": "nominal",
        "title": None,
        "legend": {"orient": "top", "columns": 2, "labelLimit": 500},
    }
    tooltip = [{"field": "run"}, {"field": "cell"}, {"field": "seed"}, {**value, "format": ".5g"}]
    layers = [
        {
            "mark": {"type": "point", "filled": True, "opacity": 0.75, "size": 45},
            "encoding": {"y": value, "tooltip": tooltip},
        },
        {"mark": {"type": "tick", "thickness": 2}, "encoding": {"y": {**value, "aggregate": "mean"}}},
    ]
    return {
        "transform": [HAS_VALUE, _is_on(across), _rest(report, (across,))],
        "width": {"step": 26},
        "height": 260,
        "encoding": {"x": _axis(report, across), "xOffset": {"field": "rest"}, "color": colour},
        "layer": layers,
    }


def curve_chart(cells: Sequence[str], title: str) -> Spec:
    """Return a line chart against images seen: a line per run, in the colour of its cell."""
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


def cell_names(report: Report) -> list[str]:
    """Return the names of all cells, in the order of their first runs."""
    return list(dict.fromkeys(cell_name(report, record) for record in report.records))


def grid_charts(report: Report) -> Mapping[str, Mapping[str, Spec]]:
    """Return a heat map for each pair of axes and a strip plot for each axis, by the indices of the axes."""
    axes = range(min(len(report.axes), MAX_AXES))
    return {
        "heat": {f"{across},{down}": heat_map(report, across, down) for across, down in permutations(axes, 2)},
        "strip": {str(across): strip_plot(report, across) for across in axes},
    }


def default_axes(report: Report) -> dict[str, str]:
    """Return the axes that `grid_charts` are shown for first: p against k, and r(x), where they vary."""

    def ordered(*preferred: str) -> list[int]:
        axes = range(min(len(report.axes), MAX_AXES))
        first = [report.axes.index(name) for name in preferred if name in report.axes[: len(axes)]]
        return first + [index for index in axes if index not in first]

    heat, strip = ordered("div.p", "div.k"), ordered("sampling")
    return {
        "heat": ",".join(map(str, heat[:2])) if len(heat) > 1 else "",
        "strip": str(strip[0]) if strip else "",
    }


def curves_by_run(report: Report, runs: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Return the learning curves of every run, by its id."""
    return {record.run_id: learning_curves(record, RunDir(runs / record.run_id)) for record in report.records}


def to_png(report: Report, runs: Path) -> bytes:
    """Return the heat map, the strip plot and the learning curves of runs as a PNG.

    Raises:
        InputError: if no run has a value or a curve.
    """
    import vl_convert

    charts, axes = grid_charts(report), default_axes(report)
    rows, curves = run_rows(report), curves_by_run(report, runs)
    panels = [{**charts[kind][axes[kind]], "data": {"values": rows}} for kind in ("heat", "strip") if axes[kind]]
    for metric in (report.metric, "wasserstein"):
        points = [
            {"run": row["run"], "cell": row["cell"], "seed": row["seed"], "images": images, "value": value}
            for row in rows
            for images, value in curves[row["run"]].get(metric, [])
        ]
        if len(points) > len({point["run"] for point in points}):  # some run has more than its last value
            panel = curve_chart(cell_names(report), METRIC_NAMES.get(metric, metric))
            panel["encoding"]["color"]["legend"] = {"title": None, "labelLimit": 400}
            panels.append({**panel, "width": 520, "data": {"values": points}})
    if not panels:
        name = METRIC_NAMES.get(report.metric, report.metric)
        raise InputError(f"there is nothing to draw: no run has {name} or a curve yet")
    chart = {
        "$schema": SCHEMA,
        "background": "white",
        "vconcat": panels,
        "resolve": {"scale": {"color": "independent", "x": "independent", "y": "independent"}},
    }
    png: bytes = vl_convert.vegalite_to_png(chart, scale=2)
    return png
