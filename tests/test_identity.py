"""Run ids: the config keys, data and code that they depend on."""

import dataclasses
import importlib
import inspect
import json
import linecache
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import OmegaConf

from wgan_sweep.common.source import user_source
from wgan_sweep.config import keys, schema
from wgan_sweep.config.keys import KEYS, Key, Role, leaves, role_of, without_roles
from wgan_sweep.config.schema import Config, conf_dir
from wgan_sweep.data import ImageSet, Npz, store
from wgan_sweep.errors import InputError
from wgan_sweep.objectives import constraints, losses
from wgan_sweep.runs import identity, life
from wgan_sweep.runs.data import _option as identity_of_option
from wgan_sweep.runs.data import load_data
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.hashing import canonical, hash_of
from wgan_sweep.runs.identity import run_id, science
from wgan_sweep.runs.record import OutdatedRecordError, Record, Status

from .helpers import directory_of, run, write_mnist_files, write_record


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


CHOICES = [f"{group}={option}" for group in ("loss", "constraint") for option in options(group)]
PAIRS = [
    (f"loss={loss}", f"constraint={constraint}") for loss in options("loss") for constraint in options("constraint")
]


def composed_on_points(choices: list[tuple[str, ...]]) -> list[Any]:
    """Return the composed configs of choices of options, on points."""
    base = ["data=gaussians8", "runs=x", "scorer=none"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return [compose("config", [*base, *choice], return_hydra_config=True) for choice in choices]


def ids_of(composed: list[Any]) -> list[str]:
    return [run_id(schema.finalise(config, config.hydra.runtime.choices)) for config in composed]


@pytest.fixture
def option_ids() -> Callable[[], list[str]]:
    """A function that returns the ids of all losses and of all constraints."""
    composed = composed_on_points([(choice,) for choice in CHOICES])
    return lambda: ids_of(composed)


@pytest.mark.integration
def test_every_loss_with_every_constraint_has_a_different_id() -> None:
    ids = ids_of(composed_on_points(PAIRS))
    assert len(set(ids)) == len(ids) == len(options("loss")) * len(options("constraint"))


def test_ids_are_pinned(make) -> None:
    """Ids name the directories of runs: if these change, no existing run is recognised any more."""
    points = ["data=gaussians8", "runs=x", "scorer=none"]
    ids = {
        (): "0bb3bb545ad2",
        ("loss=wgan_gp",): "f3f2cd2d55a5",
        ("loss=wgan", "constraint=r1", "stabiliser=feature_matching"): "b04da04c33e4",
        ("optimizer=rmsprop", "seed=3"): "93c79dd0e407",
    }
    assert {overrides: run_id(make(*points, *overrides, tiny=False)) for overrides in ids} == ids


@pytest.mark.integration
def test_a_new_training_key_at_its_neutral_value_changes_no_id(option_ids, make, monkeypatch) -> None:
    before = option_ids()

    @dataclasses.dataclass
    class Train(schema.Train):
        lr_decay: str | None = None

    field = ("train", Train, dataclasses.field(default_factory=Train))
    extended = dataclasses.make_dataclass("ExtendedConfig", [field], bases=(Config,))
    monkeypatch.setattr(schema, "Config", extended)
    monkeypatch.setattr(keys, "KEYS", (*KEYS, Key("train.lr_decay", Role.SCIENCE, neutral=None)))
    assert option_ids() == before
    assert run_id(make("+train.lr_decay=linear")) != run_id(make())
    assert science(make("+train.lr_decay=linear"))["train.lr_decay"] == "linear"


LATER_OPTIONS = {
    constraints: """
def gradient_penalty(weight: float, centre: float, exponent: float, sampling, every: int = 1, order: int = 2): ...
""",
    losses: "def wasserstein_divergence(k: float, p: float, sampling, every: int = 1, weights: tuple = (1.0,)): ...",
}
"""Functions of this package as a later version may have them: with one more parameter, whose default is neutral."""


def test_a_new_parameter_of_an_option_changes_no_id_at_its_default(option_ids, make, monkeypatch) -> None:
    before = option_ids()
    for module, definition in LATER_OPTIONS.items():
        defined: dict[str, Any] = {}
        exec(definition, module.__dict__, defined)  # noqa: S102 (the function then belongs to the module)
        for name, function in defined.items():
            monkeypatch.setattr(module, name, function)
    assert option_ids() == before
    base = make("loss=wgan_gp")
    explicit = dataclasses.replace(base, constraint={**base.constraint, "order": 2})
    other = dataclasses.replace(base, constraint={**base.constraint, "order": 1})
    assert run_id(explicit) == run_id(base) != run_id(other)
    divergence = make("loss=wgan_div")
    weighted = dataclasses.replace(divergence, loss={**divergence.loss, "weights": [1]})
    assert run_id(weighted) == run_id(divergence)


@pytest.mark.integration
def test_the_interval_of_a_lazy_term_is_part_of_the_id_unless_it_is_one(make) -> None:
    """It is in no older option file: a key that earlier runs lack would split the cells of reports."""
    for overrides in (["loss=wgan_gp"], ["loss=wgan", "constraint=lipschitz_penalty"], ["constraint=r1"]):
        base = make(*overrides)
        assert run_id(make(*overrides, "+constraint.every=1")) == run_id(base)
        assert run_id(make(*overrides, "+constraint.every=16")) != run_id(base)
    assert run_id(make("+loss.every=1")) == run_id(make())
    assert run_id(make("+loss.every=16")) != run_id(make())


def test_an_id_depends_on_values_and_not_on_the_file_that_sets_them(make) -> None:
    """A value gives the same id as a default of an option, through a reference, and as an override."""
    assert run_id(make("optimizer=adam", "optimizer.lr=1e-4")) == run_id(make("optimizer=adam_gp"))
    assert run_id(make("div=evans")) == run_id(make("div.k=0.5", "div.p=2"))
    penalty = ["constraint=gradient_penalty", "constraint.weight=5", "constraint.centre=0", "sampling=real"]
    assert run_id(make("loss=wgan", "constraint=r1")) == run_id(make("loss=wgan", *penalty))


def test_neutral_values_are_left_out_of_the_identity(make) -> None:
    config = make("train.batch_size=64", "train.n_critic=1", "train.ema=0", "seed=0", "loss=gan", "constraint=none")
    assert set(science(config)) == {"loss", "model", "data", "optimizer"}


def test_no_two_targets_of_a_group_have_the_same_name_in_different_modules() -> None:
    """Ids contain the names of targets in this package without their modules, so that modules can be moved."""
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


def test_keys_with_given_roles_can_be_left_out() -> None:
    scorer = {"every": 5, "num_samples": 9, "batch_size": 2, "features": {"weights": "x", "layer": 64}}
    remaining = without_roles(scorer, "scorer", Role.PRESENTATION, Role.COMPUTING, Role.PLACE)
    assert remaining == {"num_samples": 9, "features": {"layer": 64}}


@pytest.mark.parametrize("override", ["+train.lr_decay=linear", "+lr=1", "+div.q=2"])
def test_an_unknown_key_is_refused_by_name(make, override: str) -> None:
    with pytest.raises(InputError, match=rf"no config key {override.lstrip('+').split('=')[0]}"):
        make(override)


# The role of a config key decides whether it changes the id.

NO_EFFECT_ON_ID = [
    ["tracker=wandb"],
    ["scorer=fid"],
    ["launch=local"],
    ["device=auto"],
    ["log_every=1", "save_every=7"],
    ["train.steps=99", "train.compile=true"],
    ["runs=other"],
    ["div.k=2.0", "div.p=6"],
    ["div=paper"],
    ["data.flip=false"],
    ["model.dim=4"],
]
CHANGES_ID = [
    ["loss=wgan_gp"],
    ["constraint=weight_clip"],
    ["stabiliser=instance_noise"],
    ["model.dim=8"],
    ["model=mlp"],
    ["data.flip=true"],
    ["optimizer.lr=0.1"],
    ["train.batch_size=4"],
    ["train.generator_batch_size=4"],
    ["train.n_critic=1"],
    ["train.ema=0"],
    ["train.precision=bf16"],
    ["seed=1"],
    ["div.k=1"],
    ["div.p=2"],
    ["div=evans"],
    ["sampling=fake"],
]


@pytest.mark.integration
@pytest.mark.parametrize("overrides", NO_EFFECT_ON_ID, ids=str)
def test_keys_that_do_not_affect_training_do_not_change_the_id(make, overrides: list[str]) -> None:
    assert run_id(make(*overrides)) == run_id(make())


@pytest.mark.integration
def test_keys_that_affect_training_change_the_id(make) -> None:
    ids = [run_id(make(*overrides)) for overrides in ([], *CHANGES_ID)]
    assert len(set(ids)) == len(ids)


def test_the_identity_contains_no_interpolations(make) -> None:
    assert "${" not in str(science(make()))
    assert OmegaConf.to_yaml(OmegaConf.create(science(make())))


# Data is identified by its content.


def write_images(path: Path, mnist: np.ndarray, first: int) -> None:
    """Write 64 images, from index `first`, as the fixture `npz` does."""
    np.savez(path, images=np.pad(mnist[first : first + 64], ((0, 0), (2, 2), (2, 2), (0, 0))))


def test_other_content_of_the_same_data_file_changes_the_id(make, npz: Path, mnist) -> None:
    before = run_id(make())
    write_images(npz, mnist, 0)
    assert run_id(make()) == before  # rewritten with the same images
    write_images(npz, mnist, 100)
    assert run_id(make()) != before


def test_the_id_depends_on_the_content_of_a_download_folder_and_not_on_its_path(
    make, tmp_path, mnist, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    contents = {"folder": mnist[:20], "copy": mnist[:20], "changed": mnist[20:40]}
    ids = {}
    for name, images in contents.items():
        for split in ("train", "t10k"):
            write_mnist_files(tmp_path / name / "MNIST" / "raw", images, split)
        ids[name] = run_id(make("data=mnist", f"data.root={tmp_path / name}", "scorer=none", tiny=False))
    assert ids["folder"] == ids["copy"] != ids["changed"]


def test_a_run_is_not_resumed_on_other_images(make, npz: Path, mnist) -> None:
    first = run(make("train.steps=2"))
    write_images(npz, mnist, 100)
    second = run(make("train.steps=4"))
    assert (first.step, second.step) == (2, 4)
    assert first.run_id != second.run_id
    assert RunDir(Path(make().runs) / first.run_id).read_record() == first


def test_moving_or_compressing_a_data_file_keeps_the_id(make, npz: Path) -> None:
    before = run_id(make())
    moved = npz.with_name("moved.npz")
    npz.rename(moved)
    assert run_id(make(f"data.path={moved}")) == before
    compressed = npz.with_name("compressed.npz")
    with np.load(moved) as arrays:
        np.savez_compressed(compressed, images=arrays["images"])
    assert run_id(make(f"data.path={compressed}")) == before


def test_a_digest_is_computed_again_only_if_its_file_changes(npz: Path, tmp_path: Path, monkeypatch) -> None:
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


def test_a_damaged_digest_in_the_cache_is_replaced(npz: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "digest_folder", lambda: tmp_path / "digests")
    digest = Npz(str(npz)).fingerprint()
    (cached,) = (tmp_path / "digests").iterdir()
    sound = cached.read_text()
    for damaged in ("not a digest", "", sound[:64], sound[:-1], ("1" if sound[0] == "0" else "0") + sound[1:]):
        cached.write_text(damaged)
        assert Npz(str(npz)).fingerprint() == digest
        assert cached.read_text() == sound
    cached.write_bytes(b"\xff")
    assert Npz(str(npz)).fingerprint() == digest


def test_a_missing_data_file_is_refused(make) -> None:
    with pytest.raises(InputError, match="nowhere"):
        run_id(make("data.path=/nowhere.npz"))


# The user's own code is part of the identity.

MODULE = """
from wgan_sweep.objectives.losses import Loss

def {name}(strength: float) -> Loss:
    return Loss(lambda real, fake: {formula}, lambda fake: -fake.mean())
"""


@pytest.fixture
def write_user_module(tmp_path: Path, monkeypatch):
    """A function that writes the module my_losses with a formula for the critic's loss."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_module(formula: str) -> None:
        (tmp_path / "my_losses.py").write_text(MODULE.format(name="mine", formula=formula))
        sys.modules.pop("my_losses", None)
        sys.dont_write_bytecode = True

    yield write_module
    sys.dont_write_bytecode = False
    sys.modules.pop("my_losses", None)


def test_editing_a_users_loss_changes_the_id(make, write_user_module) -> None:
    def user_loss_id(strength: float = 1.0) -> str:
        return run_id(dataclasses.replace(make(), loss={"_target_": "my_losses.mine", "strength": strength}))

    write_user_module("fake.mean() - real.mean()")
    first = user_loss_id()
    assert user_loss_id() == first
    assert user_loss_id(2.0) != first
    write_user_module("strength * (fake.mean() - real.mean())")
    assert user_loss_id() != first
    write_user_module("fake.mean() - real.mean()")
    assert user_loss_id() == first


# Directories written by version 0.1 are reported and not modified.


def write_outdated_record(folder: Path, name: str) -> bytes:
    """Write a record as version 0.1 did, and return its content."""
    directory = RunDir(folder / name)
    directory.path.mkdir(parents=True)
    content = json.dumps({"run_id": name, "status": "done", "config": {"scorer": {}}, "scores": {"fid": 1.0}}).encode()
    directory.record.write_bytes(content)
    return content


def test_an_outdated_directory_is_listed_apart_from_the_runs(tmp_path: Path) -> None:
    write_outdated_record(tmp_path, "0123456789ab")
    write_record(RunDir(tmp_path / "new"), Record("new", Status.DONE, config={"scorer": {}}))
    runs = find_runs(tmp_path)
    assert ([record.run_id for record in runs.records], runs.problems) == (["new"], [])
    assert runs.outdated == ["0123456789ab"]
    (note,) = runs.notes
    assert "0123456789ab" in note


def test_an_outdated_directory_is_not_resumed_or_overwritten(make) -> None:
    config = make("train.steps=2")
    directory = directory_of(config)
    content = write_outdated_record(directory.path.parent, directory.path.name)
    with pytest.raises(OutdatedRecordError, match=r"0\.1"):
        run(config)
    assert directory.record.read_bytes() == content
    assert {path.name for path in directory.path.iterdir()} == {"record.json"}


def test_a_record_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_record(RunDir(tmp_path), Record("x", config={"scorer": {}}, format=99))
    with pytest.raises(InputError, match="format is 99"):
        RunDir(tmp_path).read_record()


def test_a_record_contains_its_identity_and_the_version_of_the_code(make) -> None:
    config = make("train.steps=2")
    record = run(config)
    assert hash_of(record.science) == record.run_id
    assert record.science == canonical(science(config))
    assert record.code.startswith(record.versions["wgan-sweep"])


# A run is identified once, when it is requested.


def test_a_run_trains_what_it_is_named_after_or_is_refused(make, npz: Path, mnist, monkeypatch) -> None:
    """Data that change after a run was requested, even while it is being built, are not trained on under its id."""
    config = make("train.steps=1")
    requested = identity.identify(config)
    write_images(npz, mnist, 100)
    with pytest.raises(InputError, match=f"since run {requested.run_id} was requested"):
        run(config, identity=requested)
    assert not requested.directory.path.exists()


def test_a_lost_process_is_recorded_in_the_run_that_was_requested(make, npz: Path, mnist) -> None:
    config = make("train.steps=1")
    requested = identity.identify(config)
    write_images(npz, mnist, 100)
    record = life.record_lost_process(config, requested, "killed", [], None)
    assert (record.run_id, record.status, record.error) == (requested.run_id, Status.FAILED, "killed")
    npz.unlink()
    assert life.record_lost_process(config, requested, "killed again", [], None).error == "killed"


def test_a_module_edited_after_its_import_does_not_change_the_id_in_this_process(
    make, write_user_module, tmp_path
) -> None:
    """The code in memory is the code that trains."""
    write_user_module("fake.mean() - real.mean()")
    config = dataclasses.replace(make(), loss={"_target_": "my_losses.mine", "strength": 1.0})
    before = run_id(config)
    (tmp_path / "my_losses.py").write_text("edited = True\n")
    assert run_id(config) == before


RELOADED = """
from wgan_sweep.objectives.losses import Loss

SCALE = {scale}
WEIGHTS = [{weight}]

class Formula:
    OFFSET = {offset}

    @staticmethod
    def critic(real, fake):
        return SCALE * (fake.mean() - {real}) + Formula.OFFSET

def mine(strength: float = {default}.0) -> Loss:
    return Loss(Formula.critic, lambda fake: -{generator})
"""
AT_FIRST = {"scale": 1, "weight": 1, "offset": 0, "real": "real.mean()", "default": 1, "generator": "fake.mean()"}
EDITS = {"scale": 2, "weight": 2, "offset": 1, "real": "real.max()", "default": 2, "generator": "fake.max()"}


def reload_in_place(module: ModuleType) -> None:
    """Replace constants and code as ``%autoreload`` does: functions, classes and module stay the same objects."""
    new = ModuleType(module.__name__)
    exec(compile(Path(str(module.__file__)).read_text(), "new", "exec"), vars(new))  # noqa: S102
    module.SCALE, module.WEIGHTS, module.Formula.OFFSET = new.SCALE, new.WEIGHTS, new.Formula.OFFSET
    for old, changed in ((module.Formula.critic, new.Formula.critic), (module.mine, new.mine)):
        old.__code__, old.__defaults__ = changed.__code__, changed.__defaults__


@pytest.mark.integration
@pytest.mark.parametrize("reload", [importlib.reload, reload_in_place])
@pytest.mark.parametrize("edited", EDITS)
def test_a_module_that_is_edited_and_loaded_again_changes_the_id(make, tmp_path, monkeypatch, reload, edited) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("reloaded_losses", None)
    file = tmp_path / "reloaded_losses.py"
    config = dataclasses.replace(make(), loss={"_target_": "reloaded_losses.mine", "strength": 1.0})

    def edited_id(values: dict[str, object]) -> str:
        file.write_text(RELOADED.format_map(values))
        if "reloaded_losses" in sys.modules:
            reload(sys.modules["reloaded_losses"])
        return run_id(config)

    first = edited_id(AT_FIRST)
    second = edited_id(AT_FIRST | {edited: EDITS[edited]})
    assert second != first
    file.write_text("edited = True")
    assert run_id(config) == second  # it is not loaded yet
    assert edited_id(AT_FIRST) == first


def test_a_script_that_is_edited_while_it_runs_keeps_its_ids(make, tmp_path: Path, monkeypatch) -> None:
    """Its values change meanwhile, as the variable of a loop does."""
    script = ModuleType("__main__")
    script.__file__ = str(tmp_path / "script.py")
    source = MODULE.format(name="mine", formula="fake.mean() - real.mean()")
    Path(script.__file__).write_text(source)
    monkeypatch.setitem(sys.modules, "__main__", script)
    exec(compile(source, script.__file__, "exec"), vars(script))  # noqa: S102
    ids = set()
    for seed in (0, 1):
        script.seed = seed
        ids.add(run_id(dataclasses.replace(make(), loss={"_target_": "__main__.mine", "strength": 1.0})))
        Path(script.__file__).write_text("edited = True")
    assert len(ids) == 1


# The source of a function in a notebook is part of the identity, too.

CELL = """
from functools import wraps
from wgan_sweep.objectives.losses import Loss, wasserstein

def mine():
    return Loss(lambda real, fake: {formula}, lambda fake: -fake.mean())

def decorated(make):
    @wraps(make)
    def made():
        return make()
    return made

wrapped = decorated(mine)

class Mine:
    def __call__(self):
        return wasserstein()

made = Mine()
"""

RunCell = Callable[..., None]


@pytest.fixture
def run_cell(monkeypatch: pytest.MonkeyPatch) -> RunCell:
    """A function that runs a cell with a formula for the critic's loss as IPython does, in the module ``notebook``."""
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    count = 0

    def run_source(formula: str, *, is_kept: bool = True) -> None:
        nonlocal count
        count += 1
        source, name = CELL.format(formula=formula), f"<cell {count}>"
        if is_kept:
            monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(keepends=True), name))
        exec(compile(source, name, "exec"), vars(notebook))  # noqa: S102

    return run_source


def test_editing_a_function_of_a_notebook_changes_the_id(make, run_cell: RunCell) -> None:
    def id_of(target: str) -> str:
        return run_id(dataclasses.replace(make(), loss={"_target_": f"notebook.{target}"}))

    run_cell("fake.mean() - real.mean()")
    first, of_another_function = id_of("mine"), id_of("wasserstein")
    assert id_of("mine") == first != of_another_function
    run_cell("2 * (fake.mean() - real.mean())")
    assert id_of("mine") != first
    assert id_of("wasserstein") == of_another_function
    run_cell("fake.mean() - real.mean()")
    assert id_of("mine") == first


@pytest.mark.parametrize(
    ("target", "is_kept", "words"),
    [
        ("mine", False, "could not get source code"),
        ("Mine", True, "only the source of a function"),
        ("made", True, "only the source of a function"),
        ("wrapped", True, "it uses make of the function around it"),
    ],
)
def test_code_whose_source_is_unknown_is_refused(make, run_cell, target: str, is_kept: bool, words: str) -> None:
    run_cell("fake.mean() - real.mean()", is_kept=is_kept)
    config = dataclasses.replace(make(), loss={"_target_": f"notebook.{target}"})
    with pytest.raises(
        InputError, match=rf"module notebook is not a file \({words}.*\); put it into a module"
    ) as refusal:
        run_id(config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["builtins", "sys", "time"])
def test_modules_of_python_without_a_file_count_as_known(name: str) -> None:
    module = importlib.import_module(name)
    assert getattr(module, "__file__", None) is None
    target = next(value for value in vars(module).values() if inspect.isroutine(value) or inspect.isclass(value))
    assert user_source(f"{name}.{target.__name__}", target) is None


DEFINITIONS = {
    "wraps": """
import functools
from wgan_sweep.objectives import losses

@functools.wraps(losses.hinge)
def hinge():
    return losses.wasserstein()
""",
    "callable object": """
from wgan_sweep.objectives import losses

class Mine:
    x: int = 1

    def __call__(self):
        return losses.hinge()

hinge = Mine()
""",
    "imported": "from wgan_sweep.objectives.losses import hinge",
}


@pytest.mark.parametrize("source", DEFINITIONS.values(), ids=DEFINITIONS)
def test_a_users_module_counts_however_it_defines_a_target(make, tmp_path, monkeypatch, source: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    ids = set()
    for edit in ("", "\n# edited\n"):
        (tmp_path / "profile_losses.py").write_text(source + edit)
        sys.modules.pop("profile_losses", None)
        target = {"_target_": "profile_losses.hinge"}
        ids.add(hash_of(science(dataclasses.replace(make(), loss=target))))
    built_in = run_id(dataclasses.replace(make(), loss={"_target_": "wgan_sweep.objectives.losses.hinge"}))
    assert len({*ids, built_in}) == 3


def test_a_users_module_may_have_the_name_of_a_standard_one(make, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "this.py").write_text("from wgan_sweep.objectives.losses import hinge as mine\n")
    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert "_source_" in science(dataclasses.replace(make(), loss={"_target_": "this.mine"}))["loss"]
    monkeypatch.delitem(sys.modules, "this", raising=False)


def test_a_users_function_in_a_data_option_changes_the_images_and_the_id(make, tmp_path, mnist, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for split in ("train", "t10k"):
        write_mnist_files(tmp_path / "root" / "MNIST" / "raw", mnist[:20], split)
    overrides = ["data=mnist", f"data.root={tmp_path / 'root'}", "scorer=none"]
    ids = [run_id(make(*overrides, tiny=False))]
    for level in (0, 100):
        (tmp_path / "my_images.py").write_text(
            f"from PIL import Image\n\ndef pad(image, size):\n    return Image.new(image.mode, (size, size), {level})\n"
        )
        sys.modules.pop("my_images", None)
        ids.append(run_id(make(*overrides, "data.prepare._target_=my_images.pad", tiny=False)))
        identity_of_option.cache_clear()
    assert len(set(ids)) == 3


def test_the_data_of_a_module_that_is_loaded_again_are_those_of_the_new_code(
    make, tmp_path: Path, mnist, monkeypatch
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "grey_images.py"
    code = "from PIL import Image\n\ndef fill(image, size):\n    return Image.new(image.mode, (size, size), {})\n"
    file.write_text(code.format(0))
    for split in ("train", "t10k"):
        write_mnist_files(tmp_path / "root" / "MNIST" / "raw", mnist[:20], split)
    overrides = ["data=mnist", f"data.root={tmp_path / 'root'}", "data.prepare._target_=grey_images.fill"]
    config = make(*overrides, "scorer=none", tiny=False)
    ids = [run_id(config)]
    assert load_data(config.data).array.max() == 0
    file.write_text(code.format(100))
    importlib.reload(sys.modules["grey_images"])
    ids.append(run_id(config))
    assert load_data(config.data).array.min() == 100
    assert ids[0] != ids[1]
