"""Tests of the own options: each alone, and all of them in a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_options import SiluMLP, drift

FOLDER = Path(__file__).parent


def test_the_loss_is_that_of_wasserstein_plus_the_drift() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -1.0])
    loss = drift(weight=0.5)
    assert float(loss.critic(real, fake)) == pytest.approx(-0.5 - 2 + 0.5 * (1 + 9) / 2)
    assert float(loss.generator(fake)) == pytest.approx(0.5)


def test_the_networks_have_the_shapes_of_the_data() -> None:
    model = SiluMLP(dim=4, latent_dim=3)
    points = model.generator((2,))(torch.randn(5, 3))
    assert points.shape == (5, 2)
    assert model.critic((2,))(points).shape == (5,)


def test_a_run_of_the_experiment_trains(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "wgan_sweep",
        "--config-dir",
        str(FOLDER),
        "experiment=own",
        "loss=drift",
        "seed=0",
    ]
    tiny = ["train.steps=2", "train.batch_size=8", "scorer.num_samples=20", f"runs={tmp_path}"]
    subprocess.run([*command, *tiny], check=True)
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/record.json"))
    assert (record["status"], record["step"]) == ("done", 2)
    assert record["config"]["model"]["_target_"] == "own_options.SiluMLP"
