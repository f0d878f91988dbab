"""Recipes of conf/experiment/reference/: their settings are those of the published code (see the files for sources)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from wgan_sweep.common import rng
from wgan_sweep.config import objects
from wgan_sweep.config.players import player_node
from wgan_sweep.config.schema import Config, conf_dir
from wgan_sweep.runs.build import build, check
from wgan_sweep.runs.record import HIGHER_IS_BETTER, LOWER_IS_BETTER
from wgan_sweep.training.critic_updates import updates_at

from .test_docs import GUIDES, codes, rows
from .test_published_models import COUNTS

ADAM, RMSPROP = "torch.optim.Adam", "torch.optim.RMSprop"
CONSTRAINTS = "wgan_sweep.objectives.constraints"
SAMPLING = "wgan_sweep.objectives.sampling"
NONE = {"_target_": f"{CONSTRAINTS}.none"}
SPECTRAL_NORM = {"_target_": f"{CONSTRAINTS}.spectral_norm", "n_power_iterations": 1}


def adam(rate: float, *betas: float) -> dict[str, Any]:
    return {"_target_": ADAM, "_partial_": True, "lr": rate, "betas": list(betas)}


def penalty(weight: float, centre: float, exponent: float, sampling: str) -> dict[str, Any]:
    points = {"_target_": f"{SAMPLING}.{sampling}", "_partial_": True}
    return {
        "_target_": f"{CONSTRAINTS}.gradient_penalty",
        "weight": weight,
        "centre": centre,
        "exponent": exponent,
        "sampling": points,
    }


SETTINGS: dict[str, dict[str, Any]] = {
    "wgan_clip_dcgan": {  # main.py: --lrD, --lrG, --clamp_upper, --Diters, --batchSize, --nz; --adam is off
        "optimizers": 2 * [{"_target_": RMSPROP, "_partial_": True, "lr": 5e-5}],
        "rates": 2 * [(5e-5, 5e-5, 5e-5)],
        "loss": "wgan",
        "constraint": {"_target_": f"{CONSTRAINTS}.weight_clip", "c": 0.01},
        "batch_size": 64,
        "n_critic": 5,
        "updates": [100, 100, 5, 5, 100, 5],
        "latent_dim": 100,
        "data": "lsun",
    },
    "wgan_div_celeba64": {  # wgan_div.py: LR, beta1, beta2, LAMBDA, tf.pow(..., 3), CRITIC_ITERS, BATCH_SIZE, ITERS
        "optimizers": 2 * [adam(2e-4, 0.0, 0.9)],
        "rates": 2 * [(2e-4, 2e-4, 2e-4)],
        "loss": "wgan_div",
        "constraint": NONE,
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
        "optimizers": 2 * [adam(2e-4, 0.5, 0.999)],
        "rates": 2 * [(2e-4, 2e-4, 2e-4)],
        "loss": "wgan_div",
        "constraint": penalty(1.0, 0.0, 6.0, "fake"),
        "k": 1.0,
        "p": 6.0,
        "sampling": "real",
        "batch_size": 64,
        "n_critic": 1,
        "steps": 1_000_000,
        "latent_dim": 128,
        "data": "image_folder",
    },
    "wgan_gp_cifar10": {  # README.md of torch-mimicry; gp_scale of wgan_gp_base.py; linear_decay of scheduler.py
        "optimizers": 2 * [adam(2e-4, 0.0, 0.9)],
        "rates": 2 * [(2e-4, 1e-4, 0.0)],
        "loss": "wgan_gp",
        "constraint": penalty(10.0, 1.0, 2.0, "real_fake"),
        "batch_size": 64,
        "n_critic": 5,
        "steps": 100_000,
        "latent_dim": 128,
        "data": "cifar10",
    },
    "sngan_cifar10": {  # README.md of torch-mimicry; num_iters of spectral_norm.py; linear_decay of scheduler.py
        "optimizers": 2 * [adam(2e-4, 0.0, 0.9)],
        "rates": 2 * [(2e-4, 1e-4, 0.0)],
        "loss": "hinge",
        "constraint": SPECTRAL_NORM,
        "batch_size": 64,
        "n_critic": 5,
        "steps": 100_000,
        "latent_dim": 128,
        "data": "cifar10",
    },
    "sngan_resnet32": {  # Miyato et al. 2018, B.2 and section 4.1; batchsize, dim_z and LinearShift of the code
        "optimizers": 2 * [adam(2e-4, 0.0, 0.9)],
        "rates": 2 * [(2e-4, 1e-4, 0.0)],
        "loss": "hinge",
        "constraint": SPECTRAL_NORM,
        "batch_size": 64,
        "n_critic": 5,
        "steps": 100_000,
        "latent_dim": 128,
        "data": "cifar10",
        "generator_batch_size": 128,  # n_gen_samples
        "generated": 5_000,
        "real": 10_000,
    },
    "wgan_gp_resnet32": {  # gan_cifar_resnet.py: LR, DECAY, beta1, beta2, 10*..., BATCH_SIZE, N_CRITIC, ITERS
        "optimizers": 2 * [adam(2e-4, 0.0, 0.9)],
        "rates": 2 * [(2e-4, 1e-4, 0.0)],
        "loss": "wgan_gp",
        "constraint": penalty(10.0, 1.0, 2.0, "real_fake"),
        "batch_size": 64,
        "generator_batch_size": 128,  # GEN_BS_MULTIPLE
        "n_critic": 5,
        "steps": 100_000,
        "latent_dim": 128,
        "data": "cifar10",
    },
    "ttur_dcgan": {  # Heusel et al. 2017, table 1; run.sh: --beta1, --batch_size; model.py: z_dim, the order of updates
        "optimizers": [adam(1e-5, 0.5, 0.999), adam(5e-4, 0.5, 0.999)],
        "rates": [(1e-5, 1e-5, 1e-5), (5e-4, 5e-4, 5e-4)],
        "loss": "nsgan",
        "constraint": NONE,
        "batch_size": 64,
        "n_critic": 1,
        "steps": 225_000,
        "latent_dim": 100,
        "data": "celeba",
    },
    "r3gan_small": {  # preset CIFAR10 of train.py: lr_scheduler, beta2_scheduler, gamma_scheduler, betas, NoiseDim.
        "optimizers": 2 * [adam(2e-4, 0.0, 0.9)],
        "rates": 2 * [(2e-4, 1.25e-4, 5e-5)],
        "loss": "rpgan",
        "constraint": {
            "_target_": f"{CONSTRAINTS}.all_of",
            "r1": {**penalty(0.025, 0.0, 2.0, "real"), "every": 1},
            "r2": {**penalty(0.025, 0.0, 2.0, "fake"), "every": 1},
        },
        "n_critic": 1,
        "latent_dim": 64,
        "data": "cifar10",
        "ema": 0.999,
    },
}
"""The settings of the published code, by recipe: of both players where there are two, the critic's first."""
RATES_AT = (0, 50_000, 100_000)
"""The steps whose learning rates are compared."""
UPDATES_AT = (0, 24, 25, 499, 500, 501)
"""The steps whose numbers of critic updates are compared."""
FOLDER = conf_dir() / "experiment" / "reference"
FILES = sorted(FOLDER.glob("*.yaml"))
REFERENCE = {"source": str, "metric": str, "value": float, "tolerance": float, "setting": str, "differs": list}
"""The keys of the description of a publication, and the types of their values; value and tolerance may be null."""


def needs_path(name: str) -> bool:
    return SETTINGS[name]["data"] == "image_folder"


def recipe(make, name: str, *overrides: str) -> Config:
    path = ["data.path=images"] if needs_path(name) else []
    config: Config = make(f"experiment=reference/{name}", *path, *overrides, tiny=False)
    return config


def reference_of(file: Path) -> dict[str, Any]:
    """Return what a recipe says of its publication."""
    description: dict[str, Any] = yaml.safe_load(file.read_text())["reference"]
    return description


def rates_of(config: Config, player: str) -> list[float]:
    """Return the learning rates of a player at the steps of `RATES_AT`."""
    rate = player_node(vars(config), f"{player}_optimizer")["lr"]
    make_scheduler = objects.make(player_node(vars(config), f"{player}_schedule"), "schedule")
    if make_scheduler is None:
        return [rate for _ in RATES_AT]
    (factor,) = make_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)).lr_lambdas
    return [rate * factor(step) for step in RATES_AT]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_has_the_published_settings(name: str, make) -> None:
    config = recipe(make, name)
    usual = {"ema": 0.0, "generated": 50_000, "real": None, "generator_batch_size": None}  # scores the generator itself
    published = usual | {"updates": [SETTINGS[name]["n_critic"] for _ in UPDATES_AT]} | SETTINGS[name]
    critic_updates = objects.make(config.critic_updates, "critic_updates")
    players = ("critic", "generator")
    values = {
        "optimizers": [player_node(vars(config), f"{player}_optimizer") for player in players],
        "rates": [pytest.approx(rates_of(config, player), abs=1e-15) for player in players],
        "loss": config.choices["loss"],
        "constraint": config.constraint,
        "k": config.loss.get("k"),
        "p": config.loss.get("p"),
        "sampling": config.choices.get("sampling"),
        "batch_size": config.train.batch_size,
        "generator_batch_size": config.train.generator_batch_size,
        "n_critic": config.train.n_critic,
        "updates": [updates_at(critic_updates, config.train.n_critic, step) for step in UPDATES_AT],
        "steps": config.train.steps,
        "latent_dim": config.model["latent_dim"],
        "data": config.choices["data"],
        "ema": config.train.ema,
        "generated": config.scorer["num_samples"],
        "real": config.scorer["num_real"],
    }
    assert {key: values[key] for key in published} == published


@pytest.mark.integration
@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_has_a_network_whose_number_of_parameters_is_compared_with_the_published_code(name: str, make) -> None:
    """The counts themselves are compared in `test_published_models`."""
    config = recipe(make, name)
    same_option = make(f"model={config.choices['model']}", tiny=False).model == config.model
    assert f"experiment=reference/{name}" in COUNTS or (same_option and f"model={config.choices['model']}" in COUNTS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_describes_its_publication(file: Path) -> None:
    assert file.stem in SETTINGS
    assert yaml.safe_load(file.read_text())["defaults"]
    reference = reference_of(file)
    assert list(reference) == list(REFERENCE)
    for key, kind in REFERENCE.items():
        assert isinstance(reference[key], kind) or (key in ("value", "tolerance") and reference[key] is None), key
    assert (reference["value"] is None) == (reference["tolerance"] is None)
    assert reference["value"] is None or 0 < reference["tolerance"] < reference["value"] / 10
    assert reference["metric"] in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)
    assert reference["differs"]
    assert all(isinstance(difference, str) for difference in reference["differs"])


def test_the_guide_shows_each_recipe_with_its_published_value() -> None:
    table = {codes(cells[0])[0]: cells for title, cells in rows(GUIDES / "choices.md") if title == "recipe"}
    assert set(table) == {f"reference/{file.stem}" for file in FILES}
    for file in FILES:
        value = reference_of(file)["value"]
        assert ("none" if value is None else str(value)) in table[f"reference/{file.stem}"][-1].content


TRAINED = 20
"""Steps that each recipe is trained for in a small size."""


@pytest.mark.integration
@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_trains(name: str, make, tmp_path: Path) -> None:
    """Sizes and data are replaced: images of noise, networks of a few channels, one critic update per step."""
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    small = ["data=npz", f"data.path={tmp_path / 'noise.npz'}", "model.dim=2", "model.latent_dim=4"]
    small += ["train.batch_size=4", "train.n_critic=1", "scorer=none", "tracker=none", "device=cpu"]
    small += needs_path(name) * ["~data.size"]
    config = make(f"experiment=reference/{name}", *small, tiny=False)
    check(config)
    trainer = build(config).trainer
    before = [[parameter.clone() for parameter in network.parameters()] for network in _networks(trainer)]
    last: dict[str, torch.Tensor] = {}
    for last in trainer.steps(TRAINED):
        assert all(bool(value.isfinite()) for value in last.values())
    for network, parameters in zip(_networks(trainer), before, strict=True):
        assert any(not torch.equal(new, old) for new, old in zip(network.parameters(), parameters, strict=True))
    updates = SETTINGS[name].get("updates", [1])[0]  # those of each of the first steps
    assert trainer.images_seen == TRAINED * updates * 4
    for player, (first, _, final) in zip(("critic", "generator"), SETTINGS[name]["rates"], strict=True):
        assert (f"{player}_lr" in last) == (first != final)


def _networks(trainer) -> tuple[torch.nn.Module, torch.nn.Module]:
    return trainer.critic, trainer.generator


@pytest.mark.slow
def test_a_recipe_trains_in_its_full_size(make, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (128, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    small = ["data=npz", f"data.path={tmp_path / 'noise.npz'}", "scorer=none", "tracker=none", "device=cpu"]
    config = make("experiment=reference/ttur_dcgan", *small, tiny=False)
    trainer = build(config).trainer
    for metrics in trainer.steps(TRAINED):
        assert all(bool(value.isfinite()) for value in metrics.values())
    assert trainer.images_seen == TRAINED * 64


def test_the_penalty_of_su_covers_real_and_fake_batches_under_batch_norm(make, npz: Path) -> None:
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
