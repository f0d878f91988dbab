"""Whether the loss tracks the quality of the samples: its rank correlation with a metric along the curve of each run.

Arjovsky et al. 2017, section 4.2: the estimate of WGAN's critic falls as samples get better, while a GAN's estimate of
the Jensen-Shannon divergence does not.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.curves import Curve, Curves
from wgan_sweep.report.inference.correlations import correlated, fisher_z, rank_correlation
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import cells_by_label, scored_runs, summary_without_runs

MIN_STEPS = 5
"""Scored steps that a run needs."""
ESTIMATES: Mapping[str, tuple[str, Callable[[Sequence[float]], Sequence[float]]]] = {
    "minus the critic's loss": ("critic_loss", lambda values: [-value for value in values]),
    "E_real[T] - E_fake[T]": ("wasserstein", list),
}
"""By title: a measurement of training, and what turns it into an estimate of a distance, which falls with it."""


def _correlations(curves: Sequence[Curve], name: str, metric: str, estimate: Callable[..., Sequence[float]]) -> str:
    """Return the mean rank correlation over runs with its 95 % interval, as text."""
    z = [
        fisher_z(rank_correlation(estimate(curve.values[name]), curve.values[metric]), len(curve.steps))
        for curve in curves
    ]
    evidence = correlated([z])
    return f"{evidence.effect:.2f} [{max(-1.0, evidence.low):.2f}, {min(1.0, evidence.high):.2f}]"


def summarise(records: Sequence[Record], runs: Path, metric: str) -> SweepSummary:
    """Plot estimate and metric along training, and tabulate their rank correlation, per cell.

    Args:
        records: Runs that were scored during training.
        runs: Folder of the runs.
        metric: The metric of quality; lower is better.
    """
    every_curve = Curves.in_folder(runs)
    names = [name for name, _ in ESTIMATES.values()]
    cells: dict[str, list[Curve]] = {}
    for label, members in cells_by_label(scored_runs(records)).items():
        curves = [every_curve.along(record.run_id, *names, metric) for record in members]
        if long_enough := [curve for curve in curves if len(curve.steps) >= MIN_STEPS]:
            cells[label] = long_enough
    if not cells:
        return summary_without_runs(records)
    figure, axes = panels(2, len(cells), side=2.6)
    rows = []
    for column, (label, curves) in enumerate(cells.items()):
        above, below = axes[column], axes[len(cells) + column]
        first = curves[0]
        above.plot(first.steps, first.values[metric], color="black")
        above.set(title=label, xlabel="step", ylim=(0, None))
        estimates = above.twinx()
        for colour, (name, estimate) in enumerate(ESTIMATES.values()):
            estimates.plot(first.steps, estimate(first.values[name]), color=f"C{colour}", linewidth=1)
            for curve in curves:
                below.plot(estimate(curve.values[name]), curve.values[metric], ".", color=f"C{colour}", markersize=3)
        below.set(xlabel="estimate", ylim=(0, None))
        values = [_correlations(curves, name, metric, estimate) for name, estimate in ESTIMATES.values()]
        ends = [statistics.fmean(curve.values[metric][index] for curve in curves) for index in (0, -1)]
        rows.append([label, *values, f"{ends[0]:.3g}", f"{ends[1]:.3g}", str(len(curves))])
    axes[0].set_ylabel(f"{metric} and estimates, first seed")
    axes[len(cells)].set_ylabel(f"{metric}, all seeds")
    for colour, title in enumerate(ESTIMATES):
        axes[0].plot([], [], color=f"C{colour}", label=title)
    axes[0].plot([], [], color="black", label=metric)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    header = ["system", *(f"correlation of {title}" for title in ESTIMATES), f"{metric}, first", "last", "runs"]
    notes = [
        f"Spearman's rank correlation with {metric} along training: mean over seeds (of Fisher's z) with its 95 % "
        "interval.",
        "Both estimates are from a training batch. Fewer than 6 seeds have no finite interval.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
