"""The identity of a run: a hash of what decides its result.

The hash is over the science values of the config (`wgan_sweep.config.keys`) that differ from their neutral values, the
content of the training data, and the source of user modules. So an option that is added later, with a neutral value
that means "as before", changes no id; nor does a module that moves within this package, or a data file that moves.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from wgan_sweep.common.source import user_source
from wgan_sweep.config import objects
from wgan_sweep.config.keys import REQUIRED, Role, science_keys, without_roles
from wgan_sweep.config.players import groups_of_players, player_node
from wgan_sweep.config.schema import Config
from wgan_sweep.runs.data import content_digest
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.hashing import canonical, hash_of

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Identity:
    """What makes a run the run that it is."""

    run_id: str
    """The hash of the science values."""
    science: Mapping[str, Any]
    """The science values that differ from neutral, by dotted key.

    Options are given by the name of their target and by the parameters that differ from its defaults, with the digest
    of a user's source; image data by the digest of its images.
    """
    directory: RunDir
    """Where the run is."""


def identify(config: Config) -> Identity:
    """Return the identity of the run that a config requests, as of now.

    Data files and user modules may change: identify a run once, when it is requested, and pass its identity on.

    Raises:
        InputError: if the training data cannot be read, or a number is not finite.
    """
    values = science(config)
    run_id = hash_of(values)
    return Identity(run_id, values, RunDir(Path(config.runs) / run_id))


def science(config: Config) -> dict[str, Any]:
    """Return the science values of a config that differ from neutral, by dotted key (see `Identity`).

    What both players share is given once, as ``optimizer``; if they differ, by the group of each.

    Raises:
        InputError: if the training data cannot be read, or a number is not finite.
    """
    values = asdict(config)
    described = {}
    for key in science_keys():
        if key.shared_group:
            node = player_node(values, key.name)
        else:
            node = reduce(_value, key.name.split("."), values)
            node = key.neutral if node is _MISSING else node
        described[key.name] = _describe_data(node) if key.name == "data" else _describe(node, key.name)
    if "_source_" in described["data"]:  # a user's option is described with all its parameters
        del described["data.flip"]
    for shared, own_groups in groups_of_players().items():
        own = {group: described.pop(group) for group in own_groups}
        first, *others = own.values()
        if all(other == first for other in others):
            described[shared] = first
        else:
            del described[shared]
            described |= own
    neutral = {key.name: key.neutral for key in science_keys()}
    return {
        name: value
        for name, value in described.items()
        if neutral[name] is REQUIRED or value != canonical(neutral[name])
    }


_MISSING: Any = object()


def _value(node: Any, name: str) -> Any:
    """Return a value of a node, `_MISSING` if the node is of an option that has no such value."""
    return node.get(name, _MISSING)


def run_id(config: Config) -> str:
    """Return the id of the run that a config requests (see `identify`)."""
    return identify(config).run_id


def _describe(node: Any, key: str) -> Any:
    """Return a config node as identity sees it: targets by name, without parameters at their defaults."""
    if isinstance(node, list | tuple):
        return [_describe(item, key) for item in node]
    if not isinstance(node, Mapping):
        return canonical(node, key)
    parameters = {
        str(name): _describe(value, f"{key}.{name}") for name, value in node.items() if name not in objects.WIRING
    }
    if node.get("_target_") is None:
        return parameters
    path = str(node["_target_"])
    target = objects.target_of(node)
    defaults = _defaults(target)
    differing = {name: value for name, value in parameters.items() if name not in defaults or value != defaults[name]}
    source = user_source(path, target)
    # Within this package by its name only: its module may move.
    name = path if source or not path.startswith(f"{PACKAGE}.") else str(target.__qualname__)
    return {"_target_": name, **differing, **({"_source_": source} if source else {})}


def _defaults(target: Any) -> dict[str, Any]:
    """Return the defaults of a target's parameters, as far as a config can hold them.

    A parameter at its default is left out of the identity. So a default must not change: add another option instead.
    """
    plain = (int, float, str, bool, list, tuple, dict, type(None))
    return {
        name: canonical(parameter.default)
        for name, parameter in objects.signature(target).parameters.items()
        if isinstance(parameter.default, plain)
    }


def _describe_data(node: Mapping[str, Any]) -> Any:
    """Return what identifies the training data: the digest of its images, or the parameters of a distribution.

    A user's option is described in full beside the digest: it may make other batches of the same images.
    """
    digest = content_digest(node)
    if digest is None:
        return _describe(node, "data")
    described = _describe(without_roles(node, "data", Role.PLACE), "data")
    return {"content": digest, **(described if "_source_" in described else {})}
