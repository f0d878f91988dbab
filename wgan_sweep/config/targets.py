"""Which functions and classes a config may name: reading somebody else's run never runs somebody else's code.

Options of this package and of installed plugins, and optimizers of torch, may always be named. The command line and
`--config-dir` may also name modules of the user, and metrics of torchmetrics. Other libraries, and other functions of
this package, may not be named.
"""

import inspect
import re
import sys
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_paths
from typing import Any

from wgan_sweep.common.ranges import shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.folders import FLAG, conf_dir, plugin_targets, targets_in
from wgan_sweep.errors import InputError

PACKAGE = __name__.partition(".")[0]
LIBRARIES = frozenset(
    {
        *("torch", "torchvision", "numpy", "scipy", "PIL", "matplotlib", "hydra", "omegaconf", "yaml", "wandb", "ot"),
        *("wandb_workspaces", "torchmetrics", "torch_fidelity", "submitit", "cloudpickle", "rich", "jinja2", "joblib"),
        *("vl_convert", "mlxtend", "pip", "setuptools", "pkg_resources", "sympy", "pandas"),
    }
)
"""Installed packages of which a config names no function, but see `is_option` and `_METRIC`."""
PARTS = frozenset({f"{PACKAGE}.scoring.shared_network.SharedNetwork"})
"""Classes of this package that only the options of users may contain."""
_METRIC = re.compile(r"torchmetrics(\.[a-z]\w*)*\.[A-Z]\w*")
"""The name of a metric of torchmetrics. Unlike an option, it may read files that its arguments name."""


@cache
def registered() -> frozenset[str]:
    """Return the names of the options of this package: the targets in its config files."""
    return frozenset(targets_in(conf_dir()))


def is_option(name: str) -> bool:
    """Return whether a name is that of an option of this package, or of an optimizer of torch."""
    return name in registered() or name in PARTS or re.fullmatch(r"torch\.optim\.[A-Za-z]+", name) is not None


def _is_standard(module: str) -> bool:
    """Return whether a top-level module is one of the standard library; a user's module may have the name of one."""
    if module == "__main__" or module not in {*sys.stdlib_module_names, "builtins"}:
        return False
    try:
        spec = find_spec(module)
    except ValueError:  # it has none
        return True
    if spec is None or spec.origin in (None, "built-in", "frozen"):
        return True
    return Path(spec.origin or "").resolve().is_relative_to(Path(get_paths()["stdlib"]).resolve())


def check_name(name: str, key: str) -> None:
    """Check that a config may name a target, before its module is imported.

    Raises:
        InputError: for a function of the standard library, of a library, or one of this package that is not an option.
    """
    top = name.partition(".")[0]
    may_be_named = is_option(name) or _METRIC.fullmatch(name)
    if not may_be_named and (top in LIBRARIES or top == PACKAGE or _is_standard(top)):
        suggestion = did_you_mean(name, registered()) if top == PACKAGE else ""
        raise InputError(
            f"{key}._target_={name} is not an option{suggestion or ':'} name an option of wgan-sweep, an optimizer of "
            "torch.optim, a metric of torchmetrics, or a function or class of a module of yours"
        )


def check_origin(target: Any, name: str, key: str) -> None:
    """Check that a target was not reached through the imports of a user's module.

    Raises:
        InputError: if the standard library or a library defines it, or this package does and it is not an option.
    """
    if is_option(name) or not (inspect.isroutine(target) or inspect.isclass(target)):
        return
    if _METRIC.fullmatch(name) and _is_metric(target):
        return
    top = str(getattr(target, "__module__", "") or "builtins").partition(".")[0]
    owner = "the standard library" if _is_standard(top) else top if top in LIBRARIES else None
    if top == PACKAGE and not any(option.endswith(f".{target.__qualname__}") for option in registered()):
        owner = "wgan-sweep, which has no such option"
    if owner:
        raise InputError(f"{key}._target_={name} belongs to {owner}: name a function or class of yours")


def _is_metric(target: Any) -> bool:
    """Return whether a target is a class of metrics of torchmetrics, which takes a second to import."""
    bases = inspect.getmro(target) if inspect.isclass(target) else ()
    return any(f"{base.__module__}.{base.__qualname__}" == "torchmetrics.metric.Metric" for base in bases)


ALLOWING = f"allow it, by --allow MODULE, or by {FLAG} FOLDER if its module is in a folder"
"""How the user of a command allows code that a run directory names."""


def check_untrusted(
    node: Any, where: str, allowed: Collection[str] = (), key: str = "", *, remedy: str = ALLOWING
) -> None:
    """Check that a config which somebody else may have written names only options, at any depth.

    Args:
        node: The config, or a part of it.
        where: What it belongs to, for the message.
        allowed: Names of modules, functions or classes of the user that may be named, too.
        key: The dotted key of the part.
        remedy: How the user allows a name.

    Raises:
        InputError: naming the first other target.
    """
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            check_untrusted(item, where, allowed, f"{key}[{index}]", remedy=remedy)
    if not isinstance(node, Mapping):
        return
    name = node.get("_target_")
    is_allowed = isinstance(name, str) and any(name == item or name.startswith(f"{item}.") for item in allowed)
    is_known = isinstance(name, str) and (is_option(name) or name in plugin_targets())
    if name is not None and not (is_known or is_allowed):
        raise InputError(
            f"{where} names {key}._target_={shown(name)}, which is not part of wgan-sweep; its code is not run. If you "
            f"trust it, {remedy}"
        )
    for child, value in node.items():
        check_untrusted(value, where, allowed, f"{key}.{child}" if key else str(child), remedy=remedy)
