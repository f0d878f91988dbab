"""Loss scaling decides as torch.amp.GradScaler, on the host and on the device. A skipped update changes nothing."""

import copy
import itertools
import math
from collections.abc import Iterable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgan_sweep.config.schema import Config
from wgan_sweep.runs.build import build
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Status
from wgan_sweep.training import loss_scaling
from wgan_sweep.training.followers import with_followers
from wgan_sweep.training.loss_scaling import MAX_SCALE, MIN_SCALE, LossScale
from wgan_sweep.training.player import MakeOptimizer, Player
from wgan_sweep.training.replicas import Replicas
from wgan_sweep.training.trainer import Trainer

from .helpers import run as run_to_the_end
from .test_trainer import assert_bitwise_equal, run

CPU = torch.device("cpu")
FP16 = "train.precision=fp16"


class CountsInPython(torch.optim.Optimizer):
    """Gradient descent with a step size that falls with a count, which is a Python number."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"steps": 0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                parameter -= 0.1 / (group["steps"] + state["count"]) * parameter.grad


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": torch.optim.Adam,
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, amsgrad=True, foreach=True),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "fused sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, fused=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9, centered=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
}


def train_both(make_optimizer: MakeOptimizer, waits: list[bool], losses: list[float]) -> tuple[Player, LossScale]:
    """Train a player and, with GradScaler, its copy, on losses with the given factors; check that they agree.

    Args:
        make_optimizer: Returns the optimizer.
        waits: Whether each update may wait, in turns.
        losses: Factor of the loss in each update.
    """
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    twin = copy.deepcopy(network)
    scale = LossScale(CPU)
    player = Player(
        network,
        forward=network,
        make_optimizer=make_optimizer,
        keeps_history=False,
        capturable=False,
        loss_scale=scale,
    )
    optimizer = make_optimizer(twin.parameters())
    scaler = torch.amp.GradScaler("cpu", growth_interval=loss_scaling.GROWTH_INTERVAL)
    for factor, may_wait in zip(losses, itertools.cycle(waits), strict=False):
        x = torch.randn(4, 3)
        player.backward(factor * network(x).square().sum())
        player.unscale_gradient()
        player.update(may_wait=may_wait)
        optimizer.zero_grad()
        scaler.scale(factor * twin(x).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert float(scale.value) == scaler.get_scale()
        assert_bitwise_equal(network.state_dict(), twin.state_dict())
        assert_bitwise_equal(player.optimizer.state_dict(), optimizer.state_dict())
    return player, scale


LOSSES = [math.inf, 1.0, 1.0, math.nan, 1.0, 1.0, 1.0, 1.0, math.inf, math.inf, 1.0]


@pytest.mark.parametrize("waits", [[True], [False], [False, True]], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_grad_scaler(name: str, waits: list[bool], monkeypatch) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 3)
    # GradScaler calls fused optimizers also for skipped updates, so that the first one allocates their state.
    losses = LOSSES[1:] if "fused" in name else LOSSES
    _, scale = train_both(OPTIMIZERS[name], waits, losses)
    skipped = sum(not math.isfinite(factor) for factor in losses)
    assert int(scale.skipped_updates) == skipped
    assert float(scale.value) == 2.0**16 / 2**skipped * 2


def test_an_optimizer_with_a_count_in_python_skips_on_the_host() -> None:
    player, _ = train_both(CountsInPython, [True], LOSSES)
    assert not player.can_skip_on_device


def test_the_scale_stays_in_its_range() -> None:
    scale = LossScale(CPU)
    for gradient, limit in ((math.inf, MIN_SCALE / 2), (0.0, MAX_SCALE)):
        for _ in range(60):
            scale._good_updates.fill_(loss_scaling.GROWTH_INTERVAL - 1)
            scale.unscale([torch.tensor([gradient])])
            scale.update()
        assert float(scale.value) == limit


def test_a_probed_gradient_is_computed_at_a_scale_that_does_not_overflow() -> None:
    """Here the gradient overflows above a scale of 65504 / 1000."""
    scale, x = LossScale(CPU), torch.ones(3, requires_grad=True)
    (gradient,) = scale.gradient((x.half() * 1000).float().sum(), [x])
    assert gradient.tolist() == [1000.0] * 3
    assert float(scale.value) == loss_scaling.INITIAL_SCALE


def overflow_at(scale: LossScale, update: int) -> None:
    """Make a player's gradient infinite at one of its updates, counted from 1."""
    calls = 0

    def scaled(loss: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return loss * (math.inf if calls == update else scale.value)

    scale.scale = scaled  # type: ignore[method-assign]


def loss_scale(trainer: Trainer, player: str) -> LossScale:
    scale = {"critic": trainer._critic_player, "generator": trainer._generator_player}[player].loss_scale
    assert scale is not None
    return scale


@pytest.mark.parametrize("player", ["critic", "generator"])
def test_an_overflow_skips_that_update_of_that_player(make, player: str) -> None:
    """Weights, optimizer and historical average stay as they are; the moving average counts the step."""
    trainer = build(make(FP16, "train.n_critic=1", "stabiliser=historical_averaging")).trainer
    other = {"critic": "generator", "generator": "critic"}[player]
    overflow_at(loss_scale(trainer, player), 3)
    run(trainer, 2)
    before = copy.deepcopy(trainer.state_dict())
    value = float(loss_scale(trainer, player).value)
    averages = [p.clone() for p in trainer.averaged.parameters()]
    (metrics,) = run(trainer, 3)
    after = trainer.state_dict()
    history = {"critic": 0, "generator": 1}
    assert_bitwise_equal(
        dict(getattr(trainer, player).named_parameters()),
        {n: before[player][n] for n in parameter_names(trainer, player)},
    )
    assert_bitwise_equal(after[f"{player}_optimizer"], before[f"{player}_optimizer"])
    assert_bitwise_equal(after["past"][history[player]], before["past"][history[player]])
    skipped = sum(int(scale["skipped_updates"]) for scale in before["loss_scales"])
    assert metrics["skipped_updates"] == skipped + 1
    assert metrics[f"{player}_loss_scale"] == value / 2
    assert math.isinf(metrics["generator_gradient_norm"]) == (player == "generator")
    assert after["past"][history[other]]["count"] == before["past"][history[other]]["count"] + 1
    assert metrics[f"{other}_loss_scale"] == before["loss_scales"][history[other]]["value"]
    for average, old, weight in zip(
        trainer.averaged.parameters(), averages, trainer.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(average, old + (1 - 4 / 13) * (weight.detach() - old), rtol=1e-5, atol=1e-7)
    run(trainer, 4)
    name = parameter_names(trainer, player)[0]
    assert not torch.equal(trainer.state_dict()[player][name], before[player][name])


def parameter_names(trainer: Trainer, player: str) -> list[str]:
    return [name for name, _ in getattr(trainer, player).named_parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_no_loss_scale(make, precision: str) -> None:
    trainer = build(make(f"train.precision={precision}")).trainer
    (metrics,) = run(trainer, 1)
    assert not any("scale" in name or "skipped" in name for name in metrics)
    assert trainer.state_dict()["loss_scales"] == []
    assert trainer.execution["precision"] == precision
    assert build(make(FP16)).trainer.execution["precision"] == "fp16, dynamic loss scaling"


@pytest.fixture
def volatile_scale(monkeypatch) -> None:
    """Let the scale begin too high, and grow so often that updates are skipped again and again."""
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", MAX_SCALE)
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 3)


@pytest.mark.usefixtures("volatile_scale")
def test_resuming_at_any_step_is_bitwise_equal(make, tmp_path) -> None:
    config = make(FP16, "train.n_critic=1", "model=mlp", "model.depth=1")
    uninterrupted = build(config).trainer
    metrics, phases = [], []
    for step in range(1, 17):
        metrics += run(uninterrupted, step)
        phases.append(int(loss_scale(uninterrupted, "critic")._good_updates))
        torch.save(uninterrupted.state_dict(), tmp_path / f"{step}.pt")
    assert {1, 2} <= set(phases)  # in the middle of an interval
    skipped = [m["skipped_updates"] for m in metrics]
    assert 0 < skipped[0] < skipped[-1] < 2 * 16
    assert any(
        later["critic_loss_scale"] > earlier["critic_loss_scale"] for earlier, later in itertools.pairwise(metrics)
    )
    for step in range(1, 16):
        resumed = build(config).trainer
        resumed.load_state_dict(torch.load(tmp_path / f"{step}.pt", weights_only=True))
        assert run(resumed, 16) == metrics[step:]
        assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())


def train_with_an_overflow_in_the_follower(
    config: Config, replicas: Replicas
) -> tuple[Trainer, list[dict[str, Tensor]]]:
    """Train two steps; the second critic update overflows in process 1. Return the critic before and after it."""
    trainer = build(config, replicas).trainer
    if replicas.rank == 1:
        overflow_at(loss_scale(trainer, "critic"), 2)
    return trainer, [copy.deepcopy(dict(trainer.critic.named_parameters())) for _ in trainer.steps(2)]


def follow(replicas: Replicas, config: Config) -> None:
    trainer, _ = train_with_an_overflow_in_the_follower(config, replicas)
    for parameter in trainer.critic.parameters():
        dist.broadcast(parameter.detach(), 1)
    dist.broadcast(loss_scale(trainer, "critic").value, 1)


@pytest.mark.integration
def test_an_overflow_in_one_process_skips_the_update_in_all(make) -> None:
    config = make(FP16, "train.n_critic=1", "model.dim=2")
    with with_followers(2, CPU, follow, config):
        trainer, (before, after) = train_with_an_overflow_in_the_follower(config, Replicas(0, 2))
        assert_bitwise_equal(after, before)
        assert int(loss_scale(trainer, "critic").skipped_updates) == 1
        assert float(loss_scale(trainer, "critic").value) == loss_scaling.INITIAL_SCALE / 2
        for parameter in trainer.critic.parameters():
            dist.broadcast(received := torch.empty_like(parameter.detach()), 1)
            assert torch.equal(received, parameter.detach())
        dist.broadcast(received := torch.empty(()), 1)
        assert torch.equal(received, loss_scale(trainer, "critic").value)


@pytest.mark.parametrize(("initial", "step"), [(2 * MIN_SCALE, 1), (4 * MIN_SCALE, 2)])
def test_gradients_that_overflow_at_any_scale_are_a_recorded_divergence(make, monkeypatch, initial, step: int) -> None:
    """All measurements are finite, but no update is taken; each halves the scale, of which the smallest is useful."""
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", initial)
    monkeypatch.setattr(LossScale, "scale", lambda _, loss: loss * math.inf)
    record = run_to_the_end(make(FP16, "train.n_critic=2"))
    assert record.status == Status.DIVERGED
    assert f"gradients overflow at step {step} at any loss scale: critic_loss_scale=" in record.error


def test_an_overflow_of_the_generators_gradient_is_no_divergence(make, tmp_path, monkeypatch) -> None:
    """Its norm is missing from the metrics of that step."""
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", MAX_SCALE)
    gradient_norm, norms = Player.gradient_norm, []

    def measured_norm(player: Player) -> Tensor:
        norm = gradient_norm(player)
        norms.append(float(norm))
        return norm

    monkeypatch.setattr(Player, "gradient_norm", measured_norm)
    record = run_to_the_end(make(FP16, "train.steps=12", "log_every=1", "model=mlp", "model.depth=1"))
    assert record.status == Status.DONE
    lines = RunDir(tmp_path / "runs" / record.run_id).read_metrics()
    assert [line.get("generator_gradient_norm", math.inf) for line in lines if "critic_loss" in line] == norms
    assert {math.isinf(norm) for norm in norms} == {True, False}


@pytest.mark.slow
def test_a_run_with_large_gradient_norms_stays_healthy_in_fp16(make) -> None:
    """k p n^5 reaches 10^4 and more where the norms of single examples are above 3."""
    overrides = ["model=resnet", "model.dim=8", "div.k=2", "div.p=6", "train.batch_size=16", "train.n_critic=4"]
    trainer = build(make(FP16, *overrides)).trainer
    metrics = run(trainer, 50)
    finite = [{n: v for n, v in step.items() if n != "generator_gradient_norm"} for step in metrics]
    assert all(math.isfinite(value) for step in finite for value in step.values())
    assert metrics[-1]["skipped_updates"] < 0.15 * 5 * 50
    assert min(step["critic_loss_scale"] for step in metrics) > MIN_SCALE
    expected = run(build(make(*overrides)).trainer, 50)
    for name in ("wasserstein", "gradient_norm"):
        mean, expected_mean = (sum(step[name] for step in steps[25:]) / 25 for steps in (metrics, expected))
        assert mean == pytest.approx(expected_mean, rel=0.25)
