"""Asking for a run again from its directory: its config becomes overrides of this package's own config.

Hydra does not read the file itself. It could name callbacks and log handlers, whose code Hydra would run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from wgan_sweep.config import catalogue, folders, schema
from wgan_sweep.config.keys import KEYS, leaves, overridden_key
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
        InputError: if the run's config cannot be read, or names code that the command line does not name, by itself or
            by the folder of its module.
    """
    others = list(arguments)
    path = take(others, PATH_FLAGS)
    if path is None or not (Path(path) / "record.json").exists():
        return list(arguments)
    name = take(others, NAME_FLAGS)
    if name not in (None, "config", "config.yaml"):
        raise InputError(f"--config-name={name} with a run's directory: its config is named config; leave it out")
    given = [argument for argument in others if not argument.startswith("-") and "=" in argument]
    flags = [argument for argument in others if argument not in given]
    return [*flags, *_overrides(Path(path), given), *given]


def _overrides(directory: Path, given: Sequence[str]) -> list[str]:
    """Return the overrides that lead to the config of a run, except those of groups that are chosen anew."""
    config = schema.read(directory / "config.yaml")
    chosen = {overridden_key(override) for override in given}
    named = [override.partition("=")[2] for override in given if "_target_=" in override]
    remedy = f"name it on the command line, by KEY._target_=NAME, or the folder of its module, by {folders.FLAG} FOLDER"
    check_untrusted(asdict(config), str(directory), [*named, *folders.trusted_names()], remedy=remedy)
    # Without the experiment, which would ask for its other runs, too; its values are among those below.
    options = {key.name: config.choices[key.name] for key in KEYS if key.name in config.choices}
    groups = {group: f"{group}={name}" for group, name in options.items() if group not in NOT_OF_THE_RUN}
    wanted = {key: value for key, value in leaves(asdict(config)) if key.partition(".")[0] not in NOT_OF_THE_RUN}
    values: dict[str, str] = {}
    # A key may refer to another one: those that do not are set first.
    for skips_references in (True, False):
        composed = _compose([*groups.values(), *values.values()])
        own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "defaults"])
        resolved = dict(leaves(cast("dict[str, Any]", OmegaConf.to_container(own, resolve=not skips_references))))
        for key, value in wanted.items():
            if resolved.get(key, _MISSING) != value and not (skips_references and _is_reference(composed, key)):
                values[key] = f"++{key}={_literal(value)}"
    kept = {key: override for key, override in values.items() if not chosen & {key, key.partition(".")[0]}}
    return [override for key, override in {**groups, **kept}.items() if key not in chosen]


def differences(config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the keys, values and defaults of a run's config where they differ: of groups, the options' names.

    Values that follow from others, through the config's references or options, are left out.

    Args:
        config: The config of a run's record.

    Raises:
        InputError: if the config refers to other values, or names options that do not exist.
    """
    wanted = {key: value for key, value in leaves(config) if key.partition(".")[0] not in (*NOT_OF_THE_RUN, "runs")}
    if references := [key for key, value in wanted.items() if "${" in str(value)]:
        raise InputError(f"{references[0]} is an interpolation, which is not resolved here")
    choices: Mapping[str, str] = config.get("choices", {})
    groups = [f"{group}={name}" for group, name in choices.items()]
    try:
        differing = _differing(groups, wanted)
        standard = _compose([], return_hydra_config=True).hydra.runtime.choices
        defaults = _resolved(_compose(groups))
    except BAD_INPUT as error:
        raise InputError(explain(error)) from error
    options = [(group, name, standard.get(group)) for group, name in choices.items() if name != standard.get(group)]
    return options + [(key, value, defaults.get(key)) for key, value in differing.items()]


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


def _differing(groups: Sequence[str], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, by dotted key, in which a config differs from what is composed of its options.

    Args:
        groups: The options, as overrides.
        wanted: The values of the config.
    """
    values: dict[str, Any] = {}
    # A key may refer to another one: those that do not are set first.
    for skips_references in (True, False):
        composed = _compose([*groups, *(f"++{key}={_literal(value)}" for key, value in values.items())])
        resolved = _resolved(composed, resolve=not skips_references)
        values |= {
            key: value
            for key, value in wanted.items()
            if resolved.get(key, _MISSING) != value and not (skips_references and _is_reference(composed, key))
        }
    return values


_MISSING = object()


def _compose(overrides: list[str], *, return_hydra_config: bool = False) -> DictConfig:
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        return compose("config", overrides, return_hydra_config=return_hydra_config)


def _resolved(composed: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return the values of a composed config by dotted key, with or without replacing what they refer to."""
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "defaults"])
    return dict(leaves(cast("dict[str, Any]", OmegaConf.to_container(own, resolve=resolve))))


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
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if value else "''"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else repr(value)
