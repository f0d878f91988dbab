from collections import Counter

import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP
from wgan_sweep.objectives import losses, stabilisers
from wgan_sweep.objectives.augmentation import diff_augment
from wgan_sweep.objectives.stabilisers import HistoricalAverage, MinibatchFeatures, VirtualBatchNorm
from wgan_sweep.runs.build import build


def test_label_smoothing_is_refused_for_losses_without_labels() -> None:
    smooth_labels = stabilisers.label_smoothing(0.9).adapt_loss
    outputs = torch.tensor([3.0])
    assert float(smooth_labels(losses.non_saturating()).critic(outputs, -outputs)) > float(
        losses.non_saturating().critic(outputs, -outputs)
    )
    with pytest.raises(InputError, match="no label to smooth"):
        smooth_labels(losses.wasserstein())


def test_feature_matching_is_the_squared_distance_of_mean_features(make) -> None:
    trainer = build(make("stabiliser=feature_matching", "train.n_critic=1")).trainer
    critic = trainer.critic
    real, fake = torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32, requires_grad=True)
    generator_loss = stabilisers.feature_matching().generator_loss
    assert generator_loss is not None
    loss = generator_loss(critic, real, fake)
    difference = critic.body(real).flatten(1).mean(0) - critic.body(fake).flatten(1).mean(0)
    assert float(loss.detach()) == pytest.approx(float(difference.square().sum().detach()), rel=1e-5)
    assert float(generator_loss(critic, real, real).detach()) == 0
    (values,) = [{name: float(value) for name, value in step.items()} for step in trainer.steps(1)]
    assert values["generator_loss"] >= 0  # a squared distance; -E[T] can be negative


def test_minibatch_features_measure_the_closeness_to_the_other_examples() -> None:
    layer = MinibatchFeatures(3, 2, 4).double()
    layer.requires_grad_(requires_grad=False)
    x = torch.randn(5, 3).double()
    features = layer(x)
    assert features.shape == (5, 5)
    assert torch.equal(features[:, :3], x)
    m = (x @ layer.tensor).view(5, 2, 4)
    for i in range(5):
        for b in range(2):
            expected = sum(torch.exp(-(m[i, b] - m[j, b]).abs().sum()) for j in range(5) if j != i)
            assert float(features[i, 3 + b]) == pytest.approx(float(expected))
    features_of_equal_examples = layer(x[:1].expand(4, -1))
    assert features_of_equal_examples[:, 3:].detach().flatten().tolist() == pytest.approx([3.0] * 8)


def test_closeness_is_the_same_whether_all_kernels_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MinibatchFeatures(3, 7, 5).double()
    x = torch.randn(16, 3).double()
    m = (x @ layer.tensor).view(16, 7, 5).transpose(0, 1)
    expected = (torch.exp(-torch.cdist(m, m, p=1)).sum(2) - 1).T
    for at_once in (1, 2 * 16**2, 10**6):  # one kernel, two and all
        monkeypatch.setattr(stabilisers, "DISTANCES_AT_ONCE", at_once)
        torch.testing.assert_close(layer(x)[:, 3:], expected)


def test_a_critic_that_compares_examples_is_measured_in_batches_of_the_training_size(make) -> None:
    trainer = build(make("stabiliser=minibatch_discrimination", "train.batch_size=4")).trainer
    points = torch.randn(9, 1, 32, 32)
    with torch.no_grad():
        expected = torch.cat([trainer.critic(part) for part in points.split(4)])
        assert torch.equal(trainer.critic_outputs(points), expected)
        assert not torch.allclose(trainer.critic(points), expected)  # closeness is a sum over the batch
    inputs = points.requires_grad_()
    (gradient,) = torch.autograd.grad(trainer.critic_outputs(inputs).sum(), inputs)
    parts = [torch.autograd.grad(trainer.critic(part).sum(), inputs)[0] for part in inputs.split(4)]
    torch.testing.assert_close(gradient, sum(parts))
    assert trainer.generator_gradient_norm(points) == trainer.generator_gradient_norm(points[:4])


def test_virtual_batch_norm_of_an_example_depends_on_the_reference_and_the_example_only() -> None:
    layer = VirtualBatchNorm(nn.BatchNorm2d(2), 6)
    reference, x = torch.randn(6, 2, 4, 4) * 3 + 1, torch.randn(3, 2, 4, 4)
    outputs = layer(torch.cat([reference, x]))[6:]
    single_outputs = torch.cat([layer(torch.cat([reference, example[None]]))[6:] for example in x])
    torch.testing.assert_close(outputs, single_outputs)
    examples = torch.cat([reference, x[:1]])  # the statistics are those of these seven examples
    mean, var = examples.mean((0, 2, 3)), examples.var((0, 2, 3), unbiased=False)
    expected = (x[0] - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(outputs[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [10, 1e4])
def test_virtual_batch_norm_is_accurate_where_the_mean_is_large(mean: float, dtype: torch.dtype) -> None:
    """Compared with the statistics of each example and the reference, in float64, of the same rounded input."""
    layer = VirtualBatchNorm(nn.BatchNorm2d(2), 6)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.5, -0.5]))
        layer.bias.copy_(torch.tensor([0.2, -0.1]))
    x = torch.randn(9, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x + mean).to(dtype).requires_grad_()
    outputs = layer(x)
    (gradient,) = torch.autograd.grad(outputs.tanh().sum(), x)
    wide = x.detach().double().requires_grad_()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    groups = [wide[:6]] + [torch.cat([wide[:6], wide[i : i + 1]]) for i in range(6, 9)]
    normalised = [torch.nn.functional.batch_norm(g, None, None, weight, bias, training=True) for g in groups]
    expected = torch.cat([normalised[0], *(group[6:] for group in normalised[1:])])
    (expected_gradient,) = torch.autograd.grad(expected.tanh().sum(), wide)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.double(), expected, rtol=1e-5, atol=1e-5)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=max(2 * rounding, 1e-4), atol=1e-4)


def test_virtual_batch_norm_replaces_every_batch_norm_of_the_generator() -> None:
    replace_batch_norm = stabilisers.virtual_batch_norm(4).adapt_generator
    with rng.seeded(0):
        generator = replace_batch_norm(DCGAN(4, 8, "batch", "none").generator((1, 16, 16)), 8)
    layer_types = [type(module) for module in generator.modules()]
    assert nn.BatchNorm2d not in layer_types
    assert layer_types.count(VirtualBatchNorm) == 2
    z = torch.randn(5, 8)
    assert generator(z).shape == (5, 1, 16, 16)
    torch.testing.assert_close(generator.eval()(z)[:2], generator.train()(z[:2]))
    with pytest.raises(InputError, match="has none"):
        replace_batch_norm(MLP(4, 1, 8).generator((1, 16, 16)), 8)


def test_the_historical_average_is_the_mean_of_all_parameter_states() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = HistoricalAverage([parameter])
    for value in ([3.0, 2.0], [5.0, 8.0]):
        with torch.no_grad():
            parameter.copy_(torch.tensor(value))
        average.update()
    assert average.state_dict()["means"][0].tolist() == [3.0, 4.0]
    squared_distance = average.squared_distance()
    assert float(squared_distance.detach()) == 4 + 16
    squared_distance.backward()
    assert parameter.grad.tolist() == [4.0, 8.0]


def test_historical_averaging_slows_the_generator_down(make) -> None:
    free, averaged = (
        build(make(*overrides)).trainer
        for overrides in ([], ["stabiliser=historical_averaging", "stabiliser.weight=1e4"])
    )
    initial = [p.detach().clone() for p in free.generator.parameters()]
    for trainer in (free, averaged):
        list(trainer.steps(6))

    def distance(trainer) -> float:
        return sum(float((p.detach() - i).norm()) for p, i in zip(trainer.generator.parameters(), initial, strict=True))

    assert distance(averaged) < 0.7 * distance(free)


OFF = {"brightness": 0.0, "saturation": 0.0, "contrast": 0.0, "translation": 0.0, "cutout": 0.0}
PUBLISHED = {"brightness": 1.0, "saturation": 1.0, "contrast": 0.5, "translation": 0.125, "cutout": 0.5}
COUNT = 300
"""Images that are augmented, of 3 x 8 x 16 pixels: enough for each shift of up to 1 row and 2 columns to occur."""


def augmented(**parts: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return copies of an image, and what some parts of the augmentation make of them."""
    image = torch.rand(3, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    images = image.expand(COUNT, -1, -1, -1)
    return images, diff_augment(**OFF | parts).augment_input(images, 0, torch.Generator().manual_seed(2))


def is_spread(values: torch.Tensor, low: float, high: float) -> bool:
    """Return whether values are as a uniform distribution has them: within its limits and near both, and in between."""
    margin, middle = (high - low) / 20, (low + high) / 2
    near = bool(
        values.min() < low + margin and values.max() > high - margin and (values.mean() - middle).abs() < margin
    )
    return near and bool(((values >= low - 1e-9) & (values <= high + 1e-9)).all())


def test_brightness_adds_a_number_to_each_image() -> None:
    images, changed = augmented(brightness=1.0)
    added = (changed - images).flatten(1)
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert is_spread(added[:, 0], -0.5, 0.5)


@pytest.mark.parametrize(
    ("part", "dims", "low", "high"), [({"saturation": 1.0}, [1], 0, 2), ({"contrast": 0.5}, [1, 2, 3], 0.5, 1.5)]
)
def test_saturation_and_contrast_stretch_each_image_about_its_mean(part, dims: list[int], low, high) -> None:
    images, changed = augmented(**part)
    mean = images.mean(dims, keepdim=True)
    torch.testing.assert_close(changed.mean(dims, keepdim=True), mean)
    factors = ((changed - mean) / (images - mean)).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-6, atol=1e-6)
    assert is_spread(factors[:, 0], low, high)


def test_translation_shifts_each_image_by_whole_pixels_and_fills_up_with_zeros() -> None:
    images, changed = augmented(translation=0.125)
    shifted = {}
    for rows in range(-1, 2):
        for columns in range(-2, 3):
            expected = torch.zeros_like(images[0])
            for row in range(8):
                for column in range(16):
                    if 0 <= row - rows < 8 and 0 <= column - columns < 16:
                        expected[:, row, column] = images[0, :, row - rows, column - columns]
            shifted[rows, columns] = expected
    found = [[shift for shift, expected in shifted.items() if torch.equal(image, expected)] for image in changed]
    assert all(len(shifts) == 1 for shifts in found)
    counts = Counter(shifts[0] for shifts in found)
    assert set(counts) == set(shifted)
    assert max(counts.values()) < 2.5 * COUNT / 15


def test_cutout_sets_one_rectangle_of_each_image_to_zero() -> None:
    images, changed = augmented(cutout=0.5)
    holes = (changed == 0).all(1)
    assert torch.equal(changed, images * ~holes[:, None])
    sizes = []
    for hole in holes:
        rows, columns = hole.any(1).nonzero().flatten().tolist(), hole.any(0).nonzero().flatten().tolist()
        assert int(hole.sum()) == len(rows) * len(columns) > 0
        sizes.append((len(rows), len(columns)))
        inner_rows, inner_columns = rows[0] > 0 and rows[-1] < 7, columns[0] > 0 and columns[-1] < 15
        assert not inner_rows or len(rows) == 4
        assert not inner_columns or len(columns) == 8
    assert max(sizes) == (4, 8)  # half of height and width
    assert min(rows for rows, _ in sizes) == min(columns for _, columns in sizes) // 2 == 2


@pytest.mark.parametrize(("cutout", "length"), [(0.5, 4), (0.375, 3)])
def test_the_hole_is_as_often_at_one_end_as_at_the_other(cutout: float, length: int) -> None:
    """As in the published code, its centre is any pixel, or between any two and at both ends if its length is even."""
    _, changed = augmented(cutout=cutout)
    rows = [tuple(hole.any(1).nonzero().flatten().tolist()) for hole in (changed == 0).all(1)]
    firsts = range(-(length // 2), 8 - length + length // 2 + 1)
    expected = {tuple(row for row in range(first, first + length) if 0 <= row < 8) for first in firsts}
    assert set(rows) == expected
    assert {tuple(7 - row for row in reversed(hole)) for hole in expected} == expected


def test_augmentation_is_differentiable_and_draws_for_each_image_and_from_its_stream_only() -> None:
    augment = diff_augment(**PUBLISHED).augment_input
    images = torch.rand(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augment(x, 0, torch.Generator().manual_seed(3)), (images,))
    same = torch.rand(1, 3, 8, 8).expand(5, -1, -1, -1)
    state = torch.get_rng_state()
    first, again = (augment(same, step, torch.Generator().manual_seed(3)) for step in (0, 7))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 5


def test_augmentation_is_refused_for_a_critic_without_convolutions_and_if_it_does_nothing() -> None:
    with pytest.raises(InputError, match="no convolution"):
        diff_augment(**PUBLISHED).adapt_critic(MLP(4, 1, 8).critic((2,)))
    with pytest.raises(InputError, match="are 0"):
        diff_augment(**OFF)


@pytest.mark.parametrize(
    ("create", "name"),
    [
        (lambda: stabilisers.label_smoothing(1.0), "real_label"),
        (lambda: stabilisers.minibatch_discrimination(0, 5), "kernels=0"),
        (lambda: stabilisers.virtual_batch_norm(1), "reference"),
        (lambda: stabilisers.historical_averaging(0), "weight"),
        (lambda: stabilisers.instance_noise(0, 5), "std=0"),
    ],
)
def test_settings_out_of_range_are_refused(create, name: str) -> None:
    with pytest.raises(InputError, match=name):
        create()
