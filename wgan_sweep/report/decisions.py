"""What sweeps that trained until their claims were decided have recorded, for reports on their runs."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from wgan_sweep.common.ranges import check_value
from wgan_sweep.common.reading import read_document
from wgan_sweep.report.claims import Judgement
from wgan_sweep.runs.record import Record

DECISION = "decision.json"
"""Name of the record in the folder of a sweep."""


@dataclass(frozen=True)
class Decided:
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


@dataclass(frozen=True)
class DecisionRecord:
    """The decisions of a sweep, as ``decision.json`` holds them."""

    claims: list[Decided]
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
        claims = [Decided(**_checked(Decided, entry)) for entry in _checked(list, values.get("claims"))]
        return cls(**{**_checked(cls, {**values, "claims": []}), "claims": claims})


def _checked(kind: Any, values: Any) -> Any:
    if kind is list:
        check_value(values, list[dict[str, Any]], "claims")
        return values
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name in values and name != "claims"}
    for name, hint in hints.items():
        check_value(values[name], hint, name)
    return {name: values[name] for name in hints}


def read_decisions(folder: Path) -> list[tuple[Path, DecisionRecord]]:
    """Return the decisions of the sweeps of a folder of runs, oldest first; files that cannot be read are left out."""
    found = []
    for path in sorted((folder / ".sweeps").glob(f"*/{DECISION}")):
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
    decisions = read_decisions(folder)
    marked = {record.run_id for record in records if record.config.get("claims") is not None}
    return [replace(judgement, collected=_collected(judgement, decisions, marked)) for judgement in judgements]


def _collected(judgement: Judgement, decisions: Sequence[tuple[Path, DecisionRecord]], marked: set[str]) -> str:
    runs = set(judgement.runs)
    for path, decision in reversed(decisions):
        if runs.isdisjoint(decision.runs):
            continue
        same = [entry for entry in decision.claims if entry.claim == judgement.claim]
        same = [entry for entry in same if entry.setting == judgement.setting] if len(same) > 1 else same
        verdict = (
            f"the verdict that holds is {same[0].verdict}, {same[0].standing}" if same else "it tests other claims"
        )
        return f"{FIXED}; {path} has the decision: {verdict}"
    return f"{FIXED}, and no {DECISION} of their sweep is here" if runs & marked else ""


FIXED = "its runs were collected until decided, for which p-values of a fixed number of seeds do not hold"
