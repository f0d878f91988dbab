"""Workloads of the benchmarks: a pair of networks, an image size and a batch size."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.data import GaussianRing, ImageSet
from wgan_sweep.models import DCGAN, MLP, ConstantWidthResNet, Location, ResNet
from wgan_sweep.training.trainer import RealExamples

N_CRITIC = 4
"""Critic updates per iteration."""
IMAGES = 1024
"""Images in the synthetic training set."""
Model = DCGAN | ResNet | ConstantWidthResNet | MLP | Location


@dataclass(frozen=True)
class Workload:
    """A GAN to train on random square RGB images."""

    name: str
    model: Model
    size: int
    """Height and width of an image, in pixels."""
    batch: int = 64

    def with_batch(self, batch: int) -> "Workload":
        """Return a copy with another batch size."""
        return replace(self, batch=batch)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return 3, self.size, self.size

    def networks(self, device: torch.device) -> tuple[nn.Module, nn.Module]:
        """Return the generator and the critic, with the same initial weights at every call."""
        with rng.seeded(0, "bench"):
            generator, critic = self.model.generator(self.shape), self.model.critic(self.shape)
        return generator.to(device), critic.to(device)

    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the training set, uint8 ``[IMAGES, size, size, 3]``."""
        return np.random.default_rng(0).integers(0, 256, (IMAGES, self.size, self.size, 3), dtype=np.uint8)

    def batches(self, device: torch.device) -> RealExamples:
        """Return endless batches of the training set."""
        return ImageSet(self.pixels()).batches(self.batch, 0, device)


@dataclass(frozen=True)
class PointsWorkload(Workload):
    """A GAN to train on points in the plane."""

    size: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return (2,)

    def batches(self, device: torch.device) -> RealExamples:
        """Return endless batches of points."""
        return GaussianRing(8, 2.0, 0.02).load().batches(self.batch, 0, device)


def _dcgan(dim: int) -> DCGAN:
    return DCGAN(dim, 128, "batch", "none")


def _resnet(dim: int) -> ResNet:
    return ResNet(dim, 128, "batch", "layer")


def workloads(device: torch.device) -> list[Workload]:
    """Return the papers' network sizes on a GPU; on a CPU, smaller networks with iterations of about a second."""
    if device.type == "cuda":
        return [
            Workload("dcgan 64x64 dim 64", _dcgan(64), 64),
            Workload("resnet 32x32 dim 64", _resnet(64), 32),
            Workload("resnet 64x64 dim 64", _resnet(64), 64),
        ]
    return [Workload("dcgan 32x32 dim 16", _dcgan(16), 32), Workload("resnet 32x32 dim 16", _resnet(16), 32)]


def scaled_workloads(device: torch.device) -> list[Workload]:
    """Return the first workload at three batch sizes, then its network at two other image sizes."""
    dim, sizes = (64, (32, 128)) if device.type == "cuda" else (16, (16, 64))
    base = workloads(device)[0]
    resized = [Workload(f"dcgan {size}x{size} dim {dim}", _dcgan(dim), size) for size in sizes]
    return [*(base.with_batch(batch) for batch in (16, 64, 256)), *resized]
