"""The state of a run on disk, and the transitions that change it.

    new ──► running ──► done | diverged | failed | pruned
             ▲   │                    │
             └───┴────────────────────┘   resumed, tried again, trained further, or scored by another scorer

A transition writes its files first and the record last, so a run that is killed in between repeats the transition.
"""

import logging
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Self

from wgan_sweep.config.keys import Role, without_roles
from wgan_sweep.config.schema import Config, to_yaml
from wgan_sweep.runs import provenance
from wgan_sweep.runs.hashing import check_same_science
from wgan_sweep.runs.identity import Identity
from wgan_sweep.runs.pruning import is_same_pruner
from wgan_sweep.runs.record import CHOSEN_BY, EarlierScores, Record, Status, chosen_by, selection_metric
from wgan_sweep.runs.writer import RunWriter

log = logging.getLogger("wgan_sweep")


def is_finished(record: Record | None, config: Config) -> bool:
    """Return whether a run has everything that a config requests.

    A diverged run would diverge again. A pruned run is left to the pruner that stopped it, with the same settings.
    """
    if record is None:
        return False
    if record.status == Status.DIVERGED:
        return not config.retry_diverged
    if record.status == Status.PRUNED:
        return is_same_pruner(config, record.config)
    return (
        record.status == Status.DONE and record.step >= config.train.steps and not _needs_other_scores(record, config)
    )


def finished_record(identity: Identity, config: Config) -> Record | None:
    """Return the record of a run that has everything that a config requests, or None.

    Raises:
        InputError: if the directory belongs to another run.
    """
    record = identity.directory.read_record()
    if record is not None:
        check_same_science(identity.directory.path, record.science, identity.science)
    return record if is_finished(record, config) else None


def _needs_other_scores(record: Record, config: Config) -> bool:
    """Return whether a config requests scores that a record does not have; no scorer requests none."""
    if config.scorer.get("_target_") is None:
        return False
    ours, theirs = (
        without_roles(scorer, "scorer", Role.PRESENTATION, Role.COMPUTING, Role.PLACE)
        for scorer in (config.scorer, record.config["scorer"])
    )
    return bool(ours != theirs)


def _with_scores_kept(record: Record) -> list[EarlierScores]:
    """Return the history of a run that is started again, with its scores if it was done."""
    if record.status != Status.DONE or not record.scores:
        return record.history
    last = record.history[-1] if record.history else None
    if last is not None and (last.scores, last.scored_by) == (record.scores, record.scored_by):
        return record.history  # it was continued without a scorer
    step = int(record.scores.get("step", record.step))
    kept = EarlierScores(step, record.scores, record.scored_by, record.best, finished=record.finished, code=record.code)
    return [*record.history, kept]


def _up_to(step: int, scores: dict[str, float]) -> dict[str, float]:
    """Return scores unless they are of a later step."""
    return {} if scores.get("step", 0) > step else scores


class RunState:
    """The record of a run that is being worked on, and the writer of its directory.

    Every transition raises `RunTakenOverError` if another process has taken over the run.

    Args:
        writer: Writes to the run's directory.
        record: The run's record.
    """

    def __init__(self, writer: RunWriter, record: Record) -> None:
        self.writer = writer
        self.directory = writer.directory
        self.record = record
        writer.metrics_lines = record.metrics_lines

    @classmethod
    def start(
        cls, writer: RunWriter, identity: Identity, config: Config, overrides: list[str], sweep: str | None
    ) -> Self:
        """Any status → running: write config and record. Scores with which the run was done are kept in its history."""
        record = writer.directory.read_record()
        if record is None:
            record = Record(identity.run_id, overrides=overrides, started=provenance.now(), sweep=sweep)
        else:
            record = replace(record, history=_with_scores_kept(record))
            if _needs_other_scores(record, config):  # keep which step was chosen, and by which value
                chosen = chosen_by(record.best)
                best = {"step": record.best["step"], **chosen} if chosen else {}
                record = replace(record, scores={}, scored_by={}, best=best)
        writer.open()
        state = cls(writer, record)
        writer.write(writer.directory.config, to_yaml(config))
        state._update(
            status=Status.RUNNING,
            error=None,
            pruned=None,
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

        Raises:
            InputError: if what was measured cannot be read; it is left as it is.
        """
        record = self.record
        lines = self.directory.measurements()
        if len(lines) < record.metrics_lines:
            log.warning(
                "%s has %d lines, %d fewer than were written: curves lack them",
                self.directory.metrics,
                len(lines),
                record.metrics_lines - len(lines),
            )
        lines = [line for line in lines if line["step"] <= step]
        self.writer.metrics_lines = len(lines)  # recorded first: the record never counts lines that are not there
        self._update(
            step=step,
            images_seen=images_seen,
            scores=_up_to(step, record.scores),
            best=_up_to(step, record.best),
            execution=dict(execution) if trains else record.execution or dict(execution),
        )
        self.writer.replace_metrics(lines)

    def save(self, checkpoint: Mapping[str, Any], step: int, images_seen: int, execution: Mapping[str, str]) -> None:
        """Running → running with a checkpoint of this step."""
        self.writer.save_checkpoint(self.directory.checkpoint, checkpoint)
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
        best, best_chosen_by = self.record.best, self.record.best_chosen_by
        if make_checkpoint is not None and self._is_best(scores, scored_by):
            self.writer.save_checkpoint(self.directory.best, make_checkpoint())
            best, best_chosen_by = dict(scores), dict(scored_by)
        self._update(scores=scores, scored_by=dict(scored_by), best=best, best_chosen_by=best_chosen_by)

    def _is_best(self, scores: Mapping[str, float], scored_by: Mapping[str, str]) -> bool:
        metric = selection_metric(scores)
        if metric is None:
            return False
        best = self.record.best
        if best and self.record.best_chosen_by not in ({}, scored_by):
            log.info(
                "step %d was the best so far, by another scorer: from step %d on, steps are compared anew",
                best["step"],
                scores["step"],
            )
            return True
        lowest = best.get(f"{CHOSEN_BY}{metric}", best.get(metric, math.inf))
        return not scores[metric] > lowest or not self.directory.best.exists()

    def take_only_scores_as_best(self) -> None:
        """Running → running: where no steps were compared, the last scores are the best ones."""
        self._update(best=dict(self.record.scores))

    def confirm(self, step: int, scores: Mapping[str, float], chosen: Mapping[str, float]) -> None:
        """Running → running: the best step's scores on samples that had no part in choosing it.

        Args:
            step: The step.
            scores: The metric values.
            chosen: The value by which the step was chosen, under its prefixed name.
        """
        self._update(best={"step": step, **scores, **chosen})

    def finish(self, seconds: float) -> None:
        """Running → done, after so many more seconds of work."""
        self._end(Status.DONE, None, seconds)

    def diverge(self, reason: str, seconds: float) -> None:
        """Running → diverged."""
        self._end(Status.DIVERGED, reason, seconds)

    def fail(self, reason: str, seconds: float) -> None:
        """Running → failed."""
        self._end(Status.FAILED, reason, seconds)

    def prune(self, reason: str, seconds: float) -> None:
        """Running → pruned, at the step of its checkpoint."""
        self._end(Status.PRUNED, None, seconds, pruned=reason)

    def interrupt(self, seconds: float) -> None:
        """Running → running: the next start resumes the run."""
        self._update(seconds=self.record.seconds + seconds)

    def _end(self, status: Status, error: str | None, seconds: float, **changes: Any) -> None:
        seconds += self.record.seconds
        self._update(status=status, error=error, finished=provenance.now(), seconds=seconds, **changes)

    def _update(self, **changes: Any) -> None:
        """Replace the record on disk, then here: a failed write leaves both as they were."""
        record = replace(self.record, metrics_lines=self.writer.metrics_lines, **changes)
        self.writer.write_record(record)
        self.record = record
