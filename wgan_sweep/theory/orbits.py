"""Two players of one number each: where gradient steps on x y lead (Mescheder et al. 2018, the Dirac-GAN)."""

import math
from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import Record, RunDir
from wgan_sweep.theory.cells import done, labelled, nothing_done, setting
from wgan_sweep.theory.closed_forms import growth_of_simultaneous_steps

COLUMNS = 4


def orbit(record: Record, runs: Path) -> list[tuple[int, float, float]]:
    """Return (step, place of the generator, slope of the critic) of a run scored along the way."""
    lines = RunDir(runs / record.run_id).read_metrics()
    return [(int(line["step"]), line["mean_0"], line["critic_slope_0"]) for line in lines if "mean_0" in line]


def conclude(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Draw the orbits, and say how fast they move away from the equilibrium or towards it.

    Args:
        records: Runs of ``data=point_mass`` at 0 with a linear critic, ``scorer=exact`` and ``scorer.every``.
        runs: Their folder.
    """
    cells = labelled(done(records))
    if not cells:
        return nothing_done(records)
    figure, axes = panels(-(-len(cells) // COLUMNS), min(len(cells), COLUMNS))
    rows = []
    for ax, (label, members) in zip(axes, cells.items(), strict=False):
        record = members[0]
        path = orbit(record, runs)
        steps, place, slope = zip(*path, strict=True)
        ax.plot(place, slope, linewidth=0.8, color="C0")
        ax.scatter(place, slope, c=steps, s=6, cmap="viridis")
        ax.plot(0, 0, "+", color="black")
        ax.set(title=label, xlabel="generator x", ylabel="critic y", aspect="equal", adjustable="datalim")
        first, last = (math.hypot(*path[index][1:]) for index in (0, -1))
        measured = (last / first) ** (1 / max(steps[-1] - steps[0], 1))
        both = setting(record, "train.simultaneous")
        alone = growth_of_simultaneous_steps(float(setting(record, "optimizer.lr"))) if both else 1.0
        rows.append([label, f"{first:.4f}", f"{last:.4f}", f"{measured:.6f}", f"{alone:.6f}"])
    header = ["game", "first radius", "last radius", "growth per step", "of x y alone, in theory"]
    notes = [
        "Radius: of (generator, critic) about the equilibrium (0, 0). Theory: sqrt(1 + rate^2) for simultaneous steps,",
        "1 for alternating ones; a gradient term damps the game.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
