"""Toy distributions against their own definitions, and exact quantities against closed forms and SciPy."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from torch import nn

from wgan_sweep.common import rng
from wgan_sweep.data import GaussianGrid, GaussianRing, ParallelLines, PointMass, Points, ShiftedUniform, SwissRoll
from wgan_sweep.errors import InputError
from wgan_sweep.objectives import sampling
from wgan_sweep.scoring.divergences import jensen_shannon, kullback_leibler
from wgan_sweep.scoring.exact import ExactScorer

CPU = torch.device("cpu")


def drawn(source, count: int = 20000) -> torch.Tensor:
    return source.load().draw(count, rng.generator(0, "test"))


@pytest.mark.parametrize(("source", "count"), [(GaussianRing(8, 2.0, 0.02), 8), (GaussianGrid(5, 1.0, 0.05), 25)])
def test_mixtures_have_their_modes_in_equal_shares(source, count: int) -> None:
    points = source.load()
    assert points.modes is not None
    assert len(points.modes) == count
    distance, nearest = torch.cdist(drawn(source), points.modes).min(1)
    shares = torch.bincount(nearest, minlength=count).numpy()
    assert scipy.stats.chisquare(shares).pvalue > 1e-3
    # distances from a centre in the plane are Rayleigh distributed
    assert scipy.stats.kstest(distance.numpy() / points.std, "rayleigh").pvalue > 1e-3


def test_the_ring_and_the_grid_are_where_they_should_be() -> None:
    ring, grid = GaussianRing(8, 2.0, 0.02).load().modes, GaussianGrid(5, 1.0, 0.05).load().modes
    assert ring is not None
    assert grid is not None
    torch.testing.assert_close(ring.norm(dim=1), torch.full((8,), 2.0))
    assert sorted(map(tuple, grid.tolist())) == [(float(x), float(y)) for x in range(-2, 3) for y in range(-2, 3)]


def test_the_uniform_ones_are_uniform() -> None:
    assert scipy.stats.kstest(drawn(ShiftedUniform(0.5))[:, 0].numpy() - 0.5, "uniform").pvalue > 1e-3
    lines = drawn(ParallelLines(-2.0))
    assert set(lines[:, 0].tolist()) == {-2.0}
    assert scipy.stats.kstest(lines[:, 1].numpy(), "uniform").pvalue > 1e-3


def test_the_swiss_roll_rolls() -> None:
    roll = drawn(SwissRoll(7.5, 1e-6)) * 7.5
    t = roll.norm(dim=1)
    assert scipy.stats.kstest((t.numpy() / (1.5 * math.pi) - 1) / 2, "uniform").pvalue > 1e-3
    torch.testing.assert_close(roll, torch.stack([t * t.cos(), t * t.sin()], 1), rtol=1e-3, atol=1e-3)


def test_batches_are_new_points_that_repeat_and_resume() -> None:
    points = SwissRoll(7.5, 0.05).load()
    one, other = points.batches(16, 0, CPU), points.batches(16, 0, CPU)
    stream = [one() for _ in range(4)]
    assert len({batch.sum().item() for batch in stream}) == 4
    other.load_state_dict({"drawn": 2})
    assert torch.equal(other(), stream[2])
    assert not torch.equal(points.batches(16, 1, CPU)(), stream[0])


@pytest.mark.parametrize(
    "source", [GaussianRing(0, 1, 1), GaussianGrid(2, 0, 1), GaussianRing(2, 1, -1), SwissRoll(0, 1)]
)
def test_numbers_that_are_not_positive_are_refused(source) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        source.load()


class Known:
    """Players that everything is known of: T(x) = 3 x_0 + |x|^2 / 2."""

    def __init__(self, dim: int) -> None:
        self.generator = self.critic = nn.Identity()
        self.dim = dim

    def score(self, points: torch.Tensor) -> torch.Tensor:
        assert points.shape[1] == self.dim
        return 3 * points[:, 0] + points.square().sum(1) / 2

    def critic_loss(self, real: torch.Tensor, fake: torch.Tensor) -> float:
        return float(len(real) + len(fake))

    def generator_gradient_norm(self, real: torch.Tensor) -> torch.Tensor:
        return torch.tensor(0.25)


def score(real: Points, made: torch.Tensor) -> dict[str, float]:
    scorer = ExactScorer(real=real, device=CPU, num_samples=len(made), projections=500, sampling=sampling.real_fake)
    return scorer(lambda count: made[:count], Known(made.shape[1]))


def test_distances_on_the_line_are_scipys() -> None:
    real = ShiftedUniform(0.0).load()
    made = real.draw(400, rng.generator(0, "other")) ** 2 + 0.3
    truth = real.draw(400, rng.generator(0, "exact"))
    found = score(real, made)
    assert found["w1"] == pytest.approx(scipy.stats.wasserstein_distance(truth[:, 0], made[:, 0]), rel=1e-6)
    wanted = np.sqrt(np.mean((np.sort(truth[:, 0].numpy()) - np.sort(made[:, 0].numpy())) ** 2))
    assert found["w2"] == pytest.approx(wanted, rel=1e-5)
    assert found["sliced_w2"] == pytest.approx(wanted, rel=1e-5)  # on the line there is one direction


def test_distances_in_the_plane_are_the_optimal_assignments() -> None:
    real = GaussianRing(8, 2.0, 0.02).load()
    made = torch.randn(200, 2, generator=rng.generator(1))
    truth = real.draw(200, rng.generator(0, "exact"))
    found = score(real, made)
    cost = torch.cdist(made.double(), truth.double()).numpy()
    for power, name in ((1, "w1"), (2, "w2")):
        rows, columns = scipy.optimize.linear_sum_assignment(cost**power)
        assert found[name] == pytest.approx((cost[rows, columns] ** power).mean() ** (1 / power), rel=1e-6)


@pytest.mark.parametrize("theta", [-1.5, 0.25, 3.0])
def test_parallel_segments_are_their_distance_apart(theta: float) -> None:
    real = ParallelLines(0.0).load()
    made = real.draw(300, rng.generator(0, "exact")) + torch.tensor([theta, 0.0])
    found = score(real, made)
    assert found["w1"] == pytest.approx(abs(theta), rel=1e-5)
    assert found["w2"] == pytest.approx(abs(theta), rel=1e-5)


def test_what_the_players_are_is_measured_at_the_points_of_r() -> None:
    real = ParallelLines(0.0).load()
    made = real.draw(500, rng.generator(1)) + torch.tensor([2.0, 0.0])
    found = score(real, made)
    truth = real.draw(500, rng.generator(0, "exact"))
    assert found["critic_gap"] == pytest.approx(
        float((3 * truth[:, 0] + truth.square().sum(1) / 2).mean() - (3 * made[:, 0] + made.square().sum(1) / 2).mean())
    )
    points = sampling.real_fake(truth, made, rng.generator(0, "exact points"))
    gradient = points + torch.tensor([3.0, 0.0])
    norms = np.linalg.norm(gradient.numpy(), axis=1)
    assert found["critic_gradient_mean"] == pytest.approx(norms.mean())
    assert found["critic_gradient_max"] == pytest.approx(norms.max())
    for q in (5, 25, 50, 75, 95):
        assert found[f"critic_gradient_q{q}"] == pytest.approx(np.percentile(norms, q))
    assert [found["critic_slope_0"], found["critic_slope_1"]] == pytest.approx(gradient.mean(0).tolist())
    assert [found["mean_0"], found["mean_1"]] == pytest.approx(made.mean(0).tolist())
    assert (found["critic_loss"], found["generator_gradient"]) == (1000, 0.25)


@pytest.mark.parametrize("theta", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_js_of_uniforms_is_their_closed_form(theta: float) -> None:
    real = ShiftedUniform(theta).load()
    found = score(real, ShiftedUniform(0.0).load().draw(2000, rng.generator(3)))
    assert found["js"] == pytest.approx(min(theta, 1) * math.log(2), abs=0.02)


@pytest.mark.parametrize(("theta", "js"), [(0.0, 0.0), (1e-2, math.log(2)), (3.0, math.log(2))])
def test_js_of_segments_and_of_points_is_their_closed_form(theta: float, js: float) -> None:
    segment = ParallelLines(0.0).load()
    made = segment.draw(2000, rng.generator(3))
    assert score(ParallelLines(theta).load(), made)["js"] == pytest.approx(js, abs=0.02)
    points = score(PointMass([theta]).load(), torch.zeros(2000, 1))
    assert points["js"] == pytest.approx(js, abs=1e-3)
    assert "kl" not in points  # no density, no number
    assert points["w1"] == pytest.approx(theta, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 2.0), (0.5, 1.3)])
def test_divergences_of_gaussians_are_their_closed_form_and_scipys_integral(
    dim: int, shift: float, scale: float
) -> None:
    draw = np.random.default_rng(dim)
    one, other = draw.normal(size=(4000, dim)), shift + scale * draw.normal(size=(4000, dim))
    wanted = dim * (math.log(scale) + (1 + shift**2) / (2 * scale**2) - 0.5)
    assert kullback_leibler(one, other) == pytest.approx(wanted, abs=0.1)
    if dim == 1:
        x = np.linspace(-12, 12, 20001)
        densities = scipy.stats.norm.pdf(x), scipy.stats.norm.pdf(x, shift, scale)
        wanted = scipy.spatial.distance.jensenshannon(*densities) ** 2
        assert jensen_shannon(one, other) == pytest.approx(wanted, abs=0.03)
        assert jensen_shannon(one, other) == pytest.approx(jensen_shannon(other, one), abs=1e-12)


def test_modes_and_quality_are_counted_within_three_standard_deviations() -> None:
    real = GaussianGrid(5, 1.0, 0.05).load()
    assert real.modes is not None
    made = real.modes[[0, 0, 7, 24]] + torch.tensor([[0.0, 0.0], [0.14, 0.0], [0.0, -0.16], [0.1, 0.1]])
    found = score(real, made.repeat(2, 1))
    assert found["modes"] == 2  # 0 twice and 24; 7 is missed by a hair
    assert found["high_quality"] == 0.75
    assert "modes" not in score(SwissRoll(7.5, 0.05).load(), made.repeat(2, 1))
    perfect = score(real, real.draw(2000, rng.generator(5)))
    assert perfect["modes"] == 25
    assert perfect["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)


def test_images_have_no_exact_score_and_points_no_fid(make) -> None:
    from wgan_sweep.runs.build import check

    with pytest.raises(InputError, match="use scorer=fid"):
        check(make("scorer=exact"))
    with pytest.raises(InputError, match="use scorer=exact"):
        check(make("data=gaussians8", "scorer=fid", tiny=False))


@pytest.mark.parametrize("name", ["gaussians8", "shifted_uniform"])
def test_a_toy_run_is_scored_and_pictured(name: str, make, tmp_path) -> None:
    from PIL import Image
    from rich.console import Console

    from wgan_sweep.common.progress import Display
    from wgan_sweep.runs import driver

    more = ["train.steps=3", "train.n_critic=1", "model.dim=16", "scorer.num_samples=50", "tracker=none", "device=cpu"]
    config = make(f"data={name}", *more, tiny=False)
    assert (config.choices["model"], config.choices["scorer"]) == ("mlp", "exact")
    record = driver.run(config, overrides=[], display=Display(Console(quiet=True)))
    assert record.status == "done", record.error
    assert record.scores["w1"] > 0
    assert record.best == record.scores
    with Image.open(driver.directory_of(config).samples(3)) as picture:
        assert picture.size == (500, 500)
        assert len(picture.getcolors(maxcolors=100000) or []) > 50
