"""Kernels, memory traffic and host synchronisations of training updates, counted on a simulated GPU.

The trainer runs on fake CUDA tensors, which have a shape, a layout and a device, but no values. Each operation is
recorded instead of run, so neither a GPU nor the time of an update is needed.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry

from wgan_sweep.common.images import to_range
from wgan_sweep.objectives.constraints import Constraint
from wgan_sweep.objectives.constraints import none as no_constraint
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.stabilisers import none as no_stabiliser
from wgan_sweep.training.aliases import Metrics
from wgan_sweep.training.gradient_rules import GradientRules
from wgan_sweep.training.player import MakeOptimizer
from wgan_sweep.training.precision import precision
from wgan_sweep.training.schedules import MakeScheduler
from wgan_sweep.training.trainer import Trainer, TrainerSettings

aten = torch.ops.aten
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
_META = torch.device("meta")
_IS_CUDA = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]

ALLOCATIONS = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten._unsafe_view,
}
"""Operations without a kernel whose result is not a view."""
COPIES = {aten.clone, aten._to_copy, aten.copy_}
"""Operations that may change the layout or the device of a tensor."""
WRITES_ONLY = {aten.copy_, aten.zero_, aten.fill_}
"""Operations that do not read the tensor that they change."""
GATHERS = {aten.index, aten.index_select, aten.gather}
"""Operations that read as many values of their first argument as they return."""
FILL_AND_COPY = {aten.slice_backward, aten.select_backward}
"""Operations with two kernels: one fills the result with zeros, one copies into a part of it."""
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
GROUP_NORMS = {aten.native_group_norm, aten.native_group_norm_backward}
"""Operations that copy images to the contiguous layout first."""
SYNCHRONISING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.equal,
}
"""Operations whose result the host waits for."""


@dataclass(frozen=True)
class Gpu:
    """The peak rates of a GPU."""

    name: str
    bandwidth: float
    """Bytes per second, to and from its memory."""
    peak: dict[str, float]
    """Operations per second of dense matrix products, by precision."""


_HOPPER_PEAK = {"fp32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12}
H100 = Gpu("H100 SXM", 3.35e12, _HOPPER_PEAK)
"""NVIDIA's data sheet of the H100, SXM version; its rates with sparsity are halved."""
H200 = Gpu("H200 SXM", 4.8e12, _HOPPER_PEAK)
"""NVIDIA's data sheet of the H200, SXM version; its rates with sparsity are halved."""


@dataclass(frozen=True)
class Launch:
    """One kernel, or one synchronisation with the host."""

    name: str
    """Name of the operation."""
    read: int = 0
    """Bytes of the operands. A tensor that is broadcast counts once."""
    written: int = 0
    """Bytes of the results."""
    operations: int = 0
    """Floating point operations, of matrix products and convolutions only."""
    is_kernel: bool = True
    changes_layout: bool = False
    """Whether it copies a tensor to another memory format."""
    synchronises: bool = False
    """Whether the host waits for it."""
    mixes_devices: bool = False
    """Whether it has operands on the CPU and on the GPU, beside scalars."""


@dataclass(frozen=True)
class Counts:
    """What a part of a training iteration does on a GPU."""

    launches: tuple[Launch, ...]

    def totals(self) -> dict[str, int]:
        """Return the totals by name.

        Each operation on tensors is one kernel, also a ``_foreach`` operation; a convolution's backward pass has one
        per gradient. Libraries may use a few more.
        """
        return {
            "kernels": sum(launch.is_kernel for launch in self.launches),
            "bytes_read": sum(launch.read for launch in self.launches),
            "bytes_written": sum(launch.written for launch in self.launches),
            "operations": sum(launch.operations for launch in self.launches),
            "layout_copies": sum(launch.changes_layout for launch in self.launches),
            "host_syncs": sum(launch.synchronises for launch in self.launches),
            "device_mixes": sum(launch.mixes_devices for launch in self.launches),
        }

    def roofline_seconds(self, gpu: Gpu, precision_name: str) -> float:
        """Return the time of all kernels at the peak rates of a GPU: each needs its traffic or its operations."""
        peak = gpu.peak[precision_name]
        return sum(max((x.read + x.written) / gpu.bandwidth, x.operations / peak) for x in self.launches)


@dataclass(frozen=True)
class UpdateCounts:
    """The counts of an iteration with one critic update."""

    critic: Counts
    """The critic's update: from decoding its batch to its projection."""
    generator: Counts
    """The rest: the generator's update, its moving average, and keeping the batch for probes."""

    def roofline_seconds(self, gpu: Gpu, precision_name: str, n_critic: int) -> float:
        """Return the time of an iteration with `n_critic` critic updates at the peak rates of a GPU."""
        critic, generator = (part.roofline_seconds(gpu, precision_name) for part in (self.critic, self.generator))
        return n_critic * critic + generator


class Model(Protocol):
    """Makes generator and critic for a shape of data."""

    @property
    def latent_dim(self) -> int:
        """Size of z."""

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return the generator."""

    def critic(self, shape: tuple[int, ...]) -> nn.Module:
        """Return the critic."""


def count_update(
    model: Model,
    shape: tuple[int, ...],
    batch: int,
    precision_name: str,
    *,
    loss: Loss,
    constraint: Constraint | None = None,
    make_optimizer: MakeOptimizer = torch.optim.Adam,
    make_scheduler: MakeScheduler | None = None,
) -> UpdateCounts:
    """Count an iteration of the `Trainer` with one critic update, as it would be captured in a CUDA graph.

    Args:
        model: The networks.
        shape: Shape of an example: ``(channels, height, width)`` of images, or ``(D,)`` of points.
        batch: Examples per batch.
        precision_name: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        loss: The losses of both players.
        constraint: The constraint on the critic; None: no constraint.
        make_optimizer: Returns the optimizer of either player.
        make_scheduler: Returns the scheduler of either player's learning rate; None: the rates are constant.
    """
    constraint = constraint or no_constraint()
    with torch.device("meta"):
        networks = model.generator(shape), constraint.wrap(model.critic(shape))
        generator, critic = (network.to(memory_format=torch.channels_last) for network in networks)
    rules = GradientRules()
    rules.is_chosen = True  # the choice compares values
    with FakeGpu() as gpu:
        batches = _Examples(gpu, shape, batch)

        def project(network: nn.Module) -> None:
            constraint.project(network)
            gpu.begin("generator")

        def make_used_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            parameters = list(parameters)
            optimizer = make_optimizer(parameters)
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()  # the first step allocates the state
            return optimizer

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # by deepcopy
            trainer = Trainer(
                TrainerSettings(latent_dim=model.latent_dim, n_critic=1, ema=0.999, seed=0),
                generator=gpu.adopt(generator),
                critic=gpu.adopt(critic),
                loss=loss,
                constraint=replace(constraint, project=project),
                stabiliser=no_stabiliser(),
                generator_optimizer=make_used_optimizer,
                critic_optimizer=make_used_optimizer,
                generator_schedule=make_scheduler,
                critic_schedule=make_scheduler,
                batches=batches,
                device=CPU,  # of the random number generators: there is none for a fake device
                precision=precision(precision_name, GPU),
                make_graph=lambda _: _EagerGraph(),
                rules=rules,
            )
        next(trainer.steps(1))
    return UpdateCounts(*(Counts(tuple(gpu.launches[part])) for part in ("critic", "generator")))


class _Examples:
    """Real examples on a fake GPU: images in a set of bytes, or points that are there already."""

    def __init__(self, gpu: "FakeGpu", shape: tuple[int, ...], batch: int) -> None:
        self.batch_size = batch
        self._gpu, self._is_image = gpu, len(shape) == 3
        if self._is_image:
            channels, height, width = shape
            self._data = torch.empty(batch, height, width, channels, dtype=torch.uint8, device=GPU)
            self._raw = torch.empty(batch, dtype=torch.int64, device=GPU)
        else:
            self._raw = torch.empty(batch, *shape, device=GPU)

    def next_raw(self) -> Tensor:
        return self._raw

    def decode(self, raw: Tensor) -> Tensor:
        self._gpu.begin("critic")
        return to_range(self._data[raw].permute(0, 3, 1, 2)) if self._is_image else raw

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class _EagerGraph:
    """A graph before its capture: all iterations are eager."""

    def run_eagerly(self, iteration: Callable[[], Metrics]) -> Metrics:
        return iteration()

    def capture(self, iteration: Callable[[], Metrics]) -> Metrics:
        raise NotImplementedError

    def replay(self) -> None:
        raise NotImplementedError

    def release_eager_memory(self) -> None:
        raise NotImplementedError


class FakeGpu:
    """A simulated GPU. Within this context, tensors on ``cuda`` are fake, and operations on them are recorded.

    Numbers that Python asks a tensor for are 1.
    """

    def __init__(self) -> None:
        self.launches: dict[str, list[Launch]] = {}
        """The kernels and synchronisations of each part, in order."""
        self._part: list[Launch] = []

    def __enter__(self) -> "FakeGpu":
        with ExitStack() as stack:
            stack.enter_context(_autocast_without_gpu())
            stack.enter_context(_SharedMode())
            stack.enter_context(_PythonView(stack.enter_context(_Recorder(self))))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self, part: str) -> None:
        """Record under the name of a part from now on."""
        self._part = self.launches.setdefault(part, [])

    def record(self, launch: Launch) -> None:
        """Record a launch in the current part."""
        self._part.append(launch)

    def adopt(self, network: nn.Module) -> nn.Module:
        """Move a network to this GPU in place, without values, and return it."""
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(_like(parameter), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _like(buffer)
        return network


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=GPU)


@contextmanager
def _autocast_without_gpu() -> Iterator[None]:
    """Let autocast to ``cuda`` work on a machine without a GPU."""
    module: Any = torch.cuda.amp.common
    cuda: Any = torch.cuda
    originals = module.amp_definitely_not_available, cuda.is_bf16_supported
    module.amp_definitely_not_available, cuda.is_bf16_supported = lambda: False, lambda *_, **__: True
    try:
        yield
    finally:
        module.amp_definitely_not_available, cuda.is_bf16_supported = originals


class _SharedMode(FakeTensorMode):
    """A fake mode that copies of its tensors share."""

    def __init__(self) -> None:
        super().__init__()

    def __deepcopy__(self, memo: Any) -> "_SharedMode":
        return self


class _PythonView(TorchFunctionMode):
    """Tells Python code that fake tensors are on CUDA, and casts for autocast: C++ code is told otherwise."""

    def __init__(self, recorder: "_Recorder") -> None:
        super().__init__()
        self._recorder = recorder
        self._casts: dict[object, list[torch.dtype | None]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function == _IS_CUDA:
            return args[0].device.type == "cuda"
        if not torch.is_autocast_enabled("cuda"):
            return function(*args, **(kwargs or {}))
        values, structure = tree_flatten((args, kwargs or {}))
        dtypes = [value.dtype if isinstance(value, Tensor) else None for value in values]
        key = function, torch.get_autocast_dtype("cuda"), tuple(dtypes)
        if key not in self._casts:
            self._casts[key] = self._recorder.dtypes_of_casts(function, values, structure)
        with torch.autocast("cuda", enabled=False):
            casts = zip(values, self._casts[key], strict=True)
            args, kwargs = tree_unflatten([x if dtype is None else x.to(dtype) for x, dtype in casts], structure)
            return function(*args, **kwargs)


class _Recorder(TorchDispatchMode):
    """Records operations on fake tensors.

    C++ code is told that fake CUDA tensors are meta tensors: autograd would ask a CUDA driver for streams otherwise.
    """

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu
        self._dtypes_of_casts: dict[int, torch.dtype] | None = None

    def dtypes_of_casts(
        self, function: Callable[..., Any], values: list[Any], structure: TreeSpec
    ) -> list[torch.dtype | None]:
        """Return the dtypes that autocast on CUDA casts a function's arguments to, without recording."""
        args, kwargs = tree_unflatten(values, structure)
        dtypes: dict[int, torch.dtype] = {}
        self._dtypes_of_casts = dtypes
        try:
            with torch.no_grad():
                function(*args, **kwargs)
        finally:
            self._dtypes_of_casts = None
        return [dtypes.get(id(value)) for value in values]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            device = args[0].fake_device
            return device if self._dtypes_of_casts is not None or device.type != "cuda" else _META
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == _META:
            kwargs["device"] = GPU
        if kwargs.get("generator") is not None:
            kwargs["generator"] = None  # a CPU generator cannot draw on another device
        if func is aten._local_scalar_dense.default:
            output: Any = 1.0 if args[0].is_floating_point() else 1
        elif func in CONVOLUTIONS:
            output = _convolve(func, args)
        elif func._schema.name.startswith("aten::_fused_") and not func._schema.returns:
            output = None  # a fused optimizer works in place; torch lacks the fake version of some
        else:
            output = func(*args, **kwargs)
        if self._dtypes_of_casts is None:
            for launch in _launches(func, args, kwargs, output):
                self._gpu.record(launch)
        elif func is aten._to_copy.default and (dtype := kwargs.get("dtype")):
            self._dtypes_of_casts[id(args[0])] = dtype
        return output


def _convolve(func: Any, args: Sequence[Any]) -> Any:
    """Apply a convolution to fake tensors. On a machine without a GPU, cuDNN is not expected to take bfloat16."""
    values, structure = tree_flatten(args)
    halves = [x.half() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for x in values]
    output = func(*tree_unflatten(halves, structure))
    if all(x is y for x, y in zip(values, halves, strict=True)):
        return output
    return tree_map(lambda x: x.bfloat16() if isinstance(x, Tensor) else x, output)


def _launches(func: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> Iterator[Launch]:
    """Yield what an operation launches on the GPU."""
    operation, name = func._overloadpacket, str(func._overloadpacket).removeprefix("aten.")
    inputs, outputs = _tensors((args, kwargs)), _tensors(output)
    if not any(map(_is_on_gpu, (*inputs, *outputs))):
        return
    yield from _layout_copies(func, inputs)
    mixes = any(map(_is_on_gpu, inputs)) and any(not _is_on_gpu(tensor) and tensor.dim() for tensor in inputs)
    if operation in SYNCHRONISING:
        is_kernel = operation is not aten._local_scalar_dense
        yield Launch(name, _bytes(inputs), _bytes(outputs), 0, is_kernel, synchronises=True, mixes_devices=mixes)
    elif operation in ALLOCATIONS or func.is_view:
        return
    elif operation is aten.convolution_backward:
        yield from _convolution_backward_launches(name, args, output)
    elif operation in FILL_AND_COPY:
        yield Launch(name, 0, _bytes(outputs))
        yield Launch(name, _bytes(inputs), _bytes(inputs))
    elif operation in COPIES:
        source = inputs[-1]
        transfers = _is_on_gpu(source) != _is_on_gpu(outputs[0])
        waits = transfers and not (kwargs.get("non_blocking") or (operation is aten.copy_ and True in args[2:]))
        yield Launch(
            name,
            _bytes([source]),
            _bytes(outputs),
            changes_layout=_memory_order(source) != _memory_order(outputs[0]),
            synchronises=waits,
        )
    else:
        changed = _changed(func, args, kwargs)
        operands = [x for x in inputs if not (operation in WRITES_ONLY and any(x is y for y in changed))]
        read = _bytes(operands)
        if operation in GATHERS:
            read = _bytes(operands[1:]) + _bytes(outputs)
        formula = flop_registry.get(operation)
        operations = int(formula(*args, **kwargs, out_val=output)) if formula else 0
        yield Launch(name, read, _bytes(_distinct((*changed, *outputs))), operations, mixes_devices=mixes)


def _layout_copies(func: Any, inputs: Sequence[Tensor]) -> Iterator[Launch]:
    """Yield the copies to another layout that an operation makes of its images, before its own kernels.

    cuDNN convolves in the layout channels last if input or weight is in that layout.
    """
    layout = torch.contiguous_format
    images = [x for x in inputs if x.dim() == 4]
    if func in CONVOLUTIONS:
        if any(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() for x in images[-2:]):
            layout = torch.channels_last
    elif func._overloadpacket not in GROUP_NORMS:
        return
    for x in images:
        if not x.is_contiguous(memory_format=layout):
            yield Launch(
                "copy before " + str(func._overloadpacket).removeprefix("aten."),
                _bytes([x]),
                _bytes([x]),
                changes_layout=True,
            )


def _convolution_backward_launches(name: str, args: Sequence[Any], output: Any) -> Iterator[Launch]:
    """Yield one launch per computed gradient, with what it reads."""
    grad_output, x, weight, *options, mask = args
    operands = ([grad_output, weight], [grad_output, x], [grad_output])
    formula = flop_registry[aten.convolution_backward]
    for index, gradient in enumerate(["input", "weight", "bias"]):
        if mask[index]:
            only = [i == index for i in range(3)]
            operations = formula(grad_output, x, weight, *options, only, out_val=output) if index < 2 else 0
            yield Launch(f"{name} ({gradient})", _bytes(operands[index]), _bytes([output[index]]), int(operations))


def _changed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation changes in place."""
    changed: list[Tensor] = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed += _tensors(args[index] if index < len(args) else kwargs.get(argument.name))
    return changed


def _tensors(values: Any) -> list[Tensor]:
    return _distinct(value for value in tree_leaves(values) if isinstance(value, Tensor))


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes in memory of the tensors on the GPU."""
    total = 0
    for tensor in tensors:
        if _is_on_gpu(tensor):
            count = 1
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
                count *= size if stride else min(size, 1)
            total += count * tensor.itemsize
    return total


def _memory_order(tensor: Tensor) -> list[int]:
    """Return the dimensions from the largest stride to the smallest, without those of one value."""
    strides = {d: s for d, (n, s) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)) if n > 1 and s > 0}
    return sorted(strides, key=lambda dimension: -strides[dimension])
