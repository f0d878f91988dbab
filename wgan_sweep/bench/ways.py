"""What is compared: networks, and ways to train them, by this package and as others do it."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.common.images import to_range
from wgan_sweep.data import ImageSet
from wgan_sweep.models import DCGAN, ResNet
from wgan_sweep.objectives.constraints import none as no_constraint
from wgan_sweep.objectives.gradient_terms import Centred, GradientTerm
from wgan_sweep.objectives.losses import Loss, wasserstein
from wgan_sweep.objectives.sampling import Sampling, real, real_fake
from wgan_sweep.objectives.stabilisers import none as no_stabiliser
from wgan_sweep.training.cuda_graphs import CudaGraph
from wgan_sweep.training.precision import precision
from wgan_sweep.training.trainer import Trainer

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


def subjects(device: torch.device) -> list[Subject]:
    """Return those of the papers' sizes for a GPU, and what a CPU trains in a second."""
    if device.type == "cuda":
        return [
            Subject("dcgan 64x64 dim 64", _dcgan(64), 64),
            Subject("resnet 32x32 dim 64", _resnet(64), 32),
            Subject("resnet 64x64 dim 64", _resnet(64), 64),
        ]
    return [Subject("dcgan 32x32 dim 16", _dcgan(16), 32), Subject("resnet 32x32 dim 16", _resnet(16), 32)]


def scaled(device: torch.device) -> list[Subject]:
    """Return one network at several batch sizes, then at several resolutions."""
    dim, sizes = (64, (32, 128)) if device.type == "cuda" else (16, (16, 64))
    middle = subjects(device)[0]
    others = [Subject(f"dcgan {size}x{size} dim {dim}", _dcgan(dim), size) for size in sizes]
    return [*(middle.of(batch) for batch in (16, 64, 256)), *others]


Steps = Iterator[object]
Way = Callable[[Subject, torch.device, str], Steps]
_Adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.9))


def ours(
    subject: Subject,
    device: torch.device,
    arithmetic: str,
    sampling: Sampling = real_fake,
    *,
    compile_networks: bool = False,
) -> Steps:
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
        compile_networks=compile_networks,
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


def mimicry(subject: Subject, device: torch.device, arithmetic: str) -> Steps:
    """WGAN-GP by torch-mimicry's training steps, with the same networks in the place of its own."""
    base = _mimicrys_networks()

    def applied(self: Any, batch: Tensor) -> Tensor:
        made: Tensor = self.network(batch)
        return made

    generator = type("Generator", (base.WGANGPBaseGenerator,), {"forward": applied})(subject.model.latent_dim, 0, 4)
    critic = type("Critic", (base.WGANGPBaseDiscriminator,), {"forward": applied})(0)
    generator.network, critic.network = subject.networks(device)
    of_generator, of_critic = _Adam(generator.parameters()), _Adam(critic.parameters())
    real_batches, context = _real_batches(subject, device), precision(arithmetic, device)
    log = SimpleNamespace(add_metric=lambda *_, **__: None)
    while True:
        with context.step(), context.forward():
            for _ in range(N_CRITIC):
                batch = next(real_batches), None
                critic.train_step(real_batch=batch, netG=generator, optD=of_critic, log_data=log, device=device)
            generator.train_step(real_batch=batch, netD=critic, optG=of_generator, log_data=log, device=device)
        yield None


def _mimicrys_networks() -> Any:
    """Import its networks without the package around them, which needs TensorFlow for its metrics."""
    name = "torch_mimicry"
    if name not in sys.modules and (spec := find_spec(name)) is not None:
        package = ModuleType(name)
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules[name] = package
    return import_module("torch_mimicry.nets.wgan_gp.wgan_gp_base")


def ways(arithmetics: list[str]) -> dict[str, tuple[Way, str]]:
    """Return what is compared: each way with its arithmetic, by name."""
    found: dict[str, tuple[Way, str]] = {}
    for arithmetic in arithmetics:
        found[f"plain double backward, {arithmetic}"] = plain, arithmetic
        found[f"ours, {arithmetic}"] = ours, arithmetic
        found[f"ours, compiled, {arithmetic}"] = partial(ours, compile_networks=True), arithmetic
        found[f"ours with r(x) the real batch, {arithmetic}"] = partial(ours, sampling=real), arithmetic
    for package, way in {"torchgan": torchgan, "torch_mimicry": mimicry}.items():
        if find_spec(package):
            found[f"{package.replace('_', '-')}, {arithmetics[0]}"] = way, arithmetics[0]
    return found
