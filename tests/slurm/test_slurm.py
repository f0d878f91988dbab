"""Sweeps on a real SLURM cluster: every fault ends in a record, and nothing is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from wgan_sweep.runs import checkpoints

from ..helpers import Shell, records
from ..test_tracking import Mirror, as_curves, as_measured

pytestmark = pytest.mark.slurm

LAUNCH = ["launch=slurm", "launch.gpus_per_node=0", "launch.cpus_per_task=1", "launch.mem_gb=1.5"]
LAUNCH += ["launch.timeout_min=30", "launch.signal_delay_s=10"]
LONG = ["train.steps=1200", "log_every=20", "save_every=100"]


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    if shutil.which("squeue") is None or subprocess.run(["squeue"], capture_output=True, check=False).returncode:
        pytest.skip("needs a SLURM cluster: make slurm-test brings one up")


@pytest.fixture(autouse=True)
def shell_of_a_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands find the faulty data and use one thread; what accounting says in the end goes with a test's output."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    began = time.strftime("%Y-%m-%dT%H:%M:%S")
    yield
    subprocess.run(["scancel", "--me"], check=False)
    print(ask("sacct", "-X", "--duplicates", "-S", began, "-o", "JobID,State%20,ExitCode,Start,Elapsed,NodeList%4"))  # noqa: T201


def accounted(job: str) -> list[str]:
    """Return the states of a job's array, by accounting, which trails."""
    deadline = time.monotonic() + 30
    while True:
        states = ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").split()
        if states and not {"PENDING", "RUNNING", "REQUEUED", "COMPLETING"} & set(states):
            return sorted(states)
        assert time.monotonic() < deadline, states
        time.sleep(1)


def jobs(sweep: Shell) -> dict[str, str]:
    """Return the job of each run, by its seed or its id."""
    found = {}
    for path in (sweep.folder / "runs" / ".slurm").glob("*.json"):
        record = sweep.folder / "runs" / path.stem / "record.json"
        key = json.loads(record.read_text())["config"]["seed"] if record.exists() else path.stem
        found[key] = json.loads(path.read_text())["job"]
    return found


def submitted(sweep: Shell) -> int:
    return len(list((sweep.folder / "runs" / ".slurm" / "jobs").rglob("*_submitted.pkl")))


def weights(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Return the trained generators, by seed."""
    found = {}
    for record in records(folder):
        state, problems = checkpoints.load(folder / "runs" / record["run_id"] / "checkpoint.pt")
        assert state is not None
        assert not problems
        found[record["config"]["seed"]] = state["trainer"]["generator"]
    return found


def assert_as_if_undisturbed(sweep: Shell, tmp_path: Path, *overrides: str, shared: Iterable[str] = ()) -> None:
    """Compare weights, bitwise, with those of a sweep on this machine."""
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    Shell(folder, sweep.npz)("-m", *overrides, "launch=parallel", "launch.jobs=2", *shared)
    one, other = weights(sweep.folder), weights(folder)
    assert one.keys() == other.keys()
    for seed, state in one.items():
        for name, value in state.items():
            assert torch.equal(value, other[seed][name]), (seed, name)


def test_an_array_of_what_is_missing_does_what_a_local_sweep_does(sweep: Shell, tmp_path: Path) -> None:
    sweep("-m", "seed=0")
    done = sweep("-m", "seed=0,1,2", *LAUNCH)
    assert submitted(sweep) == 2
    job = re.search(r"in job (\d+); to cancel: scancel (\d+)", done.stderr)
    assert job is not None
    assert accounted(job.group(1)) == ["COMPLETED"] * 2
    assert "3 of them" in done.stdout
    assert_as_if_undisturbed(sweep, tmp_path, "seed=0,1,2")
    again = sweep("-m", "seed=0,1,2", *LAUNCH)
    assert submitted(sweep) == 2
    assert "with SLURM" not in again.stderr


def test_a_run_that_fails_is_a_failed_job_with_its_traceback_and_hides_no_other(sweep: Shell) -> None:
    """An exception, and an exit without a word."""
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
    assert "ended as FAILED 3:0" in by_target["Exits"]["error"]  # gone before it could say so itself
    assert "the data broke" in done.stdout
    states = accounted(jobs(sweep)[0].split("_")[0])
    assert states == ["COMPLETED", "FAILED", "FAILED"]
    folder = sweep.folder / "runs" / ".slurm" / "jobs"
    assert any("the data broke" in path.read_text() for path in folder.rglob("*.err"))


def owner(sweep: Shell, run: str) -> int:
    claim = (sweep.folder / "runs" / ".locks" / f"{run}.lock").read_text()
    return int(re.split(r"[|^~#@]", claim)[2])


def step(sweep: Shell, run: str) -> int:
    lines = (sweep.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"]


def starts(sweep: Shell, run: str) -> list[int]:
    text = (sweep.folder / "runs" / run / "log.txt").read_text()
    return [int(found) for found in re.findall(r"starting at step (\d+)", text)]


def test_killed_cancelled_requeued_and_preempted_runs_lose_nothing(sweep: Shell, tmp_path: Path) -> None:
    """Nor does their record with W&B, which stays one."""
    arguments = ["-m", "seed=0,1,2,3", *LONG]
    shell = sweep.start(*arguments, *LAUNCH, "tracker=wandb", env={"WANDB_MODE": "offline", "HOME": str(tmp_path)})
    sweep.wait_for("checkpoint.pt", 4)
    run_of = {r["config"]["seed"]: r["run_id"] for r in records(sweep.folder)}
    job_of = jobs(sweep)
    killed, cancelled, requeued, preempted = range(4)
    os.kill(owner(sweep, run_of[killed]), signal.SIGKILL)
    ask("scancel", job_of[cancelled])
    ask("scontrol", "requeue", job_of[requeued])
    ask("scancel", "--signal=TERM", job_of[preempted])
    before = step(sweep, run_of[preempted])
    ask("scancel", "--signal=USR2", job_of[preempted])
    _, errors = shell.communicate(timeout=240)
    assert shell.returncode == 1, errors
    status = {r["config"]["seed"]: r for r in records(sweep.folder)}
    assert [status[seed]["status"] for seed in range(4)] == ["failed", "failed", "done", "done"], errors
    assert "ended as CANCELLED" in status[cancelled]["error"]
    assert "ended as " in status[killed]["error"]
    first, second = starts(sweep, run_of[preempted])
    assert first == 0
    assert second >= before  # saved at the step it was at, not at the last of every hundred
    assert second % 100 != 0 or second > before
    assert len(starts(sweep, run_of[requeued])) == 2
    for seed in (requeued, preempted):
        directory = sweep.folder / "runs" / run_of[seed]
        mirror = Mirror.of(directory)
        assert mirror.run.run_id == run_of[seed]
        assert as_curves(mirror.history) == as_measured(directory)
    sweep(*arguments, *LAUNCH)  # the same command again
    assert {r["status"] for r in records(sweep.folder)} == {"done"}
    assert_as_if_undisturbed(sweep, tmp_path, *arguments[1:])


def daemon(name: str, node: str = "") -> int:
    """Return the process of a daemon of the cluster's, by its pid file."""
    shown = ask("scontrol", "show", "config")
    found = re.search(rf"{name}PidFile\s*= (\S+)", shown)
    assert found is not None
    return int(Path(found.group(1).replace("%n", node)).read_text())


@pytest.mark.slow
def test_a_node_that_dies_is_replaced_by_another(sweep: Shell) -> None:
    """Its daemon and all that it ran are killed; SLURM finds it dead after half a minute and requeues."""
    shell = sweep.start("-m", "seed=0", *LONG, *LAUNCH)
    sweep.wait_for("checkpoint.pt")
    (record,) = records(sweep.folder)
    (job,) = jobs(sweep).values()
    node = ask("squeue", "-h", "-j", job, "-o", "%N").strip()
    worker = owner(sweep, record["run_id"])
    os.kill(daemon("Slurmd", node), signal.SIGKILL)
    for process in ask("pgrep", "-f", "slurmstepd").split():
        os.kill(int(process), signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    try:
        _, errors = shell.communicate(timeout=300)
    finally:
        subprocess.run(["slurmd", "-N", node], check=True)
    assert shell.returncode == 0, errors
    assert records(sweep.folder)[0]["status"] == "done"
    assert len(starts(sweep, record["run_id"])) == 2


@pytest.mark.slow
def test_more_urgent_jobs_and_a_restarted_controller_lose_nothing(sweep: Shell) -> None:
    """Pre-emption requeues; the shell waits on while the controller does not answer."""
    deadline = time.monotonic() + 60
    while len(ask("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split()) < 2:
        assert time.monotonic() < deadline, ask("sinfo", "-N", "-l")
        time.sleep(0.5)
    shell = sweep.start("-m", "seed=0,1", *LONG, *LAUNCH)
    sweep.wait_for("checkpoint.pt", 2)
    before = {r["run_id"]: step(sweep, r["run_id"]) for r in records(sweep.folder)}
    ask("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    deadline = time.monotonic() + 60
    while "PD" not in ask("squeue", "--me", "-h", "-o", "%t", "-p", "main"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    os.kill(daemon("Slurmctld"), signal.SIGKILL)
    time.sleep(5)
    assert shell.poll() is None
    subprocess.run(["slurmctld"], check=True)
    _, errors = shell.communicate(timeout=240)
    assert shell.returncode == 0, errors
    for run, reached in before.items():
        first, second = starts(sweep, run)
        assert first == 0
        assert second >= reached


def test_who_waits_may_be_killed_or_leave_and_come_back(sweep: Shell) -> None:
    arguments = ["-m", "seed=0,1", *LONG, "train.steps=3000", *LAUNCH]
    shell = sweep.start(*arguments)
    sweep.wait_for("metrics.jsonl", 2)
    shell.kill()
    shell.communicate()
    left = sweep(*arguments, "launch.wait=false")
    assert "2 runs were submitted before" in left.stderr
    assert "2 runs go on without this command" in left.stderr
    assert "--watch" in left.stderr
    waiting = sweep.start(*arguments)
    assert waiting.stderr is not None
    said = ""
    while "running" not in said:
        said += waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _, rest = waiting.communicate(timeout=60)
    errors = said + rest
    assert waiting.returncode == 130, errors
    assert "scancel" in errors
    done = sweep(*arguments)
    assert submitted(sweep) == 2
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2, done.stderr


def test_a_run_longer_than_its_job_goes_on_in_its_next_turn_unless_it_has_none_left(sweep: Shell) -> None:
    """SLURM counts minutes, and warns up to half a minute early: of 20 to 50 seconds; the first turn would take 100."""
    short = ["launch.timeout_min=1", "train.steps=1000", "log_every=50", "data._target_=faults.Slow"]
    none_left = sweep.start("-m", "seed=0", *LAUNCH, *short, "launch.max_num_timeout=0")
    two_turns = sweep.start("-m", "seed=1", *LAUNCH, *short, "launch.max_num_timeout=1")
    _, errors = none_left.communicate(timeout=300)
    assert none_left.returncode == 1, errors
    _, errors = two_turns.communicate(timeout=300)
    assert two_turns.returncode == 0, errors
    by_seed = {r["config"]["seed"]: r for r in records(sweep.folder)}
    assert "FAILED" in by_seed[0]["error"]
    assert len(starts(sweep, by_seed[0]["run_id"])) == 1
    assert [by_seed[seed]["status"] for seed in (0, 1)] == ["failed", "done"]
    first, second = starts(sweep, by_seed[1]["run_id"])
    assert first == 0 < second < 1000


def test_what_was_submitted_is_what_runs(sweep: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package and its config are edited while jobs wait: the config does not matter, the code is refused."""
    here = Path(__file__).parents[2]
    copy = tmp_path / "checkout"
    for name in ("wgan_sweep", "conf"):
        shutil.copytree(here / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(copy))
    held = [*LAUNCH, "launch.wait=false", "+launch.additional_parameters.begin=now+1hour"]
    sweep("-m", "seed=0", "div.k=3", *held)
    loss = copy / "conf" / "div" / "paper.yaml"
    loss.write_text(loss.read_text().replace("p: 6", "p: 5"))
    ask("scontrol", "update", f"JobId={next(iter(jobs(sweep).values()))}", "StartTime=now")
    sweep("-m", "seed=0", "div.k=3", "div.p=6", *LAUNCH)
    (record,) = records(sweep.folder)
    assert record["config"]["div"] == {"k": 3.0, "p": 6.0}
    sweep("-m", "seed=1", "div.p=6", *held)
    module = copy / "wgan_sweep" / "errors.py"
    module.write_text(module.read_text() + "\n# edited\n")
    (job,) = (found for run, found in jobs(sweep).items() if run != 0)
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert accounted(job) == ["FAILED"]
    logs = "".join(p.read_text() for p in (sweep.folder / "runs" / ".slurm" / "jobs").rglob("*.err"))
    assert "was submitted: submit again" in logs
    sweep("-m", "seed=1", "div.p=6", *LAUNCH)
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2


@pytest.mark.parametrize("at_once", [1, 2])
def test_several_runs_share_a_job(sweep: Shell, at_once: int) -> None:
    sweep("-m", "seed=0,1,2", *LAUNCH, "launch.runs_per_job=3", f"launch.side_by_side={at_once}")
    assert submitted(sweep) == 1
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 3


def test_two_processes_of_a_job_share_a_run(sweep: Shell, tmp_path: Path) -> None:
    """Killed in the middle and taken up, it ends as if nothing had been."""
    arguments = ["-m", "seed=0", "train.steps=200", "save_every=20"]
    shared = ["launch.gpus_per_run=2"]
    shell = sweep.start(*arguments, *LAUNCH, *shared)
    sweep.wait_for("checkpoint.pt")
    (record,) = records(sweep.folder)
    os.kill(owner(sweep, record["run_id"]), signal.SIGKILL)
    _, errors = shell.communicate(timeout=240)
    assert shell.returncode == 1, errors
    sweep(*arguments, *LAUNCH, *shared)
    assert records(sweep.folder)[0]["status"] == "done"
    assert len(starts(sweep, record["run_id"])) == 2
    assert_as_if_undisturbed(sweep, tmp_path, *arguments[1:], shared=shared)


def test_a_full_disk_loses_nothing(sweep: Shell, tmp_path: Path) -> None:
    """The folder of runs is a small disk of its own, which fills up while two runs are at work."""
    disk = sweep.folder / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        arguments = ["-m", "seed=0,1", *LONG, "train.steps=600"]
        shell = sweep.start(*arguments, *LAUNCH)
        sweep.wait_for("checkpoint.pt", 2)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        _, errors = shell.communicate(timeout=240)
        assert shell.returncode == 1, errors
        assert "No space left on device" in errors
        assert {state for job in jobs(sweep).values() for state in accounted(job)} == {"FAILED"}
        (disk / "filler").unlink()
        sweep(*arguments, *LAUNCH)
        assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2
        assert all(len(starts(sweep, r["run_id"])) == 2 for r in records(sweep.folder))
        assert_as_if_undisturbed(sweep, tmp_path, *arguments[1:])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
