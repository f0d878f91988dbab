"""Layers whose gradient is cheap to differentiate: convolutions, normalisations and piecewise linear layers.

torch's own rules for the gradient of a gradient are right but wasteful: those of a convolution build the weights'
gradient as a convolution with kernels as large as the images, those of a piecewise linear layer send zeros back through
all layers before it, and those of a normalisation are a long chain of small operations. Here a convolution's second
derivative is made of the same three operations as its first, a piecewise linear layer is a product with its slopes,
which are constants, and a normalisation's is written out. All other layers keep torch's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
Geometry = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, transposed, output padding, groups, as aten takes them."""


Back = Callable[[Tensor, Tensor], Tensor]
"""From the gradient in a layer's output, and its input, to the gradient in its input."""


class _BackwardMode:
    """Whose gradients a backward pass is for: Function's own `needs_input_grad` does not know."""

    skip_parameter_gradients = False


@contextmanager
def skip_parameter_gradients() -> Iterator[None]:
    """In here a backward pass gives the gradient in a network's input, to be differentiated, and none in parameters."""
    _BackwardMode.skip_parameter_gradients = True
    try:
        yield
    finally:
        _BackwardMode.skip_parameter_gradients = False


def _to_input(gradient: Tensor, like: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    mask = [True, False, False]
    return cast("Tensor", aten.convolution_backward(gradient, like, weight, None, *geometry, mask)[0])


def _to_weight(gradient: Tensor, x: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    mask = [False, True, False]
    return cast("Tensor", aten.convolution_backward(gradient, x, like, None, *geometry, mask)[1])


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, is_first: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.bias_sizes, ctx.is_first = geometry, None if bias is None else [bias.shape[0]], is_first
        return cast("Tensor", aten.convolution(x, weight, bias, *geometry))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if _BackwardMode.skip_parameter_gradients:
            return _ConvolutionToInput.apply(gradient, x.detach(), weight, ctx.geometry), None, None, None, None
        mask = [ctx.needs_input_grad[0] and not ctx.is_first, True, ctx.bias_sizes is not None]
        found = aten.convolution_backward(gradient, x, weight, ctx.bias_sizes, *ctx.geometry, mask)
        back, to_weight, to_bias = (one if wanted else None for one, wanted in zip(found, mask, strict=True))
        return back, to_weight, to_bias, None, None


class _ConvolutionToInput(Function):
    """From the gradient in a convolution's output to that in its input: linear in it, and in the weights."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, like: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.geometry = geometry
        return _to_input(gradient, like, weight, geometry)

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = ctx.saved_tensors
        along = aten.convolution(second, weight, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
        return along, None, _to_weight(gradient, second, weight, ctx.geometry), None


def _convolve(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    # Only a pass below `skip_parameter_gradients` wants the gradient in a network's input.
    is_first = input.is_leaf and not isinstance(input, nn.Parameter)
    both = ([size] * 2 if isinstance(size, int) else list(size) for size in (stride, padding, dilation))
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(dtype), weight.to(dtype)  # noqa: A001
        bias = None if bias is None else bias.to(dtype)
    return cast("Tensor", _Convolution.apply(input, weight, bias, (*both, False, [0, 0], groups), is_first))


class _LayerNorm(Function):
    """GroupNorm of one group: over channels and pixels, with a gain per channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        count, channels = x.shape[:2]
        made, mean, scale = aten.native_group_norm(x, weight, bias, count, channels, x[0, 0].numel(), 1, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        return cast("Tensor", made)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        if _BackwardMode.skip_parameter_gradients:
            return _LayerNormToInput.apply(gradient, x, weight, mean, scale), None, None, None
        return *_norm_backward(gradient, x, weight, mean, scale, [True, True, True]), None


def _norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    count, channels = x.shape[:2]
    found = aten.native_group_norm_backward(gradient, x, mean, scale, weight, count, channels, x[0, 0].numel(), 1, mask)
    return cast("tuple[Tensor, Tensor, Tensor]", found)


class _LayerNormToInput(Function):
    r"""From the gradient in a normalisation's output to that in its input.

    With :math:`\hat x = s (x - \mu)`, :math:`u` the incoming gradient times the gain and :math:`P(u) = s (u - \bar u -
    \hat x \, \overline{u \hat x})`, which is what the gradient in x is and a self-adjoint map: for a cotangent v the
    derivative in u is :math:`P(v)`, and in x :math:`-s (s K \hat x + \overline{v \hat x} P(u) + \overline{u \hat x}
    P(v))` with :math:`K = \overline{uv} - \bar u \bar v - \overline{u \hat x}\,\overline{v \hat x}`, all means over an
    example.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        back = _norm_backward(gradient, x, weight, mean, scale, [True, False, False])[0]
        ctx.save_for_backward(gradient, x, weight, mean, scale, back)
        return back

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        gradient, x, weight, mean, scale, back = ctx.saved_tensors
        layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        gradient, back, v = (t.contiguous(memory_format=layout) for t in (gradient, back, second))
        gain = weight.view(1, -1, *(1,) * (x.dim() - 2))
        u = gradient * gain
        flat_x, flat_u, flat_v = _rows(x), _rows(u), _rows(v)
        m, s, size = mean.view(-1), scale.view(-1), flat_x.shape[1]
        mean_u, mean_v = flat_u.mean(1), flat_v.mean(1)
        u_along = s * (_dot(flat_u, flat_x) / size - m * mean_u)
        v_along = s * (_dot(flat_v, flat_x) / size - m * mean_v)
        k = _dot(flat_u, flat_v) / size - mean_u * mean_v - u_along * v_along

        def each(value: Tensor) -> Tensor:
            return value.view(-1, *(1,) * (x.dim() - 1))

        along = torch.addcmul(each(s * s * v_along * m - s * mean_v), v, each(s))
        along = along.addcmul_(x, each(-s * s * v_along))
        bend = torch.addcmul(each(s**3 * k * m), x, each(-(s**3) * k))
        bend = bend.addcmul_(back, each(-s * v_along)).addcmul_(along, each(-s * u_along))
        to_gain = (gradient * along).sum((0, *range(2, x.dim())))
        return along.mul_(gain), bend, to_gain, None, None


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _rows(x: Tensor) -> Tensor:
    """Return ``[N, ...]`` as ``[N, all else]``, in the order of its memory."""
    return (x.permute(0, 2, 3, 1) if _is_channels_last(x) else x).reshape(x.shape[0], -1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.bmm(one.unsqueeze(1), other.unsqueeze(2)).view(-1)


def _normalise(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if input.is_cuda and torch.is_autocast_enabled("cuda"):  # which has normalisations computed in float32
        input = input.float()  # noqa: A001
    if num_groups != 1 or weight is None or bias is None or input.dtype != weight.dtype:
        return F.group_norm(input, num_groups, weight, bias, eps)
    return cast("Tensor", _LayerNorm.apply(input, weight, bias, eps))


class _Piecewise(Function):
    """A piecewise linear layer: what goes back through it is a product with slopes, which are constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Callable[[Tensor], Tensor], back: Back) -> Tensor:
        ctx.save_for_backward(x)
        ctx.back = back
        return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return cast("Tensor", _PiecewiseToInput.apply(gradient, x.detach(), ctx.back)), None, None


class _PiecewiseToInput(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, back: Back) -> Tensor:
        ctx.save_for_backward(x)
        ctx.back = back
        return back(gradient, x)

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return ctx.back(second, x), None, None


def _relu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001
    def back(gradient: Tensor, x: Tensor) -> Tensor:
        return cast("Tensor", aten.threshold_backward(gradient, x, 0))

    return cast("Tensor", _Piecewise.apply(input, F.relu, back))


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001
    def back(gradient: Tensor, x: Tensor) -> Tensor:
        return cast("Tensor", aten.leaky_relu_backward(gradient, x, negative_slope, False))

    return cast("Tensor", _Piecewise.apply(input, partial(F.leaky_relu, negative_slope=negative_slope), back))


RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.conv2d: _convolve,
    F.group_norm: _normalise,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
}


class FastDoubleBackward(TorchFunctionMode):
    """In here, layers are those of `RULES`: take the gradient in the input below `skip_parameter_gradients`."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return RULES.get(function, function)(*args, **(kwargs or {}))
