"""The config keys: what each is for, and the neutral value of those that decide a run's result.

Run ids, report columns, W&B axes, the check for overrides without effect, and whether a finished run must be scored
again are all derived from this table.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any


class Role(StrEnum):
    """What a config key is for."""

    SCIENCE = "science"
    """Decides the result of training: part of a run's identity."""
    MEASUREMENT = "measurement"
    """Decides what a score is, not what is trained."""
    COMPUTING = "computing"
    """Decides how the result is computed, not what it is (up to rounding)."""
    EXTENT = "extent"
    """Decides how far a run goes."""
    PRESENTATION = "presentation"
    """Decides what is shown and how often something is logged, saved or scored."""
    PLACE = "place"
    """Decides where files are."""


REQUIRED: Any = object()
"""The neutral value of a key that has none: its value always counts."""


@dataclass(frozen=True)
class Key:
    """A config key.

    A key that is not in the table has the role of the nearest key above it.
    """

    name: str
    role: Role
    neutral: Any = REQUIRED
    """The value that means "as if this key did not exist". Never change one: ids are hashes of differences from it."""
    is_group: bool = False
    """Whether it is a config group: its options are named by files."""
    only_by_reference: bool = False
    """Whether it counts only through the interpolations of other science keys that refer to it, as ``div.k`` does."""
    shared_group: str = ""
    """Of a group that belongs to one player: the group that both players share. It has the same options, and takes from
    that group the values that it does not set itself."""
    legacy_option: str = ""
    """The option that stands for the group in a config from before it existed."""


NONE = {"_target_": "none"}
CONSTANT = {"_target_": "constant"}

KEYS = (
    Key("loss", Role.SCIENCE, is_group=True),
    Key("constraint", Role.SCIENCE, neutral=NONE, is_group=True),
    Key("sampling", Role.SCIENCE, is_group=True, only_by_reference=True),
    Key("div", Role.SCIENCE, is_group=True, only_by_reference=True),
    Key("stabiliser", Role.SCIENCE, neutral=NONE, is_group=True),
    Key("model", Role.SCIENCE, is_group=True),
    Key("data", Role.SCIENCE, is_group=True),
    Key("data.path", Role.PLACE),  # images are identified by their content
    Key("data.root", Role.PLACE),
    Key("data.flip", Role.SCIENCE, neutral=False),
    Key("optimizer", Role.SCIENCE, is_group=True),
    Key("generator_optimizer", Role.SCIENCE, is_group=True, shared_group="optimizer", legacy_option="same"),
    Key("critic_optimizer", Role.SCIENCE, is_group=True, shared_group="optimizer", legacy_option="same"),
    Key("schedule", Role.SCIENCE, neutral=CONSTANT, is_group=True, legacy_option="constant"),
    Key(
        "generator_schedule",
        Role.SCIENCE,
        neutral=CONSTANT,
        is_group=True,
        shared_group="schedule",
        legacy_option="same",
    ),
    Key(
        "critic_schedule", Role.SCIENCE, neutral=CONSTANT, is_group=True, shared_group="schedule", legacy_option="same"
    ),
    Key("critic_updates", Role.SCIENCE, neutral=CONSTANT, is_group=True, legacy_option="constant"),
    Key("train.steps", Role.EXTENT),
    Key("train.batch_size", Role.SCIENCE, neutral=64),
    Key("train.generator_batch_size", Role.SCIENCE, neutral=None),
    Key("train.n_critic", Role.SCIENCE, neutral=1),
    Key("train.ema", Role.SCIENCE, neutral=0),
    Key("train.precision", Role.SCIENCE, neutral="fp32"),
    Key("train.compile", Role.COMPUTING),
    Key("train.freeze_generator_at", Role.SCIENCE, neutral=None),
    Key("train.simultaneous", Role.SCIENCE, neutral=False),
    Key("seed", Role.SCIENCE, neutral=0),
    Key("features", Role.MEASUREMENT, is_group=True),
    Key("features.weights", Role.PLACE),  # the network's hash is part of every score
    Key("scorer", Role.MEASUREMENT, is_group=True),
    Key("scorer.features.weights", Role.PLACE),
    Key("scorer.batch_size", Role.COMPUTING),
    Key("scorer.every", Role.PRESENTATION),
    Key("scorer.during", Role.PRESENTATION),
    Key("tracker", Role.PRESENTATION, is_group=True),
    Key("figure", Role.PRESENTATION, is_group=True),
    Key("launch", Role.COMPUTING, is_group=True),
    Key("device", Role.COMPUTING),
    Key("graphs", Role.COMPUTING),
    Key("runs", Role.PLACE),
    Key("archive", Role.PLACE),
    Key("prune", Role.EXTENT, is_group=True),
    Key("claims", Role.EXTENT),
    Key("decide", Role.EXTENT),
    Key("plan", Role.PRESENTATION),
    Key("retry_diverged", Role.EXTENT),
    Key("log_every", Role.PRESENTATION),
    Key("save_every", Role.PRESENTATION),
    Key("reference", Role.PRESENTATION),  # a label: the published value with which reports compare
    Key("choices", Role.PRESENTATION),  # the names of the options; their values are what counts
)
"""Every key, once. A key without an entry of its own follows the nearest one above it."""
_BY_NAME = {key.name: key for key in KEYS}


@lru_cache(maxsize=4096)
def find_key(name: str) -> Key:
    """Return the table's entry for a key, or for the nearest key above it.

    A key below no entry (of a later version's config) counts as science: it may have decided the result.
    """
    candidate = name
    while candidate not in _BY_NAME:
        candidate, dot, _ = candidate.rpartition(".")
        if not dot:
            return Key(name, Role.SCIENCE)
    return _BY_NAME[candidate]


def role_of(name: str) -> Role:
    """Return what a key is for."""
    return find_key(name).role


def science_keys() -> list[Key]:
    """Return the keys that decide a run's result on their own, in the table's order."""
    return [key for key in KEYS if key.role is Role.SCIENCE and not key.only_by_reference]


def referenced_keys() -> list[str]:
    """Return the names of the keys that count only where a science key refers to them."""
    return [key.name for key in KEYS if key.only_by_reference]


def science_groups() -> list[str]:
    """Return the config groups that are axes of choice, in the table's order, without those of one player."""
    return [key.name for key in KEYS if key.role is Role.SCIENCE and key.is_group and not key.shared_group]


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of each value below a config node."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def without_roles(node: Any, key: str, *roles: Role) -> Any:
    """Return a config node without the values that have one of these roles.

    Args:
        node: The node.
        key: Its dotted key.
        *roles: The roles to leave out.
    """
    if not isinstance(node, Mapping):
        return node
    below = {name: f"{key}.{name}" for name in node}
    return {
        name: without_roles(value, below[name], *roles)
        for name, value in node.items()
        if role_of(below[name]) not in roles
    }


def overridden_key(override: str) -> str:
    """Return the key of a Hydra override: ``div.k`` of ``+div.k=1``, ``loss.x`` of ``+sampling@loss.x=real``."""
    return override.lstrip("+~").split("=")[0].rpartition("@")[2]


def science_overrides(overrides: Iterable[str]) -> list[str]:
    """Return the Hydra overrides of keys that decide a run's result, in their order."""
    return [override for override in overrides if role_of(overridden_key(override)) is Role.SCIENCE]
