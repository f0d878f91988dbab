"""A run as a whole: its files, and that nothing of it is lost whatever happens."""

import io
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from wgan_sweep import checkpoints, driver, experiment
from wgan_sweep.config import Config, read, run_id, to_yaml
from wgan_sweep.errors import InputError
from wgan_sweep.progress import Display
from wgan_sweep.runs import Record, RunDir, Status
from wgan_sweep.trainer import Trainer


def run(config: Config, **arguments) -> Record:
    return driver.run(config, overrides=["typed=1"], display=Display(Console(quiet=True)), **arguments)


def trained(config: Config) -> dict:
    state, problems = checkpoints.load(driver.directory_of(config).checkpoint)
    assert state is not None
    assert not problems
    return state["trainer"]


def assert_same_weights(one: Config, other: Config) -> None:
    first, second = trained(one), trained(other)
    assert first["step"] == second["step"]
    for network in ("generator", "critic", "averaged"):
        for name, value in first[network].items():
            assert torch.equal(value, second[network][name]), f"{network}.{name}"


def elsewhere(config: Config, make, tmp_path: Path, *overrides: str) -> Config:
    """Return the same run in another folder."""
    other = make(f"runs={tmp_path / 'other runs'}", *overrides)
    assert run_id(other) == run_id(config)
    return other


class Counting:
    """A scorer that scores by a plan and counts its calls."""

    def __init__(self, fids: list[float]) -> None:
        self.fids = fids
        self.calls = 0

    def prepare(self) -> None:
        pass

    def __call__(self, sample) -> dict[str, float]:
        assert sample(2).shape[0] == 2
        self.calls += 1
        return {"fid": self.fids[self.calls - 1], "fid_feature": 2048, "fid_generated": 2, "fid_real": 4}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch):
    def install(*fids: float) -> Counting:
        scorer = Counting(list(fids))
        monkeypatch.setattr(experiment, "_scorer", lambda *_: scorer)
        return scorer

    return install


def test_a_run_leaves_the_files_of_the_contract(make, tmp_path: Path, plan) -> None:
    plan(30.0, 20.0)
    config = make("scorer.every=3")
    record = run(config)
    directory = RunDir(tmp_path / "runs" / run_id(config))
    stored = json.loads(directory.record.read_text())
    wanted = "run_id status overrides config step images_seen scores best error versions git host started finished"
    assert list(stored) == wanted.split()
    assert (stored["status"], stored["step"], stored["images_seen"]) == ("done", 6, 6 * 2 * 8)
    assert stored["overrides"] == ["typed=1"]
    assert (
        stored["scores"]
        == stored["best"]
        == {"step": 6, "fid": 20, "fid_feature": 2048, "fid_generated": 2, "fid_real": 4}
    )
    assert stored["versions"]["torch"] == torch.__version__.split("+")[0]
    assert directory.read_record() == record
    assert run_id(read(directory.config)) == record.run_id
    lines = list(directory.read_metrics())
    training = [line for line in lines if "critic_loss" in line]
    assert [line["step"] for line in training] == [2, 3, 4, 6]
    for line in training:
        keys = "step images_seen critic_loss generator_loss wasserstein gradient_norm gradient_term"
        assert set(keys.split()) <= set(line)
        assert line["images_seen"] == line["step"] * 16
    assert [(line["step"], line["fid"]) for line in lines if "fid" in line] == [(3, 30), (6, 20)]
    for step in (3, 6):
        with Image.open(directory.samples(step)) as picture:
            assert picture.size == (8 * 32, 8 * 32)
    assert torch.load(directory.checkpoint, weights_only=True)["trainer"]["step"] == 6
    assert "starting at step 0" in directory.log.read_text()


def test_best_is_the_lowest(make, plan) -> None:
    plan(20.0, 30.0)
    record = run(make("scorer.every=3"))
    assert (record.best["step"], record.scores["step"]) == (3, 6)


def test_a_finished_run_is_not_touched(make, plan) -> None:
    scorer = plan(20.0)
    config = make()
    run(config)
    directory = driver.directory_of(config).path
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.rglob("*") if p.is_file()}
    assert run(config).status == Status.DONE
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.rglob("*") if p.is_file()} == before
    assert scorer.calls == 1


def test_more_steps_are_bitwise_as_if_asked_at_once(make, tmp_path: Path, plan) -> None:
    plan(20.0, 19.0, 18.0, 17.0)
    run(make("train.steps=4"))
    config = make("train.steps=7")
    assert run(config).step == 7
    at_once = elsewhere(config, make, tmp_path, "train.steps=7")
    run(at_once)
    assert_same_weights(config, at_once)


def test_another_scorer_scores_without_training(make, plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(20.0, 90.0)
    run(make("scorer=fid", "scorer.num_samples=5"))
    monkeypatch.setattr(Trainer, "_update_critic", lambda *_: pytest.fail("trained again"))
    record = run(make("scorer=fid", "scorer.num_samples=7"))
    assert record.status == Status.DONE
    assert record.scores["fid"] == record.best["fid"] == 90
    assert record.config["scorer"]["num_samples"] == 7


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from rich.console import Console
    from wgan_sweep import driver
    from wgan_sweep.config import read
    from wgan_sweep.progress import Display
    from wgan_sweep.trainer import Trainer

    update = Trainer._update_generator
    def update_and_die(self):
        if self.step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self)
    Trainer._update_generator = update_and_die
    driver.run(read(Path(sys.argv[1])), overrides=[], display=Display(Console(quiet=True)))
"""


@pytest.mark.parametrize("step", [0, 4, 5])
def test_a_killed_run_ends_bitwise_as_if_it_had_not_been(make, tmp_path: Path, step: int) -> None:
    config = make("save_every=2", "log_every=1")
    (tmp_path / "asked.yaml").write_text(to_yaml(config))
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "asked.yaml"), str(step)], check=False
    )
    assert died.returncode == -signal.SIGKILL
    directory = driver.directory_of(config)
    interrupted = directory.read_record()
    assert interrupted is not None
    assert interrupted.status == Status.RUNNING
    assert interrupted.step == step // 2 * 2
    steps = [line["step"] for line in directory.read_metrics()]
    assert steps == list(range(1, step + 1))

    assert run(config).status == Status.DONE
    undisturbed = elsewhere(config, make, tmp_path, "save_every=2", "log_every=1")
    run(undisturbed)
    assert_same_weights(config, undisturbed)
    assert list(directory.read_metrics()) == list(driver.directory_of(undisturbed).read_metrics())
    assert directory.samples(6).read_bytes() == driver.directory_of(undisturbed).samples(6).read_bytes()


def test_a_corrupt_checkpoint_gives_way_to_the_one_before_and_nothing_is_lost(make, tmp_path: Path) -> None:
    run(make("train.steps=6", "save_every=2"))
    config = make("train.steps=8", "save_every=2")
    path = driver.directory_of(config).checkpoint
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert run(config).status == Status.DONE
    assert "falling back to the previous checkpoint" in driver.directory_of(config).log.read_text()
    undisturbed = elsewhere(config, make, tmp_path, "train.steps=8")
    run(undisturbed)
    assert_same_weights(config, undisturbed)


def test_a_checkpoint_of_another_config_is_refused_by_its_difference(make) -> None:
    run(make("seed=1"))
    other = make("seed=2")
    theirs, ours = driver.directory_of(make("seed=1")), driver.directory_of(other)
    theirs.path.rename(ours.path)
    before = {p: p.read_bytes() for p in ours.path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="seed: 1, 2"):
        run(make("seed=2", "train.steps=7"))
    assert {p: p.read_bytes() for p in ours.path.rglob("*") if p.is_file()} == before


def test_a_run_that_diverges_says_at_which_step_and_keeps_no_bad_checkpoint(make) -> None:
    config = make("optimizer.lr=1e30", "train.steps=20", "log_every=7", "save_every=1")
    record = run(config)
    assert record.status == Status.DIVERGED
    assert record.error is not None
    step = int(record.error.split("step ")[1].split(":")[0])
    assert 1 <= step <= 7
    assert record.step == step - 1
    assert all(bool(v.isfinite().all()) for v in map(torch.tensor, [record.images_seen]))
    assert run(config).status == Status.DIVERGED  # not tried again


def test_divergence_is_found_at_its_step_whatever_the_cadence(make, tmp_path: Path) -> None:
    often = run(make("optimizer.lr=1e30", "train.steps=20", "log_every=1", "save_every=50"))
    config = make("optimizer.lr=1e30", "train.steps=20", "log_every=20", "save_every=50", f"runs={tmp_path / 'b'}")
    assert run(config).error == often.error


def test_an_exception_is_a_status_with_its_traceback_and_is_tried_again(make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make()
    update = Trainer._update_critic

    def breaks(self: Trainer) -> dict:
        if self.step == 4:
            raise MemoryError("the GPU is full")
        return update(self)

    monkeypatch.setattr(Trainer, "_update_critic", breaks)
    record = run(config)
    assert record.status == Status.FAILED
    assert record.error is not None
    assert "MemoryError: the GPU is full" in record.error
    assert "Traceback" in record.error
    assert record.finished is not None
    assert "the GPU is full" in driver.directory_of(config).log.read_text()
    monkeypatch.undo()
    again = run(config)
    assert again.status == Status.DONE
    assert again.error is None
    assert "starting at step 3" in driver.directory_of(config).log.read_text()


def test_a_failing_scorer_fails_the_run_before_it_trains(make, plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan().prepare = lambda: (_ for _ in ()).throw(OSError("disk full"))
    record = run(make())
    assert record.status == Status.FAILED
    assert record.step == 0


def test_an_interrupted_run_is_still_running_in_its_record(make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make()
    monkeypatch.setattr(Trainer, "_update_generator", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    record = driver.directory_of(config).read_record()
    assert record is not None
    assert record.status == Status.RUNNING
    assert record.finished is None


def test_a_refused_config_leaves_no_trace(make, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(make("train.batch_size=1000"))
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_breaks_warns_once_and_the_run_goes_on(make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks:
        def log(self, *_: object) -> None:
            raise ConnectionError("no server")

        images = close = log

    monkeypatch.setattr(driver, "make_tracker", lambda *_: Breaks())
    config = make()
    assert run(config).status == Status.DONE
    assert driver.directory_of(config).log.read_text().count("no server") == 1


def test_real_scores_of_a_real_run(make, tmp_path: Path) -> None:
    record = run(make("scorer=fid", "scorer.num_samples=8", "scorer.num_real=8", "scorer.feature=64", "train.steps=2"))
    assert record.status == Status.DONE, record.error
    assert np.isfinite(record.scores["fid"])
    assert record.scores["fid"] > 0


def fids(config: Config) -> list[tuple[int, float]]:
    lines = driver.directory_of(config).read_metrics()
    return [(int(line["step"]), line["fid"]) for line in lines if "fid" in line]


def test_a_score_that_a_kill_prevented_is_made_up_for(make, plan, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = plan(3.0, 1.0, 2.0)
    config = make("scorer.every=2", "save_every=100")
    call = Counting.__call__

    def dies_at_the_second(self: Counting, sample) -> dict[str, float]:
        if self.calls == 1:
            raise KeyboardInterrupt
        return call(self, sample)

    monkeypatch.setattr(Counting, "__call__", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(Counting, "__call__", call)
    record = run(config)
    assert fids(config) == [(2, 3.0), (4, 1.0), (6, 2.0)]
    assert (record.best["step"], record.scores["step"]) == (4, 6)
    assert scorer.calls == 3


def test_a_score_written_before_a_kill_is_not_written_twice(make, plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(3.0, 3.0)
    config = make()
    write_record = RunDir.write_record

    def dies_with_a_score(self: RunDir, record: Record) -> None:
        if record.scores and record.status == Status.RUNNING:
            record.scores = {}
            record.best = {}
            raise KeyboardInterrupt
        write_record(self, record)

    monkeypatch.setattr(RunDir, "write_record", dies_with_a_score)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(RunDir, "write_record", write_record)
    assert run(config).scores["fid"] == 3.0
    assert fids(config) == [(6, 3.0)]


def test_no_scorer_leaves_the_scores_of_a_finished_run_alone(make, plan) -> None:
    plan(20.0)
    run(make("scorer=fid"))
    record = run(make("scorer=none"))
    assert record.scores["fid"] == record.best["fid"] == 20
    assert record.config["scorer"]["num_samples"] == 1000


def test_fewer_steps_than_a_finished_run_has_are_said(make) -> None:
    run(make("train.steps=6"))
    out = Console(record=True, width=300, file=io.StringIO())
    driver.run(make("train.steps=4"), overrides=[], display=Display(out))
    assert "4 steps were asked" in out.export_text()


def test_a_fallback_keeps_the_whole_checkpoint_until_there_is_another(make, monkeypatch: pytest.MonkeyPatch) -> None:
    run(make("train.steps=6", "save_every=2"))
    directory = driver.directory_of(make())
    damaged = directory.checkpoint.read_bytes()[:200]
    directory.checkpoint.unlink()
    directory.checkpoint.write_bytes(damaged)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(make("train.steps=8", "save_every=2"))
    monkeypatch.undo()
    state, _ = checkpoints.load(directory.checkpoint)
    assert state is not None
    assert state["trainer"]["step"] == 4


def test_a_runs_folder_that_cannot_be_is_refused(make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="runs="):
            run(make(f"runs={folder}"))
