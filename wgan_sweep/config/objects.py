"""The objects that config nodes name: a node's values are checked against the signature of its ``_target_``."""

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from wgan_sweep.errors import InputError

WIRING = ("_target_", "_partial_")
"""Keys of a node that say how to call, not with what."""


def target_of(node: Mapping[str, Any]) -> Any:
    """Return the function or class that a node's ``_target_`` names."""
    return get_object(str(node["_target_"]))


def make(node: Mapping[str, Any], key: str) -> Any:
    """Make the object that a config node describes.

    Args:
        node: The node, resolved.
        key: Its dotted key, for error messages.

    Raises:
        InputError: for a parameter that the target does not take or misses, or a value that it refuses.
    """
    check_parameters(node, key)
    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def check_parameters(node: Any, key: str) -> None:
    """Check names and plain types of the parameters of each ``_target_`` below a node.

    Raises:
        InputError: for a value of another type, an unknown parameter, or a missing one.
    """
    if isinstance(node, list):
        for index, value in enumerate(node):
            check_parameters(value, f"{key}[{index}]")
    if not isinstance(node, Mapping):
        return
    hints: dict[str, Any] = {}
    if target := node.get("_target_"):
        function = get_object(target)
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
        parameters = inspect.signature(function).parameters
        given = {name for name in node if name not in WIRING}
        if unknown := sorted(given - parameters.keys()):
            raise InputError(f"{key} has no {', '.join(unknown)}: {target} takes {', '.join(parameters) or 'nothing'}")
        required = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        if not node.get("_partial_") and (missing := sorted(required - given)):
            raise InputError(f"{key} lacks {', '.join(missing)}, which {target} needs")
    for name, value in node.items():
        allowed = _plain_types(hints.get(name))
        if allowed and isinstance(value, int | float | str | bool | type(None)):
            fits = type(value) in allowed or (float in allowed and type(value) is int)
            if not fits:
                names = " or ".join(sorted("null" if t is type(None) else t.__name__ for t in allowed))
                raise InputError(f"{key}.{name} must be {names}, got {value!r}")
        check_parameters(value, f"{key}.{name}")


def _plain_types(hint: Any) -> set[type]:
    """Return the plain types that a type hint allows; empty where it allows others only."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    hints = set(typing.get_args(hint)) if is_union else {hint}
    return hints & {int, float, str, bool, type(None)}
