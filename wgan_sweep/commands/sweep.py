"""The command: Hydra composes, this checks all of a sweep before any of it starts, runs it, and shows the table.

What is heavy (torch) is imported when there is work to do: `--help` and `--cfg` answer at once.
"""

import math
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from wgan_sweep.config import schema as configs
from wgan_sweep.errors import InputError
from wgan_sweep.runs import provenance
from wgan_sweep.runs.directory import overridden_key
from wgan_sweep.sweeps.compose import Composer

if TYPE_CHECKING:
    from hydra.types import TaskFunction

    from wgan_sweep.common.progress import Display
    from wgan_sweep.sweeps.local import Cell, Launch, Outcome

configs.register()

INTERRUPTED = "wgan-sweep: interrupted; the same command goes on from the last checkpoints\n"


def _refuse(message: str) -> NoReturn:
    _state.close()
    sys.stderr.write(f"wgan-sweep: {message}\n")
    sys.exit(1)


class CommandState:
    """What one start of the command has seen and done so far."""

    def __init__(self) -> None:
        self.stopping = False
        """Whether Ctrl-C was pressed: the run at work saves and ends, the others do not start."""
        self.cells: list[Cell] = []
        """All runs that were asked for and can work."""
        self.problems: list[str] = []
        """Why some came to nothing."""
        self.made: list[Path] = []
        """Folders that were not there before the sweep."""
        self.began = provenance.now()
        self.elsewhere: set[str] = set()
        """Runs that go on without this command."""
        self._display: Display | None = None

    @property
    def display(self) -> "Display":
        """One bar for the sweep, one for each of its runs."""
        if self._display is None:
            from wgan_sweep.common.progress import Display
            from wgan_sweep.sweeps.local import log_to_display

            self._display = Display()
            log_to_display(self._display)
        return self._display

    def stop(self, *_: object) -> None:
        """Ask the runs at work to save and end; asked again, end at once."""
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        said = "stopping at the next step, with a checkpoint; Ctrl-C again stops at once"
        if self._display is not None:  # it is not made here: this may come in the middle of an import
            self._display.line(said)
        else:
            sys.stderr.write(f"{said}\n")

    def is_stopping(self) -> bool:
        """Say whether to save and leave."""
        return self.stopping

    def close(self) -> None:
        """Take all bars away; and the folders of a sweep that did not come about."""
        if self._display is not None:
            self._display.close()
        for folder in self.made if not self.cells else []:
            (folder / "multirun.yaml").unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


_state = CommandState()


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


def _objective(outcome: "Outcome") -> float | None:
    """Return what a sweeper minimises: the lowest FID (or W1), infinity where the run diverged; else None."""
    from wgan_sweep.runs.directory import Status, objective

    record = outcome.record
    if record is None or record.status not in (Status.DONE, Status.DIVERGED):
        return None
    if record.status == Status.DIVERGED:
        return math.inf
    judged = objective(record.best)
    return record.best[judged] if judged else None


def _task(composed: DictConfig) -> float | None:
    """Run one config: a single run, or a run of a sweep under another launcher of Hydra's."""
    from wgan_sweep.runs.directory import Status
    from wgan_sweep.sweeps.local import Cell, run_when_unlocked

    job = HydraConfig.get()
    in_sweep = job.mode == hydra.types.RunMode.MULTIRUN
    overrides = tuple(job.overrides.task)
    try:
        config = _finalise(composed, job)
    except InputError as error:
        _refuse(str(error))
    cell = Cell(config, overrides, " ".join(overrides), Path(job.sweep.dir).name if in_sweep else None)
    if config.plan:
        _show_plan([cell])
        return None
    outcome = run_when_unlocked(cell, _state.display, _state.is_stopping) if in_sweep else _launch_alone(cell)
    if _state.stopping:
        raise KeyboardInterrupt
    if outcome.goes_on:
        return None
    if outcome.record is None or outcome.problem or (not in_sweep and outcome.record.status != Status.DONE):
        sys.exit(1)
    return _objective(outcome)


def _launch_alone(cell: "Cell") -> "Outcome":
    """Launch a single run, as the only one of a sweep."""
    from wgan_sweep.runs.build import make_launch
    from wgan_sweep.sweeps.plan import plan_run

    try:
        launch = cast("Launch", make_launch(cell.config.launch))
        planned = plan_run(cell.config, "", launch.device)
        if planned.what == "refuse":
            _refuse(planned.why)
        (outcome,) = launch([cell], _state.display, _state.is_stopping)
    except InputError as error:
        _refuse(str(error))
    return outcome


class Cells(Launcher):
    """Takes all runs that a sweeper asks for: composes and checks each, then hands them to ``launch``."""

    def setup(self, *, hydra_context: HydraContext, task_function: "TaskFunction", config: DictConfig) -> None:  # noqa: ARG002
        """Take what Hydra has for a launcher."""
        self._config, self._compose_one = config, Composer.of(hydra_context.config_loader)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all runs of a grid, or those that a sweeper wants to know next.

        If one of the first cannot work, nothing starts; a later one is then a problem of its own.
        """
        cells, problems = self._compose([list(overrides) for overrides in job_overrides])
        if self._config.plan:
            _show_plan(cells, list(problems.values()))
            sys.exit(1 if problems else 0)
        from wgan_sweep.runs.build import make_figure, make_launch
        from wgan_sweep.sweeps.plan import plan_run

        try:
            launch = cast("Launch", make_launch(_plain(self._config.launch)))
            make_figure(_plain(self._config.figure))
        except InputError as error:
            _refuse(str(error))
        for cell in cells:
            planned = plan_run(cell.config, "", launch.device)
            if planned.what == "refuse":
                problems[cell.overrides] = f"{' '.join(cell.overrides)}: {planned.why}"
        if problems and initial_job_idx == 0:
            count = f"{len(problems)} of {len(job_overrides)} runs"
            said = [f"  {problem}" for problem in problems.values()]
            _refuse("\n".join([f"nothing was started, since {count} of the sweep cannot work:", *said]))
        cells = [cell for cell in cells if cell.overrides not in problems]
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        _state.display.sweep(len(cells))
        try:
            outcomes = launch(cells, _state.display, _state.is_stopping)
        except InputError as error:
            _refuse(str(error))
        _state.cells += cells
        _state.elsewhere |= {cell.run for cell, one in zip(cells, outcomes, strict=True) if one.goes_on}
        _state.problems += [f"refused: {problem}" for problem in problems.values()]
        _state.problems += [outcome.problem for outcome in outcomes if outcome.problem]
        if _state.stopping:  # no sweeper shall ask for more
            _conclude(self._config)
            raise KeyboardInterrupt
        found = {cell.overrides: _objective(outcome) for cell, outcome in zip(cells, outcomes, strict=True)}
        return [
            JobReturn(overrides=asked, _return_value=found.get(tuple(asked)), status=JobStatus.COMPLETED)
            for asked in job_overrides
        ]

    def _compose(self, jobs: list[list[str]]) -> tuple[list["Cell"], dict[tuple[str, ...], str]]:
        """Return the cells, and for those that cannot be, by their overrides, why."""
        from wgan_sweep.sweeps.local import Cell

        shared = set(self._config.hydra.overrides.task)  # also where a sweeper asks for one run at a time
        shared |= set(jobs[0]).intersection(*jobs[1:]) if len(jobs) > 1 else set()
        group = Path(self._config.hydra.sweep.dir).name
        cells, problems = [], {}
        for overrides in jobs:
            own = " ".join([override for override in overrides if override not in shared] or overrides)
            try:
                composed = self._compose_one(self._config, overrides)
                cells.append(Cell(_finalise(composed, composed.hydra), tuple(overrides), own, group))
            except InputError as error:
                problems[tuple(overrides)] = f"{' '.join(overrides)}: {error}"
        return cells, problems


# Under the only kind of name that Hydra takes a launcher by, and without a package of that name.
Plugins.instance().class_name_to_class[configs.LAUNCHER] = Cells


class Sweep(Callback):
    """Hydra's moment after a multirun: the table. An exception, which Hydra would warn of, ends the command."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Remember what Hydra's sweeper is about to make, for a sweep that may not come about."""
        folder = Path(config.hydra.sweep.dir)
        _state.made = [path for path in (folder, folder.parent, Path(config.runs)) if not path.exists()]

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table of the sweep and where to look further; exit with 1 if a run failed."""
        if not _state.cells:  # another launcher of Hydra's, whose runs are not known here
            _state.made = []
            sys.stdout.write(f"further   wgan-report {_from_here(Path(config.runs).absolute())}\n")
            return
        try:
            bad = _conclude(config)
        except Exception:
            _state.close()
            traceback.print_exc()
            bad = True
        if bad:
            sys.exit(1)


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def _show_plan(cells: Sequence["Cell"], problems: Sequence[str] = ()) -> None:
    """Print what would be done of each run."""
    from wgan_sweep.sweeps.plan import earlier_records, plan_run, seconds_per_image, to_table

    records = earlier_records(Path(cells[0].config.runs)) if cells else []
    planned = []
    for cell in cells:
        found = plan_run(cell.config, cell.label)
        pace = seconds_per_image(cell.config, records)
        planned.append(replace(found, seconds=None if pace is None else pace * found.images))
    _state.close()
    sys.stdout.write(to_table(planned) + "".join(f"refused: {problem}\n" for problem in problems))


def _from_here(path: Path) -> str:
    """Return a path as a shell wants it, relative where it is below the working directory."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


PLACES_SHOWN = 12
"""Samples of so many runs are listed one by one."""


def _conclude(config: DictConfig) -> bool:
    """Show the sweep's table, figure and places; return whether any run has not come to its end."""
    from wgan_sweep.common.files import write
    from wgan_sweep.runs.build import make_figure
    from wgan_sweep.runs.directory import RunDir, Status

    _state.close()
    runs, folder = Path(_state.cells[0].config.runs), Path(config.hydra.sweep.dir)
    labels = {configs.run_id(cell.config): cell.label for cell in _state.cells}
    records = [record for name in labels if (record := RunDir(runs / name).read_record())]
    found = make_figure(_plain(config.figure))(records, runs)
    write(folder / "table.md", found.table)
    lines = ["", found.table, f"runs      {_from_here(runs)}/<id>, {len(records)} of them"]
    for record in records if len(records) <= PLACES_SHOWN else []:
        picture = RunDir(runs / record.run_id).last_samples()
        place = _from_here(picture) if picture else "none"
        lines.append(f"samples   {place}  ({labels[record.run_id]})")
    lines.append(f"table     {_from_here((folder / 'table.md').absolute())}")
    if found.picture:
        write(folder / "figure.png", found.picture)
        lines.append(f"figure    {_from_here((folder / 'figure.png').absolute())}")
    if any((record.finished or "") >= _state.began for record in records):  # else all was there, and is mirrored
        _mirror(folder.absolute(), list(config.hydra.overrides.task))
    lines.append(f"further   wgan-report {_from_here(runs)}")
    lines += _state.problems
    if (optimum := folder / "optimization_results.yaml").exists():  # of a sweeper that searches
        lines += ["", optimum.read_text().strip()]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    done = {record.run_id for record in records if record.status == Status.DONE}
    return bool(_state.problems) or not labels.keys() <= done | _state.elsewhere


def _mirror(folder: Path, typed: list[str]) -> None:
    """Give the sweep's table and figure to its runs' tracker, as a run of their own."""
    from wgan_sweep.runs.build import make_tracker
    from wgan_sweep.runs.mirroring import of_sweep
    from wgan_sweep.tracking.wandb import FaultTolerantTracker

    first = _state.cells[0]
    asked = {"runs": [cell.run for cell in _state.cells], "overrides": typed}
    tracker = FaultTolerantTracker(lambda: make_tracker(first.config, of_sweep(folder, asked)))
    tracker.files("sweep", (path for name in ("table.md", "figure.png") if (path := folder / name).exists()))
    tracker.close("done", {})


def main() -> None:
    """Run ``wgan-sweep``."""
    signal.signal(signal.SIGINT, _state.stop)
    app = hydra.main(version_base="1.3", config_path=str(configs.conf_dir()), config_name="config")
    try:
        cast("Any", app(cast("TaskFunction", _task)))()
    except KeyboardInterrupt:
        _state.close()
        sys.stderr.write(INTERRUPTED)
        sys.exit(130)
    finally:
        _state.close()
