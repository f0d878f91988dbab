"""Two normal distributions: closed forms against quadrature, estimators, and trained discriminators."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from wgan_sweep.common import rng
from wgan_sweep.common.plots import draw_points
from wgan_sweep.common.subspaces import random_basis
from wgan_sweep.data import Gaussian
from wgan_sweep.errors import InputError
from wgan_sweep.models import Gaussian as GaussianModel
from wgan_sweep.objectives import losses
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.scoring import divergences as estimators
from wgan_sweep.theory import divergences, optimal_discriminator
from wgan_sweep.theory.gaussians import GaussianPair, entropy

from ..helpers import directory_of, run
from .tables import rows

PAIRS = [
    GaussianPair(0.0, 1.0),
    GaussianPair(1.5, 1.0, 0.0, 1.0),
    GaussianPair(2.0, 0.5, 0.0, 1.0),
    GaussianPair(-1.0, 3.0, 0.5, 0.7),
]


def integral(function, pair: GaussianPair) -> float:
    """Integrate a function of the densities p(x) and q(x), by SciPy."""
    p, q = scipy.stats.norm(pair.shift, pair.std), scipy.stats.norm(pair.other_shift, pair.other_std)
    crossings = sorted({pair.shift, pair.other_shift})
    value, _ = scipy.integrate.quad(lambda x: function(p.pdf(x), q.pdf(x)), -30, 30, points=crossings, limit=500)
    return value


@pytest.mark.parametrize("pair", PAIRS)
def test_divergences_match_scipys_quadrature(pair: GaussianPair) -> None:
    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) if p > 0 and q > 0 else 0.0

    assert pair.kullback_leibler() == pytest.approx(integral(kl, pair), abs=1e-7)
    js = integral(lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2, pair)
    assert pair.jensen_shannon() == pytest.approx(js, abs=1e-7)
    assert pair.total_variation() == pytest.approx(integral(lambda p, q: abs(p - q) / 2, pair), abs=1e-5)


@pytest.mark.parametrize("dim", [1, 3])
def test_kl_and_entropy_match_scipy_in_several_dimensions(dim: int) -> None:
    p = scipy.stats.multivariate_normal(np.r_[1.5, np.zeros(dim - 1)], 0.25 * np.eye(dim))
    q = scipy.stats.multivariate_normal(np.zeros(dim), 4.0 * np.eye(dim))
    assert entropy(0.5, dim) == pytest.approx(p.entropy(), rel=1e-12)
    x = p.rvs(200_000, random_state=0).reshape(-1, dim)
    ratio = p.logpdf(x) - q.logpdf(x)
    standard_error = ratio.std() / len(ratio) ** 0.5
    assert GaussianPair(1.5, 0.5, 0.0, 2.0, dim).kullback_leibler() == pytest.approx(
        ratio.mean(), abs=5 * standard_error
    )


def test_the_optimal_discriminator_is_the_share_of_the_real_density() -> None:
    pair = GaussianPair(2.0, 0.5, 0.0, 1.0)
    x = np.array([-3.0, 0.0, 1.0, 2.0, 5.0])
    p, q = scipy.stats.norm(2.0, 0.5).pdf(x), scipy.stats.norm(0.0, 1.0).pdf(x)
    assert pair.optimal_discriminator(x) == pytest.approx(p / (p + q), rel=1e-9)


def test_no_discriminator_has_a_higher_value_than_the_optimal_one() -> None:
    pair = PAIRS[2]
    x = pair.grid()
    best = optimal_discriminator.optimal_value(pair)

    def value(discriminator: np.ndarray) -> float:
        return pair.integral(x, np.log(discriminator), np.log1p(-discriminator))

    optimum = np.clip(pair.optimal_discriminator(x), 1e-12, 1 - 1e-12)
    assert value(optimum) == pytest.approx(best, abs=1e-6)
    for bend in (0.9, 1.1):
        assert value(np.clip(optimum**bend, 1e-12, 1 - 1e-12)) < best - 1e-5


@pytest.mark.parametrize(("shift", "dim"), [(0.0, 2), (1.0, 1), (2.0, 2)])
def test_estimates_from_samples_approach_the_exact_values(shift: float, dim: int) -> None:
    normal = np.random.default_rng(0).standard_normal
    p, q = normal((3000, dim)), normal((3000, dim))
    p[:, 0] += shift
    pair = GaussianPair(shift, 1.0, dim=dim)
    tv = estimators.total_variation(p, q)
    # the classifier is evaluated on 6,000 points: its accuracy has a standard error of at most 0.0065
    assert pair.total_variation() - 0.1 < tv < pair.total_variation() + 6 * 0.0065
    assert estimators.entropy(q) == pytest.approx(entropy(1.0, dim), abs=0.06)


def test_the_entropy_estimate_of_a_uniform_distribution_is_the_logarithm_of_its_volume() -> None:
    x = np.random.default_rng(0).uniform(0, 3, (4000, 2))
    assert estimators.entropy(x) == pytest.approx(math.log(9), abs=0.06)
    assert estimators.entropy(np.zeros((50, 2))) == -math.inf


def test_the_total_variation_loss_is_half_the_difference_of_mean_tanh() -> None:
    real, fake = torch.tensor([1.0, 2.0, 6.0]).double(), torch.tensor([-1.0, 0.0, 4.0]).double()
    real_mean, fake_mean = (sum(math.tanh(x) for x in values.tolist()) / 3 for values in (real, fake))
    loss = losses.total_variation()
    assert float(loss.critic(real, fake)) == pytest.approx((fake_mean - real_mean) / 2, rel=1e-12)
    assert float(loss.generator(fake)) == pytest.approx(-fake_mean / 2, rel=1e-12)
    # a critic that tells both apart reaches the largest total variation distance
    assert float(loss.critic(real + 100, fake - 100)) == pytest.approx(-1)


def test_a_basis_is_orthonormal_and_its_subspace_has_no_preferred_direction() -> None:
    basis = random_basis(6, 2, rng.generator(0, "test"))
    torch.testing.assert_close(basis @ basis.T, torch.eye(2))
    shares = torch.stack([random_basis(6, 2, rng.generator(seed, "test")).square().sum(0) for seed in range(2000)])
    # the share of each axis in the subspace is Beta(1, 2): mean 1/3, variance 1/18
    torch.testing.assert_close(shares.mean(0), torch.full((6,), 1 / 3), rtol=0, atol=5 * (1 / 18 / 2000) ** 0.5)


def test_gaussian_points_are_on_a_subspace_through_their_mean() -> None:
    points = Gaussian(5, 2, 3.0, 0.5).load().draw(20_000, rng.generator(0, "test")).double()
    mean = torch.tensor([3.0, 0, 0, 0, 0]).double()
    torch.testing.assert_close(points.mean(0), mean, rtol=0, atol=0.02)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(points.T))
    torch.testing.assert_close(eigenvalues, torch.tensor([0, 0, 0, 0.25, 0.25]).double(), rtol=0.05, atol=1e-6)
    full = Gaussian(2, None, 0.0, 2.0).load().draw(20_000, rng.generator(0, "test"))
    torch.testing.assert_close(torch.cov(full.T), 4 * torch.eye(2), rtol=0.05, atol=0.15)


def test_the_gaussian_generator_is_on_a_subspace_through_its_place() -> None:
    torch.manual_seed(0)
    generator = GaussianModel(2, -1.0, 3.0, 8, 1).generator((4,))
    assert [name for name, _ in generator.named_parameters()] == ["place"]
    points = generator(torch.randn(20_000, 2)).detach().double()
    torch.testing.assert_close(points.mean(0), torch.tensor([-1.0, 0, 0, 0]).double(), rtol=0, atol=0.1)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(points.T))
    torch.testing.assert_close(eigenvalues, torch.tensor([0, 0, 9.0, 9.0]).double(), rtol=0.05, atol=1e-5)


def test_a_subspace_with_more_dimensions_than_the_space_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.support must be at most data\.dim=2, got 3"):
        Gaussian(2, 3, 0.0, 1.0).load()
    with pytest.raises(InputError, match=r"model\.latent_dim must be at most .*, 2, got 3"):
        GaussianModel(3, 0.0, 1.0, 8, 1).generator((2,))
    with pytest.raises(InputError, match=r"model=gaussian generates points"):
        GaussianModel(3, 0.0, 1.0, 8, 1).generator((1, 8, 8))


def test_points_of_many_dimensions_are_pictured_on_the_plane_of_the_first_two() -> None:
    points = Gaussian(5, None, 0.0, 1.0).load()
    seen = []

    def critic(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return batch.sum(1)

    picture = points.draw_samples(points.draw(100, rng.generator(0, "test")), critic)
    assert picture.shape == (500, 500, 3)
    assert all(batch.shape[1] == 5 and not batch[:, 2:].any() for batch in seen)
    assert any(batch[:, :2].abs().sum() > 0 for batch in seen)


def test_points_on_the_line_that_are_all_equal_are_pictured() -> None:
    points = Gaussian(1, None, 0.0, 1.0).load()
    equal = draw_points(torch.full((9, 1), 2.0), torch.full((9, 1), 2.0), lambda x: x[:, 0])
    spread = points.draw_samples(points.draw(100, rng.generator(0, "test")), lambda x: x[:, 0])
    assert equal.shape == spread.shape == (500, 500, 3)
    assert (equal != spread).any()


def test_a_critic_without_any_gradient_is_pictured() -> None:
    """As one whose weights were clipped until its outputs were constant. matplotlib's warnings would fail this test."""
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    flat = draw_points(points, points + 1, lambda x: 0 * x.sum(1))
    sloped = draw_points(points, points + 1, lambda x: x.sum(1))
    assert flat.shape == sloped.shape == (500, 500, 3)
    assert (flat != sloped).any()


@pytest.mark.parametrize("kind", optimal_discriminator.KINDS, ids=lambda kind: kind.name)
def test_a_constant_critic_is_half_away_from_the_optimum_of_distant_distributions(kind) -> None:
    """D is 1/2 instead of 1 and 0, and t is 0 instead of 1/2 and -1/2."""
    networks = SimpleNamespace(critic_outputs=lambda points: torch.zeros(len(points)))
    fit = kind.fit(SimpleNamespace(networks=networks), GaussianPair(20.0, 1.0, -20.0, 2.0))
    assert fit.error == pytest.approx(0.5, rel=1e-6)


ON_THE_LINE = ["data=gaussian", "data.shift=1", "model=gaussian", "model.dim=16", "train.freeze_generator_at=0"]
TINY = ["tracker=none", "scorer=none", "device=cpu", "train.ema=0"]


def test_trained_critics_recover_the_optimal_values(make, tmp_path: Path) -> None:
    training = ["train.steps=20", "train.n_critic=10", "train.batch_size=256", "optimizer.lr=1e-2"]
    records = [
        run(make(*ON_THE_LINE, *TINY, *training, f"loss={loss}", tiny=False)) for loss in ("gan", "total_variation")
    ]
    summary = optimal_discriminator.summarise(records, tmp_path / "runs", ["gan"], ["total_variation"])
    (row,) = rows(summary)[1:]
    js = integral(lambda p, q: sum(x * math.log(2 * x / (p + q)) / 2 for x in (p, q) if x > 0), GaussianPair(1.0, 1.0))
    optimum, value, rms, distance, bound, bounded_rms = map(float, row[1:])
    assert optimum == pytest.approx(2 * js - 2 * math.log(2), abs=1e-4)
    assert optimum - 0.02 < value <= optimum + 1e-4
    assert rms < 0.1
    assert 0 < bounded_rms < 0.3
    assert distance == pytest.approx(2 * scipy.stats.norm.cdf(0.5) - 1, abs=1e-4)
    assert distance - 0.03 < bound <= distance + 1e-4
    assert summary.picture is not None


@pytest.mark.integration
def test_estimates_are_tabulated_as_errors_once_for_each_seed(make, tmp_path: Path) -> None:
    training = ["train.steps=1", "train.n_critic=1", "train.batch_size=2"]
    configs = [
        make(*ON_THE_LINE, *TINY, *training, *other, tiny=False)
        for other in (["loss=gan", "seed=0"], ["loss=wgan", "seed=0"], ["loss=gan", "seed=1"])
    ]
    summary = divergences.summarise(list(map(run, configs)), tmp_path / "runs", 600)
    table = rows(summary)
    assert [row[:2] for row in table[1:]] == [[name, "1"] for name in ("KL", "JS", "total variation", "entropy")]
    first, second = (
        Gaussian(1, None, 1.0, 1.0).load().draw(600, rng.generator(seed, "divergences")).double().numpy()
        for seed in (0, 1)
    )
    exact = scipy.stats.norm(1, 1).entropy()
    errors = [estimators.entropy(sample) - exact for sample in (first, second)]
    assert table[4][5] == f"{np.mean(errors):.3f} ± {np.std(errors, ddof=1):.3f}"
    assert summary.picture is not None


def test_a_run_whose_networks_cannot_be_read_is_left_out_with_the_reason(make, tmp_path: Path) -> None:
    config = make(*ON_THE_LINE, *TINY, "loss=gan", "train.steps=1", "train.batch_size=2", tiny=False)
    record = run(config)
    directory_of(config).checkpoint.unlink()
    for path in directory_of(config).previous_checkpoints():
        path.unlink()
    stopped = Record("b", Status.DIVERGED, ["x=1"], error="not finite at step 3")
    for summary in (
        optimal_discriminator.summarise([record, stopped], tmp_path / "runs", ["gan"], []),
        divergences.summarise([record, stopped], tmp_path / "runs", 300),
    ):
        assert re.search(rf"left out: {record.run_id}: .* has no checkpoint", summary.table)
        assert "diverged: b (x=1): not finite at step 3" in summary.table
        assert summary.picture is None
