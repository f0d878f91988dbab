"""The groups, options and keys that config files and the schema offer."""

from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.documents import read_yaml
from wgan_sweep.config.folders import conf_dir, extensions
from wgan_sweep.config.keys import leaves
from wgan_sweep.config.players import groups_of_players
from wgan_sweep.errors import InputError


def _folders() -> tuple[Path, ...]:
    return (conf_dir(), *(extension.path for extension in extensions()))


def options() -> dict[str, list[str]]:
    """Return the names of the options of each group, by the name of the group."""
    names: dict[str, list[str]] = {}
    for group, option in sorted(option_files(_folders())):
        names.setdefault(group, []).append(option)
    return names


@cache
def option_files(folders: tuple[Path, ...]) -> dict[tuple[str, str], Path]:
    """Return the file of each option in some folders, by group and name; the first folder that has it counts.

    An option of a group of both players is also one of the group of each.
    """
    files: dict[tuple[str, str], Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*/*.yaml")):
            group, _, option = file.relative_to(folder).with_suffix("").as_posix().partition("/")
            files.setdefault((group, option), file)
            for own in groups_of_players().get(group, []):
                files.setdefault((own, option), file)
    return files


def option_values(group: str, option: str) -> dict[str, Any]:
    """Return the values that the file of an option sets, with its ``_target_``."""
    return read_yaml(option_files(_folders())[group, option])


def option_keys(group: str, option: str) -> tuple[str, ...]:
    """Return the dotted keys of the values that an option's file sets."""
    return _keys_in(option_files(_folders())[group, option], group)


@cache
def _keys_in(file: Path, group: str) -> tuple[str, ...]:
    try:
        node = {name: value for name, value in read_yaml(file).items() if name not in ("defaults", "hydra")}
    except InputError:  # a file of a user; Hydra says what is wrong when it is chosen
        return ()
    is_global = "@package _global_" in file.read_text(encoding="utf-8")
    return tuple(key for key, _ in leaves(node, "" if is_global else group) if "_target_" not in key)


def schema_keys(schema: Any, above: str = "") -> list[str]:
    """Return the dotted keys of a schema (a dataclass), those above others included."""
    keys = []
    for field in fields(schema):
        keys.append(above + field.name)
        if is_dataclass(field.default_factory):
            keys += schema_keys(field.default_factory, f"{above}{field.name}.")
    return keys


def known_keys(schema: Any) -> set[str]:
    """Return all dotted keys: those of the schema and of every option."""
    names = {key for group, chosen in options().items() for option in chosen for key in option_keys(group, option)}
    return names | set(schema_keys(schema)) - {"choices"}


def unknown_key(key: str, schema: Any) -> str:
    """Return the message for a key that does not exist, with the nearest one that does or the options that have it."""
    group = key.partition(".")[0]
    if having := [option for option in options().get(group, []) if key in option_keys(group, option)]:
        return (
            f"the chosen option of {group} has no {key}; these have it: {', '.join(having)} (choose one; if each run "
            f"of a sweep does, write ++{key}=...)"
        )
    return (
        f"there is no config key {key}{did_you_mean(key, known_keys(schema) | options().keys())} "
        "(`wgan-sweep --help` lists the keys; correct it, or leave it out)"
    )
