"""Whether a critic's objective is a divergence: zero for equal distributions only, and symmetric (Wu et al. 2018)."""

from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, group_by, metric_value, scored_runs, summary_without_runs
from wgan_sweep.theory.closed_forms import clipped_objective_of_points


def _setting(record: Record) -> tuple[float, float, float, float, float]:
    """Return weight, exponent and centre of the penalty, the bound of the slopes, and the signed distance."""
    keys = ("penalty.weight", "penalty.exponent", "penalty.centre", "clip.c")
    weight, exponent, centre, clip = (float(config_value(record, f"constraint.{key}")) for key in keys)
    (real,), (generated,) = config_value(record, "data.at"), config_value(record, "model.place")
    return weight, exponent, centre, clip, float(real) - float(generated)


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:  # noqa: ARG001
    """Plot and tabulate the largest value of the critic's objective against the signed distance of two points.

    The sign of the distance says which of the two points is real: -d has the distributions of d, exchanged.

    Args:
        records: Runs on the line with ``scorer=exact``, a linear critic, two points, ``data.at`` and ``model.place``,
            and a gradient penalty (``constraint.penalty``) together with clipping (``constraint.clip``).
        runs: Folder of the runs.
    """
    # A critic whose slope starts with the wrong sign may stay there, so the supremum is the best of the seeds.
    trained = {
        setting: max(-metric_value(record, "eval_critic_loss") for record in seeds)
        for setting, seeds in sorted(group_by(scored_runs(records), _setting).items())
    }
    if not trained:
        return summary_without_runs(records)
    exact = {
        (k, p, centre, clip, d): clipped_objective_of_points(d, k, p, centre, clip)[1]
        for k, p, centre, clip, d in trained
    }
    bounds = sorted({clip for *_, clip, _ in trained})
    forms = sorted({setting[:3] for setting in trained})
    reach = max(abs(d) for *_, d in trained) or 1.0
    grid = [reach * (i / 100 - 1) for i in range(201)]
    figure, axes = panels(1, len(bounds))
    for ax, clip in zip(axes, bounds, strict=True):
        for colour, (k, p, centre) in enumerate(forms):
            curve = [clipped_objective_of_points(d, k, p, centre, clip)[1] for d in grid]
            ax.plot(grid, curve, color=f"C{colour}", linewidth=1, label=f"penalty {_form(k, p, centre)}")
            dots = [(setting[4], value) for setting, value in trained.items() if setting[:4] == (k, p, centre, clip)]
            ax.plot([d for d, _ in dots], [value for _, value in dots], "o", color=f"C{colour}", markersize=5)
        ax.axhline(0, color="gray", linewidth=0.8, linestyle="--")
        ax.axvline(0, color="gray", linewidth=0.8, linestyle="--")
        ax.set(xlabel="real - generated", title=f"critics with slopes up to {clip:g}")
        ax.locator_params("x", nbins=5)
        ax.legend()
    axes[0].set_ylabel("supremum: closed form, and trained (dots)")
    header = ["penalty", "slopes up to", "real - generated", "closed form", "trained", "trained, exchanged"]
    rows = []
    for setting, value in trained.items():
        *form, clip, d = setting
        exchanged = trained.get((*setting[:4], -d))
        rows.append(
            [
                _form(*form),
                f"{clip:g}",
                f"{d:g}",
                _number(exact[setting]),
                _number(value),
                "-" if exchanged is None else _number(exchanged),
            ]
        )
    notes = [
        "Supremum of E_real[T] - E_fake[T] - penalty over linear critics T with bounded slopes n, for two points. A",
        "divergence is 0 for equal points only, positive otherwise, and unchanged if the points are exchanged.",
        "Trained: the best of all seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))


def _form(k: float, p: float, centre: float) -> str:
    """Return a penalty as a formula in the norm n of the gradient."""
    power = f"abs(n - {centre:g})^{p:g}" if centre else f"n^{p:g}"
    return power if k == 1 else f"{k:g} {power}"


def _number(value: float) -> str:
    return f"{round(value, 4) + 0:.4f}"  # without the sign of -0
