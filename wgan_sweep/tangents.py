"""Directional derivatives of a network that cost one more pass through it, and are differentiable in its parameters.

torch's own forward-mode rules are right but wasteful here: for a convolution whose weights need a gradient they also
convolve with a tangent of zeros, and they tie the derivative of a piecewise linear layer to its input by a zero that
sends a whole backward through the network. The rules below leave both out; all other layers keep torch's.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

Dual = tuple[Tensor, Tensor]


def _affine(
    layer: Callable[..., Tensor], x: Tensor, tangent: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any
) -> Dual:
    """Convolutions and linear layers: the tangent takes the same way without the bias."""
    return layer(x, weight, bias, *rest), layer(tangent, weight, None, *rest)


def _pool(layer: Callable[..., Tensor], x: Tensor, tangent: Tensor, *rest: Any, **options: Any) -> Dual:
    return layer(x, *rest, **options), layer(tangent, *rest, **options)


def _relu(layer: Callable[..., Tensor], x: Tensor, tangent: Tensor, inplace: bool = False) -> Dual:  # noqa: ARG001
    return layer(x), torch.where(x > 0, tangent, 0.0)


def _leaky_relu(
    layer: Callable[..., Tensor],
    x: Tensor,
    tangent: Tensor,
    negative_slope: float = 0.01,
    inplace: bool = False,  # noqa: ARG001
) -> Dual:
    return layer(x, negative_slope), torch.where(x > 0, tangent, negative_slope * tangent)


def _group_norm(
    layer: Callable[..., Tensor],
    x: Tensor,
    tangent: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Dual:
    """Group normalisation ``[N, C, ...]`` of one group or one per channel, in plain operations; else torch's rule."""
    if weight is None or bias is None or groups not in (1, x.shape[1]):
        dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent), groups, weight, bias, eps))
        return dual.primal, dual.tangent
    axes = tuple(range(1 if groups == 1 else 2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    normal = centred * scale
    along = (normal * tangent).mean(axes, keepdim=True)
    change = scale * (tangent - tangent.mean(axes, keepdim=True) - normal * along)
    per_channel = (1, -1, *(1,) * (x.dim() - 2))
    gain = weight.view(per_channel)
    return torch.addcmul(bias.view(per_channel), normal, gain), change * gain


RULES: dict[Callable[..., Any], Callable[..., Dual]] = {
    torch.conv2d: _affine,
    F.linear: _affine,
    F.avg_pool2d: _pool,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.group_norm: _group_norm,
}


class _Economical(TorchFunctionMode):
    """Applies `RULES` to tensors that carry a tangent."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(function)
        if rule is None or not args:
            return function(*args, **(kwargs or {}))
        primal, tangent = forward_ad.unpack_dual(args[0])
        if tangent is None:
            return function(*args, **(kwargs or {}))
        return forward_ad.make_dual(*rule(function, primal, tangent, *args[1:], **(kwargs or {})))


@cache
def _load_rules() -> None:
    """Let torch load its forward-mode rules: it does so at the first use, with a warning that is not the user's."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.script, which torch itself calls
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def derivative_along(network: Callable[[Tensor], Tensor], points: Tensor, direction: Tensor) -> Tensor:
    """Return the network's derivative at each of `points` along `direction` (both ``[N, ...]``): ``[N]`` for scores.

    The result is differentiable in the network's parameters; `points` and `direction` are held constant.
    """
    _load_rules()
    with forward_ad.dual_level(), _Economical():
        made = network(forward_ad.make_dual(points.detach(), direction.detach()))
        tangent: Tensor | None = forward_ad.unpack_dual(made).tangent
    return torch.zeros_like(made) if tangent is None else tangent
