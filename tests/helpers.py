"""Runs as tests make and compare them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from wgan_sweep.common.progress import Display
from wgan_sweep.config.schema import Config
from wgan_sweep.runs import checkpoints, life
from wgan_sweep.runs.identity import directory_of, run_id
from wgan_sweep.runs.record import Record


def run(config: Config, **arguments) -> Record:
    return life.run(config, overrides=["typed=1"], display=Display(Console(quiet=True)), **arguments)


def trained(config: Config) -> dict:
    state, problems = checkpoints.load(directory_of(config).checkpoint)
    assert state is not None
    assert not problems
    return state["trainer"]


def assert_same_weights(one: Config, other: Config) -> None:
    first, second = trained(one), trained(other)
    assert first["step"] == second["step"]
    for network in ("generator", "critic", "averaged"):
        for name, value in first[network].items():
            assert torch.equal(value, second[network][name]), f"{network}.{name}"


def elsewhere(config: Config, make, tmp_path: Path, *overrides: str) -> Config:
    """Return the same run in another folder."""
    other = make(f"runs={tmp_path / 'other runs'}", *overrides)
    assert run_id(other) == run_id(config)
    return other


def fids(config: Config) -> list[tuple[int, float]]:
    lines = directory_of(config).read_metrics()
    return [(int(line["step"]), line["fid"]) for line in lines if "fid" in line]


class Counting:
    """A scorer that scores by a plan and counts its calls."""

    def __init__(self, fids: list[float], count: int = 2) -> None:
        self.fids = fids
        self.calls = 0
        self.count = count

    def look(self, sample, players) -> None:
        """Do nothing; a test may see what is scored."""

    def describe(self) -> dict[str, str]:
        return {"features": "planned"} if self.count == 2 else {"features": "planned", "generated": str(self.count)}

    def prepare(self) -> None:
        pass

    def __call__(self, sample, players) -> dict[str, float]:
        self.look(sample, players)
        assert sample(2).shape[0] == 2
        self.calls += 1
        return {"fid": self.fids[self.calls - 1], "fid_feature": 2048, "fid_generated": self.count, "fid_real": 4}


@dataclass
class Shell:
    """The installed command in a folder of its own, with overrides for a run of a second."""

    folder: Path
    npz: Path

    def _command(self, *arguments: str, tiny: bool = True) -> list[str]:
        base = ["train.steps=3", "train.batch_size=8", "train.n_critic=1", "model.dim=4", "model.latent_dim=8"]
        base += ["scorer=none", "tracker=none", "device=cpu", "data=npz", f"data.path={self.npz}"]
        flags = [a for a in arguments if a.startswith("-")]  # argparse wants them before the overrides
        rest = [a for a in arguments if not a.startswith("-")]
        return [sys.executable, "-m", "wgan_sweep", *flags, *(base if tiny else []), *rest]

    def __call__(
        self, *arguments: str, code: int = 0, tiny: bool = True, runs: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._command(*arguments, tiny=tiny),
            cwd=self.folder,
            env={**os.environ, **({"WGAN_SWEEP_RUNS": runs} if runs else {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self._command(*arguments),
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, name: str, count: int = 1) -> list[Path]:
        """Wait until so many runs have a file of this name with something in it."""
        deadline = time.monotonic() + 60
        while True:
            found = [p for p in (self.folder / "runs").glob(f"[0-9a-f]*/{name}") if p.stat().st_size]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.1)


def records(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((folder / "runs").glob("*/record.json"))]
