"""Combinations of options: each one trains and resumes bitwise, or is refused as the table in the guide says."""

import copy
import itertools
from pathlib import Path

import pytest
import torch

from wgan_sweep.config.schema import Config, conf_dir
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build, check

GUIDE = Path(__file__).parent.parent / ".github" / "guide" / "choices.md"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


OPTIONS = {group: options(group) for group in ("loss", "constraint", "sampling", "stabiliser")}
SMALL = {"reference": 4, "kernels": 2, "dim": 2}
"""Small values for the settings of stabilisers."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory, mnist) -> dict[tuple[str, str], Config]:
    """One composed config per option. The config of a combination is assembled from parts of these."""
    import numpy as np
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from wgan_sweep.config import schema

    folder = tmp_path_factory.mktemp("product")
    np.savez(folder / "images.npz", images=mnist[:16, 6:22, 6:22])
    base = [
        "data=npz",
        f"data.path={folder / 'images.npz'}",
        f"runs={folder}",
        "scorer=none",
        "tracker=none",
        "device=cpu",
    ]
    base += ["train.batch_size=4", "train.n_critic=1", "model.dim=2", "model.latent_dim=4"]
    GlobalHydra.instance().clear()
    configs = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for group, names in OPTIONS.items():
            for name in names:
                extra = [f"{group}={name}"] + (["constraint=gradient_penalty"] if group == "sampling" else [])
                composed = compose("config", [*base, *extra], return_hydra_config=True)
                configs[group, name] = schema.finalise(composed, composed.hydra.runtime.choices)
    return configs


def combine(
    configs: dict[tuple[str, str], Config], loss: str, constraint: str | None, sampling: str, stabiliser: str
) -> Config:
    """Return the config of a combination of options; without a constraint, the loss determines it."""
    config = copy.deepcopy(configs["loss", loss])
    if constraint is not None:
        config.constraint = copy.deepcopy(configs["constraint", constraint].constraint)
    config.stabiliser = {k: SMALL.get(k, v) for k, v in configs["stabiliser", stabiliser].stabiliser.items()}
    scheme = configs["sampling", sampling].sampling
    for node in (config.loss, config.constraint):
        if "sampling" in node and constraint != "r1":
            node["sampling"] = scheme
    return config


def error_message(config: Config) -> str | None:
    """Return the message with which a config is refused, or None if it is accepted."""
    try:
        check(config)
    except InputError as error:
        return str(error)
    return None


def trains_and_resumes(config: Config) -> bool:
    """Return False if the config is refused because of its stabiliser; otherwise check training and return True."""
    message = error_message(config)
    if message is not None:
        assert "stabiliser=" in message
        return False
    uninterrupted, resumed = build(config).trainer, build(config).trainer
    metrics, state = {}, None
    for metrics in uninterrupted.steps(3):
        assert all(bool(value.isfinite()) for value in metrics.values())
        if uninterrupted.step == 2:
            state = copy.deepcopy(uninterrupted.state_dict())
    assert state is not None
    resumed.load_state_dict(state)
    (resumed_metrics,) = resumed.steps(3)
    assert resumed_metrics.keys() == metrics.keys()
    assert all(torch.equal(resumed_metrics[name], value) for name, value in metrics.items())
    for network in ("generator", "critic", "averaged"):
        weights = getattr(resumed, network).state_dict()
        assert all(torch.equal(weights[name], v) for name, v in getattr(uninterrupted, network).state_dict().items())
    return True


def is_allowed(loss: str, stabiliser: str) -> bool:
    """Return the expected result: label smoothing needs a loss with labels."""
    return stabiliser != "label_smoothing" or loss in ("gan", "nsgan", "lsgan")


@pytest.mark.integration
@pytest.mark.parametrize("loss", OPTIONS["loss"])
@pytest.mark.parametrize("stabiliser", OPTIONS["stabiliser"])
def test_every_loss_with_every_stabiliser(configs, loss: str, stabiliser: str) -> None:
    assert trains_and_resumes(combine(configs, loss, None, "real_fake", stabiliser)) == is_allowed(loss, stabiliser)


@pytest.mark.integration
@pytest.mark.parametrize("loss", OPTIONS["loss"])
@pytest.mark.parametrize("constraint", OPTIONS["constraint"])
def test_every_loss_with_every_constraint_at_alternating_sampling_schemes(configs, loss: str, constraint: str) -> None:
    index = OPTIONS["loss"].index(loss) + OPTIONS["constraint"].index(constraint)
    sampling = OPTIONS["sampling"][index % len(OPTIONS["sampling"])]
    assert trains_and_resumes(combine(configs, loss, constraint, sampling, "none"))


@pytest.mark.slow
@pytest.mark.parametrize("stabiliser", OPTIONS["stabiliser"])
def test_all_combinations(configs, stabiliser: str) -> None:
    for loss, constraint, sampling in itertools.product(OPTIONS["loss"], OPTIONS["constraint"], OPTIONS["sampling"]):
        trains = trains_and_resumes(combine(configs, loss, constraint, sampling, stabiliser))
        assert trains == is_allowed(loss, stabiliser), (loss, constraint, sampling)


@pytest.mark.integration
def test_the_table_in_the_guide_shows_the_refused_combinations(configs) -> None:
    losses, stabilisers = OPTIONS["loss"], [name for name in OPTIONS["stabiliser"] if name != "none"]
    lines = ["| | " + " | ".join(f"`{loss}`" for loss in losses) + " |", "|---" * (len(losses) + 1) + "|"]
    for stabiliser in stabilisers:
        accepted = [error_message(combine(configs, loss, None, "real_fake", stabiliser)) is None for loss in losses]
        if not all(accepted):
            lines.append(f"| `{stabiliser}` | " + " | ".join("yes" if a else "refused" for a in accepted) + " |")
    table = GUIDE.read_text().split("<!-- compatibility")[1].split("-->")[1].split("<!--")[0].strip()
    assert table == "\n".join(lines)
