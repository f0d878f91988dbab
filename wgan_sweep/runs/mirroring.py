"""How a run's directory is mirrored by a tracker: under which names it is filed, and what is replayed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from wgan_sweep.common.pictures import open_picture
from wgan_sweep.config import objects
from wgan_sweep.config.keys import overridden_key
from wgan_sweep.config.schema import Config
from wgan_sweep.runs.coordinates import GROUPS, coordinates
from wgan_sweep.runs.directory import FINAL, RunDir
from wgan_sweep.runs.hashing import cell_id
from wgan_sweep.runs.record import HIGHER_IS_BETTER, LOWER_IS_BETTER, Record
from wgan_sweep.tracking.tracker import TrackedRun, Tracker

CELL_ID_DIGITS = 6
"""Digits of the hash that distinguishes cells whose names are equal."""
NAMED_GROUPS = ("loss", "constraint", "sampling", "model", "data")
"""The groups whose options make up a cell's name."""
NAMED_EXPONENTS = ("div.k", "div.p")


def _as_number(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and math.isfinite(value) else text


def axes(record: Record) -> dict[str, Any]:
    """Return a run's value on each group, on k and p, and on every key that the user set; numbers as numbers.

    Keys contain no dots, which W&B reads as levels: ``k`` for ``div.k``, ``optimizer_lr`` for ``optimizer.lr``.
    """
    shown = {*GROUPS, *NAMED_EXPONENTS, "data.content", *(overridden_key(override) for override in record.overrides)}
    values = {
        key.removeprefix("div.").replace(".", "_"): _as_number(text)
        for key, text in coordinates(record).items()
        if key in shown
    }
    return {**values, "seed": record.config.get("seed")}


def cell_name(record: Record) -> str:
    """Return a name that all seeds of a configuration share, and no other run has."""
    values = coordinates(record)
    words = [values[group] for group in NAMED_GROUPS if group in values]
    words += [f"{key[-1]}={values[key]}" for key in NAMED_EXPONENTS if key in values]
    return f"{' '.join(words)} #{cell_id(record.science)[:CELL_ID_DIGITS]}"


def tracked_run(record: Record, directory: RunDir) -> TrackedRun:
    """Return how a run is filed."""
    values, cell = axes(record), cell_name(record)
    return TrackedRun(
        record.run_id,
        directory.path.absolute(),
        record.sweep,
        record.config,
        axes=values,
        cell=cell,
        name=f"{cell.split(' #')[0]} seed={values['seed']} {record.run_id}",
        best=_best_values(),
    )


def _best_values() -> dict[str, Literal["min", "max"]]:
    """Return which value of each metric is the best, under the tracker's names."""
    best: dict[str, Literal["min", "max"]] = dict.fromkeys(LOWER_IS_BETTER, "min")
    best |= dict.fromkeys(HIGHER_IS_BETTER, "max")
    return {prefix + name: value for prefix in ("", f"{FINAL}_") for name, value in best.items()}


def tracked_sweep(folder: Path, config: Mapping[str, Any]) -> TrackedRun:
    """Return how a sweep itself is filed."""
    name = f"sweep-{folder.name}"
    return TrackedRun(name, folder.absolute(), folder.name, dict(config), name=name, job="sweep")


def tracked_values(line: Mapping[str, float]) -> dict[str, float]:
    """Return the values of a line of measurements under the tracker's names.

    The values of the final scorer get the prefix ``final_``: they are not points of the training curve.
    """
    prefix = f"{FINAL}_" if FINAL in line else ""
    return {
        name if name == "images_seen" else prefix + name: value
        for name, value in line.items()
        if name not in ("step", FINAL)
    }


def make_tracker(config: Config, run: TrackedRun) -> Tracker:
    """Start the tracker that a config names, for a run."""
    return cast("Tracker", objects.make(config.tracker, "tracker")(run=run))


def replay(directory: RunDir, tracker: Tracker) -> None:
    """Log all measurements of a run so far, line by line, with the samples of each step at its last line."""
    lines = list(directory.read_metrics())
    last_of_step = {int(line["step"]): index for index, line in enumerate(lines)}
    for index, line in enumerate(lines):
        step = int(line["step"])
        picture = directory.samples(step)
        image = open_picture(picture) if last_of_step[step] == index and picture.exists() else None
        if image is not None:
            tracker.images(step, np.asarray(image))
        tracker.log(step, tracked_values(line))


def close(record: Record, directory: RunDir, tracker: Tracker) -> None:
    """Log a run's files, and end the mirror with its status and best scores."""
    paths = [directory.record, directory.config, *sorted(directory.path.glob("samples/*.png"))]
    tracker.files(
        "run", [str(path.relative_to(directory.path)) for path in paths if path.is_file() and not path.is_symlink()]
    )
    summary = {f"best_{name}": value for name, value in record.best.items()}
    tracker.close(record.status.value, {**summary, "seconds": record.seconds})
