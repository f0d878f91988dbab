"""The loop of a run: it carries the trainer's measurements to the run's directory, its tracker and the display."""

import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from wgan_sweep.common.devices import SEVERAL, gpu_name
from wgan_sweep.common.pictures import png
from wgan_sweep.common.progress import RunProgress
from wgan_sweep.common.stopping import leave_if_asked
from wgan_sweep.config.schema import NO_PRUNER, Config
from wgan_sweep.config.schema import replicas as replicas_of
from wgan_sweep.errors import InputError
from wgan_sweep.runs import checkpoints, mirroring
from wgan_sweep.runs.build import Scorer, SharedScorer, build
from wgan_sweep.runs.competition import Competition
from wgan_sweep.runs.coordinates import MEASURED_WITH
from wgan_sweep.runs.directory import FINAL
from wgan_sweep.runs.hashing import check_same_science
from wgan_sweep.runs.identity import Identity
from wgan_sweep.runs.record import chosen_by, selection_metric
from wgan_sweep.runs.state import RunState
from wgan_sweep.tracking.tracker import Tracker
from wgan_sweep.training.followers import Check, with_followers
from wgan_sweep.training.loss_scaling import MIN_SCALE
from wgan_sweep.training.replicas import Replicas
from wgan_sweep.training.sampler import SampleStream
from wgan_sweep.training.trainer import Trainer

log = logging.getLogger("wgan_sweep")

LIVE = "live_"
"""Prefix of metric values of the generator that is trained, beside those of its average."""


class DivergedError(Exception):
    """A measurement that is not finite, or gradients that overflow at any loss scale."""


class PrunedError(Exception):
    """Other runs of the sweep were better at the same step. The message says by how much."""


class RunLoop:
    """Trains and scores a run, from its checkpoint to the end that its config requests.

    Making one writes nothing, so a config that cannot work leaves no trace.

    Args:
        config: The run's config.
        identity: Its identity.
        stop: Returns whether to save and stop; called after every step.
        others: The ids of the other runs of its sweep, with which it competes if the config prunes.

    Raises:
        InputError: if the config cannot work, or the checkpoint belongs to another run.
    """

    def __init__(
        self, config: Config, identity: Identity, stop: Callable[[], bool], others: Sequence[str] = ()
    ) -> None:
        self._config = config
        self._science = identity.science
        self._directory = directory = identity.directory
        self._stop = stop
        self._competition = Competition(config, identity, others)
        self._replicas = Replicas(0, replicas_of(config))
        parts = build(config, self._replicas)
        self._trainer, self._real, self._scorer = parts.trainer, parts.real, parts.scorer
        self._training_scorer = parts.training_scorer or parts.scorer
        self._unlogged: list[tuple[int, dict[str, Tensor]]] = []
        self._check_followers: Check = lambda: None
        self._has_scoring_followers = False
        """Whether followers wait at each step that is scored, to score it together with this process."""
        self._gpu: str | None = None
        checkpoint, self._damage = checkpoints.load(directory.checkpoint)
        if checkpoint is not None:
            check_same_science(directory.checkpoint, checkpoint["science"], identity.science)
            stored = checkpoint["trainer"]
            trainer, trains = self._trainer, stored["step"] < config.train.steps
            if trains and not trainer.has_streams_of(stored):
                raise InputError(
                    f"device={config.device}: the run is at step {stored['step']}, trained on another kind of device, "
                    f"and its random numbers cannot be continued on {trainer.device.type}: continue it on that kind of "
                    "device, or train it from the start in another folder (runs=...)"
                )
            trainer.load_state_dict(stored)

    def run(self, state: RunState, tracker: Tracker, progress: RunProgress) -> None:
        """Resume, train, score and confirm the best step.

        Raises:
            DivergedError: if a measurement is not finite, or gradients overflow at any loss scale.
            PrunedError: if other runs were better at a rung; the run is saved.
            RunTakenOverError: if another process has taken over the run.
            KeyboardInterrupt: if `stop` said so; the run is saved.
        """
        self._state, self._tracker, self._progress = state, tracker, progress
        steps, score_every = self._config.train.steps, self._config.scorer.get("every", 0)
        self._resume()
        # A run that is only scored again does not choose its best step again.
        best = self._state.record.best
        chooses = bool(score_every) and not (best and selection_metric(best) is None and self._trainer.step >= steps)
        self._prepare_scorers()
        if chooses and self._trainer.step % score_every == 0:
            self._score(self._training_scorer, choose=True)  # in case the run was killed before it
            self._leave_if_pruned()
        with self._followers(steps) as self._check_followers:
            self._train(steps, score_every)
            if self._has_scoring_followers:
                self._finish(chooses=chooses)
                self._release_followers()
        if not self._has_scoring_followers:
            self._finish(chooses=chooses)

    def _finish(self, *, chooses: bool) -> None:
        """Score the last step, and the best one on other samples."""
        if chooses:
            self._score(self._training_scorer, choose=True)
        self._score(self._scorer, choose=False)
        self._confirm_best()

    def _resume(self) -> None:
        """Bring directory, record and tracker to the step of the checkpoint."""
        trainer = self._trainer
        if self._damage:
            self._state.writer.set_aside_checkpoint()
        for problem in self._damage:
            log.warning("falling back to the previous checkpoint: %s", problem)
        self._gpu = self._name_of_gpus()
        for what, choice in self._execution().items():
            log.debug("%s: %s", what, choice)
        if trainer.batch_dependence:
            log.warning(
                "%s, so the gradient term does not see the gradients of single examples: consider "
                "model.critic_norm=layer or none",
                trainer.batch_dependence,
            )
        log.debug("starting at step %d", trainer.step)
        trains = trainer.step < self._config.train.steps
        self._state.resume(trainer.step, trainer.images_seen, self._execution(), trains=trains)
        try:
            mirroring.replay(self._directory, self._tracker)
        except Exception as error:  # a tracker never ends a run
            log.warning("the tracker lacks earlier measurements: %s: %s", type(error).__name__, error)

    def _prepare_scorers(self) -> None:
        """Compute statistics of the real data before training, so that nothing fails after it."""
        if self._scorer is None:
            return
        self._progress.working_on("preparing to score")
        self._scorer.prepare()
        if self._training_scorer is not None and self._training_scorer is not self._scorer:
            self._training_scorer.prepare()

    def _followers(self, steps: int) -> AbstractContextManager[Check]:
        """Start the run's other processes, from the same state, if there is something to train or to score together."""
        size = self._replicas.size
        is_shared = any(_is_shared(scorer, size) for scorer in (self._training_scorer, self._scorer))
        if size == 1 or (self._trainer.step >= steps and not is_shared):
            return nullcontext(self._check_followers)
        self._has_scoring_followers = is_shared
        buffer = io.BytesIO()
        torch.save(self._trainer.state_dict(), buffer)
        return with_followers(self._replicas.size, self._trainer.device, _follow, self._config, buffer.getvalue())

    def _train(self, steps: int, score_every: int) -> None:
        config, trainer = self._config, self._trainer
        compiling = config.train.compile and trainer.step < steps
        if compiling:
            self._progress.working_on("compiling (a minute or more the first time)")
        for values in trainer.steps(steps):
            step = trainer.step
            self._state.writer.leave_if_lost()
            if compiling:
                self._progress.working_on("training")
                compiling = False
            self._unlogged.append((step, values))
            scores_now = bool(score_every) and step % score_every == 0
            saves_now = scores_now or step % config.save_every == 0 or step == steps
            if saves_now or step % config.log_every == 0:
                self._log()
            if saves_now:
                self._save()  # before scoring: scores are never ahead of the checkpoint
            if scores_now:
                self._score(self._training_scorer, choose=True)
                self._release_followers()
                self._leave_if_pruned()
            if step < steps and self._stop():
                self._save()
                raise KeyboardInterrupt

    def _leave_if_pruned(self) -> None:
        """End the run if other runs were better at this step, which is saved and scored."""
        if (why := self._competition.why_pruned(self._trainer.step)) is not None:
            raise PrunedError(why)

    def _log(self) -> None:
        """Check all measurements since the last call, and write those of this step."""
        names = list(self._unlogged[-1][1])
        table = torch.stack([torch.stack([v[name].float() for name in names]) for _, v in self._unlogged]).cpu()
        self._check_followers()
        # In fp16, a gradient may overflow: the update is skipped, and a run ends only if its loss scale gets too small.
        overflows = {"generator_gradient_norm"} if "skipped_updates" in names else set()
        may_be_infinite = torch.tensor([name in overflows for name in names])
        for (step, _), row in zip(self._unlogged, table, strict=True):
            if not (row.isfinite() | may_be_infinite).all():
                values = ", ".join(f"{name}={value:g}" for name, value in zip(names, row.tolist(), strict=True))
                raise DivergedError(f"not finite at step {step}: {values}")
            for name, value in zip(names, row.tolist(), strict=True):
                if name.endswith("_loss_scale") and value < MIN_SCALE:
                    raise DivergedError(f"gradients overflow at step {step} at any loss scale: {name}={value:g}")
        self._unlogged.clear()
        measured = {n: value for n, value in zip(names, table[-1].tolist(), strict=True) if math.isfinite(value)}
        if "gradient_norm" not in measured:
            measured["gradient_norm"] = float(self._trainer.gradient_norm())
        self._write(self._line(measured))

    def _line(self, measured: Mapping[str, float]) -> dict[str, float]:
        return {"step": self._trainer.step, "images_seen": self._trainer.images_seen, **measured}

    def _write(self, line: dict[str, float]) -> None:
        """Write a line of measurements to the directory, the tracker and the display."""
        self._state.writer.append_metrics(line)
        self._tracker.log(self._trainer.step, mirroring.tracked_values(line))
        self._progress.update(self._trainer.step, line)

    def _save(self) -> None:
        """Save a checkpoint of this step."""
        trainer, record = self._trainer, self._state.record
        if self._replicas.size > 1 and trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        self._check_followers()
        for what, choice in self._execution().items():
            if record.execution.get(what) != choice:  # for example, a graph was captured
                log.debug("%s: %s", what, choice)
        self._state.save(self._checkpoint(), trainer.step, trainer.images_seen, self._execution())

    def _execution(self) -> dict[str, str]:
        """Return a GPU's name, and what was chosen for the device. Another number of threads rounds otherwise."""
        gpu = {} if self._gpu is None else {"gpu": self._gpu}
        return {**gpu, **self._trainer.execution, "threads": str(torch.get_num_threads())}

    def _name_of_gpus(self) -> str | None:
        """Return the name of the GPU that the run is trained on, or that of several devices if it was on another."""
        name = gpu_name(self._trainer.device)
        is_same = self._trainer.step == 0 or self._state.record.execution.get("gpu") == name
        return name if is_same else SEVERAL

    def _checkpoint(self) -> dict[str, Any]:
        return {"science": dict(self._science), "trainer": self._trainer.state_dict()}

    def _score(self, scorer: Scorer | None, *, choose: bool) -> None:
        """Draw samples of this step and score it, unless that was done.

        Args:
            scorer: What scores; None to draw samples only.
            choose: Whether the step may become the best one.
        """
        step, record = self._trainer.step, self._state.record
        scored_by = None if scorer is None else self._scored_by(scorer)
        if step == 0 or (record.scores.get("step") == step and record.scored_by == scored_by):
            return
        if not self._directory.samples(step).exists():
            samples = self._trainer.sampler("picture")(self._real.num_pictured)
            picture = self._real.draw_samples(samples, self._trainer.critic_outputs)
            self._state.writer.write(self._directory.samples(step), png(picture))
            self._tracker.images(step, picture)
        if scorer is None or scored_by is None:
            return
        self._progress.working_on("scoring")
        scores = self._evaluate(scorer, "score")
        if self._scores_live(scorer):
            live = self._evaluate(scorer, "score", live=True)
            scores |= {f"{LIVE}{name}": value for name, value in live.items() if name not in MEASURED_WITH}
        line = self._line(scores if scorer is self._training_scorer else {**scores, FINAL: 1})
        if line not in self._directory.measurements():  # it is, if the run was killed before its record was written
            self._write(line)
        self._state.score(step, scores, scored_by, self._checkpoint if choose else None)

    def _scores_live(self, scorer: Scorer) -> bool:
        """Return whether the generator that is trained is scored beside its average: at the end, if requested."""
        is_end = scorer is self._scorer and self._trainer.step >= self._config.train.steps
        return is_end and bool(self._config.scorer.get("live"))

    def _scored_by(self, scorer: Scorer) -> dict[str, str]:
        also = {"also": "the generator without averaging"} if self._scores_live(scorer) else {}
        # Both scorers may have the same description and measure different metrics.
        when = {} if scorer is self._scorer else {"when": "during training"}
        return {**scorer.describe(), **when, **also}

    def _evaluate(
        self, scorer: Scorer, purpose: str, state: Mapping[str, Any] | None = None, *, live: bool = False
    ) -> dict[str, float]:
        """Return the scores of the trainer's generator, together with the followers if they can.

        Args:
            scorer: What scores.
            purpose: The purpose of the samples.
            state: The trainer's state, if it is not the one that training has led to.
            live: Whether the generator that is trained is scored instead of its average.
        """
        samples = _CountedSamples(self._trainer.sampler(purpose, live=live), self._before_samples)
        size = self._replicas.size
        if not (self._has_scoring_followers and _is_shared(scorer, size)):
            return scorer(samples, self._trainer)
        self._replicas.from_leader(_ScoreRequest(scorer is self._scorer, purpose, state, live))
        return cast("SharedScorer", scorer)(samples, self._trainer, (0, size))

    def _release_followers(self) -> None:
        """Let the followers continue after a step that is scored."""
        if self._has_scoring_followers:
            self._replicas.from_leader(None)

    def _before_samples(self, generated: int) -> None:
        """Show how many samples were generated, and leave if the run is lost or should stop."""
        self._state.writer.leave_if_lost()
        leave_if_asked()  # the step is saved; it is scored when the run is resumed
        self._progress.still_working_on(f"scoring: {generated} samples")

    def _confirm_best(self) -> None:
        """Score the best step on samples that had no part in choosing it.

        The lowest of many noisy values is too low on average, because it was chosen for being low. A run that was
        scored only once had no choice.
        """
        if self._scorer is None:
            return
        if not self._directory.best.exists():
            self._state.take_only_scores_as_best()
            return
        best = self._state.record.best
        chosen = chosen_by(best)
        if chosen and selection_metric(best) and chosen.keys() <= best.keys():  # confirmed before
            return
        checkpoint, damage = checkpoints.load(self._directory.best)
        for problem in damage:
            log.warning("falling back to an earlier best checkpoint: %s", problem)
        if checkpoint is None:
            return
        self._trainer.load_state_dict(checkpoint["trainer"])  # the last step is saved and scored
        self._progress.working_on(f"scoring step {self._trainer.step}, the best, on other samples")
        scores = self._evaluate(self._scorer, "confirmation", checkpoint["trainer"])
        step = self._trainer.step
        if step != best.get("step", step):  # the best checkpoint was damaged: this is an earlier one
            chosen = self._measured_by_choice_at(step)
        self._state.confirm(step, scores, chosen)

    def _measured_by_choice_at(self, step: int) -> dict[str, float]:
        """Return the value by which an earlier step was the best one, under its prefixed name, as it was measured."""
        lines = [line for line in self._directory.measurements() if line["step"] == step and FINAL not in line]
        return next(filter(None, map(chosen_by, lines)), {})


@dataclass
class _CountedSamples:
    """A stream of samples that says how many were generated, those of other processes included."""

    stream: SampleStream
    before: Callable[[int], None]
    """Called with the number of samples, before they are generated."""
    count: int = 0

    def __call__(self, count: int) -> Tensor:
        """Return the next `count` samples."""
        self.count += count
        self.before(self.count)
        return self.stream(count)

    def skip(self, count: int) -> None:
        """Leave the next `count` samples to other processes."""
        self.count += count
        self.stream.skip(count)


@dataclass(frozen=True)
class _ScoreRequest:
    """The leader's request to the followers to score together with it."""

    by_final_scorer: bool
    purpose: str
    state: Mapping[str, Any] | None
    live: bool


def _is_shared(scorer: Scorer | None, processes: int) -> bool:
    """Return whether several processes can score together (see `SharedScorer`)."""
    is_shared_by: Callable[[int], bool] = getattr(scorer, "is_shared_by", lambda _: False)
    return is_shared_by(processes)


def _follow(replicas: Replicas, config: Config, state: bytes) -> None:
    """Train and score as one process of several; the leading process measures, saves and ends this one."""
    parts = build(replace(config, prune=dict(NO_PRUNER)), replicas)
    trainer, scorers = parts.trainer, (parts.training_scorer or parts.scorer, parts.scorer)
    trainer.load_state_dict(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))
    scores_together = any(_is_shared(scorer, replicas.size) for scorer in scorers)
    score_every = config.scorer.get("every", 0)
    for _ in trainer.steps(config.train.steps):
        if scores_together and score_every and trainer.step % score_every == 0:
            _score_with_leader(replicas, trainer, scorers)
    if scores_together:
        _score_with_leader(replicas, trainer, scorers)


def _score_with_leader(replicas: Replicas, trainer: Trainer, scorers: Sequence[Scorer | None]) -> None:
    """Score together with the leader, as often as it requests it."""
    while (request := replicas.from_leader()) is not None:
        if request.state is not None:
            trainer.load_state_dict(request.state)
        scorer = cast("SharedScorer", scorers[request.by_final_scorer])
        scorer(trainer.sampler(request.purpose, live=request.live), trainer, (replicas.rank, replicas.size))
