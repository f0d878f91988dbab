"""Runs as tests make and compare them."""

from pathlib import Path

import torch
from rich.console import Console

from wgan_sweep import checkpoints, driver
from wgan_sweep.config import Config, run_id
from wgan_sweep.progress import Display
from wgan_sweep.runs import Record


def run(config: Config, **arguments) -> Record:
    return driver.run(config, overrides=["typed=1"], display=Display(Console(quiet=True)), **arguments)


def trained(config: Config) -> dict:
    state, problems = checkpoints.load(driver.directory_of(config).checkpoint)
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
    lines = driver.directory_of(config).read_metrics()
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
