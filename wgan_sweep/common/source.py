"""Digests of the source that defines a function or class, for results that depend on a user's code."""

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from wgan_sweep.errors import InputError, one_line

KNOWN_PACKAGES = frozenset({__name__.partition(".")[0], "torch", "torchvision"})
"""Packages whose versions a record holds. The source of other modules, except the standard library's, is digested."""


class _Loaded(NamedTuple):
    """The digest of a module's file, with what shows whether the module has been loaded again since it was read."""

    digest: str
    spec: ModuleSpec | None
    """The module's spec: `importlib.reload` makes another one."""
    content: list[object]
    """The module's code and constants: ``%autoreload`` of IPython keeps the spec and replaces these."""


_LOADED: WeakKeyDictionary[ModuleType, _Loaded] = WeakKeyDictionary()
"""By module, as of the first time it is asked for: an edit after the import does not change the code in memory."""
_OF_FUNCTIONS: WeakKeyDictionary[FunctionType, str] = WeakKeyDictionary()
"""By function of a module without a file, as of the first time it is asked for."""


def user_source(path: str, target: Any) -> str | None:
    """Return the digest of the user's source that defines a target; None if it is defined by known packages only.

    The source of a module is its file. In a module without a file, such as that of a notebook, it is the function.

    Args:
        path: The dotted path by which the target is named, for example ``my_losses.mine``.
        target: The function, class or object itself.

    Raises:
        InputError: if the source cannot be read.
    """
    places = [(_module_named_by(path), target), *((_module_of(layer), layer) for layer in _layers(target))]
    modules = {module for module, _ in places if module is not None and not _is_known(module)}
    digests = {_digest_of_file(module) for module in modules if _file(module) is not None}
    digests |= {_digest_of_function(item, module) for module, item in places if module in modules and not _file(module)}
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:16] if digests else None


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


def _file(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


def _is_known(module: ModuleType) -> bool:
    top = module.__name__.partition(".")[0]
    if top in KNOWN_PACKAGES:
        return True
    file = _file(module)
    if file is None:  # built in, or of a notebook
        return top in sys.builtin_module_names or top in sys.stdlib_module_names
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    resolved = Path(file).resolve()
    return resolved.is_relative_to(standard) and "site-packages" not in resolved.parts


def _digest_of_file(module: ModuleType) -> str:
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    # Nothing loads the main module again. Its values change while it runs.
    content = [] if module is sys.modules.get("__main__") else list(_content(module))
    loaded = _LOADED.get(module)
    if loaded is None or loaded.spec is not spec or loaded.content != content:
        try:
            source = Path(str(module.__file__)).read_bytes()
        except OSError as error:
            raise InputError(
                f"the source of module {module.__name__} cannot be read ({error}), and it is part of a run's identity: "
                "give a module that is a file"
            ) from error
        loaded = _LOADED[module] = _Loaded(hashlib.sha256(source).hexdigest(), spec, content)
    return loaded.digest


def _content(owner: ModuleType | type) -> Iterator[object]:
    """Yield the code and the constants of a module and its classes. What is computed later is left out."""
    for name, value in list(vars(owner).items()):
        if inspect.isclass(value) and f"{value.__module__}.{value.__qualname__}" == f"{_full_name(owner)}.{name}":
            yield from _content(value)
        elif isinstance(value, bool | int | float | complex | str | bytes) and not name.startswith("__"):
            yield name, value
        elif isinstance(value, tuple | list | dict | set | frozenset) and not name.startswith("__"):
            yield name, id(value)
        for function in _functions(value):
            yield function.__code__, id(function.__defaults__), id(function.__kwdefaults__)


def _full_name(owner: ModuleType | type) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"


def _functions(value: object) -> list[FunctionType]:
    """Return the functions of which a value of a module or class consists."""
    if isinstance(value, property):
        parts: list[object] = [value.fget, value.fset, value.fdel]
    else:
        parts = [value.__func__ if isinstance(value, staticmethod | classmethod) else value]
    found = [part for part in parts if isinstance(part, FunctionType)]
    return [*found, *(wrapped for part in found if isinstance(wrapped := inspect.unwrap(part), FunctionType))]


def _digest_of_function(definition: Any, module: ModuleType) -> str:
    """Return the digest of the source of a function whose module is not a file, such as that of a notebook's cell."""
    if not isinstance(definition, FunctionType):
        raise _without_source(definition, module, "only the source of a function can be read from there")
    if definition not in _OF_FUNCTIONS:
        if values := definition.__code__.co_freevars:
            raise _without_source(definition, module, f"it uses {', '.join(values)} of the function around it")
        try:
            source = inspect.getsource(definition.__code__)  # of the function itself, not of one that it wraps
        except (OSError, TypeError, IndentationError, SyntaxError) as error:
            raise _without_source(definition, module, one_line(error)) from error
        _OF_FUNCTIONS[definition] = hashlib.sha256(source.encode()).hexdigest()
    return _OF_FUNCTIONS[definition]


def _without_source(definition: Any, module: ModuleType, reason: str) -> InputError:
    name = getattr(definition, "__qualname__", type(definition).__qualname__)
    return InputError(
        f"the source of {name} cannot be read, and it is part of a run's identity: the module {module.__name__} is not "
        f"a file ({reason}); put it into a module that is a file"
    )
