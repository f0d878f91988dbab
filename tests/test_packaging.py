"""The package's metadata: it declares what the code imports, and the code uses what it declares."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from wgan_sweep.config.schema import conf_dir

from .test_layers import FILES, PACKAGE, imports

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
NOT_INSTALLED = {"cleanfid": "clean-fid"}
"""Top-level modules of extras that the tests do not install, and their distributions."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """Return the names of the required distributions."""
    return {normalised(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def used_distributions() -> dict[str, set[str]]:
    """Return the distributions that may provide each top-level module that is imported, or named by an option.

    Python's modules and the package's own are left out.
    """
    modules = {name.split(".")[0] for path in FILES if "template" not in path.parts for name in imports(path)}
    for path in conf_dir().rglob("*.yaml"):
        modules |= set(re.findall(r"_target_: (\w+)\.", path.read_text()))
    providers = packages_distributions()
    return {
        module: {normalised(name) for name in providers.get(module, [NOT_INSTALLED.get(module, module)])}
        for module in modules - set(sys.stdlib_module_names) - {PACKAGE.name}
    }


def test_every_distribution_that_is_used_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = names(PROJECT["dependencies"]) | names(extras["dashboard"]) | names(extras["bench"])
    undeclared = {module for module, providers in used_distributions().items() if not providers & declared}
    assert undeclared == set()


def test_every_core_dependency_is_used() -> None:
    used = set().union(*used_distributions().values())
    assert names(PROJECT["dependencies"]) - used == set()


def test_every_requirement_has_a_lower_bound() -> None:
    """Otherwise nothing says which versions can work, and the lowest ones cannot be tested."""
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert [requirement for requirement in required if ">=" not in requirement] == []
