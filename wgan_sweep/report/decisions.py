"""What sweeps that trained until their claims were decided have recorded, for reports on their runs."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wgan_sweep.common.ranges import check_value
from wgan_sweep.common.reading import read_document
from wgan_sweep.report.claims import Judgement
from wgan_sweep.report.inference.evidence import with_interval
from wgan_sweep.runs.record import Record, checked_fields
from wgan_sweep.runs.requests import DECISION, decision_files


@dataclass(frozen=True)
class ClaimOutcome:
    """Where a claim stood in a setting when the sweep ended."""

    claim: str
    setting: str
    verdict: str
    standing: str
    """Where it stands, in words."""
    look: int
    """Number of looks at it."""
    seeds: int
    """Seeds per cell at the last of them."""
    p_for: float | None = None
    """Over all looks and claims, likewise `p_against`; None if it could not be tested."""
    p_against: float | None = None
    effect: float | None = None
    """Positive if it agrees with the claim; None if it is infinite, or if the claim could not be tested."""
    low: float | None = None
    """Lower end of the effect's interval, over all looks; likewise `high`. None if it is infinite."""
    high: float | None = None

    @property
    def measured(self) -> str:
        """The effect with its interval; empty if the claim could not be tested."""
        if self.effect is None and self.low is None and self.high is None:
            return ""
        infinite = math.inf if self.high is None else -math.inf
        return with_interval(_number(self.effect, infinite), _number(self.low, -math.inf), _number(self.high, math.inf))

    @property
    def result(self) -> str:
        """Verdict, effect and interval, and where the claim stands."""
        effect = self.measured and f" with an effect of {self.measured}"
        return f"{self.verdict}{effect}, {self.standing}"


def _number(value: float | None, infinite: float) -> float:
    return infinite if value is None else value


@dataclass(frozen=True)
class DecisionRecord:
    """The decisions of a sweep, as ``decision.json`` holds them."""

    claims: list[ClaimOutcome]
    looks: list[int]
    """Seeds per cell at each look."""
    seeds: list[int]
    """The seeds, in the order in which they were trained."""
    runs: list[str]
    """Ids of the runs."""
    hours: float = 0.0
    """Time of the runs."""
    stopped: str = ""
    """Why the sweep ended although claims were open; empty if it did not."""
    format: int = field(default=1)
    """Version of this format."""

    @classmethod
    def from_json(cls, values: Any) -> "DecisionRecord":
        """Return the record that a JSON value describes; keys of later versions are ignored.

        Raises:
            TypeError, ValueError: if the value is not of this form.
        """
        check_value(values.get("claims"), list[dict[str, Any]], "claims")
        claims = [ClaimOutcome(**checked_fields(ClaimOutcome, entry)) for entry in values["claims"]]
        others = {name: value for name, value in values.items() if name != "claims"}
        return cls(claims=claims, **checked_fields(cls, others))


def read_decisions(folder: Path) -> list[tuple[Path, DecisionRecord]]:
    """Return the decisions of the sweeps of a folder of runs, oldest first; files that cannot be read are left out."""
    found = []
    for path in decision_files(folder):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            found.append((path, DecisionRecord.from_json(json.loads(read_document(path)))))
    return found


def with_decisions(judgements: Sequence[Judgement], records: Iterable[Record], folder: Path) -> list[Judgement]:
    """Return judgements that say if their runs were collected until claims were decided.

    Args:
        judgements: Judgements by tests for a fixed number of seeds.
        records: The runs.
        folder: The folder of runs, whose sweeps are searched.
    """
    decisions = [(path.relative_to(folder), decision) for path, decision in read_decisions(folder)]
    marked = {record.run_id for record in records if record.config.get("claims") is not None}
    return [replace(judgement, collected=_collected(judgement, decisions, marked)) for judgement in judgements]


def _collected(judgement: Judgement, decisions: Sequence[tuple[Path, DecisionRecord]], marked: set[str]) -> str:
    runs = set(judgement.runs)
    others = ""
    for path, decision in reversed(decisions):
        if runs.isdisjoint(decision.runs):
            continue
        same = [entry for entry in decision.claims if entry.claim == judgement.claim]
        same = [entry for entry in same if entry.setting == judgement.setting] if len(same) > 1 else same
        if same:
            return f"{FIXED}; {path} has the decision: the verdict that holds is {same[0].result}"
        others = others or f"{FIXED}; {path} has the decision: it tests other claims"
    return others or (f"{FIXED}, and no {DECISION} of their sweep is here" if runs & marked else "")


FIXED = "seeds were added until it was decided, so p-values for a fixed number of seeds do not hold"
