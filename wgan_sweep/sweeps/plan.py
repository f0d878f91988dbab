"""What a command would do: which runs it would train, resume, score, skip or refuse, and how long that may take."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.report.text import markdown
from wgan_sweep.runs.build import check
from wgan_sweep.runs.directory import Record, find_runs
from wgan_sweep.runs.driver import check_identity, directory_of, is_finished
from wgan_sweep.runs.lock import lock_owner


@dataclass(frozen=True)
class PlannedRun:
    """A run that was asked for."""

    run_id: str
    typed: str
    what: str
    """train, resume, score, skip, wait or refuse."""
    why: str = ""
    images: int = 0
    """Real images that the critic would be shown."""
    seconds: float | None = None
    """How long that would take, by earlier runs like it; None where there are none."""


def plan_run(config: Config, typed: str, device: torch.device | None = None) -> PlannedRun:
    """Return what there is to do of a run; nothing is written.

    Args:
        config: The run's config.
        typed: What tells it from the others, for the user.
        device: Where it will run, if not on this machine.
    """
    directory = directory_of(config)
    name = directory.path.name
    try:
        record = directory.read_record()
        check_identity(record, config)
        if record is not None and is_finished(record, config):
            return PlannedRun(name, typed, "skip", f"{record.status} at step {record.step}")
        check(config, device)
    except InputError as error:
        return PlannedRun(name, typed, "refuse", str(error))
    done = 0 if record is None else record.step
    per_step = config.train.n_critic * config.train.batch_size
    images = max(0, config.train.steps - done) * per_step
    if (other := lock_owner(directory.lock)) is not None:
        return PlannedRun(name, typed, "wait", f"{other} is at it", images)
    if done == 0:
        return PlannedRun(name, typed, "train", "", images)
    if images:
        return PlannedRun(name, typed, "resume", f"at step {done}", images)
    return PlannedRun(name, typed, "score", "by another scorer" if record and record.scores else "its last step")


def _like(record: Record, config: Config) -> bool:
    chosen, asked = record.config.get("choices", {}), config.choices
    return all(chosen.get(group) == asked.get(group) for group in ("loss", "constraint", "model", "data"))


def seconds_per_image(config: Config, records: Iterable[Record]) -> float | None:
    """Return what an image took in the median earlier run with the same loss, constraint, model and data."""
    found = [r.seconds / r.images_seen for r in records if r.seconds and r.images_seen and _like(r, config)]
    return statistics.median(found) if found else None


def earlier_records(runs: Path) -> list[Record]:
    """Return the records of a folder of runs that may not be there yet."""
    return find_runs(runs)[0] if runs.is_dir() else []


def to_table(planned: Sequence[PlannedRun]) -> str:
    """Return the plan as Markdown, with totals."""
    rows = [
        [
            one.run_id,
            one.what,
            f"{one.images:,}" if one.images else "",
            str(timedelta(seconds=round(one.seconds))) if one.seconds is not None and one.images else "",
            one.typed,
            one.why,
        ]
        for one in planned
    ]
    counts = Counter(one.what for one in planned)
    known = [one.seconds for one in planned if one.images and one.seconds is not None]
    unknown = sum(1 for one in planned if one.images and one.seconds is None)
    parts = [f"{count} to {what}" for what, count in counts.items()]
    notes = [f"{len(planned)} runs: {', '.join(parts)}; {sum(one.images for one in planned):,} images."]
    if known:
        rest = f", and {unknown} runs like none before" if unknown else ""
        notes.append(f"About {timedelta(seconds=round(sum(known)))}, one run after another, by earlier runs{rest}.")
    elif unknown:
        notes.append("No time can be told: there is no earlier run with the same loss, constraint, model and data.")
    return markdown(["run", "would", "images", "time", "asked for", "because"], rows, notes)
