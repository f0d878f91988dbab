"""What a command would do: which runs it would train, resume, score, skip or refuse, and an estimate of the time."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from wgan_sweep.common.devices import SEVERAL
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.report.figures import make_figure
from wgan_sweep.report.text import markdown
from wgan_sweep.runs.build import Checker
from wgan_sweep.runs.directory import find_runs
from wgan_sweep.runs.hashing import check_same_science
from wgan_sweep.runs.lock import lock_owner
from wgan_sweep.runs.pruning import name_of, pruner_of, rungs_of
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.runs.state import is_finished
from wgan_sweep.sweeps.archived import is_done_in_archive, why_trained_anew
from wgan_sweep.sweeps.launching import RequestedRun

MAX_SHOWN_RUNGS = 6
"""How many rungs of a pruner the plan lists."""


class Action(StrEnum):
    """What a command would do with a run."""

    TRAIN = "train"
    RESUME = "resume"
    SCORE = "score"
    SKIP = "skip"
    ARCHIVED = "archived"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True)
class PlannedRun:
    """A requested run and what a command would do with it."""

    run_id: str
    action: Action
    reason: str = ""
    images: int = 0
    """Number of real images that the critic would be trained on."""


class Planner:
    """Tells what a command would do with each run. What several runs share is checked once.

    Args:
        device: Where the runs will compute, if not on this machine.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._check = Checker(device)
        self._figures: set[str] = set()
        """The values of the options that can be made."""

    def __call__(self, requested: RequestedRun, archived: Record | None = None) -> PlannedRun:
        """Return what is missing of a run. Nothing is written.

        Args:
            requested: The run.
            archived: Its record in the archive that its config names, if the archive has it.
        """
        config, run_id = requested.config, requested.run_id
        try:
            record = requested.directory.read_record()
            if record is not None:
                check_same_science(requested.directory.path, record.science, requested.identity.science)
                if is_finished(record, config):
                    return PlannedRun(run_id, Action.SKIP, f"{record.status} at step {record.step}")
            if archived is not None and is_done_in_archive(requested, archived):
                where = f"at step {archived.step} in {config.archive}"
                return PlannedRun(run_id, Action.ARCHIVED, f"{archived.status} {where}")
            self._check(config)
            done = 0 if record is None else record.step
            images = self._check.images_in(config, range(done, config.train.steps))
            if (figure := repr(config.figure)) not in self._figures:
                make_figure(config.figure)
                self._figures.add(figure)
        except InputError as error:
            return PlannedRun(run_id, Action.REFUSE, str(error))
        if (owner := lock_owner(requested.directory.lock)) is not None:
            return PlannedRun(run_id, Action.WAIT, f"{owner} holds it", images)
        if done == 0:
            return PlannedRun(run_id, Action.TRAIN, why_trained_anew(requested, archived), images)
        if images:
            was_pruned = "pruned " if record is not None and record.status == Status.PRUNED else ""
            return PlannedRun(run_id, Action.RESUME, f"{was_pruned}at step {done}", images)
        has_scores = record is not None and bool(record.scores)
        return PlannedRun(run_id, Action.SCORE, "with another scorer" if has_scores else "the last step has no scores")


def _pruning_note(config: Config) -> str:
    """Return when runs may be stopped early; empty if no run is."""
    if not (rungs := rungs_of(config)):
        return ""
    steps = ", ".join(map(str, rungs[:MAX_SHOWN_RUNGS])) + (", ..." if len(rungs) > MAX_SHOWN_RUNGS else "")
    return (
        f"Pruning is on ({name_of(config)}): at step {steps}, {pruner_of(config).describe()}. Images and times are "
        "those without pruning."
    )


GROUPS_OF_PACE = ("loss", "constraint", "model", "data")
"""Runs of the same options of these groups take about the same time per image."""


def seconds_per_image(records: Iterable[Record]) -> dict[tuple[str, ...], float]:
    """Return the median time per image of earlier runs, by their options of `GROUPS_OF_PACE`."""
    rates: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        if record.seconds and record.images_seen:
            choices = record.config.get("choices", {})
            options = tuple(str(choices.get(group)) for group in GROUPS_OF_PACE)
            rates.setdefault(options, []).append(record.seconds / record.images_seen)
    return {options: statistics.median(values) for options, values in rates.items()}


def _kind(config: Mapping[str, Any]) -> str:
    """Return what the time per image on a GPU depends on, as text that is the same for two configs of a kind.

    Args:
        config: A config as a mapping, such as that of a record.
    """
    choices, train = config.get("choices", {}), config.get("train", {})
    options = [str(choices.get(group)) for group in GROUPS_OF_PACE]
    settings = [train.get(name) for name in ("batch_size", "generator_batch_size", "n_critic", "precision", "compile")]
    return repr((options, config.get("model"), settings, choices.get("critic_updates", "constant")))


@dataclass(frozen=True)
class _GpuPace:
    """The time per image on GPUs of one name."""

    seconds: float
    """GPU seconds per real image that the critic is trained on: the median of earlier runs."""
    runs: int
    """The number of these runs."""


def gpu_paces(records: Iterable[Record]) -> dict[str, dict[str, _GpuPace]]:
    """Return the time per image of earlier runs on GPUs, by the name of the GPU and the kind of run."""
    rates: dict[tuple[str, str], list[float]] = {}
    for record in records:
        name = record.execution.get("gpu")
        if name is not None and name != SEVERAL and record.seconds and record.images_seen:
            seconds = 3600 * record.hours(per_gpu=True)
            rates.setdefault((name, _kind(record.config)), []).append(seconds / record.images_seen)
    paces: dict[str, dict[str, _GpuPace]] = {}
    for (name, kind), values in sorted(rates.items()):
        paces.setdefault(name, {})[kind] = _GpuPace(statistics.median(values), len(values))
    return paces


def _gpu_notes(records: Iterable[Record], planned: Iterable[PlannedRun], configs: Iterable[Config]) -> Iterator[str]:
    """Yield, for each GPU that earlier runs were trained on, the GPU hours that the planned runs would take on it."""
    training = [(run.images, _kind(asdict(config))) for run, config in zip(planned, configs, strict=True) if run.images]
    for name, paces in gpu_paces(records).items():
        known = [(images * paces[kind].seconds, kind) for images, kind in training if kind in paces]
        if known:
            hours = sum(seconds for seconds, _ in known) / 3600
            earlier = sum(paces[kind].runs for kind in {kind for _, kind in known})
            missing = len(training) - len(known)
            rest = f"; no figure for {missing} of {len(training)} runs" if missing else ""
            plural = "s" if earlier > 1 else ""
            yield f"About {hours:.3g} GPU hours on {name}, from {earlier} earlier run{plural} of the same kind{rest}."


def describe_plan(
    requested: Sequence[RequestedRun], archived: Mapping[str, Record], device: torch.device | None = None
) -> str:
    """Return what a command would do with the requested runs, as a Markdown table with totals.

    Args:
        requested: The runs.
        archived: The records of runs in archives, by run id.
        device: Where they will compute, if not on this machine.
    """
    configs = [run.config for run in requested]
    runs = Path(configs[0].runs) if configs else Path()
    records = find_runs(runs)[0] if configs and runs.is_dir() else []
    plan_run = Planner(device)
    planned = [plan_run(run, archived.get(run.run_id)) for run in requested]
    known_paces = seconds_per_image(records)
    paces = [known_paces.get(tuple(str(config.choices.get(group)) for group in GROUPS_OF_PACE)) for config in configs]
    times = [pace * run.images if pace is not None else None for run, pace in zip(planned, paces, strict=True)]
    rows = [
        [
            run.run_id,
            run.action.value,
            f"{run.images:,}" if run.images else "",
            str(timedelta(seconds=round(seconds))) if seconds is not None and run.images else "",
            request.label,
            run.reason,
        ]
        for run, seconds, request in zip(planned, times, requested, strict=True)
    ]
    counts = Counter(run.action for run in planned)
    totals = [f"{count} {'' if action is Action.ARCHIVED else 'to '}{action}" for action, count in counts.items()]
    notes = [f"{len(planned)} runs: {', '.join(totals)}; {sum(run.images for run in planned):,} images."]
    training = [seconds for run, seconds in zip(planned, times, strict=True) if run.images]
    known = [seconds for seconds in training if seconds is not None]
    without_estimate = len(training) - len(known)
    if known:
        rest = f"; no estimate for {without_estimate} runs" if without_estimate else ""
        total = timedelta(seconds=round(sum(known)))
        notes.append(f"About {total} if trained one after another, estimated from earlier runs{rest}.")
    elif training:
        notes.append("No estimate of the time: no earlier run has the same loss, constraint, model and data.")
    notes += _gpu_notes(records, planned, configs)
    notes += dict.fromkeys(note for config in configs if (note := _pruning_note(config)))
    return markdown(["run", "action", "images", "time", "overrides", "reason"], rows, notes)
