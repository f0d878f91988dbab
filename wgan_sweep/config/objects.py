"""The objects that config nodes name: a node's values are checked against the signature of its ``_target_``."""

import importlib
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, cast
from weakref import WeakKeyDictionary

from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from wgan_sweep.common.ranges import check_value, shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config import folders, targets
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
        target = _imported(name) or _locate(name)  # `get_object` also logs the error
    except Exception as error:  # importing runs the module's code
        plugin = next((plugin for plugin in folders.plugins() if name.startswith(f"{plugin.package}.")), None)
        whose = f" of {plugin.origin}" if plugin else ""
        raise InputError(
            f"{key}._target_={name}{whose} cannot be imported: {_why_not_imported(name, error)}"
        ) from error
    if not callable(target):
        raise InputError(f"{key}._target_={name} is not a function or class: correct the name")
    targets.check_origin(target, name, key)
    return target


def _why_not_imported(name: str, error: Exception) -> str:
    """Return why Hydra did not find a target, and what to do.

    Args:
        name: The name of the target.
        error: The error of Hydra, whose cause is that of Python.
    """
    cause = error.__cause__
    missing = cause.name or "" if isinstance(cause, ModuleNotFoundError) else ""
    if missing and f"{name}.".startswith(f"{missing}."):  # else a module that the target's module imports
        parent, _, last = missing.rpartition(".")
        if parent in sys.modules:
            return _no_attribute(sys.modules[parent], last)
        known = [targets.PACKAGE, *folders.modules(), *(str(plugin.package) for plugin in folders.plugins())]
        return (
            f"there is no module {missing}{did_you_mean(missing, known) or ';'} put it beside the config groups in the "
            f"folder of {folders.FLAG}, or its folder on PYTHONPATH, or install it"
        )
    if isinstance(cause, AttributeError) and cause.name and cause.name in name.split("."):
        return _no_attribute(cause.obj, cause.name)
    if cause is None:
        return f"{one_line(error)[:200]}; correct the name"
    return f"its module raises {type(cause).__name__}: {one_line(cause)[:200]}{_place(cause)}; correct the module"


def _no_attribute(owner: object, name: str) -> str:
    known = [known for known in vars(owner) if not known.startswith("_")] if hasattr(owner, "__dict__") else []
    of = getattr(owner, "__name__", type(owner).__name__)
    return f"{of} has no {name}{did_you_mean(name, known) or ';'} correct the name"


def _place(error: BaseException) -> str:
    """Return the last line of an imported module that an error passed through, as text."""
    frames = traceback.extract_tb(error.__traceback__)
    start = next((index for index, frame in enumerate(frames) if frame.filename == importlib.__file__), len(frames))
    files = [frame for frame in frames[start + 1 :] if not frame.filename.startswith("<")]
    return f" ({files[-1].filename}:{files[-1].lineno})" if files else ""


def _imported(name: str) -> Any:
    """Return the attribute of an imported module that a dotted name stands for, or None: `_locate`, but quicker."""
    module, _, attribute = name.rpartition(".")
    top = sys.modules.get(module.partition(".")[0])
    found = sys.modules.get(module)
    # The module must also be what its parents' attributes lead to, as `_locate` follows them.
    for part in module.split(".")[1:]:
        top = getattr(top, part, None)
    return getattr(found, attribute, None) if found is not None and found is top else None


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
    hint_of_others: Any = Any
    if node.get("_target_") is not None:
        target = target_of(node, key)
        hints = _type_hints(target)
        hint_of_others = _hint_of_others(target, hints)
        if reserved := sorted(name for name in node if name in ("_args_", "_recursive_", "_convert_")):
            raise InputError(f"{key}.{reserved[0]} is not supported: give parameters by their names")
        check_value(node.get("_partial_", False), bool, f"{key}._partial_")
        _check_names(node, target, key)
    for name, value in node.items():
        if name not in WIRING:
            check_value(value, hints.get(name, hint_of_others), f"{key}.{name}")
            check_parameters(value, f"{key}.{name}")


def _hint_of_others(target: Any, hints: Mapping[str, Any]) -> Any:
    """Return the type hint of parameters that a target takes by any name: that of its ``**parameters``."""
    try:
        parameters = signature(target).parameters.values()
    except ValueError:  # a built-in function may have none
        return Any
    return next((hints.get(p.name, Any) for p in parameters if p.kind is p.VAR_KEYWORD), Any)


def _check_names(node: Mapping[str, Any], target: Any, key: str) -> None:
    """Check that a target takes the parameters of a node, and that none is missing."""
    try:
        parameters = signature(target).parameters
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


def signature(target: Any) -> inspect.Signature:
    """Return the signature of a function or class.

    Raises:
        ValueError: if it has none, as some built-in functions.
    """
    return cast("inspect.Signature", _by_target(inspect.signature, target))


def _type_hints(target: Any) -> dict[str, Any]:
    """Return the type hints of a target's parameters; none if they cannot be read."""
    return cast("dict[str, Any]", _by_target(_read_type_hints, target))


_CACHED: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
"""What was read of a function or class, by the function that read it."""


def _by_target(read: Callable[[Any], Any], target: Any) -> Any:
    """Return what a function reads of a target; it is read once, since sweeps ask for each of their runs."""
    if not isinstance(target, type | FunctionType):  # an object may have an equality of its own
        return read(target)
    cached = _CACHED.setdefault(target, {})
    if read not in cached:
        cached[read] = read(target)
    return cached[read]


def _read_type_hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):  # a name that only type checkers import, or a built-in
        return {}
