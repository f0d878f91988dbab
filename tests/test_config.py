"""Composed configs: defaults, precedence, YAML, overrides without effect, and refused values."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from wgan_sweep.config import schema as configs
from wgan_sweep.config.keys import science_overrides
from wgan_sweep.config.schema import conf_dir, unused_overrides
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build, check
from wgan_sweep.runs.identity import run_id


def test_the_defaults_are_those_of_the_paper(make) -> None:
    config = make(tiny=False)
    assert (config.div.k, config.div.p) == (2, 6)
    assert config.choices["sampling"] == "real_fake"
    assert config.optimizer["lr"] == 2e-4
    assert config.optimizer["betas"] == [0, 0.9]


@pytest.mark.parametrize(
    ("loss", "constraint", "target", "lr", "n_critic"),
    [
        ("wgan_div", "none", "torch.optim.Adam", 2e-4, 4),
        ("wgan_gp", "gradient_penalty", "torch.optim.Adam", 1e-4, 5),
        ("wgan", "weight_clip", "torch.optim.RMSprop", 5e-5, 5),
        ("nsgan", "none", "torch.optim.Adam", 2e-4, 1),
        ("gan", "none", "torch.optim.Adam", 2e-4, 1),
        ("lsgan", "none", "torch.optim.Adam", 2e-4, 1),
        ("hinge", "spectral_norm", "torch.optim.Adam", 2e-4, 5),
        ("relativistic_average", "spectral_norm", "torch.optim.Adam", 2e-4, 1),
        ("rpgan", "r1_r2", "torch.optim.Adam", 2e-4, 1),
    ],
)
def test_a_loss_sets_the_constraint_and_optimizer_it_was_published_with(
    make, loss, constraint, target, lr, n_critic
) -> None:
    config = make(f"loss={loss}", tiny=False)
    assert config.choices["constraint"] == constraint
    assert config.optimizer["_target_"] == target
    assert config.optimizer["lr"] == lr
    assert config.train.n_critic == n_critic


def test_overrides_take_precedence_over_the_settings_of_a_loss(make) -> None:
    config = make("loss=wgan_gp", "constraint=spectral_norm", "optimizer=rmsprop", "train.n_critic=2", "optimizer.lr=1")
    assert config.choices["constraint"] == "spectral_norm"
    assert config.optimizer == {"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 1}
    assert config.train.n_critic == 2


def test_constraints_are_combined_under_names(make) -> None:
    """R2 follows R1 unless it is set, also inside another combination."""
    parts = ["+constraint@constraint.both=r1_r2", "+constraint@constraint.clip=weight_clip"]
    numbers = ["constraint.both.r1.weight=5", "constraint.both.r1.every=4", "constraint.both.r2.every=2"]
    node = make("loss=wgan", "constraint=all_of", *parts, *numbers, "constraint.clip.c=0.1").constraint
    assert (node["both"]["r1"]["weight"], node["both"]["r2"]["weight"]) == (5, 5)
    assert (node["both"]["r1"]["every"], node["both"]["r2"]["every"]) == (4, 2)
    assert node["both"]["r2"]["sampling"]["_target_"].endswith(".fake")
    constraint = build(make("loss=wgan", "constraint=all_of", *parts, *numbers)).trainer._constraint
    assert [(term.name, term.every) for term in constraint.terms] == [("both_r1", 4), ("both_r2", 2)]


def test_the_overrides_of_science_are_those_that_change_the_id(make) -> None:
    science = ["loss=wgan_gp", "div.k=1", "critic_optimizer=rmsprop", "seed=3", "train.ema=0.5", "data.flip=true"]
    others = ["runs=elsewhere", "plan=true", "train.steps=7", "prune=asha", "scorer=fid", "tracker=none", "archive=a"]
    others += ["+metric@scorer.metrics.kid=kid", "scorer.every=5", "features.weights=w", "save_every=9", "launch=slurm"]
    assert science_overrides([*others, *science]) == science
    assert run_id(make(*others)) == run_id(make())
    assert run_id(make()) not in {run_id(make(override)) for override in science}


def test_a_relative_data_path_is_made_absolute(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_id(make("data.path=images.npz")) == run_id(make(f"data.path={tmp_path / 'images.npz'}"))


@pytest.mark.parametrize("overrides", [[], ["loss=wgan_gp", "sampling=fake"], ["seed=3", "div.k=0.5"]])
def test_a_config_is_read_back_from_yaml_unchanged(make, tmp_path: Path, overrides: list[str]) -> None:
    config = make(*overrides)
    path = tmp_path / "config.yaml"
    path.write_text(configs.to_yaml(config))
    read_config = configs.read(path)
    assert run_id(read_config) == run_id(config)
    assert read_config == config


def test_an_invalid_config_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {steps: many}\n")
    with pytest.raises(InputError, match="many"):
        configs.read(tmp_path / "config.yaml")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (["loss=wgan_div", "div.k=1", "sampling=fake"], []),
        (["loss=wgan", "div.k=1"], ["div.k"]),
        (["loss=wgan", "div=evans"], ["div"]),
        (["loss=wgan", "sampling=fake"], ["sampling"]),
        (["loss=wgan_gp", "sampling=fake"], []),
        (["loss=wgan_gp", "div.p=2", "seed=1"], ["div.p"]),
        (["loss=wgan", "constraint=gradient_penalty", "sampling=real"], []),
        (["loss.k=3", "div.k=1"], ["div.k"]),
    ],
)
def test_overrides_without_effect_are_detected(make, overrides: list[str], unused: list[str]) -> None:
    make()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("config", overrides)
    assert unused_overrides(composed, [override.split("=")[0] for override in overrides]) == unused


INVALID = [
    (["div.k=0"], ["div.k", "0"]),
    (["div.p=1"], ["div.p", "1"]),
    (["train.batch_size=65"], ["65", "64 images"]),
    (["train.steps=0"], ["train.steps", "0"]),
    (["train.n_critic=0"], ["train.n_critic"]),
    (["train.ema=1"], ["train.ema", "[0, 1)"]),
    (["train.precision=int4"], ["int4", "fp32"]),
    (["train.precision=tf32"], ["tf32", "CUDA"]),
    (["device=tpu9"], ["tpu9"]),
    (["log_every=0"], ["log_every"]),
    (["model.dim=wide"], ["model.dim", "wide", "int"]),
    (["model.dim=1.5"], ["model.dim", "1.5"]),
    (["model.dim=0"], ["model.dim", "0"]),
    (["model.latent_dim=0"], ["model.latent_dim", "0"]),
    (["model=mlp", "model.depth=-1"], ["model.depth", "-1"]),
    (["model.kernel=1"], ["model.kernel", "2 or more", "1"]),
    (["model.pool=max"], ["model.pool", "'max'", "mean"]),
    (["model.max_factor=0"], ["model.max_factor", "0"]),
    (["model=resnet", "model.output_gain=0"], ["model.output_gain", "above 0"]),
    (["model=sngan_resnet32", "model.generator_factor=0"], ["model.generator_factor", "0"]),
    (["model=sngan_resnet32", "model.upsampling=cubic"], ["model.upsampling", "'cubic'", "bilinear"]),
    (["model=sngan_resnet32", "model.initialisation=he"], ["model.initialisation", "'he'", "glorot"]),
    (["+model.depth=3"], ["model", "depth", "critic_norm"]),
    (["~model.latent_dim"], ["model", "lacks latent_dim"]),
    (["device=meta"], ["meta"]),
    (["data=image_folder", "data.path=/", "data.size=0"], ["data.size", "0"]),
    (["stabiliser=instance_noise", "stabiliser.std=0"], ["stabiliser.std=0"]),
    (["model.critic_norm=group"], ["group", "instance"]),
    (["data.path=/nowhere.npz"], ["/nowhere.npz"]),
    (["loss=wgan", "constraint.c=big"], ["constraint.c", "big"]),
    (["loss=wgan", "constraint.c=-1"], ["constraint.c", "-1"]),
    (["constraint=r1_r2", "constraint.r1.weight=-1"], ["constraint.r1.weight", "-1"]),
    (["constraint=r1_r2", "constraint.r2.every=0"], ["constraint.r2.every", "0"]),
    (["constraint=all_of", "+constraint.weight=3"], ["constraint.weight", "3", "an option"]),
    (["constraint=all_of", "+constraint.a.weight=3"], ["constraint.a", "an option"]),
    (["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
    (["optimizer.lr=-1"], ["optimizer", "-1"]),
    (["scorer.every=-1"], ["scorer.every"]),
    (["stabiliser=label_smoothing"], ["label_smoothing", "nsgan"]),
    (["stabiliser=diff_augment", "model=mlp"], ["diff_augment", "no convolution"]),
    (["loss=rpgan", "train.generator_batch_size=4"], ["train.generator_batch_size=4", "compares"]),
    (["train.generator_batch_size=3", "launch.gpus_per_run=2"], ["train.generator_batch_size=3", "multiple"]),
    (["stabiliser=virtual_batch_norm", "model.generator_norm=none"], ["virtual_batch_norm", "has none"]),
]


@pytest.mark.integration
@pytest.mark.parametrize(("overrides", "words"), INVALID, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_an_invalid_value_is_refused_with_the_key_and_the_value(make, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as error_info:
        check(make(*overrides))
    assert all(word in str(error_info.value) for word in words), str(error_info.value)
