"""Complete runs: their files, their best step, continued training, and failures."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from wgan_sweep.common.progress import Display
from wgan_sweep.config.schema import Config, read
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.text import to_markdown
from wgan_sweep.runs import build as build_module
from wgan_sweep.runs import checkpoints, life
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import identify, run_id
from wgan_sweep.runs.loop import DivergedError, RunLoop
from wgan_sweep.runs.networks import load_networks
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.state import RunState
from wgan_sweep.runs.writer import RunWriter
from wgan_sweep.training.trainer import Trainer

from .helpers import (
    PlannedScorer,
    assert_same_weights,
    directory_of,
    lock_owners,
    logged_fids,
    run,
    same_run_in_other_folder,
    write_record,
)


def test_a_finished_run_has_the_documented_files(make, tmp_path: Path, planned_fids) -> None:
    planned_fids(30.0, 20.0, 21.0)
    config = make("scorer.every=3")
    record = run(config)
    directory = RunDir(tmp_path / "runs" / run_id(config))
    stored = json.loads(directory.record.read_text())
    keys = "run_id status overrides config step images_seen scores best error pruned versions git host started finished"
    assert list(stored) == [
        *keys.split(),
        "seconds",
        "scored_by",
        "best_chosen_by",
        "sweep",
        "execution",
        "science",
        "code",
        "metrics_lines",
        "history",
        "format",
    ]
    assert stored["seconds"] > 0
    assert (stored["status"], stored["step"], stored["images_seen"]) == ("done", 6, 6 * 2 * 8)
    assert stored["overrides"] == ["typed=1"]
    scores = {"step": 6, "fid": 20, "fid_feature": 2048, "fid_generated": 2, "fid_real": 4}
    assert stored["scores"] == scores
    assert stored["best"] == {**scores, "fid": 21, "chosen_by_fid": 20}
    assert stored["scored_by"] == {"features": "planned"}
    assert stored["versions"]["torch"] == torch.__version__.split("+")[0]
    assert directory.read_record() == record
    assert run_id(read(directory.config)) == record.run_id
    training_lines = [line for line in directory.read_metrics() if "critic_loss" in line]
    assert [line["step"] for line in training_lines] == [2, 3, 4, 6]
    for line in training_lines:
        names = "step images_seen critic_loss generator_loss wasserstein gradient_norm gradient_term"
        assert set(names.split()) <= set(line)
        assert line["images_seen"] == line["step"] * 16
    assert logged_fids(config) == [(3, 30), (6, 20)]
    for step in (3, 6):
        with Image.open(directory.samples(step)) as picture:
            assert picture.size == (8 * 32, 8 * 32)
    assert torch.load(directory.checkpoint, weights_only=True)["trainer"]["step"] == 6
    assert "starting at step 0" in directory.log.read_text()


def test_the_best_step_has_the_lowest_fid(make, planned_fids) -> None:
    planned_fids(20.0, 30.0, 25.0)
    config = make("scorer.every=3")
    record = run(config)
    assert (record.best["step"], record.scores["step"]) == (3, 6)
    assert (record.best["chosen_by_fid"], record.best["fid"], record.scores["fid"]) == (20, 25, 30)
    best_state, _ = checkpoints.load(directory_of(config).best)
    assert best_state is not None
    assert best_state["trainer"]["step"] == 3


def test_a_best_step_that_is_lost_leaves_no_value_of_its_own(make, planned_fids, monkeypatch) -> None:
    planned_fids(20.0, 19.0, 25.0)
    load = checkpoints.load

    def load_previous(path: Path) -> tuple[dict | None, list[str]]:
        return (checkpoints.read(checkpoints.previous(path)), ["damaged"]) if path.name == "best.pt" else load(path)

    monkeypatch.setattr(checkpoints, "load", load_previous)
    record = run(make("scorer.every=3"))
    assert (record.best["step"], record.best["fid"], record.best["chosen_by_fid"]) == (3, 25, 20)


def test_the_best_step_is_scored_again_on_independent_samples(make, planned_fids, monkeypatch) -> None:
    scorer = planned_fids(20.0, 30.0, 25.0)
    scored = []
    monkeypatch.setattr(PlannedScorer, "inspect", lambda _, sample, players: scored.append((players.step, sample(4))))
    config = make("scorer.every=3")
    run(config)
    assert scorer.calls == 3
    assert [step for step, _ in scored] == [3, 6, 3]
    assert not torch.equal(scored[0][1], scored[2][1])
    monkeypatch.undo()
    assert not (directory_of(make("seed=5")).path / "best.pt").exists()


def test_a_continued_run_compares_new_fids_with_the_fid_that_selected_its_best_step(make, planned_fids) -> None:
    planned_fids(20.0, 30.0, 40.0, 21.0, 50.0, 19.0, 60.0, 22.0)
    run(make("scorer.every=3", "train.steps=6"))  # 20, 30; best step scored again: 40
    record = run(make("scorer.every=3", "train.steps=9"))  # 21 is above 20, although below 40
    assert (record.best["step"], record.best["fid"], record.best["chosen_by_fid"]) == (3, 40, 20)
    record = run(make("scorer.every=3", "train.steps=15"))  # 50, 19; best step scored again: 60
    assert (record.best["step"], record.best["fid"], record.best["chosen_by_fid"]) == (15, 60, 19)


def test_a_cheap_scorer_selects_the_best_step_and_the_full_scorer_scores_it(make, monkeypatch) -> None:
    scorers = {count: PlannedScorer(fids, count) for count, fids in ((2, [7.0, 8.0]), (5, [3.0, 4.0]))}
    monkeypatch.setattr(build_module, "_make_scorer", lambda config, node, *_: scorers[node["num_samples"]])
    config = make("scorer=fid", "scorer.num_samples=5", "+scorer.during.num_samples=2", "scorer.every=3")
    record = run(config)
    assert record.scores == {"step": 6, "fid": 3, "fid_feature": 2048, "fid_generated": 5, "fid_real": 4}
    assert record.best == {**record.scores, "step": 3, "fid": 4, "chosen_by_fid": 7}
    lines = [line for line in directory_of(config).read_metrics() if "fid" in line]
    assert [(line["step"], line["fid"], line["fid_generated"]) for line in lines] == [(3, 7, 2), (6, 8, 2), (6, 3, 5)]
    scorers[7] = PlannedScorer([1.0, 2.0], 7)
    record = run(make("scorer=fid", "scorer.num_samples=7", "+scorer.during.num_samples=2", "scorer.every=3"))
    assert record.error is None
    assert (record.scores["fid"], record.best["fid"], record.best["step"]) == (1, 2, 3)
    assert record.best["chosen_by_fid"] == 7


def test_the_final_scorer_measures_what_the_training_scorer_leaves_out(make, monkeypatch) -> None:
    """Both describe themselves alike."""
    during, final = PlannedScorer([7.0, 8.0]), PlannedScorer([3.0, 4.0])
    monkeypatch.setattr(
        build_module, "_make_scorer", lambda config, node, *_: during if "kid" not in node["metrics"] else final
    )
    metrics = ["+metric@scorer.metrics.kid=kid", "scorer.during={metrics:{kid:null}}"]
    record = run(make("scorer=fid", "scorer.num_samples=2", "scorer.every=3", *metrics))
    assert (during.calls, final.calls) == (2, 2)
    assert (record.scores["fid"], record.best["fid"], record.best["chosen_by_fid"]) == (3, 4, 7)
    assert (record.scored_by, record.best_chosen_by["when"]) == ({"features": "planned"}, "during training")


def test_steps_are_compared_anew_if_another_scorer_continues_the_choice(make, monkeypatch) -> None:
    """Values of another number of samples are not comparable: 72 of 5 samples is not better than 80 of 2."""
    scorers = {2: PlannedScorer([80.0, 90.0, 81.0], 2), 5: PlannedScorer([72.0, 73.0], 5)}
    monkeypatch.setattr(build_module, "_make_scorer", lambda config, node, *_: scorers[node["num_samples"]])
    options = ["scorer=fid", "scorer.every=3"]
    record = run(make(*options, "scorer.num_samples=2", "train.steps=6"))
    assert (record.best["step"], record.best["chosen_by_fid"]) == (3, 80)
    scorers[5] = PlannedScorer([95.0, 96.0, 97.0], 5)
    record = run(make(*options, "scorer.num_samples=5", "train.steps=9"))
    assert (record.best["step"], record.best["chosen_by_fid"]) == (6, 95)  # 95 is worse than 80, of another scorer
    assert record.best_chosen_by == {"features": "planned", "generated": "5"}


def test_a_run_of_another_kind_of_device_is_scored_and_not_trained_further(make, planned_fids) -> None:
    """The state of a generator of random numbers has 5,056 bytes on a CPU, and 16 on a GPU."""
    planned_fids(30.0, 20.0)
    config = make("train.steps=2")
    run(config)
    path = directory_of(config).checkpoint
    stored, _ = checkpoints.load(path)
    assert stored is not None
    stored["trainer"]["streams"] = dict.fromkeys(stored["trainer"]["streams"], torch.zeros(16, dtype=torch.uint8))
    checkpoints.save(path, stored, path.parent)
    with pytest.raises(InputError, match=r"device=cpu: the run is at step 2, trained on another kind of device"):
        run(make("train.steps=3"))
    record = directory_of(config).read_record()
    assert record is not None
    assert record.status == Status.DONE
    scored = run(make("train.steps=2", "scorer=fid", "scorer.num_samples=3"))
    assert (scored.status, scored.scores["fid"]) == (Status.DONE, 20)


def test_a_finished_run_is_not_modified(make, planned_fids) -> None:
    scorer = planned_fids(20.0)
    config = make()
    run(config)
    directory = directory_of(config).path
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.rglob("*") if p.is_file()}
    assert run(config).status == Status.DONE
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.rglob("*") if p.is_file()} == before
    assert scorer.calls == 1


def test_a_run_that_another_process_finishes_just_before_the_lock_is_not_trained_again(make, monkeypatch) -> None:
    config, own = make("train.steps=2"), life.owned_run
    finished: list[Record] = []

    @contextmanager
    def owned_after_another(directory: RunDir) -> Iterator[RunWriter]:
        with monkeypatch.context() as patch:
            patch.setattr(life, "owned_run", own)
            finished.append(run(config))
        monkeypatch.setattr(Trainer, "_update_critic", lambda *_: pytest.fail("trained again"))
        with own(directory) as writer:
            yield writer

    monkeypatch.setattr(life, "owned_run", owned_after_another)
    record = run(config)
    assert [record] == finished == [directory_of(config).read_record()]
    assert record.status == Status.DONE


def test_training_continued_to_more_steps_is_bitwise_equal_to_uninterrupted_training(
    make, tmp_path: Path, planned_fids
) -> None:
    planned_fids(20.0, 19.0, 18.0, 17.0)
    run(make("train.steps=4"))
    config = make("train.steps=7")
    assert run(config).step == 7
    uninterrupted = same_run_in_other_folder(config, make, tmp_path, "train.steps=7")
    run(uninterrupted)
    assert_same_weights(config, uninterrupted)


def test_a_finished_run_is_scored_by_another_scorer_without_training(make, planned_fids, monkeypatch) -> None:
    planned_fids(20.0, 90.0)
    run(make("scorer=fid", "scorer.num_samples=5"))
    monkeypatch.setattr(Trainer, "_update_critic", lambda *_: pytest.fail("trained again"))
    record = run(make("scorer=fid", "scorer.num_samples=7"))
    assert record.status == Status.DONE
    assert record.scores["fid"] == record.best["fid"] == 90
    assert record.config["scorer"]["num_samples"] == 7


def test_an_error_while_the_scorer_is_prepared_fails_the_run_before_training(make, planned_fids) -> None:
    planned_fids().prepare = lambda: (_ for _ in ()).throw(OSError("disk full"))
    record = run(make())
    assert record.status == Status.FAILED
    assert record.step == 0


def test_the_time_of_all_starts_is_counted(make) -> None:
    def set_seconds(config: Config, seconds: float) -> None:
        record = directory_of(config).require_record()
        write_record(directory_of(config), replace(record, seconds=seconds))

    first, stopped, last = (make(f"train.steps={steps}") for steps in (2, 4, 6))
    assert 0 < run(first).seconds < 1000
    set_seconds(first, 1000.0)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, stop=lambda: True)
    interrupted = directory_of(stopped).require_record()
    assert (interrupted.status, interrupted.step) == (Status.RUNNING, 3)
    assert 1000 < interrupted.seconds < 2000
    set_seconds(first, 3000.0)
    assert 3000 < run(last).seconds < 4000


def test_of_equal_steps_the_last_one_is_the_best(make, planned_fids) -> None:
    planned_fids(20.0, 20.0, 21.0, 22.0, 23.0)
    assert run(make("scorer.every=2", "train.steps=6")).best["step"] == 4


def test_a_refused_config_creates_no_files(make, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(make("train.batch_size=1000"))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {".locks"}
    assert lock_owners(tmp_path / "runs") == {}


def test_a_tracker_that_fails_causes_one_warning_and_does_not_stop_the_run(make, monkeypatch) -> None:
    class FailingTracker:
        def log(self, *_: object) -> None:
            raise ConnectionError("no server")

        images = close = log

    monkeypatch.setattr(life, "make_tracker", lambda *_: FailingTracker())
    config = make()
    assert run(config).status == Status.DONE
    assert directory_of(config).log.read_text().count("no server") == 1


def test_a_run_is_scored_with_the_fid_network(make, tmp_path: Path) -> None:
    record = run(make("scorer=fid", "scorer.num_samples=8", "scorer.num_real=8", "features.layer=64", "train.steps=2"))
    assert record.status == Status.DONE, record.error
    assert np.isfinite(record.scores["fid"])
    assert record.scores["fid"] > 0


def test_scorer_none_keeps_the_scores_of_a_finished_run(make, planned_fids) -> None:
    planned_fids(20.0)
    run(make("scorer=fid"))
    record = run(make("scorer=none"))
    assert record.scores["fid"] == record.best["fid"] == 20
    assert record.config["scorer"]["num_samples"] == 1000


def test_a_request_for_fewer_steps_than_a_finished_run_has_is_reported(make) -> None:
    run(make("train.steps=6"))
    out = Console(record=True, width=300, file=io.StringIO())
    life.run(make("train.steps=4"), overrides=[], display=Display(out))
    assert "4 steps were requested" in out.export_text()


def test_a_runs_folder_that_cannot_be_created_is_refused(make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="runs="):
            run(make(f"runs={folder}"))


def test_a_diverged_run_is_retried_only_with_retry_diverged(make) -> None:
    assert run(make("optimizer.lr=1e30")).status == Status.DIVERGED
    written = directory_of(make("optimizer.lr=1e30")).record.stat().st_mtime_ns
    assert run(make("optimizer.lr=1e30")).status == Status.DIVERGED
    assert directory_of(make("optimizer.lr=1e30")).record.stat().st_mtime_ns == written
    assert run(make("optimizer.lr=1e30", "retry_diverged=true")).status == Status.DIVERGED
    assert directory_of(make("optimizer.lr=1e30")).record.stat().st_mtime_ns > written


def test_a_stopped_run_saves_a_checkpoint_of_its_current_step(make) -> None:
    config = make("save_every=100")
    stop_requests = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        run(config, stop=lambda: next(stop_requests))
    record = directory_of(config).read_record()
    assert record is not None
    assert (record.status, record.step) == (Status.RUNNING, 3)
    assert run(config).step == 6


def test_scoring_a_run_again_keeps_its_record_of_how_it_was_trained(make, planned_fids) -> None:
    config = make("train.steps=2", "scorer=none")
    run(config)
    directory = directory_of(config)
    record = directory.read_record()
    assert record is not None
    assert record.execution["precision"] == "fp32"
    record.execution = {"iterations": "a CUDA graph"}  # as if recorded on another machine
    write_record(directory, record)
    planned_fids(30.0, 20.0)
    record = run(make("train.steps=2", "scorer=fid", "scorer.num_samples=2"))
    assert record.scores["fid"] == 30
    assert record.execution == {"iterations": "a CUDA graph"}
    assert run(make("train.steps=3")).execution["precision"] == "fp32"


def test_the_best_step_is_selected_again_if_its_checkpoint_could_not_be_written(
    make, planned_fids, monkeypatch
) -> None:
    """Scoring a step, writing best.pt and recording the scores is one transition: a failure records none of it."""
    planned_fids(20.0, 20.0, 30.0, 25.0)
    config = make("scorer.every=3")
    save = checkpoints.save

    def fail_for_best(path: Path, state: dict, staging: Path) -> None:
        if path.name == "best.pt":
            raise OSError("disk full")
        save(path, state, staging)

    monkeypatch.setattr(checkpoints, "save", fail_for_best)
    failed = run(config)
    assert failed.status == Status.FAILED
    assert (failed.step, failed.scores, failed.best) == (3, {}, {})
    monkeypatch.setattr(checkpoints, "save", save)
    record = run(config)
    assert record.status == Status.DONE
    assert (record.best["step"], record.best["chosen_by_fid"], record.best["fid"]) == (3, 20, 25)
    assert [fid for _, fid in logged_fids(config)] == [20, 30]


@pytest.mark.parametrize("failing", ["config", "record", "checkpoint", "best"])
def test_a_failed_write_leaves_the_record_unchanged_on_disk_and_in_memory(
    make, owned, failing: str, monkeypatch
) -> None:
    config = make()
    identity = identify(config)
    writer = owned(identity.directory)
    state = RunState.start(writer, identity, config, [], None)
    state.score(3, {"fid": 5.0}, {}, lambda: {"weights": 1})
    record, content = state.record, state.directory.record.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    transitions = {
        "config": (RunWriter, "write", lambda: RunState.start(writer, identity, config, [], None)),
        "record": (RunWriter, "write_record", lambda: state.finish(1.0)),
        "checkpoint": (checkpoints, "save", lambda: state.save({}, 4, 64, {})),
        "best": (checkpoints, "save", lambda: state.score(6, {"fid": 4.0}, {}, lambda: {"weights": 2})),
    }
    owner, function, transition = transitions[failing]
    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(OSError, match="disk full"):
        transition()
    assert state.record == record
    assert state.directory.record.read_bytes() == content


def test_scores_are_kept_when_a_run_is_continued_or_scored_otherwise(make, planned_fids, monkeypatch) -> None:
    planned_fids(20.0, 90.0, 15.0)
    first = run(make("scorer=fid", "scorer.num_samples=5"))
    assert first.history == []
    second = run(make("scorer=fid", "scorer.num_samples=7"))
    assert second.scores["fid"] == 90
    assert [asdict(earlier) for earlier in second.history] == [
        {
            "step": 6,
            "scores": {"step": 6, "fid": 20, "fid_feature": 2048, "fid_generated": 2, "fid_real": 4},
            "scored_by": {"features": "planned"},
            "best": first.best,
            "finished": first.finished,
            "code": first.code,
        }
    ]
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_final_scorer", lambda *_: None)
        unscored = run(make("scorer=none", "train.steps=7"))
    assert (unscored.step, unscored.scores) == (7, second.scores)
    third = run(make("scorer=fid", "scorer.num_samples=7", "train.steps=8"))
    assert [(earlier.step, earlier.scores["fid"]) for earlier in third.history] == [(6, 20), (6, 90)]
    assert (third.scores["step"], third.scores["fid"]) == (8, 15)
    assert directory_of(make()).read_record() == third
    assert run(make("scorer=fid", "scorer.num_samples=7", "train.steps=8")).history == third.history


def test_a_finished_result_survives_a_continuation_that_diverges(make, planned_fids, monkeypatch) -> None:
    planned_fids(20.0)
    first = run(make("scorer=fid"))
    assert first.result is first

    def diverge(*_: object) -> None:
        raise DivergedError("not finite at step 8")

    monkeypatch.setattr(RunLoop, "_train", diverge)
    lost = run(make("scorer=fid", "train.steps=9"))
    assert (lost.status, lost.reason) == (Status.DIVERGED, "not finite at step 8")
    assert lost.result is not None
    kept = ("status", "step", "scores", "scored_by", "best", "finished", "code", "error")
    assert {name: getattr(lost.result, name) for name in kept} == {name: getattr(first, name) for name in kept}
    assert "20.00 (n=1), 1 diverged later" in to_markdown(group_runs([lost]))


@pytest.mark.integration
@pytest.mark.parametrize("killed_at", range(1, 6))
def test_a_kill_neither_loses_nor_repeats_earlier_scores(make, planned_fids, monkeypatch, killed_at: int) -> None:
    planned_fids(20.0, *[90.0] * 9)
    run(make("scorer=fid", "scorer.num_samples=5"))
    writes = 0
    written = RunWriter.write_record

    def killed(writer: RunWriter, record: Record) -> None:
        nonlocal writes
        writes += 1
        if writes >= killed_at:
            raise SystemExit
        written(writer, record)

    with monkeypatch.context() as patch, suppress(SystemExit):
        patch.setattr(RunWriter, "write_record", killed)
        run(make("scorer=fid", "scorer.num_samples=7"))
    assert writes >= killed_at
    record = run(make("scorer=fid", "scorer.num_samples=7"))
    assert record.status == Status.DONE
    assert [earlier.scores["fid"] for earlier in record.history] == [20]
    assert record.scores["fid"] == 90


@pytest.mark.parametrize(
    "history",
    [None, {}, [3], [{}], [{"step": 1}], [{"step": "1", "scores": {}}], [{"step": 1, "scores": {"fid": "x"}}]],
)
def test_a_record_with_a_damaged_history_is_refused(history: object, tmp_path: Path) -> None:
    values = {"run_id": "ab", "status": "done", "config": {"scorer": {}}, "format": 1, "history": history}
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="is not a run's record"):
        RunDir(tmp_path).read_record()


def test_the_generator_without_averaging_is_scored_at_the_end(make, planned_fids) -> None:
    """On the same z as its average; and once more only if another scorer is requested."""
    scorer = planned_fids(5.0, 6.0)
    scored: list[torch.Tensor] = []
    scorer.inspect = lambda sample, _: scored.append(sample(3))
    config = make("+scorer.live=true", "train.ema=0.9", "train.steps=3")
    record = run(config)
    assert (record.scores["fid"], record.scores["live_fid"]) == (5.0, 6.0)
    assert "live_fid_generated" not in record.scores
    assert record.scored_by["also"] == "the generator without averaging"
    for live, samples in zip((False, True), scored, strict=True):
        networks = load_networks(directory_of(config), config, torch.device("cpu"), live=live)
        assert torch.equal(samples, networks.sampler.stream("score")(3))
    assert not torch.equal(*scored)
    assert run(config).scores == record.scores
    assert scorer.calls == 2


def test_scoring_without_averaging_needs_an_average(make) -> None:
    with pytest.raises(InputError, match=r"scorer\.live=true.*train\.ema=0 has no average"):
        build_module.build(make("+scorer.live=true", "train.ema=0.0"))
