"""Discriminators of two supports: the measure of accuracy and gradient, the closed forms, and trained critics."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from wgan_sweep.theory import perfect_discriminator

from ..helpers import append_metrics, directory_of, run
from .tables import rows


@pytest.mark.parametrize(("dim", "support"), [(4, 1), (5, 4), (16, 2), (3, 3)])
def test_the_distance_of_random_subspaces_matches_scipys_random_rotations(dim: int, support: int) -> None:
    rotations = scipy.stats.ortho_group(dim, seed=0).rvs(4000)
    outside = [(rotation[:support, support:] ** 2).sum() / support for rotation in rotations]
    standard_error = np.std(outside) / len(outside) ** 0.5
    expected = math.sqrt(np.mean(outside))
    tolerance = 5 * standard_error / max(expected, 1e-3)
    assert perfect_discriminator.distance_to_subspace(dim, support) == pytest.approx(expected, abs=tolerance + 1e-9)


def test_accuracy_counts_both_kinds_and_the_gradient_is_that_of_the_sigmoid() -> None:
    real, fake = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([-4.0, 0.5, -0.1])
    norms = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert perfect_discriminator.accuracy(real, fake) == pytest.approx(4 / 6)
    outputs = torch.cat([real, fake]).double().requires_grad_()
    (slope,) = torch.autograd.grad(torch.sigmoid(outputs).sum(), outputs)
    found = perfect_discriminator.discriminator_gradients(outputs.detach().float(), norms)
    torch.testing.assert_close(found, slope * norms, rtol=1e-6, atol=0)


def test_low_dimensional_supports_are_told_apart_and_equal_distributions_are_not(make, tmp_path: Path) -> None:
    shared = ["data=gaussian", "model=gaussian", "loss=gan", "model.dim=32", "train.freeze_generator_at=0"]
    shared += ["tracker=none", "scorer=none", "device=cpu", "train.ema=0", "data.dim=4"]
    training = ["train.steps=20", "train.n_critic=10", "train.batch_size=128", "optimizer.lr=3e-3", "log_every=20"]
    configs = [
        make(*shared, *training, f"data.support={support}", f"model.latent_dim={support}", tiny=False)
        for support in (1, 4)
    ]
    records = list(map(run, configs))
    append_metrics(directory_of(configs[0]), {"step": 20, "generator_gradient_norm": 0.125})
    summary = perfect_discriminator.summarise(records, tmp_path / "runs", 1000)
    line, whole = rows(summary)[1:]
    assert line[:4] == ["1", "4", f"{math.sqrt(3 / 4):.3f}", "1"]
    assert whole[:4] == ["4", "4", "0.000", "0.5"]
    assert 0.9 < float(line[4]) <= 1
    assert 0.4 < float(whole[4]) < 0.6
    assert float(line[5]) < float(line[6])
    assert line[7] == "0.1250"
    assert summary.picture is not None
