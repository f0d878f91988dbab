"""The critic beside the Kantorovich potential, for critics whose comparison is known; and on images."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.data import ImageSet, Points
from wgan_sweep.errors import InputError
from wgan_sweep.objectives import sampling
from wgan_sweep.runs.build import build, check
from wgan_sweep.scoring.exact import ExactScorer
from wgan_sweep.scoring.features import Extracted
from wgan_sweep.scoring.potential import compare
from wgan_sweep.scoring.transport import kantorovich_potential, potential_between, solve

from ..helpers import run

CPU = torch.device("cpu")


class Critic:
    """Players with a given critic."""

    def __init__(self, critic) -> None:
        self.generator = self.critic = nn.Identity()
        self.critic_outputs = critic

    def critic_loss(self, real: Tensor, fake: Tensor) -> float:
        return float(len(real) - len(fake))

    def generator_gradient_norm(self, real: Tensor) -> Tensor:
        return torch.tensor(float(len(real)))


def scorer(real, **settings) -> ExactScorer:
    values = {"num_samples": 300, "projections": 10, "sampling": sampling.real_fake, "potential_samples": 200}
    return ExactScorer(real=real, device=CPU, **{**values, **settings})


def translated_gaussians(critic, shift: tuple[float, ...] = (3.0, -4.0), **settings) -> dict[str, float]:
    """Score a critic on Gaussians of which the real ones are translated."""

    def draw(count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(count, 2, generator=stream) + torch.tensor(shift)

    real = Points((2,), draw)
    points = real.draw(1000, rng.generator(0, "exact")) - torch.tensor(shift)
    return scorer(real, **settings)(lambda count: points[:count], Critic(critic))


def linear(slope: float):
    return lambda points: slope * (0.6 * points[:, 0] - 0.8 * points[:, 1]) + 7


@pytest.mark.parametrize("slope", [1.0, -0.25, 3.0])
def test_a_multiple_of_the_potential_is_recognised(slope: float) -> None:
    scores = translated_gaussians(linear(slope))
    assert scores["potential_w1"] == pytest.approx(5)
    assert scores["w1_ratio"] == pytest.approx(slope)
    assert scores["w1_ratio_normalised"] == pytest.approx(math.copysign(1, slope))
    assert abs(scores["potential_correlation"]) > 0.995
    assert scores["potential_slope"] / slope == pytest.approx(1, abs=0.03)
    assert scores["ray_gradient_mean"] == pytest.approx(abs(slope), rel=1e-5)
    assert scores["ray_slope_mean"] == pytest.approx(slope, rel=1e-5)
    assert scores["ray_gradient_sd"] == pytest.approx(0, abs=1e-5)
    assert scores["ray_slope_sd"] == pytest.approx(0, abs=1e-5)
    assert (scores["potential_samples"], scores["potential_real"]) == (200, 200)


def test_a_critic_across_the_rays_has_no_slope_along_them() -> None:
    scores = translated_gaussians(lambda points: 0.8 * points[:, 0] + 0.6 * points[:, 1])
    assert scores["ray_gradient_mean"] == pytest.approx(1, rel=1e-5)
    assert scores["ray_slope_mean"] == pytest.approx(0, abs=1e-5)
    assert scores["w1_ratio"] == pytest.approx(0, abs=1e-5)


def test_correlation_and_slope_are_those_of_numpy_and_rays_lie_between_matched_points() -> None:
    seen: list[Tensor] = []

    def critic(points: Tensor) -> Tensor:
        if points.requires_grad:
            seen.append(points.detach())
        return 0.5 * points.square().sum(1)

    def draw(count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(count, 2, generator=stream) + 1

    points = torch.randn(60, 2, generator=rng.generator(1)) * 2
    scores = scorer(Points((2,), draw), num_samples=60)(lambda count: points[:count], Critic(critic))
    real = draw(60, rng.generator(0, "exact"))
    distance = cdist(real.double(), points.double())
    rows, columns = scipy.optimize.linear_sum_assignment(distance)
    assert scores["potential_w1"] == pytest.approx(distance[rows, columns].mean(), rel=1e-6)
    assert scores["w1"] == pytest.approx(scores["potential_w1"], rel=1e-6)
    potential = kantorovich_potential(distance, solve(distance))
    values, outputs = np.concatenate([potential.real, potential.generated]), critic(torch.cat([real, points])).numpy()
    assert scores["potential_correlation"] == pytest.approx(np.corrcoef(values, outputs)[0, 1], rel=1e-5)
    assert scores["potential_slope"] == pytest.approx(np.polyfit(values, outputs, 1)[0], rel=1e-5)
    on_r, on_rays = seen
    ends = real[rows], points[columns]
    detour = (on_rays - ends[0]).norm(dim=1) + (on_rays - ends[1]).norm(dim=1) - (ends[0] - ends[1]).norm(dim=1)
    assert detour.abs().max() < 1e-5
    share = (on_rays - ends[1]).norm(dim=1) / (ends[0] - ends[1]).norm(dim=1)
    assert 0.35 < share.mean() < 0.65
    assert share.max() - share.min() > 0.9
    norms = on_rays.norm(dim=1)  # the gradient of the critic at x is x
    direction = (ends[0] - ends[1]) / (ends[0] - ends[1]).norm(dim=1, keepdim=True)
    slopes = (on_rays * direction).sum(1)
    assert scores["ray_gradient_mean"] == pytest.approx(norms.mean().item(), rel=1e-5)
    assert scores["ray_gradient_sd"] == pytest.approx(norms.std(correction=0).item(), rel=1e-5)
    assert scores["ray_slope_mean"] == pytest.approx(slopes.mean().item(), rel=1e-4)
    assert scores["ray_slope_sd"] == pytest.approx(slopes.std(correction=0).item(), rel=1e-5)
    steepest = max(norms.max().item(), on_r.norm(dim=1).max().item())
    assert scores["w1_ratio_normalised"] == pytest.approx(scores["w1_ratio"] / steepest, rel=1e-5)


@pytest.mark.parametrize(("elsewhere", "steepest"), [(0.5, 2.0), (3.0, 3.0)])
def test_the_steepest_slope_is_that_on_rays_or_elsewhere(elsewhere: float, steepest: float) -> None:
    real, generated = torch.tensor([[3.0, 0.0], [4.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    plan, potential = potential_between(real, generated)
    scores = compare(Critic(lambda points: 2 * points[:, 0]), real, generated, plan, potential, elsewhere)
    assert scores["w1_ratio"] == pytest.approx(2)
    assert scores["w1_ratio_normalised"] == pytest.approx(2 / steepest)


def test_what_is_not_defined_is_left_out() -> None:
    coinciding = translated_gaussians(linear(1), shift=(0.0, 0.0))
    assert coinciding["potential_w1"] == 0
    left_out = {"potential_correlation", "potential_slope", "potential_freedom", "w1_ratio", "ray_gradient_mean"}
    assert not coinciding.keys() & left_out
    constant = translated_gaussians(lambda points: 0 * points[:, 0])
    assert "potential_correlation" not in constant
    assert (constant["potential_slope"], constant["w1_ratio"], constant["ray_gradient_mean"]) == (0, 0, 0)
    without = translated_gaussians(linear(1), potential_samples=0)
    assert not [name for name in without if name.startswith(("potential", "ray", "w1_", "sinkhorn"))]


def test_the_sinkhorn_divergence_states_its_regularisation() -> None:
    scores = translated_gaussians(linear(1), sinkhorn=0.5)
    # The mean squared distance of two standard normal points in the plane is 4.
    assert scores["sinkhorn_regularisation"] == pytest.approx(0.5 * 4, rel=0.15)
    # A translation adds its square to the divergence of the untranslated samples, which is 0.
    assert scores["sinkhorn"] == pytest.approx(25, rel=1e-4)


def test_a_solver_without_a_certificate_leaves_distances_out(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("wgan_sweep.scoring.transport.MAX_PIVOTS", 3)
    monkeypatch.setattr("wgan_sweep.scoring.transport.solve.__defaults__", (3,))
    scores = translated_gaussians(linear(1))
    assert not scores.keys() & {"w1", "w2", "sinkhorn", "potential_w1", "potential_correlation"}
    assert scores.keys() >= {"sliced_w2", "critic_gap"}
    assert "w1 and w2 are left out: the transport problem of 300 and 300 points was not solved" in caplog.text
    assert "the potential is left out" in caplog.text


def images(count: int, seed: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (count, 4, 4, 1), dtype=np.uint8)


def test_images_are_compared_as_the_critic_sees_them() -> None:
    real, fake = images(40, 0), images(30, 1, high=128)
    fakes = iter(torch.from_numpy(fake).permute(0, 3, 1, 2))

    def sample(count: int) -> Tensor:
        return torch.stack([next(fakes) for _ in range(count)])

    shapes = set()

    def critic(batch: Tensor) -> Tensor:
        shapes.add(batch.shape[1:])
        assert batch.abs().max() <= 1
        return 2 * batch.flatten(1).mean(1)

    image_scorer = scorer(ImageSet(real), num_samples=30, potential_samples=20)
    scores = image_scorer(sample, Critic(critic))
    assert shapes == {(1, 4, 4)}
    assert image_scorer.describe()["real"] == "30 of 40"
    assert (scores["exact_samples"], scores["exact_real"]) == (30, 30)
    assert (scores["potential_samples"], scores["potential_real"]) == (20, 20)
    assert not scores.keys() & {"js", "kl", "mean_0", "critic_slope_0"}
    assert scores["ray_gradient_mean"] == pytest.approx(2 / 4, rel=1e-5)  # 2/16 per pixel, 16 pixels
    few = scorer(ImageSet(real[:25]), num_samples=30, potential_samples=0)
    fakes = iter(torch.from_numpy(fake).permute(0, 3, 1, 2))
    scores = few(sample, Critic(critic))
    assert (scores["exact_samples"], scores["exact_real"]) == (30, 25)
    vectors = [values.reshape(len(values), -1) / 127.5 - 1 for values in (real[:25], fake)]
    cost = np.repeat(np.repeat(cdist(*vectors), 6, axis=0), 5, axis=1)  # equally many points of equal weights
    expected = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    assert scores["w1"] == pytest.approx(expected, rel=1e-6)
    assert not scores.keys() & {"critic_gap", "potential_w1"}


class Halves:
    """A feature space with two features: the mean of the upper half of an image, and of the lower half."""

    name, network, resize = "halves", "0123", "none"

    def check(self, *, logits: bool) -> None:
        assert not logits

    def extract(self, device, *, logits: bool = False):
        return lambda batch: Extracted(batch.float().view(len(batch), 2, -1).mean(2))


def test_images_are_also_compared_in_a_feature_space(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    real, fake = images(24, 0), images(24, 1, high=100)
    generated = torch.from_numpy(fake).permute(0, 3, 1, 2)
    settings = {"num_samples": 24, "potential_samples": 24, "features": Halves(), "batch_size": 24}
    image_scorer = scorer(ImageSet(real), **settings)
    image_scorer.prepare()
    scores = image_scorer(lambda count: generated[:count], Critic(lambda batch: batch.flatten(1).sum(1)))
    vectors = [values.reshape(24, 2, 8).mean(2) for values in (real.astype(float), fake.astype(float))]
    cost = cdist(*vectors)
    assert scores["features_w1"] == pytest.approx(cost[scipy.optimize.linear_sum_assignment(cost)].mean(), rel=1e-5)
    squared = cost**2
    expected = squared[scipy.optimize.linear_sum_assignment(squared)].mean() ** 0.5
    assert scores["features_w2"] == pytest.approx(expected, rel=1e-5)
    spread = cdist(vectors[0], vectors[0], "sqeuclidean").mean()
    assert scores["features_sinkhorn_regularisation"] == pytest.approx(0.05 * spread, rel=1e-5)
    assert 0 < scores["features_sinkhorn"] < scores["features_w2"] ** 2
    few = scorer(ImageSet(np.sort(real, axis=0)), **{**settings, "num_samples": 24, "potential_samples": 8})
    # The first images are not a choice of dark or of light ones: their spread is about that of all.
    spread = few(lambda count: generated[:count], Critic(lambda batch: batch.flatten(1).sum(1)))
    vectors = np.sort(real, axis=0).astype(float).reshape(24, 2, 8).mean(2)
    whole = 0.05 * cdist(vectors, vectors, "sqeuclidean").mean()
    assert 0.5 < spread["features_sinkhorn_regularisation"] / whole < 1.6
    assert image_scorer.measures <= scores.keys()
    assert image_scorer.describe()["features"] == "halves"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=gaussians8", "scorer.features=${features}"], "scorer.features is for images, this data is points"),
        (
            ["data=gaussians8", "scorer.num_samples=1000000"],
            r"scorer\.num_samples=1000000: .* lower it to \d+ or fewer",
        ),
        (["data=gaussians8", "scorer.potential_samples=5000"], r"scorer\.potential_samples must be .* at most 3000"),
        (["data=gaussians8", "scorer.sinkhorn=0"], r"scorer\.sinkhorn must be above 0, got 0; null leaves it out"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(make("model=mlp", "scorer=exact", *overrides, tiny=False))


def test_on_the_line_there_is_no_matrix_of_costs_to_fit(make) -> None:
    check(make("data=shifted_uniform", "scorer.num_samples=1000000", tiny=False))


def test_a_run_on_images_is_scored(make) -> None:
    config = make("scorer=exact", "scorer.num_samples=20", "loss=wgan_gp")
    record = run(config)
    assert record.status == "done", record.error
    assert record.best == record.scores
    assert record.scored_by["real"] == "20 of 64"
    image_scorer = build(config).scorer
    assert image_scorer is not None
    assert image_scorer.measures <= record.scores.keys()
    assert record.scores["w1"] == pytest.approx(record.scores["potential_w1"], rel=1e-6)
    assert -1 <= record.scores["potential_correlation"] <= 1


def test_generated_examples_are_moved_to_the_cpu(make) -> None:
    class OnGpu(Tensor):
        def cpu(self) -> Tensor:
            return self.as_subclass(Tensor)

    image_scorer = build(make("scorer=exact", "scorer.num_samples=20")).scorer
    assert isinstance(image_scorer, ExactScorer)
    examples = image_scorer._examples(lambda count: torch.zeros(count, 1, 32, 32, dtype=torch.uint8).as_subclass(OnGpu))
    assert [type(example) for example in examples] == [Tensor] * 3
