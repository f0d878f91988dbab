"""KL, JS, total variation and entropy of two normal distributions: exact, and as estimated from samples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.common.ranges import LARGEST_INT, Range
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.scoring import divergences
from wgan_sweep.theory.cells import mean_and_sd, summary_without_runs
from wgan_sweep.theory.gaussians import GaussianPair, Values, entropy
from wgan_sweep.theory.networks import TrainedRun, trained_runs
from wgan_sweep.theory.optimal_discriminator import gaussian_pair


class Quantity(NamedTuple):
    """A quantity of two distributions, with its exact value and its estimate from samples of both."""

    exact: Callable[[GaussianPair], float]
    estimate: Callable[[Values, Values], float]


QUANTITIES = {
    "KL": Quantity(GaussianPair.kullback_leibler, divergences.kullback_leibler),
    "JS": Quantity(GaussianPair.jensen_shannon, divergences.jensen_shannon),
    "total variation": Quantity(GaussianPair.total_variation, divergences.total_variation),
    "entropy": Quantity(lambda pair: entropy(pair.std, pair.dim), lambda p, _: divergences.entropy(p)),
}


def estimates(run: TrainedRun, counts: Sequence[int]) -> dict[tuple[str, int], float]:
    """Return the estimate of each quantity from each number of samples of a run's two distributions.

    The samples of smaller counts are the first ones of larger counts. They depend on the run's seed.
    """
    p, q = (points.double().numpy() for points in run.draw(max(counts), "divergences"))
    return {
        (name, count): quantity.estimate(p[:count], q[:count])
        for name, quantity in QUANTITIES.items()
        for count in counts
    }


def summarise(records: Sequence[Record], runs: Path, samples: Annotated[int, Range(300, LARGEST_INT)]) -> SweepSummary:
    """Plot the exact values with estimates from samples, and tabulate the estimates' errors.

    Args:
        records: Runs with ``data=gaussian`` and ``model=gaussian`` of one standard deviation, whose generator is at its
            initial weights. Further runs with the same distributions and seed count once.
        runs: Folder of the runs.
        samples: Largest number of samples of each distribution; the others are a third, a tenth and a thirtieth of it.
    """
    counts = [samples // 30, samples // 10, samples // 3, samples]
    trained, notes = trained_runs(records, runs)
    distinct = {(gaussian_pair(run.record), run.seed): run for run in trained}
    values = {key: estimates(run, counts) for key, run in distinct.items()}
    if not values:
        return summary_without_runs(records, notes)
    pairs: dict[int, list[GaussianPair]] = {}
    for pair in sorted({pair for pair, _ in values}, key=lambda pair: (pair.dim, pair.shift)):
        pairs.setdefault(pair.dim, []).append(pair)

    def of(pair: GaussianPair, name: str, count: int) -> list[float]:
        return [found[name, count] for (other, _), found in values.items() if other == pair]

    figure, axes = panels(2, len(QUANTITIES), side=3.2)
    rows = []
    for column, (name, quantity) in enumerate(QUANTITIES.items()):
        above, below = axes[column], axes[column + len(QUANTITIES)]
        for colour, (dim, of_dim) in enumerate(pairs.items()):
            shifts = np.linspace(of_dim[0].shift, of_dim[-1].shift, 61)
            line = [(shift, quantity.exact(replace(of_dim[0], shift=shift))) for shift in shifts]
            above.plot(*zip(*line, strict=True), color=f"C{colour}", linewidth=1)
            dots = [(pair.shift, value) for pair in of_dim for value in of(pair, name, samples)]
            above.plot(*zip(*dots, strict=True), "o", color=f"C{colour}", alpha=0.6, markersize=5, label=f"D = {dim}")
            errors = {
                count: [value - quantity.exact(pair) for pair in of_dim for value in of(pair, name, count)]
                for count in counts
            }
            below.loglog(
                counts,
                [np.abs(errors[count]).mean() for count in counts],
                "o-",
                color=f"C{colour}",
                markersize=4,
                linewidth=1,
            )
            rows.append([name, str(dim), *(mean_and_sd(errors[count], 3) for count in counts)])
        above.set(title=f"{name}, by {samples:,} samples", xlabel="shift")
        label = r"$1/\sqrt{N}$"
        below.loglog(counts, [count**-0.5 for count in counts], color="gray", linestyle=":", label=label)
        below.set(title="mean absolute error", xlabel="N, samples of each kind")
    axes[0].legend()
    axes[len(QUANTITIES)].legend()
    header = ["estimate of", "D", *(f"error, N = {count:,}" for count in counts)]
    notes += [
        "Estimate minus exact value, in nats (total variation: 0 to 1): mean ± sd over shifts and seeds.",
        "By nearest neighbours. KL, JS and total variation do not depend on the dimension here.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
