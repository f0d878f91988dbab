"""Published networks: parameter counts, outputs and initial values, compared with the published code.

The counts are sums over the layers of the public code: igul222/improved_wgan_training (`gan_64x64.py` and
`gan_cifar_resnet.py`), musikisomorphie/wgan-div (`wgan_div.py`), pfnet-research/sngan_projection (`snresnet_32.py` and
`resnet_32.py`), martinarjovsky/WassersteinGAN (`models/dcgan.py`), bojone/gan (`keras/wgan_div_celeba.py`) and
bioinf-jku/TTUR (`DCGAN_FID_batched/model.py`). Those of torch-mimicry 0.1.16 are counts of its networks. Its networks
also compute the recorded outputs below; if the package is installed (`make bench` installs it), they are compared
directly.
"""

import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from wgan_sweep.bench.implementations import import_mimicry
from wgan_sweep.common import rng
from wgan_sweep.config import objects
from wgan_sweep.models import DCGAN, ConstantWidthResNet, ResNet
from wgan_sweep.objectives.stabilisers import minibatch_discrimination
from wgan_sweep.runs.identity import run_id

from .test_docs import GUIDES, codes, rows

Model = DCGAN | ConstantWidthResNet | ResNet
MIMICRY = {
    "mimicry_sngan32": ("nets.sngan.sngan_32", "SNGAN"),
    "mimicry_wgan_gp32": ("nets.wgan_gp.wgan_gp_32", "WGANGP"),
}
"""Modules of torch-mimicry and the beginnings of their classes' names, by option."""


def conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> int:
    return inputs * outputs * kernel**2 + bias * outputs


def norm(channels: int) -> int:
    return 2 * channels


def wgan_gp_64(dim: int = 64) -> tuple[int, int]:
    """`GoodGenerator` and `GoodDiscriminator`; `wgan_div.py` has the same."""
    down = list(pairwise([dim, 2 * dim, 4 * dim, 8 * dim, 8 * dim]))

    def block(inputs: int, hidden: int, outputs: int) -> int:
        first = norm(inputs) + conv(inputs, hidden, 3, bias=False)
        return first + norm(hidden) + conv(hidden, outputs, 3) + conv(inputs, outputs, 1)

    critic = conv(3, dim, 3) + sum(block(a, a, b) for a, b in down) + conv(4 * 4 * 8 * dim, 1, 1)
    blocks = sum(block(b, a, a) for a, b in down)
    return conv(128, 4 * 4 * 8 * dim, 1) + blocks + norm(dim) + conv(dim, 3, 3), critic


def constant_width(generator: int, critic: int, head_bias: bool) -> tuple[int, int]:
    up = norm(generator) + conv(generator, generator, 3) + norm(generator) + conv(generator, generator, 3)
    first = conv(3, critic, 3) + conv(critic, critic, 3) + conv(3, critic, 1)
    plain = 2 * conv(critic, critic, 3)
    down = plain + conv(critic, critic, 1)
    return (
        conv(128, 4 * 4 * generator, 1)
        + 3 * (up + conv(generator, generator, 1))
        + norm(generator)
        + conv(generator, 3, 3),
        first + down + 2 * plain + conv(critic, 1, 1, head_bias),
    )


def wgan_dcgan(size: int = 64, latent: int = 100, dim: int = 64) -> tuple[int, int]:
    """`DCGAN_G` and `DCGAN_D`: no convolution has a bias."""
    widths = [dim * 2**i for i in range(int(math.log2(size)) - 2)]
    middle = sum(conv(a, b, 4, bias=False) for a, b in pairwise(widths))
    ends = 2 * conv(3, dim, 4, bias=False)
    generator = conv(latent, widths[-1], 4, bias=False) + middle + ends // 2 + sum(map(norm, widths))
    critic = ends // 2 + middle + sum(map(norm, widths[1:])) + conv(widths[-1], 1, 4, bias=False)
    return generator, critic


def ttur_dcgan(latent: int = 100, dim: int = 64) -> tuple[int, int]:
    """`generator` and `discriminator` of `model.py`: convolutions of 5 x 5 with biases, as in carpedm20's DCGAN."""
    widths = [dim, 2 * dim, 4 * dim, 8 * dim]
    middle = list(pairwise(widths))
    generator = conv(latent, 4 * 4 * widths[-1], 1) + norm(widths[-1]) + conv(dim, 3, 5)
    generator += sum(conv(b, a, 5) + norm(a) for a, b in middle)
    critic = conv(3, dim, 5) + sum(conv(a, b, 5) + norm(b) for a, b in middle) + conv(4 * 4 * widths[-1], 1, 1)
    return generator, critic


def resnet_without_norms(dim: int = 64, latent: int = 64) -> tuple[int, int]:
    """The ResNet of this package for 32 x 32 images, in the size of a recipe of its own."""
    widths = list(pairwise([dim, 2 * dim, 4 * dim, 8 * dim]))
    up = sum(conv(b, a, 3) + conv(a, a, 3) + conv(b, a, 1) for a, b in widths)
    down = sum(conv(a, a, 3) + conv(a, b, 3) + conv(a, b, 1) for a, b in widths)
    first = conv(latent, 4 * 4 * 8 * dim, 1)
    return first + up + conv(dim, 3, 3), conv(3, dim, 3) + down + conv(4 * 4 * 8 * dim, 1, 1)


def wgan_div_su(size: int = 128, latent: int = 128) -> tuple[int, int]:
    """Keras: convolutions of 5 x 5, and BatchNorm of the generator's first, flat layer."""
    largest = 8 * size
    widths = [largest // 2**i for i in range(int(math.log2(size)) - 2)][::-1]
    critic = conv(3, widths[0], 5, bias=False) + sum(conv(a, b, 5, bias=False) for a, b in pairwise(widths))
    critic += sum(map(norm, widths[1:])) + conv(largest, 1, 1, bias=False)
    generator = conv(latent, 4 * 4 * largest, 1) + norm(4 * 4 * largest)
    generator += sum(conv(b, a, 5) + norm(a) for a, b in pairwise(widths)) + conv(widths[0], 3, 5)
    return generator, critic


COUNTS: dict[str, tuple[int, tuple[int, int]]] = {
    "model=wgan_gp_resnet64": (64, wgan_gp_64()),
    "model=wgan_gp_resnet32": (32, constant_width(128, 128, True)),
    "model=sngan_resnet32": (32, constant_width(256, 128, False)),
    "model=mimicry_sngan32": (32, constant_width(256, 128, True)),
    "model=mimicry_wgan_gp32": (32, constant_width(256, 128, True)),
    "experiment=reference/wgan_clip_dcgan": (64, wgan_dcgan()),
    "experiment=reference/wgan_div_celeba64": (64, wgan_gp_64()),
    "experiment=reference/wgan_div_su": (128, wgan_div_su()),
    "experiment=reference/ttur_dcgan": (64, ttur_dcgan()),
    "experiment=reference/r3gan_small": (32, resnet_without_norms()),
}
"""Image size, and the parameters of generator and critic of the published code, by option."""
NOT_SHOWN = ("experiment=reference/wgan_div_celeba64", "experiment=reference/r3gan_small")
"""Experiments whose networks the guide's table lacks: that of an option, and one that is not published."""


def model_of(make, *overrides: str) -> Model:
    path = ["data.path=images"] if "experiment=reference/wgan_div_su" in overrides else []
    made: Model = objects.make(make(*overrides, *path, tiny=False).model, "model")
    return made


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.integration
@pytest.mark.parametrize("name", COUNTS)
def test_a_published_network_has_the_published_number_of_parameters(name: str, make) -> None:
    size, published = COUNTS[name]
    model, shape = model_of(make, name), (3, size, size)
    with torch.device("meta"):
        assert (parameter_count(model.generator(shape)), parameter_count(model.critic(shape))) == published


def test_the_guide_shows_the_published_numbers_of_parameters() -> None:
    table = {codes(cells[0])[0]: cells[1:3] for title, cells in rows(GUIDES / "choices.md") if title == "network"}
    shown = {name: tuple(int(cell.content.replace(",", "")) for cell in cells) for name, cells in table.items()}
    assert shown == {name: published for name, (_, published) in COUNTS.items() if name not in NOT_SHOWN}


def small(model: Model) -> Model:
    """Return a model with a narrow critic, as wide as the published one otherwise."""
    return replace(model, dim=4, latent_dim=8)


def set_weights(network: nn.Module) -> None:
    """Give a network weights that follow from their names' order and their sizes alone."""
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            numbers = torch.arange(parameter.numel(), dtype=torch.float64)
            values = torch.sin(0.7 * numbers + index) / math.sqrt(parameter[0].numel())
            parameter.copy_(values.view(parameter.shape))


def outputs(generator: Callable[[Tensor], Tensor], critic: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    z = torch.cos(torch.arange(5 * 8, dtype=torch.float64)).view(5, 8)
    images = generator(z)
    return images, critic(images).flatten()


RECORDED = {
    "mimicry_sngan32": (
        [-0.5702234009240781, 0.45821771860927035],
        [62.005937786877645, 62.052560088953975, 62.057224208350476, 62.006211403278364, 62.05904391368266],
    ),
    "mimicry_wgan_gp32": (
        [-0.5702234009240781, 0.45821771860927035],
        [1.7924256721038934, 1.793154145573836, 1.7932270224394062, 1.7924299473601546, 1.7932554553352218],
    ),
}
"""What torch-mimicry 0.1.16 computes with `set_weights`: the mean and the mean square of images, and critic outputs."""


def small_networks(name: str, make, **changes) -> tuple[nn.Module, nn.Module]:
    model = replace(small(model_of(make, f"model={name}")), **changes)
    generator, critic = model.generator((3, 32, 32)).double(), model.critic((3, 32, 32)).double()
    set_weights(generator)
    set_weights(critic)
    return generator, critic


@pytest.mark.parametrize("name", MIMICRY)
def test_networks_compute_what_torch_mimicry_computed(name: str, make) -> None:
    images, values = outputs(*small_networks(name, make))
    moments, critic_outputs = RECORDED[name]
    assert [images.mean().item(), images.square().mean().item()] == pytest.approx(moments, rel=1e-9)
    assert values.tolist() == pytest.approx(critic_outputs, rel=1e-9)


@pytest.mark.parametrize("change", [{"upsampling": "nearest"}, {"relu_shortcuts": False}, {"pool": "sum"}], ids=str)
def test_every_difference_to_the_papers_networks_matters(change: dict[str, object], make) -> None:
    _, values = outputs(*small_networks("mimicry_wgan_gp32", make, **change))
    assert abs(values[0].item() - RECORDED["mimicry_wgan_gp32"][1][0]) > 1e-4


@pytest.mark.parametrize("name", ["sngan_resnet32", "wgan_gp_resnet32"])
def test_networks_of_the_papers_compute_what_plain_layers_compute(name: str, make) -> None:
    generator, critic = small_networks(name, make)

    def conv_by(parameters: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
        weight, bias = next(parameters), next(parameters)
        return lambda x: F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    def norm_by(parameters: Iterator[Tensor]) -> Callable[[Tensor], Tensor]:
        weight, bias = next(parameters), next(parameters)
        return lambda x: F.batch_norm(x, None, None, weight, bias, training=True)

    def double(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def generate(z: Tensor) -> Tensor:
        layers = generator.parameters()
        h = F.linear(z, next(layers), next(layers)).view(len(z), -1, 4, 4)
        for _ in range(3):
            norm1, conv1, norm2, conv2, shortcut = (f(layers) for f in (norm_by, conv_by, norm_by, conv_by, conv_by))
            h = conv2(norm2(conv1(double(norm1(h).relu()))).relu()) + shortcut(double(h))
        norm, conv = norm_by(layers), conv_by(layers)
        return conv(norm(h).relu()).tanh()

    def criticise(x: Tensor) -> Tensor:
        layers = critic.parameters()
        conv1, conv2, shortcut = (conv_by(layers) for _ in range(3))
        h = F.avg_pool2d(conv2(conv1(x).relu()), 2) + shortcut(F.avg_pool2d(x, 2))
        conv1, conv2, shortcut = (conv_by(layers) for _ in range(3))
        h = F.avg_pool2d(conv2(conv1(h.relu()).relu()) + shortcut(h), 2)
        for _ in range(2):
            conv1, conv2 = (conv_by(layers) for _ in range(2))
            h = h + conv2(conv1(h.relu()).relu())
        h = h.relu().sum((2, 3)) if name == "sngan_resnet32" else h.relu().mean((2, 3))
        return F.linear(h, *layers)

    for actual, value in zip(outputs(generator, critic), outputs(generate, criticise), strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-9, atol=1e-12)


@pytest.fixture
def mimicry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[type[nn.Module], type[nn.Module]]]]:
    """A function from an option to torch-mimicry's classes, from the path or from where the benchmarks install it."""
    monkeypatch.syspath_prepend(str(Path(sys.prefix) / "others"))
    if importlib.util.find_spec("torch_mimicry") is None:
        pytest.skip("torch-mimicry is not installed")
    before = set(sys.modules)

    def classes(name: str) -> tuple[type[nn.Module], type[nn.Module]]:
        module, prefix = MIMICRY[name]
        loaded = import_mimicry(module)
        return getattr(loaded, f"{prefix}Generator32"), getattr(loaded, f"{prefix}Discriminator32")

    yield classes
    for name in set(sys.modules) - before:  # other tests must not find the package by its loaded modules
        if name.partition(".")[0] == "torch_mimicry":
            del sys.modules[name]


def renamed(name: str) -> str:
    """Return torch-mimicry's name of a parameter."""
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name


NAMES = [
    (r"^0\.", "l1."),
    (r"^([234])\.", r"block\1."),
    (r"^5\.", "b5."),
    (r"^7\.", "c5."),
    (r"^body\.([0123])\.", lambda match: f"block{int(match[1]) + 1}."),
    (r"^head\.linear", "l5"),
    (r"\.conv([12])\.", r".c\1."),
    (r"\.norm([12])\.", r".b\1."),
    (r"\.shortcut\.", ".c_sc."),
]


@pytest.mark.parametrize("name", MIMICRY)
def test_networks_compute_what_those_of_torch_mimicry_compute(name: str, make, mimicry) -> None:
    generator, critic = small_networks(name, make)
    make_generator, make_critic = mimicry(name)
    their_generator, their_critic = make_generator(8, 8).double(), make_critic(4).double()
    for layer in their_critic.modules():  # spectral normalisation is a constraint here, and not part of the network
        if hasattr(layer, "weight_orig"):
            nn.utils.remove_spectral_norm(layer)
    for ours, theirs in ((generator, their_generator), (critic, their_critic)):
        weights, parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
        assert {renamed(key) for key in weights} == set(parameters)
        for key, value in weights.items():
            parameters[renamed(key)].data.copy_(value.detach())
    expected = outputs(their_generator, their_critic)
    for actual, value in zip(outputs(generator, critic), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-9, atol=1e-12)
    moments = [expected[0].mean().item(), expected[0].square().mean().item()]
    assert moments == pytest.approx(RECORDED[name][0], rel=1e-9)
    assert expected[1].tolist() == pytest.approx(RECORDED[name][1], rel=1e-9)


@pytest.mark.parametrize("name", MIMICRY)
def test_initial_values_have_the_spread_of_those_of_torch_mimicry(name: str, make, mimicry) -> None:
    model = model_of(make, f"model={name}")
    make_theirs = mimicry(name)
    with rng.seeded(0, name):
        ours = model.generator((3, 32, 32)), model.critic((3, 32, 32))
        theirs = [make_network() for make_network in make_theirs]
    for network, their_network in zip(ours, theirs, strict=True):
        their_values = {key.removesuffix("_orig"): value for key, value in their_network.named_parameters()}
        for key, value in network.named_parameters():
            expected = their_values[renamed(key)]
            if value.numel() < 64:  # too few for their spread to be known
                continue
            error = 4 / math.sqrt(value.numel())
            assert value.std().item() == pytest.approx(expected.std().item(), rel=error), key
            assert value.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=error), key


@pytest.mark.parametrize(
    ("initialisation", "biases", "shortcuts"),
    [("glorot", False, False), ("mimicry_sngan", True, False), ("mimicry_wgan_gp", True, True)],
)
def test_initial_values_fill_the_published_ranges(initialisation: str, biases: bool, shortcuts: bool, make) -> None:
    model = replace(model_of(make, "model=sngan_resnet32"), dim=32, initialisation=initialisation, head_bias=True)
    with rng.seeded(0, initialisation):
        networks = model.generator((3, 32, 32)), model.critic((3, 32, 32))
    for network in networks:
        for name, layer in network.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            fan_in, fan_out = layer.weight[0].numel(), layer.weight.numel() // layer.weight.shape[1]
            gain = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0
            default, glorot = 1 / math.sqrt(fan_in), gain * math.sqrt(6 / (fan_in + fan_out))
            is_shortcut = name.endswith("shortcut") or name == "7"
            bound = default if shortcuts and is_shortcut else glorot
            for values, limit in ((layer.weight, bound), (layer.bias, default if biases else 0.0)):
                largest = values.abs().max().item()
                assert limit * (1 - 8 / values.numel()) <= largest <= limit * (1 + 1e-6), name


def test_the_64_x_64_network_has_the_initial_values_of_the_public_code(make) -> None:
    model = model_of(make, "model=wgan_gp_resnet64", "model.dim=8")
    last = model.generator((3, 64, 64))[-2]
    assert isinstance(last, nn.Conv2d)
    bound = math.sqrt(2) * math.sqrt(6 / (9 * (8 + 3)))
    assert bound * 0.9 < last.weight.abs().max().item() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 6, 7])
def test_every_kernel_halves_and_doubles_sizes(kernel: int) -> None:
    model, shape = DCGAN(2, 8, "batch", "none", kernel=kernel), (3, 16, 16)
    images = model.generator(shape)(torch.randn(2, 8))
    assert images.shape == (2, *shape)
    assert model.critic(shape)(images).shape == (2,)
    assert model.critic(shape).body(images).shape[2:] == (4, 4)


def mirrored(x: Tensor) -> Tensor:
    return x.flip(2, 3)


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_convolutions_are_those_of_tensorflow_on_mirrored_images(kernel: int) -> None:
    """TensorFlow pads K - 2 values in all, K odd: one more after the image; K even: as many on both sides."""
    model = DCGAN(2, 8, "none", "none", kernel=kernel)
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    down, up = model._down(2, 3).double(), model._up(2, 3).double()
    theirs = F.conv2d(F.pad(x, (before, after, before, after)), mirrored(down.weight), down.bias, 2)
    torch.testing.assert_close(down(mirrored(x)), mirrored(theirs))
    whole = F.conv_transpose2d(x, mirrored(up.weight), up.bias, 2)
    theirs = whole[..., before : before + 16, before : before + 16]
    torch.testing.assert_close(up(mirrored(x)), mirrored(theirs))


def test_options_of_the_dcgan_at_their_neutral_values_change_no_id(make) -> None:
    neutral = ["kernel=4", "pool=none", "max_factor=8", "generator_bias=true", "critic_bias=true"]
    assert run_id(make(*(f"model.{value}" for value in neutral), "model.norm_each_feature=false")) == run_id(make())
    assert run_id(make("model.kernel=5")) != run_id(make())


def test_pooled_features_are_means_and_sums_over_pixels() -> None:
    shape = (1, 16, 16)
    images = torch.randn(3, *shape)
    whole = DCGAN(2, 8, "none", "none").critic(shape)
    for pool, expected in (("mean", torch.Tensor.mean), ("sum", torch.Tensor.sum)):
        critic = DCGAN(2, 8, "none", "none", pool=pool).critic(shape)
        critic.body.load_state_dict(whole.body.state_dict())
        features = critic.body(images)
        torch.testing.assert_close(features, expected(whole.body(images), (2, 3)))
        assert features.shape == (3, critic.features) == (3, 4)
        assert minibatch_discrimination(5, 2).adapt_critic(critic)(images).shape == (3,)


def test_the_first_norm_can_take_each_feature_as_a_channel() -> None:
    generator = DCGAN(2, 8, "batch", "none", norm_each_feature=True).generator((1, 16, 16))
    assert isinstance(generator, nn.Sequential)
    z = torch.randn(7, 8)
    normalised = generator[:5](z)
    assert normalised.shape == (7, 4, 4, 4)
    expected = F.batch_norm(generator[0](z), None, None, training=True)
    torch.testing.assert_close(normalised.flatten(1), expected)
