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
        InputError: if the file does not exist, cannot be read, holds no mapping, or uses YAML aliases, by which a short
            text can stand for an endless document.
    """
    try:
        text = read_document(path)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise InputError(f"{path} uses YAML aliases (*name): write their values out")
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no mapping: give a file of keys and values")
    return {str(name): value for name, value in values.items()}


def read_resolved_yaml(path: Path, *ignored: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, without some of its keys; refuse interpolations in the others.

    Raises:
        InputError: as `read_yaml`, or for an interpolation, which could read the environment of this process.
    """
    values = {name: value for name, value in read_yaml(path).items() if name not in ignored}
    for key, value in leaves(values):
        if "${" in str(value):
            raise InputError(f"{path}: {key}={value} is an interpolation, which is not resolved here: write its value")
    return values


def dump_yaml(values: dict[str, Any]) -> str:
    """Return a mapping as YAML; nothing in it is resolved."""
    return OmegaConf.to_yaml(OmegaConf.create(values))
