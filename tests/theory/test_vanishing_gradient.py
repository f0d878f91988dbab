"""The vanishing gradient at the size of the paper: its stages, its plan, and how much of a run its figure shows."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from wgan_sweep.config.schema import conf_dir
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.theory import vanishing

from ..helpers import Shell, append_metrics
from .tables import rows

CIFAR10 = 50_000
"""Number of training images."""


def test_the_stages_are_epochs_of_cifar10_and_each_is_followed_by_all_steps_that_are_shown() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", ["experiment=theory/vanishing_gradient_dcgan"], return_hydra_config=True)
    stages = [int(value) for value in config.hydra.sweeper.params["train.freeze_generator_at"].split(",")]
    assert stages == [round(epochs * CIFAR10 / config.train.batch_size) for epochs in (1, 10, 25)]
    assert max(stages) + config.figure.steps == config.train.steps


@pytest.mark.integration
def test_the_experiment_is_planned(sweep: Shell) -> None:
    arguments = ["experiment=theory/vanishing_gradient_dcgan", "plan=true", "data=npz", f"data.path={sweep.npz}"]
    lines = sweep(*arguments, "device=cpu", "train.batch_size=8", tiny=False).stdout.splitlines()
    for loss in ("gan", "nsgan"):
        for stage in (391, 3906, 9766):
            (line,) = [line for line in lines if f"loss={loss} train.freeze_generator_at={stage}" in line]
            assert "| train " in line
            assert f"{13766 * 8:,}" in line  # images: steps times batch size


def test_only_the_first_steps_after_the_reset_count(tmp_path: Path) -> None:
    config = {"choices": {"loss": "gan"}, "train": {"freeze_generator_at": 10}}
    for step in range(1, 60):
        norm = 4.0 if step <= 12 else 0.25 if step <= 30 else 1e-9
        append_metrics(RunDir(tmp_path / "a"), {"step": step, "generator_gradient_norm": norm})
    record = Record("a", Status.DONE, ["x=1"], config)
    assert rows(vanishing.summarise([record], tmp_path, 20))[1][2:] == ["4.000", "0.2500", "1.2"]
    assert rows(vanishing.summarise([record], tmp_path))[1][2:] == ["4.000", "0.0000", "9.6"]
    append_metrics(RunDir(tmp_path / "b"), {"step": 20, "generator_gradient_norm": 1.0})
    late = Record("b", Status.DONE, ["x=2"], config)
    assert rows(vanishing.summarise([record, late], tmp_path, 9))[1][2] == "4.000"
    assert rows(vanishing.summarise([late], tmp_path, 10))[1][2] == "1.000"
