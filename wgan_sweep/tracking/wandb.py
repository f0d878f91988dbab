"""Weights & Biases as a tracker. No other module imports wandb."""

import json
import logging
import netrc
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from wgan_sweep.common.files import write
from wgan_sweep.tracking.tracker import TrackedRun, Values

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30
"""Seconds that W&B may take to answer before a run continues offline."""
PUBLIC_SERVER = "https://api.wandb.ai"
MAX_TAG_LENGTH = 64
LOWER_IS_BETTER = ("fid", "kid", "w1", "w2", "final_fid", "final_kid")
X_AXES = ("step", "images_seen")


def key_is_configured() -> bool:
    """Return whether W&B can log in without asking: an API key or token in the environment, or a netrc entry."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", PUBLIC_SERVER)).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if name and netrc.netrc(Path(name).expanduser()).hosts.get(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def default_entity() -> str:
    """Return the user or team that W&B files runs under by default."""
    import wandb

    return str(wandb.Api().default_entity)


def mode() -> str:
    """Return W&B's mode: that of ``WANDB_MODE``, but online only where no login prompt would appear."""
    requested = os.environ.get("WANDB_MODE") or "online"
    return requested if requested != "online" or key_is_configured() else "offline"


def _closed_file(directory: Path) -> Path:
    return directory / "wandb" / "mirrored.json"


def last_close(directory: Path) -> dict[str, Any]:
    """Return how a run's last mirror was closed: ``where``, with which status (``closed``), and when (``at``).

    Empty if it never was.
    """
    try:
        values = json.loads(_closed_file(directory).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def destination(project: str, entity: str | None) -> str:
    """Return a name for the mode, server and project that runs are mirrored to."""
    return f"{mode()} {os.environ.get('WANDB_BASE_URL', PUBLIC_SERVER)} {entity or ''}/{project}"


class WandbTracker:
    """Mirrors a run to Weights & Biases: online where a key is configured, else offline. It never prompts.

    A row in W&B is a line of ``metrics.jsonl``, however often the run was restarted: whoever starts a tracker first
    replays all lines so far. Online, the rows that the server already has are skipped; offline, the local record of an
    earlier start (which a kill may have left empty) is replaced.

    Args:
        run: The run.
        project: The W&B project.
        entity: The user or team; None for the default one.
    """

    def __init__(self, *, run: TrackedRun, project: str, entity: str | None) -> None:
        import wandb

        self._wandb = wandb
        self._directory = run.directory

        def start(mode: str) -> wandb.Run:
            return wandb.init(
                project=project,
                entity=entity,
                id=run.run_id,
                name=run.name or run.run_id,
                group=run.group,
                job_type=run.job,
                tags=sorted(f"{axis}:{value}"[:MAX_TAG_LENGTH] for axis, value in run.axes.items()),
                resume="allow",
                reinit="create_new",
                mode=mode,  # type: ignore[arg-type]
                dir=run.directory,
                config={**run.config, "axes": dict(run.axes), "cell": run.cell},
                settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S),
            )

        chosen_mode = mode()
        try:
            self._run = start(chosen_mode)
        except wandb.Error as error:
            if chosen_mode != "online":
                raise
            log.warning("W&B cannot be reached, this process continues offline: %s", error)
            os.environ["WANDB_MODE"] = chosen_mode = "offline"
            self._run = start(chosen_mode)
        self._destination = destination(project, entity)
        self._pending_images: NDArray[np.uint8] | None = None
        self._rows_logged = 0
        self._rows_on_server = self._run.starting_step if chosen_mode == "online" else 0
        if chosen_mode == "offline":
            self._remove_earlier_records(run.run_id)
        for name in X_AXES:
            self._run.define_metric(name)
        self._run.define_metric("*", step_metric="images_seen")
        for name in LOWER_IS_BETTER:
            self._run.define_metric(name, step_metric="images_seen", summary="min")

    def _remove_earlier_records(self, run_id: str) -> None:
        current = Path(self._run.dir).parent.resolve()
        for folder in self._directory.glob(f"wandb/offline-run-*-{run_id}"):
            if folder.resolve() != current:
                shutil.rmtree(folder, ignore_errors=True)

    def log(self, step: int, values: Values) -> None:
        """Log one row, unless the server already has it."""
        self._rows_logged += 1
        if self._rows_logged <= self._rows_on_server:
            return
        row: dict[str, Any] = {"step": step, **values}
        if self._pending_images is not None:
            row["samples"], self._pending_images = self._wandb.Image(self._pending_images), None
        self._run.log(row)

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:  # noqa: ARG002 (the next row has the step)
        """Keep a picture of samples for the next row."""
        self._pending_images = grid

    def files(self, kind: str, paths: Iterable[Path]) -> None:
        """Log files as an artifact; W&B makes a new version of it only if they changed."""
        artifact = self._wandb.Artifact(f"{self._run.id}-{kind}", type=kind)
        for path in paths:
            artifact.add_file(str(path), name=str(path.relative_to(self._directory)))
        self._run.log_artifact(artifact)

    def close(self, status: str, summary: Values) -> None:
        """Write the summary and end the W&B run, with exit code 1 unless the run is done."""
        if self._pending_images is not None:
            self._run.summary["samples"] = self._wandb.Image(self._pending_images)
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=0 if status == "done" else 1)
        closed = {"where": self._destination, "closed": status, "at": time.time()}
        write(_closed_file(self._directory), json.dumps(closed) + "\n")

    def abandon(self) -> None:
        """End the W&B run as it is, so that the next run of this process does not continue it."""
        self._run.finish(exit_code=1)
