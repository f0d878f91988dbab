"""Digests of the source that defines a function or class, for results that depend on a user's code."""

import hashlib
import inspect
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from wgan_sweep.errors import InputError

KNOWN_PACKAGES = frozenset({__name__.partition(".")[0], "torch", "torchvision"})
"""Packages whose versions a record holds. The source of other modules, except the standard library's, is digested."""

_DIGESTS: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()
"""By module, as of the first time it is asked for: an edit after the import does not change the code in memory."""


def user_source(path: str, target: Any) -> str | None:
    """Return the digest of the user's files that define a target; None if it is defined by known packages only.

    Args:
        path: The dotted path by which the target is named, for example ``my_losses.mine``.
        target: The function, class or object itself.

    Raises:
        InputError: if a user's file cannot be read.
    """
    modules = {_module_named_by(path), *map(_module_of, _layers(target))}
    digests = sorted({_digest(module) for module in modules if module is not None and not _is_known(module)})
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16] if digests else None


def _layers(target: Any) -> list[Any]:
    """Return a target, what it wraps (`functools.wraps`), and the class of an object that is neither."""
    layers = [target, inspect.unwrap(target)]
    return layers if inspect.isclass(target) or inspect.isroutine(target) else [*layers, type(target)]


def _module_named_by(path: str) -> ModuleType | None:
    """Return the module whose name is the longest part of a dotted path."""
    name = path
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return sys.modules.get(name)


def _module_of(layer: Any) -> ModuleType | None:
    code = getattr(layer, "__code__", None)  # of a decorated function, `__module__` names the wrapped one's module
    name = layer.__globals__.get("__name__") if code is not None else getattr(layer, "__module__", None)
    return sys.modules.get(str(name))


def _is_known(module: ModuleType) -> bool:
    if module.__name__.partition(".")[0] in KNOWN_PACKAGES:
        return True
    file = getattr(module, "__file__", None)
    if file is None:  # built in
        return True
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    resolved = Path(file).resolve()
    return resolved.is_relative_to(standard) and "site-packages" not in resolved.parts


def _digest(module: ModuleType) -> str:
    if module not in _DIGESTS:
        try:
            source = Path(str(module.__file__)).read_bytes()
        except OSError as error:
            raise InputError(
                f"the source of module {module.__name__} cannot be read ({error}), and it is part of a run's identity: "
                "give a module that is a file"
            ) from error
        _DIGESTS[module] = hashlib.sha256(source).hexdigest()
    return _DIGESTS[module]
