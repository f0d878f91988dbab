"""Charts of a report as Vega-Lite specifications, for the HTML page and for `to_png`."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import METRIC_NAMES, NO_VALUE, Key, Report, Standing, short_name
from wgan_sweep.report.text import BEST_SIGN, POSSIBLY_BEST_SIGN
from wgan_sweep.runs.coordinates import GROUPS
from wgan_sweep.runs.directory import FINAL, RunDir
from wgan_sweep.runs.record import Record

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#7830f0")
"""Colours of the cells, which differ also for colour-blind readers, on a light and on a dark background.

They are those of Okabe and Ito (2008), with violet in place of yellow and black, which one of the backgrounds hides.
"""
SHAPES = {"circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆"}
"""Shapes of points, as Vega and as text names them: a further one for each further round of the colours."""
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3])
"""Dashes of lines, likewise."""
MAX_LEGEND = 12
"""The most cells that have a legend in a strip plot."""
LONGEST = 1.25
"""The x axis of curves ends at this multiple of the length that three quarters of the runs do not exceed."""
USUAL_SHARE = 0.75
"""The share of cells with the same value on an axis from which on labels leave the value out, if they can."""
MAX_CURVE_POINTS = 150
CURVE_METRICS = ("wasserstein", "gradient_norm", "gradient_term", "generator_gradient_norm")
"""Training metrics with learning curves, in addition to the scorer's metrics."""
MAX_AXES = 6
"""Axes that charts offer; the page holds a heat map for each ordered pair of them."""
STRIP, CHARACTER = 26, 7
"""Width of the points of a cell in a strip plot, and of a character of an axis label, in pixels."""
ROW_HEIGHT = 34


def _name(report: Report, key: Key) -> str:
    pairs = zip(report.axes, key, strict=True)
    return " ".join(f"{axis}={value}" for axis, value in pairs if value != NO_VALUE) or "all runs"


def cell_name(report: Report, record: Record) -> str:
    """Return a run's values on the axes that vary, as ``axis=value`` words."""
    return _name(report, report.key(record))


@dataclass(frozen=True)
class CellStyle:
    """How a cell looks, everywhere in a report."""

    name: str
    """All its values, as `cell_name` gives them."""
    label: str
    """Those of its values that tell the cells of the charts apart."""
    is_drawn: bool
    """Whether charts show any of its runs."""
    colour: str
    shape: str
    dash: list[int]

    @property
    def symbol(self) -> str:
        """Its shape, as text."""
        return SHAPES[self.shape]


def _word(report: Report, axis: int, value: str) -> str:
    """Return a value with the short name of its axis; options of config groups need none."""
    name = report.axes[axis]
    return value if name in GROUPS else f"{short_name(name, report.axes)}={value}"


def _separating(report: Report, keys: Collection[Key]) -> list[int]:
    """Return the axes on which cells differ: all config groups, and as few numbers as are needed to tell them apart."""
    axes = [axis for axis in range(len(report.axes)) if len({key[axis] for key in keys}) > 1]
    for axis in reversed(axes):
        if report.axes[axis] not in GROUPS and len(
            {tuple(key[other] for other in axes if other != axis) for key in keys}
        ) == len(keys):
            axes.remove(axis)
    return axes


def _labels(report: Report, keys: Sequence[Key], axes: Sequence[int]) -> list[str]:
    """Return distinct labels of cells that differ on the given axes.

    A number that is the same in most cells is left out of the labels that are distinct without it.
    """
    words = [{axis: _word(report, axis, key[axis]) for axis in axes if key[axis] != NO_VALUE} for key in keys]
    for axis in (axis for axis in axes if report.axes[axis] not in GROUPS):
        counts = Counter(found.get(axis) for found in words).most_common()
        for word, _ in counts if counts[0][1] >= USUAL_SHARE * len(keys) else []:
            shorter = [{a: w for a, w in found.items() if (a, w) != (axis, word)} for found in words]
            if len({tuple(found.values()) for found in shorter}) == len(keys):
                words = shorter
    return [" ".join(found.values()) or "all runs" for found in words]


def cell_styles(report: Report, drawn: Collection[str] | None = None) -> dict[Key, CellStyle]:
    """Return how the cells look, in the order of the table.

    Args:
        report: The runs, by cell.
        drawn: The ids of the runs that charts show; by default those with a value.
    """
    shown = [
        record
        for record in report.records
        if (record.run_id in drawn if drawn is not None else record.result_value(report.metric) is not None)
    ]
    in_charts = {report.key(record) for record in shown}
    keys = [key for key in report.sorted_keys if key in in_charts]
    labels = dict(zip(keys, _labels(report, keys, _separating(report, keys)), strict=True))
    styles = {}
    for index, key in enumerate(report.sorted_keys):
        turn = index // len(COLOURS) % len(SHAPES)
        colour, shape = COLOURS[index % len(COLOURS)], [*SHAPES][turn]
        name = _name(report, key)
        styles[key] = CellStyle(name, labels.get(key, name), key in labels, colour, shape, DASHES[turn])
    return styles


def run_rows(report: Report, styles: Mapping[Key, CellStyle]) -> list[dict[str, Any]]:
    """Return a row per run, the data of heat maps and strip plots; ``a0``, ``a1``, ... are its values on the axes."""
    return [
        {
            "run": record.run_id,
            "cell": styles[key].name,
            "label": styles[key].label,
            "status": report.status(record),
            "seed": record.config.get("seed"),
            "value": record.result_value(report.metric),
            "standing": report.standings.get(key, ""),
            **{f"a{index}": value for index, value in enumerate(key)},
        }
        for record in report.records
        for key in [report.key(record)]
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

    A chart separates runs by `rest`, so that it never averages over an axis that it does not show. Axes on which the
    runs with a value agree are left out.
    """
    keys = {report.key(record) for record in report.records if record.result_value(report.metric) is not None}
    words = [
        f"(datum.a{axis} == '{NO_VALUE}' ? '' : {json.dumps(_word(report, axis, ''))} + datum.a{axis} + ' ')"
        for axis in _separating(report, keys)
        if axis not in used
    ]
    return {"calculate": " + ".join(words) or "''", "as": "rest"}


HAS_VALUE = {"filter": "isValid(datum.value)"}


def _is_on(axis: int) -> Spec:
    return {"filter": f"datum.a{axis} != '{NO_VALUE}'"}


def heat_map(report: Report, across: int, down: int) -> Spec:
    """Return a heat map of the mean over seeds against two axes, one panel per combination of the other axes.

    The best cells are marked as in the table: they are those of all runs, also where fewer are shown.
    """
    name = METRIC_NAMES.get(report.metric, report.metric)
    mean = {"field": "mean", "type": "quantitative", "title": name}
    colour = {**mean, "scale": {"scheme": {"name": "tealblues", "extent": [0, 0.65]}, "zero": False}}
    tooltip = [
        {"field": f"a{across}", "title": report.axes[across]},
        {"field": f"a{down}", "title": report.axes[down]},
        {**mean, "title": f"mean {name}", "format": ".5g"},
        {"field": "sd", "title": "sd", "format": ".3g"},
        {"field": "seeds", "title": "seeds"},
        {"field": "standing", "title": "standing"},
    ]
    is_best = f"datum.standing == '{Standing.BEST}'"
    mark = f"{is_best} ? ' {BEST_SIGN}' : datum.standing == '{Standing.POSSIBLY_BEST}' ? ' {POSSIBLY_BEST_SIGN}' : ''"
    layers: list[Spec] = [
        {"mark": "rect", "encoding": {"color": colour, "tooltip": tooltip}},
        {
            "mark": {"type": "text", "color": "black", "fontWeight": {"expr": f"{is_best} ? 'bold' : 'normal'"}},
            "encoding": {"text": {"field": "text", "type": "nominal"}},
        },
    ]
    panel = {
        "width": {"step": 84},
        "height": {"step": ROW_HEIGHT},
        "encoding": {"x": _axis(report, across), "y": _axis(report, down)},
        "layer": layers,
    }
    means = {
        "aggregate": [
            {"op": "mean", "field": "value", "as": "mean"},
            {"op": "stdev", "field": "value", "as": "sd"},
            {"op": "count", "as": "seeds"},
        ],
        "groupby": [f"a{across}", f"a{down}", "rest", "standing"],
    }
    text = {"calculate": f"format(datum.mean, '.4g') + ({mark})", "as": "text"}
    header = {"title": None, "labelFontWeight": "bold", "labelLimit": 600}
    return {
        "transform": [HAS_VALUE, _is_on(across), _is_on(down), _rest(report, (across, down)), means, text],
        "facet": {"field": "rest", "type": "nominal", "header": header},
        "columns": 3,
        "spec": panel,
    }


def _scales(styles: Collection[CellStyle]) -> dict[str, Spec]:
    """Return the scales of a chart that give each cell its colour, its shape and its dash."""
    labels = [style.label for style in styles]
    return {
        channel: {"domain": labels, "range": [getattr(style, attribute) for style in styles]}
        for channel, attribute in (("color", "colour"), ("shape", "shape"), ("strokeDash", "dash"))
    }


def strip_plot(report: Report, across: int, styles: Mapping[Key, CellStyle]) -> Spec:
    """Return a plot of every seed as a point along an axis, with means as ticks, in the colours of the cells."""
    value = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": False},
        "title": METRIC_NAMES.get(report.metric, report.metric),
    }
    keys = {report.key(record) for record in report.records if record.result_value(report.metric) is not None}
    drawn = [style for key, style in styles.items() if key in keys and key[across] != NO_VALUE]
    legend = (
        {"orient": "top", "columns": 3, "labelLimit": 400, "symbolOpacity": 1} if len(drawn) <= MAX_LEGEND else None
    )
    shown = [key for key in keys if key[across] != NO_VALUE]
    longest = max((len(key[across]) for key in shown), default=0)
    offsets = max(1, len({(*key[:across], *key[across + 1 :]) for key in shown}))
    scales = _scales(drawn)
    colour, shape = (
        {"field": "label", "type": "nominal", "title": None, "scale": scales[channel], "legend": legend}
        for channel in ("color", "shape")
    )
    tooltip = [{"field": "run"}, {"field": "cell"}, {"field": "seed"}, {**value, "format": ".5g"}]
    layers = [
        {
            "mark": {"type": "point", "filled": True, "opacity": 0.75, "size": 45},
            "encoding": {"y": value, "shape": shape, "tooltip": tooltip},
        },
        {"mark": {"type": "tick", "thickness": 2}, "encoding": {"y": {**value, "aggregate": "mean"}}},
    ]
    return {
        "transform": [HAS_VALUE, _is_on(across), _rest(report, (across,))],
        "width": {"step": max(STRIP, math.ceil(CHARACTER * (longest + 2) / offsets))},
        "height": 260,
        "encoding": {"x": _axis(report, across), "xOffset": {"field": "rest"}, "color": colour},
        "layer": layers,
    }


def curve_chart(styles: Collection[CellStyle], title: str) -> Spec:
    """Return a line chart against images seen: a line per run, in the colour and with the dash of its cell."""
    scales = _scales(styles)
    colour, dash = (
        {"field": "label", "type": "nominal", "scale": scales[channel], "legend": None}
        for channel in ("color", "strokeDash")
    )
    return {
        "width": "container",
        "height": 320,
        "encoding": {
            "x": {"field": "images", "type": "quantitative", "title": "images seen", "axis": {"format": "~s"}},
            "y": {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": False}},
            "color": colour,
            "strokeDash": dash,
            "detail": {"field": "run"},
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.85, "interpolate": "linear"}},
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


def curve_ends(curves: Iterable[Mapping[str, list[list[float]]]]) -> dict[str, float]:
    """Return where the x axis of the curves of a metric ends, in images, if a few long runs would squeeze the others.

    That is at `LONGEST` times the length that three quarters of the runs do not exceed, where a run is longer.

    Args:
        curves: The learning curves of each run.
    """
    lengths: dict[str, list[float]] = {}
    for by_metric in curves:
        for metric, points in by_metric.items():
            lengths.setdefault(metric, []).append(points[-1][0])
    ends = {metric: LONGEST * sorted(values)[-(-3 * len(values) // 4) - 1] for metric, values in lengths.items()}
    return {metric: end for metric, end in ends.items() if max(lengths[metric]) > end}


def grid_charts(report: Report, styles: Mapping[Key, CellStyle]) -> Mapping[str, Mapping[str, Spec]]:
    """Return a heat map for each pair of axes and a strip plot for each axis, by the indices of the axes."""
    axes = range(min(len(report.axes), MAX_AXES))
    return {
        "heat": {f"{across},{down}": heat_map(report, across, down) for across, down in permutations(axes, 2)},
        "strip": {str(across): strip_plot(report, across, styles) for across in axes},
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


def drawn_runs(report: Report, curves: Mapping[str, Mapping[str, object]]) -> set[str]:
    """Return the ids of the runs that charts show: those with a value or a curve."""
    return {r.run_id for r in report.records if r.result_value(report.metric) is not None or curves.get(r.run_id)}


def to_png(report: Report, runs: Path) -> bytes:
    """Return the heat map, the strip plot and the learning curves of runs as a PNG.

    Raises:
        InputError: if no run has a value or a curve.
    """
    import vl_convert

    curves = curves_by_run(report, runs)
    styles = cell_styles(report, drawn_runs(report, curves))
    charts, axes = grid_charts(report, styles), default_axes(report)
    rows, ends = run_rows(report, styles), curve_ends(curves.values())
    panels = [{**charts[kind][axes[kind]], "data": {"values": rows}} for kind in ("heat", "strip") if axes[kind]]
    for metric in (report.metric, "wasserstein"):
        points = [
            {**{name: row[name] for name in ("run", "cell", "label", "seed")}, "images": images, "value": value}
            for row in rows
            for images, value in curves[row["run"]].get(metric, [])
        ]
        if len(points) > len({point["run"] for point in points}):  # some run has more than its last value
            drawn = {point["cell"] for point in points}
            panel = curve_chart([s for s in styles.values() if s.name in drawn], METRIC_NAMES.get(metric, metric))
            for channel in (panel["encoding"]["color"], panel["encoding"]["strokeDash"]):
                channel["legend"] = {"title": None, "labelLimit": 400, "symbolType": "stroke", "symbolSize": 300}
            if metric in ends:
                panel["encoding"]["x"]["title"] = "images seen (longer runs are cut off)"
                points = [point for point in points if point["images"] <= ends[metric]]
            panels.append({**panel, "width": 520, "data": {"values": points}})
    if not panels:
        name = METRIC_NAMES.get(report.metric, report.metric)
        raise InputError(f"there is nothing to draw: no run has {name} or a curve yet")
    chart = {
        "$schema": SCHEMA,
        "background": "white",
        "vconcat": panels,
        "resolve": {"scale": dict.fromkeys(("color", "shape", "strokeDash", "x", "y"), "independent")},
    }
    png: bytes = vl_convert.vegalite_to_png(chart, scale=2)
    return png
