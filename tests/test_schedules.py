"""Optimizers and learning rates of each player: their values, what they train, and that runs resume and go on."""

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from wgan_sweep.config import folders, schema
from wgan_sweep.config.documents import dump_yaml
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import group_runs, short_name
from wgan_sweep.runs.build import build, check
from wgan_sweep.runs.coordinates import coordinates
from wgan_sweep.runs.identity import run_id, science
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.sweeps import config_of_run
from wgan_sweep.training import schedules
from wgan_sweep.training.schedules import LearningRate, MakeScheduler

from .helpers import directory_of, run, same_run_in_other_folder
from .test_trainer import assert_bitwise_equal
from .test_trainer import run as run_trainer

TTUR = ["generator_optimizer.lr=1e-4", "critic_optimizer.lr=4e-4"]
LINEAR = ["schedule=linear", "schedule.steps=5"]
LR = 0.01


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)


def rates(make_scheduler: MakeScheduler, count: int) -> list[float]:
    """Return the learning rates of the first steps, divided by that of the optimizer."""
    rate, values = LearningRate(optimizer(), make_scheduler), []
    for _ in range(count):
        values += rate.values
        rate.advance()
    return [value / LR for value in values]


CLOSED_FORMS: list[tuple[MakeScheduler, dict[int, float]]] = [
    (schedules.linear(8), {0: 1, 1: 7 / 8, 4: 0.5, 8: 0, 11: 0}),
    (schedules.linear(8, end=0.2), {0: 1, 4: 0.6, 8: 0.2, 11: 0.2}),
    (schedules.linear(8, start=4), {0: 1, 4: 1, 6: 0.5, 8: 0}),
    (schedules.linear(8, warmup=2), {0: 0.5, 1: 7 / 8, 4: 0.5, 8: 0}),
    (schedules.cosine(8), {0: 1, 2: (1 + math.sqrt(0.5)) / 2, 4: 0.5, 8: 0, 11: 0}),
    (schedules.cosine(8, end=0.2), {0: 1, 4: 0.6, 8: 0.2, 11: 0.2}),
    (schedules.cosine(8, start=4, warmup=4), {0: 0.25, 3: 1, 4: 1, 6: 0.5, 8: 0}),
    (schedules.warmup(4), {0: 0.25, 1: 0.5, 3: 1, 4: 1, 11: 1}),
]


@pytest.mark.parametrize(("make_scheduler", "expected"), CLOSED_FORMS)
def test_rates_have_their_closed_form(make_scheduler: MakeScheduler, expected: dict[int, float]) -> None:
    values = rates(make_scheduler, 12)
    assert {step: values[step] for step in expected} == pytest.approx(expected, abs=1e-12)


OF_TORCH: list[tuple[MakeScheduler, Callable[[torch.optim.Optimizer], LRScheduler], int]] = [
    (schedules.linear(7, end=0.1), lambda o: LinearLR(o, 1.0, 0.1, total_iters=7), 12),
    (
        schedules.linear(9, start=4),
        lambda o: SequentialLR(o, [ConstantLR(o, 1.0), LinearLR(o, 1.0, 0.0, total_iters=5)], [4]),
        12,
    ),
    (schedules.cosine(7, end=0.1), lambda o: CosineAnnealingLR(o, 7, eta_min=0.1 * LR), 8),  # torch's rises again
    (schedules.warmup(5), lambda o: LinearLR(o, 1 / 5, 1.0, total_iters=4), 12),
]


@pytest.mark.parametrize(("ours", "of_torch", "count"), OF_TORCH)
def test_rates_are_those_of_torchs_schedulers(ours, of_torch, count: int) -> None:
    plain = optimizer()
    scheduler, expected = of_torch(plain), []
    for _ in range(count):
        expected.append(plain.param_groups[0]["lr"] / LR)
        plain.step()
        scheduler.step()
    assert rates(ours, count) == pytest.approx(expected, abs=1e-12)
    assert len({round(value, 9) for value in expected}) > 4


def test_a_scheduler_that_follows_its_last_rate_resumes_bitwise() -> None:
    """As most of torch's do; ours follow the number of steps."""
    whole = LearningRate(optimizer(), lambda o: ExponentialLR(o, 0.9))
    for _ in range(3):
        whole.advance()
    resumed = LearningRate(optimizer(), lambda o: ExponentialLR(o, 0.9))
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(5):
        assert resumed.values == whole.values
        resumed.advance()
        whole.advance()
    assert whole.values == pytest.approx([LR * 0.9**8])


# What is trained.


@pytest.mark.parametrize(
    ("option", "make_optimizer"),
    [
        ("sgd", lambda p, lr, decay: torch.optim.SGD(p, lr, weight_decay=decay)),
        # With a large eps, rounding of gradients near 0 stays small in the update.
        ("adam", lambda p, lr, decay: torch.optim.Adam(p, lr, (0.0, 0.9), 1e-3, weight_decay=decay)),
    ],
)
def test_training_equals_a_loop_with_plain_optimizers_and_schedulers(make, option: str, make_optimizer) -> None:
    """Two time scales, weight decay of the critic, and a rate that falls linearly to 0 within the run."""
    overrides = [
        f"optimizer={option}",
        *["+optimizer.eps=1e-3"] * (option == "adam"),
        "loss=wgan",
        "constraint=none",
        "model.critic_norm=none",
        *LINEAR,
    ]
    overrides += ["generator_optimizer.lr=0.001", "critic_optimizer.lr=0.004", "+critic_optimizer.weight_decay=0.1"]
    trained = build(make(*overrides)).trainer
    generator, critic = copy.deepcopy(trained.generator), copy.deepcopy(trained.critic)
    noise, batches = trained._streams["noise"].clone_state(), copy.deepcopy(trained._batches)
    generator_optimizer = make_optimizer(generator.parameters(), 0.001, 0.0)
    critic_optimizer = make_optimizer(critic.parameters(), 0.004, 0.1)
    schedulers = [LinearLR(o, 1.0, 0.0, total_iters=5) for o in (generator_optimizer, critic_optimizer)]
    used = []
    for _ in range(6):
        for _ in range(2):
            real = batches()
            with torch.no_grad():
                fake = generator(torch.randn(8, 8, generator=noise))
            critic_optimizer.zero_grad()
            (critic(fake).mean() - critic(real).mean()).backward()
            critic_optimizer.step()
        generator_optimizer.zero_grad()
        (-critic(generator(torch.randn(8, 8, generator=noise))).mean()).backward()
        generator_optimizer.step()
        used.append([o.param_groups[0]["lr"] for o in (generator_optimizer, critic_optimizer)])
        for scheduler in schedulers:
            scheduler.step()
    metrics = run_trainer(trained, 6)
    for line, (generator_lr, critic_lr) in zip(metrics, used, strict=True):
        assert line["generator_lr"] == pytest.approx(generator_lr, rel=1e-6, abs=1e-12)
        assert line["critic_lr"] == pytest.approx(critic_lr, rel=1e-6, abs=1e-12)
    for network, expected in ((trained.generator, generator), (trained.critic, critic)):
        for parameter, value in zip(network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter, value, rtol=1e-4, atol=1e-6)


def test_a_rate_of_zero_changes_nothing(make) -> None:
    trained = build(make("schedule=linear", "schedule.steps=2")).trainer
    run_trainer(trained, 2)
    before = copy.deepcopy(trained.state_dict())
    run_trainer(trained, 4)
    assert_bitwise_equal(dict(trained.generator.named_parameters()), dict_of_parameters(trained.generator, before))


def dict_of_parameters(network: nn.Module, state: dict) -> dict:
    return {name: state["generator"][name] for name, _ in network.named_parameters()}


def test_only_a_rate_that_changes_is_measured(make) -> None:
    def names(*overrides: str) -> set[str]:
        (metrics,) = run_trainer(build(make(*overrides)).trainer, 1)
        return {name for name in metrics if name.endswith("_lr")}

    assert names() == names(*TTUR) == set()
    assert names("critic_schedule=warmup", "critic_schedule.steps=3") == {"critic_lr"}
    assert names(*LINEAR) == {"critic_lr", "generator_lr"}


def test_a_critic_that_starts_again_keeps_the_schedule(make) -> None:
    """From the frozen step on, it has a new optimizer."""
    metrics = run_trainer(build(make(*LINEAR, "optimizer.lr=0.01", "train.freeze_generator_at=2")).trainer, 4)
    assert [line["critic_lr"] for line in metrics] == pytest.approx([0.01, 0.008, 0.006, 0.004])


MID_SCHEDULE = [
    LINEAR,
    ["critic_schedule=cosine", "critic_schedule.steps=5", "critic_optimizer=rmsprop"],
    ["schedule=warmup", "schedule.steps=5", *TTUR, "train.precision=fp16"],
]


@pytest.mark.integration
@pytest.mark.parametrize("overrides", MID_SCHEDULE, ids=" ".join)
def test_training_resumes_bitwise_within_a_schedule(make, overrides: list[str], tmp_path: Path) -> None:
    uninterrupted = build(make(*overrides)).trainer
    metrics = run_trainer(uninterrupted, 6)
    interrupted = build(make(*overrides)).trainer
    run_trainer(interrupted, 2)
    torch.save(interrupted.state_dict(), tmp_path / "state.pt")
    resumed = build(make(*overrides)).trainer
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run_trainer(resumed, 6) == metrics[2:]
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())


def test_a_run_that_is_trained_further_goes_on_bitwise(make, tmp_path: Path) -> None:
    """The horizon of the schedule is not the number of steps, which is not part of the run's identity."""
    overrides = ["schedule=cosine", "schedule.steps=9", *TTUR, "log_every=1"]
    run(make("train.steps=4", *overrides))
    config = make("train.steps=8", *overrides)
    assert run(config).step == 8
    uninterrupted = same_run_in_other_folder(config, make, tmp_path, "train.steps=8", *overrides)
    run(uninterrupted)
    lines, expected = ([*directory_of(one).read_metrics()] for one in (config, uninterrupted))
    assert lines == expected
    factors = [(1 + math.cos(math.pi * step / 9)) / 2 for step in range(8)]
    assert [line["critic_lr"] for line in lines] == pytest.approx([4e-4 * factor for factor in factors])
    assert [line["generator_lr"] for line in lines] == pytest.approx([1e-4 * factor for factor in factors])


def test_a_checkpoint_from_before_there_were_schedules_is_loaded(make) -> None:
    uninterrupted, interrupted, resumed = (build(make()).trainer for _ in range(3))
    run_trainer(uninterrupted, 4)
    run_trainer(interrupted, 2)
    state = copy.deepcopy(interrupted.state_dict())
    del state["learning_rates"]
    resumed.load_state_dict(state)
    run_trainer(resumed, 4)
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())


# Configs.


def nodes(config: schema.Config) -> list[torch.optim.Optimizer]:
    trainer = build(config).trainer
    return [trainer._generator_player.optimizer, trainer._critic_player.optimizer]


def test_each_player_has_the_shared_values_that_it_does_not_set(make) -> None:
    generator, critic = nodes(make("loss=wgan_gp", "critic_optimizer.lr=4e-4", "optimizer.betas=[0.5,0.9]"))
    assert [o.defaults["lr"] for o in (generator, critic)] == [1e-4, 4e-4]
    assert [o.defaults["betas"] for o in (generator, critic)] == [(0.5, 0.9)] * 2
    generator, critic = nodes(make("optimizer.lr=1", "critic_optimizer=adam_dcgan", "+generator_optimizer.eps=1e-6"))
    assert [o.defaults["lr"] for o in (generator, critic)] == [1, 2e-4]
    assert [o.defaults["betas"] for o in (generator, critic)] == [(0.0, 0.9), (0.5, 0.999)]
    assert [o.defaults["eps"] for o in (generator, critic)] == [1e-6, 1e-8]
    generator, critic = nodes(make("optimizer=sgd", "generator_optimizer=rmsprop"))
    assert [type(o) for o in (generator, critic)] == [torch.optim.RMSprop, torch.optim.SGD]


def test_an_option_of_a_users_folder_is_an_option_of_each_player(make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "_named", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "site" / "optimizer").mkdir(parents=True)
    text = "_target_: torch.optim.AdamW\n_partial_: true\nlr: 0.003\n"
    (tmp_path / "site" / "optimizer" / "decayed.yaml").write_text(text)
    folders.use(tmp_path / "site")
    config = make("critic_optimizer=decayed")
    assert config.critic_optimizer == {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.003}


SAME_TRAINING = [
    ([], [*(f"{player}_optimizer=same" for player in ("generator", "critic"))]),
    (["optimizer.lr=1e-4"], ["generator_optimizer.lr=1e-4", "critic_optimizer.lr=1e-4"]),
    ([], ["critic_optimizer=adam", "generator_optimizer=adam"]),
    ([], ["schedule=constant", "critic_schedule=constant"]),
    (LINEAR, [f"{player}_{o}" for player in ("generator", "critic") for o in LINEAR]),
    (LINEAR, [*LINEAR, "schedule.end=0.0", "critic_schedule.warmup=0"]),
]
OTHER_TRAINING = [
    [],
    ["critic_optimizer.lr=1e-4"],
    ["generator_optimizer.lr=1e-4"],
    ["optimizer.lr=1e-4"],
    ["+critic_optimizer.weight_decay=0.1"],
    ["critic_optimizer=rmsprop"],
    LINEAR,
    ["schedule=cosine", "schedule.steps=5"],
    ["schedule=linear", "schedule.steps=6"],
    [*LINEAR, "critic_schedule.end=0.5"],
    ["critic_schedule=linear", "critic_schedule.steps=5"],
    [*LINEAR, "critic_schedule=constant"],
]


@pytest.mark.integration
@pytest.mark.parametrize(("first", "second"), SAME_TRAINING)
def test_the_same_training_has_the_same_id_and_cell_however_it_is_written(make, first, second) -> None:
    configs = [make(*first), make(*second, "seed=1")]
    assert run_id(configs[0]) == run_id(make(*second))
    records = [Record(run_id(c), Status.DONE, config=asdict(c), science=science(c)) for c in configs]
    assert group_runs(records).axes == []


@pytest.mark.integration
def test_other_training_has_another_id(make) -> None:
    ids = [run_id(make(*overrides)) for overrides in OTHER_TRAINING]
    assert len(set(ids)) == len(ids)
    assert run_id(make("train.steps=9", *LINEAR)) == run_id(make(*LINEAR))
    assert run_id(make("+critic_optimizer.weight_decay=0")) == run_id(make())
    assert run_id(make("optimizer.lr=1e-4", "critic_optimizer.lr=2e-4")) == run_id(make("generator_optimizer.lr=1e-4"))


def earlier(config: schema.Config) -> dict:
    """Return a config as it was written before players had groups of their own, and before images were flipped."""
    names = [name for name in vars(config) if name.startswith(("generator_", "critic_")) or name == "schedule"]
    values = {name: value for name, value in asdict(config).items() if name not in names}
    values["choices"] = {name: value for name, value in config.choices.items() if name not in names}
    assert len(names) == 6
    del values["data"]["flip"]
    return values


def test_a_run_from_before_there_were_groups_of_players_keeps_its_id_and_cell(make, tmp_path: Path) -> None:
    config = make("optimizer.lr=3e-4")
    (tmp_path / "config.yaml").write_text(dump_yaml(earlier(config)))
    read = schema.read(tmp_path / "config.yaml")
    check(read)
    assert run_id(read) == run_id(config)
    assert set(science(config)) & {"optimizer", "schedule"} == {"optimizer"}
    old, new = (Record("x", Status.DONE, config=values) for values in (earlier(config), asdict(make("seed=1"))))
    assert group_runs([old, new]).axes == ["optimizer.lr"]
    new = Record("y", Status.DONE, config=asdict(make("seed=1", "optimizer.lr=3e-4")))
    assert [*coordinates(old).items()] == [*coordinates(new).items()]


ASKED_AGAIN = [
    TTUR,
    ["critic_optimizer=rmsprop", "critic_optimizer.lr=1e-3", *LINEAR, "generator_schedule.end=0.5"],
    ["loss=wgan_gp", "critic_schedule=warmup", "critic_schedule.steps=7", "+generator_optimizer.weight_decay=0.1"],
]


@pytest.mark.integration
@pytest.mark.parametrize("overrides", ASKED_AGAIN, ids=" ".join)
def test_a_run_can_be_asked_for_again_by_its_directory(make, overrides: list[str], tmp_path: Path) -> None:
    config = make(*overrides)
    (tmp_path / "config.yaml").write_text(schema.to_yaml(config))
    (tmp_path / "record.json").write_text("{}")
    GlobalHydra.instance().clear()
    again = config_of_run.expand([f"--config-path={tmp_path}"])
    assert make(*again, tiny=False) == config


def test_a_damaged_record_has_coordinates(make) -> None:
    config = asdict(make()) | {"critic_optimizer": "adam", "schedule": 3, "generator_schedule": None}
    assert coordinates(Record("x", config=config))["critic_optimizer.lr"] == "0.0002"


def test_the_rate_of_a_player_is_an_axis_with_a_short_name(make) -> None:
    values = ("1e-4", "2e-4", "4e-4")
    records = [
        Record(lr, Status.DONE, [f"critic_optimizer.lr={lr}"], config=asdict(make(f"critic_optimizer.lr={lr}")))
        for lr in values
    ]
    report = group_runs(records)
    assert report.axes == ["critic_optimizer.lr"]
    assert report.values(0) == ["0.0001", "0.0002", "0.0004"]
    assert short_name("critic_optimizer.lr", report.axes) == "critic lr"
    assert short_name("generator_schedule.steps", ["generator_schedule.steps", "train.steps"]) == "generator steps"
    assert short_name("optimizer.lr", ["optimizer.lr", "critic_optimizer.lr"]) == "lr"


REFUSED = [
    (LINEAR[:1], ["schedule.steps is missing", "set schedule.steps=VALUE"]),
    (["critic_schedule=cosine"], ["critic_schedule.steps is missing"]),
    ([*LINEAR, "schedule.warmup=-1"], ["schedule.warmup", "-1"]),
    ([*LINEAR, "critic_schedule.warmup=-1"], ["critic_schedule.warmup", "-1"]),
    ([*LINEAR, "schedule.steps=0"], ["schedule.steps", "0"]),
    ([*LINEAR, "schedule.end=1.5"], ["schedule.end", "1.5"]),
    ([*LINEAR, "generator_schedule.start=5"], ["generator_schedule", "start=5", "steps=5"]),
    (["critic_schedule.steps=5"], ["critic_schedule has no steps", "takes nothing"]),
    (["optimizer=sgd", "critic_optimizer.betas=[0,0.9]"], ["critic_optimizer has no betas"]),
    (["critic_optimizer.lr=-1"], ["critic_optimizer.lr=-1"]),
    (["generator_optimizer.lr=fast"], ["generator_optimizer.lr", "fast"]),
    (["++critic_optimizer._target_=null"], ["critic_optimizer._target_", "null"]),
]


@pytest.mark.parametrize(("overrides", "words"), REFUSED, ids=lambda v: " ".join(v))
def test_a_wrong_optimizer_or_schedule_is_refused_with_key_and_value(make, overrides, words: list[str]) -> None:
    with pytest.raises(InputError) as error_info:
        check(make(*overrides))
    assert all(word in str(error_info.value) for word in words), str(error_info.value)


@pytest.mark.parametrize(
    ("overrides", "replaced"),
    [
        (["optimizer.lr=1", "critic_optimizer.lr=2"], []),
        (["optimizer.lr=1", *TTUR], ["optimizer.lr"]),
        (["optimizer.betas=[0,0.5]", *TTUR], []),
        (["optimizer=sgd", *TTUR], []),
        (["optimizer=sgd", "critic_optimizer=adam", "generator_optimizer=adam"], ["optimizer"]),
        (["optimizer.lr=1", "critic_optimizer.lr=${optimizer.lr}", "generator_optimizer.lr=2"], []),
        ([*LINEAR, "critic_schedule.steps=3", "generator_schedule.steps=4"], ["schedule.steps"]),
    ],
)
def test_shared_values_that_no_player_uses_are_detected(make, overrides: list[str], replaced: list[str]) -> None:
    make()
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        composed = compose("config", overrides)
    found = schema.replaced_overrides(composed, [override.split("=")[0] for override in overrides])
    assert list(found) == replaced
