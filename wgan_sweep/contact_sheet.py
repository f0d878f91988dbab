"""One picture of a sweep: each cell's samples under its place on the axes and its FID."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from wgan_sweep.files import write
from wgan_sweep.report import NAMES, Report, coordinates
from wgan_sweep.runs import RunDir

PANEL = 320
"""Side of a cell's picture, in pixels."""
MARGIN = 12
LINE = 20


def draw(found: Report, runs: Path, target: Path) -> bool:
    """Write the contact sheet of a report's runs (the first seed of each cell) as PNG.

    Args:
        found: The report.
        runs: The folder of runs.
        target: The file to write.

    Returns:
        Whether there was any picture to show.
    """
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
        return False
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
    write(target, buffer.getvalue())
    return True
