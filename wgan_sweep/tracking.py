"""Dashboards. A tracker mirrors a run's directory; the directory is the truth, and a tracker never ends a run."""

import logging
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30
"""How long W&B may take to answer before a run goes on offline."""

Values = Mapping[str, float]


@dataclass(frozen=True)
class RunIdentity:
    """What a dashboard files a run under."""

    run_id: str
    directory: Path
    group: str | None
    """The sweep."""
    config: Mapping[str, Any]


class Tracker(Protocol):
    """Where a run is mirrored to."""

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step; they hold `images_seen`, the clock of all curves."""

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples, uint8 ``[H, W, C]``."""

    def close(self, status: str, summary: Values) -> None:
        """End the mirror with the run's status and its last numbers."""


class NoTracker:
    """Mirrors nothing."""

    def __init__(self, *, run: RunIdentity) -> None:
        pass

    def log(self, step: int, values: Values) -> None:
        """Do nothing."""

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Do nothing."""

    def close(self, status: str, summary: Values) -> None:
        """Do nothing."""


def key_is_configured() -> bool:
    """Say whether W&B can log in without asking: an API key or token in the environment, or a netrc entry."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if name and netrc.netrc(Path(name).expanduser()).hosts.get(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _mode() -> str:
    """Return W&B's mode: what ``WANDB_MODE`` says, but online only where that needs no prompt."""
    mode = os.environ.get("WANDB_MODE") or "online"
    return mode if mode != "online" or key_is_configured() else "offline"


class WandbTracker:
    """Mirrors to Weights & Biases: online where a key is configured, else offline; it never asks.

    Offline runs lie in the run's directory and are uploaded by ``wandb sync``.
    """

    def __init__(self, *, run: RunIdentity, project: str, entity: str | None) -> None:
        import wandb

        self._wandb = wandb

        def start(mode: str) -> wandb.Run:
            return wandb.init(
                project=project,
                entity=entity,
                id=run.run_id,
                name=run.run_id,
                group=run.group,
                resume="allow",
                mode=mode,  # type: ignore[arg-type]
                dir=run.directory,
                config=dict(run.config),
                settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S),
            )

        try:
            self._run = start(_mode())
        except wandb.Error as error:
            if _mode() != "online":
                raise
            log.warning("W&B cannot be reached, this process goes on offline: %s", error)
            os.environ["WANDB_MODE"] = "offline"
            self._run = start("offline")
        self._run.define_metric("images_seen")
        self._run.define_metric("*", step_metric="images_seen")
        self._run.define_metric("fid", step_metric="images_seen", summary="min")

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step."""
        self._run.log(dict(values), step=step)

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples."""
        self._run.log({"samples": self._wandb.Image(grid)}, step=step)

    def close(self, status: str, summary: Values) -> None:
        """Put the summary and end the W&B run (exit code 1 unless the run is done)."""
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=0 if status == "done" else 1)


class Guarded:
    """A tracker whose first failure is said once and is its last act.

    Args:
        make: Makes the tracker; its failure counts too.
    """

    def __init__(self, make: Any) -> None:
        self._tracker: Tracker | None = None
        self._tracker = self._try(make)

    def _try(self, act: Any, *args: Any) -> Any:
        try:
            return act(*args)
        except Exception as error:
            log.warning("tracking stops, the run goes on: %s: %s", type(error).__name__, error)
            self._tracker = None

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step."""
        if self._tracker:
            self._try(self._tracker.log, step, values)

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples."""
        if self._tracker:
            self._try(self._tracker.images, step, grid)

    def close(self, status: str, summary: Values) -> None:
        """End the mirror."""
        if self._tracker:
            self._try(self._tracker.close, status, summary)
