"""The FID network: torch-fidelity's InceptionV3 with the TensorFlow 1 resize (no antialias)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from wgan_sweep.common import rng
from wgan_sweep.common.tf32 import tf32
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.weights import Weights, as_stream


def _rename_tensors(tensors: Mapping[str, Tensor], initial_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of the TorchScript file to a state dict of torch-fidelity's class.

    Both list 94 convolutions in the same order; the file has weight, beta, mean and variance for each. Its BatchNorm
    has no gain. It has no last layer either: that is filled with NaN, so that its outputs are not mistaken for logits.
    """
    values = list(tensors.values())
    layers = [name.removesuffix(".conv.weight") for name in initial_state if name.endswith(".conv.weight")]
    if len(values) != 4 * len(layers):
        raise InputError(f"the FID network's file has {len(values)} tensors, expected {4 * len(layers)}")
    state = dict(initial_state)
    for index, layer in enumerate(layers):
        weight, beta, mean, variance = values[4 * index : 4 * index + 4]
        state |= {
            f"{layer}.conv.weight": weight,
            f"{layer}.bn.weight": torch.ones_like(beta),
            f"{layer}.bn.bias": beta,
            f"{layer}.bn.running_mean": mean,
            f"{layer}.bn.running_var": variance,
        }
    return state | {name: torch.full_like(initial_state[name], torch.nan) for name in ("fc.weight", "fc.bias")}


class _Inception(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's network, adapted to load either weights file (its constructor calls `load_state_dict`)."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        if "fc.weight" not in state_dict:
            state_dict = _rename_tensors(state_dict, self.state_dict())
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def extractor(weights: Weights, layers: Sequence[str]) -> FeatureExtractorInceptionV3:
    """Return torch-fidelity's network with these weights; it maps uint8 ``[N, 3, H, W]`` to one tensor per layer."""
    with rng.seeded(0, "overwritten"):  # the layers draw initial weights, which are then overwritten
        return _Inception("inception", list(layers), as_stream(dict(weights.tensors())))


IMAGES_PER_PASS = 10
"""Images per forward pass on a CPU, whose caches cannot hold the activations of more."""


class Inception(nn.Module):
    """Maps uint8 images ``[N, 1 or 3, H, W]`` to float32 features ``[N, D]`` of each layer; grey is repeated to RGB."""

    def __init__(self, weights: Weights, layers: Sequence[str], device: torch.device) -> None:
        super().__init__()
        network = extractor(weights, layers)
        for module in network.modules():
            if hasattr(module, "bn"):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        self._network = network.to(device, memory_format=torch.channels_last)
        self._device = device

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the requested layers, in the order of the network."""
        images = images.to(self._device).expand(-1, 3, -1, -1)
        count = IMAGES_PER_PASS if self._device.type == "cpu" else len(images)
        with tf32(allowed=False), torch.autocast(self._device.type, enabled=False):
            parts: list[tuple[Tensor, ...]] = [self._network(part) for part in images.split(count)]
        return tuple(torch.cat(features) for features in zip(*parts, strict=True))


@lru_cache(maxsize=2)
def inception(weights: Weights, layers: tuple[str, ...], device: torch.device) -> Inception:
    """Return the network; it is built once per process and cached."""
    return Inception(weights, layers, device)
