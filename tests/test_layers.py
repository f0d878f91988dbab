"""The structure of the package: a layer imports only lower layers, and some libraries belong to few layers.

A layer is a package, or a module, directly below `wgan_sweep`.
"""

import ast
import subprocess
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import wgan_sweep

PACKAGE = Path(wgan_sweep.__file__).parent

LEVELS = [
    {"__init__", "errors"},
    {"common"},
    {"config", "tracking", "models", "data"},
    {"objectives"},
    {"training", "scoring"},
    {"runs"},
    {"report"},
    {"theory", "bench", "sweeps"},
    {"commands", "api"},
    {"__main__"},
]
"""A layer may import the layers of lower levels, and itself."""

LIBRARIES = {
    "hydra": {"config", "sweeps", "commands"},
    "omegaconf": {"config", "sweeps", "commands", "report"},
    "wandb": {"tracking"},
    "wandb_workspaces": {"tracking"},
    "torchmetrics": {"bench", "scoring"},
    "torch_fidelity": {"bench", "scoring"},
    "torchvision": {"data", "scoring"},
    "ot": {"scoring"},
    "scipy": {"bench", "report", "scoring"},
    "vl_convert": {"report"},
    "jinja2": {"report"},
    "joblib": {"common", "report"},
    "matplotlib": {"common"},
    "rich": {"common", "report"},
    "shtab": {"commands"},
    "submitit": {"sweeps"},
    "mlxtend": {"data"},
}
"""Libraries that only these layers may import."""

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("wgan_sweep", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FILES
}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(index for index, layers in enumerate(LEVELS) if name in layers)


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the modules that a file imports, including imports inside functions.

    The names that the package offers are imported by `__getattr__`, and for type checkers only: they do not count.
    """
    tree = ast.parse(path.read_text())
    if path == PACKAGE / "__init__.py":
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += (name if name in MODULES else node.module for name in names)
    return tuple(found)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_layer_imports_only_layers_of_lower_levels(path: Path) -> None:
    importing = layer_of(path)
    for name in imports(path):
        if name.startswith("wgan_sweep."):
            imported = name.split(".")[1]
            assert imported == importing or level(imported) < level(importing), f"{importing} imports {name}"


def test_there_are_no_import_cycles() -> None:
    graph = {name: {module for module in imports(path) if module in MODULES} - {name} for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_by_the_listed_layers(library: str) -> None:
    importing = {layer_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert importing <= LIBRARIES[library]


def test_every_file_belongs_to_a_layer() -> None:
    assert {layer_of(path) for path in FILES} == set().union(*LEVELS)


def test_no_file_of_the_package_is_ignored_by_git() -> None:
    """Git, the build and ruff leave out what .gitignore names: it must name no layer."""
    checkout = PACKAGE.parent
    if not (checkout / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "wgan_sweep", "conf", "tests"]
    ignored = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [path for path in ignored if "__pycache__" not in path] == []
