"""The tracker protocol. A tracker mirrors a run's directory to a dashboard; its failures never end a run."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Values = Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """What a dashboard needs to know of a run to file it."""

    run_id: str
    directory: Path
    group: str | None
    """The sweep."""
    config: Mapping[str, Any]
    axes: Mapping[str, Any] = field(default_factory=dict)
    """The run's value on every axis, the seed included; numbers as numbers."""
    cell: str = ""
    """The name of the run's cell: runs with the same one are averaged."""
    name: str | None = None
    """The name that is displayed."""
    job: str = "train"
    """W&B's job type."""
    best: Mapping[str, Literal["min", "max"]] = field(default_factory=dict)
    """Which value of each metric with a direction is the best: the lowest or the highest one."""


class Tracker(Protocol):
    """A mirror of one run."""

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step; they contain `images_seen`, the x axis of all curves."""

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples, uint8 ``[H, W, C]``."""

    def files(self, kind: str, names: Iterable[str]) -> None:
        """Mirror files, given by their paths relative to the directory of the run, as one artifact of a kind."""

    def close(self, status: str, summary: Values) -> None:
        """End the mirror with the run's status and summary values."""

    def abandon(self) -> None:
        """End the mirror after it failed."""


class NoTracker:
    """A tracker that does nothing."""

    def __init__(self, *, run: TrackedRun) -> None:
        pass

    def log(self, step: int, values: Values) -> None:
        """Do nothing."""

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Do nothing."""

    def files(self, kind: str, names: Iterable[str]) -> None:
        """Do nothing."""

    def close(self, status: str, summary: Values) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


class FaultTolerantTracker:
    """A tracker that stops at its first failure, with one warning.

    Args:
        make: Makes the tracker; it may fail, too.
    """

    def __init__(self, make: Callable[[], Tracker]) -> None:
        self._tracker: Tracker | None = None
        self._tracker = self._attempt(make)

    def _attempt(self, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except Exception as error:
            log.warning("tracking stops, the run continues: %s: %s", type(error).__name__, error)
            failed, self._tracker = self._tracker, None
            if failed is not None:
                with suppress(Exception):
                    failed.abandon()

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step."""
        if self._tracker:
            self._attempt(self._tracker.log, step, values)

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples."""
        if self._tracker:
            self._attempt(self._tracker.images, step, grid)

    def files(self, kind: str, names: Iterable[str]) -> None:
        """Mirror files."""
        if self._tracker:
            self._attempt(self._tracker.files, kind, list(names))

    def close(self, status: str, summary: Values) -> None:
        """End the mirror."""
        if self._tracker:
            self._attempt(self._tracker.close, status, summary)

    def abandon(self) -> None:
        """End the mirror after it failed."""
        if self._tracker:
            self._attempt(self._tracker.abandon)
