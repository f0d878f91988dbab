"""The coordinates of a run: its value on every axis of choice, as text."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from wgan_sweep.config.keys import KEYS, REQUIRED, Role, find_key, leaves, role_of, science_groups, science_keys
from wgan_sweep.config.players import groups_of_players, player_node
from wgan_sweep.errors import InputError
from wgan_sweep.runs.hashing import canonical
from wgan_sweep.runs.record import Record

GROUPS = tuple(science_groups())
"""The config groups that are axes, without those of one player."""
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
    try:
        value = f"{value:g}" if isinstance(value, float) and abs(value) >= 1e16 else canonical(value)
    except InputError:  # not finite: the record is damaged
        return json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _neutral_texts() -> dict[str, str]:
    """Return the neutral values of the science keys below groups, as text."""
    return {key.name: as_text(key.neutral) for key in science_keys() if key.neutral is not REQUIRED and "." in key.name}


def coordinates(record: Record) -> dict[str, str]:
    """Return a run's value on every axis: the option of each group by name, and each science value by its key.

    Every run has values of each player's groups, such as ``critic_optimizer.lr``: those that count for the player. An
    option inside another one (a constraint of ``constraint=all_of``) is given by the name of its target. A run from
    before a key existed has its neutral value. How it was scored is that of its result: a run without one, such as one
    that failed, has no such values.
    """
    return {**trained_coordinates(record), **_scored_coordinates(record)}


def _scored_coordinates(record: Record) -> dict[str, str]:
    """Return the values on the axes that describe how a run was scored."""
    if (result := record.result) is None or not result.scores:
        return {}
    measured = {name: as_text(result.scores[name]) for name in MEASURED_WITH if name in result.scores}
    scored = {f"scored {name}": result.scored_by[name] for name in SCORED_IN if name in result.scored_by}
    return {**measured, **scored}


def trained_coordinates(record: Record) -> dict[str, str]:
    """Return the coordinates of a run without those that describe how it was scored."""
    config, choices = _with_groups_of_players(record.config)
    chosen = {key.name: choices[key.name] for key in KEYS if key.role is Role.SCIENCE and key.name in choices}
    roots = dict.fromkeys([*chosen, *(key.name.split(".")[0] for key in science_keys() if "." in key.name)])
    values = {
        key.removesuffix("._target_"): as_text(
            value if not key.endswith("._target_") else str(value).rpartition(".")[2]
        )
        for root in roots
        if root != "sampling"
        for key, value in leaves(config.get(root), root)
        if key != f"{root}._target_" and role_of(key) is Role.SCIENCE
    }
    neutral = {name: text for name, text in _neutral_texts().items() if name.partition(".")[0] in config}
    digest = record.science.get("data", {}).get("content")
    content = {"data.content": digest[:DIGITS_OF_CONTENT]} if isinstance(digest, str) else {}
    return {**chosen, **neutral, **values, **content}


def _with_groups_of_players(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a config with what counts for each player, and its choices, also of a run from before such groups."""
    values, choices = dict(config), dict(config.get("choices", {}))
    for key in KEYS if choices else ():
        if key.legacy_option and key.name not in values:
            values[key.name], choices[key.name] = {}, key.legacy_option
    for shared, own_groups in groups_of_players().items():
        if shared not in choices:
            continue
        nodes = [player_node(values, group) for group in own_groups]
        for group, node in zip(own_groups, nodes, strict=True):
            is_same = choices.get(group) in (None, find_key(group).legacy_option)
            values[group], choices[group] = node, choices[shared] if is_same else choices[group]
        if all(node == nodes[0] for node in nodes):  # as in a run's identity
            values[shared], choices[shared] = nodes[0], choices[own_groups[0]]
    return values, choices
