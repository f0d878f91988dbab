"""The command: Hydra composes, this checks all of a sweep before any of it starts, runs it, and shows the table.

What is heavy (torch) is imported when there is work to do: `--help` and `--cfg` answer at once.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from wgan_sweep import config as configs
from wgan_sweep.errors import InputError

if TYPE_CHECKING:
    from hydra.types import TaskFunction

    from wgan_sweep.progress import Display

configs.register()


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"wgan-sweep: {message}\n")
    sys.exit(1)


class _ToDisplay(logging.Handler):
    """Shows what the library says beside the bars."""

    def __init__(self, display: "Display") -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        self._display.line(record.getMessage())


_display: "Display | None" = None


def _shared_display() -> "Display":
    """Return the process's display: one bar for the sweep, one for each of its runs."""
    global _display
    if _display is None:
        from wgan_sweep.progress import Display

        _display = Display()
        handler = _ToDisplay(_display)
        handler.setLevel(logging.INFO)
        log = logging.getLogger("wgan_sweep")
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    return _display


_in_every_run: set[str] = set()
"""Overrides that all runs of the process's sweep have in common: they tell none apart."""


def _what_is_its_own(overrides: Iterable[str]) -> str:
    return " ".join(override for override in overrides if override not in _in_every_run)


def _keys(overrides: Iterable[str]) -> list[str]:
    return [override.lstrip("+~").split("=")[0].split("@")[0] for override in overrides]


def _finalise(composed: DictConfig, hydra_config: Any) -> configs.Config:
    """Return the config of one run.

    Raises:
        InputError: if it is incomplete, or something was asked for that changes nothing.
    """
    unused = configs.unused_overrides(composed, _keys(hydra_config.overrides.task))
    config = configs.finalise(composed, hydra_config.runtime.choices)
    if unused:
        chosen = ", ".join(
            f"{group}={config.choices[group]}" for group in ("loss", "constraint") if group in config.choices
        )
        raise InputError(
            f"{', '.join(unused)} given, but nothing refers to it ({chosen}): it would train the same run again. "
            "Leave it out, or choose a loss or constraint that uses it"
        )
    return config


def _task(composed: DictConfig) -> float | None:
    """Run one config; return its lowest FID."""
    from wgan_sweep.driver import run
    from wgan_sweep.runs import Status

    job = HydraConfig.get()
    in_sweep = job.mode == hydra.types.RunMode.MULTIRUN
    overrides = list(job.overrides.task)
    try:
        config = _finalise(composed, job)
        record = run(
            config,
            overrides=overrides,
            display=_shared_display(),
            group=Path(job.sweep.dir).name if in_sweep else None,
            label=_what_is_its_own(overrides),
        )
    except InputError as error:
        _refuse(str(error))
    if not in_sweep and record.status != Status.DONE:
        sys.exit(1)
    return record.best.get("fid")


class Sweep(Callback):
    """Hydra's moments around a multirun: check all runs before the first starts; show the table after the last."""

    def __init__(self) -> None:
        self._runs: Path | None = None
        self._ids: list[str] = []

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Compose and check every run of a grid; a sweeper that chooses as it goes is checked run by run."""
        jobs = _grid(config)
        if jobs is None:
            return
        from wgan_sweep.driver import directory_of, is_finished
        from wgan_sweep.experiment import check

        _shared_display()
        if len(jobs) > 1:
            _in_every_run.update(set(jobs[0]).intersection(*jobs[1:]))
        loader = GlobalHydra.instance().config_loader()
        problems = []
        for overrides in jobs:
            try:
                composed = loader.load_sweep_config(config, overrides)
                cell = _finalise(composed, composed.hydra)
                directory = directory_of(cell)
                if not is_finished(directory.read_record(), cell):
                    check(cell)
                self._runs = directory.path.parent
                self._ids.append(directory.path.name)
            except InputError as error:
                problems.append(f"  {' '.join(overrides)}: {error}")
        if problems:
            count = f"{len(problems)} of {len(jobs)} runs"
            _refuse("\n".join([f"nothing was started, since {count} of the sweep cannot work:", *problems]))
        _shared_display().sweep(len(jobs))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table of the sweep and where to look further; exit with 1 if a run failed."""
        if _display is not None:
            _display.close()
        if self._runs is not None:
            _conclude(self._runs, self._ids, Path(config.hydra.sweep.dir))


def _grid(config: DictConfig) -> list[list[str]] | None:
    """Return the overrides of each run of a grid, as Hydra's basic sweeper will make them, or None for another one."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    if not str(config.hydra.sweeper._target_).endswith("BasicSweeper"):
        return None
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    given += list(config.hydra.overrides.task)
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    batches = BasicSweeper.split_arguments(parser.parse_overrides(given), max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def _conclude(runs: Path, ids: list[str], folder: Path) -> None:
    from wgan_sweep.contact_sheet import draw
    from wgan_sweep.report import report, to_markdown
    from wgan_sweep.runs import RunDir, Status

    records = [record for name in dict.fromkeys(ids) if (record := RunDir(runs / name).read_record())]
    found = report(records)
    write = sys.stdout.write
    write(f"\n{to_markdown(found)}\n")
    write(f"runs      {runs}/<id>, {len(records)} of them\n")
    for record in records:
        picture = RunDir(runs / record.run_id).last_samples()
        write(f"samples   {picture or 'none'}  ({_what_is_its_own(record.overrides)})\n")
    if draw(found, runs, folder / "samples.png"):
        write(f"together  {folder / 'samples.png'}\n")
    write(f"further   wgan-report {runs}\n")
    sys.stdout.flush()
    if any(record.status != Status.DONE for record in records) or len(records) < len(set(ids)):
        sys.exit(1)


def main() -> None:
    """Run ``wgan-sweep``."""
    app = hydra.main(version_base="1.3", config_path=str(configs.conf_dir()), config_name="config")
    try:
        cast("Any", app(cast("TaskFunction", _task)))()
    except KeyboardInterrupt:
        if _display is not None:
            _display.close()
        sys.stderr.write("wgan-sweep: interrupted; the same command goes on from the last checkpoints\n")
        sys.exit(130)
