"""The results of a sweep: its table and figure, in its folder, on the terminal and in the tracker."""

import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from wgan_sweep.common.files import remove_leftovers, write
from wgan_sweep.common.pictures import with_description
from wgan_sweep.errors import InputError
from wgan_sweep.report import figures
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.mirroring import make_tracker, tracked_sweep
from wgan_sweep.runs.record import Status
from wgan_sweep.runs.requests import FILE, write_not_started
from wgan_sweep.runs.selection import stored_runs
from wgan_sweep.sweeps.archived import with_archived_runs
from wgan_sweep.sweeps.compose import plain, task_overrides
from wgan_sweep.sweeps.launching import RequestedRun
from wgan_sweep.sweeps.state import CommandState
from wgan_sweep.tracking.tracker import FaultTolerantTracker
from wgan_sweep.tracking.wandb import key_is_configured, last_close, settings

NEARLY_FULL = 64 * 1024
"""Free bytes below which a disk is too full for a run to record how it ended."""
MAX_SAMPLE_PATHS = 12
"""The samples of each run are listed if the sweep has at most this many runs."""


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep."""

    text: str
    """The table, the paths of the sweep's files, and its problems."""
    is_complete: bool
    """Whether every run is done or pruned, or continues in a job, and there are no problems."""
    problems: tuple[str, ...] = ()
    """Problems of the results themselves, beside those of the runs."""


def shell_path(path: Path) -> str:
    """Return a path quoted for a shell, relative if it is below the working directory."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def offline_note(runs: Path, run_ids: Iterable[str]) -> list[str]:
    """Return a line that says how to upload those runs that W&B mirrors offline only; none if there are none.

    Args:
        runs: The folder of runs.
        run_ids: The runs.
    """
    mirrors = [mirror for run_id in run_ids if (mirror := last_close(runs / run_id))]
    count = sum(mirror.where.mode == "offline" for mirror in mirrors)
    if not count:
        return []
    first = ""
    with suppress(InputError):  # a variable of the environment that W&B refuses
        if not key_is_configured():
            first = "`wandb login`, then "
        elif settings().mode != "online":
            first = "WANDB_MODE=online "
    what = "1 run is" if count == 1 else f"{count} runs are"
    return [f"W&B       {what} mirrored offline; to upload: {first}wgan-report {shell_path(runs)} --wandb"]


def publish_results(state: CommandState, config: DictConfig) -> SweepResults:
    """Write the table and the figure of a sweep to its folder and to the tracker.

    The figure carries the table in its metadata.

    Args:
        state: The state of the command, which has requested at least one run.
        config: The config of the sweep as Hydra composed it.
    """
    state.close()  # no bars between the lines of the tracker
    runs, folder = Path(state.requested[0].config.runs), Path(config.hydra.sweep.dir)
    titles = {run.run_id: run.title for run in state.requested}
    with with_archived_runs(runs, state.requested) as (shown, archived):
        own = {
            run_id: record
            for run_id in titles
            if run_id not in archived and (record := RunDir(runs / run_id).read_record())
        }
        others = [run for run in state.requested if run.run_id not in archived and run.run_id not in own]
        waiting = {run.run_id: run.new_record() for run in others}
        by_id = {**waiting, **own, **archived}
        records = [by_id[run_id] for run_id in titles]
        option = config.hydra.runtime.choices.figure
        summary, failure = figures.summarise(plain(config.figure), option, records, shown)
    archives = {
        run.run_id: Path(run.config.archive) for run in state.requested if run.run_id in archived and run.config.archive
    }
    conclusion = ["", state.conclusion] if state.conclusion else []
    counts = Counter(run.status for run in stored_runs(own.values(), runs))
    in_order = sorted(counts, key=lambda status: (status != Status.DONE, status))
    ended = f": {', '.join(f'{counts[status]} {status}' for status in in_order)}" if len(counts) > 1 else ""
    lines = ["", summary.table, *conclusion, f"runs      {shell_path(runs)}/<id>, {len(own)} of them{ended}"]
    for archive, count in Counter(archives.values()).items():
        lines.append(f"archived  {shell_path(archive)}, {count} of them")
    for record in own.values() if len(own) <= MAX_SAMPLE_PATHS else []:
        image = RunDir(runs / record.run_id).last_samples()
        lines.append(f"samples   {shell_path(image) if image else 'none'}  ({titles[record.run_id]})")
    problems = [f"failed: {failure}"] if failure else []
    try:
        write_not_started(folder, [*waiting.values()])
    except OSError as error:
        problems.append(f"failed: the list of runs that have not started ({FILE}) cannot be written: {error}")
    picture = with_description(summary.picture, summary.table) if summary.picture else None
    for kind, path, content in (
        ("table", folder / "table.md", summary.table),
        ("figure", folder / "figure.png", picture),
    ):
        try:
            if content:
                remove_leftovers(path)
                write(path, content)
                lines.append(f"{kind:<9} {shell_path(path.absolute())}")
        except OSError as error:
            problems.append(f"failed: the {kind} of the sweep cannot be written: {error}")
    if any((record.finished or "") >= state.started for record in records):  # else an earlier command has mirrored all
        _mirror(state.requested, folder.absolute(), task_overrides(config.hydra))
    done = {record.run_id for record in records if record.status == Status.DONE}
    if titles.keys() > done and runs.is_dir() and shutil.disk_usage(runs).free < NEARLY_FULL:
        problems.append(f"failed: No space left on device in {shell_path(runs)}: free some, and run the command again")
    lines += offline_note(runs, titles)
    places = [*([runs] if own else []), *dict.fromkeys(archives.values())] or [runs]
    lines.append(f"report    wgan-report {' '.join(map(shell_path, places))}")
    for name in ("decision.md", "decision.json") if state.conclusion else ():
        lines.append(f"decision  {shell_path((folder / name).absolute())}")
    lines += [*state.problems, *problems]
    if (optimum := folder / "optimization_results.yaml").exists():  # written by a sweeper that searches
        lines += ["", optimum.read_text().strip()]
    pruned = {record.run_id for record in records if record.status == Status.PRUNED}
    is_complete = not (state.problems or problems) and titles.keys() <= done | pruned | state.continuing
    return SweepResults("\n".join(lines) + "\n", is_complete, tuple(problems))


def _mirror(requested: Sequence[RequestedRun], folder: Path, overrides: list[str]) -> None:
    """Send the sweep's table and figure to the tracker of its runs, as a separate run."""
    config = {"runs": [run.run_id for run in requested], "overrides": overrides}
    tracker = FaultTolerantTracker(lambda: make_tracker(requested[0].config, tracked_sweep(folder, config)))
    tracker.files("sweep", (name for name in ("table.md", "figure.png") if (folder / name).exists()))
    tracker.close("done", {})
