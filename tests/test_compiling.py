"""A compiled gradient is the gradient; where it cannot be had, training goes on as if it had not been asked for."""

import copy
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.objectives import sampling
from wgan_sweep.objectives.gradient_terms import GradientTerm, Power, double_backward
from wgan_sweep.objectives.losses import Loss, wasserstein
from wgan_sweep.runs.build import build
from wgan_sweep.training.compilation import CompiledGradient
from wgan_sweep.training.critic_objective import CriticObjective
from wgan_sweep.training.replicas import Replicas

from .test_gradient_terms import CRITICS, critic_and_batches, relative_error
from .test_sampling import SCHEMES
from .test_trainer import assert_bitwise_equal, run


@pytest.fixture
def written_down(monkeypatch) -> None:
    """Have the operations done that would be compiled."""
    monkeypatch.setattr(torch, "compile", lambda made, **_: made)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def wasserstein_with(term: GradientTerm) -> CriticObjective:
    loss = Loss(wasserstein().critic, wasserstein().generator, (term,))
    return CriticObjective(loss, (), Replicas(), per_example=True)


def compiled(gradient: CompiledGradient, objective: CriticObjective, critic: nn.Module, layout) -> dict[str, Tensor]:
    found = gradient(lambda tensors: objective.at(layout.of(tensors), critic, critic), layout.tensors)
    assert found is not None, gradient.why_not
    return found


@pytest.mark.usefixtures("written_down")
@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_compiled_is_the_gradient_of_the_whole_objective(name: str, scheme: sampling.Sampling) -> None:
    """By double backward, in float64; at a second batch with other weights too."""
    critic, real, fake = critic_and_batches(name)
    objective = wasserstein_with(GradientTerm(Power(2, 6), scheme))
    gradient = CompiledGradient("the gradient", critic)
    for seed in (0, 1):
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.mul_(1.1)
        layout = objective.lay_out(real + seed, fake, rng.generator(seed))
        values = compiled(gradient, objective, critic, layout)
        found = gradients(critic)
        critic.zero_grad()
        term = double_backward(critic, scheme(real + seed, fake, rng.generator(seed)), Power(2, 6))
        wanted = critic(fake).mean() - critic(real + seed).mean() + term.loss
        wanted.backward()
        assert relative_error(found, gradients(critic)) < 1e-10
        assert float(values["critic_loss"]) == pytest.approx(float(wanted.detach()), rel=1e-10)
        assert float(values["gradient_term"]) == pytest.approx(float(term.value), rel=1e-10)
        assert not values["critic_loss"].requires_grad


@pytest.mark.usefixtures("written_down")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "overrides",
    [["loss=wgan_div"], ["loss=wgan_gp", "sampling=mixture"], ["loss=nsgan", "constraint=r1", "sampling=real"]],
    ids=" ".join,
)
def test_training_by_what_is_compiled_is_training(make, precision: str, overrides: list[str], monkeypatch) -> None:
    asked = [*overrides, f"train.precision={precision}"]
    plain = build(make(*asked)).trainer
    trainer = build(make(*asked, "train.compile=true")).trainer
    monkeypatch.setattr(trainer, "_differentiate", only_for(trainer._generator_optimizer, trainer._differentiate))
    values, wanted = run(trainer, 3), run(plain, 3)
    assert trainer.how["critic's gradient"] == "compiled"
    for one, other in zip(values, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-3 if precision == "fp32" else 5e-2, abs=1e-4)


def only_for(optimizer: torch.optim.Optimizer, work: Callable[..., None]) -> Callable[..., None]:
    def checked(asked: torch.optim.Optimizer, *arguments: object) -> None:
        assert asked is optimizer
        work(asked, *arguments)

    return checked


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["constraint=spectral_norm"], "the network has state beside its weights"),
        (["stabiliser=historical_averaging"], "the stabiliser pulls at the weights"),
    ],
)
@pytest.mark.usefixtures("written_down")
def test_a_gradient_that_cannot_be_compiled_is_found_as_ever(make, overrides: list[str], why: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        plain, trainer = (build(make(*overrides, *more)).trainer for more in ([], ["train.compile=true"]))
        assert run(trainer, 3) == run(plain, 3)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"the critic's gradient is not compiled: {why}"]
    assert trainer.how["critic's gradient"] == f"not compiled ({why})"
    assert_bitwise_equal(trainer.state_dict(), plain.state_dict())


def fails(made: Callable[..., list[Tensor]], **_: object) -> Callable[..., list[Tensor]]:
    def call(*_: Tensor) -> list[Tensor]:
        raise RuntimeError("no such kernel\nmore")

    return call


def doubles(made: Callable[..., list[Tensor]], **_: object) -> Callable[..., list[Tensor]]:
    if not isinstance(made, torch.fx.GraphModule):
        return made
    return lambda *tensors: [2 * found for found in made(*tensors)]


def fails_backward(made: nn.Module, **_: object) -> Callable[..., Tensor]:
    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            raise RuntimeError("no such kernel")

    return made if isinstance(made, torch.fx.GraphModule) else lambda batch: Identity.apply(made(batch))


NONE = "RuntimeError: no such kernel"


@pytest.mark.parametrize(
    ("compiler", "whys"),
    [
        (fails, {"generator": NONE, "critic": NONE, "critic's gradient": NONE}),
        (fails_backward, {"generator": NONE, "critic": NONE}),
        (doubles, {"critic's gradient": "the compiled gradient differs by 1.0e+00"}),
    ],
)
def test_a_compiler_that_fails_or_is_wrong_is_not_believed(make, compiler, whys, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch, "compile", compiler)
    plain, trainer = (build(make(*more)).trainer for more in ([], ["train.compile=true"]))
    assert {trainer.how[what] for what in ("generator", "critic", "critic's gradient")} == {"not yet compiled"}
    with caplog.at_level(logging.WARNING):
        found, wanted = run(trainer, 3), run(plain, 3)
    said = sorted(record.getMessage() for record in caplog.records)
    assert said == sorted(f"the {what} is not compiled: {why}" for what, why in whys.items())
    assert {what: how for what, how in trainer.how.items() if how.startswith("not compiled")} == {
        what: f"not compiled ({why})" for what, why in whys.items()
    }
    if "critic's gradient" in whys:
        assert found == wanted
        assert_bitwise_equal(trainer.state_dict(), plain.state_dict())
    else:
        assert [line["critic_loss"] for line in found] == pytest.approx([line["critic_loss"] for line in wanted], 1e-3)


def test_memory_that_runs_out_is_no_failure_to_compile(make, monkeypatch) -> None:
    def full(made: nn.Module, **_: object) -> Callable[..., Tensor]:
        def call(*_: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no memory left")

        return call

    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        run(build(make("train.compile=true")).trainer, 1)


def test_without_gradient_terms_there_is_nothing_to_compile_but_networks(make) -> None:
    assert "critic's gradient" not in build(make("loss=wgan", "train.compile=true")).trainer.how


PROGRAM = """if True:
    import sys
    import torch
    from wgan_sweep.training.compilation import CompiledGradient, CompiledNetwork

    network = torch.nn.Linear(3, 1)
    CompiledNetwork("the network", network)  # as a trainer makes it, before
    batch = torch.arange(6.0).view(2, 3)
    gradient = CompiledGradient("the gradient", network)
    assert gradient(lambda batches: (network(batches[0]).square().sum(), {}), [batch]) == {}, gradient.why_not
    wanted = 2 * (network(batch) * batch).sum(0)
    torch.testing.assert_close(network.weight.grad[0], wanted.detach())
    from torch._dynamo.utils import counters  # importing it settles where the compiler keeps things
    print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


def test_what_is_compiled_is_kept_in_the_cache_of_this_package(tmp_path, monkeypatch) -> None:
    """Though loading the compiler settles where it keeps things."""
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    program = "import os; from torch import nn; from wgan_sweep.training.compilation import CompiledNetwork; "
    program += "CompiledNetwork('it', nn.Linear(2, 1)); import torch._inductor; print(os.environ.get('{}'))"
    done = subprocess.run(
        [sys.executable, "-c", program.format("TORCHINDUCTOR_CACHE_DIR")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path / "compiled"))


@pytest.mark.slow
def test_what_one_process_has_compiled_another_finds(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    said = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert said == [["0", "1"], ["1", "0"]]
    assert list((tmp_path / "compiled").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("overrides", [["loss=wgan_div"], ["loss=wgan_gp", "sampling=mixture"]], ids=" ".join)
def test_compiled_training_is_training_and_resumes_bitwise(make, overrides: list[str]) -> None:
    plain, through, before, after = (
        build(make(*overrides, *more)).trainer for more in ([], *3 * [["train.compile=true"]])
    )
    wanted, values = run(plain, 4), run(through, 4)
    assert through.how["critic's gradient"] == "compiled"
    for one, other in zip(values, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    run(before, 2)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert run(after, 4) == values[2:]
    assert_bitwise_equal(after.state_dict(), through.state_dict())
