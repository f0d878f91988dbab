"""The command: Hydra composes, this checks all of a sweep before any of it starts, runs it, and shows the table.

What is heavy (torch) is imported when there is work to do: `--help` and `--cfg` answer at once.
"""

import logging
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from wgan_sweep import config as configs
from wgan_sweep.errors import InputError
from wgan_sweep.runs import overridden_key

if TYPE_CHECKING:
    from hydra.types import TaskFunction

    from wgan_sweep.progress import Display
    from wgan_sweep.runs import Record

configs.register()

INTERRUPTED = "wgan-sweep: interrupted; the same command goes on from the last checkpoints\n"
SECONDS_BETWEEN_TRIES = 2.0
"""How often a run that another process is at is tried."""


def _refuse(message: str) -> NoReturn:
    _close_display()
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


def _close_display() -> None:
    if _display is not None:
        _display.close()


def _what_is_its_own(overrides: Iterable[str]) -> str:
    return " ".join(override for override in overrides if override not in _in_every_run)


def _finalise(composed: DictConfig, hydra_config: Any) -> configs.Config:
    """Return the config of one run.

    Raises:
        InputError: if it is incomplete, or something was asked for that changes nothing.
    """
    unused = configs.unused_overrides(composed, map(overridden_key, hydra_config.overrides.task))
    config = configs.finalise(composed, hydra_config.runtime.choices)
    if unused:
        chosen = ", ".join(f"{group}={config.choices[group]}" for group in ("loss", "constraint"))
        raise InputError(
            f"{', '.join(unused)} given, but nothing refers to it ({chosen}): it would train the same run again. "
            "Leave it out, or choose a loss or constraint that uses it"
        )
    return config


_conducts_sweep = False
"""Whether this process has seen the beginning of a sweep and will see its end (a launcher's worker does not)."""
_left_for_later: list[Callable[[], "Record"]] = []
"""Runs of the process's sweep that another process was at when their turn came."""


def _run(config: configs.Config, overrides: list[str], group: str | None) -> "Record":
    from wgan_sweep.driver import run

    return run(
        config,
        overrides=overrides,
        display=_shared_display(),
        group=group,
        label=_what_is_its_own(overrides),
        stop=lambda: _stopping,
    )


_stopping = False
"""Whether Ctrl-C was pressed: the run at work saves and ends, the others do not start."""


def _stop(*_: object) -> None:
    """Ask the run at work to save and end; asked again, end at once."""
    global _stopping
    if _stopping:
        raise KeyboardInterrupt
    _stopping = True
    _shared_display().line("stopping at the next step, with a checkpoint; Ctrl-C again stops at once")


def _when_free(start: Callable[[], "Record"]) -> "Record":
    """Do a run as soon as no other process is at it: what that one has done is not done again."""
    from wgan_sweep.locks import HeldError

    said = ""
    while True:
        if _stopping:
            raise KeyboardInterrupt
        try:
            return start()
        except HeldError as held:
            if str(held) != said:
                said = str(held)
                _shared_display().line(f"waiting: {held} is at this run")
            time.sleep(SECONDS_BETWEEN_TRIES)


_refused: list[str] = []
"""Runs of the process's sweep that turned out impossible only when their turn came."""


def _task(composed: DictConfig) -> float | None:
    """Run one config; return its lowest FID (or W1)."""
    from wgan_sweep.locks import HeldError
    from wgan_sweep.runs import Status, objective

    job = HydraConfig.get()
    in_sweep = job.mode == hydra.types.RunMode.MULTIRUN
    overrides = list(job.overrides.task)
    if _stopping and in_sweep:
        return None
    try:
        config = _finalise(composed, job)
        if config.plan and not in_sweep:
            _show_plan([(config, overrides)])
            return None
        start = partial(_run, config, overrides, Path(job.sweep.dir).name if in_sweep else None)
        if _conducts_sweep:
            try:
                record = start()
            except HeldError as held:
                _shared_display().line(f"{_what_is_its_own(overrides)}: {held} is at this run; the others come first")
                _left_for_later.append(start)
                return None
        else:
            record = _when_free(start)
    except InputError as error:
        if not in_sweep:
            _refuse(str(error))
        _refused.append(f"refused: {' '.join(overrides)}: {error}")
        _shared_display().line(_refused[-1])
        return None
    except KeyboardInterrupt:
        if _stopping and _conducts_sweep:
            return None  # the sweep ends with the table of what is done
        raise
    if not in_sweep and record.status != Status.DONE:
        sys.exit(1)
    judged = objective(record.best)
    return record.best[judged] if judged else None


class Sweep(Callback):
    """Hydra's moments around a multirun: check all runs before the first starts; show the table after the last.

    Hydra turns an exception of a callback into a warning; here it ends the command.
    """

    def __init__(self) -> None:
        self._runs: Path | None = None
        self._ids: list[str] = []

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Compose and check every run of a grid; a sweeper that chooses as it goes is checked run by run."""
        try:
            self._check(config)
        except HydraException as error:
            _refuse(str(error))
        except Exception:
            _close_display()
            traceback.print_exc()
            sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table of the sweep and where to look further; exit with 1 if a run failed."""
        try:
            for start in _left_for_later if not _stopping else []:
                _when_free(start)
            _close_display()
            figure = cast("dict[str, Any]", OmegaConf.to_container(config.figure, resolve=True))
            bad = self._runs is not None and _conclude(self._runs, self._ids, Path(config.hydra.sweep.dir), figure)
        except Exception:
            _close_display()
            traceback.print_exc()
            bad = True
        if _stopping:
            sys.stderr.write(INTERRUPTED)
            sys.exit(130)
        if bad or _refused:
            sys.exit(1)

    def _check(self, config: DictConfig) -> None:
        global _conducts_sweep
        _conducts_sweep = True
        jobs = _grid(config)
        if jobs is None:
            return
        from wgan_sweep.driver import directory_of
        from wgan_sweep.plan import look

        display = _shared_display()
        if len(jobs) > 1:
            _in_every_run.update(set(jobs[0]).intersection(*jobs[1:]))
        loader = GlobalHydra.instance().config_loader()
        cells, problems = [], []
        for overrides in jobs:
            try:
                composed = loader.load_sweep_config(config, overrides)
                cells.append((_finalise(composed, composed.hydra), overrides))
            except InputError as error:
                problems.append(f"  {' '.join(overrides)}: {error}")
        if config.plan:
            _show_plan(cells, problems)
            sys.exit(1 if problems else 0)
        for cell, overrides in cells:
            planned = look(cell, " ".join(overrides))
            if planned.what == "refuse":
                problems.append(f"  {planned.typed}: {planned.why}")
            directory = directory_of(cell)
            self._runs = directory.path.parent
            self._ids.append(directory.path.name)
        if problems:
            count = f"{len(problems)} of {len(jobs)} runs"
            _refuse("\n".join([f"nothing was started, since {count} of the sweep cannot work:", *problems]))
        display.sweep(len(jobs))


def _show_plan(cells: Sequence[tuple[configs.Config, list[str]]], problems: Sequence[str] = ()) -> None:
    """Print what would be done of each run."""
    from wgan_sweep.plan import earlier, look, seconds_per_image, to_table

    records = earlier(Path(cells[0][0].runs)) if cells else []
    planned = []
    for config, overrides in cells:
        found = look(config, _what_is_its_own(overrides))
        pace = seconds_per_image(config, records)
        planned.append(replace(found, seconds=None if pace is None else pace * found.images))
    _close_display()
    sys.stdout.write(to_table(planned) + "".join(f"refused:{problem}\n" for problem in problems))


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


def _from_here(path: Path) -> str:
    """Return a path as a shell wants it, relative where it is below the working directory."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


PLACES_SHOWN = 12
"""Samples of so many runs are listed one by one."""


def _conclude(runs: Path, ids: list[str], folder: Path, figure: dict[str, Any]) -> bool:
    """Show the sweep's table, figure and places; return whether any run has not come to its end."""
    from wgan_sweep.experiment import make_figure
    from wgan_sweep.files import write
    from wgan_sweep.runs import RunDir, Status

    names = list(dict.fromkeys(ids))
    records = [record for name in names if (record := RunDir(runs / name).read_record())]
    found = make_figure(figure)(records, runs)
    write(folder / "table.md", found.table)
    lines = ["", found.table, f"runs      {_from_here(runs)}/<id>, {len(records)} of them"]
    for record in records if len(records) <= PLACES_SHOWN else []:
        picture = RunDir(runs / record.run_id).last_samples()
        place = _from_here(picture) if picture else "none"
        lines.append(f"samples   {place}  ({_what_is_its_own(record.overrides)})")
    lines.append(f"table     {_from_here((folder / 'table.md').absolute())}")
    if found.picture:
        write(folder / "figure.png", found.picture)
        lines.append(f"figure    {_from_here((folder / 'figure.png').absolute())}")
    lines.append(f"further   wgan-report {_from_here(runs)}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    return len(records) < len(names) or any(record.status != Status.DONE for record in records)


def main() -> None:
    """Run ``wgan-sweep``."""
    signal.signal(signal.SIGINT, _stop)
    app = hydra.main(version_base="1.3", config_path=str(configs.conf_dir()), config_name="config")
    try:
        cast("Any", app(cast("TaskFunction", _task)))()
    except KeyboardInterrupt:
        _close_display()
        sys.stderr.write(INTERRUPTED)
        sys.exit(130)
    finally:
        _close_display()
