"""What a dashboard is told of a run, from its directory: under what it is filed, and all that was measured."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wgan_sweep import runs
from wgan_sweep.config import science
from wgan_sweep.report.cells import GROUPS, coordinates
from wgan_sweep.runs import Record, RunDir, overridden_key
from wgan_sweep.tracking import RunIdentity, Tracker

LETTERS_OF_A_CELL = 6
"""Of the hash that tells apart cells which look alike."""


def _number(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and math.isfinite(value) else text


def axes(record: Record) -> dict[str, Any]:
    """Return a run's place on the groups, on k and p, and on all that the user set; numbers as numbers."""
    typed = {overridden_key(override) for override in record.overrides}
    place = coordinates(record)
    found = {key: _number(value) for key, value in place.items() if key in (*GROUPS, "div.k", "div.p") or key in typed}
    return {**found, "seed": record.config.get("seed")}


def cell(record: Record) -> str:
    """Return the same name for all seeds of a configuration, and for nothing else."""
    place = coordinates(record)
    words = [place[group] for group in ("loss", "constraint", "sampling", "model", "data") if group in place]
    words += [f"{key[-1]}={place[key]}" for key in ("div.k", "div.p") if key in place]
    without_seed = {key: value for key, value in science(record.config).items() if key != "seed"}
    return f"{' '.join(words)} #{runs.run_id(without_seed)[:LETTERS_OF_A_CELL]}"


def identity(record: Record, directory: RunDir, group: str | None) -> RunIdentity:
    """Return what a run is filed under."""
    place, name = axes(record), cell(record)
    return RunIdentity(
        record.run_id,
        directory.path.absolute(),
        group,
        record.config,
        axes=place,
        cell=name,
        name=f"{name.split(' #')[0]} seed={place['seed']} {record.run_id}",
    )


def of_sweep(folder: Path, config: Mapping[str, Any]) -> RunIdentity:
    """Return what a sweep itself is filed under."""
    name = f"sweep-{folder.name}"
    return RunIdentity(name, folder.absolute(), folder.name, dict(config), name=name, job="sweep")


def replay(directory: RunDir, tracker: Tracker) -> None:
    """Tell a tracker all that was measured of a run so far; what it knows it passes over."""
    pictured: set[int] = set()
    for line in directory.read_metrics():
        step = int(line["step"])
        tracker.log(step, {name: value for name, value in line.items() if name != "step"})
        picture = directory.samples(step)
        if "critic_loss" not in line and step not in pictured and picture.exists():
            pictured.add(step)
            with Image.open(picture) as opened:
                tracker.images(step, np.asarray(opened))


def conclude(record: Record, directory: RunDir, tracker: Tracker) -> None:
    """Tell a tracker how a run has ended, with its files."""
    kept = [directory.record, directory.config, *sorted(directory.path.glob("samples/*.png"))]
    tracker.files("run", [path for path in kept if path.exists()])
    summary = {f"best_{name}": value for name, value in record.best.items()}
    tracker.close(record.status.value, {**summary, "seconds": record.seconds})
