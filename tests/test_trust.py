"""Run directories are data: reading somebody else's run executes nothing that it names."""

import json
import os
import shutil
from pathlib import Path

import pytest

from wgan_sweep.commands import score
from wgan_sweep.config import objects
from wgan_sweep.config.targets import check_untrusted, is_option, registered
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.record import Record, Status

from .helpers import Shell, directory_of, records, run, write_record

ATTACKS = [
    ("data", {"_target_": "os.system", "command": "touch {marker}"}),
    ("data", {"_target_": "joblib.load", "filename": "{marker}"}),
    ("tracker", {"_target_": "builtins.eval", "_args_": ["open('{marker}', 'w')"]}),
    ("model", {"_target_": "wgan_sweep.models.MLP", "width": {"_target_": "os.mkdir", "path": "{marker}"}}),
    ("model", {"_target_": "wgan_sweep.models.MLP", "widths": [1, {"_target_": "os.mkdir", "path": "{marker}"}]}),
    ("loss", {"_target_": "wgan_sweep.common.files.write", "path": "{marker}", "content": "x"}),
    ("optimizer", {"_target_": "torch.hub.load", "_partial_": True, "repo_or_dir": "{marker}"}),
    ("constraint", {"_target_": "evil.touch", "path": "{marker}"}),
]


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that can be imported, and writes a marker when it is."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\ndef touch(path): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def formatted(node, marker: Path):
    if isinstance(node, dict):
        return {name: formatted(value, marker) for name, value in node.items()}
    if isinstance(node, list):
        return [formatted(value, marker) for value in node]
    return node.format(marker=marker) if isinstance(node, str) else node


@pytest.mark.parametrize(("group", "node"), ATTACKS)
@pytest.mark.usefixtures("evil")
def test_scoring_a_run_executes_nothing_that_it_names(make, tmp_path: Path, capsys, group: str, node: dict) -> None:
    directory = RunDir(tmp_path / "0123456789ab")
    marker = tmp_path / "marker"
    config = {"scorer": {}, group: formatted(node, marker)}
    write_record(directory, Record("0123456789ab", Status.DONE, config=config))
    from wgan_sweep.config.schema import to_yaml

    legitimate = make()
    setattr(legitimate, group, formatted(node, marker))
    directory.config.write_text(to_yaml(legitimate))
    with pytest.raises(SystemExit, match="_target_"):
        score.main([str(directory.path), str(directory.path)])
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.run", "torch.load", "numpy.load"])
def test_libraries_are_no_options_on_the_command_line_either(name: str) -> None:
    with pytest.raises(InputError, match=rf"tracker._target_={name} is not an option"):
        objects.target_of({"_target_": name}, "tracker")


def test_a_users_module_does_not_lead_to_other_code(tmp_path: Path, monkeypatch) -> None:
    imports = (
        "import os\nfrom os import system\nimport torch\nfrom numpy import load\nfrom wgan_sweep.common import files\n"
    )
    options = "from wgan_sweep.models import MLP\n"
    (tmp_path / "leading.py").write_text(f"{imports}{options}def mine(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, owner in (
        ("os.system", "the standard library"),
        ("system", "the standard library"),
        ("torch.hub.load", "torch"),
        ("load", "numpy"),
        ("files.write", "wgan-sweep, which has no such option"),
    ):
        with pytest.raises(InputError, match=rf"leading\.{name} belongs to {owner}: name a function or class of yours"):
            objects.target_of({"_target_": f"leading.{name}"}, "tracker")
    assert objects.target_of({"_target_": "leading.mine"}, "tracker")() is None
    assert objects.target_of({"_target_": "leading.MLP"}, "model").__name__ == "MLP"


def test_options_of_the_package_and_optimizers_may_be_named() -> None:
    assert len(registered()) > 60
    assert all(is_option(name) for name in ("torch.optim.AdamW", "wgan_sweep.models.DCGAN"))
    assert not any(is_option(name) for name in ("torch.optim.lr_scheduler.StepLR", "wgan_sweep.models.dcgan.os"))
    check_untrusted({"a": {"_target_": "mine.loss"}, "b": [{"_target_": None}]}, "run x", ["mine"])
    with pytest.raises(InputError, match=r"run x names a\._target_='mines\.loss'.*--allow"):
        check_untrusted({"a": {"_target_": "mines.loss"}}, "run x", ["mine"])


def test_a_run_is_asked_for_again_from_its_directory(sweep: Shell) -> None:
    """With other values and other options; the ids are those of the full commands."""
    sweep("loss=wgan_div", "div.k=1.5", "seed=3", "optimizer.betas=[0.1,0.99]")
    (first,) = records(sweep.folder)
    source = ["--config-path", str(sweep.folder / "runs" / first["run_id"]), "--config-name", "config"]
    again = sweep.call([*source])
    assert "nothing left to do" in again.stderr
    sweep.call([*source, "train.steps=5"])
    (longer,) = records(sweep.folder)
    assert (longer["run_id"], longer["step"]) == (first["run_id"], 5)
    sweep.call([*source, "optimizer=sgd", "div.k=4"])
    sweep.call(["-m", *source, "seed=7,8"])
    ids = {record["run_id"] for record in records(sweep.folder)}
    assert len(ids) == 4
    sweep("-m", "loss=wgan_div", "div.k=1.5", "seed=7,8", "optimizer.betas=[0.1,0.99]")
    sweep("loss=wgan_div", "div.k=4", "seed=3", "optimizer=sgd")
    assert {record["run_id"] for record in records(sweep.folder)} == ids


def test_a_runs_config_names_no_code_of_hydra_or_of_a_module(sweep: Shell) -> None:
    sweep("seed=3")
    (record,) = records(sweep.folder)
    path = sweep.folder / "runs" / record["run_id"] / "config.yaml"
    text = path.read_text()
    marker = sweep.folder / "marker"
    (sweep.folder / "evil.py").write_text("def make(**_): open('marker', 'w')\n")
    evil_hydra = "hydra:\n  callbacks: {x: {_target_: evil.make}}\n  launcher: {_target_: evil.make}\n"
    path.write_text(text + evil_hydra)
    assert "nothing left to do" in sweep.call(["--config-path", str(path.parent)]).stderr
    path.write_text(text.replace("_target_: wgan_sweep.tracking.tracker.NoTracker", "_target_: evil.make"))
    assert "evil.make" in path.read_text()
    refused = sweep.call(["--config-path", str(path.parent), "train.steps=9"], code=1)
    assert "names tracker._target_='evil.make'" in refused.stderr
    path.write_text(text.replace("seed: 3", "seed: ${oc.env:HOME}"))
    refused = sweep.call(["--config-path", str(path.parent), "train.steps=9"], code=1)
    assert "is an interpolation" in refused.stderr
    assert os.environ["HOME"] not in refused.stderr.replace(str(sweep.folder), "")
    assert not marker.exists()


def test_a_copied_directory_does_not_count(make, tmp_path: Path) -> None:
    config = make("train.steps=2")
    run(config)
    directory = directory_of(config)
    shutil.copytree(directory.path, directory.path.with_name(f"{directory.path.name}-backup"))
    runs = find_runs(directory.path.parent)
    assert [record.run_id for record in runs.records] == [directory.path.name]
    assert runs.copies == [f"{directory.path.name}-backup"]
    assert "counts only in the directory of its own name" in runs.notes[0]


@pytest.mark.parametrize("run_id", ["../x", "/etc", ".x", "", "a/b", "a\nb", 3, None])
def test_a_run_id_that_is_no_name_of_a_directory_is_refused(run_id: object, tmp_path: Path) -> None:
    values = {"run_id": run_id, "status": "done", "config": {"scorer": {}}, "format": 1}
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="run_id"):
        RunDir(tmp_path).read_record()
