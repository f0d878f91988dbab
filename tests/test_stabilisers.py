import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP
from wgan_sweep.objectives import losses, stabilisers
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
