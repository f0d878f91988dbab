"""Every option below conf/: it builds and trains, or its missing files are reported."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wgan_sweep.config import objects
from wgan_sweep.config.schema import conf_dir
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.gradient_terms import batch_dependence
from wgan_sweep.runs.build import build, check
from wgan_sweep.runs.data import load_split
from wgan_sweep.runs.identity import run_id

from .helpers import write_mnist_files

FILES = [f.relative_to(conf_dir()).with_suffix("") for f in conf_dir().rglob("*/*.yaml")]
OPTIONS = sorted((f.parts[0], "/".join(f.parts[1:])) for f in FILES)
NEEDS_DOWNLOAD = {("data", name) for name in ("mnist", "fashion_mnist", "cifar10", "celeba", "lsun")}
"""Data sets whose files these tests do not download."""
ON_IMAGES = ("setting", "kp", "rx", "estimate", "systems", "ranks")
"""The experiments of the evidence that are on a data set to be downloaded."""
EXTRA_OVERRIDES = {
    ("data", "image_folder"): ["data.path={folder}", "data.size=16"],
    ("data", "npz"): ["data.path={npz}"],
    ("data", "mnist5k"): [],
    ("model", "mlp"): ["model.depth=1"],
    ("model", "location"): ["data=shifted_uniform"],
    ("model", "gaussian"): ["data=shifted_uniform"],
    ("prune", "asha"): ["scorer.every=1", "train.steps=2"],
    ("prune", "median"): ["scorer.every=1", "train.steps=2"],
    ("stabiliser", "label_smoothing"): ["loss=nsgan"],
    **{("schedule", name): ["schedule.steps=100"] for name in ("linear", "cosine", "warmup")},
    ("experiment", "kp_grid"): ["data=npz", "data.path={npz}"],
    ("experiment", "rx_grid"): ["data=npz", "data.path={npz}"],
    ("experiment", "comparison"): ["data=npz", "data.path={npz}"],
    ("experiment", "norms"): ["data=npz", "data.path={npz}"],
    ("experiment", "theory/vanishing_gradient_dcgan"): ["data=npz", "data.path={npz}"],
    **{
        ("experiment", f"reference/{file.stem}"): ["data=npz", "data.path={npz}"]
        for file in (conf_dir() / "experiment" / "reference").glob("*.yaml")
    },
    **{("experiment", f"evidence/{name}"): ["data=npz", "data.path={npz}"] for name in ON_IMAGES},
    ("experiment", "reference/wgan_div_su"): ["data=npz", "data.path={npz}", "~data.size"],
}
"""Overrides that make an option small, or that it needs."""


def needs_network(group: str, name: str) -> bool:
    return group == "metric" or (group == "scorer" and name != "none")


@pytest.mark.integration
@pytest.mark.parametrize(("group", "name"), [o for o in OPTIONS if o not in NEEDS_DOWNLOAD and not needs_network(*o)])
def test_every_option_builds_and_trains_one_step(
    group: str, name: str, make, npz: Path, tmp_path: Path, mnist, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(9):
        Image.fromarray(mnist[index, ..., 0]).save(folder / f"{index}.png")
    sets_data = group in ("data", "experiment") or name in ("location", "gaussian")
    needs_scorer = group == "prune"
    data = ["data=gaussians8"] if needs_scorer else [] if sets_data else ["data=npz", f"data.path={npz}"]
    tiny = [
        "train.batch_size=8",
        "train.n_critic=1",
        "model.dim=4",
        "tracker=none",
        "device=cpu",
        "runs=x",
        "scorer=none",
    ]
    base = [o for o in tiny if not o.startswith("scorer=" if needs_scorer else f"{group}=")]
    extra = [override.format(folder=folder, npz=npz) for override in EXTRA_OVERRIDES.get((group, name), [])]
    config = make(*data, *base, f"{group}={name}", *extra, tiny=False)
    assert config.choices[group] == name
    check(config)
    metrics = next(build(config).trainer.steps(1))
    assert all(bool(value.isfinite()) for value in metrics.values())
    assert {"critic_loss", "generator_loss", "wasserstein", "gradient_term"} <= set(metrics)


@pytest.mark.parametrize("name", [name for group, name in sorted(NEEDS_DOWNLOAD)])
def test_a_data_set_that_cannot_be_downloaded_names_its_files_and_their_folder(
    name: str, make, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    config = make(f"data={name}", f"data.root={tmp_path / 'root'}", "runs=x", "scorer=none", tiny=False)
    with pytest.raises(InputError) as error_info:
        check(config)
    for word in [*config.data["files"], str(tmp_path / "root")]:
        assert word in str(error_info.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_images_are_read_from_the_requested_split_and_padded(
    name: str, make, tmp_path: Path, mnist, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    raw = tmp_path / "root" / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    raw.mkdir(parents=True)
    for split, images in (("train", mnist[:20]), ("t10k", mnist[20:30])):
        write_mnist_files(raw, images, split)
    for split, expected in (("train", mnist[:20]), ("test", mnist[20:30])):
        config = make(
            f"data={name}",
            f"data.root={tmp_path / 'root'}",
            f"data.split={split}",
            "train.batch_size=8",
            "scorer=none",
            "device=cpu",
            tiny=False,
        )
        images = load_split(config).array
        assert images.shape == (len(expected), 32, 32, 1)
        assert np.array_equal(images[:, 2:30, 2:30], expected)
        test_images = load_split(config, "test").array  # the real images of scorer.split=test
        assert np.array_equal(test_images[:, 2:30, 2:30], mnist[20:30])


class FakeDataset:
    """Has the signature of the torchvision classes whose files are too large for a test."""

    arguments: dict[str, object]

    def __init__(self, root, train=None, split=None, classes=None, download=False) -> None:
        FakeDataset.arguments = {"train": train, "split": split, "classes": classes}

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int):
        if index == 9:
            raise IndexError
        return Image.new("RGB", (178, 218), (index, 100, 200)), 0


@pytest.mark.parametrize(
    ("name", "cls", "size", "arguments"),
    [
        ("cifar10", "CIFAR10", 32, {"train": True, "split": None, "classes": None}),
        ("celeba", "CelebA", 64, {"train": None, "split": "all", "classes": None}),
        ("lsun", "LSUN", 64, {"train": None, "split": None, "classes": ["bedroom_train"]}),
    ],
)
def test_large_torchvision_sets_are_opened_with_the_right_arguments_and_resized(
    name, cls, size, arguments, make, tmp_path, monkeypatch
) -> None:
    import torchvision

    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.datasets, cls, FakeDataset)
    images = load_split(make(f"data={name}", f"data.root={tmp_path}", "scorer=none", tiny=False)).array
    assert images.shape == (9, size, size, 3)
    assert images[7].reshape(-1, 3).tolist() == [[7, 100, 200]] * size**2
    assert FakeDataset.arguments == arguments


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "scorer"])
def test_every_scorer_is_built_for_its_kind_of_data(name: str, make) -> None:
    extra = {"published": ["scorer.metrics.kid.subset_size=10"]}.get(name, [])
    data = ["data=gaussians8"] if name == "exact" else []
    config = make(*data, f"scorer={name}", *extra, tiny=not data)
    parts = build(config)
    assert (parts.scorer is None) == (name == "none")
    assert (parts.training_scorer is None) == (name not in ("fid50k", "published"))


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "metric" and name != "inception_score"])
def test_every_metric_can_be_added_and_changes_neither_choices_nor_id(name: str, make) -> None:
    extra = {
        "kid": ["scorer.metrics.x.subset_size=10"],
        "fid_infinity": ["features.layer=64", "scorer.num_samples=1280"],
    }.get(name, [])
    config = make("scorer=fid", f"+metric@scorer.metrics.x={name}", *extra)
    assert len(build(config).scorer._metrics) == 2
    assert config.choices == make("scorer=fid").choices
    assert run_id(config) == run_id(make("scorer=fid"))


def test_a_metric_that_needs_logits_is_refused_for_weights_without_them(make) -> None:
    with pytest.raises(InputError, match="logits"):
        check(make("scorer=fid", "+metric@scorer.metrics.x=inception_score"))


def test_an_unknown_split_is_refused_by_name(make) -> None:
    with pytest.raises(InputError, match=r"scorer\.split=test, but data=npz has one split only \(train\)"):
        check(make("scorer=fid", "scorer.split=test"))
    with pytest.raises(InputError, match="mnist has no split 'valid': choose one of test, train"):
        check(make("data=mnist", "data.split=valid", "scorer=none", tiny=False))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "overrides", "count"),
    [
        ("norms", [], 16),
        ("comparison", [], 10),
        ("comparison", ["model=dcgan"], 5),
    ],
    ids=str,
)
def test_a_grid_of_architectures_and_losses_holds_only_what_fits(
    name: str, overrides: list[str], count: int, make, npz: Path
) -> None:
    """No run is refused, gradient terms are of single examples, and no norm undoes another bound on the critic."""
    file = yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text())
    axes = {key: str(values) for key, values in file["hydra"]["sweeper"]["params"].items() if key != "seed"}
    axes |= dict(override.split("=") for override in overrides)
    jobs = [
        [f"{k}={v}" for k, v in zip(axes, job, strict=True)] for job in product(*(v.split(",") for v in axes.values()))
    ]
    assert len(jobs) == count
    small = ["data=npz", f"data.path={npz}", "model.dim=2", "train.batch_size=8", "scorer=none", "device=cpu", "runs=x"]
    ids = set()
    for job in jobs:
        config = make(f"experiment={name}", *small, *job, tiny=False)
        check(config)
        with torch.device("meta"):
            critic = objects.make(config.model, "model").critic((1, 32, 32))
        loss, constraint = objects.make(config.loss, "loss"), objects.make(config.constraint, "constraint")
        if loss.terms or constraint.terms:
            assert batch_dependence(critic) is None, job
        elif config.choices["constraint"] != "none":
            assert config.model["critic_norm"] == "none", job
        ids.add(run_id(config))
    assert len(ids) == count


def test_conf_has_no_python_files() -> None:
    assert not list(conf_dir().rglob("*.py"))
