"""Runs on a SLURM cluster: one job array of those that are missing; whoever waits for it may leave and come back."""

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from wgan_sweep.common.files import write
from wgan_sweep.common.processes import cores_here
from wgan_sweep.common.progress import Display
from wgan_sweep.errors import InputError
from wgan_sweep.runs import provenance
from wgan_sweep.runs.directory import Status
from wgan_sweep.runs.driver import directory_of, is_finished, summary
from wgan_sweep.sweeps.local import Cell, Local, Outcome, Stop, log_to_display, mark_failed
from wgan_sweep.sweeps.parallel import Parallel

SECONDS_BETWEEN_LOOKS = 2.0
LOOKS_FOR_AN_ENDING = 15
"""How often accounting, which trails, is asked how a job has ended."""
# fmt: off
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
)
# fmt: on
"""States of a job that is over; in any other it goes on, or will."""


class RunFailedError(Exception):
    """A run of a job failed; the message holds its error."""


@dataclass
class Task:
    """What a job does: the runs that were submitted, as they were resolved then."""

    cells: list[Cell]
    code: str
    """The digest of the package when it was submitted."""
    side_by_side: int
    gpus_per_run: int
    allow_other_code: bool

    def __call__(self) -> None:
        """Do the runs; on USR2 (pre-emption, time-out) save at the next step, then let submitit requeue the job.

        Raises:
            RunFailedError: if a run failed, or the code is not what was submitted: the job is then FAILED.
        """
        if provenance.code() != self.code and not self.allow_other_code:
            raise RunFailedError(
                f"the installed wgan_sweep is {provenance.code()}, but {self.code} was submitted: submit again, or "
                "allow it with launch.allow_other_code=true"
            )
        torch.set_num_threads(cores_here())
        stopping = False

        def stop(*_: object) -> None:
            nonlocal stopping
            stopping = True

        requeue = signal.signal(signal.SIGUSR2, stop)  # submitit's, which would leave at once
        display = Display()
        log_to_display(display)
        launch: Local | Parallel = Local(self.gpus_per_run)
        if self.side_by_side > 1:
            launch = Parallel(per_gpu=self.side_by_side, jobs=self.side_by_side, gpus_per_run=self.gpus_per_run)
        outcomes = launch(self.cells, display, lambda: stopping)
        problems = [one.problem for one in outcomes if one.problem]
        ended = [one.record for one in outcomes if one.record is not None]
        if stopping and len(ended) + len(problems) < len(self.cells):
            display.line("saved; asking SLURM for another turn")
            if callable(requeue):
                requeue(signal.SIGUSR2, None)
        failed = [record.error or "" for record in ended if record.status == Status.FAILED]
        if failed or problems:
            raise RunFailedError("\n".join([*failed, *problems]))

    def checkpoint(self) -> Any:
        """Return what a requeued job does: the same, from where the runs' directories are."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Submission:
    """Where a run was submitted to."""

    job: str
    """As SLURM names it: ``123`` or ``123_4``."""
    log: str
    steps: int
    """What it was asked to train to."""


class Slurm:
    """One job array of the runs that are missing, by submitit.

    Args:
        partition, account, qos, constraint: As SLURM knows them.
        gpus_per_node: GPUs of a job; 0 or null for none.
        cpus_per_task: Cores of a job.
        mem_gb: Memory of a job.
        timeout_min: Minutes of a job; a run that needs more goes on in the next turn, up to `max_num_timeout` turns.
        array_parallelism: Jobs at once.
        setup: Shell lines before a job's command.
        signal_delay_s: Seconds between the warning that time is up and its end.
        max_num_timeout: Turns.
        additional_parameters: Any of sbatch's options.
        runs_per_job: Runs in one job.
        gpus_per_run: Processes that share each batch of a run, each on a GPU of the job (or on its cores, where it has
            none).
        side_by_side: How many of them at once (on each GPU, where there is any); the others one after another.
        wait: Whether to wait for the runs; else the jobs are left to themselves.
        allow_other_code: Whether a job may start with other code than was submitted.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        gpus_per_node: int | None = 1,
        cpus_per_task: int = 8,
        mem_gb: float | None = 32,
        timeout_min: int = 1440,
        array_parallelism: int = 256,
        setup: Sequence[str] = (),
        signal_delay_s: int = 120,
        max_num_timeout: int = 100,
        additional_parameters: Mapping[str, Any] | None = None,
        runs_per_job: int = 1,
        gpus_per_run: int = 1,
        side_by_side: int = 1,
        wait: bool = True,
        allow_other_code: bool = False,
    ) -> None:
        at_least_one = {"timeout_min": timeout_min, "runs_per_job": runs_per_job, "side_by_side": side_by_side}
        at_least_one |= {"array_parallelism": array_parallelism, "cpus_per_task": cpus_per_task}
        for name, value in at_least_one.items():
            if value < 1:
                raise InputError(f"launch.{name} must be 1 or more, got {value}")
        if signal_delay_s >= timeout_min * 60:
            raise InputError(
                f"launch.signal_delay_s must be less than launch.timeout_min={timeout_min} says, got {signal_delay_s}"
            )
        if gpus_per_node and gpus_per_node < gpus_per_run:
            raise InputError(
                f"launch.gpus_per_run={gpus_per_run} needs launch.gpus_per_node to be as many, got {gpus_per_node}"
            )
        self.device = torch.device("cuda" if gpus_per_node else "cpu")
        """Where the runs will compute, which the machine that submits them need not have."""
        asked = {
            "name": "wgan-sweep",
            "timeout_min": timeout_min,
            "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus_per_node or None,
            "mem_gb": mem_gb,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_array_parallelism": array_parallelism,
            "slurm_setup": list(setup) or None,
            "slurm_signal_delay_s": signal_delay_s,
            "slurm_additional_parameters": dict(additional_parameters or {}) or None,
        }
        self._parameters = {name: value for name, value in asked.items() if value is not None}
        self._max_num_timeout = max_num_timeout
        self._runs_per_job, self._side_by_side, self._gpus_per_run = runs_per_job, side_by_side, gpus_per_run
        self._wait, self._allow_other_code = wait, allow_other_code

    def __call__(self, cells: Sequence[Cell], display: Display, stop: Stop) -> list[Outcome]:
        """Submit what is missing and not submitted yet; wait for all, or leave."""
        missing = {
            cell.run: cell for cell in cells if not is_finished(directory_of(cell.config).read_record(), cell.config)
        }
        submitted = self._submit(list(missing.values()), display) if missing else {}
        if submitted:
            jobs = sorted({one.job.split("_")[0] for one in submitted.values()}, key=int)
            display.line(
                f"{len(submitted)} runs are with SLURM, in job {' '.join(jobs)}; to cancel: scancel {' '.join(jobs)}"
            )
        if self._wait and not stop():
            self._watch(submitted, missing, display, stop)
        going_on = _going_on(one.job for one in submitted.values())
        left = {run for run, one in submitted.items() if going_on is None or one.job in going_on}
        if left:
            display.line(
                f"{len(left)} runs go on without this command: the same command waits for them again, and "
                f"`wgan-report {shlex.quote(cells[0].config.runs)} --watch` shows them"
            )
        endings = _endings({one.job for run, one in submitted.items() if run not in left})
        return [self._outcome(cell, submitted.get(cell.run), cell.run in left, endings) for cell in cells]

    def _submit(self, missing: list[Cell], display: Display) -> dict[str, Submission]:
        """Submit the runs that no job has; return the jobs of all."""
        folder = Path(missing[0].config.runs) / ".slurm"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "submitting.lock"):  # of two shells, the second finds what the first has submitted
            known = {cell.run: _read(folder, cell.run) for cell in missing}
            states = _going_on(one.job for one in known.values() if one is not None)
            if states is None:
                raise InputError("squeue does not answer: is this a SLURM cluster's login node, and its controller up?")
            found = {run: one for run, one in known.items() if one is not None and one.job in states}
            for cell in missing:
                if cell.run in found and found[cell.run].steps < cell.config.train.steps:
                    display.line(
                        f"{cell.label}: job {found[cell.run].job} trains it to step {found[cell.run].steps} only; ask "
                        f"again for {cell.config.train.steps} when that is done"
                    )
            new = [cell for cell in missing if cell.run not in found]
            if found:
                display.line(f"{len(found)} runs were submitted before: waiting for them")
            for cell, one in self._send(new, folder / "jobs"):
                write(folder / f"{cell.run}.json", json.dumps(vars(one)) + "\n")
                found[cell.run] = one
        return found

    def _send(self, cells: list[Cell], folder: Path) -> list[tuple[Cell, Submission]]:
        if not cells:
            return []
        import submitit

        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self._max_num_timeout)
        executor.update_parameters(**self._parameters)
        packs = [cells[start : start + self._runs_per_job] for start in range(0, len(cells), self._runs_per_job)]
        code = provenance.code()
        try:
            with executor.batch():
                jobs = [executor.submit(self._task(pack, code)) for pack in packs]
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"SLURM takes no such job; see the keys of launch: {error}") from error
        return [
            (cell, Submission(job.job_id, str(job.paths.stderr), cell.config.train.steps))
            for pack, job in zip(packs, jobs, strict=True)
            for cell in pack
        ]

    def _task(self, cells: list[Cell], code: str) -> Task:
        return Task(cells, code, self._side_by_side, self._gpus_per_run, self._allow_other_code)

    def _watch(
        self, submitted: Mapping[str, Submission], missing: Mapping[str, Cell], display: Display, stop: Stop
    ) -> None:
        """Show the runs until no job of theirs goes on."""
        shown: dict[str, str] = {}
        bars: dict[str, Any] = {}
        while not stop():
            states = _going_on(one.job for one in submitted.values())
            for run, one in submitted.items():
                record = directory_of(missing[run].config).read_record()
                state = (states or {}).get(one.job, "ENDED" if states is not None else shown.get(run, ""))
                if state == "RUNNING" and run not in bars:
                    bars[run] = display.add(missing[run].label, missing[run].config.train.steps)
                if run in bars and record is not None:
                    last = directory_of(missing[run].config).last_metrics()
                    display.move(bars[run], int(last.get("step", record.step)), state.lower())
                if shown.get(run) != state:
                    shown[run] = state
                    how = f": {summary(record)}" if state == "ENDED" and record is not None else ""
                    if state != "PENDING":
                        display.line(f"{run} {missing[run].label}  job {one.job} {state.lower()}{how}")
                if state == "ENDED" and run in bars:
                    display.remove(bars.pop(run), over=True)
            if states is not None and not states:
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _outcome(self, cell: Cell, submission: Submission | None, goes_on: bool, endings: Mapping[str, str]) -> Outcome:
        record = directory_of(cell.config).read_record()
        if goes_on:
            return Outcome(record, goes_on=True)
        if submission is None or is_finished(record, cell.config) or (record and record.status == Status.FAILED):
            return Outcome(record)
        reason = f"job {submission.job} ended as {endings.get(submission.job, UNKNOWN)}; see {submission.log}"
        return mark_failed(cell, reason)


def _read(folder: Path, run: str) -> Submission | None:
    try:
        return Submission(**json.loads((folder / f"{run}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _ask(*command: str) -> str | None:
    """Return what a command of SLURM's says, or None where it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _going_on(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return the state of each of these jobs that is not over; None where the controller does not answer."""
    wanted = set(jobs)
    said = _ask("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T")
    if said is None:
        return None
    pairs = (line.strip().split("|") for line in said.splitlines() if "|" in line)
    return {job: state for job, state in pairs if job in wanted and state not in ENDED}


UNKNOWN = "unknown (accounting does not say)"


def _endings(jobs: Collection[str]) -> dict[str, str]:
    """Return how accounting, which trails, says that jobs have ended."""
    found: dict[str, str] = {}
    for _ in range(LOOKS_FOR_AN_ENDING if jobs else 0):
        listed = ",".join(sorted(jobs))
        said = _ask("sacct", "-X", "--noheader", "--parsable2", f"--jobs={listed}", "--format=JobID,State,ExitCode")
        for line in (said or "").splitlines():
            job, state, code = line.split("|")
            if job in jobs and state.split(" ")[0] in ENDED:
                found[job] = f"{state} {code}"
        if found.keys() >= set(jobs):
            break
        time.sleep(1)
    return found
