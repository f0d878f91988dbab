"""Sweeps on a real SLURM cluster: every failure is recorded, and every run can be resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from wgan_sweep.runs import checkpoints

from ..helpers import Shell, lock_owners, records
from ..test_tracking import Mirror, metric_lines, metric_rows

pytestmark = pytest.mark.slurm

LAUNCH = ["launch=slurm", "launch.gpus_per_node=0", "launch.cpus_per_task=1", "launch.mem_gb=1.5"]
LAUNCH += ["launch.timeout_min=30", "launch.signal_delay_s=10"]
LONG = ["train.steps=1200", "log_every=20", "save_every=100"]


def query(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    if shutil.which("squeue") is None or subprocess.run(["squeue"], capture_output=True, check=False).returncode:
        pytest.skip("needs a SLURM cluster: run make slurm-test")


@pytest.fixture(autouse=True)
def user_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the faulty data on the path, use one thread, and print the accounting of each test's jobs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    start = time.strftime("%Y-%m-%dT%H:%M:%S")
    yield
    subprocess.run(["scancel", "--me"], check=False)
    print(query("sacct", "-X", "--duplicates", "-S", start, "-o", "JobID,State%20,ExitCode,Start,Elapsed,NodeList%4"))  # noqa: T201


def final_states(job: str) -> list[str]:
    """Return the states of a job array from the accounting database, which lags behind."""
    deadline = time.monotonic() + 30
    while True:
        states = query("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").split()
        if states and not {"PENDING", "RUNNING", "REQUEUED", "COMPLETING"} & set(states):
            return sorted(states)
        assert time.monotonic() < deadline, states
        time.sleep(1)


def jobs(sweep: Shell) -> dict[str, str]:
    """Return the job id of each run, by its seed, or by its run id if it has no record."""
    job_ids = {}
    for path in (sweep.folder / "runs" / ".slurm").glob("*.json"):
        record = sweep.folder / "runs" / path.stem / "record.json"
        key = json.loads(record.read_text())["config"]["seed"] if record.exists() else path.stem
        job_ids[key] = json.loads(path.read_text())["job"]
    return job_ids


def number_of_jobs(sweep: Shell) -> int:
    """Return how many jobs were submitted."""
    return len(list((sweep.folder / "runs" / ".slurm" / "jobs").rglob("*_submitted.pkl")))


def weights(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Return the weights of the trained generators, by seed."""
    by_seed = {}
    for record in records(folder):
        state, problems = checkpoints.load(folder / "runs" / record["run_id"] / "checkpoint.pt")
        assert state is not None
        assert not problems
        by_seed[record["config"]["seed"]] = state["trainer"]["generator"]
    return by_seed


def assert_same_as_local_sweep(sweep: Shell, tmp_path: Path, *overrides: str, shared: Iterable[str] = ()) -> None:
    """Check that the weights are bitwise equal to those of an uninterrupted sweep on this machine."""
    folder = tmp_path / "local"
    folder.mkdir()
    Shell(folder, sweep.npz, sweep.server)("-m", *overrides, "launch=parallel", "launch.jobs=2", *shared)
    actual, expected = weights(sweep.folder), weights(folder)
    assert actual.keys() == expected.keys()
    for seed, state in actual.items():
        for name, value in state.items():
            assert torch.equal(value, expected[seed][name]), (seed, name)


def test_an_array_of_the_missing_runs_equals_a_local_sweep(sweep: Shell, tmp_path: Path) -> None:
    sweep("-m", "seed=0")
    done = sweep("-m", "seed=0,1,2", *LAUNCH)
    assert number_of_jobs(sweep) == 2
    job = re.search(r"in job (\d+); to cancel: scancel (\d+)", done.stderr)
    assert job is not None
    assert final_states(job.group(1)) == ["COMPLETED"] * 2
    assert "3 of them" in done.stdout
    assert_same_as_local_sweep(sweep, tmp_path, "seed=0,1,2")
    again = sweep("-m", "seed=0,1,2", *LAUNCH)
    assert number_of_jobs(sweep) == 2
    assert "submitted to SLURM" not in again.stderr


def test_a_failed_run_is_a_failed_job_with_its_traceback_and_does_not_affect_others(sweep: Shell) -> None:
    """One run raises an exception, another one exits."""
    targets = "data._target_=wgan_sweep.data.Npz,faults.Raises,faults.Exits"
    done = sweep("-m", targets, *LAUNCH, code=1)
    assert records(sweep.folder), done.stderr
    by_target = {r["config"]["data"]["_target_"].split(".")[-1]: r for r in records(sweep.folder)}
    assert {name: r["status"] for name, r in by_target.items()} == {
        "Npz": "done",
        "Raises": "failed",
        "Exits": "failed",
    }
    assert "RuntimeError: the data broke" in by_target["Raises"]["error"]
    assert "ended as FAILED 3:0" in by_target["Exits"]["error"]  # it could not write its record
    assert "the data broke" in done.stdout
    states = final_states(jobs(sweep)[0].split("_")[0])
    assert states == ["COMPLETED", "FAILED", "FAILED"]
    folder = sweep.folder / "runs" / ".slurm" / "jobs"
    assert any("the data broke" in path.read_text() for path in folder.rglob("*.err"))


def owner(sweep: Shell, run: str) -> int:
    """Return the id of the process that holds a run."""
    return lock_owners(sweep.folder / "runs")[run]


def step(sweep: Shell, run: str) -> int:
    """Return the last logged step of a run."""
    lines = (sweep.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"]


def starts(sweep: Shell, run: str) -> list[int]:
    """Return the step of each start of a run."""
    text = (sweep.folder / "runs" / run / "log.txt").read_text()
    return [int(number) for number in re.findall(r"starting at step (\d+)", text)]


def test_killed_cancelled_requeued_and_preempted_runs_resume_without_loss(sweep: Shell, tmp_path: Path) -> None:
    """Each run also stays a single run in W&B."""
    arguments = ["-m", "seed=0,1,2,3", *LONG]
    command = sweep.start(*arguments, *LAUNCH, "tracker=wandb", env={"WANDB_MODE": "offline", "HOME": str(tmp_path)})
    sweep.wait_for("checkpoint.pt", 4)
    run_of = {r["config"]["seed"]: r["run_id"] for r in records(sweep.folder)}
    job_of = jobs(sweep)
    killed, cancelled, requeued, preempted = range(4)
    os.kill(owner(sweep, run_of[killed]), signal.SIGKILL)
    cancelled_at = step(sweep, run_of[cancelled])
    query("scancel", job_of[cancelled])
    query("scontrol", "requeue", job_of[requeued])
    query("scancel", "--signal=TERM", job_of[preempted])
    before = step(sweep, run_of[preempted])
    query("scancel", "--signal=USR2", job_of[preempted])
    _, errors = command.communicate(timeout=240)
    assert command.returncode == 1, errors
    status = {r["config"]["seed"]: r for r in records(sweep.folder)}
    assert [status[seed]["status"] for seed in range(4)] == ["failed", "failed", "done", "done"], errors
    assert "ended as CANCELLED" in status[cancelled]["error"]
    assert "ended as " in status[killed]["error"]
    first, second = starts(sweep, run_of[preempted])
    assert first == 0
    assert second >= before  # saved at its current step, not only at every hundredth
    assert second % 100 != 0 or second > before
    assert len(starts(sweep, run_of[requeued])) == 2
    for seed in (requeued, preempted):
        directory = sweep.folder / "runs" / run_of[seed]
        mirror = Mirror.read(directory)
        assert mirror.run.run_id == run_of[seed]
        assert metric_rows(mirror.history) == metric_lines(directory)
    sweep(*arguments, *LAUNCH)  # the same command resumes all of them
    assert starts(sweep, run_of[cancelled])[1] >= cancelled_at  # SIGTERM, which precedes SIGKILL, saved it
    assert {r["status"] for r in records(sweep.folder)} == {"done"}
    assert_same_as_local_sweep(sweep, tmp_path, *arguments[1:])


def daemon(name: str, node: str = "") -> int:
    """Return the process id of a SLURM daemon, from its pid file."""
    settings = query("scontrol", "show", "config")
    pid_file = re.search(rf"{name}PidFile\s*= (\S+)", settings)
    assert pid_file is not None
    return int(Path(pid_file.group(1).replace("%n", node)).read_text())


@pytest.mark.slow
def test_a_job_whose_node_dies_resumes_on_another_node(sweep: Shell) -> None:
    """The node's daemon and all its jobs are killed; SLURM notices after half a minute and requeues the job."""
    command = sweep.start("-m", "seed=0", *LONG, *LAUNCH)
    sweep.wait_for("checkpoint.pt")
    (record,) = records(sweep.folder)
    (job,) = jobs(sweep).values()
    node = query("squeue", "-h", "-j", job, "-o", "%N").strip()
    worker = owner(sweep, record["run_id"])
    os.kill(daemon("Slurmd", node), signal.SIGKILL)
    for process in query("pgrep", "-f", "slurmstepd").split():
        os.kill(int(process), signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    try:
        _, errors = command.communicate(timeout=300)
    finally:
        subprocess.run(["slurmd", "-N", node], check=True)
    assert command.returncode == 0, errors
    assert records(sweep.folder)[0]["status"] == "done"
    assert len(starts(sweep, record["run_id"])) == 2


@pytest.mark.slow
def test_preemption_by_urgent_jobs_and_a_controller_restart_lose_nothing(sweep: Shell) -> None:
    """Preempted jobs are requeued; the command keeps waiting while the controller does not answer."""
    deadline = time.monotonic() + 60
    while len(query("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split()) < 2:
        assert time.monotonic() < deadline, query("sinfo", "-N", "-l")
        time.sleep(0.5)
    command = sweep.start("-m", "seed=0,1", *LONG, *LAUNCH)
    sweep.wait_for("checkpoint.pt", 2)
    before = {r["run_id"]: step(sweep, r["run_id"]) for r in records(sweep.folder)}
    query("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    deadline = time.monotonic() + 60
    while "PD" not in query("squeue", "--me", "-h", "-o", "%t", "-p", "main"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    os.kill(daemon("Slurmctld"), signal.SIGKILL)
    time.sleep(5)
    assert command.poll() is None
    subprocess.run(["slurmctld"], check=True)
    _, errors = command.communicate(timeout=240)
    assert command.returncode == 0, errors
    for run, reached in before.items():
        first, second = starts(sweep, run)
        assert first == 0
        assert second >= reached


def test_the_waiting_command_can_be_killed_interrupted_and_run_again(sweep: Shell) -> None:
    arguments = ["-m", "seed=0,1", *LONG, "train.steps=3000", *LAUNCH]
    command = sweep.start(*arguments)
    sweep.wait_for("metrics.jsonl", 2)
    command.kill()
    command.communicate()
    without_waiting = sweep(*arguments, "launch.wait=false")
    assert "2 runs were submitted before" in without_waiting.stderr
    assert "2 runs continue without this command" in without_waiting.stderr
    assert "--watch" in without_waiting.stderr
    waiting = sweep.start(*arguments)
    assert waiting.stderr is not None
    output = ""
    while "running" not in output:
        output += waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _, rest = waiting.communicate(timeout=60)
    errors = output + rest
    assert waiting.returncode == 130, errors
    assert "scancel" in errors
    done = sweep(*arguments)
    assert number_of_jobs(sweep) == 2
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2, done.stderr


def test_a_run_longer_than_its_time_limit_is_requeued_up_to_the_maximum(sweep: Shell) -> None:
    """SLURM warns a job after 20 to 50 s: it counts minutes and warns up to 30 s early. A first job needs 0.1 s a step.

    How many steps the later jobs make depends on the machine: two runs are too long for any two jobs, and the third one
    is too long for one job but not for ten.
    """
    short = ["launch.timeout_min=1", "log_every=50", "data._target_=faults.Slow"]
    endless = [
        sweep.start("-m", f"seed={n}", *LAUNCH, *short, "train.steps=1_000_000", f"launch.max_num_timeout={n}")
        for n in (0, 1)
    ]
    finite = sweep.start("-m", "seed=2", *LAUNCH, *short, "train.steps=700", "launch.max_num_timeout=9")
    for command in endless:
        _, errors = command.communicate(timeout=600)
        assert command.returncode == 1, errors
    _, errors = finite.communicate(timeout=600)
    assert finite.returncode == 0, errors
    by_seed = {r["config"]["seed"]: r for r in records(sweep.folder)}
    assert "FAILED" in by_seed[0]["error"]
    assert [by_seed[seed]["status"] for seed in (0, 1, 2)] == ["failed", "failed", "done"]
    assert starts(sweep, by_seed[0]["run_id"]) == [0]
    first, second = starts(sweep, by_seed[1]["run_id"])
    assert first == 0 < second
    first, *later = starts(sweep, by_seed[2]["run_id"])
    assert first == 0 < later[0]
    assert later == sorted(set(later))
    assert later[-1] < 700


def test_jobs_run_the_submitted_config_and_refuse_changed_code(
    sweep: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While jobs wait, a change of the config files has no effect, and a change of the code makes the job fail."""
    here = Path(__file__).parents[2]
    copy = tmp_path / "checkout"
    for name in ("wgan_sweep", "conf"):
        shutil.copytree(here / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(copy))
    delayed = [*LAUNCH, "launch.wait=false", "+launch.additional_parameters.begin=now+1hour"]
    sweep("-m", "seed=0", "div.k=3", *delayed)
    loss = copy / "conf" / "div" / "paper.yaml"
    loss.write_text(loss.read_text().replace("p: 6", "p: 5"))
    query("scontrol", "update", f"JobId={next(iter(jobs(sweep).values()))}", "StartTime=now")
    sweep("-m", "seed=0", "div.k=3", "div.p=6", *LAUNCH)
    (record,) = records(sweep.folder)
    assert record["config"]["div"] == {"k": 3.0, "p": 6.0}
    sweep("-m", "seed=1", "div.p=6", *delayed)
    module = copy / "wgan_sweep" / "errors.py"
    module.write_text(module.read_text() + "\n# edited\n")
    (job,) = (job_id for run, job_id in jobs(sweep).items() if run != 0)
    query("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert final_states(job) == ["FAILED"]
    logs = "".join(p.read_text() for p in (sweep.folder / "runs" / ".slurm" / "jobs").rglob("*.err"))
    assert "was submitted: submit again" in logs
    sweep("-m", "seed=1", "div.p=6", *LAUNCH)
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_several_runs_share_a_job(sweep: Shell, side_by_side: int) -> None:
    sweep("-m", "seed=0,1,2", *LAUNCH, "launch.runs_per_job=3", f"launch.side_by_side={side_by_side}")
    assert number_of_jobs(sweep) == 1
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 3


def test_two_replicas_of_a_job_train_one_run(sweep: Shell, tmp_path: Path) -> None:
    """Killed during training and resumed, the run has the same result as an uninterrupted one."""
    arguments = ["-m", "seed=0", "train.steps=200", "save_every=20"]
    shared = ["launch.gpus_per_run=2"]
    command = sweep.start(*arguments, *LAUNCH, *shared)
    sweep.wait_for("checkpoint.pt")
    (record,) = records(sweep.folder)
    os.kill(owner(sweep, record["run_id"]), signal.SIGKILL)
    _, errors = command.communicate(timeout=240)
    assert command.returncode == 1, errors
    sweep(*arguments, *LAUNCH, *shared)
    assert records(sweep.folder)[0]["status"] == "done"
    assert len(starts(sweep, record["run_id"])) == 2
    assert_same_as_local_sweep(sweep, tmp_path, *arguments[1:], shared=shared)


def test_a_full_disk_fails_the_runs_and_loses_nothing(sweep: Shell, tmp_path: Path) -> None:
    """The folder of runs is a small file system that fills up while two runs are training."""
    disk = sweep.folder / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        arguments = ["-m", "seed=0,1", *LONG, "train.steps=600"]
        command = sweep.start(*arguments, *LAUNCH)
        sweep.wait_for("checkpoint.pt", 2)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        output, errors = command.communicate(timeout=240)
        assert command.returncode == 1, errors
        assert "No space left on device" in output
        assert "Traceback" not in errors
        assert {state for job in jobs(sweep).values() for state in final_states(job)} == {"FAILED"}
        (disk / "filler").unlink()
        sweep(*arguments, *LAUNCH)
        assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2
        assert all(len(starts(sweep, r["run_id"])) == 2 for r in records(sweep.folder))
        assert_same_as_local_sweep(sweep, tmp_path, *arguments[1:])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_cancelling_by_filter_ends_those_runs_and_they_can_be_resumed(sweep: Shell) -> None:
    """Two runs train, and one waits: it has no record yet."""

    def cancel(*words: str) -> str:
        command = [sys.executable, "-m", "wgan_sweep.commands.runs", "cancel", "--runs", "runs", "--yes", *words]
        return subprocess.run(command, cwd=sweep.folder, check=True, capture_output=True, text=True).stdout

    def states() -> dict[str, str]:
        lines = query("squeue", "--me", "--array", "--noheader", "--states=PD,R,CG", "--format=%i|%T").split()
        return dict(line.split("|") for line in lines)

    arguments = [*LONG, "train.steps=3000", *LAUNCH]
    sweep("-m", "seed=0,1", *arguments, "launch.wait=false")
    sweep("-m", "seed=2", *arguments, "launch.wait=false", "+launch.additional_parameters.begin=now+1hour")
    sweep.wait_for("checkpoint.pt", 2)
    job_of = jobs(sweep)
    (waiting,) = (job for seed, job in job_of.items() if seed not in (0, 1))
    assert states().keys() == {job_of[0], job_of[1], waiting}
    assert "1 job cancelled" in cancel("seed=0")
    assert "1 job cancelled" in cancel("status=pending", "seed=2")
    deadline = time.monotonic() + 60
    while states().keys() != {job_of[1]}:
        assert time.monotonic() < deadline, states()
        time.sleep(0.5)
    done = sweep("-m", "seed=0,1,2", *arguments)
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 3, done.stderr
    by_seed = {r["config"]["seed"]: r["run_id"] for r in records(sweep.folder)}
    assert [len(starts(sweep, by_seed[seed])) for seed in range(3)] == [2, 1, 1]


POINTS = ["data=gaussians8", "train.batch_size=64", "train.n_critic=1", "model.dim=16", "tracker=none", "device=cpu"]


def test_seeds_are_added_until_claims_are_decided(sweep: Shell) -> None:
    """The claim cannot be decided by three seeds of untrained generators: each look is an array of its own."""
    claims = {"claims": [{"claim": "c", "lower": {"loss": "wgan_gp"}, "than": {"loss": "wgan"}}]}
    (sweep.folder / "mine.yaml").write_text(json.dumps(claims))
    decide = ["claims=mine.yaml", "decide.max_seeds=3", "loss=wgan,wgan_gp", "scorer.num_samples=50", "train.steps=2"]
    done = sweep("-m", *POINTS, *decide, *LAUNCH, tiny=False)
    assert len(re.findall(r"in job (\d+); to cancel", done.stderr)) == 2
    assert number_of_jobs(sweep) == 6
    assert sorted(r["config"]["seed"] for r in records(sweep.folder)) == [0, 0, 1, 1, 2, 2]
    (path,) = (sweep.folder / "runs" / ".sweeps").glob("*/decision.json")
    (claim,) = json.loads(path.read_text())["claims"]
    assert claim["seeds"] == 3
    assert claim["standing"] in done.stdout


def test_a_job_whose_run_is_pruned_ends_at_once_and_the_run_can_be_completed(sweep: Shell) -> None:
    """A run that does not learn is beaten by one that has been trained before."""
    options = [*POINTS, "train.steps=200", "scorer.every=100", "scorer.num_samples=200", *LAUNCH]
    sweep("-m", *options, "optimizer.lr=0.01", tiny=False)
    done = sweep("-m", *options, "optimizer.lr=0.01,1e-9", "prune=asha", tiny=False)
    by_rate = {r["config"]["optimizer"]["lr"]: r for r in records(sweep.folder)}
    assert {lr: (r["status"], r["step"]) for lr, r in by_rate.items()} == {0.01: ("done", 200), 1e-9: ("pruned", 100)}
    assert "1 pruned" in done.stdout
    sweep("-m", *options, "optimizer.lr=0.01,1e-9", tiny=False)
    assert [(r["status"], r["step"]) for r in records(sweep.folder)] == [("done", 200)] * 2
