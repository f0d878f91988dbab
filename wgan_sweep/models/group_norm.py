r"""Group norm and its first and second derivatives, in few operations that keep the memory layout of their input.

Layer norm over channels and pixels is a group norm with one group, and instance norm one with a group per channel.

For one group of one example, let :math:`x` be its D values, :math:`m` their mean, :math:`s = (\mathrm{var} +
\epsilon)^{-1/2}` their scale, :math:`u` the product of grad_output and the gain, and :math:`T(u)` the two totals
:math:`\sum u` and :math:`\sum u (x - m)`. Then grad_input is

.. math:: P(u) = s u + f_0 + f_1 (x - m), \quad f = T(u) k, \quad k = (-s / D, -s^3 / D),

and :math:`P` is a self-adjoint map. Totals are sums over the pixels of each channel, multiplied by the weights: so
gradients of the weight need no sums of their own.

Shapes: N examples, G groups of K channels, C = G K, P pixels per channel.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import wrap_torch_function

aten = torch.ops.aten


class Statistics(NamedTuple):
    """The statistics of an input, and coefficients that follow from them and the weight."""

    mean: Tensor
    """``[N, G]``: m."""
    scale: Tensor
    """``[N, G]``: s."""
    gain: Tensor
    """``[N, G, K]``: s times the weight."""
    spread: Tensor
    """``[N, 2, G]``: k."""


class InputGradient(NamedTuple):
    """A grad_input, with what its derivative needs."""

    value: Tensor
    """``[N, C, ...]``: P(u)."""
    sums: Tensor
    """``[N, 2, G, K]``: sums over pixels of grad_output and of grad_output (x - m)."""
    totals: Tensor
    """``[N, 2, G]``: T(u)."""
    factors: Tensor
    """``[N, 2, G]``: f."""


class Gradients(NamedTuple):
    """Gradients with respect to the arguments of a grad_input. That of x is taken at fixed mean and scale."""

    grad_output: Tensor
    x: Tensor
    weight: Tensor
    mean: Tensor
    scale: Tensor


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output ``[N, C, ...]``, and mean and scale ``[N, G]``."""
    if _has_fused_group_norm(x.device):
        results = aten.native_group_norm(x, weight, bias, *x.shape[:2], x[0, 0].numel(), groups, eps)
        return cast("tuple[Tensor, Tensor, Tensor]", results)
    rows = _rows(x, groups)
    variance, mean = torch.var_mean(rows.to(weight.dtype), (2, 3), correction=0)
    scale = (variance + eps).rsqrt_()
    gain = _gain(scale, weight)
    offset = torch.addcmul(bias.view(groups, -1), gain, mean.unsqueeze(2), value=-1)
    return _add_product(offset.unsqueeze(3), rows, gain.unsqueeze(3), x.dtype).view(x.shape), mean, scale


def coefficients(x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return gain and spread, as in `Statistics`, of x ``[N, C, ...]``."""
    groups = scale.shape[1]
    spread = scale.new_empty(len(x), 2, groups)
    torch.div(scale, -(x[0].numel() // groups), out=spread[:, 0])
    torch.mul(spread[:, 0], scale.square(), out=spread[:, 1])
    return _gain(scale, weight), spread


def input_gradient(grad_output: Tensor, x: Tensor, weight: Tensor, s: Statistics) -> InputGradient:
    """Return the gradient with respect to x, of the shape of x."""
    groups = s.mean.shape[1]
    rows, grad = _rows(x, groups), _rows(grad_output, groups)
    sums = _centred_sums(grad, rows, s.mean)
    totals = _per_group(sums, weight)
    factors = totals * s.spread
    return InputGradient(_combine(grad, rows, s, factors.unsqueeze(3)).reshape(x.shape), sums, totals, factors)


def differentiate(
    v: Tensor,
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    s: Statistics,
    sums: Tensor,
    u_totals: Tensor,
    u_factors: Tensor,
) -> Gradients:
    r"""Return the gradients of :math:`\langle v, P(u) \rangle`, for v ``[N, C, ...]`` and the details of P(u).

    As P is self-adjoint, that of u is :math:`P(v) = s v + e_0 + e_1 (x - m)` with :math:`e = T(v) k`. That of x is
    :math:`e_1 u + f_1 v`, at fixed mean and scale.
    """
    groups = s.mean.shape[1]
    rows, grad, v = _rows(x, groups), _rows(grad_output, groups), _rows(v, groups)
    totals = _centred_totals(v, rows, s.mean)
    factors = totals * s.spread
    weighted = factors.unsqueeze(3) * weight.view(groups, -1)
    grad_grad_output = _combine(v, rows, s, weighted)
    products = _product(grad, v, weight.dtype).sum(3).mul_(s.scale.unsqueeze(2))
    # Now, these become the sums over pixels of grad_output P(v).
    products.addcmul_(sums[:, 0], factors[:, 0].unsqueeze(2)).addcmul_(sums[:, 1], factors[:, 1].unsqueeze(2))
    grad_x = _add_product(grad * weighted[:, 1].unsqueeze(3), v, u_factors[:, 1, :, None, None], x.dtype)
    by_statistics = (totals * u_factors[:, 1:]).addcmul_(u_totals, factors[:, 1:])
    by_statistics[:, 1].add_(_per_group(products, weight))
    return Gradients(
        grad_grad_output.reshape(x.shape),
        grad_x.reshape(x.shape),
        products.sum(0).flatten(),
        by_statistics[:, 0].neg(),
        by_statistics[:, 1] / s.scale,
    )


def backward(
    grad_output: Tensor | None,
    grad_mean: Tensor | None,
    grad_scale: Tensor | None,
    x: Tensor,
    weight: Tensor,
    s: Statistics,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients with respect to input, weight and bias."""
    groups = s.mean.shape[1]
    rows = _rows(x, groups)
    grad, grad_weight, grad_bias = None, None, None
    if grad_output is None:
        factors = torch.zeros_like(s.spread)
    else:
        grad = _rows(grad_output, groups)
        sums = _centred_sums(grad, rows, s.mean)
        factors = _per_group(sums, weight) * s.spread
        grad_weight, grad_bias = (sums[:, 1] * s.scale.unsqueeze(2)).sum(0).flatten(), sums[:, 0].sum(0).flatten()
    if grad_mean is not None:
        factors[:, 0].add_(grad_mean, alpha=groups / x[0].numel())
    if grad_scale is not None:
        factors[:, 1].addcmul_(grad_scale, s.spread[:, 1])
    return _combine(grad, rows, s, factors.unsqueeze(3)).reshape(x.shape), grad_weight, grad_bias


def _has_fused_group_norm(device: torch.device) -> bool:
    """Return whether PyTorch has fused kernels that keep the layout. On CUDA, they copy channels-last tensors."""
    return device.type != "cuda"


def _rows(x: Tensor, groups: int) -> Tensor:
    """Return ``[N, C, ...]`` as ``[N, G, K, P]``."""
    return x.reshape(len(x), groups, x.shape[1] // groups, -1)


def _gain(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.unsqueeze(2) * weight.view(scale.shape[1], -1)


def _per_group(values: Tensor, weight: Tensor) -> Tensor:
    """Return the sums over the channels of each group of values ``[..., G, K]`` times weight ``[C]``: ``[..., G]``."""
    if values.shape[-2] == 1:
        return values @ weight
    return (values * weight.view(values.shape[-2:])).sum(-1)


def _centred_sums(a: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Return the sums over pixels of a and of a (x - mean), for a and x ``[N, G, K, P]``: ``[N, 2, G, K]``."""
    return _moments(a, x, mean.unsqueeze(2), (3,), a.shape[1:3])


def _centred_totals(a: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Return the sums over groups of a and of a (x - mean), for a and x ``[N, G, K, P]``: ``[N, 2, G]``."""
    return _moments(a, x, mean, (2, 3), a.shape[1:2])


def _moments(a: Tensor, x: Tensor, mean: Tensor, dims: tuple[int, ...], shape: torch.Size) -> Tensor:
    moments = mean.new_empty(len(a), 2, *shape)
    torch.sum(a, dims, dtype=mean.dtype, out=moments[:, 0])
    torch.sum(_product(a, x, mean.dtype), dims, out=moments[:, 1])
    moments[:, 1].addcmul_(moments[:, 0], mean, value=-1)
    return moments


def _combine(a: Tensor | None, x: Tensor, s: Statistics, factors: Tensor) -> Tensor:
    """Return a gain + f_0 + f_1 (x - m) for factors f ``[N, 2, G, K or 1]``, in the layout of a, without which of x."""
    value = torch.addcmul(factors[:, 0], factors[:, 1], s.mean.unsqueeze(2), value=-1).unsqueeze(3)
    if a is not None:
        value = torch.addcmul(value, a, s.gain.unsqueeze(3))
    return _add_product(value, x, factors[:, 1].unsqueeze(3), x.dtype)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a times b, computed in a dtype that is as wide as those of a and b or wider."""
    if a.dtype == b.dtype != dtype:
        return torch.addcmul(a.new_zeros((1,) * a.dim(), dtype=dtype), a, b)
    return a * b


def _add_product(value: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return value + a b in a dtype. `value` may be overwritten if it is as large."""
    if value.numel() == a.numel() and value.dtype == dtype:
        return value.addcmul_(a, b)
    return torch.addcmul(value, a, b, out=torch.empty_like(a, dtype=dtype))


class _GroupNorm(Function):
    """Group norm. If its gradient is to be differentiated again, that is left to PyTorch's rules."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            output, mean, scale = group_norm(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.groups, ctx.eps = groups, eps
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            output = F.group_norm(x.to(weight.dtype), ctx.groups, weight, bias, ctx.eps).to(x.dtype)
            leaves = [t for t, is_needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if is_needed]
            found = iter(torch.autograd.grad(output, leaves, grad_output, create_graph=True))
            return *(next(found) if is_needed else None for is_needed in ctx.needs_input_grad[:3]), None, None
        s = Statistics(mean, scale, *coefficients(x, weight, scale))
        return *backward(grad_output, None, None, x, weight, s), None, None


@wrap_torch_function(lambda x, *_: (x,))
def group_norm_in_dtype_of_input(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the group norm of x ``[N, C, ...]`` in its dtype and layout, computed in the dtype of the weight."""
    if (
        _has_fused_group_norm(x.device)
        or x.dtype == weight.dtype
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    ):
        return F.group_norm(x, groups, weight, bias, eps)
    return cast("Tensor", _GroupNorm.apply(x, weight, bias, groups, eps))


def is_channels_last(x: Tensor) -> bool:
    """Return whether x is in the layout channels last, and not contiguous."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class GroupNorm(nn.GroupNorm):
    """PyTorch's layer, except that the output has the dtype of the input on CUDA, too.

    Under autocast, PyTorch's layer converts its input to float32, and so does the backward pass with its gradient. This
    one computes in float32 as well, but reads and writes bfloat16 or float16.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return ``[N, C, H, W]``, normalised."""
        return group_norm_in_dtype_of_input(input, self.num_groups, self.weight, self.bias, self.eps)
