"""Implementations of WGAN-GP training that the benchmarks compare: this package and other public code."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from wgan_sweep.bench.workloads import IMAGES, N_CRITIC, Workload
from wgan_sweep.common.images import to_range
from wgan_sweep.models.layers import upsample
from wgan_sweep.models.residual_blocks import DownBlock, UpBlock
from wgan_sweep.objectives.constraints import none as no_constraint
from wgan_sweep.objectives.gradient_terms import Centred, GradientTerm
from wgan_sweep.objectives.losses import Loss, wasserstein
from wgan_sweep.objectives.sampling import Sampling, real, real_fake
from wgan_sweep.objectives.stabilisers import none as no_stabiliser
from wgan_sweep.training.cuda_graphs import CudaGraph
from wgan_sweep.training.precision import precision
from wgan_sweep.training.trainer import Trainer, TrainerSettings

Steps = Iterator[object]
"""Each item is one finished iteration."""
Implementation = Callable[[Workload, torch.device, str], Steps]
"""Trains a workload on a device in a precision (``fp32``, ``tf32``, ``bf16`` or ``fp16``)."""
_Adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.9))


def gradient_penalty_loss(sampling: Sampling = real_fake) -> Loss:
    """Return the Wasserstein loss with a gradient penalty at the points of r(x)."""
    return Loss(wasserstein().critic, wasserstein().generator, (GradientTerm(Centred(10, 1, 2), sampling),))


def our_trainer(
    workload: Workload,
    device: torch.device,
    precision_name: str,
    loss: Loss,
    *,
    compile_networks: bool = False,
    graphs: bool = True,
    seed: int = 0,
) -> Trainer:
    """Return this package's `Trainer`, configured as `wgan-sweep` configures it."""
    generator, critic = (n.to(memory_format=torch.channels_last) for n in workload.networks(device))
    settings = TrainerSettings(
        latent_dim=workload.model.latent_dim,
        n_critic=N_CRITIC,
        ema=0.999,
        seed=seed,
        compile_networks=compile_networks,
    )
    return Trainer(
        settings,
        generator=generator,
        critic=critic,
        loss=loss,
        constraint=no_constraint(),
        stabiliser=no_stabiliser(),
        generator_optimizer=_Adam,
        critic_optimizer=_Adam,
        batches=workload.batches(device),
        device=device,
        precision=precision(precision_name, device),
        make_graph=CudaGraph if graphs and device.type == "cuda" else None,
    )


def ours(
    workload: Workload,
    device: torch.device,
    precision_name: str,
    sampling: Sampling = real_fake,
    *,
    compile_networks: bool = False,
) -> Steps:
    """Train WGAN-GP with this package's `Trainer`."""
    loss = gradient_penalty_loss(sampling)
    return our_trainer(workload, device, precision_name, loss, compile_networks=compile_networks).steps(sys.maxsize)


def _real_batches(workload: Workload, device: torch.device) -> Iterator[Tensor]:
    pixels = torch.from_numpy(workload.pixels()).permute(0, 3, 1, 2).contiguous().to(device)
    while True:
        for indices in torch.randperm(IMAGES, device=device).split(workload.batch):
            yield to_range(pixels[indices])


def eager_double_backward(
    workload: Workload, device: torch.device, precision_name: str, sampling: Sampling = real_fake
) -> Steps:
    """Train WGAN-GP as typical PyTorch code does: eager, double backward, one Adam per network, no weight averaging."""
    yield from _double_backward(*workload.networks(device), workload, device, precision_name, sampling)


def double_backward_of_separate_layers(workload: Workload, device: torch.device, precision_name: str) -> Steps:
    """Train as `eager_double_backward`, with convolutions and pooling as separate layers, as in public ResNets.

    The networks are the same functions; this package computes a convolution and the pooling after it at once.
    """
    generator, critic = (with_separate_layers(network) for network in workload.networks(device))
    yield from _double_backward(generator, critic, workload, device, precision_name, real_fake)


class _SeparateUpBlock(UpBlock):
    def forward(self, x: Tensor) -> Tensor:
        y, shortcut = self.branches(x)
        y = self.conv2(self.relu(self.norm2(self.conv1(upsample(y)))))
        result: Tensor = y + self.shortcut(upsample(shortcut))
        return result


class _SeparateDownBlock(DownBlock):
    def forward(self, x: Tensor) -> Tensor:
        y, shortcut = self.branches(x)
        y = avg_pool2d(self.conv2(self.relu(self.norm2(self.conv1(y)))), 2)
        result: Tensor = y + self.shortcut(avg_pool2d(shortcut, 2))
        return result


_SEPARATE = {UpBlock: _SeparateUpBlock, DownBlock: _SeparateDownBlock}


def with_separate_layers(network: nn.Module) -> nn.Module:
    """Let the residual blocks of a network pool after the convolution, and upsample before it; return the network."""
    for block in network.modules():
        if type(block) in _SEPARATE:
            block.__class__ = _SEPARATE[type(block)]
    return network


def _double_backward(
    generator: nn.Module,
    critic: nn.Module,
    workload: Workload,
    device: torch.device,
    precision_name: str,
    sampling: Sampling,
) -> Steps:
    draw = torch.Generator(device)
    generator_optimizer, critic_optimizer = _Adam(generator.parameters()), _Adam(critic.parameters())
    real_batches, context = _real_batches(workload, device), precision(precision_name, device)

    def noise() -> Tensor:
        return torch.randn(workload.batch, workload.model.latent_dim, device=device)

    while True:
        with context.step():
            for _ in range(N_CRITIC):
                real_images = next(real_batches)
                with torch.no_grad(), context.forward():
                    fake_images = generator(noise()).float()
                points = sampling(real_images, fake_images, draw).detach().requires_grad_()
                with context.forward():
                    loss = critic(fake_images).mean() - critic(real_images).mean()
                    outputs = critic(points)
                (gradient,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
                penalty = 10 * (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()
                critic_optimizer.zero_grad()
                (loss + penalty).backward()
                critic_optimizer.step()
            with context.forward():
                loss = -critic(generator(noise())).mean()
            generator_optimizer.zero_grad()
            loss.backward()
            generator_optimizer.step()
        yield None


def torchgan(workload: Workload, device: torch.device, precision_name: str) -> Steps:
    """Train WGAN-GP with torchgan's losses, which update the critic twice: for its loss and for the penalty."""
    losses = import_module("torchgan.losses")
    generator, critic = (_with_torchgan_attributes(network, workload) for network in workload.networks(device))
    generator_optimizer, critic_optimizer = _Adam(generator.parameters()), _Adam(critic.parameters())
    critic_losses = [losses.WassersteinDiscriminatorLoss(), losses.WassersteinGradientPenalty()]
    generator_loss = losses.WassersteinGeneratorLoss()
    real_batches, context = _real_batches(workload, device), precision(precision_name, device)
    while True:
        with context.step(), context.forward():
            for _ in range(N_CRITIC):
                batch = next(real_batches)
                for loss in critic_losses:
                    loss.train_ops(generator, critic, critic_optimizer, batch, device)
            generator_loss.train_ops(generator, critic, generator_optimizer, device, workload.batch)
        yield None


def _with_torchgan_attributes(network: Any, workload: Workload) -> Any:
    network.encoding_dims, network.label_type = workload.model.latent_dim, "none"
    return network


def mimicry(workload: Workload, device: torch.device, precision_name: str) -> Steps:
    """Train WGAN-GP with torch-mimicry's training steps on this package's networks."""
    base = import_mimicry("nets.wgan_gp.wgan_gp_base")

    def forward(self: Any, batch: Tensor) -> Tensor:
        output: Tensor = self.network(batch)
        return output

    generator = type("Generator", (base.WGANGPBaseGenerator,), {"forward": forward})(workload.model.latent_dim, 0, 4)
    critic = type("Critic", (base.WGANGPBaseDiscriminator,), {"forward": forward})(0)
    generator.network, critic.network = workload.networks(device)
    generator_optimizer, critic_optimizer = _Adam(generator.parameters()), _Adam(critic.parameters())
    real_batches, context = _real_batches(workload, device), precision(precision_name, device)
    log = SimpleNamespace(add_metric=lambda *_, **__: None)
    while True:
        with context.step(), context.forward():
            for _ in range(N_CRITIC):
                batch = next(real_batches), None
                critic.train_step(real_batch=batch, netG=generator, optD=critic_optimizer, log_data=log, device=device)
            generator.train_step(real_batch=batch, netD=critic, optG=generator_optimizer, log_data=log, device=device)
        yield None


def import_mimicry(module: str) -> Any:
    """Import a module of torch-mimicry without the package's initialiser, which imports TensorFlow.

    Args:
        module: Its name within the package, such as ``nets.sngan.sngan_32``.
    """
    name = "torch_mimicry"
    if name not in sys.modules and (spec := find_spec(name)) is not None:
        package = ModuleType(name)
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules[name] = package
    return import_module(f"{name}.{module}")


def implementations(precisions: list[str]) -> dict[str, tuple[Implementation, str]]:
    """Return the implementations to compare with their precisions, by name.

    Other packages, where they are installed, and networks of separate layers are included in the first precision only.
    """
    compared: dict[str, tuple[Implementation, str]] = {}
    for name in precisions:
        compared[f"eager double backward, {name}"] = eager_double_backward, name
        compared[f"ours, {name}"] = ours, name
        compared[f"ours, compiled, {name}"] = partial(ours, compile_networks=True), name
        compared[f"ours with r(x) the real batch, {name}"] = partial(ours, sampling=real), name
    separate = f"eager double backward of separate layers, {precisions[0]}"
    compared[separate] = double_backward_of_separate_layers, precisions[0]
    for package, implementation in {"torchgan": torchgan, "torch_mimicry": mimicry}.items():
        if find_spec(package):
            compared[f"{package.replace('_', '-')}, {precisions[0]}"] = implementation, precisions[0]
    return compared
