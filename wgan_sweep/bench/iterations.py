"""Whole iterations: `N_CRITIC` critic updates and a generator update, by this package and as others do them."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wgan_sweep import rng
from wgan_sweep.constraints import none as no_constraint
from wgan_sweep.data import ImageSet
from wgan_sweep.gradient_terms import Centred, GradientTerm
from wgan_sweep.graphs import CudaGraph
from wgan_sweep.images import to_range
from wgan_sweep.losses import Loss, wasserstein
from wgan_sweep.models import DCGAN, ResNet
from wgan_sweep.precision import precision
from wgan_sweep.sampling import Sampling, real, real_fake
from wgan_sweep.stabilisers import none as no_stabiliser
from wgan_sweep.trainer import Trainer

N_CRITIC = 4
IMAGES = 1024
Model = DCGAN | ResNet


@dataclass(frozen=True)
class Subject:
    """What is trained."""

    name: str
    model: Model
    size: int
    batch: int = 64

    def of(self, batch: int) -> "Subject":
        """Return the same with another batch size."""
        return replace(self, batch=batch)

    def networks(self, device: torch.device) -> tuple[nn.Module, nn.Module]:
        """Return generator and critic, the same weights at every call."""
        with rng.seeded(0, "bench"):
            made = self.model.generator((3, self.size, self.size)), self.model.critic((3, self.size, self.size))
        return made[0].to(device), made[1].to(device)

    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return uint8 ``[IMAGES, size, size, 3]``."""
        return np.random.default_rng(0).integers(0, 256, (IMAGES, self.size, self.size, 3), dtype=np.uint8)


def _dcgan(dim: int) -> DCGAN:
    return DCGAN(dim, 128, "batch", "none")


def _resnet(dim: int) -> ResNet:
    return ResNet(dim, 128, "batch", "layer")


SMALL = [Subject("dcgan 32x32 dim 16", _dcgan(16), 32), Subject("resnet 32x32 dim 16", _resnet(16), 32)]
"""What a CPU trains in a second."""
FULL = [
    Subject("dcgan 64x64 dim 64", _dcgan(64), 64),
    Subject("resnet 32x32 dim 64", _resnet(64), 32),
    Subject("resnet 64x64 dim 64", _resnet(64), 64),
]
"""The sizes of the papers."""

Steps = Iterator[object]
Way = Callable[[Subject, torch.device, str], Steps]
_Adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.9))


def ours(subject: Subject, device: torch.device, arithmetic: str, sampling: Sampling = real_fake) -> Steps:
    """WGAN-GP by this package's trainer, as `experiment.build` makes it."""
    generator, critic = (n.to(memory_format=torch.channels_last) for n in subject.networks(device))
    return Trainer(
        generator=generator,
        critic=critic,
        loss=Loss(wasserstein().critic, wasserstein().generator, (GradientTerm(Centred(10, 1, 2), sampling),)),
        constraint=no_constraint(),
        stabiliser=no_stabiliser(),
        generator_optimizer=_Adam,
        critic_optimizer=_Adam,
        batches=ImageSet(subject.pixels()).batches(subject.batch, 0, device),
        latent_dim=subject.model.latent_dim,
        n_critic=N_CRITIC,
        ema=0.999,
        seed=0,
        device=device,
        precision=precision(arithmetic, device),
        graph=CudaGraph if device.type == "cuda" else None,
    ).steps(sys.maxsize)


def _real_batches(subject: Subject, device: torch.device) -> Iterator[Tensor]:
    pixels = torch.from_numpy(subject.pixels()).permute(0, 3, 1, 2).contiguous().to(device)
    while True:
        for indices in torch.randperm(IMAGES, device=device).split(subject.batch):
            yield to_range(pixels[indices])


def plain(subject: Subject, device: torch.device, arithmetic: str) -> Steps:
    """WGAN-GP as public PyTorch code writes it: eager, double backward, one Adam per network, no averaging."""
    generator, critic = subject.networks(device)
    of_generator, of_critic = _Adam(generator.parameters()), _Adam(critic.parameters())
    real_batches, context = _real_batches(subject, device), precision(arithmetic, device)

    def noise() -> Tensor:
        return torch.randn(subject.batch, subject.model.latent_dim, device=device)

    while True:
        with context.step():
            for _ in range(N_CRITIC):
                batch = next(real_batches)
                with torch.no_grad(), context.forward():
                    fake = generator(noise()).float()
                epsilon = torch.rand(subject.batch, 1, 1, 1, device=device)
                points = (epsilon * batch + (1 - epsilon) * fake).requires_grad_()
                with context.forward():
                    loss = critic(fake).mean() - critic(batch).mean()
                    at_points = critic(points)
                (gradient,) = torch.autograd.grad(at_points.sum(), points, create_graph=True)
                penalty = 10 * (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()
                of_critic.zero_grad()
                (loss + penalty).backward()
                of_critic.step()
            with context.forward():
                loss = -critic(generator(noise())).mean()
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
        yield None


def torchgan(subject: Subject, device: torch.device, arithmetic: str) -> Steps:
    """WGAN-GP by torchgan's losses, which step the critic once for the scores and once for the penalty."""
    losses = import_module("torchgan.losses")
    generator, critic = (_as_torchgans(network, subject) for network in subject.networks(device))
    of_generator, of_critic = _Adam(generator.parameters()), _Adam(critic.parameters())
    for_critic = [losses.WassersteinDiscriminatorLoss(), losses.WassersteinGradientPenalty()]
    for_generator = losses.WassersteinGeneratorLoss()
    real_batches, context = _real_batches(subject, device), precision(arithmetic, device)
    while True:
        with context.step(), context.forward():
            for _ in range(N_CRITIC):
                batch = next(real_batches)
                for loss in for_critic:
                    loss.train_ops(generator, critic, of_critic, batch, device)
            for_generator.train_ops(generator, critic, of_generator, device, subject.batch)
        yield None


def _as_torchgans(network: Any, subject: Subject) -> Any:
    network.encoding_dims, network.label_type = subject.model.latent_dim, "none"
    return network


def ways(arithmetics: list[str]) -> dict[str, tuple[Way, str]]:
    """Return what is compared: each way with its arithmetic, by name."""
    found: dict[str, tuple[Way, str]] = {}
    for arithmetic in arithmetics:
        found[f"plain double backward, {arithmetic}"] = plain, arithmetic
        found[f"ours, {arithmetic}"] = ours, arithmetic
        found[f"ours with r(x) the real batch, {arithmetic}"] = partial(ours, sampling=real), arithmetic
    if find_spec("torchgan"):
        found[f"torchgan, {arithmetics[0]}"] = torchgan, arithmetics[0]
    return found


def settle(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
    """The time that the fewest operations for the same r(x) take at a large matrix product's speed, over ms."""
    first_seconds: float
    """From nothing to the end of the first iteration."""
    peak_mib: float | None
    """Memory of the GPU."""


def measure(
    subject: Subject, compared: Mapping[str, tuple[Way, str]], repeats: int, count: int, device: torch.device
) -> Iterator[Cost]:
    """Yield medians; the ways take turns."""
    running, peaks, firsts = {}, {}, {}
    for name, (way, arithmetic) in compared.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        began = time.perf_counter()
        running[name] = way(subject, device, arithmetic)
        milliseconds(running[name], 1, device)
        firsts[name] = time.perf_counter() - began
        milliseconds(running[name], 5, device)
        peaks[name] = (torch.cuda.max_memory_allocated(device) - before) / 2**20 if device.type == "cuda" else None
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(repeats):
        for name, steps in running.items():
            times[name].append(milliseconds(steps, count, device))
    operations = {name: count_operations(subject, way, device) for name, (way, _) in compared.items()}
    speeds = {arithmetic: matmul_speed(arithmetic, device) for _, arithmetic in compared.values()}
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
            peak_mib=peaks[name],
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
    steps = (way if isinstance(way, partial) else ours)(subject, device, "fp32")
    with _Operations() as counted:
        next(steps)
    total: int = counted.total
    return total


def matmul_speed(arithmetic: str, device: torch.device) -> float:
    """Return the operations per second of a large matrix product: the best of several."""
    size = 8192 if device.type == "cuda" else 3072
    one, other = (torch.randn(size, size, device=device) for _ in range(2))
    context = precision(arithmetic, device)
    best = 0.0
    with context.step(), context.forward():
        for _ in range(8):
            settle(device)
            began = time.perf_counter()
            torch.mm(one, other)
            settle(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best
