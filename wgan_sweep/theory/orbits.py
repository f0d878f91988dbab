"""Gradient steps on the game x y of two scalar players (Mescheder et al. 2018, the Dirac-GAN)."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import cells_by_label, config_value, scored_runs, summary_without_runs
from wgan_sweep.theory.closed_forms import growth_at_equilibrium, radius_of_the_cycle

COLUMNS = 4
"""Panels per row of the figure."""
BILINEAR = [f"wgan_sweep.objectives.losses.{name}" for name in ("wasserstein", "wasserstein_divergence")]
"""The losses whose game is x y."""


def orbit(record: Record, runs: Path) -> list[tuple[int, float, float]]:
    """Return (step, generator's location, critic's slope) at every step at which the run was scored."""
    lines = RunDir(runs / record.run_id).read_metrics()
    return [(int(line["step"]), line["mean_0"], line["critic_slope_0"]) for line in lines if "mean_0" in line]


def radius_of_last_turn(points: Sequence[tuple[int, float, float]], rate: float) -> float:
    """Return the mean distance from (0, 0) over the last turn, which takes about 2 pi / rate steps."""
    first = points[-1][0] - 2 * math.pi / rate
    return fmean(math.hypot(*location) for step, *location in points if step > first)


def theory(record: Record) -> tuple[float | None, float | None]:
    """Return the growth per step at (0, 0) and the radius of the cycle; None where there is no closed form here.

    There is one for x y alone, and with the divergence's term k |y|^p for p >= 2, if each player takes one step of
    gradient descent after the other, or both at once.
    """
    has_constraint = record.config["choices"].get("constraint", "none") != "none"
    if has_constraint or record.config["loss"].get("_target_") not in BILINEAR:
        return None, None
    rate, simultaneous = float(config_value(record, "optimizer.lr")), bool(config_value(record, "train.simultaneous"))
    k, p = (float(record.config["loss"].get(name, 0)) for name in ("k", "p"))
    if not k:
        return growth_at_equilibrium(rate, 0, simultaneous=simultaneous), None
    if p < 2:
        return None, None
    growth = growth_at_equilibrium(rate, 2 * k if p == 2 else 0, simultaneous=simultaneous)
    return growth, radius_of_the_cycle(rate, k, p) if simultaneous and p > 2 else None


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
        expected_growth, cycle = theory(record)
        if cycle is not None:
            angles = [math.tau * i / 200 for i in range(201)]
            circle = [[cycle * wave(angle) for angle in angles] for wave in (math.cos, math.sin)]
            ax.plot(*circle, color="black", linewidth=1.2, linestyle="--", zorder=3)
        ax.set(title=label, xlabel="generator x", ylabel="critic y", aspect="equal", adjustable="datalim")
        first_radius, last_radius = (math.hypot(*points[index][1:]) for index in (0, -1))
        growth = (last_radius / first_radius) ** (1 / max(steps[-1] - steps[0], 1))
        last_turn = radius_of_last_turn(points, float(config_value(record, "optimizer.lr")))
        radii = [f"{radius:.4f}" for radius in (first_radius, last_radius, last_turn)]
        closed_forms = (
            "-" if expected_growth is None else f"{expected_growth:.6f}",
            "-" if cycle is None else f"{cycle:.4f}",
        )
        rows.append([label, *radii[:2], f"{growth:.6f}", closed_forms[0], radii[2], closed_forms[1]])
    header = [
        "game",
        "first radius",
        "last radius",
        "growth per step",
        "theory at (0, 0)",
        "last turn",
        "cycle, theory",
    ]
    notes = [
        "Radius: distance of (generator, critic) from the equilibrium (0, 0); last turn: mean over 2 pi / rate steps.",
        "Theory at (0, 0), for SGD and one critic update per step: sqrt(1 + rate^2) for simultaneous steps on x y, 1",
        "for alternating ones; less with a term of p = 2. A term of p > 2 has no curvature there: alternating steps",
        "come closer ever more slowly, and simultaneous ones end on a cycle (dashed).",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
