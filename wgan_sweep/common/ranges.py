"""Checks of plain values against type hints, whose `Annotated` metadata may hold a `Range`.

A config value comes from YAML or the command line: a number, a text, true or false, null, a list or a mapping. Nothing
is converted: an integer key refuses 1.5, and a key that is true or false refuses 3.
"""

import collections.abc
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from os import PathLike
from typing import Annotated, Any, Literal

from wgan_sweep.errors import InputError

LARGEST_INT = 2**63 - 1
"""The largest integer that tensors and files can hold."""
MAX_SHOWN = 60
"""How many characters of a refused value are shown."""


@dataclass(frozen=True)
class Range:
    """A range of numbers, or of the length of a text."""

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    remedy: str = ""
    """What to do instead, after a semicolon."""

    def holds(self, value: float | str) -> bool:
        """Return whether a value is in the range."""
        number = len(value) if isinstance(value, str) else value
        return self.minimum <= number <= self.maximum and self.above < number < self.below

    def __str__(self) -> str:
        """Describe the range, as in "must be ..."."""
        lower = [f"above {self.above:g}"] if self.above > -math.inf else []
        lower += [f"{self.minimum:.15g} or more"] if self.minimum > -math.inf else []
        upper = [f"below {self.below:g}"] if self.below < math.inf else []
        upper += [f"at most {self.maximum:.15g}"] if self.maximum < math.inf else []
        return " and ".join(lower + upper)


NonEmpty = Annotated[str, Range(minimum=1, remedy="an empty text names nothing")]
Count = Annotated[int, Range(1, LARGEST_INT)]
Length = Annotated[float, Range(above=0, maximum=1e4, remedy="points have coordinates of up to 10,000")]
Coordinate = Annotated[float, Range(-1e4, 1e4, remedy="points have coordinates of up to 10,000")]


def shown(value: Any) -> str:
    """Return a value as an error message shows it: on one line, and not too long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def check_value(value: Any, hint: Any, key: str) -> None:
    """Check a plain value against a type hint.

    Args:
        value: The value.
        hint: A type hint. A class or a callable stands for a config node with a ``_target_``.
        key: The value's dotted key, for error messages.

    Raises:
        InputError: for a value of another type, out of its range, or not finite.
    """
    _check_items(value, hint, key)
    if not _fits(value, hint):
        if isinstance(value, Mapping) and "_target_" in value:
            raise InputError(f"{key}._target_ must be the name of a function or class, got {shown(value['_target_'])}")
        raise InputError(f"{key} must be {describe(hint)}, got {shown(value)}")
    _check_finite(value, key)
    for part in _parts(hint):
        origin, arguments = _split(part)
        if origin is not Annotated:
            continue
        base, *metadata = arguments
        for allowed in metadata:
            if isinstance(allowed, Range) and _fits(value, base) and not allowed.holds(value):
                remedy = f"; {allowed.remedy}" if allowed.remedy else ""
                what = "have a length of " if isinstance(value, str) else "be "
                raise InputError(f"{key} must {what}{allowed}, got {shown(value)}{remedy}")


def _check_items(value: Any, hint: Any, key: str) -> None:
    """Check the items of a list or a mapping, if a hint gives their type."""
    for part in _parts(hint):
        origin, arguments = _split(part)
        if isinstance(value, list) and origin is list:
            for index, item in enumerate(value):
                check_value(item, arguments[0], f"{key}[{index}]")
        elif isinstance(value, Mapping) and origin is collections.abc.Mapping:  # a dict may hold any numbers
            for name, item in value.items():
                check_value(item, arguments[1], f"{key}.{name}")


def _check_finite(value: Any, key: str) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_finite(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key} must be a finite number, got {shown(value)}")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise InputError(f"{key} must be an integer of 64 bits (at most {LARGEST_INT:,}), got {shown(value)}")


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint itself."""
    origin, arguments = _split(hint)
    return arguments if origin in (types.UnionType, typing.Union) else (hint,)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the origin and the arguments of a type hint; of equal unions, those of the first one."""
    try:
        return _split_once(hint)
    except TypeError:  # its metadata cannot be hashed
        return typing.get_origin(hint), typing.get_args(hint)


@lru_cache(maxsize=4096)
def _split_once(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value has the type of a hint."""
    origin, arguments = _split(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in arguments)
    if hint in (None, types.NoneType):
        return value is None
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str):
        return type(value) is hint
    if origin is Literal:
        return value in arguments
    if (origin or hint) is tuple:
        if not isinstance(value, list) or not arguments or arguments[-1] is ...:
            return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value if arguments)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if (origin or hint) in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(item, arguments[1]) for item in value.values() if arguments)
    if (origin or hint) in (list, set, collections.abc.Sequence, collections.abc.Iterable):
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value if arguments)
    if isinstance(hint, type) and issubclass(hint, PathLike | Enum):
        return isinstance(value, str)
    return isinstance(value, Mapping) and isinstance(value.get("_target_"), str)


def describe(hint: Any) -> str:
    """Return what a type hint allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(describe(part) for part in arguments))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    if hint in names:
        return names[hint]
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if (origin or hint) is tuple and arguments and arguments[-1] is not ...:
        return f"a list of {len(arguments)}: {', '.join(map(describe, arguments))}"
    if (origin or hint) in (list, set, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return f"a list (each item {describe(arguments[0])})" if arguments else "a list"
    if (origin or hint) in (dict, Mapping):
        return "a mapping"
    return "text" if isinstance(hint, type) and issubclass(hint, PathLike | Enum) else "an option with a _target_"
