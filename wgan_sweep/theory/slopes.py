"""Slope of a linear critic between two points against p: it tends to 1, that of the Kantorovich potential."""

import math
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, group_by, mean_metric, scored_runs, summary_without_runs
from wgan_sweep.theory.closed_forms import divergence_of_points

SLOPE_TICKS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def _setting(record: Record) -> tuple[float, float, float]:
    """Return k, the distance of the two points, and p."""
    return (
        float(config_value(record, "div.k")),
        math.dist(config_value(record, "data.at"), config_value(record, "model.place")),
        float(config_value(record, "div.p")),
    )


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:  # noqa: ARG001
    """Plot and tabulate the trained critic's slope against p beside its closed form, for each k and distance.

    Args:
        records: Runs with ``scorer=exact``, a linear critic, and two points, ``data.at`` and ``model.place``.
        runs: Folder of the runs.
    """
    trained = {
        setting: mean_metric(members, "critic_gradient_mean")
        for setting, members in sorted(group_by(scored_runs(records), _setting).items())
    }
    if not trained:
        return summary_without_runs(records)
    exact = {(k, d, p): divergence_of_points(d, k, p)[0] for k, d, p in trained}
    exponents = sorted({p for _, _, p in trained})
    p_grid = [exponents[0] * (exponents[-1] / exponents[0]) ** (i / 200) for i in range(201)]
    factors = list(dict.fromkeys(k for k, _, _ in trained))
    distances = sorted({d for _, d, _ in trained})
    figure, axes = panels(1, len(factors), share_y=True)
    for ax, k in zip(axes, factors, strict=True):
        for colour, distance in enumerate(distances):
            curve = [divergence_of_points(distance, k, p)[0] for p in p_grid]
            ax.loglog(p_grid, curve, color=f"C{colour}", linewidth=1, label=f"d = {distance:g}")
            dots = [(p, slope) for (of_k, d, p), slope in trained.items() if (of_k, d) == (k, distance)]
            ax.loglog([p for p, _ in dots], [slope for _, slope in dots], "o", color=f"C{colour}", markersize=5)
        ax.axhline(1, color="gray", linewidth=0.8, linestyle="--")
        ax.set(xlabel="p", title=f"k = {k:g}")
        ax.set_xticks(exponents, [f"{p:g}" for p in exponents])
        ax.set_yticks(SLOPE_TICKS, [f"{slope:g}" for slope in SLOPE_TICKS])
        ax.minorticks_off()
        ax.legend()
    axes[0].set_ylabel("slope: closed form, and trained (dots)")

    def cell(k: float, d: float, p: float) -> str:
        if (k, d, p) not in trained:
            return "-"
        return f"{exact[k, d, p]:.4f}, {trained[k, d, p]:.4f}"

    header = ["k", "d", *(f"p={p:g}" for p in exponents)]
    pairs = dict.fromkeys((k, d) for k, d, _ in trained)
    rows = [[f"{k:g}", f"{d:g}", *(cell(k, d, p) for p in exponents)] for k, d in pairs]
    largest = max(abs(trained[setting] / exact[setting] - 1) for setting in trained)
    notes = [
        "Slope between two points at distance d: closed form (d/(kp))^(1/(p-1)), trained. That of the Kantorovich",
        f"potential is 1. Largest difference between trained and closed form: {largest:.2%}.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
