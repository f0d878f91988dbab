"""Gradients by layer and weights at the bound, against automatic differentiation, simulation and counts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wgan_sweep.models import MLP
from wgan_sweep.theory import clipping

from ..helpers import run
from .tables import rows


def test_gradients_by_layer_are_products_of_the_weights() -> None:
    """The backward pass by hand: each layer multiplies by its weights where its inputs are active."""
    torch.manual_seed(0)
    critic = MLP(6, 3, 1).critic((2,)).double()
    points = torch.randn(7, 2).double()
    layers = [layer for layer in critic.modules() if isinstance(layer, nn.Linear)]
    expected = []
    for point in points:
        hidden = [layers[0](point)]
        for layer in layers[1:]:
            hidden.append(layer(hidden[-1].clamp_min(0)))
        gradient, norms = torch.ones(1).double(), [1.0]
        for layer, output in zip(layers[:0:-1], hidden[-2::-1], strict=True):
            gradient = (layer.weight.T @ gradient) * (output > 0)
            norms.insert(0, float(gradient.detach().norm()))
        expected.append(norms)
    assert clipping.gradient_norms(critic, points) == pytest.approx(np.mean(expected, 0), rel=1e-9)


@pytest.mark.parametrize(("width", "c"), [(64, 0.1), (256, 0.01)])
def test_the_gains_match_random_matrices(width: int, c: float) -> None:
    random = np.random.default_rng(0)
    gradient = random.standard_normal((2000, width))
    active = random.permuted(np.arange(2 * (width // 2)) % 2 == 0, axis=0)
    weights = c * random.choice([-1, 1], (width, width))
    gains = np.linalg.norm((gradient * active) @ weights, axis=1) / np.linalg.norm(gradient, axis=1)
    assert clipping.gain_of_random_signs(c, width) == pytest.approx(gains.mean(), rel=0.1)
    equal = np.linalg.norm(active @ np.full((width, width), c) * active) / np.linalg.norm(active)
    assert clipping.gain_of_equal_signs(c, width) == pytest.approx(equal, rel=1e-9)


def test_the_gain_is_a_geometric_mean_over_hidden_layers() -> None:
    clipped = clipping.ClippedCritic(np.array([1.0, -1.0, 0.9995, 0.5, -0.99]), [8.0, 4.0, 1.0, 1.0])
    assert clipped.gain == pytest.approx(math.sqrt(8))
    assert clipped.share_at_bound == pytest.approx(3 / 5)


@pytest.mark.integration
def test_clipped_critics_are_tabulated_by_c(make, tmp_path: Path) -> None:
    shared = ["data=swiss_roll", "loss=wgan", "model.dim=16", "model.depth=4", "model.latent_dim=2", "train.ema=0"]
    shared += ["tracker=none", "scorer=none", "device=cpu", "train.steps=20", "train.batch_size=32"]
    records = [
        run(make(*shared, "optimizer.lr=1e-2", f"constraint.c={c}", "train.freeze_generator_at=0", tiny=False))
        for c in (0.02, 0.3)
    ]
    summary = clipping.summarise(records, tmp_path / "runs", 50)
    small, large = rows(summary)[1:]
    assert [small[0], large[0]] == ["0.02", "0.3"]
    assert float(small[1].split()[0]) > 50
    assert float(small[3]) < 16 / 2 * 0.02 < 1
    assert float(large[3]) > float(small[3])
    assert small[4:] == [f"{0.02 * math.sqrt(8):.3f}", f"{0.02 * 8:.3f}"]
    assert summary.picture is not None
