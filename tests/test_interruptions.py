"""Kills, damaged files, failures and divergence: the state of a run afterwards, and how it resumes."""

import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from wgan_sweep.config.schema import to_yaml
from wgan_sweep.errors import InputError
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.writer import RunWriter
from wgan_sweep.training.trainer import Trainer

from .helpers import (
    UNREADABLE,
    PlannedScorer,
    assert_same_weights,
    directory_of,
    logged_fids,
    make_unreadable,
    run,
    same_run_in_other_folder,
    trainer_state,
)

KILLED_AT_STEP = """
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


@pytest.mark.integration
@pytest.mark.parametrize("step", [0, 4, 5])
def test_a_killed_run_resumes_to_bitwise_the_same_result(make, tmp_path: Path, step: int) -> None:
    config = make("save_every=2", "log_every=1")
    (tmp_path / "config to run.yaml").write_text(to_yaml(config))
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED_AT_STEP), str(tmp_path / "config to run.yaml"), str(step)],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    directory = directory_of(config)
    interrupted = directory.read_record()
    assert interrupted is not None
    assert interrupted.status == Status.RUNNING
    assert interrupted.step == step // 2 * 2
    steps = [line["step"] for line in directory.read_metrics()]
    assert steps == list(range(1, step + 1))

    assert run(config).status == Status.DONE
    uninterrupted = same_run_in_other_folder(config, make, tmp_path, "save_every=2", "log_every=1")
    run(uninterrupted)
    assert_same_weights(config, uninterrupted)
    assert list(directory.read_metrics()) == list(directory_of(uninterrupted).read_metrics())
    assert directory.samples(6).read_bytes() == directory_of(uninterrupted).samples(6).read_bytes()


def test_a_corrupt_checkpoint_is_replaced_by_the_previous_one_and_nothing_is_lost(make, tmp_path: Path) -> None:
    run(make("train.steps=6", "save_every=2"))
    config = make("train.steps=8", "save_every=2")
    path = directory_of(config).checkpoint
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert run(config).status == Status.DONE
    assert "falling back to the previous checkpoint" in directory_of(config).log.read_text()
    uninterrupted = same_run_in_other_folder(config, make, tmp_path, "train.steps=8")
    run(uninterrupted)
    assert_same_weights(config, uninterrupted)


@pytest.mark.integration
@pytest.mark.parametrize("how", UNREADABLE)
def test_measurements_that_cannot_be_read_fail_a_run_that_is_continued_and_are_kept(
    how: str, make, tmp_path: Path
) -> None:
    run(make("train.steps=4"))
    config = make("train.steps=8")
    directory = directory_of(config)
    content = directory.metrics.read_bytes()
    restore = make_unreadable(directory.metrics, how)
    record = run(config)
    assert (record.status, record.step, record.metrics_lines) == (Status.FAILED, 4, len(content.splitlines()))
    assert record.reason is not None
    assert f"{directory.metrics} " in record.reason
    assert UNREADABLE[how] in record.reason
    restore()
    assert directory.metrics.read_bytes() == content
    assert run(config).status == Status.DONE
    uninterrupted = same_run_in_other_folder(config, make, tmp_path, "train.steps=8")
    run(uninterrupted)
    expected = {line["step"]: line for line in directory_of(uninterrupted).read_metrics()}
    lines = list(directory.read_metrics())
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
    assert lines == [expected[line["step"]] for line in lines]


def test_a_run_directory_of_another_config_is_refused_with_the_difference(make) -> None:
    run(make("seed=1"))
    other = make("seed=2")
    theirs, ours = directory_of(make("seed=1")), directory_of(other)
    theirs.path.rename(ours.path)
    before = {p: p.read_bytes() for p in ours.path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="seed: 1, 2"):
        run(make("seed=2", "train.steps=7"))
    assert {p: p.read_bytes() for p in ours.path.rglob("*") if p.is_file()} == before


def test_a_diverged_run_records_the_step_and_saves_no_bad_checkpoint(make) -> None:
    config = make("optimizer.lr=1e30", "train.steps=20", "log_every=7", "save_every=1")
    record = run(config)
    assert record.status == Status.DIVERGED
    assert record.error is not None
    step = int(record.error.split("step ")[1].split(":")[0])
    assert 1 <= step <= 7
    assert record.step == step - 1
    if step > 1:
        assert trainer_state(config)["step"] == step - 1
    assert run(config).status == Status.DIVERGED  # not retried


@pytest.mark.parametrize("name", ["critic_loss", "generator_gradient_norm"])
def test_a_single_measurement_that_is_not_finite_is_a_divergence(make, monkeypatch, name: str) -> None:
    train_step = Trainer._train_step

    def measure_nan_at_step_3(self: Trainer) -> dict[str, torch.Tensor]:
        metrics = train_step(self)
        return metrics | {name: torch.tensor(math.nan)} if self.step == 3 else metrics

    monkeypatch.setattr(Trainer, "_train_step", measure_nan_at_step_3)
    record = run(make("save_every=1"))
    assert record.status == Status.DIVERGED
    assert record.error is not None
    assert record.error.startswith("not finite at step 3: ")
    assert f"{name}=nan" in record.error
    assert record.error.count("nan") == 1
    assert trainer_state(make())["step"] == record.step == 2


def test_divergence_is_detected_at_its_step_for_any_logging_interval(make, tmp_path: Path) -> None:
    often = run(make("optimizer.lr=1e30", "train.steps=20", "log_every=1", "save_every=50"))
    config = make("optimizer.lr=1e30", "train.steps=20", "log_every=20", "save_every=50", f"runs={tmp_path / 'b'}")
    assert run(config).error == often.error


def test_an_exception_fails_the_run_with_its_traceback_and_the_run_is_retried(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    update = Trainer._update_critic

    def fail_at_step_4(self: Trainer, *arguments) -> dict:
        if self.step == 4:
            raise MemoryError("the GPU is full")
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "_update_critic", fail_at_step_4)
    record = run(config)
    assert record.status == Status.FAILED
    assert record.error is not None
    assert "MemoryError: the GPU is full" in record.error
    assert "Traceback" in record.error
    assert record.finished is not None
    assert "the GPU is full" in directory_of(config).log.read_text()
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        run(config, stop=lambda: True)
    running = directory_of(config).require_record()
    assert (running.status, running.error, running.finished) == (Status.RUNNING, None, None)
    again = run(config)
    assert again.status == Status.DONE
    assert again.error is None
    assert "starting at step 3" in directory_of(config).log.read_text()


def test_an_interrupted_run_has_the_status_running(make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make()
    monkeypatch.setattr(Trainer, "_compute_generator_gradient", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    record = directory_of(config).read_record()
    assert record is not None
    assert record.status == Status.RUNNING
    assert record.finished is None


def test_a_scoring_that_was_interrupted_is_repeated(make, planned_fids, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = planned_fids(3.0, 1.0, 2.0, 1.5)
    config = make("scorer.every=2", "save_every=100")
    call = PlannedScorer.__call__

    def interrupt_second_call(self: PlannedScorer, sample, players) -> dict[str, float]:
        if self.calls == 1:
            raise KeyboardInterrupt
        return call(self, sample, players)

    monkeypatch.setattr(PlannedScorer, "__call__", interrupt_second_call)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(PlannedScorer, "__call__", call)
    record = run(config)
    assert logged_fids(config) == [(2, 3.0), (4, 1.0), (6, 2.0)]
    assert (record.best["step"], record.scores["step"]) == (4, 6)
    assert scorer.calls == 4


def test_metric_values_written_before_an_interruption_are_not_written_twice(
    make, planned_fids, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned_fids(3.0, 3.0)
    config = make()
    write_record = RunWriter.write_record

    def interrupt_if_scored(self: RunWriter, record: Record) -> None:
        if record.scores and record.status == Status.RUNNING:
            record.scores = {}
            record.best = {}
            raise KeyboardInterrupt
        write_record(self, record)

    monkeypatch.setattr(RunWriter, "write_record", interrupt_if_scored)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(RunWriter, "write_record", write_record)
    assert run(config).scores["fid"] == 3.0
    assert logged_fids(config) == [(6, 3.0)]
    steps = [line["step"] for line in directory_of(config).read_metrics()]
    assert steps == [2, 3, 4, 6, 6]  # those of the checkpoint's step, too, are kept once


def test_the_previous_checkpoint_is_kept_until_the_next_one_is_complete(make, monkeypatch: pytest.MonkeyPatch) -> None:
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
