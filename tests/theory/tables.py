"""Reads the tables of figures."""

import re

from wgan_sweep.report.text import SweepSummary


def rows(summary: SweepSummary) -> list[list[str]]:
    """Return the cells of a summary's table, row by row, the header first."""
    lines = [line for line in summary.table.splitlines() if line.startswith("|")]
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in (lines[0], *lines[2:])]
