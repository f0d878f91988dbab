"""Own options: folders that the command line names, installed plugins, the template of --init, and the guide."""

import importlib
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import submitit
import torch
from rich.console import Console

from wgan_sweep.commands import report, score
from wgan_sweep.commands.init import TEMPLATE, write_template
from wgan_sweep.common.progress import Display
from wgan_sweep.config import catalogue, folders, objects, refusals, schema
from wgan_sweep.config.schema import Config
from wgan_sweep.config.targets import check_untrusted
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.gradient_terms import GradientTerm
from wgan_sweep.report.figures import make_figure
from wgan_sweep.runs import provenance
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import identify
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.sweeps import config_of_run
from wgan_sweep.sweeps.arguments import use_folders
from wgan_sweep.sweeps.launching import RequestedRun
from wgan_sweep.sweeps.parallel import Parallel
from wgan_sweep.sweeps.slurm import Slurm

from .helpers import Shell, directory_of, records, run, run_process, trainer_state

GUIDE = Path(__file__).parent.parent / ".github" / "guide" / "extending.md"

LOSS = """
from wgan_sweep.objectives.losses import Loss

def mine(strength: float) -> Loss:
    return Loss(lambda real, fake: strength * (fake.mean() - real.mean()), lambda fake: -fake.mean())
"""
OPTION = "# @package _global_\nloss:\n  _target_: {module}.mine\n  strength: 2.0\n"


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture
def isolated(monkeypatch) -> Iterator[None]:
    """Folders and plugins that a test uses are forgotten at its end, with their modules."""
    monkeypatch.setattr(folders, "_named", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loaded = set(sys.modules)
    folders.plugins.cache_clear()
    yield
    folders.plugins.cache_clear()
    for name in set(sys.modules) - loaded:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or "site-packages" not in file:
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the option loss=mine and its module."""
    return write_files(
        tmp_path / "my site", {"site_losses.py": LOSS, "loss/mine.yaml": OPTION.format(module="site_losses")}
    )


def quiet() -> Display:
    return Display(Console(quiet=True))


def request(config) -> RequestedRun:
    return RequestedRun(config, ("typed=1",), "", None)


# Folders that the command line names.


@pytest.mark.integration
def test_a_folder_is_used_by_the_command_and_asked_for_again_by_the_directory_of_a_run(
    sweep: Shell, site: Path, isolated
) -> None:
    """The directory alone is not trusted."""
    sweep(f"--config-dir={site}", "loss=mine")
    (record,) = records(sweep.folder)
    assert record["status"] == "done"
    assert record["science"]["loss"]["_target_"] == "site_losses.mine"
    source = ["--config-path", str(sweep.folder / "runs" / record["run_id"])]
    with pytest.raises(InputError, match=r"names loss\._target_='site_losses\.mine', .* by --config-dir FOLDER"):
        config_of_run.expand(source)
    assert "nothing left to do" in sweep.call([*source, f"--config-dir={site}"]).stderr


@pytest.mark.integration
@pytest.mark.usefixtures("isolated")
def test_other_processes_import_the_modules_of_a_folder(make, site: Path, tmp_path: Path) -> None:
    """Workers of launch=parallel, followers of launch.gpus_per_run, and jobs."""
    folders.use(site)
    config = make("loss=mine", "train.steps=2")
    (outcome,) = Parallel(jobs=1)([request(config)], quiet(), lambda: False)
    assert outcome.record is not None
    assert (outcome.record.status, outcome.record.step) == (Status.DONE, 2)

    shared = run(make("loss=mine", "train.steps=2", "seed=1", "launch.gpus_per_run=2"))
    assert (shared.status, shared.error) == (Status.DONE, None)

    job = request(make("loss=mine", "train.steps=2", "seed=2"))
    task = Slurm(gpus_per_node=0)._task([job], provenance.code())
    assert task.folders == (str(site),)
    submitit.LocalExecutor(tmp_path / "jobs").submit(task).result()
    record = job.directory.read_record()
    assert record is not None
    assert (record.status, record.step) == (Status.DONE, 2)


@pytest.mark.slow
def test_another_hydra_launcher_imports_the_modules_of_a_folder(sweep: Shell, site: Path) -> None:
    sweep("-m", f"--config-dir={site}", "loss=mine", "seed=0,1", "hydra/launcher=submitit_local")
    assert [record["status"] for record in records(sweep.folder)] == ["done"] * 2


@pytest.mark.usefixtures("isolated")
def test_folders_are_named_in_all_forms_that_hydra_reads(site: Path, tmp_path: Path) -> None:
    other = write_files(tmp_path / "other", {"other_losses.py": LOSS})
    arguments = ["-m", "--config-dir", str(site), f"--config-di={other}", "-cd", str(site), "loss=mine", "-c", "job"]
    assert use_folders(arguments) == ["-m", "loss=mine", "-c", "job"]
    assert folders.named() == (str(site), str(other))
    assert folders.modules() == ["site_losses", "other_losses"]
    assert importlib.import_module("other_losses").__file__ == str(other / "other_losses.py")
    assert "mine" in catalogue.options()["loss"]
    assert "these have it: mine" in catalogue.unknown_key("loss.strength", Config)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"torch.py": ""}, r"has a module torch, but .*torch/__init__\.py has the same name"),
        ({"yaml/loader.py": ""}, r"has a module yaml, but .*yaml/__init__\.py"),
        ({"wgan_sweep/losses.py": ""}, r"has a module wgan_sweep, but .*wgan_sweep/__init__\.py"),
        ({"sys.py": ""}, "has a module sys, but Python's module sys"),
        ({"os.py": ""}, "has a module os, but Python's module os"),
        ({"json.py": ""}, r"has a module json, but .*json/__init__\.py"),
        ({"loss/wgan.yaml": ""}, r"has an option loss/wgan\.yaml, but wgan-sweep has one of the same name"),
        ({"experiment/theory/modes.yaml": ""}, r"has an option experiment/theory/modes\.yaml, but wgan-sweep"),
        ({"record.json": "{}"}, "is a run directory, from which no code is taken"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("isolated")
def test_a_folder_that_would_replace_something_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    path_before = list(sys.path)
    with pytest.raises(InputError, match=message):
        folders.use(write_files(tmp_path / "site", files))
    assert (folders.named(), sys.path) == ((), path_before)


@pytest.mark.usefixtures("isolated")
def test_a_missing_folder_and_an_empty_name_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such folder"), ("", "is empty")):
        with pytest.raises(InputError, match=f"--config-dir.*{message}"):
            folders.use(path)


@pytest.mark.integration
@pytest.mark.usefixtures("isolated")
def test_a_score_uses_the_modules_of_a_named_folder_only(make, site: Path, npz: Path, cache: Path, capsys) -> None:
    folders.use(site)
    config = make("loss=mine", "train.steps=1")
    run(config)
    folders._named.clear()
    directory = str(directory_of(config).path)
    arguments = [str(npz), directory, "--layer", "64", "--num-samples", "8", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit, match=r"names loss\._target_='site_losses\.mine'.*--config-dir FOLDER"):
        score.main(arguments)
    score.main([*arguments, "--config-dir", str(site)])
    assert json.loads(capsys.readouterr().out)["fake_count"] == 8


@pytest.mark.usefixtures("isolated")
def test_a_damaged_option_of_a_folder_is_named(make, site: Path) -> None:
    folders.use(write_files(site, {"loss/damaged.yaml": "loss: [\n"}))
    with pytest.raises(refusals.BAD_INPUT) as refused:
        make("loss=damaged")
    assert re.fullmatch(
        r"a config file cannot be read \(.*my site/loss/damaged\.yaml.*\): correct it", refusals.explain(refused.value)
    )


# Targets that cannot be imported.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("site_loses.mine", r"there is no module site_loses; did you mean site_losses\? put it beside .*--config-dir"),
        ("nowhere_at_all.Net", "there is no module nowhere_at_all; put it beside .*PYTHONPATH, or install it"),
        ("site_losses.mien", r"site_losses has no mien; did you mean mine\? correct the name"),
        ("site_losses.Loss.critik", r"Loss has no critik.*correct the name"),
        ("site_losses.sub.mine", "site_losses has no sub; correct the name"),
        ("needs_more.f", r"its module raises ModuleNotFoundError: No module named 'needed'.*needs_more\.py:2\)"),
        ("divides.f", r"its module raises ZeroDivisionError: .*divides\.py:1\); correct the module"),
        ("misspelt.f", r"its module raises SyntaxError: .*misspelt\.py, line 1"),
        ("site_losses..mine", "invalid dotstring"),
    ],
)
@pytest.mark.usefixtures("isolated")
def test_a_target_that_cannot_be_imported_says_what_to_do(site: Path, name: str, message: str) -> None:
    broken = {"needs_more.py": "import math\nimport needed\n", "divides.py": "1 / 0\n", "misspelt.py": "def f(:\n"}
    folders.use(write_files(site, broken))
    with pytest.raises(InputError, match=message) as refused:
        objects.target_of({"_target_": name}, "loss")
    assert str(refused.value).startswith(f"loss._target_={name} cannot be imported: ")
    assert "\n" not in str(refused.value)


def test_a_misspelt_option_of_the_package_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"is not an option; did you mean wgan_sweep\.models\.DCGAN\?"):
        objects.target_of({"_target_": "wgan_sweep.models.DCGANN"}, "model")


# The guide.


def fenced_blocks() -> list[tuple[str, str, str, str]]:
    """Return section, language, file name and content of each fenced block of the guide."""
    blocks, section = [], ""
    lines = iter(GUIDE.read_text().splitlines())
    for line in lines:
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("```"):
            language, _, name = line[3:].partition(" ")
            content = "".join(f"{text}\n" for text in iter(lambda: next(lines), "```"))
            blocks.append((section, language, name, content))
    return blocks


def commands() -> list[tuple[str, list[str]]]:
    """Return the section and the overrides of each command of the guide that trains."""
    console = [(section, text) for section, language, _, text in fenced_blocks() if language == "console"]
    lines = [(section, line.partition("    #")[0]) for section, text in console for line in text.splitlines()]
    words = [(section, shlex.split(line)) for section, line in lines if line.startswith("$ wgan-sweep ")]
    return [
        (section, [word for word in line[2:] if word not in ("-m", "--config-dir", "site")]) for section, line in words
    ]


GUIDE_TINY = {
    "train.steps": "2", "train.batch_size": "8", "train.n_critic": "2", "model.dim": "8", "model.latent_dim": "4",
    "scorer.num_samples": "16", "tracker": "none", "device": "cpu",
}  # fmt: skip


@pytest.mark.integration
def test_every_example_of_the_guide_trains(make, npz: Path, tmp_path: Path, monkeypatch, isolated) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    files = {name: text for _, language, name, text in fenced_blocks() if language in ("python", "yaml")}
    site = write_files(tmp_path / "site", files)
    folders.use(site)
    trained: dict[str, tuple[list[Record], str]] = {}
    for section, given in commands():
        keys = {override.lstrip("+").partition("=")[0] for override in given}
        images = [] if "data" in keys else ["data=npz", f"data.path={npz}", "scorer.num_real=16"]
        tiny = [f"{key}={value}" for key, value in GUIDE_TINY.items() if key not in keys]
        axes = [override for override in given if "," in override]
        values = [f"{axis.partition('=')[0]}={value}" for axis in axes for value in axis.partition("=")[2].split(",")]
        fixed = [override for override in given if override not in axes]
        configs = [make(*images, *tiny, *fixed, *value, tiny=False) for value in ([[v] for v in values] or [[]])]
        requested = [request(config) for config in configs]
        launcher = objects.make(configs[0].launch, "launch")
        outcomes = launcher(requested, quiet(), lambda: False)
        assert [outcome.record and outcome.record.run_id for outcome in outcomes] == [r.run_id for r in requested]
        summary = make_figure(configs[0].figure)([outcome.record for outcome in outcomes], Path(configs[0].runs))
        trained[section] = [outcome.record for outcome in outcomes], summary.table
    sections = {section for section, language, _, _ in fenced_blocks() if language == "yaml"}
    assert set(trained) == {*sections, "Test them"}
    for section, (done, _) in trained.items():
        assert {(record.status, record.step) for record in done} == {(Status.DONE, 2)}, (section, done[0].error)

    def science(section: str, group: str) -> str:
        node = trained[section][0][0].science[group]
        assert len(node["_source_"]) == 16
        return node["_target_"]

    assert science("Loss", "loss") == "own_losses.softplus_pair"
    assert science("Penalty ψ", "constraint") == "own_penalties.penalty"
    assert trained["Penalty ψ"][0][0].science["constraint"]["psi"]["_source_"]
    assert trained["Sampling scheme r(x)"][0][0].science["loss"]["sampling"]["share"] == 0.25
    assert science("Model", "model") == "own_models.Radial"
    assert science("Data set", "data") == "own_data.Annulus"
    assert science("Schedule", "critic_schedule") == "own_schedules.staircase"
    (stepped,) = trained["Schedule"][0]
    lines = RunDir(Path(stepped.config["runs"]) / stepped.run_id).read_metrics()
    rates = [line["critic_lr"] for line in lines if "critic_lr" in line]
    assert rates == pytest.approx([0.5 * stepped.config["optimizer"]["lr"]])
    assert science("Critic updates", "critic_updates") == "own_critic_updates.halving"
    assert trained["Critic updates"][0][0].images_seen == (64 + 32) * 8
    assert len(trained["Launcher"][0]) == len(trained["Figure"][0]) == 2
    assert re.search(r"^\| \w{12} \| done +\| \d", trained["Figure"][1], re.MULTILINE)

    critic = trainer_state(make(*[f"{k}={v}" for k, v in GUIDE_TINY.items()], *commands()[3][1], tiny=False))["critic"]
    weights = [value for name, value in critic.items() if name.endswith("weight")]
    assert all(float(weight.norm(dim=1).max()) <= 0.5 + 1e-6 for weight in weights)

    (scored,) = trained["Metric and feature space"][0]
    assert 0 < scored.scores["mean_gap"] <= 255
    assert scored.scored_by["features"] == "4 x 4 pixels"
    (foreign,) = trained["A metric of torchmetrics"][0]
    assert foreign.scores["fid_torchmetrics"] == pytest.approx(foreign.scores["fid"], rel=1e-3)
    assert foreign.scores["total_variation"] > 0
    metrics = foreign.config["scorer"]["metrics"]
    with pytest.raises(InputError, match=r"names total_variation\._target_='torchmetrics\..*--allow MODULE"):
        check_untrusted({"total_variation": metrics["total_variation"]}, "the run")
    check_untrusted(foreign.config, "the run", folders.trusted_names())
    for name, value in vars(importlib.import_module("test_own_losses")).items():
        if name.startswith("test_"):
            value()


@pytest.mark.usefixtures("isolated")
def test_guide_examples_compute_what_it_says(tmp_path: Path) -> None:
    files = {name: text for _, language, name, text in fenced_blocks() if language == "python"}
    folders.use(write_files(tmp_path / "site", files))

    def option(name: str):
        return objects.target_of({"_target_": name})

    norms = torch.tensor([0.5, 1.0, 2.0, 4.0])
    torch.testing.assert_close(option("own_penalties.Huber")(weight=2.0)(norms), torch.tensor([0.25, 0.0, 1.0, 5.0]))
    (term,) = option("own_penalties.penalty")(norms.square, None).terms
    assert isinstance(term, GradientTerm)
    real, fake = torch.full((64, 3), 1.0), torch.zeros(64, 3)
    points = option("own_sampling.near_fake")(real, fake, torch.Generator().manual_seed(0), 0.25)
    assert points.shape == (64, 3)
    assert (points == points[:, :1]).all()
    assert 0.2 < float(points.max()) <= 0.25
    radii = option("own_data.Annulus")(1.0, 2.0).load().draw(4000, torch.Generator().manual_seed(0)).norm(dim=1)
    assert 1 <= float(radii.min()) < 1.01 < 1.99 < float(radii.max()) <= 2
    assert float((radii < 2.5**0.5).float().mean()) == pytest.approx(0.5, abs=0.03)  # half of the area
    images = torch.arange(2 * 64, dtype=torch.uint8).reshape(2, 1, 8, 8)
    features = option("own_metrics.Pixels")(2).extract(torch.device("cpu"))(images).features
    np.testing.assert_allclose(features, images.numpy().reshape(2, 2, 4, 2, 4).mean((2, 4)).reshape(2, 4))


# The template of --init.


@pytest.mark.integration
def test_the_template_trains_passes_its_test_and_identifies_its_module(
    sweep: Shell, monkeypatch, capsys, isolated
) -> None:
    monkeypatch.chdir(sweep.folder)
    written = sweep.call(["--init", "own site"])
    folder = sweep.folder / "own site"
    template = {path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*.*") if path.suffix != ".pyc"}
    assert {path.relative_to(folder) for path in folder.rglob("*.*")} == template
    assert "--init needs a folder" in sweep.call(["--init"], code=1).stderr
    with pytest.raises(InputError, match="--init=own site exists already and is not an empty folder"):
        write_template(Path("own site"))
    printed = [shlex.split(line.partition(":")[2]) for line in written.stdout.splitlines() if ":" in line]
    (train,), (judge,), (test,) = (
        [c for c in printed if word in c] for word in ("experiment=own", "--claims", "pytest")
    )
    tested = run_process([sys.executable, *test[1:], "-q", "-p", "no:cacheprovider"], sweep.folder, dict(os.environ))
    assert tested.returncode == 0, tested.stdout

    sweep.call([*train[1:], "seed=0", "train.steps=3", "train.batch_size=8", "scorer.num_samples=20", "device=cpu"])
    trained = {record["config"]["choices"]["loss"]: record for record in records(sweep.folder)}
    assert {loss: (record["status"], record["step"]) for loss, record in trained.items()} == {
        "drift": ("done", 3),
        "wgan_gp": ("done", 3),
    }
    report.main(judge[1:])
    assert re.search(
        r"^\| the drift term brings samples closer to the data +\|[^|]*\| undecided",
        capsys.readouterr().out,
        re.MULTILINE,
    )

    run_id = trained["drift"]["run_id"]
    again = sweep.call(["--config-dir", "own site", "--config-path", f"runs/{run_id}"])
    assert "nothing left to do" in again.stderr
    assert len(records(sweep.folder)) == 2  # this run only, and not the others of its experiment
    folders.use(folder)
    config = schema.read(sweep.folder / "runs" / run_id / "config.yaml")
    assert identify(config).run_id == run_id
    module = folder / "own_options.py"
    module.write_text(module.read_text().replace("nn.SiLU()", "nn.ELU()"))
    del sys.modules["own_options"]
    assert identify(config).run_id != run_id


# Plugins.


def write_plugin(folder: Path, entry_points: str, **files: str) -> Path:
    """Write an installed distribution, as pip does: a package, and a .dist-info folder."""
    content = {
        "plug_losses/__init__.py": LOSS,
        "plug_losses/conf/loss/plugged.yaml": OPTION.format(module="plug_losses"),
        "plug_pieces-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: plug-pieces\nVersion: 1.0\n",
        "plug_pieces-1.0.dist-info/entry_points.txt": entry_points,
    }
    return write_files(folder, content | files)


GOOD = "[console_scripts]\nx = y:z\n[wgan_sweep.configs]\nmine = plug_losses.conf\n"


def test_the_guide_describes_the_entry_point_that_is_read() -> None:
    (text,) = (text for _, language, name, text in fenced_blocks() if (language, name) == ("toml", "pyproject.toml"))
    (group,) = tomllib.loads(text)["project"]["entry-points"].items()
    assert group == (folders.ENTRY_POINTS, {"my_gan_pieces": "my_gan_pieces.conf"})


@pytest.mark.usefixtures("isolated")
def test_the_options_of_a_plugin_are_composed_trained_and_trusted(make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "packages", GOOD))
    (plugin,) = folders.plugins()
    assert (plugin.origin, plugin.package) == ("the plugin plug-pieces", "plug_losses")
    assert "plug_losses" not in sys.modules
    record = run(make("loss=plugged", "train.steps=1"))
    assert (record.status, record.config["choices"]["loss"]) == (Status.DONE, "plugged")
    assert record.science["loss"]["_target_"] == "plug_losses.mine"
    check_untrusted(record.config, "the run")
    with pytest.raises(InputError, match=r"names loss\._target_='plug_losses\.Loss'"):
        check_untrusted({"loss": {"_target_": "plug_losses.Loss"}}, "the run")
    with pytest.raises(InputError, match=r"has an option loss/plugged\.yaml, but the plugin plug-pieces has one"):
        folders.use(write_files(tmp_path / "site", {"loss/plugged.yaml": ""}))


@pytest.mark.parametrize(
    ("entry_points", "files", "message"),
    [
        ("[wgan_sweep.configs]\nmine = not_there.conf\n", {}, "mine = not_there.conf names a package that is not inst"),
        ("[wgan_sweep.configs]\nmine = plug_losses.cnf\n", {}, "mine = plug_losses.cnf names a folder that does not"),
        ("[wgan_sweep.configs]\nmine = plug_losses:conf\n", {}, "is not the name of a folder of a package"),
        ("[wgan_sweep.configs]\nmine = plug_losses/conf\n", {}, "is not the name of a folder of a package"),
        ("[wgan_sweep.configs]\nmine = json.encoder\n", {}, "names a folder that does not exist"),
        ("[wgan_sweep.configs]\nmine = plug_losses.conf.loss\n", {}, "names a folder without options"),
        ("[wgan_sweep.configs]\nmine\n", {}, "entry_points.txt cannot be read"),
        (GOOD, {"plug_losses/conf/loss/wgan.yaml": ""}, r"has an option loss/wgan\.yaml, but wgan-sweep has one"),
        (GOOD, {"plug_losses/conf/loss/bad.yaml": "a: [\n"}, r"bad\.yaml cannot be read"),
        (GOOD, {"plug_losses/conf/loss/bad.yaml": "- 1\n"}, "it holds no keys and values"),
    ],
)
@pytest.mark.usefixtures("isolated")
def test_a_broken_plugin_is_named_in_one_line(
    tmp_path: Path, monkeypatch, entry_points: str, files: dict[str, str], message: str
) -> None:
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "packages", entry_points, **files))
    with pytest.raises(InputError, match=message) as refused:
        folders.plugins()
    assert str(refused.value).startswith("the plugin plug-pieces")
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("isolated")
def test_a_module_of_a_plugin_that_cannot_be_imported_names_its_distribution(make, tmp_path: Path, monkeypatch) -> None:
    files = {"plug_losses/__init__.py": "import not_there\n"}
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "packages", GOOD, **files))
    config = make("loss=plugged")
    with pytest.raises(InputError, match=r"plug_losses\.mine of the plugin plug-pieces cannot be imported: its module"):
        request(config)


@pytest.mark.integration
def test_the_command_lists_the_options_of_a_plugin_and_refuses_a_broken_one(
    sweep: Shell, tmp_path: Path, monkeypatch
) -> None:
    packages = write_plugin(tmp_path / "packages", GOOD)
    monkeypatch.setenv("PYTHONPATH", str(packages), prepend=":")
    assert re.search(r"^  plugged\b", sweep.call(["--help"]).stdout, re.MULTILINE)
    (packages / "plug_losses" / "conf" / "loss" / "plugged.yaml").unlink()
    for arguments in (["--help"], ["train.steps=1"]):
        refused = sweep.call(arguments, code=1)
        assert re.fullmatch(
            r"wgan-sweep: the plugin plug-pieces: .* names a folder without options.*\n", refused.stderr
        )
