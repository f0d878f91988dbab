"""Several processes that train one run together compute what one process computes with the whole batch."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812

from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.fast_double_backward import REPLACEMENTS
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.build import build, check
from wgan_sweep.runs.record import Status
from wgan_sweep.scoring.images import ImageScorer
from wgan_sweep.training import followers
from wgan_sweep.training.followers import with_followers
from wgan_sweep.training.replicas import Replicas
from wgan_sweep.training.trainer import Trainer

from .helpers import PATIENCE_SECONDS, Shell, directory_of, records, run, trainer_state, wait_until

STEPS = 3
NETWORKS = ("critic", "generator", "averaged")
TWO = "launch.gpus_per_run=2"
CPU = torch.device("cpu")
CASES = [
    *([f"sampling={name}"] for name in ("real_fake", "mixed_pairs", "mixture", "real", "perturbed_real")),
    ["loss=wgan_gp"],
    ["loss=wgan", "optimizer=rmsprop"],
    ["loss=hinge", "constraint=spectral_norm"],
    ["loss=wgan", "constraint=lipschitz_penalty"],
    ["loss=lsgan", "stabiliser=label_smoothing"],
    ["loss=relativistic_average"],
    ["loss=rpgan", "constraint.r1.every=3", "+constraint@constraint.sn=spectral_norm"],
    ["loss=gan", "stabiliser=instance_noise"],
    ["loss=wgan_gp", "stabiliser=diff_augment"],
    ["train.generator_batch_size=12"],
    ["loss=nsgan", "stabiliser=feature_matching"],
    ["stabiliser=historical_averaging"],
    ["stabiliser=virtual_batch_norm", "stabiliser.reference=4"],
    ["model=resnet", "model.dim=2"],
    ["model.critic_norm=batch"],
    ["train.simultaneous=true", "train.freeze_generator_at=1"],
]


def train_in_float64(config: Config, replicas: Replicas) -> Trainer:
    torch.set_default_dtype(torch.float64)
    try:
        trainer = build(config, replicas).trainer
        for _ in trainer.steps(STEPS):
            pass
    finally:
        torch.set_default_dtype(torch.float32)
    return trainer


def follow(replicas: Replicas, configs: list[Config]) -> None:
    for config in configs:
        train_in_float64(config, replicas)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = trainer.state_dict()
    return {f"{network}.{name}": value for network in NETWORKS for name, value in state[network].items()}


@pytest.mark.integration
def test_two_processes_compute_the_weights_of_one_with_the_whole_batch(make, monkeypatch) -> None:
    """Compared in float64, with one exchange of gradients per update."""
    exchanged_sizes: list[int] = []
    all_reduce = dist.all_reduce

    def recorded_all_reduce(tensor: torch.Tensor) -> None:
        exchanged_sizes.append(tensor.numel())
        all_reduce(tensor)

    monkeypatch.setattr(dist, "all_reduce", recorded_all_reduce)
    configs = [make(*case) for case in CASES]
    with with_followers(2, CPU, follow, configs):
        for case, config in zip(CASES, configs, strict=True):
            exchanged_sizes.clear()
            pair, single = train_in_float64(config, Replicas(0, 2)), train_in_float64(config, Replicas())
            for name, expected in weights(single).items():
                # The gradient of a bias before BatchNorm is only rounding, which Adam amplifies: hence `atol`.
                torch.testing.assert_close(
                    weights(pair)[name],
                    expected,
                    rtol=1e-7,
                    atol=1e-6,
                    msg=lambda message, where=(case, name): f"{where} {message}",
                )
            for player, updates in (("critic", STEPS * config.train.n_critic), ("generator", STEPS)):
                size = sum(p.numel() for p in getattr(single, player).parameters())
                assert exchanged_sizes.count(size) == updates


def follow_with_a_wrong_rule(replicas: Replicas, config: Config) -> None:
    """Train with a broken rule, in this process only."""
    REPLACEMENTS[F.leaky_relu] = lambda _, x, negative_slope=0.01, inplace=False: F.leaky_relu(x, 2 * negative_slope)
    next(build(config, replicas).trainer.steps(1))


@pytest.mark.integration
def test_all_processes_choose_the_same_rules_for_gradient_terms(make) -> None:
    config = make("train.n_critic=1")
    with with_followers(2, CPU, follow_with_a_wrong_rule, config):
        pair = build(config, Replicas(0, 2)).trainer
        metrics = next(pair.steps(1))
    reason = "the fast rules disagree with it in another process"
    assert pair.execution["gradient term"] == f"double backward ({reason})"
    expected = next(build(config).trainer.steps(1))
    assert float(metrics["gradient_term"]) == pytest.approx(float(expected["gradient_term"]), rel=1e-4)


@pytest.mark.integration
def test_one_process_can_continue_a_run_of_two(make, tmp_path) -> None:
    shared = make(TWO)
    assert run(shared).status == Status.DONE
    single = make(f"runs={tmp_path / 'one'}")
    assert run(single).run_id == directory_of(shared).path.name
    for name, value in trainer_state(single)["critic"].items():
        torch.testing.assert_close(trainer_state(shared)["critic"][name], value, rtol=1e-3, atol=1e-4)
    assert run(make("train.steps=8")).step == 8


METRICS = {"kid": ["subset_size=20"], "precision_recall": [], "memorisation": [], "mifid": [], "pair_ssim": []}
SCORED = [
    *["scorer=fid", "scorer.num_samples=23", "scorer.num_real=40", "scorer.batch_size=5", "features.layer=64"],
    *["scorer.every=2", "scorer.repeats=2", "train.steps=5", "train.n_critic=1", "log_every=1"],
    *[f"+metric@scorer.metrics.{name}={name}" for name in METRICS],
    *[f"scorer.metrics.{name}.{setting}" for name, settings in METRICS.items() for setting in settings],
]
"""Two sets of five batches at each of the steps 2, 4 and 5, and at the best of these again."""


@pytest.mark.integration
def test_two_processes_score_together_as_one(make, cache, monkeypatch) -> None:
    """One process scores the weights that two have trained and scored: the last ones, and the best ones."""
    parts: list[tuple[int, int]] = []
    score = ImageScorer.__call__

    def recorded(scorer, sample, players=None, part=(0, 1)):
        parts.append(part)
        return score(scorer, sample, players, part)

    monkeypatch.setattr(ImageScorer, "__call__", recorded)
    shared = make(TWO, *SCORED)
    record = run(shared)
    assert (record.status, record.error) == (Status.DONE, None)
    assert parts == [(0, 2)] * 4
    parts.clear()
    single = build(make(*SCORED))
    single.trainer.load_state_dict(trainer_state(shared))
    expected = single.scorer(single.trainer.sampler("score"), single.trainer)
    values = {name: value for name, value in record.scores.items() if name != "step"}
    assert values.keys() == expected.keys()
    moments = ("fid", "fid_repeat_sd")
    assert {name: value for name, value in values.items() if name not in moments} == {
        name: value for name, value in expected.items() if name not in moments
    }
    assert values == pytest.approx(expected, rel=1e-9)
    best, _ = checkpoints.load(directory_of(shared).best)
    single.trainer.load_state_dict(best["trainer"])
    assert parts == [(0, 1)]
    confirmed = single.scorer(single.trainer.sampler("confirmation"), single.trainer)
    assert {name: record.best[name] for name in confirmed} == pytest.approx(confirmed, rel=1e-9)

    parts.clear()
    again = run(make(TWO, *SCORED, "scorer.num_samples=31"))  # trained already
    assert (again.status, again.scores["fid_generated"], set(parts)) == (Status.DONE, 31, {(0, 2)})
    rescored = build(make(*SCORED, "scorer.num_samples=31"))
    rescored.trainer.load_state_dict(trainer_state(shared))
    expected = rescored.scorer(rescored.trainer.sampler("score"), rescored.trainer)
    assert {name: again.scores[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def fail(replicas: Replicas) -> None:
    raise ValueError(f"broken in {replicas.rank}")


def wait(replicas: Replicas) -> None:
    time.sleep(600)


@pytest.mark.integration
def test_the_leader_reports_why_a_follower_failed() -> None:
    with (
        pytest.raises(RuntimeError, match=r"(?s)process 1 of 2 ended with exit code 1.*broken in 1"),
        with_followers(2, CPU, fail),
    ):
        dist.barrier()


class Unpicklable:
    """Ends the follower when it is unpickled, before it joins the process group."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.mark.integration
def test_the_leader_does_not_wait_for_a_follower_that_dies_early() -> None:
    with (
        pytest.raises(RuntimeError, match="process 1 of 2 ended with exit code 7"),
        with_followers(2, CPU, wait, Unpicklable()),
    ):
        pytest.fail("the follower did not join")


def kill_this_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_joining() -> None:
    followers._join_group = kill_this_process


class DiesWhenJoining:
    """Makes the follower in which it is unpickled die between its message that it is ready and the process group."""

    def __reduce__(self):
        return die_when_joining, ()


@pytest.mark.integration
def test_the_leader_does_not_wait_long_for_a_follower_that_dies_while_it_joins(monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(followers, "JOIN_TIMEOUT", timedelta(seconds=2))
        began = time.monotonic()
        with (
            pytest.raises(RuntimeError, match=r"process 1 of 2 ended with signal 9 \(SIGKILL\)"),
            with_followers(2, CPU, wait, DiesWhenJoining()),
        ):
            pytest.fail("the follower did not join")
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert not dist.is_initialized()
    with with_followers(2, CPU, exchange_late, 0.0):  # the next run of this process has followers again
        dist.barrier()


def exchange_late(replicas: Replicas, seconds: float) -> None:
    time.sleep(seconds)
    dist.barrier()


@pytest.mark.integration
def test_exchanges_may_take_longer_than_the_process_group_may_take_to_form(monkeypatch) -> None:
    monkeypatch.setattr(followers, "JOIN_TIMEOUT", timedelta(seconds=10))
    with with_followers(2, CPU, exchange_late, 15.0):
        dist.barrier()


@pytest.mark.integration
def test_an_exception_in_the_leader_ends_the_followers() -> None:
    with pytest.raises(KeyboardInterrupt), with_followers(2, CPU, wait):
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert not dist.is_initialized()


def follower_of(process: int) -> int:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    (follower,) = (child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text())
    return int(follower)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:  # it may end between opening and reading the file
        return False


LONG = ["train.steps=100000", "save_every=5", "log_every=5"]


@pytest.mark.integration
def test_a_killed_follower_is_a_recorded_failure_and_the_run_can_be_resumed(sweep: Shell) -> None:
    shell = sweep.start(*LONG, TWO)
    sweep.wait_for("checkpoint.pt")
    follower = follower_of(shell.pid)
    os.kill(follower, signal.SIGKILL)
    _, errors = shell.communicate(timeout=PATIENCE_SECONDS)
    assert shell.returncode == 1, errors
    (record,) = records(sweep.folder)
    assert record["status"] == "failed"
    assert "process 1 of 2 ended with signal 9 (SIGKILL)" in record["error"]
    sweep(f"train.steps={record['step'] + 2}", TWO)
    assert records(sweep.folder)[0]["status"] == "done"


@pytest.mark.integration
def test_a_killed_leader_ends_its_followers(sweep: Shell) -> None:
    shell = sweep.start(*LONG, TWO)
    sweep.wait_for("checkpoint.pt")
    follower = follower_of(shell.pid)
    shell.kill()
    shell.communicate()
    wait_until(lambda: not is_alive(follower))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.batch_size=9"], "train.batch_size=9 is shared by launch.gpus_per_run=2 processes"),
        (["stabiliser=minibatch_discrimination"], "compares each example with the whole batch"),
        (["launch.gpus_per_run=0"], "launch.gpus_per_run must be 1 or more and at most 100000, got 0"),
    ],
)
def test_a_run_that_processes_cannot_share_is_refused(make, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(make(TWO, *overrides))


def test_a_run_on_a_numbered_device_cannot_be_shared(make) -> None:
    with pytest.raises(InputError, match="is one device"):
        check(make(TWO, "device=cpu:0"))
