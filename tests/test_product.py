"""Every choice with every other: it trains and resumes bitwise, or it is refused; the README's table is made here."""

import copy
import itertools
from pathlib import Path

import pytest
import torch

from wgan_sweep.config.schema import Config, conf_dir
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build, check

README = Path(__file__).parent.parent / "README.md"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


AXES = {group: options(group) for group in ("loss", "constraint", "sampling", "stabiliser")}
SMALL = {"reference": 4, "kernels": 2, "dim": 2}
"""Settings that keep a stabiliser small."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, mnist) -> dict[tuple[str, str], Config]:
    """One composed config per option; those of a whole product are put together from their nodes."""
    import numpy as np
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from wgan_sweep.config import schema as configs

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
    found = {}
    with initialize_config_dir(str(configs.conf_dir()), version_base="1.3"):
        for group, names in AXES.items():
            for name in names:
                extra = [f"{group}={name}"] + (["constraint=gradient_penalty"] if group == "sampling" else [])
                composed = compose("config", [*base, *extra], return_hydra_config=True)
                found[group, name] = configs.finalise(composed, composed.hydra.runtime.choices)
    return found


def combined(
    nodes: dict[tuple[str, str], Config], loss: str, constraint: str | None, sampling: str, stabiliser: str
) -> Config:
    config = copy.deepcopy(nodes["loss", loss])
    if constraint is not None:
        config.constraint = copy.deepcopy(nodes["constraint", constraint].constraint)
    config.stabiliser = {k: SMALL.get(k, v) for k, v in nodes["stabiliser", stabiliser].stabiliser.items()}
    looked_at = nodes["sampling", sampling].sampling
    for node in (config.loss, config.constraint):
        if "sampling" in node and constraint != "r1":
            node["sampling"] = looked_at
    return config


def refusal(config: Config) -> str | None:
    try:
        check(config)
    except InputError as refused:
        return str(refused)
    return None


def trains(config: Config) -> bool:
    reason = refusal(config)
    if reason is not None:
        assert "stabiliser=" in reason
        return False
    through, resumed = build(config).trainer, build(config).trainer
    values, state = {}, None
    for values in through.steps(3):
        assert all(bool(value.isfinite()) for value in values.values())
        if through.step == 2:
            state = copy.deepcopy(through.state_dict())
    assert state is not None
    resumed.load_state_dict(state)
    (again,) = resumed.steps(3)
    assert again.keys() == values.keys()
    assert all(torch.equal(again[name], value) for name, value in values.items())
    for network in ("generator", "critic", "averaged"):
        weights = getattr(resumed, network).state_dict()
        assert all(torch.equal(weights[name], v) for name, v in getattr(through, network).state_dict().items())
    return True


def is_allowed(loss: str, stabiliser: str) -> bool:
    """Say what the rule is: only a loss with labels has labels to smooth."""
    return stabiliser != "label_smoothing" or loss in ("gan", "nsgan", "lsgan")


@pytest.mark.parametrize("loss", AXES["loss"])
@pytest.mark.parametrize("stabiliser", AXES["stabiliser"])
def test_every_loss_with_every_stabiliser(nodes, loss: str, stabiliser: str) -> None:
    assert trains(combined(nodes, loss, None, "real_fake", stabiliser)) == is_allowed(loss, stabiliser)


@pytest.mark.parametrize("loss", AXES["loss"])
@pytest.mark.parametrize("constraint", AXES["constraint"])
def test_every_loss_with_every_constraint_each_at_another_sampling(nodes, loss: str, constraint: str) -> None:
    turn = AXES["loss"].index(loss) + AXES["constraint"].index(constraint)
    assert trains(combined(nodes, loss, constraint, AXES["sampling"][turn % len(AXES["sampling"])], "none"))


@pytest.mark.slow
@pytest.mark.parametrize("stabiliser", AXES["stabiliser"])
def test_the_whole_product(nodes, stabiliser: str) -> None:
    for loss, constraint, sampling in itertools.product(AXES["loss"], AXES["constraint"], AXES["sampling"]):
        found = trains(combined(nodes, loss, constraint, sampling, stabiliser))
        assert found == is_allowed(loss, stabiliser), (loss, constraint, sampling)


def test_the_readmes_table_is_what_is_refused(nodes) -> None:
    losses, stabilisers = AXES["loss"], [name for name in AXES["stabiliser"] if name != "none"]
    lines = ["| | " + " | ".join(f"`{loss}`" for loss in losses) + " |", "|---" * (len(losses) + 1) + "|"]
    for stabiliser in stabilisers:
        row = [refusal(combined(nodes, loss, None, "real_fake", stabiliser)) is None for loss in losses]
        if not all(row):
            lines.append(f"| `{stabiliser}` | " + " | ".join("yes" if fine else "refused" for fine in row) + " |")
    shown = README.read_text().split("<!-- compatibility")[1].split("-->")[1].split("<!--")[0].strip()
    assert shown == "\n".join(lines)
