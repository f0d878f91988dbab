"""Time, throughput and memory of whole iterations: `N_CRITIC` critic updates and one generator update."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wgan_sweep.bench.implementations import Implementation, Steps, eager_double_backward, ours
from wgan_sweep.bench.processes import WARM_UP, first_iteration_and_peak, synchronize
from wgan_sweep.bench.workloads import N_CRITIC, Workload
from wgan_sweep.objectives.sampling import real_fake
from wgan_sweep.training.precision import precision


def milliseconds_per_iteration(steps: Steps, count: int, device: torch.device) -> float:
    """Run `count` iterations and return their mean time."""
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    synchronize(device)
    return (time.perf_counter() - start) * 1000 / count


@dataclass(frozen=True)
class Cost:
    """Cost of an iteration of one implementation in one precision."""

    workload: str
    implementation: str
    """Name of the implementation, with its precision."""
    ms: float
    """Median time."""
    spread: float
    """(max - min) / median of the times."""
    images_per_second: float
    """Real images shown to the critic per second."""
    ratio: float
    """Speed relative to eager double backward in the same precision: the median of the ratios within each repeat."""
    utilisation: float
    """Lower bound of the time over `ms`: the fewest operations for the same r(x), at `peak_operations_per_second`."""
    first_seconds: float
    """From building the networks to the end of the first iteration, with nothing compiled beforehand."""
    first_seconds_cached: float
    """The same in a new process afterwards, which reuses the compiled code on disk."""
    peak_mib: float
    """Peak memory: allocated on the GPU, or resident in the process on a CPU."""


def measure_costs(
    workload: Workload,
    compared: Mapping[str, tuple[Implementation, str]],
    repeats: int,
    count: int,
    device: torch.device,
) -> Iterator[Cost]:
    """Yield the cost of each implementation.

    The implementations are measured alternately: each repeat measures all of them once.

    Args:
        workload: What is trained.
        compared: Implementations and their precisions, by name; each precision includes `eager_double_backward`.
        repeats: Measurements of each implementation.
        count: Iterations per measurement.
        device: Where all of them train.
    """
    running, first_seconds, fresh = {}, {}, {}
    for name, (implementation, precision_name) in compared.items():
        start = time.perf_counter()
        running[name] = implementation(workload, device, precision_name)
        milliseconds_per_iteration(running[name], 1, device)
        first_seconds[name] = time.perf_counter() - start
        milliseconds_per_iteration(running[name], WARM_UP, device)
        fresh[name] = first_iteration_and_peak(workload, device, implementation, precision_name)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(repeats):
        for name, steps in running.items():
            times[name].append(milliseconds_per_iteration(steps, count, device))
    operations = {
        name: count_operations(workload, implementation, device) for name, (implementation, _) in compared.items()
    }
    peak_rates = {
        precision_name: peak_operations_per_second(precision_name, device) for _, precision_name in compared.values()
    }
    medians = {name: statistics.median(values) for name, values in times.items()}
    baselines = {
        precision_name: times[name]
        for name, (implementation, precision_name) in compared.items()
        if getattr(implementation, "func", implementation) is eager_double_backward
    }
    for name, (_, precision_name) in compared.items():
        ms = medians[name]
        ratios = [base / value for base, value in zip(baselines[precision_name], times[name], strict=True)]
        yield Cost(
            workload=workload.name,
            implementation=name,
            ms=ms,
            spread=(max(times[name]) - min(times[name])) / ms,
            images_per_second=1000 * workload.batch * N_CRITIC / ms,
            ratio=statistics.median(ratios),
            utilisation=1000 * operations[name] / peak_rates[precision_name] / ms,
            first_seconds=first_seconds[name],
            first_seconds_cached=fresh[name][0],
            peak_mib=fresh[name][1],
        )


class _OperationCounter(TorchDispatchMode):
    """Counts floating point operations by torch's formulas (`FlopCounterMode` fails under double backward)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += int(formula(*args, **(kwargs or {}), out_val=output))
        return output


def count_operations(workload: Workload, implementation: Implementation, device: torch.device) -> int:
    """Return the operations of the matrix products and convolutions in an iteration of `ours`, which needs the fewest.

    The sampling scheme is the implementation's.
    """
    sampling = implementation.keywords.get("sampling", real_fake) if isinstance(implementation, partial) else real_fake
    steps = ours(workload, device, "fp32", sampling)
    with _OperationCounter() as counter:
        next(steps)
    total: int = counter.total
    return total


def peak_operations_per_second(precision_name: str, device: torch.device) -> float:
    """Return the highest rate measured on a large matrix product and on a large convolution, eight times each."""
    size, channels, area = (8192, 512, 64) if device.type == "cuda" else (2048, 128, 32)
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    images = torch.randn(32, channels, area, area, device=device).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(memory_format=torch.channels_last)
    candidates: list[tuple[int, Callable[[], Tensor]]] = [
        (2 * size**3, lambda: torch.mm(left, right)),
        (2 * images.numel() * 9 * channels, lambda: torch.conv2d(images, kernel, padding=1)),
    ]
    context = precision(precision_name, device)
    best = 0.0
    with context.step(), context.forward():
        for operations, apply in candidates * 8:
            synchronize(device)
            start = time.perf_counter()
            apply()
            synchronize(device)
            best = max(best, operations / (time.perf_counter() - start))
    return best
