"""Sweeps over Wasserstein GAN objectives: one command per claim, scored with FID.

The names below are imported when they are first used, so that `import wgan_sweep` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wgan_sweep.api.generators import load_generator
    from wgan_sweep.api.run import Run, find_runs, load_run
    from wgan_sweep.api.training import compose, sweep, train
    from wgan_sweep.config.schema import Config
    from wgan_sweep.errors import InputError, RunFailedError
    from wgan_sweep.runs.export import ExportedGenerator

__version__ = "0.2.0.dev0"

__all__ = [
    "Config",
    "ExportedGenerator",
    "InputError",
    "Run",
    "RunFailedError",
    "compose",
    "find_runs",
    "load_generator",
    "load_run",
    "sweep",
    "train",
]

_HOMES = {
    "Config": "config.schema",
    "ExportedGenerator": "runs.export",
    "InputError": "errors",
    "Run": "api.run",
    "RunFailedError": "errors",
    "compose": "api.training",
    "find_runs": "api.run",
    "load_generator": "api.generators",
    "load_run": "api.run",
    "sweep": "api.training",
    "train": "api.training",
}
"""The modules that define the names of `__all__`."""


def __getattr__(name: str) -> Any:
    """Import a name of `__all__`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
