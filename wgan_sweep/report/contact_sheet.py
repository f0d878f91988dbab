"""One picture of a sweep: each cell's samples under its place on the axes and its FID."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from wgan_sweep.report.cells import NAMES, Report, coordinates, report
from wgan_sweep.report.text import SweepSummary, to_markdown
from wgan_sweep.runs.directory import Record, RunDir

PANEL = 320
"""Side of a cell's picture, in pixels."""
MARGIN = 12
LINE = 20


def conclude(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Return the table of a sweep's scores, and its contact sheet.

    Args:
        records: The sweep's runs.
        runs: Their folder.
    """
    found = report(records)
    return SweepSummary(to_markdown(found), _draw(found, runs))


def _draw(found: Report, runs: Path) -> bytes | None:
    """Return the contact sheet (the first seed of each cell) as PNG, or None without any samples."""
    panels = []
    for cell in found.cells.values():
        pictures = [(record, RunDir(runs / record.run_id).last_samples()) for record in cell.records]
        record, picture = next(((r, p) for r, p in pictures if p is not None), (None, None))
        if record is not None and picture is not None:
            place = coordinates(record)
            title = (
                "  ".join(f"{axis.split('.', 1)[-1]}={place.get(axis, '-')}" for axis in found.axes) or record.run_id
            )
            panels.append(
                (title, f"{NAMES.get(found.metric, found.metric)} {cell.text()}, step {picture.stem}", picture)
            )
    if not panels:
        return None
    columns = len(found.values(len(found.axes) - 1)) if len(found.axes) > 1 else min(len(panels), 4)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL + MARGIN, PANEL + 2 * LINE + 2 * MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for index, (title, score, picture) in enumerate(panels):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        pen.text((left, top), title, fill="black", font=font)
        pen.text((left, top + LINE), score, fill="dimgray", font=font)
        with Image.open(picture) as samples:
            scale = PANEL / max(samples.size)
            size = (round(samples.width * scale), round(samples.height * scale))
            resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
            sheet.paste(samples.convert("RGB").resize(size, resample), (left, top + 2 * LINE + 4))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
