"""What a dashboard is told of a run, from its directory: under what it is filed, and all that was measured."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wgan_sweep.runs import directory as runs
from wgan_sweep.config.schema import science
from wgan_sweep.report.cells import GROUPS, coordinates
from wgan_sweep.runs.directory import Record, RunDir, Status, overridden_key
from wgan_sweep.tracking.wandb import RunIdentity, Tracker, WandbTracker, mirrored, mode, where

PROJECT = "wgan-sweep"
LETTERS_OF_A_CELL = 6
"""Of the hash that tells apart cells which look alike."""


def _number(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and math.isfinite(value) else text


def axes(record: Record) -> dict[str, Any]:
    """Return a run's place on the groups, on k and p, and on all that the user set; numbers as numbers.

    Keys have no dots, which W&B takes for levels: ``k`` for ``div.k``, ``optimizer_lr`` for ``optimizer.lr``.
    """
    typed = {overridden_key(override) for override in record.overrides}
    place = coordinates(record)
    wanted = {*GROUPS, "div.k", "div.p", *typed}
    found = {
        key.removeprefix("div.").replace(".", "_"): _number(value) for key, value in place.items() if key in wanted
    }
    return {**found, "seed": record.config.get("seed")}


def cell(record: Record) -> str:
    """Return the same name for all seeds of a configuration, and for nothing else."""
    place = coordinates(record)
    words = [place[group] for group in ("loss", "constraint", "sampling", "model", "data") if group in place]
    words += [f"{key[-1]}={place[key]}" for key in ("div.k", "div.p") if key in place]
    without_seed = {key: value for key, value in science(record.config).items() if key != "seed"}
    return f"{' '.join(words)} #{runs.run_id(without_seed)[:LETTERS_OF_A_CELL]}"


def identity(record: Record, directory: RunDir) -> RunIdentity:
    """Return what a run is filed under."""
    place, name = axes(record), cell(record)
    return RunIdentity(
        record.run_id,
        directory.path.absolute(),
        record.sweep,
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
    """Tell a tracker all that was measured of a run so far, line by line; what it has it passes over."""
    lines = list(directory.read_metrics())
    last_of_step = {int(line["step"]): index for index, line in enumerate(lines)}
    for index, line in enumerate(lines):
        step = int(line["step"])
        picture = directory.samples(step)
        if last_of_step[step] == index and picture.exists():
            with Image.open(picture) as opened:
                tracker.images(step, np.asarray(opened))
        tracker.log(step, {name: value for name, value in line.items() if name != "step"})


def conclude(record: Record, directory: RunDir, tracker: Tracker) -> None:
    """Tell a tracker how a run has ended, with its files."""
    kept = [directory.record, directory.config, *sorted(directory.path.glob("samples/*.png"))]
    tracker.files("run", [path for path in kept if path.exists()])
    summary = {f"best_{name}": value for name, value in record.best.items()}
    tracker.close(record.status.value, {**summary, "seconds": record.seconds})


def is_mirrored(record: Record, directory: RunDir, project: str, entity: str | None) -> bool:
    """Say whether a project of W&B's, in the mode it is in now, has all of a run."""
    found = mirrored(directory.path)
    measured_since = directory.metrics.exists() and directory.metrics.stat().st_mtime > found.get("at", 0)
    there = found.get("where") == where(project, entity)
    return there and found.get("closed") == record.status and not measured_since


def _upload(path: Path, project: str | None, entity: str | None) -> str:
    directory = RunDir(path)
    record = directory.read_record()
    if record is None:
        return "gone"
    asked = asked_for(record)
    project, entity = project or asked[0], entity or asked[1]
    if is_mirrored(record, directory, project, entity):
        return "there already"
    tracker: WandbTracker | None = None
    try:
        tracker = WandbTracker(run=identity(record, directory), project=project, entity=entity)
        replay(directory, tracker)
        conclude(record, directory, tracker)
    except Exception as error:  # one run's failure is no other's
        if tracker is not None:
            with suppress(Exception):
                tracker.abandon()
        return f"failed: {type(error).__name__}: {error}"
    return "uploaded" if mode() == "online" else "written offline"


def asked_for(record: Record) -> tuple[str, str | None]:
    """Return the W&B project and entity that a run was started with, or the usual ones."""
    tracker = record.config.get("tracker") or {}
    return tracker.get("project") or PROJECT, tracker.get("entity")


def upload_runs(folder: Path, project: str | None, entity: str | None, jobs: int) -> Iterator[tuple[str, str]]:
    """Mirror finished runs that W&B does not have, several at a time; yield the run and what became of it.

    Args:
        folder: The folder of runs.
        project: The W&B project; by default the one that the run was started with.
        entity: Likewise.
        jobs: How many at a time.
    """
    from joblib import Parallel, delayed

    ended = [r.run_id for r in runs.find_runs(folder)[0] if r.status in (Status.DONE, Status.DIVERGED, Status.FAILED)]
    work = (delayed(_upload)(folder / name, project, entity) for name in ended)
    yield from zip(ended, Parallel(n_jobs=jobs, return_as="generator")(work), strict=True)
