"""The generator's gradient vanishes as the critic improves (Arjovsky & Bottou 2017, theorem 2.4 and figure 2)."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.common.ranges import Count
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.theory.cells import config_value, group_by, loss_name, mean_and_sd, summary_without_runs

LAST = 9
"""Number of final measurements; their median is the value at the end."""
METRIC = "generator_gradient_norm"


def _gradient_norms(record: Record, runs: Path, steps: int | None) -> list[tuple[int, float]]:
    """Return (steps since the critic was reset, norm of the generator's gradient), for the first `steps` of them."""
    start = config_value(record, "train.freeze_generator_at") or 0
    lines = RunDir(runs / record.run_id).read_metrics()
    trace = [(int(line["step"]) - start, line[METRIC]) for line in lines if METRIC in line and line["step"] > start]
    return [(step, norm) for step, norm in trace if steps is None or step <= steps]


def summarise(records: Sequence[Record], runs: Path, steps: Count | None = None) -> SweepSummary:
    """Plot the norm of the generator's gradient while a critic is trained from scratch against a frozen generator.

    Args:
        records: Runs with ``train.freeze_generator_at``.
        runs: Folder of the runs.
        steps: Number of steps after the reset of the critic that count; None for all.
    """
    finished = [record for record in records if record.status == Status.DONE]
    trace_of = {record.run_id: trace for record in finished if (trace := _gradient_norms(record, runs, steps))}
    runs_by_loss = group_by([record for record in finished if record.run_id in trace_of], loss_name)
    if not runs_by_loss:
        return summary_without_runs(records)
    figure, axes = panels(1, len(runs_by_loss), share_y=True)
    rows = []
    for ax, (loss, runs_of_loss) in zip(axes, runs_by_loss.items(), strict=False):
        stages = group_by(runs_of_loss, lambda record: int(config_value(record, "train.freeze_generator_at") or 0))
        for colour, (stage, seeds) in enumerate(sorted(stages.items())):
            traces = [trace_of[record.run_id] for record in seeds]
            for index, trace in enumerate(traces):
                label = f"generator of step {stage}" if index == 0 else None
                ax.semilogy(*zip(*trace, strict=True), color=f"C{colour}", linewidth=1, label=label)
            peaks = [max(norm for _, norm in trace) for trace in traces]
            final = [statistics.median(norm for _, norm in trace[-LAST:]) for trace in traces]
            lost = [math.log10(peak / last) for peak, last in zip(peaks, final, strict=True)]
            rows.append([loss, str(stage), mean_and_sd(peaks, 3), mean_and_sd(final, 4), mean_and_sd(lost, 1)])
        ax.set(title=loss, xlabel="steps since the critic was reset")
        ax.legend()
    axes[0].set_ylabel("norm of the generator's gradient")
    header = ["loss", "generator of step", "gradient norm, maximum", "final", "orders of magnitude lost"]
    notes = [
        f"The generator is frozen. Final: the median of the last {LAST} measurements. Mean ± sd over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
