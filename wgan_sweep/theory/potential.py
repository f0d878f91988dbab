"""Whether critics compute a Wasserstein distance: each beside the Kantorovich potential (Stanczuk et al. 2021)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wgan_sweep.common import rng
from wgan_sweep.common.plots import draw_points, panels, to_png
from wgan_sweep.data import Points
from wgan_sweep.errors import InputError
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.networks import TrainedNetworks, load_networks, read_config
from wgan_sweep.runs.record import Record
from wgan_sweep.scoring.transport import potential_between
from wgan_sweep.theory.cells import cells_by_label, config_value, scored_runs, summary_without_runs

METRIC_TITLES = {
    "potential_correlation": "correlation with the potential",
    "potential_slope": "slope against the potential",
    "w1_ratio_normalised": "gap / (largest gradient x W1)",
    "ray_gradient_mean": "gradient norm on rays",
    "ray_slope_mean": "slope along rays",
}
LOG_RATIO = 20
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
PICTURED = 4
"""Number of critics whose level sets are drawn."""
PICTURED_POINTS = 300
"""Points of each kind in a picture of level sets."""
POTENTIAL_POINTS = 1000
"""Points of each kind whose potential is drawn."""


def summarise(records: Sequence[Record], runs: Path) -> SweepSummary:
    """Plot and tabulate how critics compare with the Kantorovich potential, and draw level sets in the plane.

    Args:
        records: Runs with ``scorer=exact`` and ``scorer.potential_samples``.
        runs: Folder of the runs.
    """
    compared = [record for record in scored_runs(records) if "potential_correlation" in record.scores]
    cells = cells_by_label(compared)
    if not cells:
        return summary_without_runs(records)
    pictured = _pictures(cells, runs)
    count = max(len(METRIC_TITLES), len(pictured))
    figure, axes = panels(2 if pictured else 1, count, side=3.4)
    for ax in axes:
        ax.set_axis_off()
    for ax, (metric, title) in zip(axes, METRIC_TITLES.items(), strict=False):
        ax.set_axis_on()
        for row, members in enumerate(cells.values()):
            values = [record.scores[metric] for record in members if metric in record.scores]
            ax.plot(values, [row] * len(values), "o", color="C0", alpha=0.7, markersize=5)
        ax.set_yticks(range(len(cells)), list(cells) if ax is axes[0] else [""] * len(cells))
        ax.invert_yaxis()
        ax.axvline(1, color="gray", linewidth=0.8, linestyle="--")
        ax.set(title=title)
        ax.grid(visible=True, linewidth=0.4)
        values = [record.scores[metric] for record in compared if metric in record.scores]
        if values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
            ax.set_xscale("log")
        else:
            ax.locator_params("x", nbins=5)
    for ax, (title, picture) in zip(axes[count:], pictured, strict=False):
        ax.imshow(picture)
        ax.set_title(title)

    header = [
        *("critic", "correlation", "slope", "gap / W1", "gap / (max gradient x W1)"),
        *("gradient on rays", "slope along rays", "W1", "freedom"),
    ]
    rows = []
    for label, members in cells.items():
        means = {name: _mean(members, name) for name in (*METRIC_TITLES, "w1_ratio", "potential_w1")}
        rows.append(
            [
                label,
                f"{means['potential_correlation']:.3f}",
                f"{means['potential_slope']:.3g}",
                f"{means['w1_ratio']:.3g}",
                f"{means['w1_ratio_normalised']:.3f}",
                *(
                    f"{_mean(members, f'{name}_mean'):.3g} ± {_mean(members, f'{name}_sd'):.2g}"
                    for name in ("ray_gradient", "ray_slope")
                ),
                f"{means['potential_w1']:.3f}",
                f"{_mean(members, 'potential_freedom'):.2g}",
            ]
        )
    notes = [
        "A critic that computes W1 has correlation, slope, both ratios and both numbers on rays equal to 1. Gap:",
        "E_real[T] - E_fake[T]. Rays: between the points that the optimal plan matches; mean ± sd over points.",
        "Freedom: how far the potential of the sample is from unique (0: unique). Means over seeds.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))


def _pictures(cells: Mapping[str, Sequence[Record]], runs: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return titled pictures of level sets: of the potential, and of critics; none for data other than the plane.

    They show the first run of each of the first cells whose networks can be loaded, and which share data and generator.
    """
    pictures: list[tuple[str, NDArray[np.uint8]]] = []
    shared: object = None
    for label, members in cells.items():
        record = members[0]
        setting = [config_value(record, key) for key in ("data", "model", "train.freeze_generator_at", "seed")]
        if (pictures and setting != shared) or len(pictures) > PICTURED:
            continue
        networks = _networks(RunDir(runs / record.run_id))
        if networks is None or not isinstance(networks.real, Points) or networks.real.shape != (2,):
            continue
        real = networks.real.draw(POTENTIAL_POINTS, rng.generator(0, "picture"))
        generated = networks.sampler.stream("picture")(POTENTIAL_POINTS)
        few = real[:PICTURED_POINTS], generated[:PICTURED_POINTS]
        if not pictures:
            shared = setting
            _, found = potential_between(real, generated)
            extended = partial(found.extended, real=real, generated=generated)
            pictures.append(("potential", draw_points(*few, extended)))
        pictures.append((label, draw_points(*few, networks.critic_outputs)))
    return pictures


def _networks(directory: RunDir) -> TrainedNetworks | None:
    """Return the networks of a run; None if it has no checkpoint any more, or needs code of the user's own."""
    try:
        return load_networks(directory, read_config(directory), torch.device("cpu"))
    except InputError:
        return None


def _mean(records: Sequence[Record], metric: str) -> float:
    """Return the mean of a metric over the runs that have it."""
    values = [record.scores[metric] for record in records if metric in record.scores]
    return sum(values) / len(values) if values else float("nan")
