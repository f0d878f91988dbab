"""The house stands: a file imports only from floors below its own, and few know what is heavy."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import wgan_sweep

PACKAGE = Path(wgan_sweep.__file__).parent

FLOORS = [
    {
        "errors",
        "files",
        "rng",
        "images",
        "precision",
        "sampling",
        "second_derivatives",
        "provenance",
        "locks",
        "plots",
        "processes",
        "graphs",
        "optimizers",
        "gpu_memory",
        "runs",
        "__init__",
    },
    {"gradient_terms", "compiling", "models", "data", "checkpoints", "tracking", "dashboard", "progress"},
    {"losses", "constraints", "replicas", "scoring"},
    {"stabilisers", "objective"},
    {"trainer"},
    {"config", "composing", "report"},
    {"mirror", "experiment", "contact_sheet", "theory", "bench"},
    {"session", "sides"},
    {"driver", "neighbours"},
    {"plan", "launch"},
    {"parallel"},
    {"slurm"},
    {"cli", "score", "reporting"},
    {"__main__"},
]
# Within the lowest floor, these may be imported by the others of it.
GROUND = {"errors", "files"}

KNOWN_ONLY_TO = {
    "hydra": {"config", "composing", "experiment", "cli"},
    "omegaconf": {"config", "composing", "experiment", "cli", "report"},
    "wandb": {"tracking"},
    "wandb_workspaces": {"dashboard"},
    "torchmetrics": {"scoring"},
    "torch_fidelity": {"scoring"},
    "ot": {"scoring"},
    "scipy": {"scoring", "report"},
    "vl_convert": {"report"},
    "jinja2": {"report"},
    "joblib": {"mirror"},
    "matplotlib": {"plots"},
    "rich": {"progress", "report"},
    "flufl": {"locks"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "wgan_sweep":
                yield from (f"wgan_sweep.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(PACKAGE.rglob("*.py"))


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        if name.startswith("wgan_sweep."):
            there = name.split(".")[1]
            assert there == here or floor(there) < floor(here) or there in GROUND - {here}, f"{here} imports {there}"


@pytest.mark.parametrize("library", KNOWN_ONLY_TO)
def test_a_library_is_known_only_to_its_rooms(library: str) -> None:
    knowing = {room(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert knowing <= KNOWN_ONLY_TO[library]


def test_every_file_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set().union(*FLOORS)
