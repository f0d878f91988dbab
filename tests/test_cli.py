"""The command `wgan-sweep`: sweeps, single runs, refusals, plans, Ctrl-C, and Hydra's own features."""

import itertools
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from PIL import Image

from wgan_sweep.runs.requests import not_started
from wgan_sweep.sweeps import state

from .helpers import PATIENCE_SECONDS, Shell, lock_owners, records


def test_a_sweep_trains_its_grid_once_and_prints_its_table(sweep) -> None:
    arguments = ["-m", "loss=wgan_div", "div.k=1,2", "div.p=2,6"]
    done = sweep(*arguments)
    runs = records(sweep.folder)
    assert sorted((r["config"]["div"]["k"], r["config"]["div"]["p"]) for r in runs) == [(1, 2), (1, 6), (2, 2), (2, 6)]
    assert all(r["status"] == "done" for r in runs)
    lines = done.stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("| div.k"))
    assert re.split(r"\s*\|\s*", lines[header])[1:4] == ["div.k", "div.p=2", "div.p=6"]
    assert len([line for line in lines if line.startswith("samples ")]) == 4
    sheet = re.search(r"figure +(.*)", done.stdout)
    assert sheet is not None
    with Image.open(sweep.folder / sheet[1]) as picture:
        assert str(picture.info["Description"]).splitlines()[:4] == lines[header : header + 4]
    assert "wgan-report runs" in done.stdout
    before = {p: p.stat().st_mtime_ns for p in (sweep.folder / "runs").glob("[0-9a-f]*/*")}
    again = sweep(*arguments)
    assert again.stderr.count("nothing left to do") == 4
    assert [line for line in again.stdout.splitlines() if line.startswith("|")] == [
        s for s in lines if s.startswith("|")
    ]
    assert {p: p.stat().st_mtime_ns for p in (sweep.folder / "runs").glob("[0-9a-f]*/*")} == before
    assert {p.name for p in sweep.folder.iterdir()} == {"runs"}


def test_a_larger_grid_trains_only_the_missing_runs(sweep) -> None:
    sweep("-m", "div.k=1,2")
    done = sweep("-m", "div.k=1,2,3")
    assert done.stderr.count("nothing left to do") == 2
    assert len(records(sweep.folder)) == 3


def test_a_finished_run_can_be_trained_to_more_steps(sweep) -> None:
    sweep()
    sweep("train.steps=5")
    (record,) = records(sweep.folder)
    assert record["step"] == 5


def test_a_diverged_run_does_not_stop_the_sweep_but_sets_its_exit_code(sweep) -> None:
    done = sweep("-m", "optimizer.lr=1e30,1e-4", code=1)
    assert sorted(r["status"] for r in records(sweep.folder)) == ["diverged", "done"]
    assert "1 diverged" in done.stdout
    assert "not finite at step" in done.stdout


def test_a_single_run_that_diverges_exits_with_1(sweep) -> None:
    assert "diverged" in sweep("optimizer.lr=1e30", code=1).stderr


def test_a_run_that_turns_out_invalid_does_not_stop_the_others(sweep) -> None:
    sweep("-m", "div.k=1,2")
    first, second = sorted((sweep.folder / "runs").glob("[0-9a-f]*"))
    (first / "checkpoint.pt").write_bytes((second / "checkpoint.pt").read_bytes())
    done = sweep("-m", "div.k=1,2,3", "train.steps=4", code=1)
    assert "belongs to another config" in done.stderr
    assert sorted(r["step"] for r in records(sweep.folder)) == [3, 4, 4]
    assert "| div.k" in done.stdout


def test_an_unknown_key_is_refused_in_a_sweep(sweep) -> None:
    done = sweep("-m", "+model.depth=3", "div.k=1,2", code=1)
    assert "model has no depth" in done.stderr
    done = sweep("-m", "div.kk=1,2", code=1)
    assert "div.kk" in done.stderr
    assert "Warning" not in done.stderr
    assert not records(sweep.folder)


def test_a_key_that_only_the_options_of_a_sweep_have_is_written_with_two_plus_signs(sweep) -> None:
    arguments = ["-m", "schedule=linear,cosine", "plan=true"]
    assert "write ++schedule.steps=" in sweep(*arguments, "schedule.steps=9", code=1).stderr
    assert "2 to train" in sweep(*arguments, "++schedule.steps=9").stdout


def test_a_figure_that_cannot_show_the_runs_does_not_take_the_table_with_it(sweep) -> None:
    (sweep.folder / "mine.py").write_text("def odd(records, runs):\n    return records[7]\n")
    done = sweep("-m", "div.k=1,2", "figure._target_=mine.odd", code=1)
    assert "figure=samples cannot show these runs (IndexError: list index out of range, mine.py:2)" in done.stdout
    assert "| div.k" in done.stdout
    assert "Traceback" not in done.stderr
    assert "No finished run has what this figure shows." in sweep("-m", "div.k=1,2", "figure=modes").stdout


@pytest.mark.parametrize("name", ["it's a=b,c", 'say "ü"'])
def test_the_folder_of_runs_may_have_any_name(sweep, name: str) -> None:
    folder = sweep.folder / name
    done = sweep("-m", "div.k=1,2", runs=str(folder))
    assert len(list(folder.glob("*/record.json"))) == 2
    hint = next(line for line in done.stdout.splitlines() if line.startswith("report "))
    assert shlex.split(hint)[1:] == ["wgan-report", name]


REFUSED = [
    (["div.kk=1"], ["div.kk"]),
    (["loss=wgan_foo"], ["wgan_foo", "wgan_gp"]),
    (["train.steps=many"], ["train.steps", "many"]),
    (["div.k=-1"], ["div.k", "-1", "above 0"]),
    (["loss=wgan", "div.k=1"], ["div.k", "nothing refers to it", "loss=wgan"]),
    (["data.path=/no/such.npz"], ["/no/such.npz"]),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=lambda v: " ".join(v) if v else "")
def test_invalid_input_is_refused_before_anything_starts(sweep, arguments: list[str], words: list[str]) -> None:
    done = sweep(*arguments, code=1)
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not records(sweep.folder)


def test_an_invalid_run_stops_a_sweep_before_its_first_run(sweep) -> None:
    done = sweep("-m", "div.k=1,2,-3,0", code=1)
    assert "2 of 4 runs of the sweep cannot work" in done.stderr
    assert done.stderr.count("div.k must be above 0") == 2
    assert not records(sweep.folder)


def test_a_missing_value_is_named_in_the_message(sweep) -> None:
    done = sweep("data=npz", code=1, tiny=False)
    assert "data.path" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_can_restrict_an_experiment(sweep) -> None:
    sweep("experiment=kp_grid", "div.k=1,2", "div.p=6", "seed=0")
    assert sorted(r["config"]["div"]["k"] for r in records(sweep.folder)) == [1, 2]


def test_the_config_file_of_a_run_requests_the_same_run(sweep) -> None:
    sweep("seed=4")
    (record,) = records(sweep.folder)
    folder = sweep.folder / "runs" / record["run_id"]
    done = sweep(f"--config-path={folder}", "--config-name=config", tiny=False)
    assert re.search(rf"^{record['run_id']} .* done at step 3", done.stderr)
    assert "nothing left to do" in done.stderr
    assert done.stdout == ""
    done = sweep("-m", f"--config-path={folder}", "--config-name=config", "seed=4,5", tiny=False)
    assert "| seed" not in done.stdout
    assert len(records(sweep.folder)) == 2
    assert {p.name for p in sweep.folder.iterdir()} == {"runs"}


def test_a_site_can_set_keys_of_a_launcher_in_a_file(sweep) -> None:
    site = sweep.folder / "site" / "launch"
    site.mkdir(parents=True)
    (site / "ours.yaml").write_text("defaults: [slurm]\npartition: gpu\nsetup: [module load cuda]\n")
    arguments = [f"--config-dir={site.parent}", "--cfg", "job", "--resolve", "--package", "launch"]
    done = subprocess.run(
        [sys.executable, "-m", "wgan_sweep", *arguments, "launch=ours", "launch.gpus_per_run=2"],
        cwd=sweep.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    launch = OmegaConf.to_container(OmegaConf.create(done.stdout))
    assert launch["_target_"] == "wgan_sweep.sweeps.slurm.Slurm"
    assert (launch["partition"], launch["setup"], launch["gpus_per_node"]) == ("gpu", ["module load cuda"], 2)


@pytest.mark.integration
def test_training_does_not_load_unused_packages(sweep) -> None:
    program = "import sys; from wgan_sweep.commands.sweep import main; sys.argv[0] = 'wgan-sweep'; main(); "
    program += "print(sorted({'wandb', 'torchmetrics', 'matplotlib'} & set(sys.modules)))"
    arguments = sweep.command("seed=1")[3:]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=sweep.folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.integration
def test_a_sweep_on_points_does_not_load_networks_of_images(sweep) -> None:
    program = "import sys; from wgan_sweep.commands.sweep import main; sys.argv[0] = 'wgan-sweep'; main(); "
    program += "print('loaded:', sorted({'torchvision', 'torch_fidelity', 'torchmetrics'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program, "data=gaussians8", "tracker=none", "plan=true"],
        cwd=sweep.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "loaded: []" in done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("option", [["--help"], ["--cfg", "job"]])
def test_help_imports_no_heavy_packages(tmp_path: Path, option: list[str]) -> None:
    program = """if True:
        import atexit, sys
        from wgan_sweep.commands.sweep import main
        heavy = lambda: sorted({'torch', 'wandb', 'torchvision', 'mlxtend', 'matplotlib'} & set(sys.modules))
        atexit.register(lambda: print('heavy:', heavy()))
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *option], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "heavy: []" in done.stdout
    assert (
        "wgan_div" in done.stdout or "WassersteinDivergence" in done.stdout or "wasserstein_divergence" in done.stdout
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_two_commands_with_overlapping_sweeps_train_every_run_once(sweep) -> None:
    def start(*grid: str) -> subprocess.Popen[str]:
        # Two processes with two threads each would slow each other down.
        return sweep.start("-m", "train.steps=40", "log_every=40", *grid, env={"OMP_NUM_THREADS": "1"})

    running = [start("div.k=1,2,3"), start("div.k=3,2,1,4")]
    outputs = [process.communicate(timeout=PATIENCE_SECONDS) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    runs = records(sweep.folder)
    assert [r["status"] for r in runs] == ["done"] * 4
    for path in (sweep.folder / "runs").glob("[0-9a-f]*/log.txt"):
        assert path.read_text().count("starting at step") == 1
    for (table, _), count in zip(outputs, (3, 4), strict=True):
        assert f"{count} of them" in table
        assert "not started" not in table
    assert not list((sweep.folder / "runs" / ".sweeps").glob("*/not_started.json"))
    assert lock_owners(sweep.folder / "runs") == {}


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_waited_for(sweep) -> None:
    """The first command is killed during training; the second one takes over the run and completes it."""
    arguments = ["train.steps=100000", "save_every=5", "log_every=5"]
    first = sweep.start(*arguments)
    sweep.wait_for("checkpoint.pt")
    second = sweep.start(*arguments, "train.steps=12")
    assert second.stderr is not None
    line = second.stderr.readline()
    assert f"waiting: process {first.pid} on" in line, line
    first.kill()
    first.wait()
    _, rest = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, rest
    assert f"from process {first.pid}" in rest
    (record,) = records(sweep.folder)
    assert record["status"] == "done"
    assert record["step"] >= 12


def test_a_plan_shows_what_would_be_done_and_writes_nothing(sweep) -> None:
    sweep("-m", "div.k=1,2")

    def files() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns if p.is_file() else 0 for p in (sweep.folder / "runs").rglob("*")}

    before = files()
    done = sweep("-m", "div.k=1,2,4,-1", "train.steps=5", "plan=true")
    table = [re.split(r"\s*\|\s*", line) for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[2] for row in table] == ["resume", "resume", "train", "refuse"]
    assert [row[5] for row in table] == ["div.k=1", "div.k=2", "div.k=4", "div.k=-1"]
    assert "above 0" in table[-1][6]
    assert "4 runs: 2 to resume, 1 to train, 1 to refuse; 72 images." in done.stdout  # 2 x 2 steps and 5, of 8 images
    assert re.search(r"About \d:\d\d:\d\d if trained one after another, estimated from earlier runs", done.stdout)
    alone = sweep("div.k=1", "runs=runs", "plan=true").stdout
    assert "1 runs: 1 to skip; 0 images." in alone
    assert "| train.batch_size=8 train.n_critic=1 model.dim=4 model.latent_dim=8 data=npz div.k=1 |" in alone
    assert files() == before


def start_a_long_sweep(sweep: Shell, *overrides: str) -> subprocess.Popen[str]:
    process = sweep.start("-m", *overrides, "train.steps=100000", "save_every=100000", "log_every=5", "div.k=1,2")
    sweep.wait_for("metrics.jsonl")
    return process


@pytest.mark.integration
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("local", signal.SIGINT),
        ("parallel", signal.SIGTERM),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(["local", "parallel"], [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            if case not in {("local", signal.SIGINT), ("parallel", signal.SIGTERM)}
        ),
    ],
)
def test_a_signal_saves_a_checkpoint_and_prints_the_table_of_the_sweep(sweep, launcher: str, number: int) -> None:
    process = start_a_long_sweep(sweep, f"launch={launcher}", *(["launch.jobs=1"] if launcher == "parallel" else []))
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number, errors
    assert "stopping at the next step" in errors
    assert "run the same command again to resume" in errors
    assert "1 dead" in output  # no process works on it any more
    assert "1 not started" in output
    (record,) = records(sweep.folder)
    assert len(not_started(sweep.folder / "runs")) == 1
    assert record["status"] == "running"
    (path,) = (sweep.folder / "runs").glob("[0-9a-f]*")
    steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert record["step"] >= max(steps) > 0
    assert (path / "checkpoint.pt").exists()
    assert lock_owners(sweep.folder / "runs") == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # pty.fork, from Python 3.12
def test_a_run_saves_when_its_terminal_closes(sweep) -> None:
    """All output goes to the terminal, so that every write fails from then on."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(sweep.folder)
        command = sweep.command("train.steps=100000", "save_every=100000", "log_every=5")
        os.execv(command[0], command)  # noqa: S606
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list((sweep.folder / "runs").glob("*/metrics.jsonl")):
        with suppress(BlockingIOError):
            os.read(terminal, 65536)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.close(terminal)  # sends SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    (record,) = records(sweep.folder)
    assert record["status"] == "running"
    assert record["step"] > 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals_that_repeat_the_first_one_do_not_stop_at_once(number: int, monkeypatch, capsys) -> None:
    """When a terminal closes, bash sends SIGHUP to its jobs, and at its end the kernel sends it again."""
    now = 100.0
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(state, "discard_output_to_closed_terminal", lambda: None)
    command = state.CommandState()
    command.request_stop(signal.SIGHUP)
    now += 0.0002
    command.request_stop(number)
    now += 0.5
    command.request_stop(number)
    assert command.stop_signal == signal.SIGHUP
    now += 1.0
    if number == signal.SIGHUP:
        command.request_stop(number)
    else:
        with pytest.raises(KeyboardInterrupt):
            command.request_stop(number)
    assert command.stop_signal == number
    assert capsys.readouterr().err.count("stopping at the next step") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_command_at_once(sweep, number: int) -> None:
    long_steps = ["train.n_critic=20000", "train.steps=100000", "save_every=100000", "log_every=1"]
    process = sweep.start("-m", *long_steps, "div.k=1,2")
    sweep.wait_for("record.json")  # it is written before the first step
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # two signals that are pending together are one; both arrive before the next step
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number
    assert "run the same command again to resume" in errors


@pytest.mark.slow
def test_optuna_minimises_the_best_metric_value_and_survives_a_diverged_run(sweep) -> None:
    points = ["data=gaussians8", "model=mlp", "scorer=exact", "scorer.num_samples=100"]
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=5", "seed=range(0,2)"]
    fixed = ["train.steps=3", "train.batch_size=8", "model.dim=4", "tracker=none", "device=cpu"]
    sampler = ["hydra.sweeper.sampler.seed=3", "optimizer.lr=choice(1e30,1e-3)"]
    done = sweep("-m", *points, *search, *fixed, *sampler, tiny=False, code=1)
    runs = records(sweep.folder)
    assert {r["status"] for r in runs} == {"done", "diverged"}
    (result,) = (sweep.folder / "runs" / ".sweeps").glob("*/optimization_results.yaml")
    best = min((r for r in runs if r["status"] == "done"), key=lambda r: r["best"]["w1"])
    assert f"best_value: {best['best']['w1']}" in result.read_text()
    assert f"seed: {best['config']['seed']}" in result.read_text()
    assert "best_value" in done.stdout


@pytest.mark.parametrize("launcher", ["basic", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_another_hydra_launcher_trains_a_sweep(sweep, launcher: str) -> None:
    done = sweep("-m", "seed=0,1", f"hydra/launcher={launcher}")
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 2
    assert "report    wgan-report runs" in done.stdout
    assert list((sweep.folder / "runs" / ".sweeps").glob("*/multirun.yaml"))
