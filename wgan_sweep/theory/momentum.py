"""WGAN training with and without momentum (Arjovsky et al. 2017, section 3): how steadily W1 falls."""

from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.theory.cells import config_value, mean_and_sd, summary_without_runs

METRIC = "w1"


def largest_rise(values: Sequence[float]) -> float:
    """Return by how much a sequence rises at most above an earlier value; 0 if it never rises."""
    lowest, rise = values[0], 0.0
    for value in values:
        lowest = min(lowest, value)
        rise = max(rise, value - lowest)
    return rise


def _trace(record: Record, runs: Path) -> list[tuple[int, float]]:
    """Return (step, W1) at every step at which a run was scored."""
    lines = RunDir(runs / record.run_id).read_metrics()
    return list({int(line["step"]): line[METRIC] for line in lines if METRIC in line}.items())


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Plot W1 during training, and tabulate its last value and its largest rise, for each optimizer and rate.

    Args:
        records: Runs on points with ``scorer=exact`` and ``scorer.every``.
        runs: Folder of the runs.
    """
    cells: dict[float, dict[str, list[list[tuple[int, float]]]]] = {}
    for record in records:
        trace = _trace(record, runs) if record.status == Status.DONE else []
        if trace:
            rate = float(config_value(record, "optimizer.lr"))
            of_rate = cells.setdefault(rate, {})
            of_rate.setdefault(config_value(record, "choices.optimizer"), []).append(trace)
    if not cells:
        return summary_without_runs(records)
    figure, axes = panels(1, len(cells), share_y=True)
    rows = []
    for ax, (rate, by_optimizer) in zip(axes, sorted(cells.items()), strict=True):
        for colour, (optimizer, traces) in enumerate(by_optimizer.items()):
            for index, trace in enumerate(traces):
                label = optimizer if index == 0 else None
                ax.plot(*zip(*trace, strict=True), color=f"C{colour}", linewidth=1, alpha=0.8, label=label)
            values = [[w1 for _, w1 in trace] for trace in traces]
            rows.append(
                [
                    f"{rate:g}",
                    optimizer,
                    mean_and_sd([trace[-1] for trace in values], 2),
                    mean_and_sd([min(trace) for trace in values], 2),
                    mean_and_sd([largest_rise(trace) for trace in values], 2),
                    str(len(traces)),
                ]
            )
        ax.set(title=f"learning rate {rate:g}", xlabel="step")
        ax.legend()
    axes[0].set_ylabel("exact W1")
    header = ["learning rate", "optimizer", "last W1", "lowest W1", "largest rise of W1", "runs"]
    notes = [
        "Largest rise: the most that W1 rises above an earlier value of the same run. Mean ± sd over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
