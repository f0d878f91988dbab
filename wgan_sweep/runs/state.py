"""The state of a run on disk, and the transitions that change it.

    new ──► running ──► done | diverged | failed
             ▲   │               │
             └───┴───────────────┘   resumed, tried again, trained further, or scored by another scorer

A transition writes its files first and the record last, so a run that is killed in between repeats the transition.
"""

import logging
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Self

from wgan_sweep.common.files import write
from wgan_sweep.config.keys import Role, without_roles
from wgan_sweep.config.schema import Config, to_yaml
from wgan_sweep.runs import checkpoints, provenance
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.hashing import check_same_science
from wgan_sweep.runs.identity import Identity
from wgan_sweep.runs.record import CHOSEN_BY, Record, Status, chosen_by, selection_metric

log = logging.getLogger("wgan_sweep")


def is_finished(record: Record | None, config: Config) -> bool:
    """Return whether a run has everything that a config asks for; a diverged run would diverge again."""
    if record is None:
        return False
    if record.status == Status.DIVERGED:
        return not config.retry_diverged
    return (
        record.status == Status.DONE and record.step >= config.train.steps and not _needs_other_scores(record, config)
    )


def finished_record(identity: Identity, config: Config) -> Record | None:
    """Return the record of a run that has everything that a config asks for, or None.

    Raises:
        InputError: if the directory belongs to another run.
    """
    record = identity.directory.read_record()
    if record is not None:
        check_same_science(identity.directory.path, record.science, identity.science)
    return record if is_finished(record, config) else None


def _needs_other_scores(record: Record, config: Config) -> bool:
    """Return whether a config asks for scores that a record does not have; no scorer asks for none."""
    if config.scorer.get("_target_") is None:
        return False
    ours, theirs = (
        without_roles(scorer, "scorer", Role.PRESENTATION, Role.COMPUTING, Role.PLACE)
        for scorer in (config.scorer, record.config["scorer"])
    )
    return bool(ours != theirs)


def _up_to(step: int, scores: dict[str, float]) -> dict[str, float]:
    """Return scores unless they are of a later step."""
    return {} if scores.get("step", 0) > step else scores


class RunState:
    """The record of a run that is being worked on, and its directory. The run's lock is held.

    Args:
        directory: The run's directory.
        record: Its record.
    """

    def __init__(self, directory: RunDir, record: Record) -> None:
        self.directory = directory
        self.record = record

    @classmethod
    def start(cls, identity: Identity, config: Config, overrides: list[str], sweep: str | None) -> Self:
        """Any status → running: write config and record."""
        directory = identity.directory
        record = directory.read_record()
        if record is None:
            record = Record(identity.run_id, overrides=overrides, started=provenance.now(), sweep=sweep)
        elif _needs_other_scores(record, config):  # keep which step was chosen, and by which value
            chosen = chosen_by(record.best)
            best = {"step": record.best["step"], **chosen} if chosen else {}
            record = replace(record, scores={}, scored_by={}, best=best)
        state = cls(directory, record)
        write(directory.config, to_yaml(config))
        state._update(
            status=Status.RUNNING,
            error=None,
            finished=None,
            config=asdict(config),
            science=dict(identity.science),
            versions=provenance.versions(),
            code=provenance.code(),
            git=provenance.git(),
            host=platform.node(),
        )
        return state

    def resume(self, step: int, images_seen: int, execution: Mapping[str, str], *, trains: bool) -> None:
        """Running → running at the step of the checkpoint: remove what was measured after it.

        Args:
            step: The checkpoint's step.
            images_seen: Its number of images.
            execution: What was chosen for the device.
            trains: Whether training continues; else the record keeps how the run was trained.
        """
        self.directory.truncate_metrics(step)
        record = self.record
        self._update(
            step=step,
            images_seen=images_seen,
            scores=_up_to(step, record.scores),
            best=_up_to(step, record.best),
            execution=dict(execution) if trains else record.execution or dict(execution),
        )

    def save(self, checkpoint: Mapping[str, Any], step: int, images_seen: int, execution: Mapping[str, str]) -> None:
        """Running → running with a checkpoint of this step."""
        checkpoints.save(self.directory.checkpoint, dict(checkpoint))
        self._update(step=step, images_seen=images_seen, execution=dict(execution))

    def score(
        self,
        step: int,
        scores: Mapping[str, float],
        scored_by: Mapping[str, str],
        make_checkpoint: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """Running → running with the scores of this step: chosen, best checkpoint written, recorded.

        Args:
            step: The step that was scored, which is saved.
            scores: The metric values.
            scored_by: What they depend on.
            make_checkpoint: Makes a checkpoint of the step, which becomes the best one if no other step has a lower
                selection metric; None if the step does not take part in the choice.
        """
        scores = {"step": step, **scores}
        best = self.record.best
        if make_checkpoint is not None and self._is_best(scores):
            checkpoints.save(self.directory.best, dict(make_checkpoint()))
            best = dict(scores)
        self._update(scores=scores, scored_by=dict(scored_by), best=best)

    def _is_best(self, scores: Mapping[str, float]) -> bool:
        metric = selection_metric(scores)
        if metric is None:
            return False
        best = self.record.best
        lowest = best.get(f"{CHOSEN_BY}{metric}", best.get(metric, math.inf))
        return not scores[metric] > lowest or not self.directory.best.exists()

    def take_only_scores_as_best(self) -> None:
        """Running → running: where no steps were compared, the last scores are the best ones."""
        self._update(best=dict(self.record.scores))

    def confirm(self, step: int, scores: Mapping[str, float]) -> None:
        """Running → running: the best step's scores on samples that had no part in choosing it."""
        self._update(best={"step": step, **scores, **chosen_by(self.record.best)})

    def finish(self, seconds: float) -> None:
        """Running → done, after so many more seconds of work."""
        self._end(Status.DONE, None, seconds)

    def diverge(self, reason: str, seconds: float) -> None:
        """Running → diverged."""
        self._end(Status.DIVERGED, reason, seconds)

    def fail(self, reason: str, seconds: float) -> None:
        """Running → failed."""
        self._end(Status.FAILED, reason, seconds)

    def interrupt(self, seconds: float) -> None:
        """Running → running: the next start resumes the run."""
        self._update(seconds=self.record.seconds + seconds)

    def _end(self, status: Status, error: str | None, seconds: float) -> None:
        self._update(status=status, error=error, finished=provenance.now(), seconds=self.record.seconds + seconds)

    def _update(self, **changes: Any) -> None:
        """Replace the record on disk, then here: a failed write leaves both as they were."""
        record = replace(self.record, **changes)
        self.directory.write_record(record)
        self.record = record
