import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, ResNet
from wgan_sweep.objectives.constraints import spectral_norm
from wgan_sweep.objectives.gradient_terms import (
    Centred,
    Critic,
    Power,
    Psi,
    TermValue,
    critic_pass,
    double_backward,
    evaluate_term,
    input_gradient,
    per_example_norm,
    plain_critic_pass,
)
from wgan_sweep.training.loss_scaling import LossScale
from wgan_sweep.training.precision import Precision, precision

CPU = torch.device("cpu")


def test_fp32_disables_tf32_and_restores_the_previous_settings() -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [b.allow_tf32 for b in backends]
    backends[1].allow_tf32 = True
    with precision("fp32", CPU).step():
        assert [b.allow_tf32 for b in backends] == [False, False]
    assert backends[1].allow_tf32 is True
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


def test_bf16_computes_in_bf16() -> None:
    layer = torch.nn.Linear(4, 4)
    with precision("bf16", CPU).forward():
        assert layer(torch.zeros(1, 4)).dtype == torch.bfloat16
    assert layer(torch.zeros(1, 4)).dtype == torch.float32


@pytest.mark.parametrize("name", ["fp64", "tf32"])
def test_an_unknown_or_unsupported_precision_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        precision(name, CPU)


def test_fp16_computes_in_float16_and_scales_the_loss() -> None:
    fp16 = precision("fp16", CPU)
    with fp16.forward():
        assert torch.nn.Linear(4, 4)(torch.zeros(1, 4)).dtype == torch.float16
    assert fp16.scales_loss
    assert not precision("bf16", CPU).scales_loss


@pytest.mark.parametrize(("device", "chosen"), [("cpu", "fp32"), ("cuda", "tf32")])
def test_auto_chooses_by_device_and_gives_the_reason(device: str, chosen: str) -> None:
    auto = precision("auto", torch.device(device))
    assert auto.name == chosen
    assert "auto" in auto.reason
    assert precision("fp32", CPU).reason == ""


def test_outputs_are_at_least_float32() -> None:
    layer = torch.nn.Linear(4, 4)
    assert precision("bf16", CPU).apply(layer, torch.zeros(1, 4)).dtype == torch.float32
    assert precision("fp32", CPU).apply(layer.double(), torch.zeros(1, 4).double()).dtype == torch.float64


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("make_pass", [critic_pass, plain_critic_pass])
@pytest.mark.parametrize("wrap", [lambda critic: critic, spectral_norm(1).wrap], ids=["resnet", "spectral norm"])
def test_converting_all_weights_at_once_changes_no_bit(name: str, make_pass, wrap) -> None:
    with rng.seeded(0):
        critic, points = ResNet(2, 8, "batch", "none").critic((1, 32, 32)), torch.randn(3, 1, 32, 32)
        critic = wrap(critic)
    chosen, autocast = precision(name, CPU), replace(precision(name, CPU), weight_dtype=None)
    results = []
    for used in (chosen, autocast):
        same = copy.deepcopy(critic)
        forward_pass = make_pass(lambda batch, used=used, same=same: used.apply(same, batch), points)
        (forward_pass.outputs.mean() + evaluate_term(forward_pass, Centred(10)).loss).backward()
        results.append([forward_pass.outputs, *(parameter.grad for parameter in same.parameters())])
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def fast_double_backward(critic: Critic, points: Tensor, psi: Psi) -> TermValue:
    return evaluate_term(critic_pass(critic, points), psi)


NORMS = 0.3, 0.5, 1.0, 2.0, 3.0, 5.0
"""Norms of the critic's gradient at which errors are measured."""
PSIS: dict[str, Psi] = {"W-div, 2 n^6": Power(2, 6), "penalty, 10 (n-1)^2": Centred(10)}
MODELS = {"dcgan": DCGAN(8, 8, "batch", "none"), "resnet": ResNet(8, 8, "batch", "layer")}


def critics_along_a_trajectory(name: str, real: Tensor, fake: Tensor):
    """Yield a critic each time that its gradient reaches one of `NORMS`, while it maximises E_real[T] - E_fake[T]."""
    with rng.seeded(0):
        critic = MODELS[name].critic((1, 32, 32))
    head = list(critic.parameters())[-2]

    def norm() -> float:
        return float(per_example_norm(input_gradient(critic, (real + fake) / 2)).mean())

    with torch.no_grad():
        head.mul_(0.2 / norm())
    optimizer = torch.optim.Adam(critic.parameters(), 3e-4, betas=(0.0, 0.9))
    for target in NORMS:
        for _ in range(1000):
            if norm() >= target:
                break
            optimizer.zero_grad()
            (critic(fake).mean() - critic(real).mean()).backward()
            optimizer.step()
        assert target <= norm() < 1.2 * target
        yield critic


def objective_gradient(
    apply: Critic, critic: nn.Module, real: Tensor, fake: Tensor, psi: Psi, scale: LossScale | None = None
) -> Tensor:
    """Return the gradient of the critic's whole loss with respect to its parameters, as one vector."""
    while True:
        evaluate = double_backward if real.dtype == torch.float64 else fast_double_backward
        term = evaluate(apply, (real + fake) / 2, psi)
        loss = apply(fake).mean() - apply(real).mean() + term.loss
        parameters = list(critic.parameters())
        gradients = torch.autograd.grad(scale.scale(loss) if scale else loss, parameters, materialize_grads=True)
        if scale:
            scale.unscale(gradients)
            scale.update()
        if not (scale and scale.overflow):
            return torch.cat([gradient.flatten() for gradient in gradients])


def measure_errors(name: str, real: Tensor, fake: Tensor) -> dict[tuple[str, str], list[float]]:
    """Return the relative errors of the gradient at all `NORMS`, by term and precision. fp16 keeps its loss scale."""
    errors: dict[tuple[str, str], list[float]] = {(term, p): [] for term in PSIS for p in ("fp32", "bf16", "fp16")}
    scales = {term: LossScale(CPU) for term in PSIS}
    for critic in critics_along_a_trajectory(name, real, fake):
        wide = copy.deepcopy(critic).double()
        for (term, precision_name), row in errors.items():
            chosen: Precision = precision(precision_name, CPU)
            expected = objective_gradient(wide, wide, real.double(), fake.double(), PSIS[term])
            actual = objective_gradient(
                lambda batch, chosen=chosen, critic=critic: chosen.apply(critic, batch),
                critic,
                real,
                fake,
                PSIS[term],
                scales[term] if chosen.scales_loss else None,
            )
            row.append(float((actual.double() - expected).norm() / expected.norm()))
    return errors


BOUNDS = {"fp32": 5e-5, "bf16": 0.1, "fp16": 0.03}
"""Largest relative errors that are accepted."""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["dcgan", pytest.param("resnet", marks=pytest.mark.slow)])
def test_errors_along_a_trajectory_are_bounded(name: str, mnist: np.ndarray) -> None:
    """The table in the guide to benchmarks."""
    images = torch.from_numpy(np.pad(mnist[:16], ((0, 0), (2, 2), (2, 2), (0, 0)))).permute(0, 3, 1, 2)
    real = images / 127.5 - 1
    fake = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    errors = measure_errors(name, real, fake)
    table = "\n".join(f"{name} {key}: {' '.join(f'{e:.1e}' for e in row)}" for key, row in errors.items())
    for (term, precision_name), row in errors.items():
        assert max(row) < BOUNDS[precision_name], f"{term} {precision_name}\n{table}"
    for term in PSIS:
        assert np.median(errors[term, "fp16"]) < 0.5 * np.median(errors[term, "bf16"]), table
