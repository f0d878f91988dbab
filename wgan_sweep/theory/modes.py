"""Which modes of a mixture are found, and how far the samples are from it, system by system."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import Record, RunDir
from wgan_sweep.theory.cells import done, labelled, nothing_done, spread

SHOWN = {"modes": "modes covered", "high_quality": "share of high quality", "w1": "exact W1"}


def conclude(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Draw modes, quality and exact W1 of every seed, and the samples of each system's first one.

    Args:
        records: Runs on a mixture, with ``scorer=exact``.
        runs: Their folder.
    """
    cells = labelled(done(records))
    if not cells:
        return nothing_done(records)
    columns = max(len(cells), len(SHOWN))
    figure, axes = panels(2, columns, side=2.6)
    for ax in axes:
        ax.set_axis_off()
    names = list(cells)
    for ax, (score, title) in zip(axes, SHOWN.items(), strict=False):
        ax.set_axis_on()
        for row, members in enumerate(cells.values()):
            values = [record.scores[score] for record in members]
            ax.plot(values, [row] * len(values), "o", color=f"C{row}", alpha=0.6, markersize=5)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.invert_yaxis()
        ax.set(title=title)
        ax.grid(visible=True, axis="x", linewidth=0.4)
    for ax, (name, members) in zip(axes[columns:], cells.items(), strict=False):
        picture = RunDir(runs / members[0].run_id).last_samples()
        ax.set_title(name)
        if picture is not None:
            with Image.open(picture) as pixels:
                ax.imshow(pixels.convert("RGB"))
    header = ["system", *SHOWN.values(), "runs"]
    rows = [
        [name, *(spread([record.scores[score] for record in members], 2) for score in SHOWN), str(len(members))]
        for name, members in cells.items()
    ]
    notes = [
        "Mean ± sd over seeds. A sample counts for a mode within three standard deviations of its centre",
        "(Srivastava et al. 2017).",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
