"""The residual networks of constant width for 32 x 32 images of Gulrajani et al. 2017 and Miyato et al. 2018."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic, check_sizes, image_channels_and_size, norm_layer, pool_layer
from wgan_sweep.models.residual_blocks import (
    Block,
    DownBlock,
    FirstDownBlock,
    PlainBlock,
    UpBlock,
    glorot_conv,
    init_linear_,
)


class Initialisation(NamedTuple):
    """Which initial values are those of PyTorch's layers: uniform within one over the root of the number of inputs."""

    biases: bool
    """All biases, instead of 0."""
    shortcuts: bool
    """The weights of shortcuts and of the generator's last convolution, instead of Glorot's."""


INITIALISATIONS = {
    "glorot": Initialisation(biases=False, shortcuts=False),
    "mimicry_sngan": Initialisation(biases=True, shortcuts=False),
    "mimicry_wgan_gp": Initialisation(biases=True, shortcuts=True),
}


@dataclass(frozen=True)
class ConstantWidthResNet:
    """Residual networks whose blocks all have the same width, for images of size 32.

    The generator has three upsampling blocks. The critic has a first block on the images, a downsampling block, and two
    blocks that keep the size of 8 x 8.

    Args:
        dim: Channels of the critic (128 in the papers).
        generator_factor: Channels of the generator, as a multiple of `dim`.
        latent_dim: Size of z (128 in the papers).
        generator_norm: Normalisation in the generator: none, batch, layer or instance (batch in the papers).
        critic_norm: Normalisation in the critic after its first block (none in the papers).
        pool: What the critic's last layer sees of its features: their mean or sum over pixels, or all values (none).
        head_bias: Whether the critic's last layer has a bias.
        upsampling: ``nearest`` neighbour or ``bilinear`` interpolation.
        relu_shortcuts: Whether the shortcuts of the critic's later blocks come after the first norm and ReLU of their
            block, as in torch-mimicry, whose ReLU changes its input in place.
        initialisation: ``glorot`` (Glorot weights, biases 0), or PyTorch's values where torch-mimicry has them:
            ``mimicry_sngan`` or ``mimicry_wgan_gp`` (see `INITIALISATIONS`).

    Raises:
        InputError: If a size is below 1, or a norm, pooling, upsampling or initialisation is unknown.
    """

    dim: int
    generator_factor: int
    latent_dim: int
    generator_norm: str
    critic_norm: str
    pool: str
    head_bias: bool
    upsampling: str
    relu_shortcuts: bool
    initialisation: str

    def __post_init__(self) -> None:
        check_sizes(dim=self.dim, generator_factor=self.generator_factor, latent_dim=self.latent_dim)
        if self.initialisation not in INITIALISATIONS:
            raise InputError(
                f"model.initialisation has no scheme {self.initialisation!r}: "
                f"choose one of {', '.join(INITIALISATIONS)}"
            )

    def _channels(self, shape: tuple[int, ...]) -> int:
        channels, _ = image_channels_and_size(
            shape, "sngan_resnet32 or wgan_gp_resnet32", "square images of size 32", (32).__eq__
        )
        return channels

    def generator(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a network from ``[N, latent_dim]`` to ``[N, *shape]`` in [-1, 1]."""
        channels = self._channels(shape)
        width = self.generator_factor * self.dim
        last = glorot_conv(width, channels, 3, 1.0)
        network = nn.Sequential(
            nn.Linear(self.latent_dim, 16 * width),
            nn.Unflatten(1, (width, 4, 4)),
            *(UpBlock(width, width, self.generator_norm, upsampling=self.upsampling) for _ in range(3)),
            norm_layer(self.generator_norm, width),
            nn.ReLU(),
            last,
            nn.Tanh(),
        )
        self._initialise(network, last)
        return network

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return a network from ``[N, *shape]`` to ``[N]`` outputs."""
        channels, norm, relu = self._channels(shape), self.critic_norm, self.relu_shortcuts
        pool, features = pool_layer(self.pool, self.dim, 8)
        body = nn.Sequential(
            FirstDownBlock(channels, self.dim),
            DownBlock(self.dim, self.dim, norm, relu_shortcut=relu),
            PlainBlock(self.dim, norm, relu),
            PlainBlock(self.dim, norm, relu),
            nn.ReLU(),
            pool,
        )
        network = Critic(body, features, self.head_bias)
        self._initialise(network)
        return network

    def _initialise(self, network: nn.Module, *layers: nn.Conv2d) -> None:
        """Initialise the linear layers of a network, and what is not as its blocks initialise it.

        Args:
            network: The network.
            layers: Convolutions that are initialised like shortcuts.
        """
        init_linear_(network)
        keeps_default = INITIALISATIONS[self.initialisation]
        if keeps_default.shortcuts:
            shortcuts = [block.shortcut for block in network.modules() if isinstance(block, Block)]
            for layer in (*layers, *shortcuts):
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()
        if keeps_default.biases:
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                    bound = 1 / math.sqrt(layer.weight[0].numel())
                    nn.init.uniform_(layer.bias, -bound, bound)
