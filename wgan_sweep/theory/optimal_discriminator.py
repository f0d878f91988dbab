"""The optimal discriminator p_r / (p_r + p_g) and its values, against trained critics (Goodfellow et al. 2014)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, loss_name, mean_and_sd, summary_without_runs
from wgan_sweep.theory.gaussians import GaussianPair, Values
from wgan_sweep.theory.networks import TrainedRun, trained_runs

if TYPE_CHECKING:
    from wgan_sweep.common.plots import Axes

SHOWN_PAIRS = 3
"""Number of pairs whose discriminators are drawn."""


class Fit(NamedTuple):
    """A trained critic beside the optimal one."""

    curve: Values
    """Its discriminator at the points of the pair's grid."""
    value: float
    """The value that it reaches."""
    error: float
    """Root mean square distance to the optimal discriminator, over the equal mixture of both distributions."""


class Kind(NamedTuple):
    """What the critic's output T is turned into, and the value that a critic maximises."""

    name: str
    """The symbol of the discriminator."""
    shift: float
    """What is added to the discriminator for values from 0 to 1."""
    bound: Callable[[Values], Values]
    """From T to the discriminator."""
    optimal: Callable[[GaussianPair, Values], Values]
    """The optimal discriminator at points ``[N]``."""
    value: Callable[[GaussianPair, Values, Values], float]
    """The value of T, given at the points of the pair's grid."""
    optimum: Callable[[GaussianPair], float]
    """The largest value."""
    title: str
    """Names the value and its optimum."""

    def fit(self, run: TrainedRun, pair: GaussianPair) -> Fit:
        """Compare a trained critic with the optimal discriminator of two distributions."""
        x = pair.grid()
        with torch.no_grad():
            outputs = run.networks.critic_outputs(torch.tensor(x, dtype=torch.float32)[:, None]).double().numpy()
        curve = self.bound(outputs)
        squares = (curve - self.optimal(pair, x)) ** 2
        return Fit(curve, self.value(pair, x, outputs), math.sqrt(pair.integral(x, squares, squares) / 2))


def optimal_value(pair: GaussianPair) -> float:
    """Return L(G, D*) = 2 JS - 2 ln 2, in nats (Goodfellow et al. 2014, theorem 1)."""
    return 2 * pair.jensen_shannon() - 2 * math.log(2)


CROSS_ENTROPY = Kind(
    "D",
    0.0,
    lambda outputs: np.exp(-np.logaddexp(0, -outputs)),
    GaussianPair.optimal_discriminator,
    # E_P[log D] + E_Q[log(1 - D)]
    lambda pair, x, outputs: -pair.integral(x, np.logaddexp(0, -outputs), np.logaddexp(0, outputs)),
    optimal_value,
    r"$L(G, D)$ and $2\,JS - 2\ln 2$",
)
TOTAL_VARIATION = Kind(
    "t",
    0.5,
    lambda outputs: np.tanh(outputs) / 2,
    lambda pair, x: np.sign(pair.log_ratio(x)) / 2,
    lambda pair, x, outputs: pair.integral(x, np.tanh(outputs) / 2, -np.tanh(outputs) / 2),
    GaussianPair.total_variation,
    r"$E_P[t] - E_Q[t]$ and total variation",
)
KINDS = {CROSS_ENTROPY: "C2", TOTAL_VARIATION: "C3"}
"""Every kind, and its colour."""
Fits = dict[tuple[GaussianPair, Kind], list[Fit]]


def gaussian_pair(record: Record) -> GaussianPair:
    """Return the distributions of a run of ``data=gaussian`` and of ``model=gaussian`` at its initial weights."""
    shift, std, other_shift, other_std = (
        float(config_value(record, name)) for name in ("data.shift", "data.std", "model.shift", "model.std")
    )
    return GaussianPair(shift, std, other_shift, other_std, int(config_value(record, "data.dim")))


def _draw_discriminators(ax: "Axes", pair: GaussianPair, fits: Fits) -> None:
    """Draw both densities, and the optimal and trained discriminators where the densities are not negligible."""
    x = pair.grid()
    p, q = pair.densities(x)
    peak = max(p.max(), q.max())
    shown = np.maximum(p, q) > peak / 1000
    for density, colour, name in ((p, "C0", "p_r"), (q, "C1", "p_g")):
        label = f"${name}$ (scaled)"
        ax.fill_between(x[shown], density[shown] / peak, color=colour, alpha=0.15, linewidth=0, label=label)
    for kind, style in ((CROSS_ENTROPY, "black"), (TOTAL_VARIATION, "gray")):
        name = f"{kind.shift:g} + {kind.name}" if kind.shift else kind.name
        line = "--" if kind.shift else "-"
        optimal = kind.shift + kind.optimal(pair, x)
        ax.plot(x[shown], optimal[shown], color=style, linewidth=2, linestyle=line, label=f"${name}^*$")
        for index, fit in enumerate(fits.get((pair, kind), [])):
            label = f"${name}$, trained" if index == 0 else ""
            ax.plot(x[shown], kind.shift + fit.curve[shown], color=KINDS[kind], linewidth=0.9, label=label)
    ax.set(title=f"discriminators, shift {pair.shift:g}", xlabel="x", ylim=(-0.03, 1.03))


def _draw_values(ax: "Axes", pairs: Sequence[GaussianPair], kind: Kind, fits: Fits) -> None:
    """Draw the largest value against the shift, and the values of trained critics."""
    shifts = np.linspace(pairs[0].shift, pairs[-1].shift, 101)
    ax.plot(shifts, [kind.optimum(replace(pairs[0], shift=shift)) for shift in shifts], color="black", label="exact")
    dots = [(pair.shift, fit.value) for pair in pairs for fit in fits.get((pair, kind), [])]
    if dots:
        ax.plot(*zip(*dots, strict=True), "o", color=KINDS[kind], alpha=0.6, markersize=5, label="trained")
    ax.set(title=kind.title, xlabel="shift")
    ax.legend()


def _draw_errors(ax: "Axes", pairs: Sequence[GaussianPair], fits: Fits) -> None:
    for kind, colour in KINDS.items():
        dots = [(pair.shift, fit.error) for pair in pairs for fit in fits.get((pair, kind), [])]
        if dots:
            ax.semilogy(*zip(*dots, strict=True), "o", color=colour, alpha=0.6, markersize=5, label=f"${kind.name}$")
    ax.set(title="RMS distance to the optimal one", xlabel="shift")
    ax.legend()


def summarise(
    records: Sequence[Record], runs: Path, by_cross_entropy: list[str], by_total_variation: list[str]
) -> SweepSummary:
    """Plot trained discriminators over the optimal ones, and tabulate the values that they reach.

    Expectations are integrals over the known densities, so they have no sampling error.

    Args:
        records: Runs on the line with ``data=gaussian``, ``model=gaussian`` and ``train.freeze_generator_at=0``, which
            differ in ``data.shift`` alone.
        runs: Folder of the runs.
        by_cross_entropy: Names of the losses whose critic output is a logit.
        by_total_variation: Names of the losses whose critic output is bounded by tanh(T) / 2.
    """
    trained, notes = trained_runs(records, runs)
    kinds = dict.fromkeys(by_cross_entropy, CROSS_ENTROPY) | dict.fromkeys(by_total_variation, TOTAL_VARIATION)
    fits: Fits = {}
    for run in trained:
        kind = kinds.get(loss_name(run.record))
        if kind is not None:
            pair = gaussian_pair(run.record)
            fits.setdefault((pair, kind), []).append(kind.fit(run, pair))
    if not fits:
        return summary_without_runs(records, notes)
    pairs = sorted({pair for pair, _ in fits}, key=lambda pair: (pair.shift, pair.std, pair.other_std))

    figure, axes = panels(2, SHOWN_PAIRS)
    shown = sorted({round(index * (len(pairs) - 1) / (SHOWN_PAIRS - 1)) for index in range(SHOWN_PAIRS)})
    for ax in axes[len(shown) : SHOWN_PAIRS]:
        ax.set_axis_off()
    for ax, index in zip(axes, shown, strict=False):
        _draw_discriminators(ax, pairs[index], fits)
    axes[0].legend(fontsize=7)
    *values_axes, errors_axes = axes[SHOWN_PAIRS:]
    for ax, kind in zip(values_axes, KINDS, strict=True):
        _draw_values(ax, pairs, kind, fits)
    _draw_errors(errors_axes, pairs, fits)

    header = ["shift", "2 JS - 2 ln 2", "L(G, D)", "RMS of D - D*"]
    header += ["total variation", "E_P[t] - E_Q[t]", "RMS of t - t*"]
    rows = []
    for pair in pairs:
        cells = [f"{pair.shift:g}"]
        for kind in KINDS:
            members = fits.get((pair, kind), [])
            values, errors = ([fit.value for fit in members], [fit.error for fit in members])
            cells += [f"{kind.optimum(pair):.4f}", mean_and_sd(values, 4), mean_and_sd(errors, 3)]
        rows.append(cells)
    notes += [
        "L(G, D) = E_P[log D] + E_Q[log(1 - D)] of trained D, by quadrature: its maximum over D is 2 JS - 2 ln 2.",
        "t = tanh(T) / 2. RMS: over the equal mixture of P and Q. Mean ± sd over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
