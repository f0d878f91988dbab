"""Composing configs, and training runs and sweeps, as the command ``wgan-sweep`` does."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from wgan_sweep.api.run import ArchivedRun, Run
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError, RunFailedError
from wgan_sweep.runs.life import summary
from wgan_sweep.runs.record import Status
from wgan_sweep.sweeps.archived import archived_lines, done_in_archives
from wgan_sweep.sweeps.from_python import compose_config, sweep_runs, train_run
from wgan_sweep.sweeps.launching import RequestedRun


def _check_overrides(overrides: tuple[str, ...], name: str) -> None:
    for override in overrides:
        if not isinstance(override, str):
            raise InputError(f'{name} takes overrides as text, such as "loss=wgan_gp", got {override!r}')
        if override.startswith("-"):
            raise InputError(f"{name} takes overrides, not the options of the command, got {override}: leave it out")


def compose(*overrides: str) -> Config:
    """Return the config of the run that ``wgan-sweep`` trains with these overrides: typed, resolved and checked.

    Args:
        *overrides: ``group=option`` and ``key=value``, as on the command line.

    Raises:
        InputError: for overrides that the command refuses, or that request several runs. Whether the data can be read
            and the networks can be made is checked when the run starts.
    """
    _check_overrides(overrides, "compose")
    return compose_config(overrides)


def train(config: Config, *, progress: bool = True) -> Run:
    """Complete a run in this process: train it from its checkpoint, and score it.

    A finished run is not trained again, neither is one that is finished in its archive (key ``archive``), which has no
    networks. An interrupt (Ctrl-C, or that of a notebook's cell) saves a checkpoint before the KeyboardInterrupt. If
    another process trains the run, this one waits for it.

    Args:
        config: What `compose` returned, or a run's `config`; it may be changed before.
        progress: Whether to show progress on standard error.

    Raises:
        InputError: if the config cannot work; nothing is written.
        RunFailedError: if the run failed or diverged. Its attribute `run` is the run; `run.record` says why.
    """
    requested, outcome = train_run(config, shows_progress=progress)
    (run,) = _runs([requested])
    if outcome.problem:
        raise RunFailedError(outcome.problem, run)
    if run.record.status != Status.DONE:
        raise RunFailedError(f"run {requested.run_id} {summary(run.record)} (in {run.place})", run)
    return run


def sweep(*overrides: str, progress: bool = True) -> list[Run]:
    """Complete a sweep, as ``wgan-sweep -m`` does, and return its runs in the order in which they were requested.

    Lists are swept over: ``sweep("loss=wgan_div", "div.k=1,2", "seed=0,1")``. Finished runs are not trained again,
    neither are those that are finished in their archive (key ``archive``), which have no networks. All runs are checked
    before the first one starts. A run that fails or diverges does not stop the others: its `record.status` says so. The
    table and the figure of the sweep are written to ``runs/.sweeps``. An interrupt saves a checkpoint before the
    KeyboardInterrupt.

    Args:
        *overrides: ``group=option`` and ``key=value``, as on the command line, without ``-m``.
        progress: Whether to show progress on standard error.

    Raises:
        InputError: if the command refuses the overrides, or a run cannot work; nothing is started.
    """
    _check_overrides(overrides, "sweep")
    requested = sweep_runs(overrides, shows_progress=progress)
    return _runs(requested)


def _runs(requested: Sequence[RequestedRun]) -> list[Run]:
    """Return requested runs as they are by now, in the folder of runs or else in their archives."""
    archived = done_in_archives(requested)
    lines = cache(partial(archived_lines, [run for run in requested if run.run_id in archived]))

    def in_archive(run: RequestedRun) -> Run:
        return ArchivedRun(
            run.directory.path,
            archived[run.run_id],
            Path(str(run.config.archive)),
            lambda: run.config,
            lambda: lines().get(run.run_id),
        )

    return [
        in_archive(run)
        if run.run_id in archived
        else Run(run.directory.path, device=run.config.device, config=run.config)
        for run in requested
    ]
