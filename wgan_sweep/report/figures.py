"""The summary of a sweep (a table and an image), by the option of the config group ``figure``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wgan_sweep.config import objects
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
