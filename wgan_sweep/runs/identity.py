"""The identity of a run: a hash of what decides its result.

The hash is over the science values of the config (`wgan_sweep.config.keys`) that differ from their neutral values, the
content of the training data, and the source of user modules. So an option that is added later, with a neutral value
that means "as before", changes no id; nor does a module that moves within this package, or a data file that moves.
"""

import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wgan_sweep.config import objects
from wgan_sweep.config.keys import REQUIRED, Role, science_keys, value_at, without_roles
from wgan_sweep.config.schema import Config
from wgan_sweep.runs.data import content_digest
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.hashing import canonical, hash_of

PACKAGE = __name__.partition(".")[0]
KNOWN_PACKAGES = frozenset({PACKAGE, "torch", "torchvision"}) | sys.stdlib_module_names
"""Packages whose versions a record holds; the source of any other target's module is part of the identity."""


def science(config: Config) -> dict[str, Any]:
    """Return the science values of a config that differ from neutral, by dotted key.

    Options are given by the name of their target and by the parameters that differ from its defaults; image data by the
    digest of its images.

    Raises:
        InputError: if the training data cannot be read, or a number is not finite.
    """
    values = asdict(config)
    result = {}
    for key in science_keys():
        node = value_at(values, key.name)
        if key.name == "data":
            value = _describe_data(node)
        else:
            value = _describe(without_roles(node, key.name, Role.PLACE), key.name)
        if key.neutral is REQUIRED or value != canonical(key.neutral):
            result[key.name] = value
    return result


def run_id(config: Config) -> str:
    """Return the id of the run that a config asks for.

    Raises:
        InputError: if the training data cannot be read, or a number is not finite.
    """
    return hash_of(science(config))


def directory_of(config: Config) -> RunDir:
    """Return the directory of the run that a config asks for."""
    return RunDir(Path(config.runs) / run_id(config))


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
    target = objects.target_of(node)
    defaults = _defaults(target)
    differing = {name: value for name, value in parameters.items() if name not in defaults or value != defaults[name]}
    return {"_target_": _name_of(target, str(node["_target_"])), **differing, **_source_of(target)}


def _defaults(target: Any) -> dict[str, Any]:
    """Return the defaults of a target's parameters, as far as a config can hold them."""
    plain = (int, float, str, bool, list, tuple, dict, type(None))
    return {
        name: canonical(parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if isinstance(parameter.default, plain)
    }


def _package_of(target: Any) -> str:
    return str(getattr(target, "__module__", None) or "").partition(".")[0]


def _name_of(target: Any, path: str) -> str:
    """Return a target's name: within this package without its module, which may move."""
    return str(target.__qualname__) if _package_of(target) == PACKAGE else path


def _source_of(target: Any) -> dict[str, str]:
    """Return the digest of the file that defines a user's target; empty for targets of known packages."""
    if _package_of(target) in KNOWN_PACKAGES:
        return {}
    try:
        file = inspect.getsourcefile(inspect.unwrap(target))
    except TypeError:  # defined by an extension module: there is no source
        file = None
    return {} if file is None else {"_source_": hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}


def _describe_data(node: Mapping[str, Any]) -> Any:
    """Return what identifies the training data: the digest of its images, or the parameters of a distribution.

    A user's option is described in full beside the digest: it may make other batches of the same images.
    """
    digest = content_digest(node)
    if digest is None:
        return _describe(node, "data")
    if _package_of(objects.target_of(node)) == PACKAGE:
        return {"content": digest}
    return {"content": digest, **_describe(without_roles(node, "data", Role.PLACE), "data")}
