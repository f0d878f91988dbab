"""Whole iterations: `N_CRITIC` critic updates and a generator update, by this package and as others do them."""

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

from wgan_sweep.bench.alone import WARM_UP, first_and_peak, settle
from wgan_sweep.bench.ways import N_CRITIC, Steps, Subject, Way, ours, plain
from wgan_sweep.objectives.sampling import real_fake
from wgan_sweep.training.precision import precision


def milliseconds(steps: Steps, count: int, device: torch.device) -> float:
    """Return the mean time of `count` iterations."""
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    settle(device)
    return (time.perf_counter() - began) * 1000 / count


@dataclass(frozen=True)
class Cost:
    """What an iteration costs."""

    subject: str
    way: str
    ms: float
    spread: float
    """(largest - smallest) / median."""
    images_per_second: float
    """Real images shown to the critic."""
    ratio: float
    """How often faster than the plain form in the same arithmetic: the median over the turns, each with its own."""
    of_floor: float
    """The time that the fewest operations for the same r(x) take at the speed of large ones, over ms."""
    first_seconds: float
    """From nothing to the end of the first iteration."""
    first_seconds_again: float
    """The same in another process, after this one's."""
    peak_mib: float
    """Most memory held: of the GPU, or by that process."""


def measure(
    subject: Subject, compared: Mapping[str, tuple[Way, str]], repeats: int, count: int, device: torch.device
) -> Iterator[Cost]:
    """Yield medians; the ways take turns."""
    running, firsts, alone = {}, {}, {}
    for name, (way, arithmetic) in compared.items():
        began = time.perf_counter()
        running[name] = way(subject, device, arithmetic)
        milliseconds(running[name], 1, device)
        firsts[name] = time.perf_counter() - began
        milliseconds(running[name], WARM_UP, device)
        alone[name] = first_and_peak(subject, device, way, arithmetic)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(repeats):
        for name, steps in running.items():
            times[name].append(milliseconds(steps, count, device))
    operations = {name: count_operations(subject, way, device) for name, (way, _) in compared.items()}
    speeds = {arithmetic: speed(arithmetic, device) for _, arithmetic in compared.values()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    yardsticks = {arithmetic: times[name] for name, (way, arithmetic) in compared.items() if way is plain}
    for name, (_, arithmetic) in compared.items():
        ms = medians[name]
        yield Cost(
            subject=subject.name,
            way=name,
            ms=ms,
            spread=(max(times[name]) - min(times[name])) / ms,
            images_per_second=1000 * subject.batch * N_CRITIC / ms,
            ratio=statistics.median(a / b for a, b in zip(yardsticks[arithmetic], times[name], strict=True)),
            of_floor=1000 * operations[name] / speeds[arithmetic] / ms,
            first_seconds=firsts[name],
            first_seconds_again=alone[name][0],
            peak_mib=alone[name][1],
        )


class _Operations(TorchDispatchMode):
    """Counts by torch's own formulas (its FlopCounterMode does not go with gradients of gradients)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += int(formula(*args, **(kwargs or {}), out_val=made))
        return made


def count_operations(subject: Subject, way: Way, device: torch.device) -> int:
    """Return the operations of an iteration's matrix products and convolutions: ours, which are the fewest."""
    sampling = way.keywords.get("sampling", real_fake) if isinstance(way, partial) else real_fake
    steps = ours(subject, device, "fp32", sampling)
    with _Operations() as counted:
        next(steps)
    total: int = counted.total
    return total


def speed(arithmetic: str, device: torch.device) -> float:
    """Return the operations per second of a large matrix product or convolution: the best of several of either."""
    size, channels, area = (8192, 512, 64) if device.type == "cuda" else (2048, 128, 32)
    one, other = (torch.randn(size, size, device=device) for _ in range(2))
    images = torch.randn(32, channels, area, area, device=device).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(memory_format=torch.channels_last)
    work: list[tuple[int, Callable[[], Tensor]]] = [
        (2 * size**3, lambda: torch.mm(one, other)),
        (2 * images.numel() * 9 * channels, lambda: torch.conv2d(images, kernel, padding=1)),
    ]
    context = precision(arithmetic, device)
    best = 0.0
    with context.step(), context.forward():
        for operations, apply in work * 8:
            settle(device)
            began = time.perf_counter()
            apply()
            settle(device)
            best = max(best, operations / (time.perf_counter() - began))
    return best
