"""The optimal discriminator p_r / (p_r + p_g) and its values, against trained critics (Goodfellow et al. 2014)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, loss_name, mean_and_sd, summary_without_runs
from wgan_sweep.theory.gaussians import GaussianPair, Values
from wgan_sweep.theory.networks import TrainedRun, trained_runs

SHOWN_PAIRS = 3
"""Number of pairs whose discriminators are drawn."""


class Fit(NamedTuple):
    """A trained critic beside the optimal one."""

    curve: Values
    """Its discriminator at the points of the pair's grid: D in (0, 1), or t in (-1/2, 1/2)."""
    value: float
    """The value that it reaches: L(G, D), or E_P[t] - E_Q[t]."""
    error: float
    """Root mean square distance to the optimal discriminator, over the equal mixture of both distributions."""


def gaussian_pair(record: Record) -> GaussianPair:
    """Return the distributions of a run of ``data=gaussian`` and of ``model=gaussian`` at its initial weights."""
    shift, std, other_shift, other_std = (
        float(config_value(record, name)) for name in ("data.shift", "data.std", "model.shift", "model.std")
    )
    return GaussianPair(shift, std, other_shift, other_std, int(config_value(record, "data.dim")))


def _outputs(run: TrainedRun, x: Values) -> Values:
    with torch.no_grad():
        outputs = run.networks.critic_outputs(torch.tensor(x, dtype=torch.float32)[:, None])
    return outputs.double().numpy()


def _rms(pair: GaussianPair, x: Values, difference: Values) -> float:
    return math.sqrt(pair.integral(x, difference**2, difference**2) / 2)


def fit_cross_entropy(run: TrainedRun, pair: GaussianPair) -> Fit:
    """Compare D = sigmoid(T) with p / (p + q); the value is L(G, D) = E_P[log D] + E_Q[log(1 - D)]."""
    x = pair.grid()
    outputs = _outputs(run, x)
    curve = np.exp(-np.logaddexp(0, -outputs))
    value = -pair.integral(x, np.logaddexp(0, -outputs), np.logaddexp(0, outputs))
    return Fit(curve, value, _rms(pair, x, curve - pair.optimal_discriminator(x)))


def fit_total_variation(run: TrainedRun, pair: GaussianPair) -> Fit:
    """Compare t = tanh(T) / 2 with sign(p - q) / 2; the value is E_P[t] - E_Q[t]."""
    x = pair.grid()
    curve = np.tanh(_outputs(run, x)) / 2
    return Fit(curve, pair.integral(x, curve, -curve), _rms(pair, x, curve - np.sign(pair.log_ratio(x)) / 2))


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
    fitters = dict.fromkeys(by_cross_entropy, fit_cross_entropy) | dict.fromkeys(
        by_total_variation, fit_total_variation
    )
    fits: dict[tuple[GaussianPair, bool], list[Fit]] = {}
    for run in trained:
        loss = loss_name(run.record)
        if loss in fitters:
            pair = gaussian_pair(run.record)
            fits.setdefault((pair, loss in by_cross_entropy), []).append(fitters[loss](run, pair))
    if not fits:
        return summary_without_runs(records, notes)
    pairs = sorted({pair for pair, _ in fits}, key=lambda pair: (pair.shift, pair.std, pair.other_std))
    shifts = [pair.shift for pair in pairs]

    figure, axes = panels(2, SHOWN_PAIRS)
    shown = sorted({round(index * (len(pairs) - 1) / (SHOWN_PAIRS - 1)) for index in range(SHOWN_PAIRS)})
    for ax in axes[len(shown) : SHOWN_PAIRS]:
        ax.set_axis_off()
    for ax, pair in zip(axes, (pairs[index] for index in shown), strict=False):
        x = pair.grid()
        p, q = pair.densities(x)
        peak = max(p.max(), q.max())
        is_shown = np.maximum(p, q) > peak / 1000
        ax.fill_between(x[is_shown], p[is_shown] / peak, color="C0", alpha=0.15, linewidth=0, label=r"$p_r$ (scaled)")
        ax.fill_between(x[is_shown], q[is_shown] / peak, color="C1", alpha=0.15, linewidth=0, label=r"$p_g$ (scaled)")
        step = (1 + np.sign(pair.log_ratio(x))) / 2
        ax.plot(x[is_shown], pair.optimal_discriminator(x)[is_shown], color="black", linewidth=2, label="$D^*$")
        ax.plot(x[is_shown], step[is_shown], color="gray", linewidth=2, linestyle="--", label="$1/2 + t^*$")
        for is_logit, colour, name in ((True, "C2", "D"), (False, "C3", "1/2 + t")):
            for index, fit in enumerate(fits.get((pair, is_logit), [])):
                curve = fit.curve if is_logit else 0.5 + fit.curve
                label = f"${name}$, trained" if index == 0 else None
                ax.plot(x[is_shown], curve[is_shown], color=colour, linewidth=0.9, label=label)
        ax.set(title=f"discriminators, shift {pair.shift:g}", xlabel="x", ylim=(-0.03, 1.03))
    axes[0].legend(fontsize=7)

    value_axes, tv_axes, error_axes = axes[SHOWN_PAIRS:]
    for ax, is_logit, colour, title, exact in (
        (value_axes, True, "C2", r"$L(G, D)$ and $2\,JS - 2\ln 2$", optimal_value),
        (tv_axes, False, "C3", r"$E_P[t] - E_Q[t]$ and total variation", GaussianPair.total_variation),
    ):
        line = [(shift, exact(replace(pairs[0], shift=shift))) for shift in np.linspace(shifts[0], shifts[-1], 101)]
        ax.plot(*zip(*line, strict=True), color="black", linewidth=1, label="exact")
        dots = [(pair.shift, fit.value) for pair in pairs for fit in fits.get((pair, is_logit), [])]
        if dots:
            ax.plot(*zip(*dots, strict=True), "o", color=colour, alpha=0.6, markersize=5, label="trained")
        ax.set(title=title, xlabel="shift")
        ax.legend()
    for is_logit, colour, name in ((True, "C2", "$D$"), (False, "C3", "$t$")):
        dots = [(pair.shift, fit.error) for pair in pairs for fit in fits.get((pair, is_logit), [])]
        if dots:
            error_axes.semilogy(*zip(*dots, strict=True), "o", color=colour, alpha=0.6, markersize=5, label=name)
    error_axes.set(title="RMS distance to the optimal one", xlabel="shift")
    error_axes.legend()

    header = ["shift", "2 JS - 2 ln 2", "L(G, D)", "RMS of D - D*", "total variation", "E_P[t] - E_Q[t]"]
    rows = []
    for pair in pairs:
        logit, bounded = fits.get((pair, True), []), fits.get((pair, False), [])
        rows.append(
            [
                f"{pair.shift:g}",
                f"{optimal_value(pair):.4f}",
                mean_and_sd([fit.value for fit in logit], 4),
                mean_and_sd([fit.error for fit in logit], 3),
                f"{pair.total_variation():.4f}",
                mean_and_sd([fit.value for fit in bounded], 4),
            ]
        )
    notes += [
        "L(G, D) = E_P[log D] + E_Q[log(1 - D)] of trained D, by quadrature: its maximum over D is 2 JS - 2 ln 2.",
        "t = tanh(T) / 2. RMS: over the equal mixture of P and Q. Mean ± sd over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))


def optimal_value(pair: GaussianPair) -> float:
    """Return L(G, D*) = 2 JS - 2 ln 2, in nats (Goodfellow et al. 2014, theorem 1)."""
    return 2 * pair.jensen_shannon() - 2 * math.log(2)
