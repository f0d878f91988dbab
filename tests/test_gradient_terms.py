import copy
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP, ResNet
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
    evaluate,
    input_gradient,
)

from .test_sampling import SCHEMES


def ours(critic, points: Tensor, psi: Psi) -> TermValue:
    return evaluate(critic_pass(critic, points), psi)


FORMS = [ours, double_backward]
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
    "mlp": (MLP(16, 3, 4), (2,)),
}


def parameter_gradient(form, critic: nn.Module, points: Tensor, psi: Psi) -> Tensor:
    critic.zero_grad()
    form(critic, points, psi).objective.backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in critic.parameters()]
    )


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def critic_and_batches(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    model, shape = CRITICS[name]
    with rng.seeded(0, name):
        critic = model.critic(shape).double()
        with torch.no_grad():  # away from special points: zero biases, gains of one
            for parameter in critic.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return critic, torch.randn(5, *shape).double(), torch.randn(5, *shape).double()


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("psi", PSIS.values(), ids=PSIS)
def test_both_forms_have_the_same_gradient(name: str, scheme: sampling.Sampling, psi: Psi) -> None:
    critic, real, fake = critic_and_batches(name)
    points = scheme(real, fake, rng.generator(3))
    wanted = parameter_gradient(double_backward, critic, points, psi)
    assert wanted.norm() > 0
    reference = double_backward(critic, points, psi)
    assert relative_error(parameter_gradient(ours, critic, points, psi), wanted) < 1e-10
    found = ours(critic, points, psi)
    torch.testing.assert_close(found.value, reference.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.norms, reference.norms, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CRITICS)
def test_both_forms_agree_under_spectral_norm(name: str) -> None:
    critic, real, _ = critic_and_batches(name)
    with rng.seeded(0, "spectral"):
        critic = spectral_norm(1).wrap(critic)
    wanted = parameter_gradient(double_backward, critic, real, Power(2, 6))
    assert relative_error(parameter_gradient(ours, critic, real, Power(2, 6)), wanted) < 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_right_by_finite_differences(form) -> None:
    critic, points, _ = critic_and_batches("resnet layer")
    psi = Power(2, 6)
    found = parameter_gradient(form, critic, points, psi)
    flat = nn.utils.parameters_to_vector(critic.parameters()).detach()
    with rng.seeded(1):
        direction = torch.randn_like(flat)

    def value(at: Tensor) -> float:
        moved = copy.deepcopy(critic)
        nn.utils.vector_to_parameters(at, moved.parameters())
        return float(psi(input_gradient(moved, points).flatten(1).norm(dim=1)).mean())

    step = 1e-6
    slope = (value(flat + step * direction) - value(flat - step * direction)) / (2 * step)
    assert float(found @ direction) == pytest.approx(slope, rel=1e-6)


class Linear(nn.Module):
    """T(x) = w.x + b: the gradient is w everywhere."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("k", "p"), [(2, 6), (0.5, 2), (1, 1.5), (10, 6)])
def test_the_divergence_of_a_linear_critic_has_its_closed_form(form, k: float, p: float) -> None:
    critic, norm = Linear([3.0, -4.0]), 5.0
    found = form(critic, torch.randn(7, 2, dtype=torch.float64), Power(k, p))
    assert float(found.value) == pytest.approx(k * norm**p, rel=1e-12)
    found.objective.backward()
    wanted = k * p * norm ** (p - 2) * critic.w.detach()
    torch.testing.assert_close(critic.w.grad, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", [0.25, 1.0, 4.0])
def test_the_penalty_of_a_linear_critic_is_two_sided(form, norm: float) -> None:
    critic = Linear([norm * 0.6, norm * 0.8])
    found = form(critic, torch.randn(7, 2, dtype=torch.float64), Centred(10, 1, 2))
    assert float(found.value) == pytest.approx(10 * (norm - 1) ** 2, abs=1e-12)
    found.objective.backward()
    wanted = 20 * (norm - 1) * critic.w.detach() / norm
    torch.testing.assert_close(critic.w.grad, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("norm", "value"), [(0.25, 0.0), (1.0, 0.0), (4.0, 90.0)])
def test_the_lipschitz_penalty_of_a_linear_critic_is_one_sided(form, norm: float, value: float) -> None:
    critic = Linear([norm * 0.6, norm * 0.8])
    found = form(critic, torch.randn(7, 2, dtype=torch.float64), OneSided(10, 1))
    assert float(found.value) == pytest.approx(value, abs=1e-12)
    found.objective.backward()
    wanted = 20 * max(0, norm - 1) * critic.w.detach() / norm
    torch.testing.assert_close(critic.w.grad, wanted, rtol=1e-12, atol=1e-12)


class Quadratic(nn.Module):
    """T(x) = a |x|^2 / 2: the gradient at x is a x, of another norm at every example."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().sum(1) / 2


RADII = [0.1, 0.5, 3.0, 10.0]
"""Of the points below; with a = 2 the norms are on both sides of 1 and on it."""
CLOSED_FORMS = {
    "div": (Power(0.5, 3), lambda n: 0.5 * n**3, lambda n: 1.5 * n**2),
    "div p<2": (Power(2, 1.5), lambda n: 2 * n**1.5, lambda n: 3 * n**0.5),
    "gp": (Centred(10, 1, 2), lambda n: 10 * (n - 1) ** 2, lambda n: 20 * (n - 1)),
    "r1": (Centred(5, 0, 2), lambda n: 5 * n**2, lambda n: 10 * n),
    "lp": (OneSided(10, 1), lambda n: 10 * max(0, n - 1) ** 2, lambda n: 20 * max(0, n - 1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("psi", "value", "slope"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_every_term_of_a_quadratic_critic_has_its_closed_form_example_by_example(form, psi: Psi, value, slope) -> None:
    directions = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    points = torch.tensor(RADII, dtype=torch.float64)[:, None] * directions
    critic = Quadratic(2.0)
    found = form(critic, points, psi)
    assert found.norms.tolist() == pytest.approx([2 * r for r in RADII])
    assert float(found.value) == pytest.approx(sum(value(2 * r) for r in RADII) / 4)
    found.objective.backward()  # d psi(a r) / da = psi'(a r) r
    assert float(critic.a.grad) == pytest.approx(sum(slope(2 * r) * r for r in RADII) / 4)


PSI = st.one_of(
    st.builds(Power, st.floats(0.1, 10), st.floats(1.1, 8)),
    st.builds(Centred, st.floats(0.1, 10), st.floats(0, 3), st.floats(1.1, 4)),
    st.builds(OneSided, st.floats(0.1, 10), st.floats(0, 3)),
)
NORM = st.floats(1e-3, 5)


@given(psi=PSI, norms=st.lists(NORM, min_size=1, max_size=6))
def test_a_term_is_zero_exactly_where_psi_says(psi: Psi, norms: list[float]) -> None:
    def costs(norm: float) -> bool:
        if isinstance(psi, OneSided):
            return norm > psi.bound
        return not isinstance(psi, Centred) or norm != psi.centre

    if not isinstance(psi, Power):  # the place where it is zero is among them, too
        norms = [*norms, psi.centre if isinstance(psi, Centred) else psi.bound]
    for norm in norms:
        n = torch.tensor(norm, dtype=torch.float64)
        assert float(psi(n)) >= 0
        far = abs(norm - getattr(psi, "centre", getattr(psi, "bound", 0.0))) > 1e-6  # squares below that underflow
        if far or not costs(norm):
            assert (float(psi(n)) > 0) == costs(norm)
            assert (float(psi.derivative(n)) != 0) == costs(norm)


@given(psi=PSI, norm=NORM)
def test_the_derivative_of_psi_is_its_derivative(psi: Psi, norm: float) -> None:
    kink = getattr(psi, "centre", getattr(psi, "bound", 0.0))
    assume(abs(norm - kink) > 1e-2)
    n = torch.tensor(norm, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(psi(n), n)
    assert float(psi.derivative(n.detach())) == pytest.approx(float(wanted), rel=1e-9, abs=1e-12)


@given(psi=PSI, order=st.permutations(range(5)))
def test_the_order_of_the_points_does_not_matter(psi: Psi, order: list[int]) -> None:
    critic, points, _ = critic_and_batches("mlp")
    for form in FORMS:
        plain, moved = form(critic, points, psi), form(critic, points[order], psi)
        torch.testing.assert_close(moved.value, plain.value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(moved.norms, plain.norms[order], rtol=1e-12, atol=0)
        found = parameter_gradient(form, critic, points[order], psi)
        wanted = parameter_gradient(form, critic, points, psi)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("psi", [Power(1, 1.5), Power(2, 2), Power(2, 6), Power(1, 1.01), Centred(10, 0, 1.5)])
def test_a_zero_gradient_gives_the_limit(form, psi: Psi) -> None:
    critic = Linear([0.0, 0.0])
    found = form(critic, torch.randn(4, 2, dtype=torch.float64), psi)
    found.objective.backward()
    assert float(found.value) == 0
    assert critic.w.grad.tolist() == [0, 0]
    # and it is the limit: the derivative at a small norm n is psi'(n), which goes to 0 (slowly, for p near 1)
    assert float(psi.derivative(torch.tensor(1e-300, dtype=torch.float64))) < 2e-2 * 100 ** (psi == Power(1, 1.01))


def test_a_penalty_about_one_is_finite_at_a_zero_gradient() -> None:
    for form in FORMS:
        critic = Linear([0.0, 0.0])
        found = form(critic, torch.randn(4, 2, dtype=torch.float64), Centred(10, 1, 2))
        found.objective.backward()
        assert float(found.value) == 10
        assert critic.w.grad.isfinite().all()


def test_the_norm_of_a_half_precision_gradient_is_taken_in_float32() -> None:
    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 300 * x.sum(1)

    found = ours(Steep(), torch.zeros(2, 4, dtype=torch.float16), Power(1, 2))
    assert found.norms.dtype == torch.float32
    assert found.norms.tolist() == [600, 600]


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
def test_layers_without_a_rule_of_ours_keep_torchs(layer: nn.Module, layout: torch.memory_format) -> None:
    with rng.seeded(0):
        head = [nn.LeakyReLU(0.3), nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0)]
        critic = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), layer, *head).double().to(memory_format=layout)
        points = torch.randn(4, 1, 8, 8).double()
    wanted = parameter_gradient(double_backward, critic, points, Power(2, 6))
    assert relative_error(parameter_gradient(ours, critic, points, Power(2, 6)), wanted) < 1e-10


@pytest.mark.parametrize(
    ("k", "p", "named"), [(0, 6, "div.k"), (-1, 6, "div.k"), (2, 1, "div.p"), (2, 0.5, "div.p"), (math.nan, 2, "div.k")]
)
def test_exponents_that_give_no_divergence_are_refused(k: float, p: float, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Power(k, p)
