"""The Python API returns what the commands and the trainer return, and leaves the caller's process as it is."""

import argparse
import ast
import gzip
import hashlib
import json
import logging
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from PIL import Image

import wgan_sweep as ws
from wgan_sweep.commands.options import add_common_options
from wgan_sweep.commands.runs import COMMANDS
from wgan_sweep.commands.runs import main as runs_command
from wgan_sweep.config import schema
from wgan_sweep.config.schema import Config
from wgan_sweep.data.writing import write_samples
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.build import build
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import run_id
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.samples import INTERPOLATED_PAIRS, INTERPOLATION_STEPS, run_source, spherical
from wgan_sweep.sweeps import from_python
from wgan_sweep.training.trainer import Trainer

from .conftest import TINY
from .helpers import PATIENCE_SECONDS, directory_of, records, run, write_record

GUIDE = Path(ws.__file__).parent.parent / ".github" / "guide"
CPU = torch.device("cpu")


def trainer_of(config: Config, checkpoint: str = "checkpoint.pt") -> Trainer:
    """Return a trainer at the step of a checkpoint: the way in which a run is resumed."""
    trainer = build(config).trainer
    trainer.load_state_dict(checkpoints.read(directory_of(config).path / checkpoint)["trainer"])
    return trainer


@pytest.fixture
def base(tmp_path: Path, npz: Path) -> list[str]:
    """Overrides of a tiny run on real images, in the test's folder."""
    return [f"runs={tmp_path / 'runs'}", "data=npz", f"data.path={npz}", *TINY]


# The package


def test_importing_the_package_and_finding_runs_import_neither_torch_nor_hydra(tmp_path: Path) -> None:
    code = (
        "import sys, wgan_sweep\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'rich'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "assert {'train', 'load_run'} <= set(dir(wgan_sweep))\n"
        "assert not heavy & sys.modules.keys()\n"
        "assert wgan_sweep.find_runs(sys.argv[1]) == []\n"
        "assert not {'torch', 'hydra'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_type_checkers_see_exactly_the_names_that_the_package_offers() -> None:
    tree = ast.parse(Path(ws.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert set(seen) == set(ws.__all__) == set(ws._HOMES)
    for name, module in seen.items():
        assert getattr(ws, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ws.nothing


# Composing


def test_compose_and_sweep_ask_for_the_runs_of_the_command(sweep, monkeypatch) -> None:
    """The command trains them; from Python they have the same configs and ids, and nothing is trained again."""
    monkeypatch.chdir(sweep.folder)
    overrides = [
        argument for argument in sweep.command("loss=wgan_div", "optimizer.betas=[0.1,0.9]") if "=" in argument
    ]
    sweep("-m", "loss=wgan_div", "optimizer.betas=[0.1,0.9]", "div.k=2,1")
    stored = {record["config"]["div"]["k"]: record for record in records(sweep.folder)}
    for k, record in stored.items():
        config = ws.compose(*overrides, f"div.k={k}")
        assert asdict(config) == record["config"]
        assert run_id(config) == record["run_id"]
    before = {path: path.stat().st_mtime_ns for path in (sweep.folder / "runs").glob("[0-9a-f]*/**/*")}
    assert [found.run_id for found in ws.sweep(*overrides, "div.k=2,1")] == [stored[2]["run_id"], stored[1]["run_id"]]
    assert {path: path.stat().st_mtime_ns for path in (sweep.folder / "runs").glob("[0-9a-f]*/**/*")} == before


REFUSED = [
    (["div.kk=1"], "div.kk; did you mean div.k"),
    (["loss=nothing"], "loss=nothing: no such option"),
    (["train.steps=-1"], "train.steps must be 1 or more"),
    (["train.steps=many"], "train.steps is invalid"),
    (["optimizer.lr=x"], "optimizer.lr must be"),
    (["loss=wgan", "div.k=1"], "div.k given, but nothing refers to it"),
    (["seed=${nothing}"], "seed="),
    (["div.k=1,2"], "div.k"),
    (["experiment=smoke"], "requests a sweep"),
    (["model._target_=os.system"], "is not an option"),
    (["div.k"], "cannot be read"),
    (["--cfg"], "not the options of the command"),
    ([3], "takes overrides as text"),
]


@pytest.mark.integration
@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=[str(row[0][0]) for row in REFUSED])
def test_compose_refuses_what_the_command_refuses(overrides: list, words: str) -> None:
    with pytest.raises(ws.InputError) as refusal:
        ws.compose(*overrides)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def process_state() -> tuple[object, ...]:
    """Return what the API must leave as it is."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    log = logging.getLogger("wgan_sweep")
    stored = json.dumps(ConfigStore.instance().repo, default=str, sort_keys=True)
    return (
        {kind: id(instance) for kind, instance in Singleton._instances.items()},
        stored,
        handlers,
        dict(os.environ),
        (log.handlers[:], log.level),
        torch.get_num_threads(),
    )


@pytest.fixture
def foreign_schema() -> Iterator[None]:
    """Another application's config of the name that this package uses."""
    ConfigStore.instance().store(name="schema", node={"theirs": 1})
    yield
    schema.register()


@pytest.mark.usefixtures("foreign_schema")
def test_the_process_stays_as_it_was_also_within_another_hydra_application(base, tmp_path: Path, capsys) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.yaml").write_text("defaults: [schema, _self_]\nmine: 1\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path / "app"), version_base="1.3"):
        app = GlobalHydra.instance().hydra
        _ = ws.compose, ws.train, ws.sweep  # import them: libraries set environment variables then
        before = process_state()
        config = ws.compose(*base)
        with pytest.raises(ws.InputError):
            ws.compose("nothing=1")
        ws.train(config)
        ws.sweep(*base, "seed=0,1")
        with pytest.raises(ws.InputError):
            ws.sweep(*base, "seed=")
        for now, then in zip(process_state(), before, strict=True):
            assert now == then
        assert GlobalHydra.instance().hydra is app
        composed = app.compose_config("config", [], RunMode.RUN)
        assert (composed.mine, composed.theirs) == (1, 1)
    output = capsys.readouterr()
    assert output.out == ""
    assert "done at step 6" in output.err
    assert "nothing left to do" in output.err


def test_calls_from_several_threads_wait_for_each_other(base) -> None:
    with ThreadPoolExecutor(4) as pool:
        configs = list(pool.map(lambda seed: ws.compose(*base, f"seed={seed}"), range(8)))
        assert [config.seed for config in configs] == list(range(8))
        runs = list(pool.map(lambda config: ws.train(config, progress=False), configs[:2]))
    assert [found.run_id for found in runs] == [run_id(config) for config in configs[:2]]


class ObservedLock:
    """A lock that tells when a thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.is_waited_for = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.is_waited_for.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("second", ["compose", "train"])
def test_a_call_that_waited_for_another_leaves_the_process_as_it_was(base, monkeypatch, second: str) -> None:
    """The first call changes what calls restore, and ends only when the second one waits for it."""
    config = ws.compose(*base)
    lock = ObservedLock()
    monkeypatch.setattr(from_python, "_ONE_CALL", lock)
    before = process_state()
    first_is_inside = threading.Event()
    calls = {"compose": lambda: ws.compose(*base), "train": lambda: ws.train(config, progress=False)}

    def first_call() -> None:
        with from_python.unchanged_process(shows_progress=False):
            os.environ["SET_BY_THE_FIRST_CALL"] = "1"
            log = logging.getLogger("wgan_sweep")
            log.addHandler(logging.NullHandler())
            log.setLevel(logging.CRITICAL)
            first_is_inside.set()
            assert lock.is_waited_for.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(first_call)
        assert first_is_inside.wait(PATIENCE_SECONDS)
        pool.submit(calls[second]).result()
        first.result()
    after = process_state()
    os.environ.pop("SET_BY_THE_FIRST_CALL", None)
    for now, then in zip(after, before, strict=True):
        assert now == then


UNGUARDED = """
    import sys
    import wgan_sweep as ws
    what, *overrides = sys.argv[1:]
    if what == "train":
        ws.train(ws.compose(*overrides))
    else:
        ws.sweep(*overrides)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments", [["train", "launch.gpus_per_run=2"], ["sweep", "launch=parallel", "launch.jobs=2", "seed=0,1"]]
)
def test_a_script_that_trains_in_each_process_that_it_starts_is_refused(base, tmp_path: Path, arguments) -> None:
    """It has no `if __name__ == "__main__":`; the processes of its run would wait for each other without end."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(UNGUARDED))
    with subprocess.Popen(
        [sys.executable, str(script), *arguments, *base], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert 'InputError: the script trains outside `if __name__ == "__main__":`' in errors
    assert {record["status"] for record in records(tmp_path)} == {"failed"}


# Training


def test_a_trained_run_has_its_record_its_config_and_the_samples_of_its_trainer(base, capsys) -> None:
    config = ws.compose(*base, "train.ema=0.5")
    trained = ws.train(config, progress=False)
    assert capsys.readouterr().err == ""
    assert (trained.record.status, trained.record.step, trained.step) == ("done", 6, 6)
    assert trained.run_id == run_id(config) == trained.path.name
    assert trained.config == config
    assert repr(trained) == f"<Run {trained.run_id}: done at step 6>"
    trainer = trainer_of(config)
    expected = trainer.sampler("wgan-score/3")(20)
    for loaded in (trained, ws.load_run(trained.path, device="cpu"), *ws.find_runs(trained.path.parent)):
        images = loaded.sample(20, seed=3)
        assert torch.equal(images, expected)
        assert (images.dtype, images.shape, images.device) == (torch.uint8, (20, 1, 32, 32), CPU)
    assert not torch.equal(trained.sample(20, seed=4), expected)
    longer = trained.sample(70, seed=3)
    assert (longer[:20].int() - expected.int()).abs().max() <= 1
    assert (trained.sample(70, seed=3, batch_size=7).int() - longer.int()).abs().max() <= 1
    source = run_source(trained.path, num_samples=70, seed=3, device=CPU)
    assert torch.equal(torch.cat(list(source.batches(50))), longer)
    assert not any(module.training for network in (trained.generator, trained.critic) for module in network.modules())
    real = torch.rand(5, 1, 32, 32) * 2 - 1
    assert torch.equal(trained.critic(real), trainer.critic.eval()(real))


def test_the_live_generator_and_the_best_step_can_be_loaded(make, planned_fids, tmp_path: Path) -> None:
    planned_fids(9, 1, 5, 5, 2)  # steps 2, 4 and 6, at the end, and of the best step again
    config = make("scorer=fid", "scorer.every=2", "train.ema=0.9")
    assert run(config).best["step"] == 4
    path = directory_of(config).path
    z = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    networks = {
        (best, live): ws.load_run(path, best=best, live=live) for best in (False, True) for live in (False, True)
    }
    for (best, live), loaded in networks.items():
        trainer = trainer_of(config, "best.pt" if best else "checkpoint.pt")
        expected = trainer.generator.eval() if live else trainer.averaged
        with torch.no_grad():
            assert torch.equal(loaded.generator(z), expected(z))
        assert loaded.step == trainer.step == (4 if best else 6)
    assert len({tuple(loaded.sample(2).flatten().tolist()) for loaded in networks.values()}) == 4


def test_without_a_best_checkpoint_the_best_step_is_the_only_one_that_was_scored(make, planned_fids) -> None:
    planned_fids(3)
    scored = make("scorer=fid", "seed=1")
    run(scored)
    assert ws.load_run(directory_of(scored).path, best=True).step == 6
    unscored = make()
    run(unscored)
    with pytest.raises(ws.InputError, match="no best checkpoint"):
        ws.load_run(directory_of(unscored).path, best=True)


def test_a_run_is_continued_from_its_own_config(base) -> None:
    first = ws.train(ws.compose(*base), progress=False)
    config = first.config
    config.train.steps = 8
    longer = ws.train(config, progress=False)
    assert (longer.run_id, longer.record.step) == (first.run_id, 8)
    config.train.steps = 0
    with pytest.raises(ws.InputError, match=r"train\.steps must be 1 or more and at most .*, got 0"):
        ws.train(config, progress=False)
    config.train.steps, config.plan = 9, True
    with pytest.raises(ws.InputError, match="plan=true"):
        ws.train(config, progress=False)
    config.plan, config.model["dim"] = False, "wide"
    with pytest.raises(ws.InputError, match=r"model\.dim must be an integer"):
        ws.train(config, progress=False)


def test_a_run_that_diverges_or_fails_raises_and_the_error_holds_the_run(base, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ws.RunFailedError, match="diverged: not finite at step") as diverged:
        ws.train(ws.compose(*base, "optimizer.lr=1e30"), progress=False)
    assert diverged.value.run.record.status == Status.DIVERGED
    (tmp_path / "failing.py").write_text(
        "import torch\n"
        "from wgan_sweep.objectives.stabilisers import Stabiliser\n"
        "def augment(batch, step, generator):\n"
        "    raise RuntimeError('it broke')\n"
        "def stabiliser():\n"
        "    return Stabiliser(augment_input=augment)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ws.RunFailedError, match="failed: RuntimeError: it broke") as failed:
        ws.train(ws.compose(*base, "stabiliser._target_=failing.stabiliser"), progress=False)
    assert failed.value.run.record.status == Status.FAILED
    assert len(failed.value.run.metrics()) == 0


def test_an_interrupt_saves_the_run_and_leaves_the_handler(base) -> None:
    config = ws.compose(*base, "train.steps=1000000", "save_every=1000000", "log_every=1")
    metrics = directory_of(config).metrics
    handler = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        ws.train(config, progress=False)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    (interrupted,) = ws.find_runs(config.runs, status="dead")
    assert interrupted.record.step >= 1
    assert ws.load_run(interrupted.path, device="cpu").step == interrupted.record.step


def test_a_sweep_returns_its_runs_in_order_and_goes_on_after_one_that_diverges(base) -> None:
    runs = ws.sweep(*base, "seed=1", "optimizer.lr=1e-3,1e30,1e-4", progress=False)
    assert [found.config.optimizer["lr"] for found in runs] == [1e-3, 1e30, 1e-4]
    assert [found.record.status for found in runs] == ["done", "diverged", "done"]
    assert len({found.record.sweep for found in runs}) == 1
    (folder,) = (runs[0].path.parent / ".sweeps").iterdir()
    assert "1 diverged" in (folder / "table.md").read_text()


def test_a_sweep_warns_of_a_figure_that_cannot_show_its_runs(base, monkeypatch, caplog) -> None:
    monkeypatch.setattr("wgan_sweep.theory.lipschitz.summarise", lambda records, runs: records[7])
    (found,) = ws.sweep(*base, "seed=1", "figure=lipschitz", progress=False)
    assert found.record.status == "done"
    assert "figure=lipschitz cannot show these runs (IndexError: list index out of range, test_api.py:" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.batch_size=8,9,1000"], "1 of 3 runs of the sweep cannot work"),
        (["div.kk=1,2"], "div.kk"),
        (["plan=true"], "plan=true trains nothing"),
        (["hydra/launcher=basic"], "use launch=NAME"),
        (["-m"], "not the options of the command"),
        (["seed=range(3,3)"], "no runs"),
    ],
    ids=str,
)
def test_a_sweep_that_cannot_work_is_refused_and_leaves_no_folder(base, tmp_path, overrides, words) -> None:
    with pytest.raises(ws.InputError, match=words):
        ws.sweep(*base, *overrides, progress=False)
    assert not (tmp_path / "runs").exists()


# Archives


Measured = tuple[Record, dict[str, list[float]]]


@pytest.fixture
def archived(base, tmp_path: Path) -> tuple[Path, dict[float, Measured]]:
    """An archive of a run that is done and one that diverged, and what these were, by their learning rates."""
    measured = [(found.record, found.metrics()) for found in ws.sweep(*base, "optimizer.lr=1e-3,1e30", progress=False)]
    path = tmp_path / "runs.jsonl.gz"
    runs_command(["archive", "--runs", str(tmp_path / "runs"), "-o", str(path)])
    shutil.rmtree(tmp_path / "runs")
    return path, {record.config["optimizer"]["lr"]: (record, metrics) for record, metrics in measured}


def assert_is_archived(found: ws.Run, before: Measured, archive: Path) -> None:
    """Check that a run has what the archive holds of it, and that the lack of weights is said."""
    record, metrics = before
    for name in ("run_id", "status", "step", "scores", "finished", "sweep", "metrics_lines"):
        assert getattr(found.record, name) == getattr(record, name)
    np.testing.assert_equal(found.metrics(), metrics)
    assert found.config.optimizer == record.config["optimizer"]
    assert not found.path.is_dir()
    for use in (lambda: found.sample(1), lambda: found.critic, lambda: found.step, lambda: found.export("g.pt")):
        with pytest.raises(ws.InputError, match=rf"{found.run_id} .* archive {archive}, and archives have no weights"):
            use()


def test_a_sweep_trains_only_what_its_archive_lacks(base, archived) -> None:
    path, before = archived
    done, diverged, new = ws.sweep(*base, "optimizer.lr=1e-3,1e30,1e-4", f"archive={path}", progress=False)
    assert_is_archived(done, before[1e-3], path)
    assert_is_archived(diverged, before[1e30], path)
    assert (new.record.status, new.sample(1).shape, len(new.metrics()["step"])) == ("done", (1, 1, 32, 32), 4)
    assert [path.name for path in new.path.parent.glob("[0-9a-f]*")] == [new.run_id]


def test_a_run_that_is_finished_in_its_archive_is_not_trained(base, archived, capsys) -> None:
    path, before = archived
    config = ws.compose(*base, "optimizer.lr=1e-3", f"archive={path}")
    found = ws.train(config)
    assert_is_archived(found, before[1e-3], path)
    assert f"done at step 6 (in the archive {path})" in capsys.readouterr().err
    with pytest.raises(ws.RunFailedError, match=rf"diverged: .*\(in {path}\)") as failure:
        ws.train(ws.compose(*base, "optimizer.lr=1e30", f"archive={path}"), progress=False)
    assert_is_archived(failure.value.run, before[1e30], path)
    again = found.config
    again.train.steps = 8
    assert ws.train(again, progress=False).step == 8
    assert ws.train(config, progress=False).record.step == 8  # the folder of runs comes first
    config.archive = str(path.with_name("none.gz"))
    with pytest.raises(ws.InputError, match=r"there is no archive .*none\.gz"):
        ws.train(config, progress=False)


def test_the_runs_of_an_archive_are_found(archived) -> None:
    path, before = archived
    found = ws.find_runs(path)
    assert {run.config.optimizer["lr"] for run in found} == {1e-3, 1e30}
    assert [run.record.started for run in found] == sorted(run.record.started for run in found)
    for one in found:
        assert_is_archived(one, before[one.config.optimizer["lr"]], path)
    (diverged,) = ws.find_runs(str(path), status="diverged", **{"optimizer.lr": 1e30})
    assert diverged.config.optimizer["lr"] == 1e30
    assert ws.find_runs(path, status="dead") == []
    with pytest.raises(ws.InputError, match="did you mean loss"):
        ws.find_runs(path, los="wgan_gp")


def test_an_archived_run_without_a_config_has_all_else(archived, tmp_path: Path) -> None:
    path, before = archived
    without = tmp_path / "without.jsonl.gz"
    with gzip.open(path, "rt") as file:
        entries = [json.loads(line) for line in file]
    with gzip.open(without, "wt") as file:
        for entry in entries:
            run = {**entry["run"], "config": None}
            text = json.dumps(run, separators=(",", ":"))
            line = {**entry, "run": run, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            file.write(json.dumps(line) + "\n")
    (done,) = ws.find_runs(without, status="done")
    record, metrics = before[1e-3]
    assert (done.run_id, done.record.scores) == (record.run_id, record.scores)
    np.testing.assert_equal(done.metrics(), metrics)
    with pytest.raises(ws.InputError, match=f"no config of run {done.run_id}"):
        _ = done.config


def test_measurements_of_an_archive_that_is_gone_are_refused(base, archived, tmp_path: Path) -> None:
    path, _ = archived
    found = ws.train(ws.compose(*base, "optimizer.lr=1e-3", f"archive={path}"), progress=False)
    (tmp_path / "runs").mkdir(exist_ok=True)
    runs_command(["archive", "--runs", str(path), "-o", str(path), "status=diverged"])
    with pytest.raises(ws.InputError, match=f"the archive {path} does not have run {found.run_id} any more"):
        found.metrics()


# Finding runs


@pytest.fixture
def found(make, tmp_path: Path) -> Callable[..., list[str]]:
    """The names of the runs that `find_runs` returns, of four that have records only."""
    for name, status, overrides in (
        ("a", Status.DONE, ["loss=wgan_div", "div.k=1"]),
        ("b", Status.DONE, ["loss=wgan_div", "div.k=2.0", "seed=1"]),
        ("c", Status.FAILED, ["loss=wgan_div", "div.k=3"]),
        ("d", Status.DONE, ["loss=wgan_gp", "optimizer.betas=[0.1,0.9]"]),
    ):
        record = Record(name, status, config=asdict(make(*overrides)), started=name, sweep="s" if name > "b" else None)
        write_record(RunDir(tmp_path / "runs" / name), record)
    return lambda **axes: "".join(found.run_id for found in ws.find_runs(tmp_path / "runs", **axes))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({}, "abcd"),
        ({"loss": "wgan_div"}, "abc"),
        ({"loss": "wgan_div", "status": "done"}, "ab"),
        ({"loss": ["wgan_gp", "wgan"]}, "d"),
        ({"div.k": 2}, "b"),
        ({"div.k": [1, 2.0, 7]}, "ab"),
        ({"div.k": "3"}, "c"),
        ({"seed": range(1, 3)}, "b"),
        ({"optimizer.betas": (0.1, 0.9)}, "d"),
        ({"train.compile": False, "sweep": None}, "ab"),
        ({"status": Status.FAILED, "sweep": "s"}, "c"),
        ({"run_id": ["a", "d"]}, "ad"),
        ({"constraint": "weight_clip"}, ""),
        ({"scorer.num_samples": 5}, ""),
    ],
    ids=str,
)
def test_runs_are_found_by_their_values(found, axes: dict, names: str) -> None:
    assert found(**axes) == names


def test_misspelt_axes_and_unreadable_records_are_reported(found, tmp_path: Path, caplog) -> None:
    with pytest.raises(ws.InputError, match="there is no config key lsos; did you mean loss"):
        found(lsos="wgan")
    with pytest.raises(
        ws.InputError, match="there is no status finished: choose from running, done, diverged, failed, pruned, dead"
    ):
        found(status="finished")
    with pytest.raises(ws.InputError, match="cannot be read"):
        ws.find_runs(tmp_path / "none")
    (tmp_path / "runs" / "a" / "record.json").write_text("{")
    assert found() == "bcd"
    assert "record.json is not a run's record" in caplog.text


def test_the_folder_of_runs_is_that_of_the_command_by_default(found, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_RUNS", str(tmp_path / "runs"))
    assert len(ws.find_runs(seed=1)) == 1
    monkeypatch.delenv("WGAN_SWEEP_RUNS")
    monkeypatch.chdir(tmp_path)
    assert len(ws.find_runs(seed=[0, 1])) == 4


def test_metrics_are_columns_of_equal_length(make, planned_fids) -> None:
    planned_fids(3)
    config = make("scorer=fid")
    run(config)
    loaded = ws.find_runs(config.runs)[0]
    columns = loaded.metrics()
    lines = [json.loads(line) for line in directory_of(config).metrics.read_text().splitlines()]
    assert list(columns)[:2] == ["step", "images_seen"]
    assert columns.keys() == {name for line in lines for name in line}
    for name, values in columns.items():
        assert len(values) == len(lines) == 5
        for value, line in zip(values, lines, strict=True):
            assert value == line[name] if name in line else math.isnan(value)
    table = pd.DataFrame(columns)
    assert table["step"].tolist() == [2, 3, 4, 6, 6]
    assert table["fid"].dropna().tolist() == [3]


# Damaged runs, and runs of others


def test_missing_and_damaged_runs_are_refused_with_a_reason(make, caplog, tmp_path: Path) -> None:
    config = make()
    run(config)
    path = directory_of(config).path
    copies = {name: tmp_path / name / path.name for name in ("checkpoint", "both", "config", "none", "record", "other")}
    for copied in copies.values():
        shutil.copytree(path, copied)
    damage(copies["checkpoint"] / "checkpoint.pt")
    assert ws.load_run(copies["checkpoint"], device="cpu").step == 3
    assert "loading the previous checkpoint instead" in caplog.text
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        damage(copies["both"] / name)
        (copies["none"] / name).unlink()
    (copies["config"] / "config.yaml").write_text("loss: {")
    (copies["record"] / "record.json").unlink()
    state = checkpoints.read(path / "checkpoint.pt")
    checkpoints.save(copies["other"] / "checkpoint.pt", {**state, "trainer": {**state["trainer"], "critic": {}}})
    for name, words in [
        ("both", "cannot be loaded: .*Move the checkpoints away"),
        ("none", "has no checkpoint yet: let it train"),
        ("config", r"config.yaml cannot be read .ParserError"),
        ("record", "is not a run's directory: it has no record.json"),
        ("other", "does not hold the networks of its config"),
    ]:
        with pytest.raises(ws.InputError, match=words) as refusal:
            ws.load_run(copies[name])
        assert "\n" not in str(refusal.value)
        assert str(copies[name]) in str(refusal.value)
    with pytest.raises(ws.InputError, match="device=cuda:99 cannot be used"):
        ws.load_run(path, device="cuda:99")
    for count, seed, batch_size in ((0, 0, 50), (1, 0.5, 50), (1, 0, 0), (True, 0, 50)):
        with pytest.raises(ws.InputError, match="must be"):
            ws.load_run(path).sample(count, seed, batch_size)


def damage(path: Path) -> None:
    """Change a byte of a weight."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


MODELS = """
from dataclasses import dataclass
from wgan_sweep.models import DCGAN
open({marker!r}, "w").close()
@dataclass(frozen=True)
class Wide(DCGAN):
    def generator(self, shape):
        return super().generator(shape)
"""


def test_the_code_of_a_run_is_run_only_if_it_is_allowed(base, tmp_path: Path, monkeypatch) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "my_models.py").write_text(MODELS.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path))
    trained = ws.train(ws.compose(*base, "model._target_=my_models.Wide"), progress=False)
    images = trained.sample(3)  # this process has named the model itself
    trained.export(tmp_path / "g.pt")
    marker.unlink()
    del sys.modules["my_models"]
    for load in (lambda **options: ws.load_run(trained.path, **options), load_from(tmp_path / "g.pt")):
        with pytest.raises(ws.InputError, match=r"names model._target_='my_models.Wide'.*load it with allow=\("):
            load()
        assert not marker.exists()
        with pytest.raises(ws.InputError, match="allow must be"):
            load(allow="my_models")
        assert torch.equal(load(allow=("my_models",)).sample(3), images)
        assert marker.exists()
        marker.unlink()
        del sys.modules["my_models"]
    (found,) = ws.find_runs(trained.path.parent)
    with pytest.raises(ws.InputError, match="my_models"):
        found.sample(1)
    assert not marker.exists()


def load_from(path: Path) -> Callable[..., ws.ExportedGenerator]:
    return lambda **options: ws.load_generator(path, **options)


def test_a_run_that_was_trained_in_tf32_is_loaded_on_a_cpu(make) -> None:
    config = make()
    run(config)
    directory = directory_of(config)
    expected = ws.load_run(directory.path, device="cpu").sample(5)
    text = directory.config.read_text()
    directory.config.write_text(text.replace("precision: fp32", "precision: tf32"))
    assert directory.config.read_text() != text
    assert torch.equal(ws.load_run(directory.path, device="cpu").sample(5), expected)


# Exported generators


@pytest.mark.parametrize(
    "overrides",
    [["stabiliser=virtual_batch_norm"], ["train.precision=bf16"], ["data=gaussians8"]],
    ids=["virtual_batch_norm", "bf16", "points"],
)
def test_an_exported_generator_makes_the_samples_of_its_run(base, tmp_path: Path, overrides: list[str]) -> None:
    if "data=gaussians8" in overrides:
        base = [override for override in base if not override.startswith("data")]
    trained = ws.train(ws.compose(*base, *overrides), progress=False)
    expected, live = trained.sample(60, seed=2), ws.load_run(trained.path, live=True)
    trained.export(tmp_path / "g.pt")
    live.export(tmp_path / "live.pt")
    trained.export(tmp_path / "g.pt")  # replaces the first
    shutil.rmtree(trained.path)
    (tmp_path / "images.npz").unlink()
    generator = ws.load_generator(tmp_path / "g.pt", device="cpu")
    assert torch.equal(generator.sample(60, seed=2), expected)
    assert (generator.run_id, generator.step, generator.weights) == (trained.run_id, 6, "moving average")
    assert generator.shape == tuple(expected.shape[1:])
    other = ws.load_generator(tmp_path / "live.pt", device="cpu")
    assert other.weights == "live generator"
    assert torch.equal(other.sample(60, seed=2), live.sample(60, seed=2))
    assert not torch.equal(other.sample(60, seed=2), expected)
    files = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert files == {"g.pt", "g.yaml", "live.pt", "live.yaml"}
    assert str(tmp_path) not in (tmp_path / "g.yaml").read_text() + str(generator.config)
    assert f"run_id: {trained.run_id}" in (tmp_path / "g.yaml").read_text()


def test_unusable_files_are_refused(make, tmp_path: Path) -> None:
    config = make()
    run(config)
    loaded = ws.load_run(directory_of(config).path)
    for name, words in [
        ("g.safetensors", "FILE.pt"),
        ("none/g.pt", "there is no folder"),
    ]:
        with pytest.raises(ws.InputError, match=words):
            loaded.export(tmp_path / name)
    loaded.export(tmp_path / "g.pt")
    state = checkpoints.read(tmp_path / "g.pt")
    checkpoints.save(tmp_path / "newer.pt", {**state, "format": 99})
    checkpoints.save(tmp_path / "model.pt", {**state, "config": {**state["config"], "model": "DCGAN"}})
    checkpoints.save(tmp_path / "weights.pt", {**state, "generator": {}})
    damage(tmp_path / "g.pt")
    for path, words in [
        (tmp_path / "none.pt", "there is no file"),
        (tmp_path / "g.pt", "is damaged, or not an exported generator"),
        (tmp_path / "newer.pt", "format 99.*upgrade"),
        (tmp_path / "model.pt", "is not an exported generator"),
        (tmp_path / "weights.pt", "is not an exported generator"),
        (directory_of(config).checkpoint, "is not an exported generator"),
        (directory_of(config).config, "is damaged, or not an exported generator"),
    ]:
        with pytest.raises(ws.InputError, match=words) as refusal:
            ws.load_generator(path)
        assert "\n" not in str(refusal.value)


# The commands


def call(*arguments: object) -> None:
    """Call the subcommands as `wgan-runs` does."""
    parser = argparse.ArgumentParser()
    add_common_options(parser)
    subparsers = parser.add_subparsers(required=True)
    for add in COMMANDS:
        add(subparsers)
    options = parser.parse_args([str(argument) for argument in arguments])
    options.execute(options)


def test_the_command_writes_the_samples_of_the_run(make, tmp_path: Path, capsys) -> None:
    config = make("train.ema=0.5")
    run(config)
    path = directory_of(config).path
    expected = ws.load_run(path, device="cpu").sample(70, seed=1).permute(0, 2, 3, 1).numpy()
    out = tmp_path / "out"
    out.mkdir()
    common = ["--runs", config.runs, "--device", "cpu"]
    call("sample", path.name[:8], *common, "-n", 70, "--seed", 1, "--to", out / "a.npz", "--grid", out / "grid.png")
    with np.load(out / "a.npz") as arrays:
        assert list(arrays) == ["images"]
        assert arrays["images"].dtype == np.uint8
        assert np.array_equal(arrays["images"], expected)
    with Image.open(out / "grid.png") as grid:
        pixels = np.asarray(grid)
    assert pixels.shape == (8 * 32, 8 * 32)
    assert np.array_equal(pixels[32:64, 64:96], expected[10, ..., 0])
    assert f"70 samples by the moving average of run {path.name} at step 6" in capsys.readouterr().out
    call("sample", path.name, *common, "-n", 3, "--seed", 1, "--to", out / "folder", "--batch-size", 2)
    files = sorted((out / "folder").iterdir())
    assert [file.name for file in files] == ["00000.png", "00001.png", "00002.png"]
    for file, image in zip(files, expected, strict=False):
        with Image.open(file) as picture:
            assert np.abs(np.asarray(picture).astype(int) - image[..., 0]).max() <= 1
    call("sample", path.name, *common, "-n", 4, "--live", "--seed", 1, "--grid", out / "live.png")
    live = ws.load_run(path, device="cpu", live=True).sample(4, seed=1)
    with Image.open(out / "live.png") as picture:
        assert np.array_equal(np.asarray(picture)[32:, :32], live[2, 0].numpy())
    assert sorted(file.name for file in out.iterdir()) == ["a.npz", "folder", "grid.png", "live.png"]


@pytest.mark.parametrize("name", ["images.npz", "folder"])
def test_samples_are_written_while_they_are_made(tmp_path: Path, name: str) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def batches() -> Iterator[torch.Tensor]:
        for number in range(20):
            batch = torch.full((2, 3, 4, 5), number, dtype=torch.uint8)
            made.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(reference() is not None for reference in made) <= 3

    write_samples(tmp_path / name, batches(), 40)
    assert len(made) == 20
    expected = np.repeat(np.arange(20), 2)
    if name == "folder":
        assert [int(np.asarray(Image.open(file))[3, 4, 2]) for file in sorted((tmp_path / name).iterdir())] == [
            *expected
        ]
    else:
        with np.load(tmp_path / name) as arrays:
            assert arrays["images"].shape == (40, 4, 5, 3)
            assert np.array_equal(arrays["images"][:, 3, 4, 2], expected)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_interpolation_leads_from_one_image_to_another(make, tmp_path: Path) -> None:
    config = make()
    run(config)
    call(
        "sample",
        directory_of(config).path.name,
        "--runs",
        config.runs,
        "--device",
        "cpu",
        "--interpolation",
        tmp_path / "i.png",
    )
    with Image.open(tmp_path / "i.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (INTERPOLATED_PAIRS * 32, INTERPOLATION_STEPS * 32)
    trainer = trainer_of(config)
    ends = trainer.sampler("interpolation/0")(2 * INTERPOLATED_PAIRS)[:, 0].int().numpy()
    for row in range(INTERPOLATED_PAIRS):
        strip = pixels[32 * row : 32 * row + 32].astype(int)
        assert np.abs(strip[:, :32] - ends[row]).max() <= 1
        assert np.abs(strip[:, -32:] - ends[INTERPOLATED_PAIRS + row]).max() <= 1


def test_spherical_interpolation_keeps_to_the_great_circle() -> None:
    t = torch.linspace(0, 1, 5)
    plane = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    (path,) = spherical(plane[:1], plane[1:], t)
    angle, norm = t * math.pi / 2, 1 + t  # a quarter turn, from norm 1 to norm 2
    torch.testing.assert_close(path, norm[:, None] * torch.stack([angle.cos(), angle.sin()], 1))
    start, end = torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(0))
    paths = spherical(start, end, t)
    torch.testing.assert_close(paths[:, 0], start)
    torch.testing.assert_close(paths[:, -1], end)
    torch.testing.assert_close(
        paths.norm(dim=2), torch.stack([start.norm(dim=1), end.norm(dim=1)], 1) @ torch.stack([1 - t, t])
    )
    turns = torch.nn.functional.cosine_similarity(paths[:, :-1], paths[:, 1:], dim=2).acos()
    torch.testing.assert_close(turns, turns[:, :1].expand(-1, 4), rtol=1e-3, atol=1e-3)
    line = spherical(torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0], [-1.0]]), t)
    torch.testing.assert_close(line[..., 0], torch.stack([1 + 2 * t, 1 - 2 * t]))


def test_points_are_written_to_npz_and_drawn(make, tmp_path: Path) -> None:
    config = make(
        "data=gaussians8", "scorer=none", "tracker=none", "device=cpu", "train.steps=2", "model.dim=8", tiny=False
    )
    run(config)
    path = directory_of(config).path
    call(
        "sample",
        path.name,
        "--runs",
        config.runs,
        "--device=cpu",
        "-n",
        60,
        "--to",
        tmp_path / "p.npz",
        "--grid",
        tmp_path / "p.png",
    )
    loaded = ws.load_run(path, device="cpu")
    with np.load(tmp_path / "p.npz") as arrays:
        assert list(arrays) == ["points"]
        assert np.array_equal(arrays["points"], loaded.sample(60).numpy())
        assert arrays["points"].dtype == np.float32
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (500, 500)
    with pytest.raises(ws.InputError, match=r"not grey or colour pictures: write them to FILE.npz"):
        call("sample", path.name, "--runs", config.runs, "--device=cpu", "--to", tmp_path / "folder")
    with pytest.raises(ws.InputError, match="generates points"):
        call("sample", path.name, "--runs", config.runs, "--device=cpu", "--interpolation", tmp_path / "i.png")
    assert not [file for file in tmp_path.iterdir() if "folder" in file.name or file.name == "i.png"]


def test_the_exporting_command_writes_what_python_loads(make, tmp_path: Path, capsys) -> None:
    config = make()
    run(config)
    path = directory_of(config).path
    call("export", path.name, "--runs", config.runs, "--live", "--to", tmp_path / "g.pt")
    assert f"the live generator of run {path.name} at step 6" in capsys.readouterr().out
    expected = ws.load_run(path, live=True, device="cpu").sample(5)
    assert torch.equal(ws.load_generator(tmp_path / "g.pt", device="cpu").sample(5), expected)


def test_unusable_arguments_are_refused_with_a_reason(make, tmp_path: Path) -> None:
    config = make()
    run(config)
    path = directory_of(config).path
    similar = RunDir(shutil.copytree(path, path.with_name(f"{path.name[:8]}x")))
    similar.record.write_text(similar.record.read_text().replace(path.name, similar.path.name))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    to = ["--to", tmp_path / "a.npz"]
    run_id = path.name
    for arguments, words in [
        (["sample", run_id], "nothing to write"),
        (["sample", run_id, *to, "-n", 0], "--number must be 1 or more"),
        (["sample", run_id, *to, "--batch-size", 0], "--batch-size must be 1 or more"),
        (["sample", run_id, *to, "--device", "cuda:99"], "--device=cuda:99 cannot be used"),
        (["sample", run_id, *to, "--best"], "no best checkpoint"),
        (["sample", run_id, "--to", tmp_path / "none" / "a.npz"], "--to .*there is no folder"),
        (["sample", run_id, "--to", tmp_path / "a.png"], "FILE.npz or to a folder"),
        (["sample", run_id, "--to", tmp_path / "full"], "is not empty"),
        (["sample", run_id, "--to", tmp_path / "file"], "is a file"),
        (["sample", run_id, "--grid", tmp_path / "none" / "g.png"], "--grid .*there is no folder"),
        (["sample", "none", *to], "no run has an id that begins with 'none'"),
        (["sample", path.name[:8], *to], "2 runs have ids that begin with"),
        (["sample", "../x", *to], "no run has an id that begins with '../x'"),
        (["export", run_id, "--to", tmp_path / "g.safetensors"], "--to .*FILE.pt"),
    ]:
        with pytest.raises(ws.InputError, match=words):
            call(*arguments, "--runs", config.runs)
    assert not (tmp_path / "a.npz").exists()


# The guide


@pytest.mark.integration
def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    runpy.run_path(str(GUIDE / "example.py"))
    assert capsys.readouterr().out.count(" done W1 ") == 2
    with Image.open("example.png") as picture:
        assert picture.size == (900, 400)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "generator.pt", "generator.yaml", "example.png"}


def test_the_guide_names_everything_that_the_package_offers() -> None:
    text = (GUIDE / "python-api.md").read_text()
    assert [name for name in ws.__all__ if f"`{name}" not in text] == []
