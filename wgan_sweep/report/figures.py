"""What a sweep ends in: a table and a figure, made by the option of the group ``figure``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wgan_sweep.config import objects
from wgan_sweep.report.text import SweepSummary
from wgan_sweep.runs.record import Record

Summarise = Callable[[Sequence[Record], Path], SweepSummary]
"""From the records of a sweep and the folder of runs to its table and figure."""


def make_figure(node: Mapping[str, Any]) -> Summarise:
    """Return the function that a figure's config node describes.

    Raises:
        InputError: for an unknown key, or a value of another type.
    """
    return cast("Summarise", objects.make(node, "figure"))
