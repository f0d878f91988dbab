"""Helpers that train runs, compare their results, and call the installed command."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console

from wgan_sweep.common.files import write
from wgan_sweep.common.progress import Display
from wgan_sweep.common.reading import MAX_METRICS_BYTES
from wgan_sweep.config.schema import Config
from wgan_sweep.runs import checkpoints, life
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import identify, run_id
from wgan_sweep.runs.record import Record

from .command_server import CommandServer

T = TypeVar("T")


def directory_of(config: Config) -> RunDir:
    return identify(config).directory


def write_record(directory: RunDir, record: Record) -> None:
    """Write a record into a directory that no process owns."""
    write(directory.record, json.dumps(asdict(record)))


def append_metrics(directory: RunDir, line: dict[str, float]) -> None:
    """Append a line of measurements in a directory that no process owns."""
    directory.path.mkdir(parents=True, exist_ok=True)
    with directory.metrics.open("a") as file:
        file.write(json.dumps(line) + "\n")


def make_unreadable(path: Path, how: str) -> Callable[[], None]:
    """Make reading a file fail, and return a function that makes it as it was.

    Args:
        path: The file.
        how: A key of `UNREADABLE`, which has the reasons that are stated.
    """
    size = path.stat().st_size
    if how == "too large":
        os.truncate(path, MAX_METRICS_BYTES + 1)  # a hole
        return lambda: os.truncate(path, size)
    kept = path.rename(path.with_name("kept"))
    if how == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/proc/self/mem")  # a regular file, whose first byte cannot be read

    def restore() -> None:
        path.rmdir() if how == "a folder" else path.unlink()
        kept.rename(path)

    return restore


UNREADABLE = {
    "an I/O error": "cannot be read (Input/output error)",
    "a folder": "is not a regular file",
    "too large": "bytes, more than the",
}
"""What `make_unreadable` does, and what is said of it."""


def wait_until(condition: Callable[[], T | None]) -> T:
    """Wait until a condition returns something true, and return it; fail when the tests' patience is over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


def lock_owners(runs: Path) -> dict[str, int]:
    """Return the process of every lock that was not released, by run; also of processes that have ended."""
    owners = {}
    for folder in (runs / ".locks").iterdir():
        tokens = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda token: int(token.name))
        with suppress(FileNotFoundError):  # another process has taken over since
            if tokens and (text := tokens[-1].read_text()):
                owners[folder.name] = json.loads(text)["pid"]
    return owners


def run(config: Config, **arguments) -> Record:
    """Train a run in this process, without output."""
    return life.run(config, overrides=["typed=1"], display=Display(Console(quiet=True)), **arguments)


def trainer_state(config: Config) -> dict:
    """Return the trainer's state from the newest checkpoint of a run."""
    state, problems = checkpoints.load(directory_of(config).checkpoint)
    assert state is not None
    assert not problems
    return state["trainer"]


def assert_same_weights(first: Config, second: Config) -> None:
    """Check that the checkpoints of two runs have the same step and bitwise the same weights."""
    first_state, second_state = trainer_state(first), trainer_state(second)
    assert first_state["step"] == second_state["step"]
    for network in ("generator", "critic", "averaged"):
        for name, value in first_state[network].items():
            assert torch.equal(value, second_state[network][name]), f"{network}.{name}"


def same_run_in_other_folder(config: Config, make, tmp_path: Path, *overrides: str) -> Config:
    """Return the config of the same run with another folder of runs."""
    same_run = make(f"runs={tmp_path / 'other runs'}", *overrides)
    assert run_id(same_run) == run_id(config)
    return same_run


def logged_fids(config: Config) -> list[tuple[int, float]]:
    """Return the step and the FID of every line of a run's metrics that has an FID."""
    lines = directory_of(config).read_metrics()
    return [(int(line["step"]), line["fid"]) for line in lines if "fid" in line]


class PlannedScorer:
    """A scorer that returns planned FIDs, one per call, and counts its calls."""

    def __init__(self, fids: list[float], num_generated: int = 2) -> None:
        self.fids = fids
        self.calls = 0
        self.num_generated = num_generated

    def inspect(self, sample, players) -> None:
        """Do nothing. Tests replace this method to inspect what is scored."""

    def describe(self) -> dict[str, str]:
        description = {"features": "planned"}
        return description if self.num_generated == 2 else {**description, "generated": str(self.num_generated)}

    def prepare(self) -> None:
        pass

    def __call__(self, sample, players) -> dict[str, float]:
        self.inspect(sample, players)
        assert sample(2).shape[0] == 2
        self.calls += 1
        fid = self.fids[self.calls - 1]
        return {"fid": fid, "fid_feature": 2048, "fid_generated": self.num_generated, "fid_real": 4}


PATIENCE_SECONDS = 240.0
"""How long tests wait for a process, which may be slow on a busy machine, before they fail."""


def run_process(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process to its end."""
    return subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@dataclass
class Shell:
    """Calls the installed command in a folder, with overrides for a run that takes one second."""

    folder: Path
    npz: Path
    server: CommandServer
    """Runs the commands that are run to their end."""
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    """Commands that were started."""

    def command(self, *arguments: str, tiny: bool = True) -> list[str]:
        """Return the command line."""
        base = ["train.steps=3", "train.batch_size=8", "train.n_critic=1", "model.dim=4", "model.latent_dim=8"]
        base += ["scorer=none", "tracker=none", "device=cpu", "data=npz", f"data.path={self.npz}"]
        flags = [a for a in arguments if a.startswith("-")]  # argparse requires them before the overrides
        overrides = [a for a in arguments if not a.startswith("-")]
        return [sys.executable, "-m", "wgan_sweep", *flags, *(base if tiny else []), *overrides]

    def __call__(
        self, *arguments: str, code: int = 0, tiny: bool = True, runs: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end and check its exit code."""
        return self._run(self.command(*arguments, tiny=tiny), code, {"WGAN_SWEEP_RUNS": runs} if runs else {})

    def call(self, arguments: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command with these arguments only."""
        return self._run([sys.executable, "-m", "wgan_sweep", *arguments], code, {})

    def _run(self, command: list[str], code: int, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **env}
        run = self.server.run if self.server.serves(env) else run_process
        completed = run(command, self.folder, env)
        assert completed.returncode == code, completed.stdout + completed.stderr
        return completed

    def start(
        self, *arguments: str, env: dict[str, str] | None = None, new_session: bool = False
    ) -> "subprocess.Popen[str]":
        """Start the command and return its process."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=new_session,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Kill the commands that are still running, as after a failed assertion, and close all pipes."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait_for(self, name: str, count: int = 1) -> list[Path]:
        """Wait until `count` runs have a non-empty file `name`, and return the files."""

        def files() -> list[Path] | None:
            found = [p for p in (self.folder / "runs").glob(f"[0-9a-f]*/{name}") if p.stat().st_size]
            return found if len(found) >= count else None

        return wait_until(files)


def write_mnist_files(folder: Path, images: np.ndarray, split: str = "train") -> None:
    """Write images, uint8 [N, 28, 28, 1], in the file format of MNIST, with labels 0."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, len(images), 28, 28)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    labels = struct.pack(">II", 0x801, len(images)) + bytes(len(images))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(labels)


def metric_rows(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the metrics of each row, without W&B's own columns."""
    return [
        {k: v for k, v in row.items() if isinstance(v, int | float) and not k.startswith(("_", "samples/"))}
        for row in history
    ]


def metric_lines(directory: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def run_directories(sweep: Shell, count: int = 1) -> list[Path]:
    """Return the directories of all runs, which must be `count`."""
    directories = sorted(p.parent for p in (sweep.folder / "runs").glob("[0-9a-f]*/record.json"))
    assert len(directories) == count
    return directories


def records(folder: Path) -> list[dict]:
    """Return the contents of all record.json files below `folder`/runs."""
    return [json.loads(p.read_text()) for p in sorted((folder / "runs").glob("*/record.json"))]
