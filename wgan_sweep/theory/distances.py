"""JS saturates, W1 follows the distance; and what trained critics say of either (Arjovsky et al. 2017, example 1)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import Record
from wgan_sweep.theory.cells import done, grouped, loss, nothing_done, setting, spread
from wgan_sweep.theory.closed_forms import w1_of_a_shift


def js_estimate(record: Record) -> float:
    """Return ln 2 - loss/2, the critic's lower bound of JS when it minimises cross entropy (Goodfellow et al. 2014)."""
    return math.log(2) - record.scores["critic_loss"] / 2


def w1_estimate(record: Record) -> float:
    """Return (E_real[T] - E_fake[T]) / max of the gradient's norm.

    By Kantorovich and Rubinstein a lower bound of W1, up to sampling, for any critic whose Lipschitz constant is that
    maximum over r(x).
    """
    return record.scores["critic_gap"] / record.scores["critic_gradient_max"]


def conclude(
    records: Sequence[Record],
    runs: Path,  # noqa: ARG001
    js: Callable[[float], float],
    by_cross_entropy: list[str],
) -> SweepSummary:
    """Draw JS and W1 against theta (``data.theta``), exactly and as critics estimate them.

    Args:
        records: Runs with ``scorer=exact``, their generator at theta = 0.
        runs: Their folder.
        js: The closed form of JS.
        by_cross_entropy: Losses whose critic estimates JS; those of the others estimate W1.
    """
    cells = grouped(done(records), lambda record: (loss(record), float(setting(record, "data.theta"))))
    if not cells:
        return nothing_done(records)
    losses = list(dict.fromkeys(name for name, _ in cells))
    thetas = sorted({theta for _, theta in cells})
    estimates = {
        (name, theta): [(js_estimate if name in by_cross_entropy else w1_estimate)(record) for record in members]
        for (name, theta), members in cells.items()
    }
    of_js = [name for name in losses if name in by_cross_entropy]
    of_w1 = [name for name in losses if name not in by_cross_entropy]
    exact = {"JS": js, "W1": w1_of_a_shift}

    figure, axes = panels(1, 2)
    low, high = thetas[0], thetas[-1]
    fine = [low + (high - low) * i / 400 for i in range(401)]
    for ax, (name, curve), found in zip(axes, exact.items(), (of_js, of_w1), strict=True):
        ax.plot(fine, [curve(theta) for theta in fine], color="black", linewidth=1, label=f"exact {name}")
        for marker, system in zip("osv^D", found, strict=False):
            dots = [(theta, value) for theta in thetas for value in estimates.get((system, theta), [])]
            ax.plot(*zip(*dots, strict=True), marker, markersize=5, alpha=0.7, label=system)
        ax.set(xlabel=r"$\theta$", title=f"{name}: exact, and by the critic")
        ax.legend()
    axes[0].axhline(math.log(2), color="gray", linewidth=0.8, linestyle="--")
    axes[0].annotate(
        "ln 2", (high, math.log(2)), (0, -4), textcoords="offset points", color="gray", ha="right", va="top"
    )

    header = ["theta", "JS", *(f"JS by {name}" for name in of_js), "W1", *(f"W1 by {name}" for name in of_w1)]
    rows = []
    for theta in thetas:
        by = {name: spread(estimates.get((name, theta), []), 3) for name in losses}
        js_part = [f"{js(theta):.3f}", *(by[name] for name in of_js)]
        rows.append([f"{theta:g}", *js_part, f"{w1_of_a_shift(theta):.3f}", *(by[name] for name in of_w1)])
    notes = [
        "JS (nats) and W1 of the distribution at theta against that at 0, in closed form, and as critics see them:",
        "JS by ln 2 - loss/2, W1 by (E_real[T] - E_fake[T]) / max ||grad T||, both from below; mean ± sd over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
