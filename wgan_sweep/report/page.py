"""A report as one page of HTML that needs nothing else: tables, charts, samples, differences, failures."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from wgan_sweep.report import charts, claims
from wgan_sweep.report.cells import NAMES, Report, leaves
from wgan_sweep.report.text import finite, footnotes, table
from wgan_sweep.runs.directory import Record, RunDir, Status

THUMBNAIL = 320
"""Pixels of a picture's longer side; a page of 500 runs shall open on a phone."""
BESIDE_SCIENCE = ("runs", "choices", "tracker", "figure", "launch", "plan", "retry_diverged", "scorer.features.weights")
"""Of a config, what tells nothing of a run's result."""


def _thumbnail(path: Path | None) -> str | None:
    if path is None:
        return None
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
        shown.thumbnail((THUMBNAIL, THUMBNAIL))
        out = io.BytesIO()
        shown.save(out, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _settings(record: Record) -> dict[str, str]:
    found = leaves({name: node for name, node in record.config.items() if name not in BESIDE_SCIENCE})
    return {key: json.dumps(value) for key, value in found if key not in BESIDE_SCIENCE}


def _differing(records: list[Record]) -> dict[str, dict[str, str]]:
    """Return of each run's config the keys that are not the same everywhere."""
    settings = {record.run_id: _settings(record) for record in records}
    keys = dict.fromkeys(key for one in settings.values() for key in one)
    differing = [key for key in keys if len({one.get(key) for one in settings.values()}) > 1]
    return {run: {key: one[key] for key in differing if key in one} for run, one in settings.items()}


def _entry(found: Report, record: Record, runs: Path) -> dict[str, Any]:
    is_result = record.status == Status.DONE  # else the last score on the way, of fewer images
    score, best = (finite(scores.get(found.metric)) if is_result else None for scores in (record.scores, record.best))
    return {
        "id": record.run_id,
        "status": str(record.status),
        "cell": charts.cell_name(found, record),
        "place": found.place(record),
        "seed": record.config.get("seed"),
        "step": record.step,
        "score": score,
        "best": best,
        "best_step": record.best.get("step"),
        "seconds": record.seconds,
        "time": str(timedelta(seconds=round(record.seconds))),
        "reason": record.reason,
        "error": record.error,
        "typed": " ".join(record.overrides),
        "picture": _thumbnail(RunDir(runs / record.run_id).last_samples()),
    }


def _for_script(value: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element."""
    return json.dumps(finite(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def to_html(found: Report, runs: Path, judged: Sequence[claims.Claim]) -> str:
    """Return the page.

    Args:
        found: The runs, by cell.
        runs: The folder that they are in.
        judged: The claims that are judged on it.
    """
    import vl_convert

    folder = Path(__file__).parent
    cells = charts.cells(found)
    data = {
        "axes": found.axes[: charts.MOST_AXES],
        "metric": found.metric,
        "name": NAMES.get(found.metric, found.metric),
        "rows": charts.rows(found),
        "charts": charts.choices(found),
        "usual": charts.usual(found),
        "lines": charts.lines(cells, "value"),
        "curves": charts.all_curves(found, runs),
        "settings": _differing(found.records),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    header, body = table(found)
    verdicts = claims.judge(judged, found.records, found.metric)
    return environment.get_template("page.html").render(
        title=runs.absolute().name,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        metric=data["name"],
        axes=found.axes,
        header=header,
        body=body,
        notes=footnotes(found, with_problems=False),
        entries=[_entry(found, record, runs) for record in found.records],
        cells=[{"name": name, "colour": charts.colour_of(index)} for index, name in enumerate(cells)],
        claims=claims.table(verdicts),
        claims_notes=claims.notes(verdicts, found.metric)[:1],
        data=_for_script(data),
        style=(folder / "page.css").read_text(),
        script=(folder / "page.js").read_text(),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script"),
    )
