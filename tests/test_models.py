import copy
from collections.abc import Callable

import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP, ConstantWidthResNet, Location, ResNet, group_norm
from wgan_sweep.models.layers import NORMS, MeanPool, conv_and_pool, norm_layer, upsample, upsample_and_conv

CONSTANT_WIDTH = ConstantWidthResNet(4, 2, 8, "batch", "none", "sum", True, "nearest", False, "glorot")


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_dcgan_supports_every_power_of_two_size(size: int, channels: int) -> None:
    model, shape = DCGAN(2, 8, "batch", "none"), (channels, size, size)
    images = model.generator(shape)(torch.randn(2, 8))
    assert images.shape == (2, *shape)
    assert float(images.detach().abs().max()) <= 1
    assert model.critic(shape)(images).shape == (2,)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_resnet_supports_its_sizes(size: int) -> None:
    model, shape = ResNet(2, 8, "batch", "layer"), (3, size, size)
    images = model.generator(shape)(torch.randn(2, 8))
    assert images.shape == (2, *shape)
    assert model.critic(shape)(images).shape == (2,)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_mlp_supports_points_and_images(shape: tuple[int, ...]) -> None:
    model = MLP(16, 3, 4)
    generated = model.generator(shape)(torch.randn(5, 4))
    assert generated.shape == (5, *shape)
    assert model.critic(shape)(generated).shape == (5,)


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = MLP(16, 0, 4)
    generator, critic = model.generator((2,)), model.critic((2,))
    z, x = torch.randn(3, 4), torch.randn(3, 2)
    for network, inputs in ((generator, z), (critic, x)):
        offset = network(torch.zeros_like(inputs))
        torch.testing.assert_close(network(2 * inputs) - offset, 2 * (network(inputs) - offset), rtol=1e-5, atol=1e-6)


def test_the_location_generator_is_a_uniform_box_and_learns_only_its_place() -> None:
    generator = Location([0.0, 2.0], [3.0, -1.0], 8, 1).generator((2,))
    assert [name for name, _ in generator.named_parameters()] == ["place"]
    points = generator(torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))).detach()
    assert set(points[:, 0].tolist()) == {3.0}
    assert scipy.stats.kstest((points[:, 1].numpy() + 1) / 2, "uniform").pvalue > 1e-3
    with pytest.raises(InputError, match=r"same length"):
        Location([0.0], [1.0, 2.0], 8, 1)
    with pytest.raises(InputError, match=r"model\.sides"):
        Location([0.0], [1.0], 8, 1).generator((2,))


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_resnet_has_the_parameters_of_the_published_networks_and_a_bias_per_block() -> None:
    """The expected counts are computed by hand, dim 64: the public 64 x 64 code of WGAN-GP, and a bias in each `conv1`.

    The count without it is that of `model=wgan_gp_resnet64` in `test_published_models`.
    """

    def conv(a: int, b: int, k: int) -> int:
        return a * b * k * k + b

    def block(a: int, hidden: int, b: int) -> int:
        return 2 * a + conv(a, hidden, 3) + 2 * hidden + conv(hidden, b, 3) + conv(a, b, 1)

    down, up = [(64, 128), (128, 256), (256, 512), (512, 512)], [(512, 512), (512, 256), (256, 128), (128, 64)]
    critic = conv(3, 64, 3) + sum(block(a, a, b) for a, b in down) + 4 * 4 * 512 + 1
    generator = 128 * 4 * 4 * 512 + 4 * 4 * 512 + sum(block(a, b, b) for a, b in up) + 2 * 64 + conv(64, 3, 3)
    model = ResNet(64, 128, "batch", "layer")
    assert parameter_count(model.critic((3, 64, 64))) == critic
    assert parameter_count(model.generator((3, 64, 64))) == generator


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (DCGAN(4, 8, "batch", "none"), (1, 28, 28), ["28x28", "power-of-two"]),
        (DCGAN(4, 8, "batch", "none"), (1, 8, 8), ["8x8"]),
        (DCGAN(4, 8, "batch", "none"), (1, 32, 16), ["32x16"]),
        (ResNet(4, 8, "batch", "layer"), (1, 16, 16), ["16x16", "32, 64 or 128"]),
        (ResNet(4, 8, "batch", "layer"), (2,), ["model=mlp"]),
        (CONSTANT_WIDTH, (3, 64, 64), ["64x64", "size 32"]),
    ],
)
def test_an_unsupported_data_shape_is_refused(model, shape: tuple[int, ...], words: list[str]) -> None:
    for build_network in (model.generator, model.critic):
        with pytest.raises(InputError) as error:
            build_network(shape)
        assert all(word in str(error.value) for word in words)


def test_layer_norm_is_over_channels_and_pixels_of_each_example() -> None:
    images = torch.randn(3, 4, 5, 5) * torch.tensor([1.0, 10.0, 100.0])[:, None, None, None] + 7
    torch.testing.assert_close(norm_layer("layer", 4)(images), nn.functional.layer_norm(images, [4, 5, 5]))
    torch.testing.assert_close(norm_layer("instance", 4)(images), nn.functional.instance_norm(images))


def test_an_unknown_norm_is_refused_and_the_message_lists_the_known_norms() -> None:
    with pytest.raises(InputError, match=", ".join(NORMS)):
        norm_layer("group", 4)


def test_mean_pool_equals_average_pooling() -> None:
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(MeanPool()(images), nn.functional.avg_pool2d(images, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mean_pool_has_the_derivatives_of_avg_pool2d_bitwise(layout: torch.memory_format) -> None:
    x = torch.randn(3, 5, 8, 6, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)

    def results(pool: Callable[[Tensor], Tensor]) -> list[Tensor]:
        point = x.clone().requires_grad_()
        output = pool(point)
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), point, create_graph=True)
        (second,) = torch.autograd.grad(gradient.pow(2).sum(), point)
        return [output.detach(), gradient.detach(), second]

    for actual, expected in zip(results(MeanPool()), results(lambda x: F.avg_pool2d(x, 2)), strict=True):
        assert torch.equal(actual, expected)
        assert actual.is_contiguous(memory_format=layout)


def test_mean_pool_can_be_mapped_over_examples() -> None:
    x = torch.randn(4, 5, 8, 6)
    assert torch.equal(torch.vmap(lambda example: MeanPool()(example[None])[0])(x), F.avg_pool2d(x, 2))
    torch.autograd.gradgradcheck(MeanPool(), torch.randn(2, 1, 4, 2, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_with_pooling_or_upsampling_equals_the_two_layers(kernel: int) -> None:
    conv = nn.Conv2d(3, 5, kernel, padding=kernel // 2).double()
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    for fused, plain in (
        (conv_and_pool, lambda conv, x: F.avg_pool2d(conv(x), 2)),
        (upsample_and_conv, lambda conv, x: conv(upsample(x))),
    ):
        results = []
        for layer in (fused, plain):
            point = x.clone().requires_grad_()
            output = layer(conv, point)
            results.append([output, *torch.autograd.grad(output.pow(3).sum(), [point, *conv.parameters()])])
        for actual, expected in zip(*results, strict=True):
            assert actual.shape == expected.shape
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def without_fused_group_norm(monkeypatch) -> None:
    """As on CUDA, where PyTorch's group norm copies layouts."""
    monkeypatch.setattr(group_norm, "_has_fused_group_norm", lambda device: False)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_group_norm_in_bfloat16_is_computed_in_float32(monkeypatch, groups: int, layout: torch.memory_format) -> None:
    without_fused_group_norm(monkeypatch)
    stream = torch.Generator().manual_seed(0)
    x = (3 + torch.randn(4, 6, 8, 8, generator=stream)).bfloat16().to(memory_format=layout).requires_grad_()
    grad_output = torch.randn(x.shape, generator=stream).bfloat16().to(memory_format=layout)
    layer = group_norm.GroupNorm(groups, 6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(6, generator=stream))
    output = layer(x)
    gradients = torch.autograd.grad(output, [x, *layer.parameters()], grad_output)
    assert output.dtype == gradients[0].dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=layout)
    assert gradients[0].is_contiguous(memory_format=layout)
    wide_x, wide = x.detach().double().requires_grad_(), copy.deepcopy(layer).double()
    expected = torch.nn.functional.group_norm(wide_x, groups, wide.weight, wide.bias)
    expected_gradients = torch.autograd.grad(expected, [wide_x, *wide.parameters()], grad_output.double())
    for actual, reference, tolerance in zip(
        (output, *gradients), (expected, *expected_gradients), (4e-3, 4e-3, 1e-5, 1e-5), strict=True
    ):
        assert float((actual - reference).detach().norm()) < tolerance * float(reference.detach().norm())


def test_a_group_norm_in_bfloat16_can_be_differentiated_twice_by_pytorch(monkeypatch) -> None:
    without_fused_group_norm(monkeypatch)
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 8, 8, generator=stream).bfloat16().requires_grad_()
    grad_output, v = torch.randn(2, *x.shape, generator=stream).bfloat16()
    layer = group_norm.GroupNorm(2, 6)

    def second_derivatives(x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor) -> list[torch.Tensor]:
        (gradient,) = torch.autograd.grad(output, x, grad_output.to(output.dtype), create_graph=True)
        return list(torch.autograd.grad(gradient, [x, weight], v.to(output.dtype)))

    wide, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    expected = second_derivatives(wide, weight, torch.nn.functional.group_norm(wide, 2, weight, layer.bias.double()))
    for actual, reference in zip(second_derivatives(x, layer.weight, layer(x)), expected, strict=True):
        assert float((actual - reference).norm()) < 2e-2 * float(reference.norm())
