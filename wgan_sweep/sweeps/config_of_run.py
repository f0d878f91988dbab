"""Asking for a run again from its directory: its config becomes overrides of this package's own config.

Hydra does not read the file itself. It could name callbacks and log handlers, whose code Hydra would run.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from wgan_sweep.common.ranges import shown
from wgan_sweep.config import catalogue, folders, schema
from wgan_sweep.config.keys import KEYS, Role, leaves, overridden_key, role_of
from wgan_sweep.config.refusals import BAD_INPUT, explain
from wgan_sweep.config.targets import check_untrusted
from wgan_sweep.errors import InputError
from wgan_sweep.sweeps.arguments import take

PATH_FLAGS, NAME_FLAGS = ("--config-path", "-cp"), ("--config-name", "-cn")
NOT_OF_THE_RUN = ("choices", "archive", "prune", "claims", "decide")
"""Keys that are not taken from a run: the choices are given as groups, and the others belonged to its sweep."""


def expand(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with overrides in the place of ``--config-path`` if it names a run.

    Args:
        arguments: The command line, without the program.

    Raises:
        InputError: if the run's config cannot be read, if it names code that the command line does not name, by itself
            or by the folder of its module, or if no overrides lead to it.
    """
    others = list(arguments)
    path = take(others, PATH_FLAGS)
    if path is None or not (Path(path) / "record.json").exists():
        return list(arguments)
    name = take(others, NAME_FLAGS)
    if name not in (None, "config", "config.yaml"):
        raise InputError(f"--config-name={name} with a run's directory: its config is named config; leave it out")
    given = [text for text in others if text.startswith("~") or ("=" in text and not text.startswith("-"))]
    flags = [argument for argument in others if argument not in given]
    return [*flags, *_overrides(Path(path), given), *given]


def _overrides(directory: Path, given: Sequence[str]) -> list[str]:
    """Return the overrides that lead to the config of a run, except those of groups that are chosen anew."""
    config = schema.read(directory / "config.yaml")
    chosen = {overridden_key(override) for override in given}
    named = [override.partition("=")[2] for override in given if "_target_=" in override]
    remedy = f"name it on the command line, by KEY._target_=NAME, or the folder of its module, by {folders.FLAG} FOLDER"
    check_untrusted(asdict(config), str(directory), [*named, *folders.trusted_names()], remedy=remedy)
    # Without the experiment, which would request its other runs, too; its values are among those below.
    options = {key.name: config.choices[key.name] for key in KEYS if key.name in config.choices}
    groups = {group: f"{group}={name}" for group, name in options.items() if group not in NOT_OF_THE_RUN}
    wanted = {name: node for name, node in asdict(config).items() if name not in NOT_OF_THE_RUN}
    changes, left = _changes([*groups.values()], wanted, deletes=True)
    for key, change in left.items():
        if role_of(key) is Role.SCIENCE and not _is_chosen(key, chosen):
            raise InputError(
                f"no overrides lead to the config of {directory}: {key} would be {_shown(change.composed)} instead of "
                f"{_shown(change.wanted)}; give the overrides of its record.json"
            )
    kept = {key: change for key, change in changes.items() if not _is_chosen(key, chosen)}
    return [override for group, override in groups.items() if group not in chosen] + _as_overrides(kept)


def _is_chosen(key: str, chosen: Collection[str]) -> bool:
    """Return whether one of the keys that the command line gives is a key, or is above or below it."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in chosen)


def differences(config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the keys, values and defaults of a run's config where they differ: of groups, the options' names.

    Values that follow from others, through the config's references or options, are left out.

    Args:
        config: The config of a run's record.

    Raises:
        InputError: if the config refers to other values, or names options that do not exist.
    """
    wanted = {name: node for name, node in config.items() if name not in (*NOT_OF_THE_RUN, "runs")}
    if references := [key for key, value in leaves(wanted) if "${" in str(value)]:
        raise InputError(f"{references[0]} is an interpolation, which is not resolved here")
    choices: Mapping[str, str] = config.get("choices", {})
    groups = [f"{group}={name}" for group, name in choices.items()]
    try:
        changes, _ = _changes(groups, wanted)
        standard = _compose([], return_hydra_config=True).hydra.runtime.choices
        defaults = dict(leaves(_values(_compose(groups))))
    except BAD_INPUT as error:
        raise InputError(explain(error)) from error
    options = [(group, name, standard.get(group)) for group, name in choices.items() if name != standard.get(group)]
    values = {key: change.wanted for key, change in changes.items() if change.wanted != defaults.get(key, _MISSING)}
    return options + [(key, value, defaults.get(key)) for key, value in values.items()]


def config_of_recipe(name: str) -> dict[str, Any] | None:
    """Return the config of an experiment as it is composed here and now; None if there is none, or it is incomplete.

    Args:
        name: The option of ``experiment``, which may come from a run's record. The path of its data is not the run's.
    """
    if name not in catalogue.options().get("experiment", []):
        return None
    try:
        composed = _compose([f"experiment={name}", "++data.path=unknown"], return_hydra_config=True)
        return asdict(schema.finalise(composed, composed.hydra.runtime.choices))
    except BAD_INPUT:
        return None


_MISSING = object()
"""Stands for the value of a key that does not exist."""


class _Change(NamedTuple):
    """A key whose value in a run's config is not the one that was composed."""

    composed: Any
    wanted: Any


def _changes(
    groups: Sequence[str], wanted: Mapping[str, Any], *, deletes: bool = False
) -> tuple[dict[str, _Change], dict[str, _Change]]:
    """Return the changes that make a config of what is composed of its options, by dotted key; and what they leave.

    Args:
        groups: The options, as overrides.
        wanted: The config.
        deletes: Whether keys are deleted that the options have and the config lacks.
    """
    changes: dict[str, _Change] = {}
    left: dict[str, _Change] = {}
    # A key may refer to another one: those that do not are set first. To set a value below one that does replaces all
    # values there: the others are set after it.
    for resolves in (False, True, True, True):
        composed = _compose([*groups, *_as_overrides(changes)])
        found = _differing(_values(composed, resolve=resolves), wanted)
        left = {key: change for key, change in found if deletes or change.wanted is not _MISSING}
        if resolves and not left:
            break
        for key, change in left.items():
            place = key.rpartition(".")[0] if change.wanted is _MISSING else key
            if resolves or not _is_reference(composed, place):
                changes[key] = change
    return changes, left


def _differing(
    composed: Mapping[str, Any], wanted: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, _Change]]:
    """Yield the keys in which two nodes differ. At the first level, only keys of the second one count."""
    for name in dict.fromkeys([*wanted, *(composed if above else ())]):
        key = f"{above}{name}"
        change = _Change(composed.get(name, _MISSING), wanted.get(name, _MISSING))
        if isinstance(change.wanted, Mapping) and (change.wanted or isinstance(change.composed, Mapping)):
            below = change.composed if isinstance(change.composed, Mapping) else {}
            yield from _differing(below, change.wanted, f"{key}.")
        elif change.composed != change.wanted:
            yield key, change


def _as_overrides(changes: Mapping[str, _Change]) -> list[str]:
    """Return the overrides that make changes."""
    overrides: list[str] = []
    for key, change in changes.items():
        if change.wanted is not _MISSING:
            overrides.append(f"++{key}={_literal(change.wanted)}")
        else:  # Hydra deletes no key that is null, and none whose reference leads nowhere
            is_plain = change.composed is not None and "${" not in str(change.composed)
            overrides += [f"~{key}"] if is_plain else [f"++{key}=0", f"~{key}"]
    return overrides


def _shown(value: Any) -> str:
    return "left out" if value is _MISSING else shown(value)


def _compose(overrides: list[str], *, return_hydra_config: bool = False) -> DictConfig:
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=return_hydra_config)


def _values(composed: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return a composed config as plain dictionaries, with or without replacing what its values refer to."""
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "defaults"])
    return cast("dict[str, Any]", OmegaConf.to_container(own, resolve=resolve))


def _is_reference(composed: DictConfig, key: str) -> bool:
    """Return whether a key, or a group that it belongs to, refers to another key."""
    node: Any = composed
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118 (`in` resolves references)
            return False
        if OmegaConf.is_interpolation(node, name):
            return True
        node = node[name] if not OmegaConf.is_missing(node, name) else None
    return False


def _literal(value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_literal(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        return QuotedString(value, Quote.double).with_quotes()
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else repr(value)
