"""Mode collapse on images: which classes the samples of each cell of a sweep show."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import cells_by_label, mean_and_sd, scored_runs, show_last_samples, summary_without_runs

SHARE = "class_share_"


def _shares(records: Sequence[Record]) -> list[float]:
    """Return the mean share of each class over seeds; empty if there are too many classes for shares."""
    names = [name for name in records[0].scores if name.startswith(SHARE)]
    return [statistics.fmean(record.scores[name] for record in records) for name in names]


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Plot the classes that the samples of each cell show, above samples of its first seed, and tabulate their metrics.

    Args:
        records: Runs that were scored with ``metric=classes``.
        runs: Folder of the runs.
    """
    cells = cells_by_label([record for record in scored_runs(records) if "classes" in record.scores])
    if not cells:
        return summary_without_runs(records)
    figure, axes = panels(2, len(cells), side=2.6)
    rows = []
    for column, (label, members) in enumerate(cells.items()):
        above, below = axes[column], axes[len(cells) + column]
        above.set(title=label)
        if shares := _shares(members):
            above.bar(range(len(shares)), shares, color=f"C{column}")
            above.set(xlabel="class", xticks=range(len(shares)), ylim=(0, 1))
        else:
            above.bar(range(len(members)), [record.scores["classes"] for record in members], color=f"C{column}")
            total = members[0].scores["classes"] + members[0].scores["missing_classes"]
            above.set(xlabel="seed", xticks=range(len(members)), ylim=(0, total))
        below.set_axis_off()
        show_last_samples(below, members[0], runs)
        values = [
            mean_and_sd([record.scores[name] for record in members], digits)
            for name, digits in (("classes", 1), ("class_entropy", 2), ("class_kl", 3))
        ]
        rows.append([label, *values, str(len(members))])
    first = next(iter(cells.values()))[0]
    axes[0].set_ylabel("share of the samples" if _shares([first]) else "classes found")
    header = ["system", "classes found", "entropy (nats)", "KL to the real classes", "runs"]
    counts = {int(record.scores["fid_generated"]) for members in cells.values() for record in members}
    accuracy = min(record.scores["classifier_accuracy"] for members in cells.values() for record in members)
    notes = [
        f"Mean ± sd over seeds, of {' or '.join(map(str, sorted(counts)))} generated images. The classifier's accuracy "
        f"on real images that it was not trained on is {accuracy:.3f}.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
