"""Weights & Biases as a tracker. No other module imports wandb."""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgan_sweep.common.files import write
from wgan_sweep.common.reading import read_document
from wgan_sweep.errors import InputError, one_line
from wgan_sweep.tracking.tracker import TrackedRun, Values

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

TIMEOUTS_S = {"init_timeout": 30.0, "finish_timeout": 120.0}
"""Seconds that W&B may take to answer before a run continues offline, and to receive the rest of a run's data at its
end. ``WANDB_INIT_TIMEOUT`` and ``WANDB_FINISH_TIMEOUT`` override them."""
PROJECT = "wgan-sweep"
"""The project of runs for which neither the config nor the environment names one."""
MAX_TAG_LENGTH = 64
SECONDS_AT_INTERRUPTION = 20.0
"""How long the mirror of a run that was interrupted may take to end: SLURM kills a job soon after it has asked it to
stop. The next start of the run sends what is missing."""
INTERRUPTED = "running"
"""The status of a run that ends and is to be resumed."""
GOOD_ENDS = ("done", "pruned")
"""The statuses of runs that W&B shows as finished; it shows others as failed."""
FATAL = "ERROR+4"
"""The level of entries in W&B's internal log after which it stops."""
X_AXES = ("step", "images_seen")


def settings() -> "wandb.Settings":
    """Return W&B's settings: those of its files (`wandb login --host`, `wandb offline`), then the environment's.

    Raises:
        InputError: if a variable of the environment has a value that W&B refuses.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # its messages would break the bars of the display
    import wandb

    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    found = wandb.Settings(silent=True, settings_system=str(Path(folder).expanduser() / "settings"))
    found.update_from_system_settings()
    try:
        found.update_from_env_vars(dict(os.environ))
    except (ValueError, wandb.Error) as error:
        raise InputError(f"a WANDB_ variable of the environment is invalid: {one_line(error)}") from error
    return found


def key_is_configured() -> bool:
    """Return whether W&B can log in without asking: by an API key or token, or by an entry of netrc."""
    found = settings()
    if found.api_key or found.identity_token_file:
        return True
    import wandb
    from wandb.sdk.lib import wbauth

    try:
        return wbauth.read_netrc_auth(host=found.base_url) is not None
    except wandb.Error:  # it is not an API key
        return False


def default_entity() -> str:
    """Return the user or team that W&B files runs under by default."""
    import wandb

    return str(wandb.Api().default_entity)


def mode() -> str:
    """Return W&B's mode: the one that is set, but online only where no login prompt would appear."""
    requested: str = settings().mode
    requested = {"dryrun": "offline", "run": "online"}.get(requested, requested)
    return requested if requested in ("offline", "disabled") or key_is_configured() else "offline"


@dataclass(frozen=True)
class Destination:
    """Where runs are mirrored to."""

    mode: str
    server: str
    project: str
    entity: str | None
    """The user or team; None for the default one."""


def destination(project: str | None, entity: str | None, earlier: Destination | None = None) -> Destination:
    """Return where runs are mirrored to.

    Args:
        project: The W&B project; None for the one of the environment, else of the earlier mirror, else `PROJECT`.
        entity: The user or team; None likewise, and for the default one if no other is named.
        earlier: Where the run was mirrored to before.
    """
    found = settings()
    return Destination(
        mode(),
        found.base_url,
        project or found.project or (earlier.project if earlier else PROJECT),
        entity or found.entity or (earlier.entity if earlier else None),
    )


@dataclass(frozen=True)
class Closed:
    """How a mirror was closed."""

    where: Destination
    status: str
    """The status of the run."""
    at: float
    """The time, in seconds since 1970."""


def _closed_file(directory: Path) -> Path:
    return directory / "wandb" / "mirrored.json"


def last_close(directory: Path) -> Closed | None:
    """Return how a run's last mirror was closed, or None if it never was."""
    try:
        values = json.loads(read_document(_closed_file(directory)))
        closed = Closed(Destination(**values["where"]), str(values["status"]), float(values["at"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = [closed.where.mode, closed.where.server, closed.where.project, closed.where.entity or ""]
    return closed if all(isinstance(text, str) for text in texts) else None


class _Background:
    """An action in another thread."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._act, args=(action,), daemon=True)
        self._thread.start()

    def _act(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # raised by the thread that waits
            self._errors.append(error)

    @property
    def goes_on(self) -> bool:
        """Whether the action is not over."""
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for the action for a limited time, and raise its error if it failed.

        Raises:
            TimeoutError: if it takes longer; it goes on.
        """
        self._thread.join(seconds)
        if self.goes_on:
            raise TimeoutError(
                f"W&B has not received all within {seconds:.0f} s; the next start of the run sends the rest"
            )
        if self._errors:
            raise self._errors[0]


class WandbTracker:
    """Mirrors a run to Weights & Biases: online where a key is configured, else offline. It never prompts.

    A row in W&B is a line of ``metrics.jsonl``, however often the run was restarted: whoever starts a tracker first
    replays all lines so far. Online, the rows that the server already has are skipped; offline, the local record of an
    earlier start (which a kill may have left empty) is replaced.

    Args:
        run: The run.
        project: The W&B project; None for the one of ``WANDB_PROJECT``, else `PROJECT`.
        entity: The user or team; None for the one of ``WANDB_ENTITY``, else the default one.
    """

    def __init__(self, *, run: TrackedRun, project: str | None = None, entity: str | None = None) -> None:
        found, where = settings(), destination(project, entity)
        import wandb

        self._wandb = wandb
        self._directory = run.directory
        tags = [f"{axis}:{value}"[:MAX_TAG_LENGTH] for axis, value in run.axes.items()]
        tags = sorted({*tags, *(found.run_tags or ())})
        limits = wandb.Settings(console="off", finish_timeout_raises=True)
        for name, seconds in TIMEOUTS_S.items():
            if f"WANDB_{name.upper()}" not in os.environ:
                setattr(limits, name, seconds)

        def start(mode: str) -> wandb.Run:
            return wandb.init(
                project=where.project,
                entity=where.entity,
                id=run.run_id,
                name=(None if run.group else found.run_name) or run.name or run.run_id,
                group=found.run_group or run.group,
                job_type=run.job,
                tags=() if mode == "online" else tags,  # online, a resumed run would lose those that users gave it
                resume="allow",
                reinit="create_new",
                mode=mode,  # type: ignore[arg-type]
                dir=os.environ.get("WANDB_DIR") or run.directory,
                config={**run.config, "axes": dict(run.axes), "cell": run.cell},
                settings=limits,
            )

        try:
            self._run = start(where.mode)
        except wandb.Error as error:
            if where.mode != "online":
                raise
            log.warning("W&B cannot be used online, this process continues offline: %s", one_line(error))
            os.environ["WANDB_MODE"] = "offline"
            wandb.teardown()  # W&B still holds the id of the run
            where = replace(where, mode="offline")
            self._run = start(where.mode)
        self.where = where
        """Where the run is mirrored to."""
        self._pending_images: NDArray[np.uint8] | None = None
        self._ending: _Background | None = None
        """The end of the W&B run in another thread, if the run was interrupted."""
        self._rows_logged = 0
        self._rows_on_server = self._run.starting_step if where.mode == "online" else 0
        if where.mode == "online":
            self._run.tags = tuple(sorted({*(self._run.tags or ()), *tags}))
        elif where.mode == "offline":
            self._remove_earlier_records(run.run_id)
        for name in X_AXES:
            self._run.define_metric(name)
        self._run.define_metric("*", step_metric="images_seen")
        for name, best in run.best.items():
            self._run.define_metric(name, step_metric="images_seen", summary=best)

    def _remove_earlier_records(self, run_id: str) -> None:
        """Remove the offline records of earlier starts; those in the run's directory, too, if `WANDB_DIR` is new."""
        current = Path(self._run.dir).parent.resolve()
        for folder in {current.parent, (self._directory / "wandb").resolve()}:
            for name in (f"offline-run-*-{run_id}", f"offline-run-*-{run_id}-[0-9]*"):
                for record in folder.glob(name):
                    if record != current:
                        shutil.rmtree(record, ignore_errors=True)

    def log(self, step: int, values: Values) -> None:
        """Log one row, unless the server already has it."""
        self._rows_logged += 1
        images, self._pending_images = self._pending_images, None
        if self._rows_logged <= self._rows_on_server:
            return
        row: dict[str, Any] = {"step": step, **values}
        if images is not None:
            row["samples"] = self._wandb.Image(images)
        self._run.log(row)

    def images(self, step: int, grid: NDArray[np.uint8]) -> None:  # noqa: ARG002 (the next row has the step)
        """Keep a picture of samples for the next row."""
        self._pending_images = grid

    def files(self, kind: str, names: Iterable[str]) -> None:
        """Log files as an artifact; W&B makes a new version of it only if they changed."""
        artifact = self._wandb.Artifact(f"{self._run.id}-{kind}", type=kind)
        for name in names:
            artifact.add_file(str(self._directory / name), name=name)
        self._run.log_artifact(artifact)

    def close(self, status: str, summary: Values) -> None:
        """Write the summary and end the W&B run, with exit code 1 unless the run is done or pruned.

        An interrupted run, which is to be resumed, gets `SECONDS_AT_INTERRUPTION` for that.

        Raises:
            TimeoutError: if W&B does not receive the rest of the data in time.
            ConnectionError: if it refused data.
        """
        if self._pending_images is not None:
            self._run.summary["samples"] = self._wandb.Image(self._pending_images)
        self._run.summary.update({"status": status, **summary})

        def finish() -> None:
            self._run.finish(exit_code=0 if status in GOOD_ENDS else 1)

        if status == INTERRUPTED:
            self._ending = _Background(finish)
            self._ending.wait(SECONDS_AT_INTERRUPTION)
        else:
            finish()
        if self.where.mode == "online" and (error := self._fatal_error()):
            raise ConnectionError(error)
        closed = Closed(self.where, status, time.time())
        write(_closed_file(self._directory), json.dumps(asdict(closed)) + "\n")

    def _fatal_error(self) -> str | None:
        """Return the error after which W&B sent no more of the run's data, if there was one: it only logs it."""
        with Path(self._run.settings.log_internal).open() as lines:
            for line in lines:
                with suppress(ValueError):
                    entry = json.loads(line)
                    if entry.get("level") == FATAL:
                        return str(entry.get("msg"))
        return None

    def abandon(self) -> None:
        """End the W&B run as it is, so that the next run of this process does not continue it."""
        if self._ending is not None and self._ending.goes_on:
            return
        self._run.finish(exit_code=1)
