"""The contact sheet of a sweep: an image with samples of every cell, titled with its axis values and its metric."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from wgan_sweep.common.pictures import open_picture
from wgan_sweep.report.cells import METRIC_NAMES, Report, group_runs
from wgan_sweep.report.text import SweepSummary, grid, to_markdown
from wgan_sweep.runs.coordinates import coordinates
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record

PANEL = 320
"""Longer side of a cell's samples, in pixels."""
MARGIN = 12
"""Space between panels, in pixels."""
LINE = 20
"""Height of a line of text, in pixels."""


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Return the table of a sweep's metric values, and its contact sheet.

    Args:
        records: The sweep's runs.
        runs: The folder of their run directories.
    """
    report = group_runs(records, runs=runs)
    return SweepSummary(to_markdown(report), _draw(report, runs))


def _draw(report: Report, runs: Path) -> bytes | None:
    """Return the contact sheet as a PNG, with the first samples of each cell; None if there are no samples."""
    panels = []
    keys = [key for _, row in grid(report).rows for key in row if key in report.cells]
    for cell in map(report.cells.__getitem__, keys):
        candidates = [(record, RunDir(runs / record.run_id).last_samples()) for record in cell.records]
        record, path = next(((record, path) for record, path in candidates if path is not None), (None, None))
        if record is not None and path is not None:
            values = coordinates(record)
            words = (f"{axis.split('.', 1)[-1]}={values.get(axis, '-')}" for axis in report.axes)
            title = "  ".join(words) or record.run_id
            metric = METRIC_NAMES.get(report.metric, report.metric)
            panels.append((title, f"{metric} {cell.text()}, step {path.stem}", path))
    if not panels:
        return None
    columns = len(report.values(report.column_axis)) if len(report.axes) > 1 else min(len(panels), 4)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL + MARGIN, PANEL + 2 * LINE + 2 * MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for index, (title, subtitle, path) in enumerate(panels):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        draw.text((left, top), title, fill="black", font=font)
        draw.text((left, top + LINE), subtitle, fill="dimgray", font=font)
        samples = open_picture(path)
        if samples is not None:
            scale = PANEL / max(samples.size)
            size = (max(1, round(samples.width * scale)), max(1, round(samples.height * scale)))
            resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
            sheet.paste(samples.resize(size, resample), (left, top + 2 * LINE + 4))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
