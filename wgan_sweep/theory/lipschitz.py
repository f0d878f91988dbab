"""What a constraint does to the critic: the norms of its gradient along lines from real to fake."""

from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import Record
from wgan_sweep.theory.cells import done, labelled, mean, nothing_done

QUANTILES = (
    "critic_gradient_q5",
    "critic_gradient_q25",
    "critic_gradient_q50",
    "critic_gradient_q75",
    "critic_gradient_q95",
)


def conclude(records: Sequence[Record], runs: Path) -> SweepSummary:  # noqa: ARG001
    """Draw quantiles and maximum of the critic's gradient norms.

    Args:
        records: Runs with ``scorer=exact``.
        runs: Their folder.
    """
    cells = labelled(done(records))
    if not cells:
        return nothing_done(records)
    figure, (ax,) = panels(1, 1, side=4.5, wide=max(1.0, 0.3 * len(cells)))
    boxes = []
    rows = []
    for label, members in cells.items():
        low, first, median, third, high = (mean(members, name) for name in QUANTILES)
        most = max(record.scores["critic_gradient_max"] for record in members)
        boxes.append(
            {"label": label, "whislo": low, "q1": first, "med": median, "q3": third, "whishi": high, "fliers": [most]}
        )
        rows.append([label, *(f"{value:.3g}" for value in (low, median, high, most)), f"{mean(members, 'w1'):.3g}"])
    ax.bxp(boxes, flierprops={"marker": "x"})
    ax.axhline(1, color="gray", linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set(ylabel=r"$\|\nabla T\|$ along real-fake lines", title="5, 25, 50, 75, 95 %, and the maximum (x)")
    ax.tick_params("x", rotation=60)
    header = ["critic", "5 %", "median", "95 %", "maximum", "W1 of the samples"]
    notes = ["Norms of the critic's gradient along lines between real and generated points.", *problems(records)]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
