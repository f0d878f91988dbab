import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP, ConstantWidthResNet, ResNet, group_norm
from wgan_sweep.models.layers import NORMS
from wgan_sweep.objectives import sampling
from wgan_sweep.objectives.constraints import spectral_norm
from wgan_sweep.objectives.gradient_terms import (
    Centred,
    OneSided,
    Power,
    Psi,
    TermValue,
    critic_pass,
    double_backward,
    evaluate_term,
    input_gradient,
)
from wgan_sweep.training.precision import precision

from .test_sampling import SCHEMES


def fast_double_backward(critic, points: Tensor, psi: Psi) -> TermValue:
    return evaluate_term(critic_pass(critic, points), psi)


IMPLEMENTATIONS = [fast_double_backward, double_backward]
PSIS: dict[str, Psi] = {
    "div k=2 p=6": Power(2, 6),
    "div k=1/2 p=2": Power(0.5, 2),
    "div k=1 p=1.5": Power(1, 1.5),
    "gp": Centred(10, 1, 2),
    "r1": Centred(5, 0, 2),
    "lp": OneSided(10, 0.01),
}
CRITICS = {
    **{f"dcgan {norm}": (DCGAN(4, 8, "batch", norm), (3, 16, 16)) for norm in NORMS if norm != "batch"},
    **{f"resnet {norm}": (ResNet(2, 8, "batch", norm), (1, 32, 32)) for norm in NORMS if norm != "batch"},
    "constant width": (
        ConstantWidthResNet(2, 1, 8, "batch", "layer", "sum", True, "nearest", True, "glorot"),
        (1, 32, 32),
    ),
    "dcgan 5x5 pooled": (DCGAN(4, 8, "batch", "none", kernel=5, pool="mean", critic_bias=False), (3, 16, 16)),
    "mlp": (MLP(16, 3, 4), (2,)),
}


def parameter_gradient(evaluate, critic: nn.Module, points: Tensor, psi: Psi) -> Tensor:
    critic.zero_grad()
    evaluate(critic, points, psi).loss.backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in critic.parameters()]
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def critic_and_batches(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    model, shape = CRITICS[name]
    with rng.seeded(0, name):
        critic = model.critic(shape).double()
        with torch.no_grad():  # no special values such as biases of 0 and gains of 1
            for parameter in critic.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return critic, torch.randn(5, *shape).double(), torch.randn(5, *shape).double()


@pytest.mark.integration
@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("psi", PSIS.values(), ids=PSIS)
def test_both_implementations_have_the_same_gradient(name: str, scheme: sampling.Sampling, psi: Psi) -> None:
    critic, real, fake = critic_and_batches(name)
    points = scheme(real, fake, rng.generator(3))
    expected_gradient = parameter_gradient(double_backward, critic, points, psi)
    assert expected_gradient.norm() > 0
    expected = double_backward(critic, points, psi)
    assert relative_error(parameter_gradient(fast_double_backward, critic, points, psi), expected_gradient) < 1e-10
    actual = fast_double_backward(critic, points, psi)
    torch.testing.assert_close(actual.value, expected.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(actual.norms, expected.norms, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CRITICS)
def test_both_implementations_have_the_same_gradient_under_spectral_norm(name: str) -> None:
    critic, real, _ = critic_and_batches(name)
    with rng.seeded(0, "spectral"):
        critic = spectral_norm(1).wrap(critic)
    expected = parameter_gradient(double_backward, critic, real, Power(2, 6))
    assert relative_error(parameter_gradient(fast_double_backward, critic, real, Power(2, 6)), expected) < 1e-10


@pytest.mark.parametrize("evaluate", IMPLEMENTATIONS)
def test_the_gradient_agrees_with_finite_differences(evaluate) -> None:
    critic, points, _ = critic_and_batches("resnet layer")
    psi = Power(2, 6)
    gradient = parameter_gradient(evaluate, critic, points, psi)
    parameters = nn.utils.parameters_to_vector(critic.parameters()).detach()
    with rng.seeded(1):
        direction = torch.randn_like(parameters)

    def value(vector: Tensor) -> float:
        moved = copy.deepcopy(critic)
        nn.utils.vector_to_parameters(vector, moved.parameters())
        return float(psi(input_gradient(moved, points).flatten(1).norm(dim=1)).mean())

    step = 1e-6
    slope = (value(parameters + step * direction) - value(parameters - step * direction)) / (2 * step)
    assert float(gradient @ direction) == pytest.approx(slope, rel=1e-6)


class Linear(nn.Module):
    """T(x) = w.x + b. The gradient is w everywhere."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


@pytest.mark.parametrize("evaluate", IMPLEMENTATIONS)
@pytest.mark.parametrize(("k", "p"), [(2, 6), (0.5, 2), (1, 1.5), (10, 6)])
def test_the_divergence_of_a_linear_critic_has_its_closed_form(evaluate, k: float, p: float) -> None:
    critic, norm = Linear([3.0, -4.0]), 5.0
    term = evaluate(critic, torch.randn(7, 2, dtype=torch.float64), Power(k, p))
    assert float(term.value) == pytest.approx(k * norm**p, rel=1e-12)
    term.loss.backward()
    expected = k * p * norm ** (p - 2) * critic.w.detach()
    torch.testing.assert_close(critic.w.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("evaluate", IMPLEMENTATIONS)
@pytest.mark.parametrize("norm", [0.25, 1.0, 4.0])
def test_the_gradient_penalty_of_a_linear_critic_is_two_sided(evaluate, norm: float) -> None:
    critic = Linear([norm * 0.6, norm * 0.8])
    term = evaluate(critic, torch.randn(7, 2, dtype=torch.float64), Centred(10, 1, 2))
    assert float(term.value) == pytest.approx(10 * (norm - 1) ** 2, abs=1e-12)
    term.loss.backward()
    expected = 20 * (norm - 1) * critic.w.detach() / norm
    torch.testing.assert_close(critic.w.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("evaluate", IMPLEMENTATIONS)
@pytest.mark.parametrize(("norm", "value"), [(0.25, 0.0), (1.0, 0.0), (4.0, 90.0)])
def test_the_lipschitz_penalty_of_a_linear_critic_is_one_sided(evaluate, norm: float, value: float) -> None:
    critic = Linear([norm * 0.6, norm * 0.8])
    term = evaluate(critic, torch.randn(7, 2, dtype=torch.float64), OneSided(10, 1))
    assert float(term.value) == pytest.approx(value, abs=1e-12)
    term.loss.backward()
    expected = 20 * max(0, norm - 1) * critic.w.detach() / norm
    torch.testing.assert_close(critic.w.grad, expected, rtol=1e-12, atol=1e-12)


class Quadratic(nn.Module):
    """T(x) = a |x|^2 / 2. The gradient at x is a x: its norm differs between examples."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().sum(1) / 2


RADII = [0.1, 0.5, 3.0, 10.0]
"""Norms of the points; with a = 2, the gradient norms are below, at and above 1."""
CLOSED_FORMS = {
    "div": (Power(0.5, 3), lambda n: 0.5 * n**3, lambda n: 1.5 * n**2),
    "div p<2": (Power(2, 1.5), lambda n: 2 * n**1.5, lambda n: 3 * n**0.5),
    "gp": (Centred(10, 1, 2), lambda n: 10 * (n - 1) ** 2, lambda n: 20 * (n - 1)),
    "r1": (Centred(5, 0, 2), lambda n: 5 * n**2, lambda n: 10 * n),
    "lp": (OneSided(10, 1), lambda n: 10 * max(0, n - 1) ** 2, lambda n: 20 * max(0, n - 1)),
}


@pytest.mark.parametrize("evaluate", IMPLEMENTATIONS)
@pytest.mark.parametrize(("psi", "value", "slope"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_the_terms_of_a_quadratic_critic_have_their_closed_forms(evaluate, psi: Psi, value, slope) -> None:
    directions = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    points = torch.tensor(RADII, dtype=torch.float64)[:, None] * directions
    critic = Quadratic(2.0)
    term = evaluate(critic, points, psi)
    assert term.norms.tolist() == pytest.approx([2 * r for r in RADII])
    assert float(term.value) == pytest.approx(sum(value(2 * r) for r in RADII) / 4)
    term.loss.backward()  # d psi(a r) / da = psi'(a r) r
    assert float(critic.a.grad) == pytest.approx(sum(slope(2 * r) * r for r in RADII) / 4)


PSI = st.one_of(
    st.builds(Power, st.floats(0.1, 10), st.floats(1.1, 8)),
    st.builds(Centred, st.floats(0.1, 10), st.floats(0, 3), st.floats(1.1, 4)),
    st.builds(OneSided, st.floats(0.1, 10), st.floats(0, 3)),
)
NORM = st.floats(1e-3, 5)


def autograd_slope(psi: Psi, norm: float) -> float:
    n = torch.tensor(norm, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(psi(n), n)
    return float(slope)


def closed_form_slope(psi: Psi, norm: float) -> float:
    if isinstance(psi, Power):
        return psi.k * psi.p * norm ** (psi.p - 1)
    if isinstance(psi, Centred):
        distance = norm - psi.centre
        return math.copysign(psi.weight * psi.exponent * abs(distance) ** (psi.exponent - 1), distance)
    assert isinstance(psi, OneSided)
    return 2 * psi.weight * max(0.0, norm - psi.bound)


@given(psi=PSI, norms=st.lists(NORM, min_size=1, max_size=6))
def test_psi_and_its_slope_are_zero_exactly_where_the_norm_is_not_penalised(psi: Psi, norms: list[float]) -> None:
    def is_penalised(norm: float) -> bool:
        if isinstance(psi, OneSided):
            return norm > psi.bound
        return not isinstance(psi, Centred) or norm != psi.centre

    if not isinstance(psi, Power):  # include the norm at which psi starts to be zero
        norms = [*norms, psi.centre if isinstance(psi, Centred) else psi.bound]
    for norm in norms:
        value = float(psi(torch.tensor(norm, dtype=torch.float64)))
        assert value >= 0
        is_far = abs(norm - getattr(psi, "centre", getattr(psi, "bound", 0.0))) > 1e-6  # smaller distances underflow
        if is_far or not is_penalised(norm):
            assert (value > 0) == is_penalised(norm)
            assert (autograd_slope(psi, norm) != 0) == is_penalised(norm)


@given(psi=PSI, norm=NORM)
def test_the_slope_of_psi_has_its_closed_form(psi: Psi, norm: float) -> None:
    kink = getattr(psi, "centre", getattr(psi, "bound", 0.0))
    assume(abs(norm - kink) > 1e-2)
    assert autograd_slope(psi, norm) == pytest.approx(closed_form_slope(psi, norm), rel=1e-9, abs=1e-12)


@given(psi=PSI, order=st.permutations(range(5)))
def test_the_order_of_the_points_does_not_matter(psi: Psi, order: list[int]) -> None:
    critic, points, _ = critic_and_batches("mlp")
    for evaluate in IMPLEMENTATIONS:
        term, permuted_term = evaluate(critic, points, psi), evaluate(critic, points[order], psi)
        torch.testing.assert_close(permuted_term.value, term.value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(permuted_term.norms, term.norms[order], rtol=1e-12, atol=0)
        permuted_gradient = parameter_gradient(evaluate, critic, points[order], psi)
        gradient = parameter_gradient(evaluate, critic, points, psi)
        torch.testing.assert_close(permuted_gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("evaluate", IMPLEMENTATIONS)
@pytest.mark.parametrize("psi", [Power(1, 1.5), Power(2, 2), Power(2, 6), Power(1, 1.01), Centred(10, 0, 1.5)])
def test_at_a_zero_gradient_the_term_and_its_slope_are_zero(evaluate, psi: Psi) -> None:
    critic = Linear([0.0, 0.0])
    term = evaluate(critic, torch.randn(4, 2, dtype=torch.float64), psi)
    term.loss.backward()
    assert float(term.value) == 0
    assert critic.w.grad.tolist() == [0, 0]
    # Zero is the limit: psi'(n) goes to 0 with n (slowly for p near 1).
    limit = 2e-2 * 100 ** (psi == Power(1, 1.01))
    assert autograd_slope(psi, 1e-300) < limit
    assert closed_form_slope(psi, 1e-300) < limit


def test_the_gradient_penalty_is_finite_at_a_zero_gradient() -> None:
    for evaluate in IMPLEMENTATIONS:
        critic = Linear([0.0, 0.0])
        term = evaluate(critic, torch.randn(4, 2, dtype=torch.float64), Centred(10, 1, 2))
        term.loss.backward()
        assert float(term.value) == 10
        assert critic.w.grad.isfinite().all()


def test_the_norm_of_a_half_precision_gradient_is_computed_in_float32() -> None:
    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 300 * x.sum(1)

    term = fast_double_backward(Steep(), torch.zeros(2, 4, dtype=torch.float16), Power(1, 2))
    assert term.norms.dtype == torch.float32
    assert term.norms.tolist() == [600, 600]


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm([3, 8, 8]),
        nn.InstanceNorm2d(3),
        nn.BatchNorm2d(3),
        nn.GroupNorm(3, 3),
        nn.GroupNorm(1, 3, affine=False),
        nn.Conv2d(3, 3, 3, padding="same", dilation=2),
        nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False),
        nn.Softplus(),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layers_without_a_replacement_have_the_same_gradient(layer: nn.Module, layout: torch.memory_format) -> None:
    with rng.seeded(0):
        head = [nn.LeakyReLU(0.3), nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0)]
        critic = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), layer, *head).double().to(memory_format=layout)
        points = torch.randn(4, 1, 8, 8).double()
    expected = parameter_gradient(double_backward, critic, points, Power(2, 6))
    assert relative_error(parameter_gradient(fast_double_backward, critic, points, Power(2, 6)), expected) < 1e-10


@pytest.mark.parametrize(
    ("k", "p", "key"), [(0, 6, "div.k"), (-1, 6, "div.k"), (2, 1, "div.p"), (2, 0.5, "div.p"), (math.nan, 2, "div.k")]
)
def test_k_and_p_that_give_no_divergence_are_refused(k: float, p: float, key: str) -> None:
    with pytest.raises(InputError, match=key):
        Power(k, p)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("psi", [Power(2, 6), Centred(10, 1, 2)])
def test_a_layer_norm_of_any_layout_has_the_same_gradient_and_keeps_the_layout(
    monkeypatch, layout: torch.memory_format, psi: Psi
) -> None:
    """As on CUDA, where PyTorch's group norm would raise or copy channels-last tensors."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=generator).to(memory_format=layout)
    critic = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.GroupNorm(1, 6),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 4, 3),
        nn.GroupNorm(1, 4),
        nn.Flatten(),
        nn.Linear(144, 1),
        nn.Flatten(0),
    )
    critic = critic.to(torch.float64).to(memory_format=layout)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    expected = parameter_gradient(double_backward, critic, points, psi)
    monkeypatch.setattr(group_norm, "_has_fused_group_norm", lambda device: False)
    outputs = []
    for index in (1, 4):
        critic[index].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    assert relative_error(parameter_gradient(fast_double_backward, critic, points, psi), expected) < 1e-12
    assert len(outputs) == 2
    for output in outputs:
        assert output.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("norm", ["layer", "instance"])
@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_group_norm_of_half_precision_is_as_accurate_as_pytorchs(
    monkeypatch, norm: str, name: str, dtype: torch.dtype
) -> None:
    """As on CUDA, where it reads and writes the dtype of its input, and computes in float32."""
    psi = Centred(10, 1, 2)
    wide, points, _ = critic_and_batches(f"dcgan {norm}")
    expected = parameter_gradient(double_backward, wide, points, psi)
    critic = copy.deepcopy(wide).float()
    apply = partial(precision(name, torch.device("cpu")).apply, critic)

    def error(evaluate) -> float:
        actual = parameter_gradient(lambda _, x, psi: evaluate(apply, x, psi), critic, points.float(), psi)
        return relative_error(actual.double(), expected)

    error_of_pytorch = error(double_backward)
    monkeypatch.setattr(group_norm, "_has_fused_group_norm", lambda device: False)
    dtypes = []
    for layer in critic.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_hook(lambda module, inputs, output: dtypes.append((inputs[0].dtype, output.dtype)))
    assert error(fast_double_backward) < 1.2 * error_of_pytorch < 0.15
    assert dtypes == [(dtype, dtype)]


def test_a_layer_norm_of_any_layout_is_accurate_at_a_large_mean(monkeypatch) -> None:
    monkeypatch.setattr(group_norm, "_has_fused_group_norm", lambda device: False)
    x = 1e3 + torch.randn(4, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6)
    expected = F.group_norm(x.double(), 1, weight.double(), bias.double())
    actual, mean, scale = group_norm.group_norm(x, weight, bias, 1, 1e-5)
    native, _, _ = torch.ops.aten.native_group_norm(x, weight, bias, 4, 6, 256, 1, 1e-5)
    assert float((actual - expected).abs().max()) < 2 * float((native - expected).abs().max()) + 1e-6
    assert mean.shape == scale.shape == (4, 1)
