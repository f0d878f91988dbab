"""The tail index on samples of known distributions, and the gradient under a noisy discriminator."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from wgan_sweep.theory import tails
from wgan_sweep.theory.networks import trained_runs

from ..helpers import run
from .tables import rows


def test_the_tail_index_of_cauchy_samples_is_1() -> None:
    x = scipy.stats.cauchy.rvs(size=100_000, random_state=0)
    assert tails.hill(x, 1000) == pytest.approx(1, abs=5 / 1000**0.5)


@pytest.mark.parametrize("top", [100, 1000])
def test_the_tail_index_of_normal_samples_is_that_of_the_normal_tail(top: int) -> None:
    """The inverse of the mean of log(|X| / t) above a level t, which grows with t."""
    x = scipy.stats.norm.rvs(size=100_000, random_state=0)
    level = scipy.stats.norm.isf(top / len(x) / 2)
    mean = scipy.stats.norm.expect(lambda t: math.log(t / level), lb=level, conditional=True)
    assert tails.hill(x, top) == pytest.approx(1 / mean, rel=5 / top**0.5)
    assert 1 / mean > 5


@pytest.mark.parametrize("index", [0.5, 1.0, 3.0])
def test_the_tail_index_is_the_maximum_likelihood_estimate_of_a_pareto_variable(index: float) -> None:
    x = scipy.stats.pareto.rvs(index, size=2000, random_state=1)
    largest = np.sort(x)[::-1][:201]
    fitted, _, _ = scipy.stats.pareto.fit(largest[:200], floc=0, fscale=largest[200])
    assert tails.hill(x, 200) == pytest.approx(fitted, rel=1e-6)


@pytest.mark.parametrize("exceeded", [0.5, 0.1, 1e-3])
def test_reference_quantiles_match_scipy(exceeded: float) -> None:
    for quantile, distribution in (
        (tails.cauchy_quantile, scipy.stats.cauchy),
        (tails.normal_quantile, scipy.stats.norm),
    ):
        expected = distribution.isf(exceeded / 2) / distribution.isf(0.25)
        assert quantile(exceeded) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("slope", "loss"),
    [
        (tails.non_saturating_slope, lambda d: -torch.log(d)),
        (tails.saturating_slope, lambda d: torch.log(1 - d)),
    ],
)
def test_slopes_are_the_derivatives_of_the_generators_losses(slope, loss) -> None:
    d = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(loss(d).sum(), d)
    assert slope(d.detach().numpy()) == pytest.approx(derivative.numpy(), rel=1e-12)


SLOPES = {"gan": tails.saturating_slope, "nsgan": tails.non_saturating_slope}


def test_without_errors_the_gradient_is_that_of_the_generators_loss(make, tmp_path: Path) -> None:
    """The formula in D against automatic differentiation of the loss through the generator."""
    config = make("data=gaussian", "model=gaussian", "loss=nsgan", *TINY, tiny=False)
    (trained,), _ = trained_runs([run(config)], tmp_path / "runs")
    found = tails.gradients(trained, SLOPES["nsgan"], noise=0.0, updates=3, batch=5)
    generator = trained.networks.generator.requires_grad_()
    z = trained.networks.sampler.z_stream("tails")(15)
    for index in range(3):
        loss = torch.nn.functional.softplus(-trained.networks.critic(generator(z[5 * index : 5 * index + 5]))).mean()
        (expected,) = torch.autograd.grad(loss, [generator.get_parameter("place")])
        assert found[index] == pytest.approx(expected.numpy(), rel=1e-4)


TINY = ["model.dim=16", "train.freeze_generator_at=0", "tracker=none", "scorer=none", "device=cpu", "train.ema=0"]
TINY += ["train.steps=10", "train.n_critic=10", "train.batch_size=64", "optimizer.lr=1e-2"]


def test_only_the_non_saturating_gradient_has_the_tails_of_a_cauchy_variable(make, tmp_path: Path) -> None:
    supports = ["data=gaussian", "model=gaussian", "data.dim=3", "data.support=1", "data.shift=4"]
    records = [run(make(*supports, f"loss={loss}", *TINY, tiny=False)) for loss in ("nsgan", "gan", "wgan_div")]
    summary = tails.summarise(records, tmp_path / "runs", SLOPES, noise=0.05, updates=5000, batch=4)
    indices = {row[0]: float(row[1].partition(" ")[0]) for row in rows(summary)[1:]}
    assert indices["nsgan"] == pytest.approx(1, abs=0.35)
    assert min(indices["gan"], indices["wgan_div"]) > 3
    assert summary.picture is not None
