"""Effect of a constraint on the critic: norms of its gradient along lines between real and generated points."""

from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import cells_by_label, mean_metric, metric_value, scored_runs, summary_without_runs

QUANTILES = (
    "critic_gradient_q5",
    "critic_gradient_q25",
    "critic_gradient_q50",
    "critic_gradient_q75",
    "critic_gradient_q95",
)


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:  # noqa: ARG001
    """Plot and tabulate quantiles and the maximum of the critic's gradient norms.

    Args:
        records: Runs with ``scorer=exact``.
        runs: Folder of the runs.
    """
    cells = cells_by_label(scored_runs(records))
    if not cells:
        return summary_without_runs(records)
    figure, (ax,) = panels(1, 1, side=4.5, wide=max(1.0, 0.3 * len(cells)))
    boxes = []
    rows = []
    for label, members in cells.items():
        q5, q25, q50, q75, q95 = (mean_metric(members, name) for name in QUANTILES)
        maximum = max(metric_value(record, "critic_gradient_max") for record in members)
        boxes.append(
            {"label": label, "whislo": q5, "q1": q25, "med": q50, "q3": q75, "whishi": q95, "fliers": [maximum]}
        )
        norms = [f"{value:.3g}" for value in (q5, q50, q95, maximum)]
        rows.append([label, *norms, f"{mean_metric(members, 'w1'):.3g}"])
    ax.bxp(boxes, flierprops={"marker": "x"})
    ax.axhline(1, color="gray", linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set(ylabel=r"$\|\nabla T\|$ along real-fake lines", title="5, 25, 50, 75, 95 %, and the maximum (x)")
    ax.tick_params("x", rotation=60)
    header = ["critic", "5 %", "median", "95 %", "maximum", "W1 of the samples"]
    notes = ["Norms of the critic's gradient along lines between real and generated points.", *problems(records)]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
