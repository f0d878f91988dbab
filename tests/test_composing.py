"""The composer of sweeps returns the same configs as Hydra."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wgan_sweep.config import schema as configs
from wgan_sweep.sweeps.compose import Composer


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configs.conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    GlobalHydra.instance().clear()


def config_or_error(compose, *arguments) -> object:
    try:
        return OmegaConf.to_container(compose(*arguments), resolve=False)
    except (HydraException, OmegaConfBaseException) as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1", "div.k=2.5", "data=gaussians8", "model=mlp"],
        ["loss=wgan_gp", "constraint=lipschitz_penalty", "+scorer.during.num_samples=5"],
        ["~train.ema", "seed=2", "hydra.job.name=x"],
        ["experiment=kp_grid", "train.steps=5", "+metric@scorer.metrics.kid=kid"],
        ["div=official_code", "div.p=3", "data.path='a, b'", "++train.more=[1,2]"],
        ["seed=no number", "train.step=3"],
        ["loss=nothing"],
        ["data.nothing=1"],
    ],
    ids=" ".join,
)
def test_a_job_is_composed_like_by_hydra(loader, overrides: list[str]) -> None:
    master = loader.load_configuration("config", ["seed=0"], RunMode.MULTIRUN)
    expected = config_or_error(loader.load_sweep_config, master, list(overrides))
    compose = Composer.install(loader)
    compose(master, ["seed=5", "div.k=9"])  # must not change the base of other jobs
    for call in (compose, loader.load_sweep_config, compose):
        assert config_or_error(call, master, list(overrides)) == expected


def test_a_choice_of_groups_is_composed_once_and_the_second_call_returns_the_first_result(loader, monkeypatch) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    calls = []
    original = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: calls.append(a) or original(*a))
    compose = Composer.install(loader)
    first = compose(master, ["seed=1", "loss=wgan"])
    assert compose(master, ["seed=1", "loss=wgan"]) is first
    third = compose(master, ["seed=1", "loss=wgan"])
    assert third is not first
    assert OmegaConf.to_container(third, resolve=False) == OmegaConf.to_container(first, resolve=False)
    for seed in range(5):
        compose(master, ["loss=wgan", f"seed={seed}"])
    compose(master, ["loss=hinge"])
    assert len(calls) == 2
