"""The Wasserstein divergence of two points under a linear critic is known: is that what training finds?"""

import math
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import Record
from wgan_sweep.theory.cells import done, grouped, mean, nothing_done, setting
from wgan_sweep.theory.closed_forms import divergence_of_points


def conclude(records: Sequence[Record], runs: Path) -> SweepSummary:  # noqa: ARG001
    """Hold the trained critic's norm and the value of its objective against their closed forms.

    Args:
        records: Runs of two points, ``data.at`` and ``model.place``, with a linear critic and ``scorer=exact``.
        runs: Their folder.
    """
    cells = grouped(
        done(records),
        lambda record: (
            float(setting(record, "div.k")),
            float(setting(record, "div.p")),
            math.dist(setting(record, "data.at"), setting(record, "model.place")),
        ),
    )
    if not cells:
        return nothing_done(records)
    figure, axes = panels(1, 2)
    rows = []
    for colour, k in enumerate(sorted({k for k, _, _ in cells})):
        of_k = {(p, d): members for (at, p, d), members in sorted(cells.items()) if at == k}
        exponents, distance = [p for p, _ in of_k], next(d for _, d in of_k)
        low, high = min(exponents), max(exponents)
        fine = [low + (high - low) * i / 200 for i in range(201)]
        exact = [divergence_of_points(distance, k, p) for p in fine]
        found = [(mean(members, "critic_gradient_mean"), -mean(members, "critic_loss")) for members in of_k.values()]
        for ax, curve, measured in zip(axes, zip(*exact, strict=True), zip(*found, strict=True), strict=True):
            ax.semilogy(fine, curve, color=f"C{colour}", linewidth=1, label=f"k = {k:g}")
            ax.semilogy(exponents, measured, "o", color=f"C{colour}", markersize=5)
        for (p, d), (norm, value) in zip(of_k, found, strict=True):
            norm_there, value_there = divergence_of_points(d, k, p)
            rows.append(
                [
                    f"{k:g}",
                    f"{p:g}",
                    f"{norm_there:.5f}",
                    f"{norm:.5f}",
                    f"{norm / norm_there - 1:+.2%}",
                    f"{value_there:.5f}",
                    f"{value:.5f}",
                    f"{value / value_there - 1:+.2%}",
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
