"""Writes the results in README.md beside this file, and the figures, from the archives alone: ``make evidence``.

For each archive ``NAME.jsonl.gz``, the lines of README.md between ``<!-- results: NAME -->`` and ``<!-- end -->`` are
replaced by the verdicts of the sweep, the table of ``wgan-report NAME.jsonl.gz``, and the time that the runs took.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from wgan_sweep.commands import report
from wgan_sweep.report.decisions import read_decisions
from wgan_sweep.report.text import markdown
from wgan_sweep.runs.archive import SUFFIX
from wgan_sweep.runs.places import opened

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
COLOURS = 128
"""Colours of a figure, reduced for a small file."""
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def archive_of(name: str) -> Path:
    """Return the archive of a sweep."""
    return HERE / f"{name}{SUFFIX}"


def reported(name: str, form: str, output: Path) -> bytes:
    """Return what ``wgan-report`` writes about an archive."""
    report.main([str(archive_of(name)), "--format", form, "-o", str(output)])
    return output.read_bytes()


def results(name: str) -> str:
    """Return the Markdown of the results of an archive."""
    with opened([archive_of(name)]) as runs:
        hours = sum(record.seconds for record in runs.found.records) / 3600
        count = len(runs.found.records)
        _, decision = read_decisions(runs.folder)[-1]  # a sweep that was continued has several
    header = ["claim", "setting", "verdict", "effect [interval]", "seeds per cell", "where it stands"]
    rows = [[c.claim, c.setting, f"**{c.verdict}**", c.measured, str(c.seeds), c.standing] for c in decision.claims]
    if len({c.setting for c in decision.claims}) == 1:
        header, *rows = [[row[0], *row[2:]] for row in (header, *rows)]
    with TemporaryDirectory() as folder:
        table = reported(name, "md", Path(folder) / "table.md").decode()
    verdicts = markdown(header, rows, [])
    return f"\n{verdicts.strip()}\n\n{table.strip()}\n\n{count} runs, {hours:.1f} hours in all.\n\n"


def built(page: str) -> str:
    """Return a page with the results of the archives."""
    return BLOCK.sub(lambda block: f"{block[1]}{results(block[2])}{block[3]}", page)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(built(page), encoding="utf-8")
    for _, name, _ in BLOCK.findall(page):
        figure = HERE / f"{name}.png"
        reported(name, "png", figure)
        with Image.open(figure) as image:
            small = image.quantize(COLOURS)
        small.save(figure, optimize=True)
