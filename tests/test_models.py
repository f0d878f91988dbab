import pytest
import scipy.stats
import torch
from torch import nn

from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP, Location, ResNet
from wgan_sweep.models.layers import NORMS, MeanPool, norm


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_dcgan_makes_and_scores_every_power_of_two(size: int, channels: int) -> None:
    model, shape = DCGAN(2, 8, "batch", "none"), (channels, size, size)
    images = model.generator(shape)(torch.randn(2, 8))
    assert images.shape == (2, *shape)
    assert float(images.detach().abs().max()) <= 1
    assert model.critic(shape)(images).shape == (2,)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_resnet_makes_and_scores_its_sizes(size: int) -> None:
    model, shape = ResNet(2, 8, "batch", "layer"), (3, size, size)
    images = model.generator(shape)(torch.randn(2, 8))
    assert images.shape == (2, *shape)
    assert model.critic(shape)(images).shape == (2,)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_mlp_takes_points_and_images(shape: tuple[int, ...]) -> None:
    model = MLP(16, 3, 4)
    made = model.generator(shape)(torch.randn(5, 4))
    assert made.shape == (5, *shape)
    assert model.critic(shape)(made).shape == (5,)


def test_an_mlp_of_no_hidden_layers_is_linear() -> None:
    model = MLP(16, 0, 4)
    generator, critic = model.generator((2,)), model.critic((2,))
    z, x = torch.randn(3, 4), torch.randn(3, 2)
    for network, at in ((generator, z), (critic, x)):
        zero = network(torch.zeros_like(at))
        torch.testing.assert_close(network(2 * at) - zero, 2 * (network(at) - zero), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"model\.depth"):
        MLP(16, -1, 4)


def test_a_location_is_its_box_where_it_is_and_learns_nothing_else() -> None:
    made = Location([0.0, 2.0], [3.0, -1.0], 8, 1).generator((2,))
    assert [name for name, _ in made.named_parameters()] == ["place"]
    points = made(torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))).detach()
    assert set(points[:, 0].tolist()) == {3.0}
    assert scipy.stats.kstest((points[:, 1].numpy() + 1) / 2, "uniform").pvalue > 1e-3
    with pytest.raises(InputError, match=r"as many coordinates"):
        Location([0.0], [1.0, 2.0], 8, 1)
    with pytest.raises(InputError, match=r"model\.sides"):
        Location([0.0], [1.0], 8, 1).generator((2,))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_resnet_has_the_size_of_the_published_networks() -> None:
    """Counted by hand from the layers of WGAN-GP's public 64 x 64 code, dim 64."""

    def conv(a: int, b: int, k: int) -> int:
        return a * b * k * k + b

    def block(a: int, middle: int, b: int) -> int:
        return 2 * a + conv(a, middle, 3) + 2 * middle + conv(middle, b, 3) + conv(a, b, 1)

    down, up = [(64, 128), (128, 256), (256, 512), (512, 512)], [(512, 512), (512, 256), (256, 128), (128, 64)]
    critic = conv(3, 64, 3) + sum(block(a, a, b) for a, b in down) + 4 * 4 * 512 + 1
    generator = 128 * 4 * 4 * 512 + 4 * 4 * 512 + sum(block(a, b, b) for a, b in up) + 2 * 64 + conv(64, 3, 3)
    model = ResNet(64, 128, "batch", "layer")
    assert count(model.critic((3, 64, 64))) == critic
    assert count(model.generator((3, 64, 64))) == generator


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (DCGAN(4, 8, "batch", "none"), (1, 28, 28), ["28x28", "power-of-two"]),
        (DCGAN(4, 8, "batch", "none"), (1, 8, 8), ["8x8"]),
        (DCGAN(4, 8, "batch", "none"), (1, 32, 16), ["32x16"]),
        (ResNet(4, 8, "batch", "layer"), (1, 16, 16), ["16x16", "32, 64 or 128"]),
        (ResNet(4, 8, "batch", "layer"), (2,), ["model=mlp"]),
    ],
)
def test_a_shape_that_a_model_cannot_make_is_refused(model, shape: tuple[int, ...], words: list[str]) -> None:
    for network in (model.generator, model.critic):
        with pytest.raises(InputError) as refused:
            network(shape)
        assert all(word in str(refused.value) for word in words)


def test_layer_norm_is_over_channels_and_pixels_of_one_example() -> None:
    images = torch.randn(3, 4, 5, 5) * torch.tensor([1.0, 10.0, 100.0])[:, None, None, None] + 7
    made = norm("layer", 4)(images)
    torch.testing.assert_close(made, nn.functional.layer_norm(images, [4, 5, 5]))
    torch.testing.assert_close(norm("instance", 4)(images), nn.functional.instance_norm(images))


def test_an_unknown_norm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(NORMS)):
        norm("group", 4)


def test_mean_pool_is_average_pooling() -> None:
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(MeanPool()(images), nn.functional.avg_pool2d(images, 2))
