"""The groups, options and keys that config files and the schema offer."""

from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.keys import leaves


def conf_dir() -> Path:
    """Return the folder of the config groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


@cache
def options() -> dict[str, list[str]]:
    """Return the names of the options of each group, by the name of the group."""
    names: dict[str, list[str]] = {}
    for file in sorted(conf_dir().rglob("*/*.yaml")):
        group, _, option = str(file.relative_to(conf_dir()).with_suffix("")).partition("/")
        names.setdefault(group, []).append(option)
    return names


@cache
def option_keys(group: str, option: str) -> tuple[str, ...]:
    """Return the dotted keys of the values that an option's file sets."""
    file = conf_dir() / group / f"{option}.yaml"
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    node = {name: value for name, value in cast("dict[str, Any]", content).items() if name not in ("defaults", "hydra")}
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
        return f"the chosen option of {group} has no {key}; these have it: {', '.join(having)}"
    return (
        f"there is no config key {key}{did_you_mean(key, known_keys(schema) | options().keys())} "
        "(`wgan-sweep --help` lists the keys; correct it, or leave it out)"
    )
