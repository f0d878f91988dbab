"""The trainer's optimizers are ordinary torch optimizers: hooks and learning rate schedulers observe each step."""

import pytest
import torch

from wgan_sweep.runs.build import build
from wgan_sweep.training.optimizers import has_step_hooks
from wgan_sweep.training.player import Player

from .test_trainer import run

STEPS, N_CRITIC = 3, 2


@pytest.fixture(params=["adam", "adam_gp", "rmsprop", "sgd"])
def trainer(make, request):
    return build(make(f"optimizer={request.param}", "optimizer.lr=1e-4")).trainer


def players(trainer) -> list[tuple[Player, int]]:
    return [(trainer._critic_player, STEPS * N_CRITIC), (trainer._generator_player, STEPS)]


def test_step_hooks_observe_every_step(trainer) -> None:
    calls: dict[torch.optim.Optimizer, list[str]] = {}
    for player, _ in players(trainer):
        calls[player.optimizer] = []
        player.optimizer.register_step_pre_hook(lambda optimizer, *_: calls[optimizer].append("before"))
        player.optimizer.register_step_post_hook(lambda optimizer, *_: calls[optimizer].append("after"))
    run(trainer, STEPS)
    for player, updates in players(trainer):
        assert calls[player.optimizer] == ["before", "after"] * updates


def test_a_learning_rate_scheduler_observes_the_steps(trainer) -> None:
    """Torch warns if a scheduler's step comes before one of its optimizer; warnings are errors in these tests."""
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(player.optimizer, 0.5) for player, _ in players(trainer)]
    for _ in trainer.steps(STEPS):
        for scheduler in schedulers:
            scheduler.step()
    for player, _ in players(trainer):
        assert player.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.5**STEPS)


def test_hooks_and_schedulers_are_detected(trainer) -> None:
    critic, generator = (player.optimizer for player, _ in players(trainer))
    assert not has_step_hooks(critic)
    critic.register_step_pre_hook(lambda *_: None)
    assert has_step_hooks(critic)
    assert not has_step_hooks(generator)
    torch.optim.lr_scheduler.ConstantLR(generator)
    assert has_step_hooks(generator)
