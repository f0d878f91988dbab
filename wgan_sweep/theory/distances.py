"""JS and W1 as functions of a distance theta: exact, and estimated by trained critics.

JS saturates, W1 grows with the distance (Arjovsky et al. 2017, example 1).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import (
    config_value,
    group_by,
    loss_name,
    mean_and_sd,
    metric_value,
    scored_runs,
    summary_without_runs,
)


def js_estimate(record: Record) -> float:
    """Return ln 2 - loss/2, a lower bound of JS for a critic that minimises cross entropy (Goodfellow et al. 2014)."""
    return math.log(2) - metric_value(record, "eval_critic_loss") / 2


def w1_estimate(record: Record) -> float:
    """Return (E_real[T] - E_fake[T]) / max ||grad T||.

    By Kantorovich-Rubinstein duality this is a lower bound of W1 (up to sampling error), if the maximum over r(x) is
    the critic's Lipschitz constant. If the critic is steeper elsewhere, it may exceed W1.
    """
    return metric_value(record, "critic_gap") / metric_value(record, "critic_gradient_max")


def summarise(
    records: Sequence[Record],
    runs: Path,  # noqa: ARG001
    js: Callable[[float], float],
    w1: Callable[[float], float],
    by_cross_entropy: list[str],
) -> SweepSummary:
    """Plot and tabulate JS and W1 against theta (``data.theta``): exact values and the critics' estimates.

    Args:
        records: Runs with ``scorer=exact`` whose generator is fixed.
        runs: Folder of the runs.
        js: Closed form of JS as a function of theta.
        w1: Closed form of W1 as a function of theta.
        by_cross_entropy: Names of the losses whose critic estimates JS; critics of other losses estimate W1.
    """
    cells = group_by(
        scored_runs(records), lambda record: (loss_name(record), float(config_value(record, "data.theta")))
    )
    if not cells:
        return summary_without_runs(records)
    losses = list(dict.fromkeys(loss for loss, _ in cells))
    thetas = sorted({theta for _, theta in cells})
    estimates = {
        (loss, theta): [(js_estimate if loss in by_cross_entropy else w1_estimate)(record) for record in members]
        for (loss, theta), members in cells.items()
    }
    js_losses = [loss for loss in losses if loss in by_cross_entropy]
    w1_losses = [loss for loss in losses if loss not in by_cross_entropy]
    exact = {"JS": js, "W1": w1}

    figure, axes = panels(1, 2)
    low, high = thetas[0], thetas[-1]
    theta_grid = [low + (high - low) * i / 400 for i in range(401)]
    for ax, (name, curve), panel_losses in zip(axes, exact.items(), (js_losses, w1_losses), strict=True):
        ax.plot(theta_grid, [curve(theta) for theta in theta_grid], color="black", linewidth=1, label=f"exact {name}")
        for marker, loss in zip("osv^D", panel_losses, strict=False):
            dots = [(theta, value) for theta in thetas for value in estimates.get((loss, theta), [])]
            ax.plot(*zip(*dots, strict=True), marker, markersize=5, alpha=0.7, label=loss)
        ax.set(xlabel=r"$\theta$", title=f"{name}: exact, and by the critic")
        ax.legend()
    axes[0].axhline(math.log(2), color="gray", linewidth=0.8, linestyle="--")
    axes[0].annotate(
        "ln 2", (high, math.log(2)), (0, -4), textcoords="offset points", color="gray", ha="right", va="top"
    )

    header = ["theta", "JS", *(f"JS by {loss}" for loss in js_losses), "W1", *(f"W1 by {loss}" for loss in w1_losses)]
    rows = []
    for theta in thetas:
        texts = {loss: mean_and_sd(estimates.get((loss, theta), []), 3) for loss in losses}
        js_columns = [f"{js(theta):.3f}", *(texts[loss] for loss in js_losses)]
        rows.append([f"{theta:g}", *js_columns, f"{w1(theta):.3f}", *(texts[loss] for loss in w1_losses)])
    notes = [
        "JS (nats) and W1 between data and generator: closed form, and by trained critics. Mean ± sd over seeds.",
        "JS: the lower bound ln 2 - loss/2. W1: (E_real[T] - E_fake[T]) / max ||grad T||. The maximum is over points",
        "of r(x): a lower bound if it is the critic's Lipschitz constant, but the ratio may exceed W1 if it is not.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
