"""Groups of one player, such as ``critic_optimizer``: what they do not set is taken from the group of both players."""

from collections.abc import Mapping
from typing import Any

from wgan_sweep.config.keys import KEYS, find_key


def groups_of_players() -> dict[str, list[str]]:
    """Return the groups of the single players, by the group of both: ``optimizer`` and ``schedule``."""
    groups: dict[str, list[str]] = {}
    for key in KEYS:
        if key.shared_group:
            groups.setdefault(key.shared_group, []).append(key.name)
    return groups


def player_node(values: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the node that counts for one player.

    Args:
        values: A config, or that of a record from before the group existed.
        group: The group of one player, such as ``critic_optimizer``.

    Returns:
        The group's own node if an option of its own was chosen; else the shared group's node, updated with the values
        of the player's group that are not null.
    """
    own, shared = _mapping(values.get(group)), _mapping(values.get(find_key(group).shared_group))
    if own.get("_target_") is not None:
        return dict(own)
    return {**shared, **{name: value for name, value in own.items() if value is not None}}


def sets_value(node: Any, name: str) -> bool:
    """Return whether the node of a player's group replaces a value of the group of both players.

    Args:
        node: The node; a value that is not a mapping sets nothing.
        name: The key below the group; empty for the group as a whole.
    """
    own = _mapping(node)
    return own.get("_target_") is not None or (bool(name) and own.get(name.partition(".")[0]) is not None)


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}
