"""The objects that config nodes name: a node's values are checked against the signature of its ``_target_``."""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from wgan_sweep.common.ranges import check_value, shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config import targets
from wgan_sweep.errors import InputError, one_line

WIRING = ("_target_", "_partial_")
"""Keys of a node that say how to call, not with what."""


def target_of(node: Mapping[str, Any], key: str = "the option") -> Any:
    """Return the function or class that a node's ``_target_`` names.

    Raises:
        InputError: if it names none, or one that a config may not name.
    """
    name = node["_target_"]
    if not isinstance(name, str) or not name:
        raise InputError(f"{key}._target_ must be the name of a function or class, got {shown(name)}")
    targets.check_name(name, key)
    try:
        target = _locate(name)  # `get_object` also logs the error
    except Exception as error:  # importing runs the module's code
        problem = shown_error(error)
        raise InputError(f"{key}._target_={name} cannot be imported ({problem}): correct the name") from error
    if not callable(target):
        raise InputError(f"{key}._target_={name} is no function or class: correct the name")
    targets.check_origin(target, name, key)
    return target


def shown_error(error: Exception) -> str:
    """Return an exception on one line that is not too long."""
    return one_line(error)[:200]


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
            if isinstance(cause, TypeError | ValueError | ArithmeticError) and cause.__cause__ is None:
                raise InputError(f"{key} cannot be made with its values ({cause}): correct them") from error
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def check_parameters(node: Any, key: str) -> None:
    """Check names, types and ranges of the parameters of each ``_target_`` below a node.

    Raises:
        InputError: for a value of another type or out of its range, an unknown parameter, or a missing one.
    """
    if isinstance(node, list):
        for index, value in enumerate(node):
            check_parameters(value, f"{key}[{index}]")
    if not isinstance(node, Mapping):
        return
    hints: dict[str, Any] = {}
    if node.get("_target_") is not None:
        target = target_of(node, key)
        hints = _type_hints(target)
        if reserved := sorted(name for name in node if name in ("_args_", "_recursive_", "_convert_")):
            raise InputError(f"{key}.{reserved[0]} is not supported: give parameters by their names")
        check_value(node.get("_partial_", False), bool, f"{key}._partial_")
        _check_names(node, target, key)
    for name, value in node.items():
        if name not in WIRING:
            check_value(value, hints.get(name, Any), f"{key}.{name}")
            check_parameters(value, f"{key}.{name}")


def _check_names(node: Mapping[str, Any], target: Any, key: str) -> None:
    """Check that a target takes the parameters of a node, and that none is missing."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # a built-in function may have none
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    given, name = {name for name in node if name not in WIRING}, node["_target_"]
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    if (unknown := sorted(given - parameters.keys())) and not takes_any:
        raise InputError(
            f"{key} has no {', '.join(unknown)}{did_you_mean(unknown[0], parameters) or ';'} "
            f"{name} takes {', '.join(parameters) or 'nothing'}"
        )
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    required = {n for n, p in parameters.items() if p.default is p.empty and p.kind not in variadic}
    if not node.get("_partial_") and (missing := sorted(required - given)):
        raise InputError(f"{key} lacks {', '.join(missing)}, which {name} needs")


def _type_hints(target: Any) -> dict[str, Any]:
    """Return the type hints of a target's parameters; none if they cannot be read."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):  # a name that only type checkers import, or a built-in
        return {}
