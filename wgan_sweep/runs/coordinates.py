"""The coordinates of a run: its value on every axis of choice, as text."""

import json
from typing import Any

from wgan_sweep.config.keys import Role, leaves, role_of, science_groups, science_keys
from wgan_sweep.runs.hashing import canonical
from wgan_sweep.runs.record import Record, Status

GROUPS = tuple(science_groups())
"""The config groups that are axes."""
MEASURED_WITH = ("fid_feature", "fid_generated", "fid_real", "exact_samples", "step")
"""Entries of a record's `scores` that two scores must share to be comparable."""
SCORED_IN = ("features", "network", "resize", "real")
"""Entries of a record's `scored_by` that two scores must share to be comparable."""
SCORING_AXES = (*MEASURED_WITH, *(f"scored {name}" for name in SCORED_IN))
"""The axes that describe how a run was scored. Metric values are comparable only if these agree."""
DIGITS_OF_CONTENT = 8
"""Of the digest of the training images, on the axis ``data.content``."""


def as_text(value: Any) -> str:
    """Return a config value as reports show it: one spelling per number."""
    value = f"{value:g}" if isinstance(value, float) and abs(value) >= 1e16 else canonical(value)
    return value if isinstance(value, str) else json.dumps(value)


def coordinates(record: Record) -> dict[str, str]:
    """Return a run's value on every axis: the option of each group by name, and each science number by its key."""
    config = record.config
    choices = config.get("choices", {})
    chosen = {group: choices[group] for group in GROUPS if group in choices}
    roots = dict.fromkeys([*chosen, *(key.name.split(".")[0] for key in science_keys() if "." in key.name)])
    numbers = {
        key: as_text(value)
        for root in roots
        if root != "sampling"
        for key, value in leaves(config.get(root), root)
        if not key.endswith("_target_") and role_of(key) is Role.SCIENCE
    }
    digest = record.science.get("data", {}).get("content")
    content = {"data.content": digest[:DIGITS_OF_CONTENT]} if isinstance(digest, str) else {}
    scores = record.scores if record.status == Status.DONE else {}
    measured = {name: as_text(scores[name]) for name in MEASURED_WITH if name in scores}
    scored = {f"scored {name}": record.scored_by[name] for name in SCORED_IN if scores and name in record.scored_by}
    return {**chosen, **numbers, **content, **measured, **scored}
