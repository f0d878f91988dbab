"""One loop carries a trainer's measurements outward: to the run's directory, its tracker and the display."""

import io
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wgan_sweep.runs import checkpoints
from wgan_sweep.config.schema import Config, check_science, replicas, science
from wgan_sweep.runs.build import Scorer, build
from wgan_sweep.common.files import write
from wgan_sweep.common.images import png
from wgan_sweep.runs.mirroring import replay
from wgan_sweep.common.progress import RunProgress
from wgan_sweep.training.replicas import Check, Replicas, with_followers
from wgan_sweep.runs.directory import Record, RunDir, objective
from wgan_sweep.tracking.wandb import FINAL, Tracker

log = logging.getLogger("wgan_sweep")

CHOSEN_BY = "chosen_by_"
"""Before the name of the score that a step was chosen by; the score under the plain name is that of fresh images."""


def chosen_by(best: Mapping[str, float]) -> dict[str, float]:
    """Return the score that the best step was chosen by, under its name; empty where there is none."""
    judged = objective(best)
    kept = {name: value for name, value in best.items() if name.startswith(CHOSEN_BY)}
    return kept or ({f"{CHOSEN_BY}{judged}": best[judged]} if judged else {})


class DivergedError(Exception):
    """A measurement that is not finite."""


class Session:
    """One sitting of a run: from its checkpoint, or from nothing, to its end.

    Building it writes nothing, so that a config that cannot work leaves no trace.
    """

    def __init__(self, config: Config, directory: RunDir, stop: Callable[[], bool]) -> None:
        self._config = config
        self._directory = directory
        self._stop = stop
        self._replicas = Replicas(0, replicas(config))
        parts = build(config, self._replicas)
        self._trainer, self._real, self._scorer = parts.trainer, parts.real, parts.scorer
        self._while_training = parts.scorer_during or parts.scorer
        self._window: list[tuple[int, dict[str, Tensor]]] = []
        self._check_others: Check = lambda: None
        state, self._problems = checkpoints.load(directory.checkpoint)
        if state is not None:
            check_science(directory.checkpoint, state["science"], config)
            self._trainer.load_state_dict(state["trainer"])

    def run(self, record: Record, tracker: Tracker, shown: RunProgress) -> None:
        """Train and score to the end that the config asks for."""
        self._record, self._tracker, self._shown = record, tracker, shown
        self._take_up()
        if self._scorer is not None:
            shown.working_on("preparing to score")
            for scorer in {id(scorer): scorer for scorer in (self._scorer, self._while_training) if scorer}.values():
                scorer.prepare()
        every, until = self._config.scorer.get("every", 0), self._config.train.steps
        has_chosen = bool(self._record.best) and objective(self._record.best) is None
        only_scored_again = has_chosen and self._trainer.step >= until
        if every and self._trainer.step % every == 0 and not only_scored_again:
            self._score(self._while_training, choosing=True)  # it may have been killed at this point
        with self._help(until) as self._check_others:
            self._train(every, until)
        if every and not only_scored_again:
            self._score(self._while_training, choosing=True)
        self._score(self._scorer, choosing=False)
        self._conclude()

    def _help(self, until: int) -> AbstractContextManager[Check]:
        """Have the run's other processes train along, from the same state."""
        if self._replicas.size == 1 or self._trainer.step >= until:
            return nullcontext(self._check_others)
        state = io.BytesIO()
        torch.save(self._trainer.state_dict(), state)
        return with_followers(self._replicas.size, self._trainer.device, _train_along, self._config, state.getvalue())

    def _train(self, every: int, until: int) -> None:
        compiling = self._config.train.compile and self._trainer.step < until
        if compiling:
            self._shown.working_on("compiling (a minute or more, where it was never done before)")
        for values in self._trainer.steps(until):
            step = self._trainer.step
            if compiling:
                self._shown.working_on("training")
                compiling = False
            self._window.append((step, values))
            scoring = bool(every) and step % every == 0
            saving = step % self._config.save_every == 0
            if step % self._config.log_every == 0 or scoring or saving or step == until:
                self._log()
            if scoring or saving or step == until:
                self._save()  # before scoring: a score is never ahead of the checkpoint
            if scoring:
                self._score(self._while_training, choosing=True)
            if step < until and self._stop():
                self._save()
                raise KeyboardInterrupt

    def _take_up(self) -> None:
        """Bring directory and record to the step that the checkpoint is at."""
        if self._problems:
            checkpoints.set_aside(self._directory.checkpoint)
        for problem in self._problems:
            log.warning("falling back to the previous checkpoint: %s", problem)
        for what, how in self._trainer.how.items():
            log.debug("%s: %s", what, how)
        if self._trainer.batch_dependence:
            log.warning(
                "%s, so the gradient term is not about single examples: consider model.critic_norm=layer or none",
                self._trainer.batch_dependence,
            )
        log.debug("starting at step %d", self._trainer.step)
        self._directory.truncate_metrics(self._trainer.step)
        try:
            replay(self._directory, self._tracker)
        except Exception as error:  # a mirror never ends a run
            log.warning("the mirror will lack what was measured before: %s: %s", type(error).__name__, error)
        for scores in (self._record.scores, self._record.best):
            if scores.get("step", 0) > self._trainer.step:
                scores.clear()
        self._record.step, self._record.images_seen = self._trainer.step, self._trainer.images_seen
        if self._trainer.step < self._config.train.steps or not self._record.how:
            self._record.how = self._trainer.how
        self._directory.write_record(self._record)

    def _log(self) -> None:
        """Write the last step's measurements; look at all since the last time for one that is not finite."""
        names = list(self._window[-1][1])
        table = torch.stack([torch.stack([values[name].float() for name in names]) for _, values in self._window]).cpu()
        self._check_others()
        for (step, _), row in zip(self._window, table, strict=True):
            if not row.isfinite().all():
                bad = ", ".join(f"{name}={value:g}" for name, value in zip(names, row.tolist(), strict=True))
                raise DivergedError(f"not finite at step {step}: {bad}")
        self._window.clear()
        measured = dict(zip(names, table[-1].tolist(), strict=True))
        if "gradient_norm" not in measured:
            measured["gradient_norm"] = float(self._trainer.gradient_norm())
        measured["generator_gradient_norm"] = float(self._trainer.generator_gradient_norm())
        self._write(self._line(measured))

    def _line(self, measured: Mapping[str, float]) -> dict[str, float]:
        return {"step": self._trainer.step, "images_seen": self._trainer.images_seen, **measured}

    def _write(self, line: dict[str, float]) -> None:
        """Write measurements of this step."""
        self._directory.append_metrics(line)
        self._tracker.log(self._trainer.step, {name: value for name, value in line.items() if name != "step"})
        self._shown.update(self._trainer.step, line)

    def _save(self) -> None:
        if self._replicas.size > 1 and self._trainer.device.type == "cuda":
            torch.cuda.synchronize(self._trainer.device)
        self._check_others()
        checkpoints.save(self._directory.checkpoint, self._state())
        self._record.step, self._record.images_seen = self._trainer.step, self._trainer.images_seen
        for what, how in self._trainer.how.items():
            if self._record.how.get(what) != how:  # a graph was made, or could not be
                log.debug("%s: %s", what, how)
        self._record.how = self._trainer.how
        self._directory.write_record(self._record)

    def _state(self) -> dict[str, Any]:
        return {"science": science(self._config), "trainer": self._trainer.state_dict()}

    def _score(self, scorer: Scorer | None, *, choosing: bool) -> None:
        """Score this step, unless that is done; leave a picture in any case.

        Args:
            scorer: What scores.
            choosing: Whether the step may be chosen as the best one.
        """
        step = self._trainer.step
        how = None if scorer is None else scorer.describe()
        if step == 0 or (self._record.scores.get("step") == step and self._record.scored_by == how):
            return
        if not self._directory.samples(step).exists():
            picture = self._real.picture(self._trainer.sampler("picture")(self._real.num_pictured), self._trainer.score)
            write(self._directory.samples(step), png(picture))
            self._tracker.images(step, picture)
        if scorer is None or how is None:
            return
        self._shown.working_on("scoring")
        scores = scorer(self._counted("score"), self._trainer)
        line = self._line(scores if scorer is self._while_training else {**scores, FINAL: 1})
        if line not in self._directory.read_metrics():  # killed after this line and before the record
            self._write(line)
        self._record.scores, self._record.scored_by = {"step": step, **scores}, how
        if choosing:
            self._choose()
        self._directory.write_record(self._record)

    def _counted(self, purpose: str) -> Callable[[int], Tensor]:
        """Return a sampler that shows how many samples it has made."""
        sample, made = self._trainer.sampler(purpose), 0

        def counted(count: int) -> Tensor:
            nonlocal made
            if self._stop():
                raise KeyboardInterrupt  # the step is saved, and will be scored when the run is taken up
            made += count
            self._shown.still_working_on(f"scoring: {made} samples")
            return sample(count)

        return counted

    def _choose(self) -> None:
        """Keep this step as the best one, and a checkpoint of it, if no other has a lower score."""
        scores, best = self._record.scores, self._record.best
        judged = objective(scores)
        if judged is None:  # nothing to choose by
            return
        if self._directory.best.exists():
            lowest = best.get(f"{CHOSEN_BY}{judged}", best.get(judged, math.inf))
            if scores[judged] > lowest:
                return
        checkpoints.save(self._directory.best, self._state())
        self._record.best = dict(scores)

    def _conclude(self) -> None:
        """Say what the best step is worth: score it as at the end, on samples that had no part in choosing it.

        The lowest of many noisy scores is too low on average: it was chosen for being low (the winner's curse). The
        same weights on fresh images have no such luck. A run scored only once had no choice.
        """
        if self._scorer is None:
            return
        if not self._directory.best.exists():
            self._record.best = dict(self._record.scores)
            self._directory.write_record(self._record)
            return
        best = self._record.best
        chosen = chosen_by(best)
        if chosen and objective(best) and chosen.keys() <= best.keys():  # confirmed already
            return
        state, problems = checkpoints.load(self._directory.best)
        for problem in problems:
            log.warning("falling back to an earlier best checkpoint: %s", problem)
        if state is None:
            return
        self._trainer.load_state_dict(state["trainer"])  # the last step is saved and scored
        self._shown.working_on(f"scoring step {self._trainer.step}, the best, on other samples")
        scores = self._scorer(self._counted("confirmation"), self._trainer)
        self._record.best = {"step": self._trainer.step, **scores, **chosen}
        self._directory.write_record(self._record)


def _train_along(replicas: Replicas, config: Config, state: bytes) -> None:
    """Train as one process of several; the leading one measures, saves and ends this."""
    trainer = build(replace(config, scorer={"_target_": None, "every": 0}), replicas).trainer
    trainer.load_state_dict(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))
    for _ in trainer.steps(config.train.steps):
        pass
