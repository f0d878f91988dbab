"""Runs of recipes beside the published values that the recipes name."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from wgan_sweep.config.keys import Role, find_key, leaves, overridden_key, referenced_keys, role_of
from wgan_sweep.config.reference import Reference, read_reference
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import METRIC_NAMES, NO_VALUE, Cell, group_runs
from wgan_sweep.report.text import finite, markdown, samples_text
from wgan_sweep.runs.coordinates import MEASURED_WITH, as_text, coordinates
from wgan_sweep.runs.record import Record

ConfigOfRecipe = Callable[[str], Mapping[str, Any] | None]
"""Returns the config of a recipe by its name, as it is composed today; None if it cannot be composed."""
STEPS = "train.steps"
HEADER = ["recipe", "published", "ours", "measured", "difference", "tolerance", "verdict"]


class Agreement(StrEnum):
    """How a mean over seeds compares with the published value."""

    WITHIN = "within"
    """The difference is at most the tolerance."""
    OUTSIDE = "outside"
    NO_TOLERANCE = "no tolerance"
    """The difference is shown, and the recipe does not say how large it may be."""
    NO_PUBLISHED_VALUE = "no published value"
    NO_RESULT = "no finished run"
    NOT_COMPARABLE = "not comparable"
    """Steps, samples, data or metric are not those of the recipe."""


@dataclass(frozen=True)
class Change:
    """A value in which runs differ from their recipe."""

    key: str
    ours: str
    recipe: str | None = None
    """None if the recipe is not known here."""

    @property
    def prevents_comparison(self) -> bool:
        """Whether it changes what the metric value is: steps, scoring or data."""
        key = find_key(self.key)
        return self.key == STEPS or key.role is Role.MEASUREMENT or key.name == "data"

    def __str__(self) -> str:
        """Return the change in words."""
        return f"{self.key}={self.ours}" + (f" instead of {self.recipe}" if self.recipe is not None else "")


@dataclass(frozen=True)
class Comparison:
    """The seeds of a recipe, all with the same changes, beside its published value."""

    recipe: str
    """The option of ``experiment``, else the source."""
    reference: Reference
    cell: Cell
    changes: tuple[Change, ...]
    has_recipe: bool
    """Whether the recipe could be composed here; if not, the changes are the overrides of the runs."""

    @property
    def obstacles(self) -> list[str]:
        """Why the values cannot be compared, if there are any."""
        found = [str(change) for change in self.changes if change.prevents_comparison]
        if self.cell.has_pruned_runs:
            found.append("runs were pruned, and the mean of the others is too favourable")
        is_done = any(record.result for record in self.cell.records)
        if is_done and not self.cell.values:
            found.append(f"the finished runs have no {self.cell.metric}")
        return found

    @property
    def verdict(self) -> Agreement:
        """How the mean compares with the published value."""
        if self.reference.value is None:
            return Agreement.NO_PUBLISHED_VALUE
        if self.obstacles:
            return Agreement.NOT_COMPARABLE
        if self.difference is None:
            return Agreement.NO_RESULT
        tolerance, distance = self.reference.tolerance, abs(self.difference)
        if tolerance is None:
            return Agreement.NO_TOLERANCE
        is_within = distance <= tolerance or math.isclose(distance, tolerance, rel_tol=1e-9)
        return Agreement.WITHIN if is_within else Agreement.OUTSIDE

    @property
    def difference(self) -> float | None:
        """The mean over seeds minus the published value; None if they cannot be compared."""
        if self.cell.mean is None or self.reference.value is None or self.obstacles:
            return None
        return self.cell.mean - self.reference.value

    @property
    def measured(self) -> dict[str, float | None]:
        """Features, counts and step with which the finished runs were scored."""
        scores = self._scored.scores if self._scored else {}
        return {name: scores.get(name) for name in MEASURED_WITH}

    @property
    def features(self) -> str | None:
        """The feature space in which the finished runs were scored."""
        return self._scored.scored_by.get("features") if self._scored else None

    @property
    def _scored(self) -> Record | None:
        """The first finished run with a value; all of them were scored alike."""
        results = filter(None, (record.result for record in self.cell.records))
        return next((result for result in results if self.cell.metric in result.scores), None)


class Comparisons(NamedTuple):
    """The recipes among runs."""

    rows: list[Comparison]
    without_reference: int
    """Number of runs whose config names no published value."""
    problems: list[str]
    """A line for each run that is left out because its config is damaged."""


def compare(records: Iterable[Record], config_of_recipe: ConfigOfRecipe, runs: Path) -> Comparisons:
    """Compare the runs of recipes with the published values.

    Args:
        records: The runs.
        config_of_recipe: Composes a recipe.
        runs: The folder of the run directories.
    """
    config_of_recipe = cache(config_of_recipe)  # an experiment is composed once
    members: dict[tuple[str, Reference, tuple[Change, ...], bool], list[Record]] = {}
    without_reference, problems = 0, []
    for record in records:
        try:
            name = record.config.get("choices", {}).get("experiment")
            recipe = config_of_recipe(name) if isinstance(name, str) else None
            # A run from before the key existed has the reference of its recipe.
            reference = read_reference(record.config.get("reference", (recipe or {}).get("reference")))
            if reference is None:
                without_reference += 1
                continue
            label = name if isinstance(name, str) and name else reference.source
            changes = tuple(_changes(record, recipe) if recipe is not None else _overridden(record))
            coordinates(record)  # refuses values that no config can hold
        except (InputError, TypeError, ValueError, AttributeError, RecursionError) as error:
            problems.append(f"{record.run_id} is left out, since its config is damaged: {error}")
        else:
            members.setdefault((label, reference, changes, recipe is not None), []).append(record)
    rows = [
        Comparison(name, reference, cell, changes, has_recipe)
        for (name, reference, changes, has_recipe), group in members.items()
        for cell in group_runs(group, reference.metric, runs).cells.values()
    ]
    return Comparisons(rows, without_reference, problems)


def _values(record: Record) -> dict[str, Any]:
    """Return the values of a run's config by dotted key; the steps of a run with a result are those of its scores."""
    values = dict(leaves(record.config))
    if (result := record.result) and "step" in result.scores:
        values[STEPS] = result.scores["step"]
    return values


def _is_compared(key: str) -> bool:
    """Return whether a key, or one with this beginning, counts in a comparison with a recipe."""
    return key == STEPS or (role_of(key) in (Role.SCIENCE, Role.MEASUREMENT) and key != "seed")


def _changes(record: Record, recipe: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the values in which a run differs from its recipe.

    Of an option with another target, only the names are given. A value that follows from another one, as ``loss.k``
    from ``div.k`` or ``scorer.features`` from ``features``, is left out.
    """
    ours, theirs = _values(record), dict(leaves(recipe))
    sources = (*referenced_keys(), "features")
    keys = [key for key in dict.fromkeys([*theirs, *ours]) if _is_compared(key)]
    keys.sort(key=lambda key: (key.split(".")[0] not in sources, not key.endswith("._target_"), key.count(".")))
    replaced: list[str] = []
    followed: set[tuple[str, str, str]] = set()
    for key in keys:
        node, _, name = key.rpartition(".")
        is_target = name == "_target_"
        pair = (_text(ours.get(key, NO_VALUE), is_target), _text(theirs.get(key, NO_VALUE), is_target))
        if pair[0] == pair[1] or key.startswith(tuple(replaced)) or (name.startswith("_") and not is_target):
            continue
        root, shown = key.split(".")[0], node if is_target else key
        if is_target:
            replaced.append(f"{node}.")
        if root in referenced_keys() and root not in (*record.config.get("choices", {}), *recipe["choices"]):
            continue  # no option refers to it
        following = (shown.rpartition(".")[2], *pair)
        if root in sources:
            followed.add(following)
        elif following in followed:
            continue
        if is_target and "." not in node:
            pair = (_choice(record.config, node, pair[0]), _choice(recipe, node, pair[1]))
        yield Change(shown, *pair)


def _choice(config: Mapping[str, Any], group: str, target: str) -> str:
    """Return the name of the option of a group, or the name of its target if it is not known."""
    return str(config.get("choices", {}).get(group, target))


def _text(value: Any, is_target: bool) -> str:
    return str(value).rpartition(".")[2] if is_target else as_text(value)


def _overridden(record: Record) -> Iterator[Change]:
    """Yield what the overrides of a run set, for a recipe that is not known here."""
    values, choices = _values(record), record.config.get("choices", {})
    for override in record.overrides:
        key = overridden_key(override)
        if key != "experiment" and not key.startswith("hydra") and _is_compared(key):
            value = values.get(key, choices.get(key, override.partition("=")[2] or NO_VALUE))
            yield Change(key, as_text(value))


def _labels(rows: Sequence[Comparison]) -> list[str]:
    """Return the names of the recipes, numbered where several rows have the same."""
    names = [row.recipe for row in rows]
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def table(rows: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table."""
    return HEADER, [
        [_line(label), _published(row), row.cell.text(), _measured(row), *_distance(row), str(row.verdict)]
        for label, row in zip(_labels(rows), rows, strict=True)
    ]


def _line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def _published(row: Comparison) -> str:
    if row.reference.value is None:
        return "none"
    name = METRIC_NAMES.get(row.reference.metric, row.reference.metric)
    return _line(f"{name} {as_text(row.reference.value)}")


def _measured(row: Comparison) -> str:
    values = {name: value or 0.0 for name, value in row.measured.items()}
    if not any(values.values()):
        return NO_VALUE
    feature, generated, real, points, step = (values[name] for name in MEASURED_WITH)
    return f"{samples_text(feature, generated, real, points, row.features or '')}, at step {step:.0f}"


def _distance(row: Comparison) -> tuple[str, str]:
    digits = ".2f" if row.reference.metric == "fid" else ".4g"
    difference = NO_VALUE if row.difference is None else f"{row.difference:+{digits}}"
    return difference, NO_VALUE if row.reference.tolerance is None else as_text(row.reference.tolerance)


def notes(compared: Comparisons) -> list[str]:
    """Return what differs in the settings, row by row, and which runs are left out."""
    lines = ["ours: mean ± sd over the seeds of the finished runs. difference: ours minus published."]
    for label, row in zip(_labels(compared.rows), compared.rows, strict=True):
        reference = row.reference
        setting = f": {reference.setting}" if reference.setting else ""
        lines.append(f"{label}: from {reference.source}{setting}.")
        if row.verdict is Agreement.NOT_COMPARABLE:
            lines.append(f"{label}: not comparable: {'; '.join(row.obstacles)}.")
        lines += [f"{label}: differs from the publication: {difference}" for difference in reference.differs]
        if row.changes:
            lines.append(f"{label}: changed by these runs: {', '.join(map(str, row.changes))}.")
        if not row.has_recipe:
            lines.append(
                f"{label}: the recipe is not among the options here, so changes are the overrides of the runs; give "
                "its folder by --config-dir."
            )
    if compared.without_reference:
        lines.append(f"Runs without a reference, left out: {compared.without_reference}.")
    return [_line(line) for line in lines]


def to_markdown(compared: Comparisons) -> str:
    """Return the comparisons as a Markdown table with notes."""
    return markdown(*table(compared.rows), notes(compared))


def to_json(compared: Comparisons) -> str:
    """Return the comparisons as JSON, one entry per row."""
    entries = [
        {
            "recipe": row.recipe,
            **asdict(row.reference),
            "mean": row.cell.mean,
            "sd": row.cell.sd,
            "n": len(row.cell.values),
            "features": row.features,
            **row.measured,
            "difference": row.difference,
            "verdict": row.verdict,
            "obstacles": row.obstacles,
            "changes": [asdict(change) for change in row.changes],
            "recipe_is_known": row.has_recipe,
            "status": row.cell.counts_without_value,
            "runs": [record.run_id for record in row.cell.records],
        }
        for row in compared.rows
    ]
    return json.dumps(finite(entries), indent=2) + "\n"
