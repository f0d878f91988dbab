"""The summary of a sweep (a table and an image), by the option of the config group ``figure``."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wgan_sweep.config import objects
from wgan_sweep.errors import InputError, summary
from wgan_sweep.report import contact_sheet
from wgan_sweep.report.text import SweepSummary
from wgan_sweep.runs.record import Record

Summarise = Callable[[Sequence[Record], Path], SweepSummary]
"""Returns a sweep's summary from its records and the folder of their run directories.

A run that has not started is among the records, with the status `NEW`.
"""


def make_figure(node: Mapping[str, Any]) -> Summarise:
    """Return the function that a node of the group ``figure`` describes.

    Raises:
        InputError: for an unknown key, or a value of another type.
    """
    return cast("Summarise", objects.make(node, "figure"))


def summarise(node: Mapping[str, Any], name: str, records: Sequence[Record], runs: Path) -> tuple[SweepSummary, str]:
    """Return the summary of a sweep, and why it is the one of ``figure=samples`` instead (empty if it is not).

    Args:
        node: A node of the group ``figure``.
        name: The name of this option.
        records: The sweep's runs.
        runs: The folder of their run directories.
    """
    try:
        return make_figure(node)(records, runs), ""
    except Exception as error:  # it is the code of an option, and must not take the table with it
        reason = str(error) if isinstance(error, InputError) else _where(error)
        why = f"figure={name} cannot show these runs ({reason}): figure=samples is shown instead"
        return contact_sheet.summarise(records, runs), why


def _where(error: Exception) -> str:
    """Return the type and text of an error, and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{summary(error)}, {Path(last.filename).name}:{last.lineno}"
