"""A report as one self-contained HTML page: tables, charts, samples, differences, failures."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2

from wgan_sweep.common.pictures import open_thumbnail
from wgan_sweep.config.keys import Role, leaves, role_of
from wgan_sweep.report import charts, claims, references, vega
from wgan_sweep.report.cells import METRIC_NAMES, Key, Report, Standing
from wgan_sweep.report.claim_kinds.claim import Claim
from wgan_sweep.report.curves import Curves
from wgan_sweep.report.decisions import with_decisions
from wgan_sweep.report.text import BEST_SIGN, POSSIBLY_BEST_SIGN, finite, footnotes, grid
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record

UNSHOWN_ROLES = (Role.PRESENTATION, Role.PLACE)
"""Roles of config keys that do not affect a run's result."""


def _thumbnail(path: Path | None) -> str | None:
    """Return a reduced image as a data URL."""
    thumbnail = None if path is None else open_thumbnail(path)
    if thumbnail is None:
        return None
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _settings(record: Record) -> dict[str, str]:
    shown = {key: value for key, value in leaves(record.config) if role_of(key) not in UNSHOWN_ROLES}
    data = record.science.get("data", {})
    return {key: json.dumps(value) for key, value in {**shown, "data.content": data.get("content")}.items()}


def _differing_settings(records: list[Record]) -> dict[str, dict[str, str]]:
    """Return the settings of each run, by its id; keys with the same value in all runs are left out."""
    settings_by_run = {record.run_id: _settings(record) for record in records}
    keys = dict.fromkeys(key for settings in settings_by_run.values() for key in settings)
    differing = [key for key in keys if len({settings.get(key) for settings in settings_by_run.values()}) > 1]
    return {
        run_id: {key: settings[key] for key in differing if key in settings}
        for run_id, settings in settings_by_run.items()
    }


def _entry(report: Report, record: Record, runs: Path, styles: Mapping[Key, charts.CellStyle]) -> dict[str, Any]:
    """Return what the page shows of a run."""
    result = record.result  # without one, the values are of fewer images
    scores = (result.scores, result.best) if result else ({}, {})
    value, best = (finite(values.get(report.metric)) for values in scores)
    return {
        "id": record.run_id,
        "status": report.status(record),
        "cell": styles[report.key(record)].name,
        "style": styles[report.key(record)],
        "axis_values": report.key(record),
        "seed": record.config.get("seed"),
        "step": record.step,
        "value": value,
        "best": best,
        "best_step": (result or record).best.get("step"),
        "seconds": record.seconds,
        "time": str(timedelta(seconds=round(record.seconds))),
        "reason": record.reason,
        "error": record.error,
        "overrides": " ".join(record.overrides),
        "image": _thumbnail(RunDir(runs / record.run_id).last_samples()),
    }


def _for_script(value: Mapping[str, Any]) -> str:
    """Return JSON that is safe inside a script element."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a number that is not finite
        text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def to_html(
    report: Report, runs: Path, tested_claims: Sequence[Claim], title: str, compared: references.Comparisons
) -> str:
    """Return the page.

    Args:
        report: The runs, by cell.
        runs: The folder of their run directories.
        tested_claims: The claims to test on them.
        title: The title of the page.
        compared: The runs of recipes beside the published values.
    """
    folder = Path(__file__).parent
    curves = charts.curves_by_run(report, runs)
    styles = charts.cell_styles(report, charts.drawn_runs(report, curves))
    data = {
        "axes": report.axes[: charts.MAX_AXES],
        "metric": report.metric,
        "name": METRIC_NAMES.get(report.metric, report.metric),
        "rows": charts.run_rows(report, styles),
        "charts": charts.grid_charts(report, styles),
        "defaults": charts.default_axes(report),
        "lines": charts.curve_chart([style for style in styles.values() if style.is_drawn], "value"),
        "curves": curves,
        "ends": charts.curve_ends(curves.values()),
        "names": METRIC_NAMES,
        "settings": _differing_settings(report.records),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    places = grid(report)
    judged = claims.judge(tested_claims, report.records, report.metric, Curves.in_folder(runs))
    verdicts = with_decisions(judged, report.records, runs)
    return environment.get_template("page.html").render(
        title=title,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        metric=data["name"],
        axes=report.axes,
        places=places,
        report=report,
        styles=styles,
        signs={Standing.BEST: BEST_SIGN, Standing.POSSIBLY_BEST: POSSIBLY_BEST_SIGN},
        notes=footnotes(report, with_problems=False),
        entries=[_entry(report, record, runs, styles) for record in report.records],
        claims=claims.table(verdicts),
        claims_notes=claims.notes(verdicts, report.metric),
        references=references.table(compared.rows) if compared.rows else None,
        references_notes=references.notes(compared),
        data=_for_script(data),
        style=(folder / "page.css").read_text(),
        script=(folder / "page.js").read_text(),
        vega=vega.script(),
    )
