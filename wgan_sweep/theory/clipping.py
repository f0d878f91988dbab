"""Weight clipping in a deep critic: its weights, and its gradients by layer (Gulrajani et al. 2017, figure 1)."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.common.ranges import Count
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, mean_and_sd, summary_without_runs
from wgan_sweep.theory.networks import trained_runs

AT_THE_BOUND = 0.999
"""A weight is at the bound c if its absolute value is above this share of c."""
BINS = 41


class ClippedCritic(NamedTuple):
    """A critic that was trained with clipped weights."""

    weights: NDArray[np.floating]
    """All parameters, in units of c."""
    norms: list[float]
    """Mean norm of the gradient of T with respect to the output of each linear layer, from the first to the last."""

    @property
    def share_at_bound(self) -> float:
        """Share of the parameters that are at one of the bounds."""
        return float((np.abs(self.weights) > AT_THE_BOUND).mean())

    @property
    def gain(self) -> float:
        """Mean factor (geometric) by which the gradient grows from a hidden layer to the one before it."""
        hidden = self.norms[:-1]
        return (hidden[0] / hidden[-1]) ** (1 / (len(hidden) - 1)) if len(hidden) > 1 and hidden[-1] else math.nan


def gain_of_random_signs(c: float, width: int) -> float:
    """Return the gain of a ReLU layer whose weights are +-c with random signs, if half of its units are active.

    The backward pass is linear: each component of its output is a sum of width / 2 terms of size c with random signs.
    """
    return c * math.sqrt(width / 2)


def gain_of_equal_signs(c: float, width: int) -> float:
    """Return the gain of a ReLU layer whose weights are all c, if half of its units are active: the largest possible.

    The rank of its weights is 1, so all components of the gradient are the same.
    """
    return c * width / 2


def gradient_norms(critic: nn.Module, points: Tensor) -> list[float]:
    """Return the mean norm of the gradient of T with respect to the output of each linear layer, in their order.

    Args:
        critic: From ``[N, ...]`` to ``[N]``.
        points: ``[N, ...]``.
    """
    outputs: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        outputs.append(output)

    hooks = [layer.register_forward_hook(keep) for layer in critic.modules() if isinstance(layer, nn.Linear)]
    try:
        total = critic(points.detach().requires_grad_()).sum()
    finally:
        for hook in hooks:
            hook.remove()
    return [float(gradient.flatten(1).double().norm(dim=1).mean()) for gradient in torch.autograd.grad(total, outputs)]


def summarise(records: Sequence[Record], runs: Path, points: Count) -> SweepSummary:
    """Plot the weights of clipped critics, and their gradients by layer; tabulate how the gradients grow.

    Args:
        records: Runs on points with ``constraint=weight_clip``, and a critic of linear layers of one width.
        runs: Folder of the runs.
        points: Number of real points, and of generated points, at which gradients are taken.
    """
    trained, notes = trained_runs(records, runs)
    cells: dict[tuple[float, int], list[ClippedCritic]] = {}
    for run in trained:
        c, width = float(config_value(run.record, "constraint.c")), int(config_value(run.record, "model.dim"))
        critic = run.networks.critic
        weights = torch.cat([parameter.flatten() for parameter in critic.parameters()]).numpy() / c
        norms = gradient_norms(critic, torch.cat(run.draw(points, "clipping")))
        cells.setdefault((c, width), []).append(ClippedCritic(weights, norms))
    if not cells:
        return summary_without_runs(records, notes)
    figure, axes = panels(1, 2, wide=1.4)
    edges = np.linspace(-1, 1, BINS + 1)
    rows = []
    for colour, ((c, width), critics) in enumerate(sorted(cells.items())):
        shares = np.mean([np.histogram(np.clip(clipped.weights, -1, 1), edges)[0] for clipped in critics], 0)
        axes[0].stairs(shares / shares.sum(), edges, color=f"C{colour}", label=f"c = {c:g}")
        for index, clipped in enumerate(critics):
            layers = range(1, len(clipped.norms) + 1)
            label = f"c = {c:g}" if index == 0 else None
            axes[1].semilogy(layers, clipped.norms, ".-", color=f"C{colour}", linewidth=1, label=label)
        rows.append(
            [
                f"{c:g}",
                mean_and_sd([100 * clipped.share_at_bound for clipped in critics], 1) + " %",
                f"{statistics.fmean(clipped.norms[0] for clipped in critics):.2g}",
                mean_and_sd([clipped.gain for clipped in critics], 3),
                f"{gain_of_random_signs(c, width):.3f}",
                f"{gain_of_equal_signs(c, width):.3f}",
            ]
        )
    axes[0].set(title="weights of the critic", xlabel="weight / c", ylabel="share of the weights")
    axes[0].set_yscale("log")
    axes[1].set(title=r"$\|\partial T / \partial h\|$ by layer", xlabel="layer of the critic (1: next to the input)")
    for ax in axes:
        ax.legend(fontsize=8)
    header = ["c", "weights at ±c", "gradient, layer 1", "gain per layer", "random signs", "equal signs"]
    notes += [
        "Gain: by which factor the gradient grows from a hidden layer to the one before it; below 1 it vanishes.",
        "Random signs, equal signs: the gain of weights that are all ±c, with half of the units active.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
