"""The record of a run (``record.json``): its status, config, scores, and what produced them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any, Self, get_type_hints

from wgan_sweep.common.ranges import check_value
from wgan_sweep.errors import InputError

FORMAT = 1
"""Version of the record's format. Records of wgan-sweep 0.1 have none, and their ids are hashes of something else."""


class OutdatedRecordError(InputError):
    """A record of wgan-sweep 0.1: this version neither reads nor continues its run."""


class NewerRecordError(InputError):
    """A record of a later version of wgan-sweep."""


class Status(StrEnum):
    """The state of a run."""

    NEW = "new"
    RUNNING = "running"
    """Started and not ended, or interrupted."""
    DONE = "done"
    DIVERGED = "diverged"
    """A training metric was not finite."""
    FAILED = "failed"
    """An exception ended it."""
    PRUNED = "pruned"
    """Stopped early, because other runs of its sweep were better at the same step."""


SELECTION_METRICS = ("fid", "w1", "kid")
"""Metrics by which checkpoints are compared; a run uses the first that its scores contain. Lower is better."""

LOWER_IS_BETTER = (
    *("fid", "live_fid", "kid", "mifid", "w1", "w2", "sliced_w2", "sinkhorn", "js", "kl"),
    *("features_w1", "features_w2", "features_sliced_w2", "features_sinkhorn"),
    *("class_kl", "missing_classes"),
)
"""Metrics of which low values are good."""
HIGHER_IS_BETTER = ("inception_score", "precision", "recall", "modes", "high_quality", "classes")
"""Metrics of which high values are good."""
OTHER_METRICS = ("fid_infinity", "nearest_real", "copied", "pair_ssim", "pair_ssim_real")
"""Metrics that are reported beside them."""
METRICS = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER, *OTHER_METRICS)
"""All metrics of this package by which runs are described."""

LARGEST_VALUE = 2.0**127
"""The largest metric value, about that of float32. One beyond it, as of a run that diverges, counts as infinite: powers
of it overflow in statistics."""

CHOSEN_BY = "chosen_by_"
"""Prefix of the metric value by which the best step was chosen; the plain name holds the value on fresh samples."""


def cost_sign(metric: str) -> int | None:
    """Return 1 if low values of a metric are good, -1 if high ones are; None if that is not known."""
    return 1 if metric in LOWER_IS_BETTER else -1 if metric in HIGHER_IS_BETTER else None


def worst_value(metric: str) -> float | None:
    """Return an infinite value that is worse than all others; None if it is not known which values are good."""
    sign = cost_sign(metric)
    return None if sign is None else sign * math.inf


def selection_metric(scores: Mapping[str, float]) -> str | None:
    """Return the name of the metric by which checkpoints are compared, or None if the scores contain none."""
    return next((name for name in SELECTION_METRICS if name in scores), None)


def chosen_by(best: Mapping[str, float]) -> dict[str, float]:
    """Return the metric value by which the best step was chosen, under its prefixed name; empty if there is none."""
    metric = selection_metric(best)
    prefixed = {name: value for name, value in best.items() if name.startswith(CHOSEN_BY)}
    return prefixed or ({f"{CHOSEN_BY}{metric}": best[metric]} if metric else {})


@dataclass(frozen=True)
class EarlierScores:
    """The scores with which a run was done, before more steps or another scorer were requested."""

    step: int
    scores: dict[str, float]
    scored_by: dict[str, str] = field(default_factory=dict)
    """What the scores depend on."""
    best: dict[str, float] = field(default_factory=dict)
    """The metric values of the best step, by then."""
    finished: str | None = None
    """When the run was done."""
    code: str = ""
    """Version and digest of the package's source, by then."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], name: str) -> Self:
        """Return the scores that a JSON value describes; keys of later versions are ignored.

        Args:
            values: The value.
            name: What it is, for messages.

        Raises:
            TypeError, ValueError: if the value is not of this form.
        """
        return cls(**checked_fields(cls, values, f"{name}."))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def checked_fields(kind: type, values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return those of the values that are fields of a dataclass, after a check of their types.

    Args:
        kind: The dataclass.
        values: Values by name.
        above: What stands before a name in messages.

    Raises:
        TypeError, ValueError: if a value is of another type.
    """
    hints = {name: hint for name, hint in _hints(kind).items() if name in values}
    for name, hint in hints.items():
        check_value(values[name], hint, f"{above}{name}")
    return {name: values[name] for name in hints}


@dataclass
class Record:
    """The state of a run, as ``record.json`` holds it."""

    run_id: str
    status: Status = Status.NEW
    overrides: list[str] = field(default_factory=list)
    """The command-line overrides of the run's first start."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved config."""
    step: int = 0
    """Generator updates, as of the last checkpoint."""
    images_seen: int = 0
    """Real images shown to the critic, as of the last checkpoint."""
    scores: dict[str, float] = field(default_factory=dict)
    """The latest metric values, with the step at which they were measured."""
    best: dict[str, float] = field(default_factory=dict)
    """The metric values of the step with the lowest selection metric, with that step.

    If several steps were compared, the values are measured on samples that had no part in the choice; the value that
    decided it has the prefix `CHOSEN_BY`.
    """
    error: str | None = None
    """Why the run failed or diverged, with the traceback if there is one."""
    pruned: str | None = None
    """Why the run was pruned."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that results depend on."""
    git: dict[str, Any] | None = None
    """Commit of the package's checkout, and whether it was edited."""
    host: str = ""
    started: str | None = None
    """Time of the first start (UTC, ISO 8601)."""
    finished: str | None = None
    """Time of the last end (UTC, ISO 8601)."""
    seconds: float = 0.0
    """Time spent on the run, over all its starts."""
    scored_by: dict[str, str] = field(default_factory=dict)
    """What the scores depend on: features, network, resize, real images, counts."""
    best_chosen_by: dict[str, str] = field(default_factory=dict)
    """What the metric value that chose the best step depends on."""
    sweep: str | None = None
    """The sweep that started the run first."""
    execution: dict[str, str] = field(default_factory=dict)
    """The name of the GPU, and what was chosen for the device, and why: precision, CUDA graph, compilation."""
    science: dict[str, Any] = field(default_factory=dict)
    """The science values that differ from neutral: the run's id is their hash."""
    code: str = ""
    """Version and digest of the package's source, as of the last start."""
    metrics_lines: int = 0
    """Lines of ``metrics.jsonl`` as of this record: a file with fewer has lost measurements."""
    history: list[EarlierScores] = field(default_factory=list)
    """Earlier scores, oldest first: those with which the run was done before it was continued or scored otherwise."""
    format: int = FORMAT
    """Version of this format."""

    def hours(self, *, per_gpu: bool = False) -> float:
        """Return the hours that the run has taken, which count once for each GPU of the run if `per_gpu`."""
        launch = self.config.get("launch")
        processes = launch.get("gpus_per_run", 1) if isinstance(launch, Mapping) and per_gpu else 1
        return self.seconds / 3600 * (processes if isinstance(processes, int) else 1)

    @property
    def result(self) -> Self | None:
        """The run as it was when it was last done; None if it never was. It is the record itself if the run is done.

        A run that was continued, or is scored by another scorer, is not done until that ends. Its earlier scores hold.
        """
        return self if self.status == Status.DONE else next(iter(self.earlier_results), None)

    @property
    def earlier_results(self) -> "list[Self]":
        """The run as it was each time it was done before, the latest first. Its steps have equal shares of its time."""
        return [
            replace(
                self,
                status=Status.DONE,
                step=earlier.step,
                seconds=self.seconds * min(1.0, earlier.step / max(1, self.step)),
                scores=earlier.scores,
                scored_by=earlier.scored_by,
                best=earlier.best,
                finished=earlier.finished,
                code=earlier.code or self.code,
                error=None,
                pruned=None,
            )
            for earlier in reversed(self.history)
        ]

    @property
    def start_order(self) -> tuple[str, str]:
        """A key that sorts runs by their start, those that never started first, and then by id."""
        return self.started or "", self.run_id

    @property
    def is_lost(self) -> bool:
        """Whether the run ended without a result: it diverged or failed."""
        return self.status in (Status.DIVERGED, Status.FAILED)

    def has_value(self, metric: str) -> bool:
        """Whether the scores have a value of a metric that is not beyond `LARGEST_VALUE`."""
        return abs(self.scores.get(metric, math.nan)) <= LARGEST_VALUE

    def result_value(self, metric: str) -> float | None:
        """Return the value of a metric in the run's `result`; None if it has none (see `has_value`)."""
        result = self.result
        return result.scores[metric] if result is not None and result.has_value(metric) else None

    @property
    def reason(self) -> str | None:
        """The last line of the error: of a traceback, the exception itself."""
        return self.error.strip().splitlines()[-1] if self.error else None

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return the record that a JSON value describes; keys of later versions are ignored.

        Raises:
            OutdatedRecordError: for a record of wgan-sweep 0.1.
            NewerRecordError: for a record of a later version.
            TypeError, ValueError, KeyError, AttributeError: if the value is not a record.
        """
        if not isinstance(values, dict):
            raise TypeError("it holds no mapping")
        hints = {name: hint for name, hint in _hints(Record).items() if name in values}
        record = cls(**{name: values[name] for name in hints})
        if "format" not in values:
            raise OutdatedRecordError("it was written by wgan-sweep 0.1, whose run ids mean something else")
        check_value(record.format, int, "format")
        if record.format > FORMAT:
            raise NewerRecordError(f"its format is {record.format}, and this version reads formats up to {FORMAT}")
        hints |= {"history": list[dict[str, Any]]} if "history" in values else {}
        for name, hint in hints.items():
            check_value(values[name], hint, name)
        record.history = [
            EarlierScores.from_json(item, f"history[{index}]") for index, item in enumerate(values.get("history", []))
        ]
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", record.run_id):
            raise ValueError(f"run_id={record.run_id!r} is not the name of a directory")
        record.status = Status(record.status)
        for group in {"scorer", *({"choices", "train"} & record.config.keys())}:
            check_value(record.config[group], dict[str, Any], f"config.{group}")
        return record
