"""The SLURM jobs of runs: which job has which run, which jobs are not over, and cancelling them."""

import json
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from wgan_sweep.common.files import write
from wgan_sweep.common.ranges import check_value
from wgan_sweep.common.reading import UnreadableError, read_document
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record
from wgan_sweep.runs.selection import StoredRun

# fmt: off
TERMINAL_STATES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
)
# fmt: on
"""States of a job that is over. In any other state it is running, or will run."""
NO_ANSWER = "run this on a login node of a SLURM cluster whose controller is up"


@dataclass(frozen=True)
class Submission:
    """A run that was submitted, as stored in ``.slurm/RUN_ID.json`` below the folder of runs."""

    job: str
    """The SLURM job id: ``123`` or, in an array, ``123_4``."""
    log: str
    """Path of the job's log."""
    steps: int
    """The number of steps that the run was requested to train to."""
    overrides: list[str] = field(default_factory=list)
    """The command-line overrides of the run, which has no record before its job starts."""
    config: dict[str, Any] = field(default_factory=dict)
    """The run's resolved config."""
    science: dict[str, Any] = field(default_factory=dict)
    """The science values of the run's identity."""
    ended_before: str | None = None
    """When the run had last ended before it was submitted."""

    @classmethod
    def read(cls, folder: Path, run_id: str) -> "Submission | None":
        """Return the submission of a run, or None if there is none, or what is there is damaged.

        Args:
            folder: The folder ``.slurm``.
            run_id: The run's id.

        Raises:
            UnreadableError: if it cannot be read now; the run may have a job.
        """
        try:
            values = json.loads(read_document(folder / f"{run_id}.json"))
            submission = cls(**values)
            for name, hint in get_type_hints(cls).items():
                check_value(getattr(submission, name), hint, name)
        except UnreadableError:
            raise
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return submission if re.fullmatch(r"\d+(_\d+)?", submission.job) else None

    def write(self, folder: Path, run_id: str) -> None:
        """Write the submission of a run to the folder ``.slurm``."""
        write(folder / f"{run_id}.json", json.dumps(asdict(self)) + "\n")


def query(*command: str) -> str | None:
    """Return the output of a SLURM command, or None if SLURM does not answer.

    Ctrl-C in the terminal does not reach the command: it runs in a process group of its own.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=60, process_group=0
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def active_states(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return the state of each of these jobs that is not over, or None if the controller does not answer."""
    ids = set(jobs)
    output = query("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T")
    if output is None:
        return None
    pairs = (line.strip().split("|") for line in output.splitlines() if "|" in line)
    return {job: state for job, state in pairs if job in ids and state not in TERMINAL_STATES}


@dataclass(frozen=True)
class ActiveRun:
    """A run whose job is waiting or running."""

    submission: Submission
    stored: StoredRun
    """The run, with the state of its job as its status."""


def active_runs(runs: Path) -> list[ActiveRun]:
    """Return the runs in a folder whose jobs are waiting or running.

    Raises:
        InputError: if SLURM does not answer.
    """
    folder = runs / ".slurm"
    stored = {path.stem: Submission.read(folder, path.stem) for path in sorted(folder.glob("[!.]*.json"))}
    submissions = {run_id: submission for run_id, submission in stored.items() if submission is not None}
    active = active_states(submission.job for submission in submissions.values())
    if active is None:
        raise InputError(f"squeue does not answer: {NO_ANSWER}")
    return [
        ActiveRun(submission, _stored_run(RunDir(runs / run_id), submission, active[submission.job].lower()))
        for run_id, submission in submissions.items()
        if submission.job in active
    ]


def _stored_run(directory: RunDir, submission: Submission, state: str) -> StoredRun:
    """Return a run with the state of its job; before the job starts, its record is made from the submission."""
    record = None
    with suppress(InputError):
        record = directory.read_record()
    if record is None:
        values = {
            name: value for name, value in asdict(submission).items() if name in ("overrides", "config", "science")
        }
        record = Record(directory.path.name)
        with suppress(TypeError, ValueError, KeyError, AttributeError):
            record = Record.from_json(
                {**values, "run_id": record.run_id, "status": record.status, "format": record.format}
            )
    return StoredRun(record, directory, state)


def jobs_of(cancelled: Sequence[ActiveRun], active: Sequence[ActiveRun]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the jobs that have only runs to be cancelled, and those that have others, too.

    Args:
        cancelled: The runs to be cancelled.
        active: All runs whose jobs are waiting or running.

    Returns:
        The ids of the jobs; and the ids of the other runs of jobs that have some, by the job's id.
    """
    ids = {run.stored.run_id for run in cancelled}
    others: dict[str, list[str]] = {}
    for run in active:
        if run.stored.run_id not in ids:
            others.setdefault(run.submission.job, []).append(run.stored.run_id)
    jobs = dict.fromkeys(run.submission.job for run in cancelled)
    return [job for job in jobs if job not in others], {job: others[job] for job in jobs if job in others}


def cancel_jobs(jobs: Collection[str]) -> None:
    """Cancel jobs. SLURM sends them SIGTERM: their runs save a checkpoint and end.

    Raises:
        InputError: if SLURM refuses.
    """
    if query("scancel", *jobs) is None:
        raise InputError(f"scancel {' '.join(jobs)} failed, so some jobs may go on: {NO_ANSWER}, then try it again")
