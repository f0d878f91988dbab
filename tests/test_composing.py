"""The composer of sweeps returns the same configs as Hydra."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wgan_sweep.config import schema as configs
from wgan_sweep.errors import InputError
from wgan_sweep.runs import build
from wgan_sweep.sweeps import compose as compose_module
from wgan_sweep.sweeps import hydra_launcher
from wgan_sweep.sweeps.compose import Composer
from wgan_sweep.sweeps.hydra_launcher import run_config
from wgan_sweep.sweeps.launching import RequestedRun
from wgan_sweep.sweeps.plan import Action, Planner


@pytest.fixture
def loader():
    configs.register()
    hydra_launcher.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configs.conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    GlobalHydra.instance().clear()


def config_or_error(compose, *arguments) -> object:
    try:
        return OmegaConf.to_container(compose(*arguments), resolve=False)
    except (HydraException, OmegaConfBaseException) as error:
        return type(error), str(error)


@pytest.mark.integration
@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1", "div.k=2.5", "data=gaussians8", "model=mlp"],
        ["loss=wgan_gp", "constraint=lipschitz_penalty", "+scorer.during.num_samples=5"],
        ["loss=rpgan", "constraint.r1.weight=3", "+constraint@constraint.sn=spectral_norm", "constraint.r2.every=4"],
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


MIXED = [
    *[
        ["loss=wgan_div", f"div.k={k}", f"div.p={p}", f"seed={seed}"]
        for k in (1, 2.5)
        for p in (2, 6)
        for seed in (0, 1)
    ],
    *[[f"loss={loss}", f"constraint={name}", "seed=3"] for loss in ("wgan", "wgan_gp") for name in ("r1", "none")],
    *[["loss=wgan_gp", f"sampling={name}", f"optimizer.lr={lr}"] for name in ("real", "fake") for lr in (1e-4, 0.001)],
    *[["loss=rpgan", f"+constraint@constraint.x={name}", "seed=3"] for name in ("weight_clip", "gradient_penalty")],
    *[["loss=rpgan", f"constraint.r1.weight={weight}"] for weight in (1, "1.0", 5)],
    ["loss=rpgan", "constraint.r1.weight=-5"],
    *[["model=mlp", "data=gaussians8", "scorer=exact", f"seed={seed}", "div={k:2,p:3}"] for seed in ("'4'", 5)],
    ["train.steps=10", "scorer.num_samples=5", "data.size=40"],
    ["train.batch_size=60000"],
    ["data.size=40"],
    ["+data.nothing=1"],
    ["seed=6"],
    ["++train.more=1"],
    ["seed=two"],
    ["div.p=0.5", "seed=7"],
    ["div.p=0.5", "seed=8"],
    ["device=${train.precision}"],
    ["loss=gan", "div.k=2"],
    ["~train.ema"],
    ["seed=1000000000000000000000"],
    ["loss.k=${hydra.job.name}"],
]
"""Jobs of one sweep: good ones, refused ones, and good ones after refused ones."""


def requested_or_refused(compose, master, job: list[str], plan) -> object:
    """Return the config, the id and the planned action of a job, or why it is refused."""
    try:
        composed = compose(master, list(job))
        run = RequestedRun(run_config(composed, composed.hydra), tuple(job), "", None)
    except InputError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return f"{type(error).__name__}: {error}"
    return repr(run.config), run.identity, plan(run)


@pytest.mark.integration
def test_a_mixed_sweep_has_the_configs_ids_and_refusals_of_plain_hydra(loader, monkeypatch, tmp_path) -> None:
    """The plain path converts every config by OmegaConf, and checks each run on its own."""
    master = loader.load_configuration("config", ["scorer=none", "tracker=none", f"runs={tmp_path}"], RunMode.MULTIRUN)
    common = [f"runs={tmp_path}", "scorer=none", "tracker=none"]
    jobs = [[*common, *job] for job in MIXED]
    load, compose, plan = loader.load_sweep_config, Composer.install(loader), Planner()
    quick = [requested_or_refused(compose, master, job, plan) for job in jobs]
    monkeypatch.setattr(configs, "_typed_if_plain", lambda values: None)
    plain = [requested_or_refused(load, master, job, lambda run: Planner()(run)) for job in jobs]
    assert quick == plain
    assert sum(isinstance(result, str) for result in plain) == 9
    assert sum(not isinstance(result, str) and result[2].action is Action.REFUSE for result in plain) == 5


def test_a_choice_of_groups_is_composed_once_and_each_combination_of_keys_is_compared_once(loader, monkeypatch) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    calls = []
    original = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: calls.append(a[1]) or original(*a))
    compose = Composer.install(loader)
    for seed in range(5):
        assert compose(master, ["loss=wgan", f"seed={seed}"]).seed == seed
    assert calls == [["loss=wgan"], ["loss=wgan", "seed=0"]]
    compose(master, ["loss=wgan", "seed=x"])  # a text instead of a number
    compose(master, ["loss=hinge"])
    assert calls[2:] == [["loss=wgan", "seed=x"], ["loss=hinge"], ["loss=hinge"]]


def test_jobs_are_left_to_hydra_if_it_composes_another_config(loader, monkeypatch) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    compose = Composer.install(loader)
    apply = compose_module.ConfigLoaderImpl._apply_overrides_to_config
    quickly = Composer._quickly

    def wrong(self, *arguments):
        """Compose another seed than the one of the job, as if Hydra's rules had changed."""
        with monkeypatch.context() as patch:
            name = "_apply_overrides_to_config"
            patch.setattr(compose_module.ConfigLoaderImpl, name, lambda values, config: apply(values[1:], config))
            return quickly(self, *arguments)

    monkeypatch.setattr(Composer, "_quickly", wrong)
    assert [compose(master, [f"seed={seed}", "div.k=3"]).seed for seed in (5, 6)] == [5, 6]


def test_values_that_need_no_conversion_give_the_same_config_without_it(loader) -> None:
    for overrides in (["div.k=2"], ["data=gaussians8", "model=mlp", "train.ema=0"], ["train.freeze_generator_at=5"]):
        values = configs._resolve(loader.load_configuration("config", overrides, RunMode.RUN))
        quick = configs._typed_if_plain(values)
        assert quick is not None
        assert repr(quick) == repr(configs._converted(values))
    for key, value in {
        "seed": "3",
        "runs": 2024,
        "device": "${x}",
        "graphs": "???",
        "div": None,
        "log_every": True,
    }.items():
        assert configs._typed_if_plain({**values, key: value}) is None


@pytest.mark.integration
def test_what_runs_of_a_sweep_share_is_checked_once_and_each_option_is_made_once(make, monkeypatch) -> None:
    made = []
    make_object = build.objects.make
    monkeypatch.setattr(
        build.objects, "make", lambda node, key: made.append((key, repr(node))) or make_object(node, key)
    )
    networks = []
    of = build._Choices.networks
    monkeypatch.setattr(build._Choices, "networks", lambda self, seed: networks.append(seed) or of(self, seed))
    check = build.Checker()
    for p in (2, 3):
        for seed in range(3):
            check(make("loss=wgan_div", f"div.p={p}", f"seed={seed}"))
    assert sorted(key for key, _ in made if key in ("loss", "model", "optimizer")) == [
        "loss",
        "loss",
        "model",
        "optimizer",
    ]
    made = [(key, node) for key, node in made if key != "prune"]  # part of the cheap checks that each config passes
    assert len(set(made)) == len(made)
    assert networks == [0]
    for seed in (0, 1):
        with pytest.raises(InputError, match="batch_size=70000 is larger"):
            check(make("train.batch_size=70000", f"seed={seed}"))
    with pytest.raises(InputError, match="seed must be an integer of 64 bits"):
        check(make("loss=wgan_div", "div.p=2", f"seed={10**30}"))
