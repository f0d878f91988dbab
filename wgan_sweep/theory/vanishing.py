"""The better the critic, the less the generator learns from it (Arjovsky & Bottou 2017, theorem 2.4 and figure 2)."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import Record, RunDir, Status
from wgan_sweep.theory.cells import grouped, loss, nothing_done, setting, spread

LAST = 9
"""Lines of measurements whose median stands for the end."""
MEASURED = "generator_gradient_norm"


def _since(record: Record, runs: Path) -> list[tuple[int, float]]:
    """Return (steps of the fresh critic, norm of the generator's gradient)."""
    start = setting(record, "train.freeze_generator_at") or 0
    lines = RunDir(runs / record.run_id).read_metrics()
    return [(int(line["step"]) - start, line[MEASURED]) for line in lines if MEASURED in line and line["step"] > start]


def conclude(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Draw the generator's gradient norm while a critic is trained from scratch against a generator that stands still.

    Args:
        records: Runs with ``train.freeze_generator_at``.
        runs: Their folder.
    """
    finished = [record for record in records if record.status == Status.DONE]
    by_loss = grouped(finished, loss)
    if not by_loss:
        return nothing_done(records)
    figure, axes = panels(1, len(by_loss), share_y=True)
    rows = []
    for ax, (name, members) in zip(axes, by_loss.items(), strict=False):
        stages = grouped(members, lambda record: int(setting(record, "train.freeze_generator_at") or 0))
        for colour, (stage, same) in enumerate(sorted(stages.items())):
            traces = [_since(record, runs) for record in same]
            for index, trace in enumerate(traces):
                label = f"generator of step {stage}" if index == 0 else None
                ax.semilogy(*zip(*trace, strict=True), color=f"C{colour}", linewidth=1, label=label)
            peaks = [max(norm for _, norm in trace) for trace in traces]
            lasts = [statistics.median(norm for _, norm in trace[-LAST:]) for trace in traces]
            lost = [math.log10(peak / last) for peak, last in zip(peaks, lasts, strict=True)]
            rows.append([name, str(stage), spread(peaks, 3), spread(lasts, 4), spread(lost, 1)])
        ax.set(title=name, xlabel="updates of a critic from scratch, in steps")
        ax.legend()
    axes[0].set_ylabel("norm of the generator's gradient")
    header = ["loss", "generator of step", "gradient norm, highest", "at last", "orders of magnitude lost"]
    notes = [f"The generator stands still. At last: the median of {LAST} lines of measurements.", *problems(records)]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
