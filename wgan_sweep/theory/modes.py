"""Mode coverage and distance of the samples on mixtures of Gaussians, for each cell of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import fill_first_row, panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import (
    cells_by_label,
    mean_and_sd,
    metric_value,
    scored_runs,
    show_last_samples,
    summary_without_runs,
)

METRIC_TITLES = {"modes": "modes covered", "high_quality": "share of high quality", "w1": "exact W1"}


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Plot modes, quality and exact W1 of every seed, and samples of the first seed of each cell.

    Args:
        records: Runs on a mixture, with ``scorer=exact``.
        runs: Folder of the runs.
    """
    cells = cells_by_label(scored_runs(records))
    if not cells:
        return summary_without_runs(records)
    columns = max(len(cells), len(METRIC_TITLES))
    figure, axes = panels(2, columns, side=2.6)
    for ax in axes:
        ax.set_axis_off()
    labels = list(cells)
    fill_first_row(figure, len(METRIC_TITLES))
    for ax, (metric, title) in zip(axes, METRIC_TITLES.items(), strict=False):
        ax.set_axis_on()
        for row, members in enumerate(cells.values()):
            values = [metric_value(record, metric) for record in members]
            ax.plot(values, [row] * len(values), "o", color=f"C{row}", alpha=0.6, markersize=5)
        ax.set_yticks(range(len(labels)), labels if ax is axes[0] else [""] * len(labels))
        ax.invert_yaxis()
        ax.set(title=title)
        ax.grid(visible=True, axis="x", linewidth=0.4)
    for ax, (label, members) in zip(axes[columns:], cells.items(), strict=False):
        ax.set_title(label)
        show_last_samples(ax, members[0], runs)
    header = ["system", *METRIC_TITLES.values(), "runs"]
    rows = []
    for label, members in cells.items():
        texts = [mean_and_sd([metric_value(record, metric) for record in members], 2) for metric in METRIC_TITLES]
        rows.append([label, *texts, str(len(members))])
    notes = [
        "Mean ± sd over seeds. A sample belongs to a mode if it is within three standard deviations of its centre",
        "(Srivastava et al. 2017).",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
