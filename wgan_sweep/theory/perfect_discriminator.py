"""Perfect discriminators of distributions on low-dimensional supports (Arjovsky & Bottou 2017, section 2.1)."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.common.ranges import Count
from wgan_sweep.objectives.gradient_terms import input_gradient, per_example_norm
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, mean_and_sd, summary_without_runs
from wgan_sweep.theory.networks import TrainedRun, trained_runs


class Discrimination(NamedTuple):
    """How a trained D = sigmoid(T) treats new points of both distributions."""

    accuracy: float
    """Share of the points that it classifies correctly."""
    gradient: float
    """Median norm of its gradient at the points."""
    mean_gradient: float
    """Mean norm of its gradient at the points."""
    generator_gradient: float
    """Norm of the gradient of the generator's loss, at the end of training."""


def optimal_accuracy(dim: int, support: int) -> float:
    """Return the accuracy of the best discriminator of equal normal distributions on two random subspaces of R^dim.

    Subspaces of less than `dim` dimensions meet in a set without mass, so it is 1; otherwise, both distributions are
    the same.

    Args:
        dim: Dimension of the space.
        support: Dimension of both subspaces.
    """
    return 1.0 if support < dim else 0.5


def distance_to_subspace(dim: int, support: int) -> float:
    """Return the RMS distance from points of one random subspace to the other one, as a share of their RMS norm.

    A random subspace has a share of support / dim of the squared length of any vector.
    """
    return math.sqrt(1 - support / dim)


def accuracy(real_outputs: Tensor, fake_outputs: Tensor) -> float:
    """Return the accuracy of D = sigmoid(T) from T of real and of generated points, ``[N]`` each."""
    return float(torch.cat([real_outputs > 0, fake_outputs < 0]).double().mean())


def discriminator_gradients(outputs: Tensor, norms: Tensor) -> Tensor:
    """Return the norms of the gradient of D = sigmoid(T), D (1 - D) ||grad T||, from T and ||grad T||, ``[N]`` each."""
    outputs = outputs.double()
    return outputs.sigmoid() * (-outputs).sigmoid() * norms.double()


def discriminate(run: TrainedRun, runs: Path, count: int) -> Discrimination:
    """Measure a trained critic on `count` new points of each distribution."""
    networks = run.networks
    real, fake = run.draw(count, "discrimination")
    points = torch.cat([real, fake])
    norms = per_example_norm(input_gradient(networks.critic_outputs, points))
    with torch.no_grad():
        outputs = networks.critic_outputs(points)
    gradients = discriminator_gradients(outputs, norms)
    last = RunDir(runs / run.record.run_id).last_metrics()
    return Discrimination(
        accuracy(*outputs.chunk(2)),
        float(gradients.median()),
        float(gradients.mean()),
        last.get("generator_gradient_norm", math.nan),
    )


def summarise(records: Sequence[Record], runs: Path, points: Count) -> SweepSummary:
    """Plot and tabulate the accuracy of trained discriminators, and their gradients, against the dimension.

    Args:
        records: Runs with ``data=gaussian``, ``model=gaussian`` and a loss whose critic output is a logit.
        runs: Folder of the runs.
        points: Number of new points of each distribution.
    """
    trained, notes = trained_runs(records, runs)
    cells: dict[tuple[int, int], list[Discrimination]] = {}
    for run in trained:
        dim = int(config_value(run.record, "data.dim"))
        support = config_value(run.record, "data.support")
        cells.setdefault((dim if support is None else int(support), dim), []).append(discriminate(run, runs, points))
    if not cells:
        return summary_without_runs(records, notes)
    figure, axes = panels(1, 3)
    panels_of = {"accuracy": "accuracy of D", "gradient": r"median of $\|\nabla D\|$ at the points"}
    panels_of["generator_gradient"] = "norm of the generator's gradient"
    for ax, (name, title) in zip(axes, panels_of.items(), strict=True):
        for colour, support in enumerate(sorted({support for support, _ in cells})):
            of_support = {dim: found for (other, dim), found in sorted(cells.items()) if other == support}
            means = [sum(getattr(value, name) for value in found) / len(found) for found in of_support.values()]
            ax.plot(list(of_support), means, color=f"C{colour}", linewidth=1, label=f"supports of dimension {support}")
            dots = [(dim, getattr(value, name)) for dim, found in of_support.items() for value in found]
            ax.plot(*zip(*dots, strict=True), "o", color=f"C{colour}", alpha=0.6, markersize=5)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(title=title, xlabel="dimension D of the space")
        if ax is not axes[0]:
            ax.set_yscale("log")
    axes[0].axhline(1, color="gray", linewidth=0.8, linestyle="--")
    axes[0].legend()
    header = ["support", "D", "distance", "best accuracy", "accuracy", "gradient of D", "mean", "generator's gradient"]
    rows = [
        [
            str(support),
            str(dim),
            f"{distance_to_subspace(dim, support):.3f}",
            f"{optimal_accuracy(dim, support):g}",
            mean_and_sd([value.accuracy for value in found], 4),
            f"{statistics.median(value.gradient for value in found):.0e}",
            mean_and_sd([value.mean_gradient for value in found], 4),
            mean_and_sd([value.generator_gradient for value in found], 4),
        ]
        for (support, dim), found in sorted(cells.items())
    ]
    notes += [
        f"On {points:,} new points of each distribution. Gradient of D: median (also over seeds) and mean of its norm.",
        "Distance: of generated points to the subspace of the data, RMS, relative to the norm. Mean ± sd over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
