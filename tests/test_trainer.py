import copy

import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.runs.build import build
from wgan_sweep.training.gradient_rules import EXAMPLES
from wgan_sweep.training.loss_scaling import LossScale
from wgan_sweep.training.sampler import draw_z
from wgan_sweep.training.trainer import Trainer

LAZY = ["loss=rpgan", "constraint.r1.every=8", "constraint.r2.every=3"]
"""Gradient terms that are part of some critic updates only. In iterations of two updates, the latter is in every third
update, the former in every fourth iteration."""
COMBINATIONS = [
    ["loss=wgan_div"],
    ["loss=wgan_div", "sampling=mixed_pairs", "div=evans"],
    ["loss=wgan_gp", "sampling=within_source"],
    ["loss=wgan"],
    ["loss=nsgan", "constraint=spectral_norm"],
    ["loss=wgan_div", "stabiliser=instance_noise", "model=resnet"],
    ["loss=wgan_gp", "model.critic_norm=batch"],
    ["loss=wgan_div", "model=mlp", "model.depth=1", "train.ema=0"],
    ["loss=nsgan", "train.precision=bf16"],
    ["loss=wgan_div", "train.precision=fp16"],
    ["loss=lsgan", "stabiliser=label_smoothing"],
    ["loss=hinge", "stabiliser=feature_matching"],
    ["loss=wgan_gp", "stabiliser=historical_averaging", "constraint=lipschitz_penalty"],
    ["loss=gan", "stabiliser=virtual_batch_norm", "constraint=r1"],
    ["loss=wgan_div", "stabiliser=minibatch_discrimination", "sampling=perturbed_real"],
    *(["loss=wgan_gp", f"train.freeze_generator_at={step}"] for step in (1, 2, 3)),
    ["loss=wgan_div", "stabiliser=historical_averaging", "train.freeze_generator_at=4"],
    ["loss=wgan_div", "train.simultaneous=true"],
    ["loss=rpgan", "train.precision=bf16"],
    ["loss=relativistic_average", "stabiliser=instance_noise", "model=mlp"],
    ["loss=wgan_div", "constraint=r1_r2", "+constraint@constraint.sn=spectral_norm"],
    [*LAZY, "train.freeze_generator_at=3"],
    LAZY,
    [*LAZY, "schedule=linear", "schedule.steps=8", "critic_schedule=warmup", "critic_schedule.steps=4"],
    ["loss=relativistic_average", "train.simultaneous=true"],
    ["loss=hinge", "stabiliser=feature_matching", "train.simultaneous=true"],
    ["loss=wgan", "data.flip=true"],
    ["loss=wgan_gp", "stabiliser=diff_augment"],
    ["loss=hinge", "train.generator_batch_size=12"],
]


PENALTY_R1, PENALTY_R2 = (
    [f"constraint.weight={weight}", f"sampling={sampling}"] for weight, sampling in ((2, "real"), (3, "fake"))
)


@pytest.fixture
def trainer(make):
    return lambda *overrides: build(make(*overrides)).trainer


def run(trainer: Trainer, until: int) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in metrics.items()} for metrics in trainer.steps(until)]


def leaves(state, key: str = "") -> dict[str, object]:
    if isinstance(state, dict):
        return {k: v for name, value in state.items() for k, v in leaves(value, f"{key}/{name}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in leaves(value, f"{key}/{i}").items()}
    return {key: state}


def assert_bitwise_equal(actual: dict, expected: dict) -> None:
    actual, expected = leaves(actual), leaves(expected)
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        same = torch.equal(value, expected[key]) if isinstance(value, torch.Tensor) else value == expected[key]
        assert same, f"{key} differs"


@pytest.mark.integration
@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_a_resumed_training_is_bitwise_equal_to_an_uninterrupted_one(trainer, overrides: list[str], tmp_path) -> None:
    uninterrupted = trainer(*overrides)
    metrics = run(uninterrupted, 6)
    interrupted = trainer(*overrides)
    run(interrupted, 2)
    torch.save(interrupted.state_dict(), tmp_path / "state.pt")
    resumed = trainer(*overrides)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run(resumed, 6) == metrics[2:]
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())


@pytest.mark.parametrize("more", [[], ["model.critic_norm=batch"], ["stabiliser=minibatch_discrimination"]])
def test_probes_do_not_change_training(trainer, more: list[str]) -> None:
    """Nor do they change running statistics of BatchNorm in the critic, which are in the state."""
    probed, undisturbed = trainer("loss=wgan", *more), trainer("loss=wgan", *more)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for _ in probed.steps(3):
        probed.sampler("score")(5)
        probed.gradient_norm()
        probed.generator_gradient_norm(torch.zeros(4, 1, 32, 32))
        probed.critic_loss(torch.zeros(4, 1, 32, 32), torch.ones(4, 1, 32, 32))
        points = torch.zeros(4, 1, 32, 32, requires_grad=True)
        torch.autograd.grad(probed.critic_outputs(points).sum(), points)
        assert probed.generator.training
    run(undisturbed, 3)
    assert_bitwise_equal(probed.state_dict(), undisturbed.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n_critic", [1, 3])
def test_the_critic_takes_n_critic_steps_per_step_of_the_generator(trainer, n_critic: int) -> None:
    trained = trainer(f"train.n_critic={n_critic}")
    run(trained, 4)
    assert {int(s["step"]) for s in trained.state_dict()["critic_optimizer"]["state"].values()} == {4 * n_critic}
    assert {int(s["step"]) for s in trained.state_dict()["generator_optimizer"]["state"].values()} == {4}
    assert trained.images_seen == 4 * n_critic * 8
    assert trained.state_dict()["batches"]["drawn"] == 4 * n_critic


def test_training_is_determined_by_the_seed(trainer) -> None:
    first, repeated, other_seed = (run(trainer(f"seed={seed}"), 2) for seed in (0, 0, 1))
    assert first == repeated
    assert first != other_seed


def test_the_global_random_number_generator_is_not_used(trainer) -> None:
    torch.manual_seed(1)
    first = run(trainer(), 2)
    torch.manual_seed(2)
    assert run(trainer(), 2) == first


def test_the_initial_weights_are_the_same_for_every_loss(trainer) -> None:
    div, gp = trainer("loss=wgan_div"), trainer("loss=wgan_gp")
    assert_bitwise_equal(div.critic.state_dict(), gp.critic.state_dict())
    assert_bitwise_equal(div.generator.state_dict(), gp.generator.state_dict())


def test_the_moving_average_has_the_configured_decay(trainer) -> None:
    trained = trainer("train.ema=0.15")  # above (1 + step) / (10 + step) at step 1 only: 2/11, 3/12 is larger
    expected = [p.clone() for p in trained.averaged.parameters()]
    for step, _ in enumerate(trained.steps(4), start=1):
        decay = min(0.15, (1 + step) / (10 + step))
        expected = [
            decay * e + (1 - decay) * p.detach() for e, p in zip(expected, trained.generator.parameters(), strict=True)
        ]
    for average, value in zip(trained.averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(average, value, rtol=1e-5, atol=1e-7)
    assert_bitwise_equal(dict(trained.averaged.named_buffers()), dict(trained.generator.named_buffers()))


def test_an_ema_of_zero_copies_the_generator(trainer) -> None:
    trained = trainer("train.ema=0")
    run(trained, 3)
    assert_bitwise_equal(trained.averaged.state_dict(), trained.generator.state_dict())


def test_weights_are_within_the_clipping_bound_after_every_step(trainer) -> None:
    trained = trainer("loss=wgan", "constraint.c=0.02")
    for _ in trained.steps(3):
        assert max(float(p.detach().abs().max()) for p in trained.critic.parameters()) <= 0.02


def test_the_metrics_agree_with_their_definitions(trainer) -> None:
    """Recompute them from the networks before the step, with autograd's own double backward."""
    trained = trainer("train.n_critic=1", "div.k=3", "div.p=4", "sampling=real")
    run(trained, 2)
    critic, generator = copy.deepcopy(trained.critic), copy.deepcopy(trained.generator)
    noise = trained._streams["noise"].clone_state()
    real = copy.deepcopy(trained._batches)()
    (metrics,) = run(trained, 3)
    with torch.no_grad():
        fake = generator(torch.randn(8, 8, generator=noise))
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real)
    norms = gradient.flatten(1).norm(dim=1)
    gap = float((critic(real).mean() - critic(fake).mean()).detach())
    assert metrics["wasserstein"] == pytest.approx(gap, rel=1e-4)
    assert metrics["gradient_norm"] == pytest.approx(float(norms.mean()), rel=1e-4)
    assert metrics["gradient_term"] == pytest.approx(3 * float((norms**4).mean()), rel=1e-4)
    assert metrics["critic_loss"] == pytest.approx(metrics["gradient_term"] - gap, rel=1e-4)
    with torch.no_grad():
        outputs = trained.critic(generator(torch.randn(8, 8, generator=noise)))
    assert metrics["generator_loss"] == pytest.approx(-float(outputs.mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("sampling", "passes"), [("real_fake", [8, 16]), ("mixture", [8, 8]), ("fake", [8, 8]), ("real", [8, 8])]
)
def test_a_critic_update_is_one_adam_step_on_the_double_backward_objective(
    trainer, sampling: str, passes: list[int]
) -> None:
    """If r(x) is one of the batches, one forward pass gives its critic outputs and the gradient term."""
    trained = trainer("loss=wgan_gp", "train.n_critic=1", f"sampling={sampling}", "optimizer=adam", "optimizer.lr=2e-4")
    critic, generator = copy.deepcopy(trained.critic), copy.deepcopy(trained.generator)
    optimizer = torch.optim.Adam(critic.parameters(), 2e-4, (0.0, 0.9))
    noise = trained._streams["noise"].clone_state()
    real = copy.deepcopy(trained._batches)()
    with torch.no_grad():
        fake = generator(torch.randn(8, 8, generator=noise))
    (term,) = trained._objective.terms
    points = term.sampling(real, fake, trained._streams["points"].clone_state()).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    (critic(fake).mean() - critic(real).mean() + 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()).backward()
    sizes: list[int] = []
    trained.critic.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    run(trained, 1)
    # Passes of few examples belong to the choice of the rules for gradient terms.
    assert [size for size in sizes if size > EXAMPLES] == [*passes, 8]  # the last one for the generator's update
    for parameter, expected in zip(trained._critic_player.parameters, critic.parameters(), strict=True):
        # The trainer's critic still holds the gradient of its last update.
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-6)
    optimizer.step()
    for parameter, expected in zip(trained.critic.parameters(), critic.parameters(), strict=True):
        difference = (parameter - expected).abs()
        # Adam's first step is the sign of the gradient, which is arbitrary where the gradient is tiny.
        assert float((difference > 1e-6).float().mean()) < 0.01


def test_the_generators_update_does_not_change_the_critics_gradient(trainer) -> None:
    trained = trainer()
    run(trained, 1)
    before = [p.grad.clone() for p in trained.critic.parameters()]
    trained._compute_generator_gradient()
    for parameter, old in zip(trained.critic.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, old)
        assert parameter.requires_grad


@pytest.mark.parametrize(("overrides", "size"), [([], 8), (["train.generator_batch_size=12"], 12)], ids=str)
def test_the_generators_gradient_is_that_of_its_own_number_of_examples(trainer, overrides, size: int) -> None:
    trained = trainer("loss=wgan", "constraint=none", *overrides)
    generator, critic = copy.deepcopy(trained.generator), copy.deepcopy(trained.critic)
    noise = trained._streams["noise"].clone_state()
    sizes: list[int] = []
    trained.critic.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    trained._compute_generator_gradient()
    assert sizes == [size]
    loss = -critic(generator(torch.randn(size, 8, generator=noise))).mean()
    gradient = torch.autograd.grad(loss, list(generator.parameters()))
    for parameter, expected in zip(trained._generator_player.parameters, gradient, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)
    run(trained, 1)
    assert set(sizes) == {size, 16}  # the critic's updates see 8 real and 8 generated examples
    assert trained.images_seen == 2 * 8


def test_samples_are_determined_by_their_purpose(trainer) -> None:
    trained = trainer()
    run(trained, 1)
    sample = trained.sampler("score")
    images = torch.cat([sample(3), sample(2)])
    assert images.shape == (5, 1, 32, 32)
    assert images.dtype == torch.uint8
    # From the same z; convolutions may round differently in a batch of another size.
    assert int((trained.sampler("score")(5).int() - images.int()).abs().max()) <= 1
    assert torch.equal(torch.cat([(sample_again := trained.sampler("score"))(3), sample_again(2)]), images)
    assert not torch.equal(trained.sampler("picture")(5), images)


def test_instance_noise_on_the_critics_input_decreases_to_zero(trainer) -> None:
    inputs: list[torch.Tensor] = []
    trained = trainer("stabiliser=instance_noise", "stabiliser.steps=2", "stabiliser.std=0.5", "loss=wgan")
    trained.critic.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach().clone()))
    largest = []
    for _ in trained.steps(3):
        largest.append(max(float(batch.abs().max()) for batch in inputs))
        inputs.clear()
    assert largest[0] > 1.5
    assert 1.1 < largest[1] < largest[0]
    assert largest[2] <= 1
    assert isinstance(trained.critic, nn.Module)


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("loss", ["wgan_div", "nsgan"])
def test_the_precision_applies_to_forward_and_backward_passes(
    trainer, precision: str, allowed: bool, loss: str
) -> None:
    trained = trainer(f"train.precision={precision}", f"loss={loss}", "train.n_critic=1")
    run(trained, 1)  # the first step also chooses the rules for gradient terms, in float32
    settings: dict[str, set[bool]] = {"forward": set(), "backward": set()}

    def note(direction: str) -> None:
        settings[direction].add(torch.backends.cudnn.allow_tf32)

    for network in (trained.generator, trained.critic):
        network.register_forward_hook(lambda *_: note("forward"))
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: note("backward"))
    run(trained, 2)
    assert settings == {"forward": {allowed}, "backward": {allowed}}


def test_the_loss_scale_does_not_change_float32_gradients(trainer) -> None:
    """A power of two does not round."""
    unscaled, scaled = (trainer("train.n_critic=1") for _ in range(2))
    for player in scaled._players:
        player.loss_scale = LossScale(torch.device("cpu"))
    for expected, metrics in zip(run(unscaled, 3), run(scaled, 3), strict=True):
        assert metrics["skipped_updates"] == 0
        assert {name: metrics[name] for name in expected} == expected
    assert_bitwise_equal(unscaled.state_dict(), scaled.state_dict() | {"loss_scales": []})


@pytest.mark.parametrize("stabiliser", ["none", "historical_averaging", "instance_noise"])
def test_a_frozen_generator_faces_a_critic_that_starts_again(trainer, stabiliser: str) -> None:
    overrides = ["train.ema=0", f"stabiliser={stabiliser}"]
    free, frozen = trainer(*overrides), trainer(*overrides, "train.freeze_generator_at=3")
    initial = copy.deepcopy(frozen.critic.state_dict())
    assert run(frozen, 3) == run(free, 3)
    weights = dict(copy.deepcopy(frozen.generator).named_parameters())
    trained = copy.deepcopy(frozen.critic.state_dict())
    frozen._restart_critic()
    assert_bitwise_equal(frozen.critic.state_dict(), initial)
    assert any(not torch.equal(value, trained[name]) for name, value in initial.items())
    metrics = run(frozen, 6)
    assert_bitwise_equal(dict(frozen.generator.named_parameters()), weights)
    assert_bitwise_equal(dict(frozen.averaged.named_parameters()), weights)
    critic_steps = {int(state["step"]) for state in frozen.state_dict()["critic_optimizer"]["state"].values()}
    assert critic_steps == {3 * frozen._settings.n_critic}
    assert len({line["critic_loss"] for line in metrics}) == 3  # the critic is still trained


def test_a_generator_whose_loss_compares_outputs_has_a_real_batch_of_its_own(trainer) -> None:
    """Its loss is computed from the networks before its update. Other losses draw and pass no real examples for it."""
    trained = trainer("loss=rpgan", "train.n_critic=2", "train.simultaneous=true")
    run(trained, 1)
    critic, generator = copy.deepcopy(trained.critic), copy.deepcopy(trained.generator)
    noise, batches = trained._streams["noise"].clone_state(), copy.deepcopy(trained._batches)
    real = [batches() for _ in range(3)][-1]
    sizes: list[int] = []
    trained.critic.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    (metrics,) = run(trained, 2)
    with torch.no_grad():
        fake = generator(torch.randn(8, 8, generator=noise))
        expected = nn.functional.softplus(critic(real) - critic(fake)).mean()
    assert metrics["generator_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert sizes == [8] * 6  # fake and real examples of the generator, then of each critic update
    assert trained.state_dict()["batches"]["drawn"] == 2 * 3
    assert trained.images_seen == 2 * 2 * 8  # by the critic


def test_feature_matching_acts_from_the_first_step_on(trainer) -> None:
    trained = trainer("loss=hinge", "stabiliser=feature_matching", "train.simultaneous=true")
    body, generator = copy.deepcopy(trained.critic.body), copy.deepcopy(trained.generator)
    noise, batches = trained._streams["noise"].clone_state(), copy.deepcopy(trained._batches)
    real = [batches() for _ in range(3)][-1]
    (metrics,) = run(trained, 1)
    with torch.no_grad():
        fake = generator(torch.randn(8, 8, generator=noise))
        expected = (body(real).flatten(1).mean(0) - body(fake).flatten(1).mean(0)).square().sum()
    assert metrics["generator_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_a_generator_loss_of_the_user_with_fake_outputs_alone_is_trained(trainer) -> None:
    """As in the guide: functions in place, nothing but the two players' losses."""
    trained = trainer("train.n_critic=1")
    trained._loss = Loss(lambda real, fake: fake.mean() - real.mean(), lambda fake: 2.5 - 0 * fake.mean())
    (metrics,) = run(trained, 1)
    assert metrics["generator_loss"] == 2.5


def test_the_metrics_of_several_terms_are_those_of_runs_with_one_of_them(trainer) -> None:
    def first_metrics(*overrides: str) -> dict[str, float]:
        (metrics,) = run(trainer("loss=rpgan", "train.n_critic=1", *overrides), 1)
        return metrics

    both = first_metrics("constraint.r1.weight=2", "constraint.r2.weight=3")
    penalty = ["constraint=gradient_penalty", "constraint.centre=0"]
    r1, r2 = (first_metrics(*penalty, *o) for o in (PENALTY_R1, PENALTY_R2))
    assert set(both) - set(r1) == {f"gradient_{what}_{name}" for what in ("term", "norm") for name in ("r1", "r2")}
    for name, single in (("r1", r1), ("r2", r2)):
        for what in ("term", "norm"):
            assert both[f"gradient_{what}_{name}"] == pytest.approx(single[f"gradient_{what}"], rel=1e-6)
    assert both["gradient_term"] == pytest.approx(r1["gradient_term"] + r2["gradient_term"], rel=1e-6)
    assert both["gradient_norm"] == pytest.approx((r1["gradient_norm"] + r2["gradient_norm"]) / 2, rel=1e-6)
    assert both["critic_loss"] - both["gradient_term"] == pytest.approx(r1["critic_loss"] - r1["gradient_term"], 1e-6)


def test_the_terms_of_a_loss_and_of_its_constraint_have_different_names(trainer) -> None:
    (metrics,) = run(trainer("loss=wgan_div", "constraint=r1", "train.n_critic=1"), 1)
    assert {name for name in metrics if name.startswith("gradient_term")} == {
        "gradient_term",
        "gradient_term_loss",
        "gradient_term_constraint",
    }
    total = metrics["gradient_term_loss"] + metrics["gradient_term_constraint"]
    assert metrics["gradient_term"] == pytest.approx(total, rel=1e-6)


def test_a_lazy_term_is_part_of_every_nth_update_of_the_critic(trainer) -> None:
    """Its metrics keep their latest values in between; a critic that starts again begins with the term."""
    trained = trainer(*LAZY, "train.freeze_generator_at=5")
    evaluated: list[tuple[int, ...]] = []
    prepare = trained._objective.prepare
    trained._objective.prepare = lambda *arguments: evaluated.append(arguments[3]) or prepare(*arguments)
    metrics = run(trained, 8)
    r1, r2 = 0, 1
    in_first = [tuple(t for t, n in ((r1, 8), (r2, 3)) if update % n == 0) for update in range(10)]
    assert evaluated == in_first + in_first[:6]
    values = [line["gradient_term_r1"] for line in metrics]
    assert len(set(values[:4])) == len(set(values[5:])) == 1
    assert len(set(values)) == 3
    assert [len({line["gradient_term_r2"] for line in metrics[a:b]}) for a, b in ((0, 5), (0, 1), (1, 2))] == [4, 1, 1]
    assert len({line["critic_loss"] for line in metrics}) == 8


GAME = ["data=point_mass", "loss=wgan", "constraint=none", "optimizer=sgd", "optimizer.lr=0.1", "model.depth=0"]
GAME += ["train.n_critic=1", "train.ema=0", "scorer=none", "device=cpu"]


def test_steps_on_the_game_xy_are_the_known_linear_maps(make) -> None:
    """Simultaneous steps spiral outward and alternating ones preserve area (Mescheder et al. 2018)."""
    for simultaneous, matrix in ((True, [[1, 0.1], [-0.1, 1]]), (False, [[1 - 0.01, 0.1], [-0.1, 1]])):
        trained = build(make(*GAME, f"train.simultaneous={simultaneous}", tiny=False)).trainer
        state = torch.tensor([trained.generator.place.item(), trained.critic.head.linear.weight.item()])
        for _ in trained.steps(20):
            state = torch.tensor(matrix) @ state
            weights = [trained.generator.place.item(), trained.critic.head.linear.weight.item()]
            assert weights == pytest.approx(state.tolist(), abs=1e-5)
        assert float(torch.linalg.det(torch.tensor(matrix))) == pytest.approx(1.01 if simultaneous else 1.0)


def test_historical_averaging_pulls_both_players_towards_the_mean_of_their_states(make) -> None:
    """On the game xy: the gradient of w |s - m|^2 is 2 w (s - m), where m is the mean of all states so far."""
    weight = 0.7
    averaging = ["stabiliser=historical_averaging", f"stabiliser.weight={weight}", "train.simultaneous=true"]
    trained = build(make(*GAME, *averaging, tiny=False)).trainer
    states = [torch.tensor([trained.generator.place.item(), trained.critic.head.linear.weight.item()])]
    for _ in trained.steps(8):
        pull = 2 * weight * (states[-1] - torch.stack(states).mean(0))
        states.append(torch.tensor([[1, 0.1], [-0.1, 1]]) @ states[-1] - 0.1 * pull)
        weights = [trained.generator.place.item(), trained.critic.head.linear.weight.item()]
        assert weights == pytest.approx(states[-1].tolist(), abs=1e-5)


def test_a_simultaneous_generator_uses_the_critic_before_its_updates(trainer) -> None:
    trained = trainer("train.simultaneous=true", "train.n_critic=3", "train.ema=0")
    run(trained, 1)
    critic, generator = copy.deepcopy(trained.critic), copy.deepcopy(trained.generator)
    noise = trained._streams["noise"].clone_state()
    (metrics,) = run(trained, 2)
    with torch.no_grad():
        expected = -critic(generator(torch.randn(8, 8, generator=noise))).mean()
    assert metrics["generator_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    "overrides", [[], ["stabiliser=historical_averaging"], ["train.freeze_generator_at=1"]], ids=str
)
def test_the_generators_gradient_norm_is_that_of_its_loss(trainer, overrides: list[str]) -> None:
    trained = trainer("train.simultaneous=true", *overrides)
    run(trained, 1)
    critic, generator = copy.deepcopy(trained.critic), copy.deepcopy(trained.generator)
    if trained._initial_critic is not None:
        critic.load_state_dict(trained._initial_critic)
    noise = trained._streams["noise"].clone_state()
    (metrics,) = run(trained, 2)
    loss = -critic(generator(torch.randn(8, 8, generator=noise))).mean()
    gradient = torch.autograd.grad(loss, list(generator.parameters()))
    expected = float(torch.cat([part.flatten() for part in gradient]).norm())
    assert metrics["generator_gradient_norm"] == pytest.approx(expected, rel=1e-4)


def test_the_critics_loss_on_the_last_batch_is_the_metric_of_its_update(trainer) -> None:
    trained = trainer("train.n_critic=1", "sampling=real", "optimizer.lr=1e-12")
    (metrics,) = run(trained, 1)
    assert trained._last_batch is not None
    assert trained.critic_loss(*trained._last_batch) == pytest.approx(metrics["critic_loss"], rel=1e-4)


@pytest.mark.parametrize("overrides", [["loss=nsgan"], ["loss=hinge", "stabiliser=feature_matching"]])
def test_the_generators_gradient_norm_agrees_with_finite_differences(trainer, overrides: list[str]) -> None:
    trained = trainer(*overrides, "model=mlp", "model.dim=8", "model.depth=1")
    run(trained, 1)
    trained.generator.double()
    trained.critic.double()
    real = trained._last_batch[0].double()
    before = copy.deepcopy(trained.generator.state_dict())
    norm = float(trained.generator_gradient_norm(real))
    assert_bitwise_equal(trained.generator.state_dict(), before)
    z = draw_z(len(real), 8, trained.generator, rng.generator(0, "probe z", trained.step))
    weights = torch.cat([p.detach().flatten() for p in trained.generator.parameters()])

    def loss(vector: torch.Tensor) -> float:
        nn.utils.vector_to_parameters(vector, trained.generator.parameters())
        return float(trained._generator_loss(real, trained.generator(z)).detach())

    direction = torch.autograd.grad(
        trained._generator_loss(real, trained.generator(z)), list(trained.generator.parameters())
    )
    direction = torch.cat([g.flatten() for g in direction])
    direction /= direction.norm()
    slope = (loss(weights + 1e-3 * direction) - loss(weights - 1e-3 * direction)) / 2e-3
    assert norm == pytest.approx(slope, rel=1e-3)  # along the gradient, the slope is its norm
    random = torch.randn(len(weights), generator=rng.generator(5), dtype=torch.float64)
    random /= random.norm()
    assert abs((loss(weights + 1e-3 * random) - loss(weights - 1e-3 * random)) / 2e-3) < norm


def test_a_probe_of_the_last_batch_needs_a_step(trainer) -> None:
    with pytest.raises(RuntimeError, match="take a step first"):
        trainer().gradient_norm()
