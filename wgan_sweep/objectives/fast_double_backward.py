"""Layers that are cheap to differentiate twice: convolutions, normalisations and piecewise linear layers.

The double backward rules of PyTorch are correct but slow. For a convolution, they compute the weight gradient as a
convolution with kernels as large as the images. For a piecewise linear layer, they send a gradient of zeros through all
layers before it. For a normalisation, they are a long chain of small operations.

Here the double backward of a convolution consists of the same three operations as its backward, a piecewise linear
layer is a product with its constant slopes, and the double backward of a group norm (also as layer and instance norm)
is written out in `models.group_norm`. All other layers use the rules of PyTorch, and so does a group norm whose gain
depends on the points, an unbatched convolution, and everything inside a transform such as ``torch.vmap``.

Layers in place change their input, as those of PyTorch do. Each layer saves the tensors that the layer of PyTorch
saves, so a checkpointed block (``torch.utils.checkpoint``) can be computed again by the layers of PyTorch.

Names follow PyTorch: `grad_output` and `grad_input` are the gradients with respect to a layer's output and input;
`grad_grad_input` is the gradient that a double backward receives (with respect to `grad_input`), and
`grad_grad_output` is the one that it returns with respect to `grad_output`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from wgan_sweep.models import group_norm
from wgan_sweep.models.group_norm import group_norm_in_dtype_of_input, is_channels_last

aten = torch.ops.aten
ConvolutionOptions = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, transposed, output padding and groups: arguments of ``aten.convolution``."""
InputGradient = Callable[[Tensor, Tensor], Tensor]
"""From (grad_output, input) of a layer to its grad_input."""


class _BackwardMode:
    """Whether backward passes skip parameter gradients, which `needs_input_grad` does not tell."""

    skip_parameter_gradients = False


@contextmanager
def skip_parameter_gradients() -> Iterator[None]:
    """Within this context, a backward pass computes gradients with respect to the points only.

    Weights that depend on the points are differentiated, too. The gradients can be differentiated again, also with
    respect to the parameters.
    """
    _BackwardMode.skip_parameter_gradients = True
    try:
        yield
    finally:
        _BackwardMode.skip_parameter_gradients = False


def _convolution_input_gradient(
    grad_output: Tensor, input_like: Tensor, weight: Tensor, options: ConvolutionOptions
) -> Tensor:
    mask = [True, False, False]
    return cast("Tensor", aten.convolution_backward(grad_output, input_like, weight, None, *options, mask)[0])


def _convolution_weight_gradient(
    grad_output: Tensor, x: Tensor, weight_like: Tensor, options: ConvolutionOptions
) -> Tensor:
    mask = [False, True, False]
    return cast("Tensor", aten.convolution_backward(grad_output, x, weight_like, None, *options, mask)[1])


class _DependsOnPoints(NamedTuple):
    """Which arguments of a convolution depend on the points."""

    weight: bool
    bias: bool


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: ConvolutionOptions,
        is_first_layer: bool,
        depends_on_points: _DependsOnPoints,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.is_first_layer, ctx.depends_on_points = options, is_first_layer, depends_on_points
        ctx.bias_sizes = None if bias is None else [bias.shape[0]]
        return cast("Tensor", aten.convolution(x, weight, bias, *options))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_grad_input, needs_grad_weight, needs_grad_bias, *_ = ctx.needs_input_grad
        grad_input = grad_weight = grad_bias = None
        if _BackwardMode.skip_parameter_gradients:
            if needs_grad_input:
                grad_input = _ConvolutionInputGradient.apply(grad_output, x.detach(), weight, ctx.options)
            if ctx.depends_on_points.weight:
                grad_weight = _ConvolutionWeightGradient.apply(grad_output, x, weight.detach(), ctx.options)
            if ctx.depends_on_points.bias:
                grad_bias = grad_output.sum((0, 2, 3))
            return grad_input, grad_weight, grad_bias, None, None, None
        mask = [needs_grad_input and not ctx.is_first_layer, needs_grad_weight, needs_grad_bias]
        gradients = aten.convolution_backward(grad_output, x, weight, ctx.bias_sizes, *ctx.options, mask)
        grad_input, grad_weight, grad_bias = (
            gradient if is_computed else None for gradient, is_computed in zip(gradients, mask, strict=True)
        )
        return grad_input, grad_weight, grad_bias, None, None, None


class _ConvolutionInputGradient(Function):
    """From (grad_output, input, weight) of a convolution to its grad_input, which is linear in grad_output and weight.

    The input is only needed for its shape.
    """

    @staticmethod
    def forward(
        ctx: Any, grad_output: Tensor, input_like: Tensor, weight: Tensor, options: ConvolutionOptions
    ) -> Tensor:
        ctx.save_for_backward(grad_output, weight)
        ctx.options = options
        return _convolution_input_gradient(grad_output, input_like, weight, options)

    @staticmethod
    def backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Tensor | None, ...]:
        grad_output, weight = ctx.saved_tensors
        grad_grad_output = (
            aten.convolution(grad_grad_input, weight, None, *ctx.options) if ctx.needs_input_grad[0] else None
        )
        grad_weight = (
            _convolution_weight_gradient(grad_output, grad_grad_input, weight, ctx.options)
            if ctx.needs_input_grad[2]
            else None
        )
        return grad_grad_output, None, grad_weight, None


class _ConvolutionWeightGradient(Function):
    """From (grad_output, input, weight) of a convolution to its grad_weight, linear in grad_output and input.

    The weight is only needed for its shape.
    """

    @staticmethod
    def forward(ctx: Any, grad_output: Tensor, x: Tensor, weight_like: Tensor, options: ConvolutionOptions) -> Tensor:
        ctx.save_for_backward(grad_output, x)
        ctx.options = options
        return _convolution_weight_gradient(grad_output, x, weight_like, options)

    @staticmethod
    def backward(ctx: Any, grad_grad_weight: Tensor) -> tuple[Tensor | None, ...]:
        grad_output, x = ctx.saved_tensors
        grad_grad_output = (
            aten.convolution(x, grad_grad_weight, None, *ctx.options) if ctx.needs_input_grad[0] else None
        )
        grad_x = (
            _convolution_input_gradient(grad_output, x, grad_grad_weight, ctx.options)
            if ctx.needs_input_grad[1]
            else None
        )
        return grad_grad_output, grad_x, None, None


def _depends_on(tensor: Tensor | None, points: Tensor) -> bool:
    """Return whether a gradient of `tensor` would flow into `points`, a leaf."""
    if tensor is points:
        return True
    visited: set[Node] = set()
    unvisited: list[Node | None] = [None if tensor is None else tensor.grad_fn]
    while unvisited:
        node = unvisited.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if getattr(node, "variable", None) is points:
            return True
        unvisited.extend(next_node for next_node, _ in node.next_functions)
    return False


def _conv2d(
    points: Tensor,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or input.dim() != 4:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    # The gradient with respect to the points is only used below `skip_parameter_gradients`.
    is_first_layer = input is points
    depends_on_points = _DependsOnPoints(_depends_on(weight, points), _depends_on(bias, points))
    sizes = (_pair(size) for size in (stride, padding, dilation))
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(dtype), weight.to(dtype)  # noqa: A001
        bias = None if bias is None else bias.to(dtype)
    options = (*sizes, False, [0, 0], groups)
    return cast("Tensor", _Convolution.apply(input, weight, bias, options, is_first_layer, depends_on_points))


def _pair(size: int | Sequence[int]) -> list[int]:
    """Return a size as one value for each of the two dimensions of an image."""
    sizes = [size] if isinstance(size, int) else list(size)
    return sizes * 2 if len(sizes) == 1 else sizes


class _GroupNorm(Function):
    """Group norm. Mean and scale of each group are outputs, too, so that they have gradients of their own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            output, mean, scale = group_norm.group_norm(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.set_materialize_grads(False)
        ctx.coefficients = None
        return output, mean, scale

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_mean: Tensor | None, grad_scale: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        if ctx.coefficients is None:
            with torch.no_grad():
                ctx.coefficients = group_norm.coefficients(x, weight, scale)
        if _BackwardMode.skip_parameter_gradients:
            grad_input = _GroupNormInputGradient.apply(grad_output, x, weight, mean, scale, ctx.coefficients)
            return grad_input, None, None, None, None
        statistics = group_norm.Statistics(mean, scale, *ctx.coefficients)
        return *group_norm.backward(grad_output, grad_mean, grad_scale, x, weight, statistics), None, None


class _GroupNormInputGradient(Function):
    """From grad_output of a group norm to its grad_input. The gradients of mean and scale come back to `_GroupNorm`."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_output: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        coefficients: tuple[Tensor, Tensor],
    ) -> Tensor:
        statistics = group_norm.Statistics(mean, scale, *coefficients)
        value, sums, totals, factors = group_norm.input_gradient(grad_output, x, weight, statistics)
        ctx.save_for_backward(grad_output, x, weight, *statistics, sums, totals, factors)
        return value

    @staticmethod
    def backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Tensor | None, ...]:
        grad_output, x, weight, *rest = ctx.saved_tensors
        statistics, details = group_norm.Statistics(*rest[:4]), rest[4:]
        return *group_norm.differentiate(grad_grad_input, grad_output, x, weight, statistics, *details), None


def _is_normalised_in_float32(device_type: str) -> bool:
    """Return whether normalisations compute in float32: under autocast on CUDA and, here, also for float16 on a CPU."""
    if not torch.is_autocast_enabled(device_type):
        return False
    return device_type == "cuda" or torch.get_autocast_dtype(device_type) == torch.float16


def _group_norm(
    points: Tensor,
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if _is_normalised_in_float32(input.device.type):
        input = input.float()  # noqa: A001
    return _group_norm_in_dtype_of_input(points, input, num_groups, weight, bias, eps)


def _group_norm_in_dtype_of_input(
    points: Tensor, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    if (
        weight is None
        or bias is None
        or torch.promote_types(x.dtype, weight.dtype) != weight.dtype
        or _depends_on(weight, points)
        or _depends_on(bias, points)
    ):
        return F.group_norm(x, groups, weight, bias, eps)
    if not (x.is_contiguous() or is_channels_last(x)):
        x = x.contiguous()
    return cast("Tensor", _GroupNorm.apply(x, weight, bias, groups, eps)[0])


class _PiecewiseLinear(Function):
    """A piecewise linear layer: its backward is a product with its slopes, which are constants.

    `layer` may change its input in place, and then returns it. `input_gradient` receives the layer's output if
    `saves_output`, else its input.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: Callable[[Tensor], Tensor], input_gradient: InputGradient, saves_output: bool
    ) -> Tensor:
        output = layer(x)
        if output is x:
            ctx.mark_dirty(x)
        ctx.save_for_backward(output if saves_output else x)
        ctx.input_gradient = input_gradient
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        grad_input = _PiecewiseLinearInputGradient.apply(grad_output, saved.detach(), ctx.input_gradient)
        return cast("Tensor", grad_input), None, None, None


class _PiecewiseLinearInputGradient(Function):
    """From grad_output of a piecewise linear layer to its grad_input; its derivative is the same product."""

    @staticmethod
    def forward(ctx: Any, grad_output: Tensor, saved: Tensor, input_gradient: InputGradient) -> Tensor:
        ctx.save_for_backward(saved)
        ctx.input_gradient = input_gradient
        return input_gradient(grad_output, saved)

    @staticmethod
    def backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        return ctx.input_gradient(grad_grad_input, saved), None, None


def _relu(points: Tensor, input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001
    def input_gradient(grad_output: Tensor, output: Tensor) -> Tensor:
        return cast("Tensor", aten.threshold_backward(grad_output, output, 0))

    return cast("Tensor", _PiecewiseLinear.apply(input, partial(F.relu, inplace=inplace), input_gradient, True))


def _leaky_relu(
    points: Tensor,  # noqa: ARG001
    input: Tensor,  # noqa: A002
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Tensor:
    def input_gradient(grad_output: Tensor, saved: Tensor) -> Tensor:
        return cast("Tensor", aten.leaky_relu_backward(grad_output, saved, negative_slope, inplace))

    layer = partial(F.leaky_relu, negative_slope=negative_slope, inplace=inplace)
    return cast("Tensor", _PiecewiseLinear.apply(input, layer, input_gradient, inplace))


def _attention(points: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ARG001
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args, **kwargs)


def _multi_head_attention(points: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:  # noqa: ARG001
    with sdpa_kernel(SDPBackend.MATH):
        return F.multi_head_attention_forward(*args, **kwargs)


REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.group_norm: _group_norm,
    group_norm_in_dtype_of_input: _group_norm_in_dtype_of_input,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
}
"""PyTorch functions and their replacements, with the same arguments after the points."""


class FastDoubleBackward(TorchFunctionMode):
    """Within this context, layers call the functions of `REPLACEMENTS`, and attention consists of plain operations.

    Gradients that are differentiated again must be computed below `skip_parameter_gradients`.

    Args:
        points: ``[N, ...]``: a leaf, the input that gradients are computed with respect to.
    """

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self._points = points

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = REPLACEMENTS.get(function)
        if replacement is None:
            return function(*args, **(kwargs or {}))
        if torch._C._are_functorch_transforms_active():  # transforms have rules of their own
            with sdpa_kernel(SDPBackend.MATH):
                return function(*args, **(kwargs or {}))
        return replacement(self._points, *args, **(kwargs or {}))
