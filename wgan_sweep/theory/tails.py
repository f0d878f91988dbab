"""The generator's gradient under a noisy discriminator (Arjovsky & Bottou 2017, theorem 2.6)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.common.ranges import Count, Range
from wgan_sweep.objectives.gradient_terms import input_gradient
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import loss_name, mean_and_sd, summary_without_runs
from wgan_sweep.theory.networks import TrainedRun, trained_runs

Values = NDArray[np.float64]
Slope = Callable[[Values], Values]
"""From values of D to the derivative of the generator's loss with respect to them."""

TAIL = 0.01
"""Share of the values that the tail index is estimated from."""


def saturating_slope(discriminator: Values) -> Values:
    """Return the derivative of log(1 - D)."""
    return -1 / (1 - discriminator)


def non_saturating_slope(discriminator: Values) -> Values:
    """Return the derivative of -log D."""
    return -1 / discriminator


def hill(values: Values, top: int) -> float:
    """Return Hill's estimate of the tail index a, where P(|X| > t) falls like t^-a, from the `top` largest |X|.

    Its standard error is about a / sqrt(top). A Cauchy variable X has the index 1, so its mean is not defined (that of
    |X| is infinite). For a normal one the estimate grows without bound, the further out in the tail it is taken.

    Args:
        values: ``[N]``, N above `top`.
        top: Number of values in the tail.
    """
    largest = np.sort(np.abs(values))[::-1][: top + 1]
    return float(1 / np.log(largest[:top] / largest[top]).mean())


def cauchy_quantile(exceeded: float) -> float:
    """Return t with P(|X| > t) = `exceeded` for a Cauchy variable X, in units of the median of |X|."""
    return math.tan(math.pi / 2 * (1 - exceeded))


def normal_quantile(exceeded: float) -> float:
    """Return t with P(|X| > t) = `exceeded` for a centred normal variable X, in units of the median of |X|."""
    normal = NormalDist()
    return normal.inv_cdf(1 - exceeded / 2) / normal.inv_cdf(0.75)


def gradients(run: TrainedRun, slope: Slope | None, noise: float, updates: int, batch: int) -> Values:
    """Return the gradients of a generator's location under a noisy discriminator, ``[updates, D]``.

    As in the theorem, D and its gradient have independent normal errors at every point. The gradient of the loss with
    respect to the location is the mean over a batch of slope(D + error) (grad D + error).

    Args:
        run: A run whose generator's only parameter is its location (``model=gaussian``, ``model=location``).
        slope: Slope of the generator's loss in D = sigmoid(T); None if its loss is -T, and D is T itself.
        noise: Standard deviation of the errors.
        updates: Number of gradients.
        batch: Generated points per gradient.
    """
    points = run.draw(updates * batch, "tails")[1]
    gradient = input_gradient(run.networks.critic_outputs, points).double().numpy()
    with torch.no_grad():
        values = run.networks.critic_outputs(points).double().numpy()
    if slope is not None:
        values = np.exp(-np.logaddexp(0, -values))
        gradient = (values * (1 - values))[:, None] * gradient
    errors = np.random.default_rng(run.seed)
    values = values + noise * errors.standard_normal(values.shape)
    gradient = gradient + noise * errors.standard_normal(gradient.shape)
    slopes = np.full_like(values, -1.0) if slope is None else slope(values)
    per_point: Values = slopes[:, None] * gradient
    means: Values = per_point.reshape(updates, batch, -1).mean(1)
    return means


def standardised(values: Values) -> Values:
    """Return values ``[N, D]`` minus their medians, in units of the median distance from them."""
    centred: Values = values - np.median(values, 0)
    scaled: Values = centred / np.median(np.abs(centred), 0)
    return scaled


def summarise(
    records: Sequence[Record],
    runs: Path,
    slopes: dict[str, Slope],
    noise: Annotated[float, Range(above=0)],
    updates: Annotated[int, Range(1000)],
    batch: Count,
) -> SweepSummary:
    """Plot quantiles of the generator's gradient components, and tabulate their tail index.

    Args:
        records: Runs with ``model=gaussian`` and ``train.freeze_generator_at``.
        runs: Folder of the runs.
        slopes: For each loss whose critic output is a logit, the slope of the generator's loss in D. Generators of
            other losses maximise the critic's output itself.
        noise: Standard deviation of the errors of D and of its gradient.
        updates: Number of gradients that are drawn.
        batch: Generated points per gradient.
    """
    trained, notes = trained_runs(records, runs)
    if not trained:
        return summary_without_runs(records, notes)
    figure, axes = panels(1, 2)
    exceeded = np.geomspace(1, 2 / updates, 60)
    tops = np.unique(np.geomspace(10, updates // 4, 30).astype(int))
    rows = []
    by_loss: dict[str, list[TrainedRun]] = {}
    for run in trained:
        by_loss.setdefault(loss_name(run.record), []).append(run)
    for colour, (loss, of_loss) in enumerate(by_loss.items()):
        slope = slopes.get(loss)
        noisy, exact = (
            np.concatenate([standardised(gradients(run, slope, std, updates, batch)) for run in of_loss], 1)
            for std in (noise, 0.0)
        )
        axes[0].loglog(exceeded, np.quantile(np.abs(noisy), 1 - exceeded), color=f"C{colour}", label=loss)
        axes[1].loglog(tops, [np.mean([hill(c, top) for c in noisy.T]) for top in tops], color=f"C{colour}", label=loss)
        indices = [[hill(component, round(TAIL * updates)) for component in values.T] for values in (noisy, exact)]
        largest = np.abs(noisy).max(0)
        rows.append([loss, *(mean_and_sd(values, 2) for values in indices), f"{np.median(largest):.3g}"])
    inner = exceeded[1:]
    for quantile, style, name in ((cauchy_quantile, "--", "Cauchy"), (normal_quantile, ":", "normal")):
        axes[0].loglog(inner, [quantile(u) for u in inner], color="black", linestyle=style, linewidth=1, label=name)
    axes[0].invert_xaxis()
    axes[0].set(
        title="quantiles of gradient components",
        xlabel="share of larger values",
        ylabel="distance / median",
        ylim=(0.1, None),
    )
    axes[1].axhline(1, color="black", linestyle="--", linewidth=1, label="Cauchy")
    axes[1].set(title="Hill's estimate of the tail index", xlabel="number of largest values")
    for ax in axes:
        ax.legend()
    header = ["loss", "tail index", "without errors", "largest component"]
    notes += [
        f"{updates:,} gradients of batches of {batch}, with errors of std {noise:g} in D and in its gradient.",
        f"Tail index: Hill's estimate from the largest {TAIL:.0%}, mean ± sd over components and seeds; Cauchy: 1.",
        "Largest component: median over components, in units of the median distance from the median.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
