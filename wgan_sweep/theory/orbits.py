"""Gradient steps on the game x y of two scalar players (Mescheder et al. 2018, the Dirac-GAN)."""

import math
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import cells_by_label, config_value, scored_runs, summary_without_runs
from wgan_sweep.theory.closed_forms import growth_of_simultaneous_steps

COLUMNS = 4
"""Panels per row of the figure."""


def orbit(record: Record, runs: Path) -> list[tuple[int, float, float]]:
    """Return (step, generator's location, critic's slope) at every step at which the run was scored."""
    lines = RunDir(runs / record.run_id).read_metrics()
    return [(int(line["step"]), line["mean_0"], line["critic_slope_0"]) for line in lines if "mean_0" in line]


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Plot the orbits, and tabulate how fast they move away from the equilibrium or towards it.

    Args:
        records: Runs of ``data=point_mass`` at 0 with a linear critic, ``scorer=exact`` and ``scorer.every``.
        runs: Folder of the runs.
    """
    orbits = {record.run_id: points for record in scored_runs(records) if (points := orbit(record, runs))}
    cells = cells_by_label([record for record in records if record.run_id in orbits])
    if not cells:
        return summary_without_runs(records)
    figure, axes = panels(-(-len(cells) // COLUMNS), min(len(cells), COLUMNS))
    rows = []
    for ax, (label, members) in zip(axes, cells.items(), strict=False):
        record = members[0]
        points = orbits[record.run_id]
        steps, locations, slopes = zip(*points, strict=True)
        ax.plot(locations, slopes, linewidth=0.8, color="C0")
        ax.scatter(locations, slopes, c=steps, s=6, cmap="viridis")
        ax.plot(0, 0, "+", color="black")
        ax.set(title=label, xlabel="generator x", ylabel="critic y", aspect="equal", adjustable="datalim")
        first_radius, last_radius = (math.hypot(*points[index][1:]) for index in (0, -1))
        growth = (last_radius / first_radius) ** (1 / max(steps[-1] - steps[0], 1))
        simultaneous = config_value(record, "train.simultaneous")
        theory = growth_of_simultaneous_steps(float(config_value(record, "optimizer.lr"))) if simultaneous else 1.0
        rows.append([label, f"{first_radius:.4f}", f"{last_radius:.4f}", f"{growth:.6f}", f"{theory:.6f}"])
    header = ["game", "first radius", "last radius", "growth per step", "theory for x y alone"]
    notes = [
        "Radius: distance of (generator, critic) from the equilibrium (0, 0). Theory, without gradient terms:",
        "sqrt(1 + rate^2) for simultaneous steps, 1 for alternating ones. A gradient term damps the game.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
