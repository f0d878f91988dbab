"""The launcher `slurm`: submits the missing runs to a SLURM cluster as one job array, and waits for them.

The waiting process may be interrupted: the same command finds the submitted jobs and waits for them again.
"""

import shlex
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from wgan_sweep.common.progress import Display
from wgan_sweep.config import folders
from wgan_sweep.errors import InputError
from wgan_sweep.runs import provenance
from wgan_sweep.runs.life import summary
from wgan_sweep.runs.lock import HEARTBEATS_PER_LIFETIME, LIFETIME_SECONDS, watch
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.state import is_finished
from wgan_sweep.sweeps.launching import (
    AtLeastOne,
    Launcher,
    Outcome,
    RequestedRun,
    ShouldStop,
    labelled,
    last_end,
    log_to_display,
    readable_record,
    record_failure,
)
from wgan_sweep.sweeps.local import Local
from wgan_sweep.sweeps.parallel import Parallel
from wgan_sweep.sweeps.slurm_jobs import NO_ANSWER, TERMINAL_STATES, Submission, active_states, query

SECONDS_BETWEEN_QUERIES = 2.0
SECONDS_UNTIL_GONE = LIFETIME_SECONDS * (1 + 1 / HEARTBEATS_PER_LIFETIME)
"""After so long without a heartbeat since its job was over, a process is certainly known to be gone."""
SECONDS_UNTIL_KILLED = 600.0
"""How long a job that got SIGTERM waits for what SLURM sends next, which may take the GraceTime of its partition."""
ACCOUNTING_ATTEMPTS = 15
"""Number of `sacct` queries, one per second, for how a job ended: accounting lags behind the controller."""


class JobFailedError(Exception):
    """A job failed: one of its runs did, or it could not train them. The message says why."""


@dataclass
class Task:
    """The work of a job: the requested runs, with their configs as they were resolved at submission."""

    requested: list[RequestedRun]
    code: str
    """The digest of the package at submission."""
    side_by_side: int
    gpus_per_run: int
    allow_other_code: bool
    folders: tuple[str, ...] = ()
    """The folders of options and modules that the command named."""

    def __call__(self) -> None:
        """Complete the runs. On SIGUSR2 (pre-emption, time limit) save at the next step; submitit requeues the job.

        SLURM sends SIGTERM some seconds before SIGKILL, when it cancels, pre-empts or times out a job: the runs are
        saved, and the job waits for SIGKILL, after which SLURM's record says how it ended, or for SIGUSR2.

        Raises:
            JobFailedError: if a run failed, the code has changed since submission, a folder of the command is missing,
                or nothing follows SIGTERM. The job then ends as FAILED.
        """
        if provenance.code() != self.code and not self.allow_other_code:
            raise JobFailedError(
                f"the installed wgan_sweep is {provenance.code()}, but {self.code} was submitted: submit again, or "
                "allow it with launch.allow_other_code=true"
            )
        try:
            for folder in self.folders:
                folders.use(folder)
        except InputError as error:
            raise JobFailedError(str(error)) from error
        received: set[int] = set()

        def request_stop(number: int, _: object) -> None:
            received.add(number)

        requeue = signal.signal(signal.SIGUSR2, request_stop)  # submitit's handler, which would end the job at once
        signal.signal(signal.SIGTERM, request_stop)
        display = Display()
        log_to_display(display)
        launcher: Launcher = Local()
        if self.side_by_side > 1 or torch.cuda.device_count() > self.gpus_per_run:
            launcher = Parallel(per_gpu=self.side_by_side, jobs=self.side_by_side, gpus_per_run=self.gpus_per_run)
        outcomes = launcher(self.requested, display, lambda: bool(received))
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        records = [outcome.record for outcome in outcomes if outcome.record is not None]
        if received and len(records) + len(problems) < len(self.requested):
            if signal.SIGUSR2 not in received:
                display.line("saved; waiting for SLURM to end or requeue the job")
            deadline = time.monotonic() + SECONDS_UNTIL_KILLED
            while signal.SIGUSR2 not in received:
                if time.monotonic() > deadline:
                    raise JobFailedError("SIGTERM ended the job; its runs are saved and can be resumed")
                time.sleep(0.1)
            display.line("saved; asking SLURM to requeue the job")
            if callable(requeue):
                requeue(signal.SIGUSR2, None)
        errors = [record.error or "" for record in records if record.status == Status.FAILED]
        if errors or problems:
            raise JobFailedError("\n".join([*errors, *problems]))

    def checkpoint(self) -> Any:
        """Return what a requeued job does: the same task, which resumes the runs from their directories."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm:
    """Submits the missing runs as one job array, with submitit, and waits for them.

    Args:
        partition, account, qos, constraint: Options of sbatch.
        gpus_per_node: GPUs of a job; 0 or None for none.
        cpus_per_task: CPU cores of a job.
        mem_gb: Memory of a job in GB.
        timeout_min: Time limit of a job in minutes. A run that needs longer is requeued and resumes, at most
            `max_num_timeout` times.
        array_parallelism: Concurrent jobs.
        setup: Shell commands that run before a job's command.
        signal_delay_s: Seconds between the warning signal and the time limit.
        max_num_timeout: How often a job is requeued at most.
        additional_parameters: Any other options of sbatch.
        runs_per_job: Runs of one job.
        gpus_per_run: Number of processes that share each batch of a run, each on a separate GPU (or all on the job's
            CPU cores, if it has no GPU).
        side_by_side: Concurrent runs within a job (on each of its GPUs, if it has any).
        wait: Whether to wait for the runs. Otherwise the command submits them and exits.
        allow_other_code: Whether a job may start although the code has changed since submission.

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
        cpus_per_task: AtLeastOne = 8,
        mem_gb: float | None = 32,
        timeout_min: AtLeastOne = 1440,
        array_parallelism: AtLeastOne = 256,
        setup: Sequence[str] = (),
        signal_delay_s: int = 120,
        max_num_timeout: int = 100,
        additional_parameters: Mapping[str, Any] | None = None,
        runs_per_job: AtLeastOne = 1,
        gpus_per_run: AtLeastOne = 1,
        side_by_side: AtLeastOne = 1,
        wait: bool = True,
        allow_other_code: bool = False,
    ) -> None:
        if signal_delay_s >= timeout_min * 60:
            raise InputError(
                f"launch.signal_delay_s must be less than the {timeout_min * 60} seconds of "
                f"launch.timeout_min={timeout_min}, got {signal_delay_s}"
            )
        if gpus_per_node and gpus_per_node < gpus_per_run:
            raise InputError(
                f"launch.gpus_per_run={gpus_per_run} needs launch.gpus_per_node={gpus_per_run} or more, "
                f"got {gpus_per_node}"
            )
        if (groups := (gpus_per_node or 0) // gpus_per_run) > runs_per_job:
            raise InputError(
                f"launch.gpus_per_node={gpus_per_node} is enough for {groups} runs at once, and a job has "
                f"launch.runs_per_job={runs_per_job}: set launch.runs_per_job={groups} or more, or take fewer GPUs"
            )
        self.device = torch.device("cuda" if gpus_per_node else "cpu")
        """Where the runs will compute; the machine that submits them need not have it."""
        parameters = {
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
        self._parameters = {name: value for name, value in parameters.items() if value is not None}
        self._max_num_timeout = max_num_timeout
        self._runs_per_job, self._side_by_side, self._gpus_per_run = runs_per_job, side_by_side, gpus_per_run
        self._wait, self._allow_other_code = wait, allow_other_code

    def __call__(self, requested: Sequence[RequestedRun], display: Display, should_stop: ShouldStop) -> list[Outcome]:
        """Submit the runs that are missing and not yet submitted; wait for all of them if `wait` is set.

        If no run is missing, SLURM is not queried, and need not be there.

        Raises:
            InputError: if runs are missing and SLURM does not answer, or rejects the job.
        """
        missing = {run.run_id: run for run in requested if not is_finished(run.directory.read_record(), run.config)}
        if not missing:
            return [Outcome(run.directory.read_record()) for run in requested]
        submissions = self._submit_missing(list(missing.values()), display, should_stop)
        if submissions:
            arrays = sorted({submission.job.split("_")[0] for submission in submissions.values()}, key=int)
            display.line(
                f"{len(submissions)} runs are submitted to SLURM in job {' '.join(arrays)}; "
                f"to cancel: scancel {' '.join(arrays)}"
            )
        if self._wait and not should_stop():
            self._wait_for(submissions, missing, display, should_stop)
        active = active_states(submission.job for submission in submissions.values())
        continuing = {run_id for run_id, sub in submissions.items() if active is None or sub.job in active}
        if continuing:
            display.line(
                f"{len(continuing)} runs continue without this command: run it again to wait for them, or "
                f"`wgan-report {shlex.quote(requested[0].config.runs)} --watch` to follow them"
            )
        over = submissions.keys() - continuing
        endings = _endings({submissions[run_id].job for run_id in over})
        watch(missing[run_id].directory.lock for run_id in over)  # see `_outcome`
        until = time.monotonic() + SECONDS_UNTIL_GONE

        def waits() -> bool:
            return self._wait and not should_stop() and time.monotonic() < until

        outcomes = [
            _outcome(run, submissions.get(run.run_id), run.run_id in continuing, endings, waits) for run in requested
        ]
        for run, outcome in zip(requested, outcomes, strict=True):
            if run.run_id in over and outcome.record is not None:
                _report_rest(run, outcome.record, display)
        return outcomes

    def _submit_missing(
        self, missing: list[RequestedRun], display: Display, should_stop: ShouldStop
    ) -> dict[str, Submission]:
        """Submit those of the missing runs that no active job has; return the submissions of all, by run id.

        After a request to stop, no run is submitted.
        """
        folder = Path(missing[0].config.runs) / ".slurm"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "submitting.lock"):  # a second command then finds what the first has submitted
            stored = {run.run_id: Submission.read(folder, run.run_id) for run in missing}
            active = active_states(submission.job for submission in stored.values() if submission is not None)
            if active is None:
                raise InputError(f"squeue does not answer: {NO_ANSWER}")
            submissions = {run_id: sub for run_id, sub in stored.items() if sub is not None and sub.job in active}
            for run in missing:
                earlier = submissions.get(run.run_id)
                if earlier is not None and earlier.steps < run.config.train.steps:
                    labelled(display, run).line(
                        f"{run.title}: job {earlier.job} trains it only to step {earlier.steps}; when it is done, run "
                        f"this command again to train to step {run.config.train.steps}"
                    )
            if submissions:
                display.line(f"{len(submissions)} runs were submitted before: waiting for them")
            new = [] if should_stop() else [run for run in missing if run.run_id not in submissions]
            for run, submission in self._submit(new, folder / "jobs"):
                try:
                    submission.write(folder, run.run_id)
                except OSError as error:
                    array = submission.job.split("_")[0]
                    raise InputError(
                        f"job {array} is submitted, but {folder} does not have the jobs of all its runs "
                        f"({error.strerror}), and another command would submit them again: cancel it by "
                        f"`scancel {array}`, and run this command again when {folder} can be written to"
                    ) from error
                submissions[run.run_id] = submission
        return submissions

    def _submit(self, runs: list[RequestedRun], folder: Path) -> list[tuple[RequestedRun, Submission]]:
        if not runs:
            return []
        import submitit

        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self._max_num_timeout)
        executor.update_parameters(**self._parameters)
        # Ctrl-C in the terminal must not end sbatch after SLURM has accepted the job and before its id is known.
        executor._executor._make_submission_command = _submission_command  # type: ignore[attr-defined]
        batches = [runs[start : start + self._runs_per_job] for start in range(0, len(runs), self._runs_per_job)]
        code = provenance.code()
        try:
            with executor.batch():
                jobs = [executor.submit(self._task(batch, code)) for batch in batches]
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"SLURM rejected the job, check the keys of launch: {error}") from error
        return [
            (
                run,
                Submission(
                    job.job_id,
                    str(job.paths.stderr),
                    run.config.train.steps,
                    list(run.overrides),
                    asdict(run.config),
                    dict(run.identity.science),
                    last_end(run),
                ),
            )
            for batch, job in zip(batches, jobs, strict=True)
            for run in batch
        ]

    def _task(self, runs: list[RequestedRun], code: str) -> Task:
        return Task(runs, code, self._side_by_side, self._gpus_per_run, self._allow_other_code, folders=folders.named())

    def _wait_for(
        self,
        submissions: Mapping[str, Submission],
        runs: Mapping[str, RequestedRun],
        display: Display,
        should_stop: ShouldStop,
    ) -> None:
        """Show the progress of the runs until all their jobs are over."""
        shown: dict[str, str] = {}
        bars: dict[str, Any] = {}
        while not should_stop():
            active = active_states(submission.job for submission in submissions.values())
            for run_id, submission in submissions.items():
                run = runs[run_id]
                directory = run.directory
                record = readable_record(run)
                state = active.get(submission.job, "ENDED") if active is not None else shown.get(run_id, "")
                if state == "ENDED" and (record is None or record.status == Status.RUNNING):
                    watch([directory.lock])  # see `_outcome`
                if state == "RUNNING" and run_id not in bars:
                    bars[run_id] = labelled(display, run).add_bar(run.title, run.config.train.steps)
                if run_id in bars and record is not None:
                    step = directory.last_metrics().get("step", record.step)
                    display.update_bar(bars[run_id], int(step), state.lower())
                if shown.get(run_id) != state:
                    shown[run_id] = state
                    result = f": {summary(record)}" if state == "ENDED" and record is not None else ""
                    if state != "PENDING":
                        name = f"{run_id} {run.label}".strip()
                        labelled(display, run).line(f"{name}  job {submission.job} {state.lower()}{result}")
                if state == "ENDED" and run_id in bars:
                    display.remove_bar(bars.pop(run_id), completed=True)
            if active is not None and not active:
                return
            time.sleep(SECONDS_BETWEEN_QUERIES)


def _outcome(
    run: RequestedRun,
    submission: Submission | None,
    continues: bool,
    endings: Mapping[str, str],
    waits: Callable[[], bool],
) -> Outcome:
    """Return how the job of a run has left it.

    Args:
        run: The run.
        submission: Its submission; None if it was not submitted.
        continues: Whether its job is not over.
        endings: How jobs ended, as of `_endings`.
        waits: Whether to wait until the process of a job that was killed on another node is known to be gone.
    """
    try:
        record = run.directory.read_record()
    except InputError as error:
        return Outcome(problem=f"failed: {run.name}: {error}", continues=continues)
    if continues:
        return Outcome(record, continues=True)
    if submission is None or is_finished(record, run.config):
        return Outcome(record)
    ending = endings.get(submission.job, UNKNOWN_ENDING)
    if record is not None and record.status not in (Status.NEW, Status.RUNNING):
        # An end of an earlier job is the outcome only if this job found nothing more to do.
        is_earlier = record.finished is not None and record.finished == submission.ended_before
        if not is_earlier or (ending.startswith("COMPLETED") and record.status != Status.FAILED):
            return Outcome(record)
    reason = f"job {submission.job} ended as {ending}; see {submission.log}"
    return record_failure(run, reason, submission.ended_before, waits)


def _report_rest(run: RequestedRun, record: Record, display: Display) -> None:
    """Say so if a run was requested to do more than its job, which an earlier command has submitted."""
    if record.status in (Status.DONE, Status.PRUNED) and not is_finished(record, run.config):
        labelled(display, run).line(
            f"{run.title}: {record.status} at step {record.step}, and more was requested: run this command again"
        )


def _submission_command(script: Path) -> list[str]:
    """Return the command that submits a script, in a session of its own."""
    return ["setsid", "sbatch", str(script)]


UNKNOWN_ENDING = "unknown (not in the accounting database)"


def _endings(jobs: Collection[str]) -> dict[str, str]:
    """Return the final state and exit code of each job, as far as the accounting database has them."""
    endings: dict[str, str] = {}
    for _ in range(ACCOUNTING_ATTEMPTS if jobs else 0):
        ids = ",".join(sorted(jobs))
        output = query("sacct", "-X", "--noheader", "--parsable2", f"--jobs={ids}", "--format=JobID,State,ExitCode")
        for line in (output or "").splitlines():
            job, state, code = line.split("|")
            if job in jobs and state.split(" ")[0] in TERMINAL_STATES:
                endings[job] = f"{state} {code}"
        if endings.keys() >= set(jobs):
            break
        time.sleep(1)
    return endings
