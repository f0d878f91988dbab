r"""A gradient term is *what* (psi of the per-example gradient norm) times *where* (r(x)).

With :math:`g_i = \nabla_x T(x_i)`, a term is :math:`\frac1N \sum_i \psi(\lVert g_i \rVert)`. The critic is looked at
once, by layers whose gradient is cheap to differentiate (`second_derivatives`); one backward to the input gives
:math:`g`, and the graph of that, differentiated with the rest of the objective, the term's part of the update. Where
r(x) is the real or the fake batch itself, the look is the one that its scores come from. :func:`double_backward` is
the textbook form, kept as the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from wgan_sweep.errors import InputError
from wgan_sweep.objectives.fast_double_backward import FastDoubleBackward, skip_parameter_gradients
from wgan_sweep.objectives.sampling import Sampling

Critic = Callable[[Tensor], Tensor]


class Psi(Protocol):
    """A function of the norm, elementwise, with its derivative."""

    def __call__(self, norm: Tensor) -> Tensor:
        """Return psi(norm)."""

    def derivative(self, norm: Tensor) -> Tensor:
        """Return psi'(norm)."""


@dataclass(frozen=True)
class Power:
    """psi(n) = k n^p: the Wasserstein divergence W_{k,p} (Wu et al. 2018).

    Raises:
        InputError: unless k > 0 and p > 1, outside of which it is not a divergence.
    """

    k: float
    p: float

    def __post_init__(self) -> None:
        if not self.k > 0:
            raise InputError(f"div.k must be above 0, got {self.k:g}: W_(k,p) is a divergence for k > 0 and p > 1 only")
        if not self.p > 1:
            raise InputError(f"div.p must be above 1, got {self.p:g}: W_(k,p) is a divergence for k > 0 and p > 1 only")

    def __call__(self, norm: Tensor) -> Tensor:
        """Return k n^p."""
        return self.k * norm**self.p

    def derivative(self, norm: Tensor) -> Tensor:
        """Return k p n^(p-1); 0 at n = 0, its limit, for every p > 1."""
        return self.k * self.p * norm ** (self.p - 1)


@dataclass(frozen=True)
class Centred:
    """psi(n) = weight |n - centre|^exponent.

    The gradient penalty (Gulrajani et al. 2017, equation 3) is weight 10, centre 1, exponent 2; R1 (Mescheder et al.
    2018, equation 9) is weight gamma/2, centre 0, exponent 2 on real points.

    Raises:
        InputError: unless weight > 0, centre >= 0 and exponent > 1.
    """

    weight: float
    centre: float = 1.0
    exponent: float = 2.0

    def __post_init__(self) -> None:
        for name, value, holds, bound in (
            ("weight", self.weight, self.weight > 0, "above 0"),
            ("centre", self.centre, self.centre >= 0, "0 or more"),
            ("exponent", self.exponent, self.exponent > 1, "above 1"),
        ):
            if not holds:
                raise InputError(f"the gradient penalty's {name} must be {bound}, got {value:g}")

    def __call__(self, norm: Tensor) -> Tensor:
        """Return weight |n - centre|^exponent."""
        return self.weight * (norm - self.centre).abs() ** self.exponent

    def derivative(self, norm: Tensor) -> Tensor:
        """Return the derivative in n."""
        off = norm - self.centre
        return self.weight * self.exponent * off.sign() * off.abs() ** (self.exponent - 1)


@dataclass(frozen=True)
class OneSided:
    """psi(n) = weight max(0, n - bound)^2: only norms above the bound cost (WGAN-LP, Petzka et al. 2018).

    Raises:
        InputError: unless weight > 0 and bound >= 0.
    """

    weight: float
    bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError(f"the Lipschitz penalty's weight must be above 0, got {self.weight:g}")
        if not self.bound >= 0:
            raise InputError(f"the Lipschitz penalty's bound must be 0 or more, got {self.bound:g}")

    def __call__(self, norm: Tensor) -> Tensor:
        """Return weight max(0, n - bound)^2."""
        return self.weight * (norm - self.bound).clamp_min(0) ** 2

    def derivative(self, norm: Tensor) -> Tensor:
        """Return the derivative in n."""
        return 2 * self.weight * (norm - self.bound).clamp_min(0)


class TermValue(NamedTuple):
    """A gradient term at one batch of points."""

    objective: Tensor
    """Scalar to add to the critic's loss: the term, differentiable in the parameters."""
    value: Tensor
    """Scalar, detached: the term."""
    norms: Tensor
    """``[N]``, detached: the norm of the critic's gradient at each point."""


def per_example_norm(gradient: Tensor) -> Tensor:
    """Return ``[N]`` norms over all other axes, in float32 at least."""
    norms: Tensor = torch.linalg.vector_norm(
        gradient.flatten(1), dim=1, dtype=torch.promote_types(gradient.dtype, torch.float32)
    )
    return norms


def input_gradient(critic: Critic, points: Tensor) -> Tensor:
    """Return the critic's gradient at each of `points` (``[N, ...]``, same shape), detached."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(points).sum(), points)
    return gradient


class CriticPass(NamedTuple):
    """A critic at points, ready for gradients of gradients."""

    points: Tensor
    """``[N, ...]``, a leaf that the scores' gradient can be taken in."""
    scores: Tensor
    """``[N]``."""


def critic_pass(critic: Critic, points: Tensor) -> CriticPass:
    """Apply a critic to `points` (``[N, ...]``) by layers whose gradient is cheap to differentiate."""
    points = points.detach().requires_grad_()
    with torch.enable_grad(), FastDoubleBackward():
        return CriticPass(points, critic(points))


def evaluate(at: CriticPass, psi: Psi) -> TermValue:
    """Evaluate mean psi(norm of the critic's gradient)."""
    with torch.enable_grad():
        with skip_parameter_gradients():
            (gradient,) = torch.autograd.grad(at.scores.sum(), at.points, create_graph=True)
        return _of_graph(gradient, psi)


def double_backward(critic: Critic, points: Tensor, psi: Psi) -> TermValue:
    """Evaluate the same term as :func:`evaluate` by layers and rules as PyTorch has them: the textbook form."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        return _of_graph(gradient, psi)


def _of_graph(gradient: Tensor, psi: Psi) -> TermValue:
    norms = per_example_norm(gradient)
    value = psi(norms).mean()
    return TermValue(value, value.detach(), norms.detach())


@dataclass(frozen=True)
class GradientTerm:
    """mean psi(norm of the critic's gradient) over the points of r(x)."""

    psi: Psi
    sampling: Sampling


def batch_dependence(critic: nn.Module) -> str | None:
    """Return why this critic's score of an example depends on the rest of its batch, or None where it does not.

    A gradient term is about each example's own gradient; here it sees that of the batch's summed scores.
    """
    for name, module in critic.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or getattr(module, "couples_examples", False):
            return f"{type(module).__name__} ({name}) makes an example's score depend on the rest of its batch"
    return None
