import pytest
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP
from wgan_sweep.objectives import losses, stabilisers
from wgan_sweep.objectives.stabilisers import MinibatchFeatures, PastMean, VirtualBatchNorm
from wgan_sweep.runs.build import build


def test_label_smoothing_is_for_losses_with_labels() -> None:
    smooth = stabilisers.label_smoothing(0.9).loss
    scores = torch.tensor([3.0])
    assert float(smooth(losses.non_saturating()).critic(scores, -scores)) > float(
        losses.non_saturating().critic(scores, -scores)
    )
    with pytest.raises(InputError, match="no label to smooth"):
        smooth(losses.wasserstein())


def test_feature_matching_is_the_distance_of_mean_features_and_moves_the_generator_only(make) -> None:
    trainer = build(make("stabiliser=feature_matching", "train.n_critic=1")).trainer
    critic = trainer.critic
    real, fake = torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32, requires_grad=True)
    match = stabilisers.feature_matching().match
    assert match is not None
    found = match(critic, real, fake)
    gap = critic.body(real).flatten(1).mean(0) - critic.body(fake).flatten(1).mean(0)
    assert float(found.detach()) == pytest.approx(float(gap.square().sum().detach()), rel=1e-5)
    assert float(match(critic, real, real).detach()) == 0
    (values,) = [{k: float(v) for k, v in line.items()} for line in trainer.steps(1)]
    assert values["generator_loss"] >= 0  # a squared distance, where -E[T] could be anything


def test_minibatch_features_count_how_close_the_others_are() -> None:
    layer = MinibatchFeatures(3, 2, 4).double()
    layer.requires_grad_(requires_grad=False)
    x = torch.randn(5, 3).double()
    found = layer(x)
    assert found.shape == (5, 5)
    assert torch.equal(found[:, :3], x)
    m = (x @ layer.tensor).view(5, 2, 4)
    for i in range(5):
        for b in range(2):
            wanted = sum(torch.exp(-(m[i, b] - m[j, b]).abs().sum()) for j in range(5) if j != i)
            assert float(found[i, 3 + b]) == pytest.approx(float(wanted))
    alike = layer(x[:1].expand(4, -1))
    assert alike[:, 3:].detach().flatten().tolist() == pytest.approx([3.0] * 8)


def test_virtual_batch_norm_of_an_example_depends_on_the_reference_and_itself_alone() -> None:
    layer = VirtualBatchNorm(nn.BatchNorm2d(2), 6)
    reference, x = torch.randn(6, 2, 4, 4) * 3 + 1, torch.randn(3, 2, 4, 4)
    together = layer(torch.cat([reference, x]))[6:]
    alone = torch.cat([layer(torch.cat([reference, one[None]]))[6:] for one in x])
    torch.testing.assert_close(together, alone)
    joined = torch.cat([reference, x[:1]])  # the statistics of seven examples, of which one is the example
    mean, var = joined.mean((0, 2, 3)), joined.var((0, 2, 3), unbiased=False)
    wanted = (x[0] - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(together[0], wanted, rtol=1e-4, atol=1e-4)


def test_virtual_batch_norm_replaces_every_batch_norm_of_the_generator_or_is_refused() -> None:
    virtual = stabilisers.virtual_batch_norm(4).generator
    with rng.seeded(0):
        made = virtual(DCGAN(4, 8, "batch", "none").generator((1, 16, 16)), 8)
    kinds = [type(module) for module in made.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(VirtualBatchNorm) == 2
    z = torch.randn(5, 8)
    assert made(z).shape == (5, 1, 16, 16)
    torch.testing.assert_close(made.eval()(z)[:2], made.train()(z[:2]))
    with pytest.raises(InputError, match="has none"):
        virtual(MLP(4, 1, 8).generator((1, 16, 16)), 8)


def test_the_past_mean_is_the_mean_of_all_parameters_so_far() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    past = PastMean([parameter])
    for value in ([3.0, 2.0], [5.0, 8.0]):
        with torch.no_grad():
            parameter.copy_(torch.tensor(value))
        past.update()
    assert past.state_dict()["means"][0].tolist() == [3.0, 4.0]
    distance = past.distance()
    assert float(distance.detach()) == 4 + 16
    distance.backward()
    assert parameter.grad.tolist() == [4.0, 8.0]


def test_historical_averaging_holds_both_players_back(make) -> None:
    free, held = (
        build(make(*more)).trainer for more in ([], ["stabiliser=historical_averaging", "stabiliser.weight=1e4"])
    )
    start = [p.detach().clone() for p in free.generator.parameters()]
    for trainer in (free, held):
        list(trainer.steps(6))

    def moved(trainer) -> float:
        return sum(float((p.detach() - s).norm()) for p, s in zip(trainer.generator.parameters(), start, strict=True))

    assert moved(held) < 0.7 * moved(free)


@pytest.mark.parametrize(
    ("make_one", "named"),
    [
        (lambda: stabilisers.label_smoothing(1.0), "real_label"),
        (lambda: stabilisers.minibatch_discrimination(0, 5), "kernels=0"),
        (lambda: stabilisers.virtual_batch_norm(1), "reference"),
        (lambda: stabilisers.historical_averaging(0), "weight"),
        (lambda: stabilisers.instance_noise(0, 5), "std=0"),
    ],
)
def test_settings_out_of_range_are_refused(make_one, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_one()
