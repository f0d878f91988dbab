"""The GPU hours of a plan: those that runs of the same kind took on GPUs of each name, and no other figure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from wgan_sweep.common import devices
from wgan_sweep.common.devices import SEVERAL
from wgan_sweep.config.schema import Config
from wgan_sweep.runs import loop
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.sweeps.launching import RequestedRun
from wgan_sweep.sweeps.plan import describe_plan

from .helpers import directory_of, run, write_record

STEPS = 1000
IMAGES = STEPS * 2 * 8
"""Images of a planned run: steps, critic updates per step, images of a batch."""


def earlier_run(config: Config, name: str, gpu: str | None, seconds: float) -> Record:
    """Return the record of a run of 100 images."""
    values = json.loads(json.dumps(asdict(config)))
    execution = {"precision": "fp32", **({} if gpu is None else {"gpu": gpu})}
    return Record(name, Status.DONE, config=values, images_seen=100, seconds=seconds, execution=execution)


def plan_of(configs: Sequence[Config], earlier: Sequence[Record]) -> list[str]:
    """Return the lines of a plan that name GPU hours, given earlier runs."""
    for record in earlier:
        write_record(RunDir(Path(configs[0].runs) / record.run_id), record)
    runs = [RequestedRun(config, (f"seed={config.seed}",), f"seed={config.seed}", "s") for config in configs]
    return [line for line in describe_plan(runs, {}).splitlines() if "GPU hours" in line]


def test_a_plan_gives_the_gpu_hours_that_runs_of_the_same_kind_took_on_each_gpu(make) -> None:
    config, other = make(f"train.steps={STEPS}"), make(f"train.steps={STEPS}", "train.batch_size=4")
    on_two = replace(config, launch={**config.launch, "gpus_per_run": 2})
    earlier = [
        earlier_run(replace(config, seed=5), "a", "NVIDIA A", 36.0),
        earlier_run(replace(config, seed=6), "b", "NVIDIA A", 72.0),
        earlier_run(replace(config, seed=7), "c", "NVIDIA A", 3600.0),  # an outlier: the median counts
        earlier_run(on_two, "d", "NVIDIA B", 18.0),
        earlier_run(config, "e", SEVERAL, 1.0),
        earlier_run(config, "f", None, 1.0),
        earlier_run(other, "g", "NVIDIA C", 36.0),
    ]
    first, second = config, replace(config, seed=1)
    hours_on_a, hours_on_b = 2 * IMAGES * 0.72 / 3600, 2 * IMAGES * 0.36 / 3600
    assert plan_of([first, second], earlier) == [
        f"About {hours_on_a:.3g} GPU hours on NVIDIA A, from 3 earlier runs of the same kind.",
        f"About {hours_on_b:.3g} GPU hours on NVIDIA B, from 1 earlier run of the same kind.",
    ]
    assert (hours_on_a, hours_on_b) == pytest.approx((6.4, 3.2))
    assert plan_of([first, replace(other, seed=2)], earlier) == [
        "About 3.2 GPU hours on NVIDIA A, from 3 earlier runs of the same kind; no figure for 1 of 2 runs.",
        "About 1.6 GPU hours on NVIDIA B, from 1 earlier run of the same kind; no figure for 1 of 2 runs.",
        "About 0.8 GPU hours on NVIDIA C, from 1 earlier run of the same kind; no figure for 1 of 2 runs.",
    ]


@pytest.mark.parametrize("other", ["model.dim=8", "train.batch_size=4", "train.n_critic=1", "loss=wgan_gp"])
def test_a_plan_gives_no_gpu_hours_from_runs_of_another_kind(make, other: str) -> None:
    assert plan_of([make(f"train.steps={STEPS}")], [earlier_run(make(other), "a", "NVIDIA A", 36.0)]) == []


@pytest.mark.integration
def test_a_record_has_the_name_of_the_gpu_and_says_if_there_were_several(make, monkeypatch) -> None:
    """With a stand-in for the GPU's name: a run of three steps on it, three more on another, and three on the first."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    assert devices.gpu_name(torch.device("cuda:1")) == "name of cuda:1"
    assert devices.gpu_name(torch.device("cpu")) is None
    names = []
    for steps, name in ((3, "NVIDIA A"), (6, "NVIDIA A"), (9, None), (12, "NVIDIA A")):
        monkeypatch.setattr(loop, "gpu_name", lambda _, name=name: name)
        run(make(f"train.steps={steps}"))
        names.append(directory_of(make()).read_record().execution.get("gpu"))
    assert names == ["NVIDIA A", "NVIDIA A", SEVERAL, SEVERAL]
    monkeypatch.setattr(loop, "gpu_name", lambda _: None)
    assert "gpu" not in run(make("train.steps=3", "seed=1")).execution
