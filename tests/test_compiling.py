"""A compiled gradient equals the eager one; if it does not compile, training is eager."""

import copy
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.models import group_norm
from wgan_sweep.objectives import sampling
from wgan_sweep.objectives.gradient_terms import GradientTerm, Power, double_backward
from wgan_sweep.objectives.losses import Loss, wasserstein
from wgan_sweep.runs.build import build
from wgan_sweep.training import loss_scaling
from wgan_sweep.training.compilation import CompiledGradient
from wgan_sweep.training.critic_objective import CriticBatches, CriticObjective
from wgan_sweep.training.player import Player
from wgan_sweep.training.replicas import Replicas

from .test_gradient_terms import CRITICS, critic_and_batches, relative_error
from .test_sampling import SCHEMES
from .test_trainer import LAZY, assert_bitwise_equal, run


@pytest.fixture
def without_compiler(monkeypatch) -> None:
    """Run what would be compiled as it is: a network, or the traced operations of a gradient."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def wasserstein_with(term: GradientTerm) -> CriticObjective:
    loss = Loss(wasserstein().critic, wasserstein().generator, (term,))
    return CriticObjective(loss, (), Replicas(), per_example=True)


def set_gradient(
    gradient: CompiledGradient, objective: CriticObjective, critic: nn.Module, batches: CriticBatches
) -> dict[str, Tensor]:
    metrics = gradient(
        lambda tensors: objective.loss_and_metrics(batches.with_tensors(tensors), critic, critic), batches.tensors
    )
    assert metrics is not None, gradient.fallback_reason
    return metrics


TRACED = [
    (scheme, name)
    for number, scheme in enumerate(SCHEMES)
    for position, name in enumerate(CRITICS)
    if (position - 2 * number) % len(CRITICS) < 2
]
"""Each r(x) with two networks, and each network with at least one r(x)."""


@pytest.mark.integration
@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(("scheme", "name"), TRACED)
def test_the_traced_gradient_is_that_of_the_whole_objective(name: str, scheme: sampling.Sampling) -> None:
    """Compared with double backward in float64, also on a second batch with other weights."""
    critic, real, fake = critic_and_batches(name)
    objective = wasserstein_with(GradientTerm(Power(2, 6), scheme))
    gradient = CompiledGradient("the gradient", critic)
    for seed in (0, 1):
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.mul_(1.1)
        batches = objective.prepare(real + seed, fake, rng.generator(seed))
        metrics = set_gradient(gradient, objective, critic, batches)
        actual = gradients(critic)
        critic.zero_grad()
        term = double_backward(critic, scheme(real + seed, fake, rng.generator(seed)), Power(2, 6))
        loss = critic(fake).mean() - critic(real + seed).mean() + term.loss
        loss.backward()
        assert relative_error(actual, gradients(critic)) < 1e-10
        assert float(metrics["critic_loss"]) == pytest.approx(float(loss.detach()), rel=1e-10)
        assert float(metrics["gradient_term"]) == pytest.approx(float(term.value), rel=1e-10)
        assert not metrics["critic_loss"].requires_grad


@pytest.mark.integration
@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=wgan_div"],
        ["loss=wgan_gp", "sampling=mixture"],
        ["loss=nsgan", "constraint=r1", "sampling=real"],
        ["loss=rpgan"],
    ],
    ids=" ".join,
)
def test_training_with_a_traced_gradient_agrees_with_eager_training(
    make, precision: str, overrides: list[str], monkeypatch
) -> None:
    overrides = [*overrides, f"train.precision={precision}"]
    eager = build(make(*overrides)).trainer
    trainer = build(make(*overrides, "train.compile=true")).trainer
    monkeypatch.setattr(trainer, "_backward", only_for(trainer._generator_player, trainer._backward))
    actual, expected = run(trainer, 3), run(eager, 3)
    assert trainer.execution["critic's gradient"] == "compiled"
    for metrics, eager_metrics in zip(actual, expected, strict=True):
        assert metrics == pytest.approx(eager_metrics, rel=1e-3 if precision == "fp32" else 5e-2, abs=1e-4)


@pytest.mark.usefixtures("without_compiler")
def test_a_traced_gradient_uses_the_current_loss_scale(make, monkeypatch) -> None:
    """The first gradients overflow, and the scale doubles after every second one that does not."""
    monkeypatch.setattr(loss_scaling, "INITIAL_SCALE", loss_scaling.MAX_SCALE)
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 2)
    eager, trainer = (build(make("train.precision=fp16", *more)).trainer for more in ([], ["train.compile=true"]))
    actual, expected = run(trainer, 10), run(eager, 10)
    assert trainer.execution["critic's gradient"] == "compiled"
    assert expected[0]["skipped_updates"] > 0
    assert len({metrics["critic_loss_scale"] for metrics in expected}) > 1
    for metrics, eager_metrics in zip(actual, expected, strict=True):
        assert metrics == pytest.approx(eager_metrics, rel=5e-2, abs=1e-4)


def only_for(expected: Player, backward: Callable[..., None]) -> Callable[..., None]:
    def checked(player: Player, loss: Tensor) -> None:
        assert player is expected
        backward(player, loss)

    return checked


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["constraint=spectral_norm"], "the network has buffers"),
        (["stabiliser=historical_averaging"], "the stabiliser adds a loss on the weights"),
        (LAZY, "a gradient term is not part of every update"),
    ],
)
@pytest.mark.usefixtures("without_compiler")
def test_a_gradient_that_cannot_be_compiled_is_eager(make, overrides: list[str], reason: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        eager, trainer = (build(make(*overrides, *more)).trainer for more in ([], ["train.compile=true"]))
        assert run(trainer, 3) == run(eager, 3)
    assert [record.getMessage() for record in caplog.records] == [f"the critic's gradient is not compiled: {reason}"]
    assert trainer.execution["critic's gradient"] == f"not compiled ({reason})"
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())


def fails(function: Callable[..., list[Tensor]], **_: object) -> Callable[..., list[Tensor]]:
    def call(*_: Tensor) -> list[Tensor]:
        raise RuntimeError("no such kernel\nmore")

    return call


def doubles(function: Callable[..., list[Tensor]], **_: object) -> Callable[..., list[Tensor]]:
    if not isinstance(function, torch.fx.GraphModule):
        return function
    return lambda *tensors: [2 * output for output in function(*tensors)]


def fails_backward(function: nn.Module, **_: object) -> Callable[..., Tensor]:
    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            raise RuntimeError("no such kernel")

    if isinstance(function, torch.fx.GraphModule):
        return function
    return lambda batch: Identity.apply(function(batch))


NO_KERNEL = "RuntimeError: no such kernel"


@pytest.mark.parametrize(
    ("compiler", "reasons"),
    [
        (fails, {"generator": NO_KERNEL, "critic": NO_KERNEL, "critic's gradient": NO_KERNEL}),
        (fails_backward, {"generator": NO_KERNEL, "critic": NO_KERNEL}),
        (doubles, {"critic's gradient": "the compiled gradient differs by 1.0e+00"}),
    ],
)
def test_what_fails_to_compile_or_compiles_wrongly_is_eager(make, compiler, reasons, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch, "compile", compiler)
    eager, trainer = (build(make(*more)).trainer for more in ([], ["train.compile=true"]))
    assert {trainer.execution[part] for part in ("generator", "critic", "critic's gradient")} == {"not yet compiled"}
    with caplog.at_level(logging.WARNING):
        actual, expected = run(trainer, 3), run(eager, 3)
    messages = sorted(record.getMessage() for record in caplog.records)
    assert messages == sorted(f"the {part} is not compiled: {reason}" for part, reason in reasons.items())
    not_compiled = {part: state for part, state in trainer.execution.items() if state.startswith("not compiled")}
    assert not_compiled == {part: f"not compiled ({reason})" for part, reason in reasons.items()}
    if "critic's gradient" in reasons:
        assert actual == expected
        assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    else:
        losses, eager_losses = ([metrics["critic_loss"] for metrics in steps] for steps in (actual, expected))
        assert losses == pytest.approx(eager_losses, 1e-3)


def test_running_out_of_memory_is_not_a_compilation_failure(make, monkeypatch) -> None:
    def out_of_memory(function: nn.Module, **_: object) -> Callable[..., Tensor]:
        def call(*_: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no memory left")

        return call

    monkeypatch.setattr(torch, "compile", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        run(build(make("train.compile=true")).trainer, 1)


def test_without_gradient_terms_only_networks_are_compiled(make) -> None:
    assert "critic's gradient" not in build(make("loss=wgan", "train.compile=true")).trainer.execution


PROGRAM = """if True:
    import sys
    import torch
    from wgan_sweep.training.compilation import CompiledGradient, CompiledNetwork

    network = torch.nn.Linear(3, 1)
    torch.optim.Adam(network.parameters())  # loads the compiler
    CompiledNetwork("the network", network)
    batch = torch.arange(6.0).view(2, 3)
    gradient = CompiledGradient("the gradient", network)
    assert gradient(lambda batches: (network(batches[0]).square().sum(), {}), [batch]) == {}, gradient.fallback_reason
    expected = 2 * (network(batch) * batch).sum(0)
    torch.testing.assert_close(network.weight.grad[0], expected.detach())
    from torch._dynamo.utils import counters
    print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.integration
@pytest.mark.parametrize("chosen", [False, True])
def test_the_compiler_uses_the_cache_of_this_package_or_the_users(tmp_path, monkeypatch, chosen: bool) -> None:
    """Although loading the compiler, which an optimizer does, sets the variable to a default."""
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if chosen:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "chosen"))
    program = """if True:
        import torch
        from wgan_sweep.training.compilation import CompiledNetwork

        network = torch.nn.Linear(2, 1)
        torch.optim.Adam(network.parameters())
        CompiledNetwork("the network", network)
        from torch._inductor.runtime.cache_dir_utils import cache_dir
        print(cache_dir())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / ("chosen" if chosen else "compiled")))


@pytest.mark.slow
def test_compiled_code_is_reused_by_other_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    hits_and_misses = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert hits_and_misses == [["0", "1"], ["1", "0"]]
    assert list((tmp_path / "compiled").iterdir())


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("norm", "fused"), [("layer", True), ("instance", True), ("layer", False)])
def test_the_gradient_of_a_critic_with_norms_can_be_compiled(norm: str, fused: bool, make, monkeypatch) -> None:
    """With PyTorch's kernel of norms, and without it, as on CUDA. The compiler writes no code: that takes minutes."""
    monkeypatch.setattr(group_norm, "_has_fused_group_norm", lambda device: fused)
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compile_network(*args, **options, backend="eager"))
    trainer = build(make("loss=wgan_gp", f"model.critic_norm={norm}", "train.compile=true")).trainer
    run(trainer, 1)
    assert trainer.execution["critic's gradient"] == "compiled"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "overrides", [["loss=wgan_div"], ["loss=wgan_gp", "model=resnet", "sampling=mixture"]], ids=" ".join
)
def test_compiled_training_agrees_with_eager_training_and_resumes_bitwise(make, overrides: list[str]) -> None:
    eager, uninterrupted, interrupted, resumed = (
        build(make(*overrides, *more)).trainer for more in ([], *3 * [["train.compile=true"]])
    )
    expected, actual = run(eager, 4), run(uninterrupted, 4)
    assert uninterrupted.execution["critic's gradient"] == "compiled"
    for metrics, eager_metrics in zip(actual, expected, strict=True):
        assert metrics == pytest.approx(eager_metrics, rel=1e-3, abs=2e-5)  # some are differences of critic outputs
    run(interrupted, 2)
    resumed.load_state_dict(copy.deepcopy(interrupted.state_dict()))
    assert run(resumed, 4) == actual[2:]
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())
