"""Claims about how often something happens to runs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wgan_sweep.report.claim_kinds.bounds import Bound
from wgan_sweep.report.claim_kinds.question import LostRun, Question, Selector, Setting, matches
from wgan_sweep.report.inference import rates
from wgan_sweep.runs.record import Status


@dataclass(frozen=True)
class Event:
    """Something that happens to a run: it is lost, or a metric value lies beyond a bound."""

    text: str
    """``lost``, ``diverged``, ``failed``, or a bound; with a bound, lost runs count, too."""

    def __post_init__(self) -> None:
        """Refuse any other text."""
        if self.text not in ("lost", Status.DIVERGED, Status.FAILED) and self.bound is None:
            raise ValueError(f"event {self.text!r} is none of: lost, diverged, failed, {Bound.FORMS}")

    @property
    def bound(self) -> Bound | None:
        """The bound; None if it is about lost runs."""
        return Bound.parse(self.text)

    def happened_to(self, run: LostRun) -> bool:
        """Whether the event happened to a lost run."""
        return self.text not in (Status.DIVERGED, Status.FAILED) or run.record.status == self.text

    def happened(self, scores: Mapping[str, float]) -> bool | None:
        """Whether the event happened to a finished run; None if it has no such metric."""
        if self.bound is None:
            return False
        value = scores.get(self.bound.metric, math.nan)
        return None if math.isnan(value) else self.bound.holds(value)


@dataclass(frozen=True)
class Rarer:
    """Claims that an event is rarer among runs of one kind than among runs of another kind."""

    claim: str
    claimed: Selector
    """Selects the claim's own runs."""
    than: Selector
    """Selects the runs that they are compared with; the claim's own runs are left out."""
    event: Event

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it names."""
        return (self.event.bound.metric,) if self.event.bound else ()

    def ask(self, setting: Setting) -> Question | None:
        """Return the question in a setting; None if the setting lacks runs on one side."""
        own_runs = self._outcomes(setting, lambda run: matches(run, self.claimed))
        rival_runs = self._outcomes(setting, lambda run: matches(run, self.than) and not matches(run, self.claimed))
        if not own_runs or not rival_runs:
            return None
        own, rivals = ((sum(happened for _, happened in side), len(side)) for side in (own_runs, rival_runs))
        return Question(
            [run_id for side in (own_runs, rival_runs) for run_id, _ in side if run_id],
            min(own[1], rivals[1]),
            lambda level: rates.rarer(own, rivals, level),
            lambda level: rates.seeds_for_rates(own, rivals, level),
        )

    def _outcomes(self, setting: Setting, is_selected: Callable[[Mapping[str, str]], bool]) -> list[tuple[str, bool]]:
        """Return the id (empty for a lost run) and whether the event happened, of each selected run that shows it."""
        finished = [
            (record.run_id, happened)
            for cell, records in setting.cells.items()
            if is_selected(dict(cell))
            for record in records
            if (happened := self.event.happened(record.scores)) is not None
        ]
        return finished + [("", self.event.happened_to(run)) for run in setting.lost if is_selected(run.coordinates)]
