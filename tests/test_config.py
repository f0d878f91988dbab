"""Choices, identity, and what is refused: every file below conf/ is tested by existing."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from wgan_sweep.common.files import cache_dir
from wgan_sweep.config import schema as configs
from wgan_sweep.config.schema import conf_dir, unused_overrides
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build, check
from wgan_sweep.runs.data import load_split
from wgan_sweep.runs.identity import run_id, science

FILES = [f.relative_to(conf_dir()).with_suffix("") for f in conf_dir().rglob("*/*.yaml")]
OPTIONS = sorted((f.parts[0], "/".join(f.parts[1:])) for f in FILES)
HAS_NO_FILES_HERE = {("data", name) for name in ("mnist", "fashion_mnist", "cifar10", "celeba", "lsun")}
WITH = {
    ("data", "image_folder"): ["data.path={folder}", "data.size=16"],
    ("data", "npz"): ["data.path={npz}"],
    ("data", "mnist5k"): [],
    ("model", "mlp"): ["model.depth=1"],
    ("model", "location"): ["data=shifted_uniform"],
    ("stabiliser", "label_smoothing"): ["loss=nsgan"],
    ("experiment", "kp_grid"): ["data=npz", "data.path={npz}"],
    ("experiment", "rx_grid"): ["data=npz", "data.path={npz}"],
    ("experiment", "comparison"): ["data=npz", "data.path={npz}"],
    ("experiment", "norms"): ["data=npz", "data.path={npz}"],
    ("experiment", "authors_celeba64"): ["data=npz", "data.path={npz}"],
}


def needs_network(group: str, name: str) -> bool:
    return group == "metric" or (group == "scorer" and name != "none")


@pytest.mark.parametrize(
    ("group", "name"), [o for o in OPTIONS if o not in HAS_NO_FILES_HERE and not needs_network(*o)]
)
def test_every_option_builds_and_takes_a_step(
    group: str, name: str, make, npz: Path, tmp_path: Path, mnist, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(9):
        Image.fromarray(mnist[index, ..., 0]).save(folder / f"{index}.png")
    brings_data = group in ("data", "experiment") or name == "location"
    data = [] if brings_data else ["data=npz", f"data.path={npz}"]
    tiny = [
        "train.batch_size=8",
        "train.n_critic=1",
        "model.dim=4",
        "tracker=none",
        "device=cpu",
        "runs=x",
        "scorer=none",
    ]
    chosen = [o for o in tiny if not o.startswith(f"{group}=")]
    more = [override.format(folder=folder, npz=npz) for override in WITH.get((group, name), [])]
    config = make(*data, *chosen, f"{group}={name}", *more, tiny=False)
    assert config.choices[group] == name
    check(config)
    values = next(build(config).trainer.steps(1))
    assert all(bool(value.isfinite()) for value in values.values())
    assert {"critic_loss", "generator_loss", "wasserstein", "gradient_term"} <= set(values)


@pytest.mark.parametrize("name", [name for group, name in sorted(HAS_NO_FILES_HERE)])
def test_a_set_that_cannot_be_had_names_its_files_and_their_place(name: str, make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    config = make(f"data={name}", f"data.root={tmp_path / 'root'}", "runs=x", "scorer=none", tiny=False)
    with pytest.raises(InputError) as refused:
        check(config)
    for word in [*config.data["files"], str(tmp_path / "root")]:
        assert word in str(refused.value)


def test_defaults_are_the_papers(make) -> None:
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
    ],
)
def test_a_loss_brings_what_was_published_with_it(make, loss, constraint, target, lr, n_critic) -> None:
    config = make(f"loss={loss}", tiny=False)
    assert config.choices["constraint"] == constraint
    assert config.optimizer["_target_"] == target
    assert config.optimizer["lr"] == lr
    assert config.train.n_critic == n_critic


def test_the_command_line_has_the_last_word(make) -> None:
    config = make("loss=wgan_gp", "constraint=spectral_norm", "optimizer=rmsprop", "train.n_critic=2", "optimizer.lr=1")
    assert config.choices["constraint"] == "spectral_norm"
    assert config.optimizer == {"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 1}
    assert config.train.n_critic == 2


BASE: list[str] = []
SAME = [
    ["tracker=wandb"],
    ["scorer=fid"],
    ["launch=local"],
    ["device=auto"],
    ["log_every=1", "save_every=7"],
    ["train.steps=99", "train.compile=true"],
    ["runs=elsewhere"],
    ["div.k=2.0", "div.p=6"],
    ["div=paper"],
    ["model.dim=4"],
]
OTHER = [
    ["loss=wgan_gp"],
    ["constraint=weight_clip"],
    ["stabiliser=instance_noise"],
    ["model.dim=8"],
    ["model=mlp"],
    ["optimizer.lr=0.1"],
    ["train.batch_size=4"],
    ["train.n_critic=1"],
    ["train.ema=0"],
    ["train.precision=bf16"],
    ["seed=1"],
    ["div.k=1"],
    ["div.p=2"],
    ["div=evans"],
    ["sampling=fake"],
]


@pytest.mark.parametrize("overrides", SAME, ids=str)
def test_what_changes_no_weight_changes_no_id(make, overrides: list[str]) -> None:
    assert run_id(make(*overrides)) == run_id(make())


def test_every_choice_of_science_is_a_run_of_its_own(make) -> None:
    ids = [run_id(make(*overrides)) for overrides in ([], *OTHER)]
    assert len(set(ids)) == len(ids)


def write_raw(folder: Path, images: np.ndarray, split: str = "train") -> None:
    """Write images of 28 x 28 in MNIST's own format."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, len(images), 28, 28)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    labels = struct.pack(">II", 0x801, len(images)) + bytes(len(images))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(labels)


def test_the_folder_of_downloads_does_not_change_the_id_and_its_contents_do(make, tmp_path, mnist, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    contents = {"here": mnist[:20], "there": mnist[:20], "other": mnist[20:40]}
    ids = {}
    for name, images in contents.items():
        for split in ("train", "t10k"):
            write_raw(tmp_path / name / "MNIST" / "raw", images, split)
        ids[name] = run_id(make("data=mnist", f"data.root={tmp_path / name}", "scorer=none", tiny=False))
    assert ids["here"] == ids["there"] != ids["other"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_torchvisions_files_become_padded_images_of_the_split_asked_for(
    name: str, make, tmp_path: Path, mnist, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    raw = tmp_path / "root" / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    raw.mkdir(parents=True)
    for split, images in (("train", mnist[:20]), ("t10k", mnist[20:30])):
        write_raw(raw, images, split)
    for split, wanted in (("train", mnist[:20]), ("test", mnist[20:30])):
        config = make(
            f"data={name}",
            f"data.root={tmp_path / 'root'}",
            f"data.split={split}",
            "train.batch_size=8",
            "scorer=none",
            "device=cpu",
            tiny=False,
        )
        found = load_split(config).array
        assert found.shape == (len(wanted), 32, 32, 1)
        assert np.array_equal(found[:, 2:30, 2:30], wanted)
        other = load_split(config, "test")  # what scorer.split=test scores against
        assert np.array_equal(other.array[:, 2:30, 2:30], mnist[20:30])


class Pictures:
    """Stands for a torchvision class whose files are too large for a test; has its signature."""

    asked: dict[str, object]

    def __init__(self, root, train=None, split=None, classes=None, download=False) -> None:
        Pictures.asked = {"train": train, "split": split, "classes": classes}

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int):
        if index == 9:
            raise IndexError
        return Image.new("RGB", (178, 218), (index, 100, 200)), 0


@pytest.mark.parametrize(
    ("name", "cls", "size", "asked"),
    [
        ("cifar10", "CIFAR10", 32, {"train": True, "split": None, "classes": None}),
        ("celeba", "CelebA", 64, {"train": None, "split": "all", "classes": None}),
        ("lsun", "LSUN", 64, {"train": None, "split": None, "classes": ["bedroom_train"]}),
    ],
)
def test_torchvisions_large_sets_are_asked_for_and_brought_to_size(
    name, cls, size, asked, make, tmp_path, monkeypatch
) -> None:
    import torchvision

    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.datasets, cls, Pictures)
    found = load_split(make(f"data={name}", f"data.root={tmp_path}", "scorer=none", tiny=False)).array
    assert found.shape == (9, size, size, 3)
    assert found[7].reshape(-1, 3).tolist() == [[7, 100, 200]] * size**2
    assert Pictures.asked == asked


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "scorer"])
def test_every_scorer_is_made_for_the_data_it_is_for(name: str, make) -> None:
    few = {"published": ["scorer.metrics.kid.subset_size=10"]}.get(name, [])
    points = ["data=gaussians8"] if name == "exact" else []
    config = make(*points, f"scorer={name}", *few, tiny=not points)
    parts = build(config)
    assert (parts.scorer is None) == (name == "none")
    assert (parts.training_scorer is None) == (name not in ("fid50k", "published"))


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "metric" and name != "inception_score"])
def test_every_metric_is_added_by_name_and_is_no_choice_of_the_run(name: str, make) -> None:
    few = ["scorer.metrics.x.subset_size=10"] if name == "kid" else []
    config = make("scorer=fid", f"+metric@scorer.metrics.x={name}", *few)
    assert len(build(config).scorer._metrics) == 2
    assert config.choices == make("scorer=fid").choices
    assert run_id(config) == run_id(make("scorer=fid"))


def test_a_metric_that_the_weights_cannot_give_is_refused(make) -> None:
    with pytest.raises(InputError, match="logits"):
        check(make("scorer=fid", "+metric@scorer.metrics.x=inception_score"))


def test_a_split_that_the_data_has_not_is_refused_by_name(make) -> None:
    with pytest.raises(InputError, match=r"scorer\.split=test, but data=npz has one split only \(train\)"):
        check(make("scorer=fid", "scorer.split=test"))
    with pytest.raises(InputError, match="mnist has no split 'valid': choose one of test, train"):
        check(make("data=mnist", "data.split=valid", "scorer=none", tiny=False))


def test_a_path_to_data_is_absolute(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_id(make("data.path=images.npz")) == run_id(make(f"data.path={tmp_path / 'images.npz'}"))


@pytest.mark.parametrize("overrides", [[], ["loss=wgan_gp", "sampling=fake"], ["seed=3", "div.k=0.5"]])
def test_a_written_config_asks_for_the_same_run(make, tmp_path: Path, overrides: list[str]) -> None:
    config = make(*overrides)
    path = tmp_path / "config.yaml"
    path.write_text(configs.to_yaml(config))
    again = configs.read(path)
    assert run_id(again) == run_id(config)
    assert again == config


def test_a_config_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {steps: many}\n")
    with pytest.raises(InputError, match="many"):
        configs.read(tmp_path / "config.yaml")


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
def test_overrides_that_nothing_refers_to_are_found(make, overrides: list[str], unused: list[str]) -> None:
    make()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("config", overrides)
    assert unused_overrides(composed, [override.split("=")[0] for override in overrides]) == unused


BAD = [
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
    (["+model.depth=3"], ["model", "depth", "critic_norm"]),
    (["~model.latent_dim"], ["model", "lacks latent_dim"]),
    (["device=meta"], ["meta"]),
    (["data=image_folder", "data.path=/", "data.size=0"], ["data.size", "0"]),
    (["stabiliser=instance_noise", "stabiliser.std=0"], ["stabiliser.std=0"]),
    (["model.critic_norm=group"], ["group", "instance"]),
    (["data.path=/nowhere.npz"], ["/nowhere.npz"]),
    (["loss=wgan", "constraint.c=big"], ["constraint.c", "big"]),
    (["loss=wgan", "constraint.c=-1"], ["constraint.c", "-1"]),
    (["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
    (["optimizer.lr=-1"], ["optimizer", "-1"]),
    (["scorer.every=-1"], ["scorer.every"]),
    (["stabiliser=label_smoothing"], ["label_smoothing", "nsgan"]),
    (["stabiliser=virtual_batch_norm", "model.generator_norm=none"], ["virtual_batch_norm", "has none"]),
]


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_bad_input_is_refused_with_the_value_and_the_remedy(make, overrides: list[str], words: list[str]) -> None:
    config = make(*overrides)
    with pytest.raises(InputError) as refused:
        check(config)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_nothing_of_conf_is_python() -> None:
    assert not list(conf_dir().rglob("*.py"))


def test_the_science_of_a_run_has_no_interpolation_left(make) -> None:
    assert "${" not in str(science(make()))
    assert OmegaConf.to_yaml(OmegaConf.create(science(make())))
    assert cache_dir() is not None
