"""Dashboards. A tracker mirrors a run's directory; the directory is the truth, and a tracker never ends a run."""

import json
import logging
import netrc
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from wgan_sweep.common.files import write

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30
"""How long W&B may take to answer before a run goes on offline."""

PUBLIC = "https://api.wandb.ai"
MOST_LETTERS_OF_A_TAG = 64
LOWER_IS_BETTER = ("fid", "kid", "w1", "w2", "final_fid", "final_kid")
CLOCKS = ("step", "images_seen")

Values = Mapping[str, float]

FINAL = "final"
"""In a line of measurements: that the scorer of the end made it, which is another than that of the way there."""


@dataclass(frozen=True)
class RunIdentity:
    """What a dashboard files a run under."""

    run_id: str
    directory: Path
    group: str | None
    """The sweep."""
    config: Mapping[str, Any]
    axes: Mapping[str, Any] = field(default_factory=dict)
    """The run's place on every axis, the seed among them; numbers as numbers."""
    cell: str = ""
    """The place without the seed: what runs are to be averaged by."""
    name: str | None = None
    """What people call it."""
    job: str = "train"
    """Of W&B's job types."""


class Tracker(Protocol):
    """Where a run is mirrored to."""

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step; they hold `images_seen`, the clock of all curves."""

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples, uint8 ``[H, W, C]``."""

    def files(self, kind: str, paths: Iterable[Path]) -> None:
        """Mirror files, as one artifact of a kind."""

    def close(self, status: str, summary: Values) -> None:
        """End the mirror with the run's status and its last numbers."""

    def abandon(self) -> None:
        """End the mirror, after a failure of it."""


class NoTracker:
    """Mirrors nothing."""

    def __init__(self, *, run: RunIdentity) -> None:
        pass

    def log(self, step: int, values: Values) -> None:
        """Do nothing."""

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Do nothing."""

    def files(self, kind: str, paths: Iterable[Path]) -> None:
        """Do nothing."""

    def close(self, status: str, summary: Values) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


def key_is_configured() -> bool:
    """Say whether W&B can log in without asking: an API key or token in the environment, or a netrc entry."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", PUBLIC)).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if name and netrc.netrc(Path(name).expanduser()).hosts.get(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def default_entity() -> str:
    """Return the user or team that W&B files runs under where none is named."""
    import wandb

    return str(wandb.Api().default_entity)


def mode() -> str:
    """Return W&B's mode: what ``WANDB_MODE`` says, but online only where that needs no prompt."""
    asked = os.environ.get("WANDB_MODE") or "online"
    return asked if asked != "online" or key_is_configured() else "offline"


def _marker(directory: Path) -> Path:
    return directory / "wandb" / "mirrored.json"


def mirrored(directory: Path) -> dict[str, Any]:
    """Return how a run's last mirror ended: ``where``, ``closed`` (as what) and when (``at``); empty for never."""
    try:
        found = json.loads(_marker(directory).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def where(project: str, entity: str | None) -> str:
    """Return which mirror a project is, in the mode that W&B is in now."""
    return f"{mode()} {os.environ.get('WANDB_BASE_URL', PUBLIC)} {entity or ''}/{project}"


class WandbTracker:
    """Mirrors to Weights & Biases: online where a key is configured, else offline; it never asks.

    A run has one curve, in however many sittings: a row in W&B is a line of measurements. Whoever starts a tracker
    first tells it all lines there are. Online, as many as the server has are passed over; offline, the record of an
    earlier sitting (which a kill may have left empty) is replaced.
    """

    def __init__(self, *, run: RunIdentity, project: str, entity: str | None) -> None:
        import wandb

        self._wandb = wandb
        self._directory = run.directory

        def start(chosen: str) -> wandb.Run:
            return wandb.init(
                project=project,
                entity=entity,
                id=run.run_id,
                name=run.name or run.run_id,
                group=run.group,
                job_type=run.job,
                tags=sorted(f"{axis}:{value}"[:MOST_LETTERS_OF_A_TAG] for axis, value in run.axes.items()),
                resume="allow",
                reinit="create_new",
                mode=chosen,  # type: ignore[arg-type]
                dir=run.directory,
                config={**run.config, "axes": dict(run.axes), "cell": run.cell},
                settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S),
            )

        chosen = mode()
        try:
            self._run = start(chosen)
        except wandb.Error as error:
            if chosen != "online":
                raise
            log.warning("W&B cannot be reached, this process goes on offline: %s", error)
            os.environ["WANDB_MODE"] = chosen = "offline"
            self._run = start(chosen)
        self._where = where(project, entity)
        self._picture: NDArray[np.uint8] | None = None
        self._told = 0
        self._there = self._run.starting_step if chosen == "online" else 0  # one row for each line
        if chosen == "offline":
            self._replace_earlier_records(run.run_id)
        for clock in CLOCKS:
            self._run.define_metric(clock)
        self._run.define_metric("*", step_metric="images_seen")
        for name in LOWER_IS_BETTER:
            self._run.define_metric(name, step_metric="images_seen", summary="min")

    def _replace_earlier_records(self, run_id: str) -> None:
        own = Path(self._run.dir).parent.resolve()
        for folder in self._directory.glob(f"wandb/offline-run-*-{run_id}"):
            if folder.resolve() != own:
                shutil.rmtree(folder, ignore_errors=True)

    def log(self, step: int, values: Values) -> None:
        """Mirror a line of measurements, unless it is there; the final scorer's under names of their own."""
        self._told += 1
        if self._told <= self._there:
            return
        prefix = f"{FINAL}_" if FINAL in values else ""
        row: dict[str, Any] = {name if name in CLOCKS else prefix + name: v for name, v in values.items()}
        row.pop(prefix + FINAL, None)
        if self._picture is not None:
            row["samples"], self._picture = self._wandb.Image(self._picture), None
        self._run.log({"step": step, **row})

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:  # noqa: ARG002 (the row that it comes with has it)
        """Mirror a picture of samples, with the next line."""
        self._picture = grid

    def files(self, kind: str, paths: Iterable[Path]) -> None:
        """Mirror files as an artifact: W&B keeps a version of it only where they have changed."""
        artifact = self._wandb.Artifact(f"{self._run.id}-{kind}", type=kind)
        for path in paths:
            artifact.add_file(str(path), name=str(path.relative_to(self._directory)))
        self._run.log_artifact(artifact)

    def close(self, status: str, summary: Values) -> None:
        """Put the summary and end the W&B run (exit code 1 unless the run is done)."""
        if self._picture is not None:
            self._run.summary["samples"] = self._wandb.Image(self._picture)
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=0 if status == "done" else 1)
        ended = {"where": self._where, "closed": status, "at": time.time()}
        write(_marker(self._directory), json.dumps(ended) + "\n")

    def abandon(self) -> None:
        """End the W&B run as it is, so that no other run of this process is taken for it."""
        self._run.finish(exit_code=1)


class FaultTolerantTracker:
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
            lost, self._tracker = self._tracker, None
            if lost is not None:
                with suppress(Exception):
                    lost.abandon()

    def log(self, step: int, values: Values) -> None:
        """Mirror the measurements of a step."""
        if self._tracker:
            self._try(self._tracker.log, step, values)

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:
        """Mirror a picture of samples."""
        if self._tracker:
            self._try(self._tracker.images, step, grid)

    def files(self, kind: str, paths: Iterable[Path]) -> None:
        """Mirror files."""
        if self._tracker:
            self._try(self._tracker.files, kind, list(paths))

    def close(self, status: str, summary: Values) -> None:
        """End the mirror."""
        if self._tracker:
            self._try(self._tracker.close, status, summary)

    def abandon(self) -> None:
        """End the mirror."""
        if self._tracker:
            self._try(self._tracker.abandon)
