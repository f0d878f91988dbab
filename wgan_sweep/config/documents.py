"""YAML files that are data: nothing in them is resolved, expanded or made."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wgan_sweep.common.reading import read_document
from wgan_sweep.config.keys import leaves
from wgan_sweep.errors import InputError


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, with interpolations as text.

    Raises:
        InputError: if the file does not exist or cannot be read, and as `parse_yaml`.
    """
    try:
        text = read_document(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, source: object) -> dict[str, Any]:
    """Return the mapping that a YAML text holds, with interpolations as text.

    Args:
        text: The text.
        source: The name of the text in messages.

    Raises:
        InputError: if it is not YAML, holds no mapping, or uses YAML aliases, by which a short text can stand for an
            endless document.
    """
    try:
        has_aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        values = None if has_aliases else OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise _unreadable(source, error) from error
    if has_aliases:
        raise InputError(f"{source} uses YAML aliases (*name): write their values out")
    if not isinstance(values, dict):
        raise InputError(f"{source} holds no mapping: give a file of keys and values")
    return {str(name): value for name, value in values.items()}


def _unreadable(source: object, error: Exception) -> InputError:
    return InputError(f"{source} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})")


def read_resolved_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; refuse interpolations.

    Raises:
        InputError: as `read_yaml` and `refuse_interpolations`.
    """
    values = read_yaml(path)
    refuse_interpolations(values, path)
    return values


def refuse_interpolations(values: dict[str, Any], source: object) -> None:
    """Refuse a mapping with interpolations.

    Args:
        values: The mapping.
        source: Its name in messages.

    Raises:
        InputError: for an interpolation, which could read the environment of this process.
    """
    for key, value in leaves(values):
        if "${" in str(value):
            raise InputError(
                f"{source}: {key}={value} is an interpolation, which is not resolved here: write its value"
            )


def dump_yaml(values: dict[str, Any]) -> str:
    """Return a mapping as YAML; nothing in it is resolved."""
    return OmegaConf.to_yaml(OmegaConf.create(values))
