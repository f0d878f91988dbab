"""A run's identity: what decides its result, and nothing else."""

import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import get_object

from wgan_sweep.config import keys, schema
from wgan_sweep.config.keys import KEYS, Key, Role, leaves, role_of, without_roles
from wgan_sweep.config.schema import Config, conf_dir
from wgan_sweep.data import ImageSet, Npz, store
from wgan_sweep.errors import InputError
from wgan_sweep.objectives import constraints, losses
from wgan_sweep.runs import identity
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.hashing import canonical, hash_of
from wgan_sweep.runs.identity import run_id, science
from wgan_sweep.runs.record import OutdatedRecordError, Record, Status

from .helpers import run


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


PAIRS = [(loss, constraint) for loss in options("loss") for constraint in options("constraint")]


@pytest.fixture
def pair_ids(make):
    """Return the ids of all losses with all constraints."""
    configs = [make(f"loss={loss}", f"constraint={constraint}") for loss, constraint in PAIRS]
    return lambda: [run_id(config) for config in configs]


def test_all_losses_and_constraints_have_ids_of_their_own(pair_ids) -> None:
    assert len(set(pair_ids())) == len(PAIRS) == len(options("loss")) * len(options("constraint"))


def test_ids_are_pinned(make) -> None:
    """Ids name directories of results: a change of these is a change of what every run is called."""
    points = ["data=gaussians8", "runs=x", "scorer=none"]
    wanted = {
        (): "0bb3bb545ad2",
        ("optimizer=rmsprop", "seed=3"): "93c79dd0e407",
    }
    assert {overrides: run_id(make(*points, *overrides, tiny=False)) for overrides in wanted} == wanted


def test_a_new_training_key_with_a_neutral_value_changes_no_id(pair_ids, make, monkeypatch) -> None:
    before = pair_ids()

    @dataclasses.dataclass
    class Train(schema.Train):
        lr_decay: str | None = None

    field = ("train", Train, dataclasses.field(default_factory=Train))
    later = dataclasses.make_dataclass("Later", [field], bases=(Config,))
    monkeypatch.setattr(schema, "Config", later)
    monkeypatch.setattr(keys, "KEYS", (*KEYS, Key("train.lr_decay", Role.SCIENCE, neutral=None)))
    after = [run_id(make(f"loss={loss}", f"constraint={constraint}")) for loss, constraint in PAIRS]
    assert after == before
    assert run_id(make("+train.lr_decay=linear")) != run_id(make())
    assert science(make("+train.lr_decay=linear"))["train.lr_decay"] == "linear"


def test_a_new_parameter_of_an_option_changes_no_id_at_its_default(pair_ids, make, monkeypatch) -> None:
    before = pair_ids()
    plain_penalty, plain_loss = constraints.gradient_penalty, losses.wasserstein_divergence

    def gradient_penalty(weight: float, centre: float, exponent: float, sampling: Any, every: int = 1) -> Any:
        return plain_penalty(weight, centre, exponent, sampling), every

    def wasserstein_divergence(k: float, p: float, sampling: Any, weights: tuple[float, ...] = (1.0,)) -> Any:
        return plain_loss(k, p, sampling), weights

    for module, function in ((constraints, gradient_penalty), (losses, wasserstein_divergence)):
        function.__module__, function.__qualname__ = module.__name__, function.__name__
        monkeypatch.setattr(module, function.__name__, function)
    assert pair_ids() == before
    base = make("loss=wgan_gp")
    explicit = dataclasses.replace(base, constraint={**base.constraint, "every": 1})
    lazy = dataclasses.replace(base, constraint={**base.constraint, "every": 16})
    assert run_id(explicit) == run_id(base) != run_id(lazy)
    divergence = make("loss=wgan_div")
    weighted = dataclasses.replace(divergence, loss={**divergence.loss, "weights": [1]})
    assert run_id(weighted) == run_id(divergence)


def test_a_default_that_changes_in_a_yaml_changes_ids_only_by_its_value(make) -> None:
    """The id depends on the value that a run uses, not on where it was written down."""
    assert run_id(make("optimizer=adam", "optimizer.lr=1e-4")) == run_id(make("optimizer=adam_gp"))
    assert run_id(make("div=evans")) == run_id(make("div.k=0.5", "div.p=2"))
    penalty = ["constraint=gradient_penalty", "constraint.weight=5", "constraint.centre=0", "sampling=real"]
    assert run_id(make("loss=wgan", "constraint=r1")) == run_id(make("loss=wgan", *penalty))


def test_the_neutral_values_are_left_out(make) -> None:
    config = make("train.batch_size=64", "train.n_critic=1", "train.ema=0", "seed=0", "loss=gan", "constraint=none")
    assert set(science(config)) == {"loss", "model", "data", "optimizer"}


def test_targets_of_this_package_count_by_name_so_that_modules_may_move() -> None:
    """Therefore no two options of a group may have targets of the same name in different modules."""
    for group in keys.science_groups():
        targets: dict[str, set[str]] = {}
        for path in conf_dir().glob(f"{group}/*.yaml"):
            for line in path.read_text().splitlines():
                name, _, target = line.strip().partition(": ")
                if name == "_target_" and target.startswith("wgan_sweep."):
                    function = get_object(target)
                    assert inspect.getmodule(function) is not None
                    targets.setdefault(function.__qualname__, set()).add(function.__module__)
        assert all(len(modules) == 1 for modules in targets.values()), group


def test_every_config_key_has_one_entry(make) -> None:
    names = [key.name for key in KEYS]
    assert len(set(names)) == len(names)
    roots = {name.split(".")[0] for name in names}
    assert roots == {field.name for field in dataclasses.fields(Config)}
    train = {name.removeprefix("train.") for name in names if name.startswith("train.")}
    assert train == {field.name for field in dataclasses.fields(schema.Train)}
    assert all(isinstance(role_of(key), Role) for key, _ in leaves(dataclasses.asdict(make())))
    only_science_has_a_neutral_value = all(key.neutral is keys.REQUIRED or key.role is Role.SCIENCE for key in KEYS)
    assert only_science_has_a_neutral_value


def test_roles_below_a_key_can_be_left_out() -> None:
    scorer = {"every": 5, "num_samples": 9, "batch_size": 2, "features": {"weights": "x", "layer": 64}}
    kept = without_roles(scorer, "scorer", Role.PRESENTATION, Role.COMPUTING, Role.PLACE)
    assert kept == {"num_samples": 9, "features": {"layer": 64}}


@pytest.mark.parametrize("override", ["+train.lr_decay=linear", "+lr=1", "+div.q=2"])
def test_an_unknown_key_is_refused_by_name(make, override: str) -> None:
    with pytest.raises(InputError, match=rf"no config key {override.lstrip('+').split('=')[0]}"):
        make(override)


# Data is identified by content.


def write_images(path: Path, mnist: np.ndarray, first: int) -> None:
    np.savez(path, images=np.pad(mnist[first : first + 64], ((0, 0), (2, 2), (2, 2), (0, 0))))


def test_other_contents_of_the_same_file_are_another_run(make, npz: Path, mnist) -> None:
    before = run_id(make())
    write_images(npz, mnist, 0)
    assert run_id(make()) == before  # rewritten with the same images
    write_images(npz, mnist, 100)
    assert run_id(make()) != before


def test_a_run_does_not_resume_on_other_images(make, npz: Path, mnist) -> None:
    first = run(make("train.steps=2"))
    write_images(npz, mnist, 100)
    second = run(make("train.steps=4"))
    assert (first.step, second.step) == (2, 4)
    assert first.run_id != second.run_id
    assert RunDir(Path(make().runs) / first.run_id).read_record() == first


def test_moving_a_file_keeps_the_id(make, npz: Path) -> None:
    before = run_id(make())
    moved = npz.with_name("moved.npz")
    npz.rename(moved)
    assert run_id(make(f"data.path={moved}")) == before
    compressed = npz.with_name("compressed.npz")
    with np.load(moved) as arrays:
        np.savez_compressed(compressed, images=arrays["images"])
    assert run_id(make(f"data.path={compressed}")) == before


def test_a_digest_is_computed_once_per_file(npz: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "digest_folder", lambda: tmp_path / "digests")
    digest = Npz(str(npz)).fingerprint()
    assert digest == Npz(str(npz)).load().digest
    monkeypatch.setattr(Npz, "load", lambda self: pytest.fail("read again"))
    assert Npz(str(npz)).fingerprint() == digest
    monkeypatch.undo()
    monkeypatch.setattr(store, "digest_folder", lambda: tmp_path / "digests")
    loads = []
    monkeypatch.setattr(ImageSet, "digest", property(lambda self: loads.append(1) or "0" * 64))
    status = npz.stat()
    os.utime(npz, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert Npz(str(npz)).fingerprint() == "0" * 64
    assert loads == [1]


def test_a_damaged_digest_in_the_cache_is_computed_again(npz: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "digest_folder", lambda: tmp_path / "digests")
    digest = Npz(str(npz)).fingerprint()
    (cached,) = (tmp_path / "digests").iterdir()
    cached.write_text("not a digest")
    assert Npz(str(npz)).fingerprint() == digest
    assert cached.read_text() == digest


def test_a_missing_file_is_refused(make) -> None:
    with pytest.raises(InputError, match="nowhere"):
        run_id(make("data.path=/nowhere.npz"))


# The user's code is part of identity.

MODULE = """
from wgan_sweep.objectives.losses import Loss

def {name}(strength: float) -> Loss:
    return Loss(lambda real, fake: {formula}, lambda fake: -fake.mean())
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(formula: str) -> None:
        (tmp_path / "my_losses.py").write_text(MODULE.format(name="mine", formula=formula))
        sys.modules.pop("my_losses", None)
        sys.dont_write_bytecode = True

    yield write
    sys.dont_write_bytecode = False
    sys.modules.pop("my_losses", None)


def test_an_edited_user_formula_is_another_run(make, user_module) -> None:
    def of_user_loss(strength: float = 1.0) -> str:
        return run_id(dataclasses.replace(make(), loss={"_target_": "my_losses.mine", "strength": strength}))

    user_module("fake.mean() - real.mean()")
    first = of_user_loss()
    assert of_user_loss() == first
    assert of_user_loss(2.0) != first
    user_module("strength * (fake.mean() - real.mean())")
    assert of_user_loss() != first
    user_module("fake.mean() - real.mean()")
    assert of_user_loss() == first


# Directories of version 0.1 are left alone, and named.


def write_outdated(folder: Path, name: str) -> bytes:
    directory = RunDir(folder / name)
    directory.path.mkdir(parents=True)
    content = json.dumps({"run_id": name, "status": "done", "config": {"scorer": {}}, "scores": {"fid": 1.0}}).encode()
    directory.record.write_bytes(content)
    return content


def test_an_outdated_directory_is_named_and_no_run_of_a_report(tmp_path: Path) -> None:
    write_outdated(tmp_path, "0123456789ab")
    RunDir(tmp_path / "new").write_record(Record("new", Status.DONE, config={"scorer": {}}))
    runs = find_runs(tmp_path)
    assert ([record.run_id for record in runs.records], runs.problems) == (["new"], [])
    assert runs.outdated == ["0123456789ab"]
    (note,) = runs.notes
    assert "0123456789ab" in note


def test_an_outdated_directory_is_never_trained_on_or_overwritten(make) -> None:
    config = make("train.steps=2")
    directory = identity.directory_of(config)
    content = write_outdated(directory.path.parent, directory.path.name)
    with pytest.raises(OutdatedRecordError, match=r"0\.1"):
        run(config)
    assert directory.record.read_bytes() == content
    assert {path.name for path in directory.path.iterdir()} == {"record.json"}


def test_a_record_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    RunDir(tmp_path).write_record(Record("x", config={"scorer": {}}, format=99))
    with pytest.raises(InputError, match="format is 99"):
        RunDir(tmp_path).read_record()


def test_a_record_holds_its_identity_and_the_code_that_wrote_it(make) -> None:
    config = make("train.steps=2")
    record = run(config)
    assert hash_of(record.science) == record.run_id
    assert record.science == canonical(science(config))
    assert record.code.startswith(record.versions["wgan-sweep"])
