"""Claims about how often something happens to runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wgan_sweep.report.claim_kinds.bounds import Bound
from wgan_sweep.report.claim_kinds.claim import (
    ClaimTest,
    Selector,
    Setting,
    matches,
    other_differences,
    select_sides,
)
from wgan_sweep.report.inference import rates
from wgan_sweep.runs.record import Record, Status, worst_value


@dataclass(frozen=True)
class Event:
    """Something that happens to a run: it is lost, or a metric value lies beyond a bound."""

    text: str
    """``lost``, ``diverged``, ``failed``, or a bound, such as ``fid > 200``."""

    def __post_init__(self) -> None:
        """Refuse any other text."""
        if self.text not in ("lost", Status.DIVERGED, Status.FAILED) and self.bound is None:
            raise ValueError(f"event {self.text!r} is none of: lost, diverged, failed, {Bound.FORMS}")

    @property
    def bound(self) -> Bound | None:
        """The bound; None if it is about lost runs."""
        return Bound.parse(self.text)

    def happened_to(self, record: Record, *, has_value: bool) -> bool | None:
        """Whether the event happened to a run that ended; None if that is not known.

        A lost run counts as worse than all others: it is above a bound if low values of the metric are good, and below
        it if high ones are. If neither is known, its event is not known. Nor is it known whether a failed run would
        have diverged.

        Args:
            record: The run.
            has_value: Whether a finished run has a value of the compared metric; else it is lost.
        """
        if self.text == "lost":
            return record.is_lost or not has_value
        if self.bound is None:
            might_have_diverged = self.text == Status.DIVERGED and record.status == Status.FAILED
            return None if might_have_diverged else record.status == self.text
        value = worst_value(self.bound.metric) if record.is_lost else record.scores.get(self.bound.metric)
        return None if value is None or math.isnan(value) else self.bound.holds(value)


@dataclass(frozen=True)
class Rarer:
    """Claims that an event is rarer among runs of one kind than among runs of another kind.

    The runs of all cells of a side count together. If it is not known of a run whether the event happened to it, there
    is no verdict.
    """

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

    def test_in(self, setting: Setting) -> ClaimTest | None:
        """Return its test in a setting; None if the setting lacks runs on one side."""
        sides = [
            self._outcomes(setting, lambda run: matches(run, self.claimed)),
            self._outcomes(setting, lambda run: matches(run, self.than) and not matches(run, self.claimed)),
        ]
        known = [[(record, happened) for record, happened in side if happened is not None] for side in sides]
        if not all(known):
            return None
        own, rivals = (_by_seed(side) for side in known)
        unknown = [len(side) - len(shown) for side, shown in zip(sides, known, strict=True)]
        return ClaimTest(
            # Also those whose event is not known: pruned runs are looked for among them.
            [record.run_id for side in sides for record, _ in side if not record.is_lost],
            min(map(len, known)),
            lambda level: rates.rarer(own, rivals, level),
            lambda level: rates.seeds_for_rates(own, rivals, level),
            lost=(unknown[0], unknown[1]),
            withheld=(any(unknown), any(unknown)),
            details=lambda: self._other_differences(setting),
        )

    def _other_differences(self, setting: Setting) -> list[str]:
        own, rivals = select_sides(setting.cells, self.claimed, self.than)
        return other_differences(setting.cells, own, rivals, self.claimed, self.than)

    def _outcomes(
        self, setting: Setting, is_selected: Callable[[Mapping[str, str]], bool]
    ) -> list[tuple[Record, bool | None]]:
        """Return whether the event happened to each selected run; None where that is not known."""
        runs: list[tuple[Mapping[str, str], Record, bool]] = [
            (dict(cell), record, True) for cell, records in setting.cells.items() for record in records
        ]
        runs += [(run.coordinates, run.record, False) for run in setting.without_value]
        return [
            (record, self.event.happened_to(record, has_value=has_value))
            for values, record, has_value in runs
            if is_selected(values)
        ]


def _by_seed(outcomes: Sequence[tuple[Record, bool]]) -> list[rates.Counts]:
    """Return, for each seed, the number of its runs to which the event happened, and of all its runs."""
    by_seed: dict[Any, list[bool]] = {}
    for record, happened in outcomes:
        by_seed.setdefault(record.config.get("seed"), []).append(happened)
    return [(sum(runs), len(runs)) for runs in by_seed.values()]
