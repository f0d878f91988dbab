r"""Gradient terms: functions of the norm of the critic's gradient at the points of r(x).

With :math:`g_i = \nabla_x T(x_i)`, a term is :math:`\frac1N \sum_i \psi(\lVert g_i \rVert)`.

:func:`critic_pass` runs the critic with layers that are cheap to differentiate twice (`fast_double_backward`), and
:func:`evaluate_term` computes :math:`g` by a backward pass to the input, with a graph. The backward pass of the
critic's objective goes through that graph. If r(x) is the real or the fake batch, the same forward pass also gives the
critic outputs for the loss. :func:`plain_critic_pass` runs the critic with PyTorch's own layers instead, for critics
that the fast layers do not fit. :func:`double_backward` is the textbook implementation: the reference for tests.

In all of them, ``scaled_dot_product_attention`` uses plain operations: its fused kernels have no second derivative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wgan_sweep.common.ranges import Range
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.fast_double_backward import FastDoubleBackward, skip_parameter_gradients
from wgan_sweep.objectives.sampling import Sampling

Critic = Callable[[Tensor], Tensor]
"""From examples ``[N, ...]`` to outputs ``[N]``."""
Psi = Callable[[Tensor], Tensor]
"""An elementwise function of per-example gradient norms ``[N]``."""
Interval = Annotated[int, Range(1, 10**6)]
"""n, where a gradient term is part of every n-th critic update only, with n times its weight."""


@dataclass(frozen=True)
class Power:
    """psi(n) = k n^p: the Wasserstein divergence W_{k,p} (Wu et al. 2018).

    Raises:
        InputError: Unless k > 0 and p > 1, for which W_{k,p} is a divergence.
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


@dataclass(frozen=True)
class Centred:
    """psi(n) = weight |n - centre|^exponent.

    The gradient penalty (Gulrajani et al. 2017, equation 3) has weight 10, centre 1 and exponent 2. R1 (Mescheder et
    al. 2018, equation 9) has weight gamma/2, centre 0 and exponent 2, at real points.

    Raises:
        InputError: Unless weight > 0, centre >= 0 and exponent > 1.
    """

    weight: float
    centre: float = 1.0
    exponent: float = 2.0

    def __post_init__(self) -> None:
        for name, value, is_valid, valid_range in (
            ("weight", self.weight, self.weight > 0, "above 0"),
            ("centre", self.centre, self.centre >= 0, "0 or more"),
            ("exponent", self.exponent, self.exponent > 1, "above 1"),
        ):
            if not is_valid:
                raise InputError(f"the gradient penalty's {name} must be {valid_range}, got {value:g}")

    def __call__(self, norm: Tensor) -> Tensor:
        """Return weight |n - centre|^exponent."""
        return self.weight * (norm - self.centre).abs() ** self.exponent


@dataclass(frozen=True)
class OneSided:
    """psi(n) = weight max(0, n - bound)^2: only norms above the bound are penalised (WGAN-LP, Petzka et al. 2018).

    Raises:
        InputError: Unless weight > 0 and bound >= 0.
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


class TermValue(NamedTuple):
    """The value of a gradient term at one batch of points."""

    loss: Tensor
    """Scalar: the term, differentiable with respect to the critic's parameters."""
    value: Tensor
    """Scalar: the term, detached."""
    norms: Tensor
    """``[N]``: the norms of the critic's gradient at the points, detached."""


def per_example_norm(gradient: Tensor) -> Tensor:
    """Return the ``[N]`` Euclidean norms of ``[N, ...]`` gradients, in float32 or wider."""
    norms: Tensor = torch.linalg.vector_norm(
        gradient.flatten(1), dim=1, dtype=torch.promote_types(gradient.dtype, torch.float32)
    )
    return norms


def input_gradient(critic: Critic, points: Tensor) -> Tensor:
    """Return the critic's gradient at `points` (``[N, ...]``), of the same shape, detached."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(points).sum(), points)
    return gradient


class CriticPass(NamedTuple):
    """A forward pass of a critic that can be differentiated twice."""

    points: Tensor
    """``[N, ...]``: the inputs, a leaf that requires grad."""
    outputs: Tensor
    """``[N]``: the critic's outputs."""


def critic_pass(critic: Critic, points: Tensor) -> CriticPass:
    """Apply a critic to `points` (``[N, ...]``), with layers that are cheap to differentiate twice."""
    points = points.detach().requires_grad_()
    with torch.enable_grad(), FastDoubleBackward(points):
        return CriticPass(points, critic(points))


def plain_critic_pass(critic: Critic, points: Tensor) -> CriticPass:
    """Apply a critic to `points` (``[N, ...]``), with the layers and the autograd rules of PyTorch."""
    points = points.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return CriticPass(points, critic(points))


def evaluate_term(forward_pass: CriticPass, psi: Psi) -> TermValue:
    """Evaluate mean psi(norm of the critic's gradient) at the points of a forward pass."""
    with torch.enable_grad():
        with skip_parameter_gradients():
            (gradient,) = torch.autograd.grad(forward_pass.outputs.sum(), forward_pass.points, create_graph=True)
        return _term_of_gradient(gradient, psi)


def double_backward(critic: Critic, points: Tensor, psi: Psi) -> TermValue:
    """Evaluate the same term as :func:`evaluate_term`, with the layers and the autograd rules of PyTorch."""
    points = points.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        return _term_of_gradient(gradient, psi)


def _term_of_gradient(gradient: Tensor, psi: Psi) -> TermValue:
    norms = per_example_norm(gradient)
    loss = psi(norms).mean()
    return TermValue(loss, loss.detach(), norms.detach())


@dataclass(frozen=True)
class GradientTerm:
    """The mean of psi(norm of the critic's gradient) over the points of r(x).

    Raises:
        InputError: Unless every >= 1.
    """

    psi: Psi
    """The function of the norm."""
    sampling: Sampling
    """The sampling scheme r(x)."""
    every: Interval = 1
    """The term is part of every n-th critic update only, the first included, with n times its weight (lazy
    regularisation, Karras et al. 2020, StyleGAN2)."""
    name: str = ""
    """Its name in metrics, where an objective has several terms."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(
                f"a gradient term is part of every n-th critic update: every must be 1 or more, got {self.every}"
            )

    @property
    def is_lazy(self) -> bool:
        """Whether there are critic updates without the term."""
        return self.every > 1


def batch_dependence(critic: nn.Module) -> str | None:
    """Return why the critic's output for an example depends on the rest of its batch, or None if it does not.

    The gradient terms of such a critic use the gradient of the sum of a batch's outputs with respect to each example,
    which is then not the gradient of the example's own output.
    """
    for name, module in critic.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or getattr(module, "couples_examples", False):
            return f"{type(module).__name__} ({name}) makes the critic's output depend on the whole batch"
    return None
