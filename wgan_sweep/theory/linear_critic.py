"""Wasserstein divergence of two points under a linear critic: trained value and norm against their closed forms."""

import math
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, group_by, mean_metric, scored_runs, summary_without_runs
from wgan_sweep.theory.closed_forms import divergence_of_points


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:  # noqa: ARG001
    """Plot and tabulate the trained critic's norm and objective beside their closed forms.

    Args:
        records: Runs with ``scorer=exact``, a linear critic, and two points, ``data.at`` and ``model.place``.
        runs: Folder of the runs.
    """
    cells = group_by(
        scored_runs(records),
        lambda record: (
            float(config_value(record, "div.k")),
            float(config_value(record, "div.p")),
            math.dist(config_value(record, "data.at"), config_value(record, "model.place")),
        ),
    )
    if not cells:
        return summary_without_runs(records)
    figure, axes = panels(1, 2)
    rows = []
    for colour, k in enumerate(sorted({k for k, _, _ in cells})):
        cells_of_k = {(p, d): members for (cell_k, p, d), members in sorted(cells.items()) if cell_k == k}
        exponents, distance = [p for p, _ in cells_of_k], next(d for _, d in cells_of_k)
        low, high = min(exponents), max(exponents)
        p_grid = [low + (high - low) * i / 200 for i in range(201)]
        exact_curve = [divergence_of_points(distance, k, p) for p in p_grid]
        trained = [
            (mean_metric(members, "critic_gradient_mean"), -mean_metric(members, "eval_critic_loss"))
            for members in cells_of_k.values()
        ]
        for ax, curve, dots in zip(axes, zip(*exact_curve, strict=True), zip(*trained, strict=True), strict=True):
            ax.semilogy(p_grid, curve, color=f"C{colour}", linewidth=1, label=f"k = {k:g}")
            ax.semilogy(exponents, dots, "o", color=f"C{colour}", markersize=5)
        for (p, d), (norm, value) in zip(cells_of_k, trained, strict=True):
            exact_norm, exact_value = divergence_of_points(d, k, p)
            rows.append(
                [
                    f"{k:g}",
                    f"{p:g}",
                    f"{exact_norm:.5f}",
                    f"{norm:.5f}",
                    f"{norm / exact_norm - 1:+.2%}",
                    f"{exact_value:.5f}",
                    f"{value:.5f}",
                    f"{value / exact_value - 1:+.2%}",
                ]
            )
    for ax, name in zip(axes, (r"$\|w\|$ of the linear critic", r"$W_{k,p}$"), strict=True):
        ax.set(xlabel="p", title=f"{name}: closed form, and trained (dots)")
        ax.legend()
    header = ["k", "p", "norm, closed form", "trained", "off by", "value, closed form", "trained", "off by"]
    notes = [
        "Closed form: norm (d/(kp))^(1/(p-1)), value d norm - k norm^p, for points at distance d.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
