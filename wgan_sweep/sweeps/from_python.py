"""Composing, training and sweeping for a caller in Python, whose process stays as it was.

Hydra's global state, signal handlers, environment variables, log handlers and the command's state are those of the
caller after each call.
"""

import copy
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.types import HydraContext, RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig

from wgan_sweep.common.verbosity import Verbosity
from wgan_sweep.config import refusals, schema
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.runs import pruning
from wgan_sweep.runs.build import check_options
from wgan_sweep.sweeps import hydra_launcher
from wgan_sweep.sweeps.compose import task_overrides
from wgan_sweep.sweeps.launching import Outcome, RequestedRun
from wgan_sweep.sweeps.local import Local
from wgan_sweep.sweeps.results import publish_results
from wgan_sweep.sweeps.state import CommandState, separate_state

log = logging.getLogger("wgan_sweep")

_ONE_CALL = threading.RLock()
"""Held by a call, because calls replace state that all threads share."""


@contextmanager
def separate_hydra() -> Iterator[Hydra]:
    """Yield a Hydra with this package's config.

    Hydra's global state, such as that of a caller's own application, is replaced inside this context and restored at
    its end. The caller holds `_ONE_CALL`.
    """
    Plugins.instance()  # before the copy: the plugins that it finds store configs
    hydra_launcher.register()
    store = copy.deepcopy(ConfigStore.instance())
    instances = cast("dict[type, Any]", Singleton._instances)
    before = dict(instances)
    for kind in (GlobalHydra, HydraConfig, JobRuntime, VersionBase):
        instances.pop(kind, None)
    instances[ConfigStore] = store
    try:
        schema.register()
        with initialize_config_dir(str(schema.conf_dir()), job_name="wgan-sweep", version_base="1.3"):
            yield cast("Hydra", GlobalHydra.instance().hydra)
    finally:
        instances.clear()
        instances.update(before)


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Restore the environment variables at the end; libraries set some when they are imported.

    The caller holds `_ONE_CALL`.
    """
    environment = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Restore the handlers and the level of the package's log at the end. The caller holds `_ONE_CALL`."""
    handlers, level = log.handlers[:], log.level
    try:
        yield
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)


@contextmanager
def unchanged_process(*, shows_progress: bool) -> Iterator[CommandState]:
    """Yield a state for the caller's runs; restore log handlers and environment variables at the end."""
    verbosity = Verbosity.NORMAL if shows_progress else Verbosity.SILENT
    with _ONE_CALL, _unchanged_logging(), _unchanged_environment(), separate_state(verbosity) as state:
        yield state


@contextmanager
def _explained(overrides: Sequence[str]) -> Iterator[None]:
    """Raise InputError, with the line that the command writes, for what Hydra and OmegaConf refuse."""
    try:
        yield
    except InputError:
        raise
    except refusals.BAD_INPUT as error:
        raise InputError(refusals.explain(error, overrides)) from error


def compose_config(overrides: Sequence[str]) -> Config:
    """Return the config of the run that the command ``wgan-sweep`` trains with these overrides.

    Raises:
        InputError: for overrides that the command refuses, or that request several runs. Whether the data can be read
            and the networks can be made is checked when the run starts.
    """
    with _ONE_CALL, _unchanged_environment(), _explained(overrides), separate_hydra() as hydra:
        composed = hydra.compose_config("config", list(overrides), RunMode.RUN)
        if composed.hydra.mode == RunMode.MULTIRUN:
            raise InputError(f"{' '.join(overrides)} requests a sweep, not one run: use sweep(...)")
        HydraConfig.instance().set_config(composed)
        config = hydra_launcher.run_config(composed, composed.hydra)
        check_options(config)
        schema.check_ranges(config)
        return config


def train_run(config: Config, *, shows_progress: bool) -> tuple[RequestedRun, Outcome]:
    """Complete a run in this process; do nothing if it is finished in its archive.

    Raises:
        InputError: if it cannot work; nothing is written.
        KeyboardInterrupt: after an interrupt; the run is saved.
    """
    _refuse_unguarded_script()
    _refuse_plan(config.plan)
    with unchanged_process(shows_progress=shows_progress) as state:
        schema.check_ranges(config)
        requested = RequestedRun(copy.deepcopy(config), (), "", None)
        pruning.check_is_in_sweep(config)
        outcome = hydra_launcher.launch_single_run(requested, Local())
        if state.should_stop():
            raise KeyboardInterrupt
        return requested, outcome


def sweep_runs(overrides: Sequence[str], *, shows_progress: bool) -> list[RequestedRun]:
    """Complete the runs of a sweep; write its table and figure; return the runs as they were requested.

    Raises:
        InputError: if the command refuses the overrides, or a run cannot work; nothing is started.
        KeyboardInterrupt: after an interrupt; the runs are saved.
    """
    _refuse_unguarded_script()
    with unchanged_process(shows_progress=shows_progress) as state, _explained(overrides), separate_hydra() as hydra:
        config = hydra.compose_config("config", list(overrides), RunMode.MULTIRUN)
        _refuse_plan(config.plan)
        if config.hydra.launcher.get("_target_") != schema.LAUNCHER:
            raise InputError("another hydra/launcher cannot be called from Python: leave it out, and use launch=NAME")
        hydra_launcher.note_folders(config)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(
            config=config, hydra_context=context, task_function=_launched_without
        )
        sweeper.sweep(arguments=task_overrides(config.hydra))
        if not state.requested:
            raise InputError(hydra_launcher.NO_RUNS)
        results = publish_results(state, config)
        of_runs = [] if shows_progress else state.problems  # the display has shown them
        for problem in [*of_runs, *results.problems]:
            log.warning("%s", problem)
        return list(state.requested)


def _refuse_unguarded_script() -> None:
    """Refuse to train while a process imports the main module of the one that started it, as `multiprocessing` does.

    The call would wait for the run of the first process, which waits for this one.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            'the script trains outside `if __name__ == "__main__":`, and each process that it starts runs it again: '
            'put the calls of train and sweep below `if __name__ == "__main__":`'
        )


def _launched_without(_: DictConfig) -> NoReturn:
    """Stand in for Hydra's task function, which the launcher of this package does not call."""
    raise NotImplementedError


def _refuse_plan(plan: object) -> None:
    if plan:
        raise InputError("plan=true trains nothing: leave it out, or run the command wgan-sweep to see the plan")
