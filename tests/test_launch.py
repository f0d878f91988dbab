"""The launchers `local` and `parallel`: resources of the workers, killed workers, Ctrl-C, full disks."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from wgan_sweep.common import gpu_memory
from wgan_sweep.common.processes import ChildProcess
from wgan_sweep.common.progress import Display
from wgan_sweep.common.reading import UnreadableError
from wgan_sweep.config import objects
from wgan_sweep.errors import InputError
from wgan_sweep.runs import lock as locks
from wgan_sweep.runs import provenance
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Status
from wgan_sweep.runs.requests import not_started
from wgan_sweep.runs.writer import RunWriter
from wgan_sweep.sweeps import launching, parallel, slurm
from wgan_sweep.sweeps.launching import Outcome, RequestedRun, complete_run, last_end, record_failure
from wgan_sweep.sweeps.local import Local
from wgan_sweep.sweeps.parallel import Parallel

from .helpers import (
    PATIENCE_SECONDS,
    Shell,
    directory_of,
    lock_owners,
    make_unreadable,
    records,
    run,
    wait_until,
    write_record,
)

PARALLEL = ["launch=parallel", "launch.jobs=2"]


def request_runs(make, *devices: str) -> list[RequestedRun]:
    config = make()
    return [RequestedRun(replace(config, device=device), (), "", None) for device in devices]


def test_cores_are_divided_among_no_more_workers_than_runs(make) -> None:
    assert [slot.threads for slot in Parallel(jobs=3).slots(request_runs(make, *["cpu"] * 9), 12)] == [4] * 3
    assert [slot.threads for slot in Parallel(jobs=8).slots(request_runs(make, "cpu", "cpu"), 12)] == [6] * 2
    assert [slot.threads for slot in Parallel().slots(request_runs(make, *["cpu"] * 9), 12)] == [2] * 6
    for num_cores, threads in ((1, [1]), (2, [1, 1]), (3, [1, 1]), (4, [2, 2]), (6, [2, 2, 2])):
        slots = Parallel().slots(request_runs(make, *["cpu"] * 9), num_cores)
        assert [slot.threads for slot in slots] == threads
    assert len(Parallel(gpus_per_run=2).slots(request_runs(make, "cpu", "cpu"), 2)) == 1
    assert [slot.threads for slot in Parallel(jobs=24).slots(request_runs(make, *["cpu"] * 24), 12)] == [1] * 24


def test_every_visible_gpu_gets_the_requested_number_of_runs(make, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")

    def gpus(launch: Parallel, *devices: str) -> list[str | None]:
        runs = request_runs(make, "cpu", *["cpu"] * (len(devices) - 1))
        for requested, device in zip(runs, devices, strict=True):
            requested.config.device = device
        return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in launch.slots(runs, 2)]

    assert gpus(Parallel(per_gpu=2), *["auto"] * 9) == ["3", "5", "3", "5"]
    assert gpus(Parallel(per_gpu=2), "auto", "auto") == ["3", "5"]
    assert gpus(Parallel(per_gpu=3), *["cuda:1"] * 9) == [None] * 3
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus(Parallel(), *["cuda"] * 9) == ["0", "1"]


def test_runs_on_one_gpu_divide_its_memory(make, monkeypatch) -> None:
    """The memory is divided by the number of workers that exist, which may be less than `per_gpu`."""
    runs = request_runs(make, *["cpu"] * 6)
    assert {slot.processes_per_gpu for slot in Parallel(per_gpu=2, jobs=2).slots(runs, 2)} == {1}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for requested in runs:
        requested.config.device = "auto"

    def workers_per_gpu(launch: Parallel, count: int) -> list[int]:
        return [slot.processes_per_gpu for slot in launch.slots(runs[:count], 2)]

    assert workers_per_gpu(Parallel(), 6) == [1, 1]
    assert workers_per_gpu(Parallel(per_gpu=2), 6) == [2] * 4
    assert workers_per_gpu(Parallel(per_gpu=4), 2) == [1, 1]
    assert workers_per_gpu(Parallel(per_gpu=2), 3) == [2, 1, 2]


def test_a_process_is_limited_to_its_part_of_the_memory(monkeypatch) -> None:
    gib = 2**30
    fractions = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 * gib))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * gib, 16 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 1 * gib)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: fractions.__setitem__(device, fraction)
    )
    assert gpu_memory.free_bytes(torch.device("cuda")) == 10 * gib
    try:
        gpu_memory.limit_to_share(4)
        assert fractions == {0: 3.25 / 16, 1: 3.25 / 16}
        assert gpu_memory.free_bytes(torch.device("cuda")) == 2.25 * gib
    finally:
        gpu_memory.limit_to_share(1)


def test_the_workspaces_of_finished_runs_are_freed_before_unused_memory_is_returned(monkeypatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: calls.append("clear"), raising=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("return"))
    gpu_memory.release()
    assert calls == ["clear", "return"]


@pytest.mark.parametrize(
    ("launcher", "setting"),
    [("parallel.Parallel", name) for name in ("per_gpu", "jobs", "gpus_per_run")]
    + [("local.Local", "gpus_per_run"), ("slurm.Slurm", "runs_per_job"), ("slurm.Slurm", "timeout_min")],
)
def test_settings_out_of_range_are_refused(launcher: str, setting: str) -> None:
    node = {"_target_": f"wgan_sweep.sweeps.{launcher}"}
    objects.make({**node, setting: 3}, "launch")
    for value in (0, 10**9):
        with pytest.raises(InputError, match=f"launch.{setting} must be 1 or more and at most 100000, got {value}"):
            objects.make({**node, setting: value}, "launch")


def test_a_full_disk_fails_one_run_and_loses_nothing(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the second run cannot be written: first at its start, then at its end."""
    configs = [make(f"seed={seed}") for seed in (0, 1, 2)]
    full = directory_of(configs[1]).record
    write_record = RunWriter.write_record

    for after in (0, 1):
        count = 0

        def write(self: RunWriter, record, after: int = after) -> None:
            nonlocal count
            if self.directory.record == full:
                count += 1
                if count > after:
                    raise OSError(28, "No space left on device")
            write_record(self, record)

        monkeypatch.setattr(RunWriter, "write_record", write)
        display = Display(Console(quiet=True))
        outcomes = Local()([RequestedRun(config, ("x",), "", None) for config in configs], display, lambda: False)
        assert [o.record.status if o.record else "problem" for o in outcomes] == ["done", "problem", "done"]
        assert "No space left" in outcomes[1].problem
    monkeypatch.setattr(RunWriter, "write_record", write_record)
    assert run(configs[1]).status == "done"


def test_a_parallel_sweep_does_the_same_as_a_local_one(sweep: Shell) -> None:
    """Two workers; two runs diverge; one run is requested twice; the same command again does nothing."""
    done = sweep("-m", "div.k=1,2.0,2", "optimizer.lr=1e-4,1e30", *PARALLEL, code=1)
    runs = records(sweep.folder)
    assert sorted(r["status"] for r in runs) == ["diverged", "diverged", "done", "done"]
    assert "4 of them" in done.stdout
    assert len(list((sweep.folder / "runs").glob("[0-9a-f]*/log.txt"))) == 4
    for record in runs:  # the workers write to the display of the command
        assert re.search(rf"{record['run_id']} .*{record['status']}", done.stderr)
    again = sweep("-m", "div.k=1,2.0,2", "optimizer.lr=1e-4", *PARALLEL)
    assert again.stderr.count("nothing left to do") == 3
    assert lock_owners(sweep.folder / "runs") == {}


def owners(sweep: Shell) -> dict[str, int]:
    """Return the process that holds each run."""
    return lock_owners(sweep.folder / "runs")


def owner_with_checkpoint(sweep: Shell) -> tuple[str, int]:
    """Return a run that is in training and has a checkpoint, and its process."""
    runs = sweep.folder / "runs"
    return wait_until(
        lambda: next((owner for owner in owners(sweep).items() if (runs / owner[0] / "checkpoint.pt").exists()), None)
    )


def wait_until_gone(processes: list[int]) -> None:
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def start(sweep: Shell, steps: int) -> subprocess.Popen[str]:
    grid = ["div.k=1,2,3", f"train.steps={steps}", "save_every=5", "log_every=5"]
    command = sweep.start("-m", *grid, *PARALLEL)
    sweep.wait_for("checkpoint.pt", 2)
    return command


@pytest.mark.integration
def test_a_killed_worker_fails_its_run_and_the_others_continue(sweep: Shell) -> None:
    command = start(sweep, 150)
    name, process = owner_with_checkpoint(sweep)
    os.kill(process, signal.SIGKILL)
    output, errors = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 1, errors
    by_name = {r["run_id"]: r for r in records(sweep.folder)}
    assert by_name[name]["status"] == "failed"
    assert "signal 9 (SIGKILL)" in by_name[name]["error"]
    assert f"failed: {name}" in output
    assert sorted(r["status"] for r in by_name.values()) == ["done", "done", "failed"]
    again = sweep("-m", "div.k=1,2,3", "train.steps=150", *PARALLEL)  # a failed run is resumed from its checkpoint
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 3
    assert again.stderr.count("nothing left to do") == 2
    log = (sweep.folder / "runs" / name / "log.txt").read_text()
    first, second = map(int, re.findall(r"starting at step (\d+)", log))
    assert first == 0 < second < 150


@pytest.mark.integration
def test_ctrl_c_saves_every_run_in_training(sweep: Shell) -> None:
    command = start(sweep, 100000)
    processes = owners(sweep)
    os.kill(command.pid, signal.SIGINT)
    output, errors = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 130, errors
    assert "2 dead" in output or output.count("1 dead") == 2
    assert "1 not started" in output
    runs = records(sweep.folder)
    assert {r["run_id"] for r in runs} == set(processes)  # the third was not started
    for record in runs:
        path = sweep.folder / "runs" / record["run_id"]
        last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        assert record["step"] >= last["step"]
    wait_until_gone(list(processes.values()))


@pytest.mark.integration
def test_workers_save_and_end_when_the_command_is_killed(sweep: Shell) -> None:
    command = start(sweep, 100000)
    processes = owners(sweep)
    command.kill()
    command.communicate()
    wait_until_gone(list(processes.values()))
    assert [r["status"] for r in records(sweep.folder)] == ["running"] * 2  # interrupted: resumed next time
    assert len(not_started(sweep.folder / "runs")) == 1
    assert lock_owners(sweep.folder / "runs") == {}


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.3, 1.5])
def test_ctrl_c_while_workers_start_is_not_a_failure(sweep: Shell, after: float) -> None:
    """The signal reaches the whole process group, as from a terminal."""
    command = sweep.start("-m", "div.k=1,2,3", "train.steps=100000", *PARALLEL, new_session=True)
    wait_until(lambda: list((sweep.folder / "runs").glob(".sweeps/*")))
    time.sleep(after)
    os.killpg(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 130, errors
    assert "Traceback" not in errors
    assert {r["status"] for r in records(sweep.folder)} <= {"running"}


def test_a_run_whose_data_changed_while_it_waited_is_refused(make, npz: Path, mnist) -> None:
    request = RequestedRun(make("train.steps=1"), ("seed=0",), "", None)
    assert complete_run(request, Display(Console(quiet=True)), lambda: False).problem is None
    waiting = RequestedRun(make("train.steps=1", "seed=1"), ("seed=1",), "", None)
    requested_id = waiting.run_id
    images = np.pad(mnist[100:164], ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.savez(npz, images=images)
    outcome = complete_run(waiting, Display(Console(quiet=True)), lambda: False)
    assert outcome.record is None
    assert outcome.problem is not None
    assert outcome.problem.startswith("refused: seed=1: ")
    assert requested_id in outcome.problem
    assert RequestedRun(waiting.config, (), "", None).run_id in outcome.problem
    assert len(list(Path(waiting.config.runs).glob("[0-9a-f]*"))) == 1


@pytest.mark.parametrize("requeues", [False, True])
def test_a_job_saves_on_sigterm_and_waits_for_what_slurm_does(make, monkeypatch, requeues: bool) -> None:
    """SLURM kills the job, requeues it, or does neither."""
    config = make("train.steps=100000", "save_every=100000")
    task = slurm.Task([RequestedRun(config, (), "", None)], provenance.code(), 1, 1, allow_other_code=False)
    monkeypatch.setattr(slurm, "SECONDS_UNTIL_KILLED", PATIENCE_SECONDS if requeues else 0.5)
    monkeypatch.setattr(slurm, "log_to_display", lambda _: None)
    requeued: list[int] = []
    handlers = {
        signal.SIGTERM: signal.getsignal(signal.SIGTERM),
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, lambda number, _: requeued.append(number)),
    }

    def send_signals() -> None:
        while not directory_of(config).metrics.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        while not directory_of(config).checkpoint.exists():
            time.sleep(0.05)
        if requeues:
            os.kill(os.getpid(), signal.SIGUSR2)

    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        with nullcontext() if requeues else pytest.raises(slurm.JobFailedError, match="SIGTERM"):
            task()
    finally:
        sender.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert requeued == ([signal.SIGUSR2] if requeues else [])
    record = directory_of(config).read_record()
    assert record is not None
    assert record.status == "running"
    assert 0 < record.step < 100000


def test_a_job_that_would_leave_gpus_idle_is_refused() -> None:
    node = {"_target_": "wgan_sweep.sweeps.slurm.Slurm", "gpus_per_node": 4}
    with pytest.raises(InputError, match=r"gpus_per_node=4 is enough for 4 runs at once.*runs_per_job=4 or more"):
        objects.make(node, "launch")
    for settings in ({"runs_per_job": 4}, {"gpus_per_run": 4}, {"gpus_per_run": 2, "runs_per_job": 2}):
        objects.make({**node, **settings}, "launch")


def test_finished_runs_need_no_slurm_cluster(make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no `squeue`, runs that are complete are reported at once, and missing ones are refused."""
    complete, missing = (RequestedRun(make("train.steps=1", f"seed={seed}"), (), "", None) for seed in (0, 1))
    quiet = Display(Console(quiet=True))
    complete_run(complete, quiet, lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUERIES", 0.0)
    asked: list[None] = []

    def stop_if_it_waits() -> bool:
        asked.append(None)
        return len(asked) > 3

    launcher = slurm.Slurm(gpus_per_node=0)
    (outcome,) = launcher([complete], quiet, stop_if_it_waits)
    assert len(asked) <= 1
    assert (outcome.record, outcome.problem, outcome.continues) == (complete.directory.read_record(), None, False)
    with pytest.raises(InputError, match="squeue does not answer: run this on a login node"):
        launcher([complete, missing], quiet, stop_if_it_waits)


YESTERDAY, TODAY = "2026-01-01T00:00:00.000000+00:00", "2026-01-02T00:00:00.000000+00:00"
SUBMISSION = slurm.Submission("12_0", "the log", 6, ended_before=YESTERDAY)


def requested_run(make, *overrides: str, **changes: object) -> RequestedRun:
    """Return a run whose record has these values."""
    requested = RequestedRun(make(*overrides), overrides, "", None)
    write_record(requested.directory, replace(requested.new_record(), **changes))
    return requested


def outcome_of(requested: RequestedRun, ending: str, waits=lambda: False) -> Outcome:
    """Return the outcome of a run whose job is over."""
    return slurm._outcome(requested, SUBMISSION, False, {"12_0": ending}, waits)


def test_an_earlier_error_is_not_taken_for_that_of_a_job_or_process(make) -> None:
    failed = {"status": Status.FAILED, "error": "the earlier error"}
    requested = requested_run(make, **failed, finished=YESTERDAY)
    outcome = outcome_of(requested, "CANCELLED by 0 0:0")
    assert outcome.record.error == "job 12_0 ended as CANCELLED by 0 0:0; see the log"
    requested = requested_run(make, "seed=1", **failed, finished=TODAY)
    assert outcome_of(requested, "FAILED 1:0").record.error == "the earlier error"
    requested = requested_run(make, "seed=2", **failed, finished=YESTERDAY)
    assert record_failure(requested, "killed", last_end(requested)).record.error == "killed"
    assert record_failure(requested, "killed again", YESTERDAY).record.error == "killed"


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["retry_diverged=true"], {"status": Status.DIVERGED, "error": "not finite at step 3", "finished": TODAY}),
        (["retry_diverged=true"], {"status": Status.DIVERGED, "error": "not finite at step 3", "finished": YESTERDAY}),
        (["train.steps=9"], {"status": Status.DONE, "step": 6, "finished": TODAY}),
        (["scorer=fid"], {"status": Status.DONE, "step": 6, "finished": TODAY}),
    ],
)
def test_a_job_that_did_its_work_has_not_failed(make, overrides, changes) -> None:
    """The run diverged again; or an earlier command has submitted the job, and this one asks for more."""
    requested = requested_run(make, *overrides, **changes)
    if overrides == ["scorer=fid"]:
        before = requested.directory.read_record()
        write_record(requested.directory, replace(before, config={**before.config, "scorer": {"_target_": None}}))
    outcome = outcome_of(requested, "COMPLETED 0:0")
    assert (outcome.record.status, outcome.problem) == (changes["status"], None)
    buffer = io.StringIO()
    slurm._report_rest(requested, outcome.record, Display(Console(file=buffer, width=300)))
    more = "done at step 6, and more was requested: run this command again"
    assert (more in buffer.getvalue()) == (changes["status"] == Status.DONE)


def test_a_job_that_was_cancelled_before_it_did_its_work_has_failed(make) -> None:
    requested = requested_run(make, "train.steps=9", status=Status.DONE, step=6, finished=YESTERDAY)
    outcome = outcome_of(requested, "CANCELLED 0:0")
    assert outcome.problem == "failed: train.steps=9: job 12_0 ended as CANCELLED 0:0; see the log"
    assert requested.directory.read_record().status == Status.DONE


def test_a_job_that_was_killed_on_another_node_is_recorded_as_failed(make, monkeypatch) -> None:
    """Its process cannot be checked: it is gone after a lifetime without a heartbeat."""
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    for module in (locks, launching):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    requested = requested_run(make, status=Status.RUNNING)
    requested.directory.lock.mkdir(parents=True)
    owner = replace(locks.Process(), boot="another", host="node", pid=7)
    (requested.directory.lock / "1").write_text(json.dumps(asdict(owner)))
    outcome = outcome_of(requested, "OUT_OF_MEMORY 0:125")
    assert outcome.problem == f"failed: {requested.name}: job 12_0 ended as OUT_OF_MEMORY 0:125; see the log"
    outcome = outcome_of(requested, "OUT_OF_MEMORY 0:125", lambda: now < 1000.0 + slurm.SECONDS_UNTIL_GONE)
    assert (outcome.record.status, outcome.problem) == (Status.FAILED, None)
    assert outcome.record.error == "job 12_0 ended as OUT_OF_MEMORY 0:125; see the log"


def test_waiting_for_jobs_goes_on_while_a_record_cannot_be_read(make, monkeypatch) -> None:
    requested = requested_run(make, status=Status.RUNNING)
    rounds = [{"12_0": "RUNNING"}, {"12_0": "RUNNING"}, {}]
    unreadable = [True, False, True]
    watched = []
    read_record = RunDir.read_record

    def read_or_fail(directory: RunDir):
        if unreadable and unreadable.pop(0):
            raise UnreadableError(f"{directory.record} cannot be read (Stale file handle)")
        return read_record(directory)

    monkeypatch.setattr(RunDir, "read_record", read_or_fail)
    monkeypatch.setattr(slurm, "active_states", lambda _: rounds.pop(0))
    monkeypatch.setattr(slurm, "watch", watched.extend)
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUERIES", 0.0)
    run_id, display = requested.run_id, Display(Console(quiet=True))
    slurm.Slurm(gpus_per_node=0)._wait_for({run_id: SUBMISSION}, {run_id: requested}, display, lambda: False)
    assert (rounds, unreadable) == ([], [])
    assert watched == [requested.directory.lock]
    unreadable.append(True)
    outcome = outcome_of(requested, "COMPLETED 0:0")
    assert outcome.problem.endswith("record.json cannot be read (Stale file handle)")


def test_a_job_that_cannot_be_noted_is_named(make, monkeypatch) -> None:
    requested = RequestedRun(make(), (), "", None)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(slurm, "active_states", lambda _: {})
    monkeypatch.setattr(slurm.Slurm, "_submit", lambda *_: [(requested, SUBMISSION)])
    monkeypatch.setattr(slurm.Submission, "write", fail)
    with pytest.raises(InputError, match=r"job 12 is submitted, but .*No space left on device.*`scancel 12`"):
        slurm.Slurm(gpus_per_node=0)([requested], Display(Console(quiet=True)), lambda: False)


def test_a_submission_that_cannot_be_read_is_not_one_that_does_not_exist(tmp_path: Path) -> None:
    """Its run would be submitted again."""
    SUBMISSION.write(tmp_path, "x")
    assert slurm.Submission.read(tmp_path, "x") == SUBMISSION
    assert slurm.Submission.read(tmp_path, "y") is None
    make_unreadable(tmp_path / "x.json", "an I/O error")
    with pytest.raises(UnreadableError):
        slurm.Submission.read(tmp_path, "x")


@pytest.mark.parametrize(("code", "is_hinted"), [(1, False), (-signal.SIGTERM, False), (-signal.SIGKILL, True)])
def test_only_a_process_that_was_killed_may_have_lacked_memory(make, code: int, is_hinted: bool) -> None:
    requested = requested_run(make, f"seed={abs(code)}", status=Status.RUNNING)
    child = object.__new__(ChildProcess)
    child.process = SimpleNamespace(exitcode=code)
    child.wait = lambda: code
    worker = object.__new__(parallel._Worker)
    worker._child, worker._relay, worker._start = child, SimpleNamespace(close=lambda: None), lambda: child
    worker._is_stopping, worker._ended_before = False, None
    error = worker._handle_death(requested).record.error
    assert error.startswith("its process ended with ")
    assert ("out of memory" in error) is is_hinted


SLURM_COMMAND = """\
#!/bin/bash
# Stands for a command of SLURM: it says that it was called, and takes a second.
echo called >> "$0.calls"
sleep 1
%s
"""
ANSWERS = {
    "sbatch": "echo Submitted batch job 4711",
    "squeue": '[ -e "${0%squeue}sbatch.calls" ] && echo "4711|PENDING"; true',
}


@pytest.fixture
def slurm_commands(tmp_path: Path) -> Path:
    """A folder of commands that answer like those of SLURM."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "srun", "sacct"):
        command = folder / name
        command.write_text(SLURM_COMMAND.replace("%s", ANSWERS.get(name, "")))
        command.chmod(0o755)
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("during", ["squeue", "sbatch"])
def test_ctrl_c_in_a_terminal_does_not_end_a_command_of_slurm(sweep: Shell, slurm_commands: Path, during: str) -> None:
    """A terminal sends it to all processes of the command's group. A job that SLURM has accepted is recorded."""
    path = f"{slurm_commands}{os.pathsep}{os.environ['PATH']}"
    command = sweep.start("launch=slurm", "launch.gpus_per_node=0", env={"PATH": path}, new_session=True)
    calls = slurm_commands / f"{during}.calls"
    wait_until(lambda: calls.exists() or command.poll() is not None)
    assert command.poll() is None
    os.killpg(command.pid, signal.SIGINT)
    output, errors = command.communicate(timeout=PATIENCE_SECONDS)
    assert "does not answer" not in errors
    assert command.returncode == 130, errors
    submitted = [json.loads(file.read_text())["job"] for file in (sweep.folder / "runs" / ".slurm").glob("*.json")]
    if during == "squeue":
        assert submitted == []
        assert not (slurm_commands / "sbatch.calls").exists()
        assert "submitted" not in output + errors
    else:
        assert submitted == ["4711"]
        assert "1 runs continue without this command" in errors
