"""Toy distributions against their definitions, and the exact scorer against closed forms and SciPy."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.config import objects
from wgan_sweep.data import (
    GaussianGrid,
    GaussianRing,
    ParallelLines,
    PointMass,
    Points,
    ShiftedUniform,
    SwissRoll,
    TwoIntervals,
)
from wgan_sweep.errors import InputError
from wgan_sweep.objectives import sampling
from wgan_sweep.scoring.divergences import jensen_shannon, kullback_leibler
from wgan_sweep.scoring.exact import ExactScorer

from .helpers import directory_of

CPU = torch.device("cpu")


def draw(option, count: int = 20000) -> torch.Tensor:
    return option.load().draw(count, rng.generator(0, "test"))


@pytest.mark.parametrize(("option", "count"), [(GaussianRing(8, 2.0, 0.02), 8), (GaussianGrid(5, 1.0, 0.05), 25)])
def test_the_modes_of_a_mixture_have_equal_shares(option, count: int) -> None:
    points = option.load()
    assert points.modes is not None
    assert len(points.modes) == count
    distance, nearest_mode = torch.cdist(draw(option), points.modes).min(1)
    shares = torch.bincount(nearest_mode, minlength=count).numpy()
    assert scipy.stats.chisquare(shares).pvalue > 1e-3
    # distances from a centre in the plane have a Rayleigh distribution
    assert scipy.stats.kstest(distance.numpy() / points.std, "rayleigh").pvalue > 1e-3


def test_the_modes_are_on_a_circle_and_on_a_grid() -> None:
    ring, grid = GaussianRing(8, 2.0, 0.02).load().modes, GaussianGrid(5, 1.0, 0.05).load().modes
    assert ring is not None
    assert grid is not None
    torch.testing.assert_close(ring.norm(dim=1), torch.full((8,), 2.0))
    assert sorted(map(tuple, grid.tolist())) == [(float(x), float(y)) for x in range(-2, 3) for y in range(-2, 3)]


def test_uniform_distributions_are_uniform() -> None:
    assert scipy.stats.kstest(draw(ShiftedUniform(0.5))[:, 0].numpy() - 0.5, "uniform").pvalue > 1e-3
    mixture = [scipy.stats.uniform(start, 1).cdf for start in (0, 1.5)]
    both = draw(TwoIntervals(1.5))[:, 0].numpy()
    assert scipy.stats.kstest(both, lambda x: sum(cdf(x) for cdf in mixture) / 2).pvalue > 1e-3
    lines = draw(ParallelLines(-2.0))
    assert set(lines[:, 0].tolist()) == {-2.0}
    assert scipy.stats.kstest(lines[:, 1].numpy(), "uniform").pvalue > 1e-3


def test_the_swiss_roll_is_a_spiral() -> None:
    roll = draw(SwissRoll(7.5, 1e-6)) * 7.5
    t = roll.norm(dim=1)
    assert scipy.stats.kstest((t.numpy() / (1.5 * math.pi) - 1) / 2, "uniform").pvalue > 1e-3
    torch.testing.assert_close(roll, torch.stack([t * t.cos(), t * t.sin()], 1), rtol=1e-3, atol=1e-3)


def test_batches_are_new_points_and_can_be_resumed() -> None:
    points = SwissRoll(7.5, 0.05).load()
    batches, resumed = points.batches(16, 0, CPU), points.batches(16, 0, CPU)
    stream = [batches() for _ in range(4)]
    assert len({batch.sum().item() for batch in stream}) == 4
    resumed.load_state_dict({"drawn": 2})
    assert torch.equal(resumed(), stream[2])
    assert not torch.equal(points.batches(16, 1, CPU)(), stream[0])


@pytest.mark.parametrize(
    ("option", "values", "words"),
    [
        (GaussianRing, {"modes": 0, "radius": 1, "std": 1}, r"data\.modes must be 1 or more .*, got 0"),
        (GaussianRing, {"modes": 2, "radius": 1, "std": -1}, r"data\.std must be above 0 .*, got -1"),
        (GaussianGrid, {"side": 10**6, "spacing": 1, "std": 1}, r"data\.side must be .* at most 100, got 1000000"),
        (SwissRoll, {"scale": 0, "noise": 1}, r"data\.scale must be above 0"),
        (PointMass, {"at": [1, 1e30]}, r"data\.at\[1\] must be -10000 or more and at most 10000, got 1e\+30"),
    ],
)
def test_numbers_out_of_range_are_refused(option, values: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        objects.make({"_target_": f"wgan_sweep.data.{option.__name__}", **values}, "data")


class QuadraticPlayers:
    """Players with known values: the critic is T(x) = 3 x_0 + |x|^2 / 2."""

    def __init__(self, dim: int) -> None:
        self.generator = self.critic = nn.Identity()
        self.dim = dim

    def critic_outputs(self, points: torch.Tensor) -> torch.Tensor:
        assert points.shape[1] == self.dim
        return 3 * points[:, 0] + points.square().sum(1) / 2

    def critic_loss(self, real: torch.Tensor, fake: torch.Tensor) -> float:
        return float(len(real) + len(fake))

    def generator_gradient_norm(self, real: torch.Tensor) -> torch.Tensor:
        return torch.tensor(0.25)


def score(real: Points, generated: torch.Tensor) -> dict[str, float]:
    scorer = ExactScorer(
        real=real, device=CPU, num_samples=len(generated), projections=500, sampling=sampling.real_fake
    )
    return scorer(lambda count: generated[:count], QuadraticPlayers(generated.shape[1]))


def test_distances_in_one_dimension_match_scipy() -> None:
    real = ShiftedUniform(0.0).load()
    generated = real.draw(400, rng.generator(0, "other")) ** 2 + 0.3
    real_points = real.draw(400, rng.generator(0, "exact"))
    scores = score(real, generated)
    assert scores["w1"] == pytest.approx(scipy.stats.wasserstein_distance(real_points[:, 0], generated[:, 0]), rel=1e-6)
    expected = np.sqrt(np.mean((np.sort(real_points[:, 0].numpy()) - np.sort(generated[:, 0].numpy())) ** 2))
    assert scores["w2"] == pytest.approx(expected, rel=1e-5)
    assert scores["sliced_w2"] == pytest.approx(expected, rel=1e-5)  # in one dimension there is one direction


def test_distances_in_two_dimensions_are_optimal_assignments() -> None:
    real = GaussianRing(8, 2.0, 0.02).load()
    generated = torch.randn(200, 2, generator=rng.generator(1))
    real_points = real.draw(200, rng.generator(0, "exact"))
    scores = score(real, generated)
    cost = torch.cdist(generated.double(), real_points.double()).numpy()
    for power, name in ((1, "w1"), (2, "w2")):
        rows, columns = scipy.optimize.linear_sum_assignment(cost**power)
        assert scores[name] == pytest.approx((cost[rows, columns] ** power).mean() ** (1 / power), rel=1e-6)


@pytest.mark.parametrize("theta", [-1.5, 0.25, 3.0])
def test_the_distance_of_parallel_segments_is_theta(theta: float) -> None:
    real = ParallelLines(0.0).load()
    generated = real.draw(300, rng.generator(0, "exact")) + torch.tensor([theta, 0.0])
    scores = score(real, generated)
    assert scores["w1"] == pytest.approx(abs(theta), rel=1e-5)
    assert scores["w2"] == pytest.approx(abs(theta), rel=1e-5)


def test_the_critic_is_evaluated_at_the_points_of_the_sampling_scheme() -> None:
    real = ParallelLines(0.0).load()
    generated = real.draw(500, rng.generator(1)) + torch.tensor([2.0, 0.0])
    scores = score(real, generated)
    real_points = real.draw(500, rng.generator(0, "exact"))
    assert scores["critic_gap"] == pytest.approx(
        float(
            (3 * real_points[:, 0] + real_points.square().sum(1) / 2).mean()
            - (3 * generated[:, 0] + generated.square().sum(1) / 2).mean()
        )
    )
    points = sampling.real_fake(real_points, generated, rng.generator(0, "exact points"))
    gradient = points + torch.tensor([3.0, 0.0])
    norms = np.linalg.norm(gradient.numpy(), axis=1)
    assert scores["critic_gradient_mean"] == pytest.approx(norms.mean())
    assert scores["critic_gradient_max"] == pytest.approx(norms.max())
    for q in (5, 25, 50, 75, 95):
        assert scores[f"critic_gradient_q{q}"] == pytest.approx(np.percentile(norms, q))
    assert [scores["critic_slope_0"], scores["critic_slope_1"]] == pytest.approx(gradient.mean(0).tolist())
    assert [scores["mean_0"], scores["mean_1"]] == pytest.approx(generated.mean(0).tolist())
    assert (scores["eval_critic_loss"], scores["generator_gradient"]) == (1000, 0.25)


@pytest.mark.parametrize("theta", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_js_of_uniforms_matches_the_closed_form(theta: float) -> None:
    real = ShiftedUniform(theta).load()
    scores = score(real, ShiftedUniform(0.0).load().draw(2000, rng.generator(3)))
    assert scores["js"] == pytest.approx(min(theta, 1) * math.log(2), abs=0.02)


@pytest.mark.integration
@pytest.mark.parametrize(("theta", "js"), [(0.0, 0.0), (1e-2, math.log(2)), (3.0, math.log(2))])
def test_js_of_segments_and_of_points_matches_the_closed_form(theta: float, js: float) -> None:
    segment = ParallelLines(0.0).load()
    generated = segment.draw(2000, rng.generator(3))
    assert score(ParallelLines(theta).load(), generated)["js"] == pytest.approx(js, abs=0.02)
    points = score(PointMass([theta]).load(), torch.zeros(2000, 1))
    assert points["js"] == pytest.approx(js, abs=1e-3)
    assert "kl" not in points  # there is no density
    assert points["w1"] == pytest.approx(theta, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 2.0), (0.5, 1.3)])
def test_divergences_of_gaussians_match_the_closed_form_and_scipy(dim: int, shift: float, scale: float) -> None:
    generator = np.random.default_rng(dim)
    p_samples = generator.normal(size=(4000, dim))
    q_samples = shift + scale * generator.normal(size=(4000, dim))
    expected = dim * (math.log(scale) + (1 + shift**2) / (2 * scale**2) - 0.5)
    assert kullback_leibler(p_samples, q_samples) == pytest.approx(expected, abs=0.1)
    if dim == 1:
        x = np.linspace(-12, 12, 20001)
        densities = scipy.stats.norm.pdf(x), scipy.stats.norm.pdf(x, shift, scale)
        expected = scipy.spatial.distance.jensenshannon(*densities) ** 2
        js = jensen_shannon(p_samples, q_samples)
        assert js == pytest.approx(expected, abs=0.03)
        assert js == pytest.approx(jensen_shannon(q_samples, p_samples), abs=1e-12)


def test_kl_of_few_points_is_that_of_its_formula() -> None:
    """Distances to the nearest other real point: 1, 1, 2; to the nearest of the 6 generated ones: 0.5, 0.5, 1."""
    real, generated = (np.array(x)[:, None] for x in ([0.0, 1.0, 3.0], [0.5, 2.0, 7.0, 8.0, 9.0, 9.5]))
    assert kullback_leibler(real, generated, 1) == pytest.approx(math.log(1 / 2) + math.log(6 / 2))


def test_modes_and_quality_are_counted_within_three_standard_deviations() -> None:
    real = GaussianGrid(5, 1.0, 0.05).load()
    assert real.modes is not None
    generated = real.modes[[0, 0, 7, 24]] + torch.tensor([[0.0, 0.0], [0.14, 0.0], [0.0, -0.16], [0.1, 0.1]])
    scores = score(real, generated.repeat(2, 1))
    assert scores["modes"] == 2  # mode 0 twice, and mode 24; the sample near mode 7 is just too far away
    assert scores["high_quality"] == 0.75
    assert "modes" not in score(SwissRoll(7.5, 0.05).load(), generated.repeat(2, 1))
    perfect = score(real, real.draw(2000, rng.generator(5)))
    assert perfect["modes"] == 25
    assert perfect["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)


def test_fid_refuses_points(make) -> None:
    from wgan_sweep.runs.build import check

    with pytest.raises(InputError, match="use scorer=exact"):
        check(make("data=gaussians8", "scorer=fid", tiny=False))


@pytest.mark.parametrize("name", ["gaussians8", "shifted_uniform"])
def test_a_run_on_points_is_scored_and_drawn(name: str, make, tmp_path) -> None:
    from PIL import Image
    from rich.console import Console

    from wgan_sweep.common.progress import Display
    from wgan_sweep.runs import life

    more = ["train.steps=3", "train.n_critic=1", "model.dim=16", "scorer.num_samples=50", "tracker=none", "device=cpu"]
    config = make(f"data={name}", *more, tiny=False)
    assert (config.choices["model"], config.choices["scorer"]) == ("mlp", "exact")
    record = life.run(config, overrides=[], display=Display(Console(quiet=True)))
    assert record.status == "done", record.error
    assert record.scores["w1"] > 0
    assert record.best == record.scores
    with Image.open(directory_of(config).samples(3)) as picture:
        assert picture.size == (500, 500)
        assert len(picture.getcolors(maxcolors=100000) or []) > 50
