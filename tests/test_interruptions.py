"""Kills, damage, failures, divergence: what a run is afterwards."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from wgan_sweep.runs.identity import directory_of
from wgan_sweep.config.schema import to_yaml
from wgan_sweep.errors import InputError
from wgan_sweep.runs import checkpoints, life
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.training.trainer import Trainer

from .helpers import Counting, assert_same_weights, elsewhere, fids, run

KILLED = """
    import os, signal, sys
    from pathlib import Path
    from rich.console import Console
    from wgan_sweep.runs import life
    from wgan_sweep.config.schema import read
    from wgan_sweep.common.progress import Display
    from wgan_sweep.training.trainer import Trainer

    update = Trainer._compute_generator_gradient
    def update_and_die(self):
        if self.step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self)
    Trainer._compute_generator_gradient = update_and_die
    life.run(read(Path(sys.argv[1])), overrides=[], display=Display(Console(quiet=True)))
"""


@pytest.mark.parametrize("step", [0, 4, 5])
def test_a_killed_run_ends_bitwise_as_if_it_had_not_been(make, tmp_path: Path, step: int) -> None:
    config = make("save_every=2", "log_every=1")
    (tmp_path / "asked.yaml").write_text(to_yaml(config))
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "asked.yaml"), str(step)], check=False
    )
    assert died.returncode == -signal.SIGKILL
    directory = directory_of(config)
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
    assert list(directory.read_metrics()) == list(directory_of(undisturbed).read_metrics())
    assert directory.samples(6).read_bytes() == directory_of(undisturbed).samples(6).read_bytes()


def test_a_corrupt_checkpoint_gives_way_to_the_one_before_and_nothing_is_lost(make, tmp_path: Path) -> None:
    run(make("train.steps=6", "save_every=2"))
    config = make("train.steps=8", "save_every=2")
    path = directory_of(config).checkpoint
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert run(config).status == Status.DONE
    assert "falling back to the previous checkpoint" in directory_of(config).log.read_text()
    undisturbed = elsewhere(config, make, tmp_path, "train.steps=8")
    run(undisturbed)
    assert_same_weights(config, undisturbed)


def test_a_checkpoint_of_another_config_is_refused_by_its_difference(make) -> None:
    run(make("seed=1"))
    other = make("seed=2")
    theirs, ours = directory_of(make("seed=1")), directory_of(other)
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

    def breaks(self: Trainer, real: torch.Tensor) -> dict:
        if self.step == 4:
            raise MemoryError("the GPU is full")
        return update(self, real)

    monkeypatch.setattr(Trainer, "_update_critic", breaks)
    record = run(config)
    assert record.status == Status.FAILED
    assert record.error is not None
    assert "MemoryError: the GPU is full" in record.error
    assert "Traceback" in record.error
    assert record.finished is not None
    assert "the GPU is full" in directory_of(config).log.read_text()
    monkeypatch.undo()
    again = run(config)
    assert again.status == Status.DONE
    assert again.error is None
    assert "starting at step 3" in directory_of(config).log.read_text()


def test_an_interrupted_run_is_still_running_in_its_record(make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make()
    monkeypatch.setattr(Trainer, "_compute_generator_gradient", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    record = directory_of(config).read_record()
    assert record is not None
    assert record.status == Status.RUNNING
    assert record.finished is None


def test_a_score_that_a_kill_prevented_is_made_up_for(make, plan, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = plan(3.0, 1.0, 2.0, 1.5)
    config = make("scorer.every=2", "save_every=100")
    call = Counting.__call__

    def dies_at_the_second(self: Counting, sample, players) -> dict[str, float]:
        if self.calls == 1:
            raise KeyboardInterrupt
        return call(self, sample, players)

    monkeypatch.setattr(Counting, "__call__", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(Counting, "__call__", call)
    record = run(config)
    assert fids(config) == [(2, 3.0), (4, 1.0), (6, 2.0)]
    assert (record.best["step"], record.scores["step"]) == (4, 6)
    assert scorer.calls == 4


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


def test_a_fallback_keeps_the_whole_checkpoint_until_there_is_another(make, monkeypatch: pytest.MonkeyPatch) -> None:
    run(make("train.steps=6", "save_every=2"))
    directory = directory_of(make())
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
