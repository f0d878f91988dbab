"""Recipes of conf/experiment/reference/: their settings are those of the published code (see the files for sources)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from wgan_sweep.common import rng
from wgan_sweep.config.reference import read_reference
from wgan_sweep.config.schema import conf_dir
from wgan_sweep.runs.build import build

ADAM, RMSPROP = "torch.optim.Adam", "torch.optim.RMSprop"
SETTINGS: dict[str, dict[str, Any]] = {
    "wgan_clip_dcgan": {  # main.py: --lrD, --lrG, --clamp_upper, --Diters, --batchSize, --nz; --adam is off
        "optimizer": {"_target_": RMSPROP, "_partial_": True, "lr": 5e-5},
        "constraint": {"_target_": "wgan_sweep.objectives.constraints.weight_clip", "c": 0.01},
        "batch_size": 64,
        "n_critic": 5,
        "latent_dim": 100,
        "data": "lsun",
    },
    "wgan_div_celeba64": {  # wgan_div.py: LR, beta1, beta2, LAMBDA, tf.pow(..., 3), CRITIC_ITERS, BATCH_SIZE, ITERS
        "optimizer": {"_target_": ADAM, "_partial_": True, "lr": 2e-4, "betas": [0.0, 0.9]},
        "constraint": {"_target_": "wgan_sweep.objectives.constraints.none"},
        "k": 10.0,
        "p": 6.0,
        "sampling": "real_fake",
        "batch_size": 64,
        "n_critic": 4,
        "steps": 200_000,
        "latent_dim": 128,
        "data": "celeba",
    },
    "wgan_div_su": {  # wgan_div_celeba.py: Adam(2e-4, 0.5), whose second beta is 0.999; k, p, batch_size, range(1)
        "optimizer": {"_target_": ADAM, "_partial_": True, "lr": 2e-4, "betas": [0.5, 0.999]},
        "constraint": {
            "_target_": "wgan_sweep.objectives.constraints.gradient_penalty",
            "weight": 1.0,
            "centre": 0.0,
            "exponent": 6.0,
            "sampling": {"_target_": "wgan_sweep.objectives.sampling.fake", "_partial_": True},
        },
        "k": 1.0,
        "p": 6.0,
        "sampling": "real",
        "batch_size": 64,
        "n_critic": 1,
        "steps": 1_000_000,
        "latent_dim": 128,
        "data": "image_folder",
    },
}
"""The settings of the published code, by recipe."""
FOLDER = conf_dir() / "experiment" / "reference"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_has_the_published_settings(name: str, make) -> None:
    path = ["data.path=images"] if SETTINGS[name]["data"] == "image_folder" else []
    config = make(f"experiment=reference/{name}", *path, tiny=False)
    published = SETTINGS[name]
    values = {
        "optimizer": config.optimizer,
        "constraint": config.constraint,
        "k": config.loss.get("k"),
        "p": config.loss.get("p"),
        "sampling": config.choices.get("sampling"),
        "batch_size": config.train.batch_size,
        "n_critic": config.train.n_critic,
        "steps": config.train.steps,
        "latent_dim": config.model["latent_dim"],
        "data": config.choices["data"],
    }
    assert {key: values[key] for key in published} == published
    assert config.train.ema == 0  # the generator itself is scored
    assert config.scorer["num_samples"] == 50_000


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_names_its_source_its_published_value_and_the_differences(file: Path) -> None:
    assert file.stem in SETTINGS
    values = yaml.safe_load(file.read_text())
    assert values["defaults"]
    reference = read_reference(values["reference"])
    assert reference is not None
    assert set(values["reference"]) == {"source", "metric", "value", "tolerance", "setting", "differs"}
    assert reference.setting
    assert reference.differs


def test_the_penalty_of_su_is_that_of_all_real_and_fake_examples_with_batch_norm_in_the_critic(make, npz: Path) -> None:
    """The objective, against autograd on the two batches, each normalised by itself."""
    small = ["data=npz", f"data.path={npz}", "~data.size", "model.dim=2", "model.max_factor=2", "train.batch_size=8"]
    config = make("experiment=reference/wgan_div_su", *small, "scorer=none", "tracker=none", "device=cpu", tiny=False)
    trainer = build(config).trainer
    objective, critic = trainer._objective, trainer.critic.double()
    real, fake = torch.randn(2, 8, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual, _ = objective.loss_and_metrics(objective.prepare(real, fake, rng.generator(0)), critic, critic)
    expected, k, p = (critic(fake) - critic(real)).mean(), 2, 6  # the code's critic is this one times -1
    for batch in (real, fake):
        points = batch.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        penalty = gradient.flatten(1).square().sum(1).pow(p / 2).mean()
        assert penalty.item() > 0
        expected = expected + penalty * k / 2
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    parameters = list(critic.parameters())
    for found, value in zip(*(torch.autograd.grad(loss, parameters) for loss in (actual, expected)), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-12)
