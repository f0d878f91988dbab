import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.runs.build import build
from wgan_sweep.training.trainer import Trainer

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
    ["loss=hinge", "stabiliser=feature_matching", "train.simultaneous=true"],
]


@pytest.fixture
def trainer(make):
    return lambda *overrides: build(make(*overrides)).trainer


def run(trainer: Trainer, until: int) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in values.items()} for values in trainer.steps(until)]


def leaves(state, key: str = "") -> dict[str, object]:
    if isinstance(state, dict):
        return {k: v for name, value in state.items() for k, v in leaves(value, f"{key}/{name}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in leaves(value, f"{key}/{i}").items()}
    return {key: state}


def assert_bitwise_equal(one: dict, other: dict) -> None:
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, f"{key} differs"


@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_resuming_is_bitwise_the_same(trainer, overrides: list[str], tmp_path) -> None:
    through = trainer(*overrides)
    values = run(through, 6)
    before = trainer(*overrides)
    run(before, 2)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after = trainer(*overrides)
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run(after, 6) == values[2:]
    assert_bitwise_equal(after.state_dict(), through.state_dict())


def test_looking_changes_nothing(trainer) -> None:
    looked, left = trainer("loss=wgan"), trainer("loss=wgan")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for _ in looked.steps(3):
        looked.sampler("score")(5)
        looked.gradient_norm()
        looked.generator_gradient_norm()
        looked.critic_loss(torch.zeros(4, 1, 32, 32), torch.ones(4, 1, 32, 32))
        assert looked.generator.training
    run(left, 3)
    assert_bitwise_equal(looked.state_dict(), left.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n_critic", [1, 3])
def test_the_critic_takes_n_critic_steps_per_step_of_the_generator(trainer, n_critic: int) -> None:
    made = trainer(f"train.n_critic={n_critic}")
    run(made, 4)
    assert {int(s["step"]) for s in made.state_dict()["critic_optimizer"]["state"].values()} == {4 * n_critic}
    assert {int(s["step"]) for s in made.state_dict()["generator_optimizer"]["state"].values()} == {4}
    assert made.images_seen == 4 * n_critic * 8
    assert made.state_dict()["batches"]["drawn"] == 4 * n_critic


def test_seeds_differ_and_repeat(trainer) -> None:
    zero, again, one = (run(trainer(f"seed={seed}"), 2) for seed in (0, 0, 1))
    assert zero == again
    assert zero != one


def test_the_global_generator_plays_no_part(trainer) -> None:
    torch.manual_seed(1)
    first = run(trainer(), 2)
    torch.manual_seed(2)
    assert run(trainer(), 2) == first


def test_generator_and_critic_start_apart_but_the_same_for_every_loss(trainer) -> None:
    div, gp = trainer("loss=wgan_div"), trainer("loss=wgan_gp")
    assert_bitwise_equal(div.critic.state_dict(), gp.critic.state_dict())
    assert_bitwise_equal(div.generator.state_dict(), gp.generator.state_dict())


def test_the_average_follows_the_weights_with_its_decay(trainer) -> None:
    made = trainer("train.ema=0.15")  # above (1 + step) / (10 + step) at step 1 only: 2/11, 3/12 is larger
    wanted = [p.clone() for p in made.averaged.parameters()]
    for step, _ in enumerate(made.steps(4), start=1):
        decay = min(0.15, (1 + step) / (10 + step))
        wanted = [
            decay * w + (1 - decay) * p.detach() for w, p in zip(wanted, made.generator.parameters(), strict=True)
        ]
    for found, target in zip(made.averaged.parameters(), wanted, strict=True):
        torch.testing.assert_close(found, target, rtol=1e-5, atol=1e-7)
    assert_bitwise_equal(dict(made.averaged.named_buffers()), dict(made.generator.named_buffers()))


def test_an_ema_of_zero_is_the_generator_itself(trainer) -> None:
    made = trainer("train.ema=0")
    run(made, 3)
    assert_bitwise_equal(made.averaged.state_dict(), made.generator.state_dict())


def test_clipping_holds_after_every_step(trainer) -> None:
    made = trainer("loss=wgan", "constraint.c=0.02")
    for _ in made.steps(3):
        assert max(float(p.detach().abs().max()) for p in made.critic.parameters()) <= 0.02


def test_the_measurements_are_what_they_say(trainer) -> None:
    """Recomputed from the networks of before the step, by autograd's own double backward."""
    made = trainer("train.n_critic=1", "div.k=3", "div.p=4", "sampling=real")
    run(made, 2)
    critic, generator = copy.deepcopy(made.critic), copy.deepcopy(made.generator)
    noise = made._streams["noise"].clone_state()
    real = copy.deepcopy(made._batches)()
    (values,) = run(made, 3)
    with torch.no_grad():
        fake = generator(torch.randn(8, 8, generator=noise))
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real)
    norms = gradient.flatten(1).norm(dim=1)
    gap = float((critic(real).mean() - critic(fake).mean()).detach())
    assert values["wasserstein"] == pytest.approx(gap, rel=1e-4)
    assert values["gradient_norm"] == pytest.approx(float(norms.mean()), rel=1e-4)
    assert values["gradient_term"] == pytest.approx(3 * float((norms**4).mean()), rel=1e-4)
    assert values["critic_loss"] == pytest.approx(values["gradient_term"] - gap, rel=1e-4)
    with torch.no_grad():
        scores = made.critic(generator(torch.randn(8, 8, generator=noise)))
    assert values["generator_loss"] == pytest.approx(-float(scores.mean()), rel=1e-4)


@pytest.mark.parametrize(("sampling", "passes"), [("real_fake", 3), ("mixture", 2), ("fake", 2), ("real", 2)])
def test_a_critic_step_is_one_step_of_adam_on_the_double_backward_objective(
    trainer, sampling: str, passes: int
) -> None:
    """And where r(x) is a batch itself, its scores and the gradient term come from one pass."""
    made = trainer("loss=wgan_gp", "train.n_critic=1", f"sampling={sampling}", "optimizer=adam", "optimizer.lr=2e-4")
    critic, generator = copy.deepcopy(made.critic), copy.deepcopy(made.generator)
    optimizer = torch.optim.Adam(critic.parameters(), 2e-4, (0.0, 0.9))
    noise = made._streams["noise"].clone_state()
    real = copy.deepcopy(made._batches)()
    with torch.no_grad():
        fake = generator(torch.randn(8, 8, generator=noise))
    (term,) = made._objective.terms
    points = term.sampling(real, fake, made._streams["points"].clone_state()).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    (critic(fake).mean() - critic(real).mean() + 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()).backward()
    seen = []
    made.critic.register_forward_hook(lambda *_: seen.append(1))
    run(made, 1)
    assert len(seen) == passes + 1  # and one in the generator's step
    for found, target in zip(made._critic_optimizer.param_groups[0]["params"], critic.parameters(), strict=True):
        # the gradient of that very step is still on the trainer's critic
        torch.testing.assert_close(found.grad, target.grad, rtol=1e-3, atol=1e-6)
    optimizer.step()
    for found, target in zip(made.critic.parameters(), critic.parameters(), strict=True):
        moved = (found - target).abs()
        assert float((moved > 1e-6).float().mean()) < 0.01  # Adam's first step is the sign where a gradient is tiny


def test_the_generators_step_leaves_no_gradient_on_the_critic(trainer) -> None:
    made = trainer()
    run(made, 1)
    before = [p.grad.clone() for p in made.critic.parameters()]
    made._compute_generator_gradient()
    for parameter, old in zip(made.critic.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, old)
        assert parameter.requires_grad


def test_samples_repeat_and_follow_their_purpose(trainer) -> None:
    made = trainer()
    run(made, 1)
    first = made.sampler("score")
    both = torch.cat([first(3), first(2)])
    assert both.shape == (5, 1, 32, 32)
    assert both.dtype == torch.uint8
    # the same z; convolutions may round differently in a batch of another size
    assert int((made.sampler("score")(5).int() - both.int()).abs().max()) <= 1
    assert torch.equal(torch.cat([(again := made.sampler("score"))(3), again(2)]), both)
    assert not torch.equal(made.sampler("picture")(5), both)


def test_instance_noise_is_seen_by_the_critic_and_fades(trainer) -> None:
    seen: list[torch.Tensor] = []
    made = trainer("stabiliser=instance_noise", "stabiliser.steps=2", "stabiliser.std=0.5", "loss=wgan")
    made.critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    outside = []
    for _ in made.steps(3):
        outside.append(max(float(batch.abs().max()) for batch in seen))
        seen.clear()
    assert outside[0] > 1.5
    assert 1.1 < outside[1] < outside[0]
    assert outside[2] <= 1
    assert isinstance(made.critic, nn.Module)


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("loss", ["wgan_div", "nsgan"])
def test_a_precision_holds_backward_as_forward(trainer, precision: str, allowed: bool, loss: str) -> None:
    made = trainer(f"train.precision={precision}", f"loss={loss}", "train.n_critic=1")
    seen: dict[str, set[bool]] = {"forward": set(), "backward": set()}

    def note(when: str) -> None:
        seen[when].add(torch.backends.cudnn.allow_tf32)

    for network in (made.generator, made.critic):
        network.register_forward_hook(lambda *_: note("forward"))
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: note("backward"))
    run(made, 1)
    assert seen == {"forward": {allowed}, "backward": {allowed}}


def test_the_scale_of_half_precision_leaves_gradients_as_they_are(trainer) -> None:
    """A power of two rounds nothing in float32."""
    one, other = (trainer("train.n_critic=1") for _ in range(2))
    other._precision = replace(other._precision, scale=1024.0)
    assert run(one, 3) == run(other, 3)
    assert_bitwise_equal(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("stabiliser", ["none", "historical_averaging", "instance_noise"])
def test_from_its_step_on_the_generator_stands_still_against_a_fresh_critic(trainer, stabiliser: str) -> None:
    overrides = ["train.ema=0", f"stabiliser={stabiliser}"]
    free, frozen = trainer(*overrides), trainer(*overrides, "train.freeze_generator_at=3")
    first = copy.deepcopy(frozen.critic.state_dict())
    assert run(frozen, 3) == run(free, 3)
    weights = dict(copy.deepcopy(frozen.generator).named_parameters())
    trained = copy.deepcopy(frozen.critic.state_dict())
    frozen._restart_critic()
    assert_bitwise_equal(frozen.critic.state_dict(), first)
    assert any(not torch.equal(value, trained[name]) for name, value in first.items())
    values = run(frozen, 6)
    assert_bitwise_equal(dict(frozen.generator.named_parameters()), weights)
    assert_bitwise_equal(dict(frozen.averaged.named_parameters()), weights)
    assert {int(s["step"]) for s in frozen.state_dict()["critic_optimizer"]["state"].values()} == {3 * frozen._n_critic}
    assert len({line["critic_loss"] for line in values}) == 3  # the critic goes on learning


def test_simultaneous_steps_are_rotations_that_grow_and_alternating_ones_keep_the_area(make) -> None:
    """The game x y (Mescheder et al. 2018): one step is a matrix, written down here."""
    game = ["data=point_mass", "loss=wgan", "constraint=none", "optimizer=sgd", "optimizer.lr=0.1", "model.depth=0"]
    game += ["train.n_critic=1", "train.ema=0", "scorer=none", "device=cpu"]
    for both, matrix in ((True, [[1, 0.1], [-0.1, 1]]), (False, [[1 - 0.01, 0.1], [-0.1, 1]])):
        made = build(make(*game, f"train.simultaneous={both}", tiny=False)).trainer
        state = torch.tensor([made.generator.place.item(), made.critic.head.linear.weight.item()])
        for _ in made.steps(20):
            state = torch.tensor(matrix) @ state
            found = [made.generator.place.item(), made.critic.head.linear.weight.item()]
            assert found == pytest.approx(state.tolist(), abs=1e-5)
        assert float(torch.linalg.det(torch.tensor(matrix))) == pytest.approx(1.01 if both else 1.0)


def test_with_several_critic_steps_a_simultaneous_generator_meets_the_first_critic(trainer) -> None:
    made = trainer("train.simultaneous=true", "train.n_critic=3", "train.ema=0")
    run(made, 1)
    critic, generator = copy.deepcopy(made.critic), copy.deepcopy(made.generator)
    noise = made._streams["noise"].clone_state()
    (values,) = run(made, 2)
    with torch.no_grad():
        wanted = -critic(generator(torch.randn(8, 8, generator=noise))).mean()
    assert values["generator_loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_the_critics_loss_is_what_a_step_minimises(trainer) -> None:
    made = trainer("train.n_critic=1", "sampling=real", "optimizer.lr=1e-12")
    (values,) = run(made, 1)
    assert made._last is not None
    assert made.critic_loss(*made._last) == pytest.approx(values["critic_loss"], rel=1e-4)


@pytest.mark.parametrize("overrides", [["loss=nsgan"], ["loss=hinge", "stabiliser=feature_matching"]])
def test_the_generators_gradient_is_that_of_its_loss_by_finite_differences(trainer, overrides: list[str]) -> None:
    made = trainer(*overrides, "model=mlp", "model.dim=8", "model.depth=1")
    run(made, 1)
    made.generator.double()
    made.critic.double()
    real = made._last[0].double()
    before = copy.deepcopy(made.generator.state_dict())
    norm = float(made.generator_gradient_norm(real))
    assert_bitwise_equal(made.generator.state_dict(), before)
    z = made._z(len(real), rng.generator(0, "probe z", made.step))
    weights = torch.cat([p.detach().flatten() for p in made.generator.parameters()])

    def loss(at: torch.Tensor) -> float:
        nn.utils.vector_to_parameters(at, made.generator.parameters())
        return float(made._generator_loss(real, made.generator(z)).detach())

    direction = torch.autograd.grad(made._generator_loss(real, made.generator(z)), list(made.generator.parameters()))
    direction = torch.cat([g.flatten() for g in direction])
    direction /= direction.norm()
    slope = (loss(weights + 1e-3 * direction) - loss(weights - 1e-3 * direction)) / 2e-3
    assert norm == pytest.approx(slope, rel=1e-3)  # along the steepest way, the slope is the norm
    across = torch.randn(len(weights), generator=rng.generator(5), dtype=torch.float64)
    across /= across.norm()
    assert abs((loss(weights + 1e-3 * across) - loss(weights - 1e-3 * across)) / 2e-3) < norm


def test_a_look_before_the_first_step_says_what_is_missing(trainer) -> None:
    for look in (trainer().gradient_norm, trainer().generator_gradient_norm):
        with pytest.raises(RuntimeError, match="take a step first"):
            look()
