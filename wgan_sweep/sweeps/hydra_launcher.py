"""The Hydra launcher of sweeps: composes and checks all runs before the first one starts, then trains them.

Modules that import torch are imported only when there is work to do, so that `--help` and `--cfg` answer at once.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext
from omegaconf import DictConfig

from wgan_sweep.common.files import check_writable
from wgan_sweep.common.ranges import NonEmpty, check_value
from wgan_sweep.common.verbosity import announce
from wgan_sweep.config import objects, schema
from wgan_sweep.config.keys import overridden_key, science_overrides
from wgan_sweep.errors import InputError
from wgan_sweep.sweeps.compose import Composer, plain, task_overrides
from wgan_sweep.sweeps.state import state

if TYPE_CHECKING:
    from hydra.types import TaskFunction

    from wgan_sweep.runs.record import Record
    from wgan_sweep.sweeps.launching import Launcher, Outcome, RequestedRun

GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Hydra's sweeper of grids. Any other one searches for the lowest metric."""
NO_RUNS = "the sweep has no runs: a list or range of its overrides is empty; give it a value"


def run_config(composed: DictConfig, hydra_config: Any) -> schema.Config:
    """Return the config of one run from a composed job.

    Raises:
        InputError: if it is not complete, or an override has no effect.
    """
    overridden = [overridden_key(override) for override in task_overrides(hydra_config)]
    unused = schema.unused_overrides(composed, overridden)
    replaced = schema.replaced_overrides(composed, overridden)
    config = schema.finalise(composed, hydra_config.runtime.choices)
    if unused:
        chosen = ", ".join(f"{group}={config.choices[group]}" for group in ("loss", "constraint"))
        raise InputError(
            f"{', '.join(unused)} given, but nothing refers to it ({chosen}): it would train the same run again. "
            "Leave it out, or choose a loss or constraint that uses it"
        )
    if replaced:
        groups = dict.fromkeys(group for own in replaced.values() for group in own)
        raise InputError(
            f"{', '.join(replaced)} given, but neither player uses it: {' and '.join(groups)} set their own. Leave it "
            "out, or unset one of those"
        )
    return config


def objective_value(outcome: "Outcome") -> float | None:
    """Return what a Hydra sweeper minimises: the lowest selection metric of a run, and infinity if it diverged.

    That of a pruned run is its lowest so far. None if the run has another status, or no scores.
    """
    from wgan_sweep.runs.record import Status, selection_metric

    record = outcome.record
    if record is None or record.status not in (Status.DONE, Status.DIVERGED, Status.PRUNED):
        return None
    if record.status == Status.DIVERGED:
        return math.inf
    metric = selection_metric(record.best)
    return record.best[metric] if metric else None


def launch_single_run(requested: "RequestedRun", launcher: "Launcher | None" = None) -> "Outcome":
    """Check a run that is not part of a sweep, and launch it unless it is finished in its archive.

    Args:
        requested: The run.
        launcher: The launcher; by default, that of the run's config.

    Raises:
        InputError: if it cannot work.
    """
    from wgan_sweep.sweeps.archived import archived_records, launch_missing
    from wgan_sweep.sweeps.plan import Action, Planner

    if launcher is None:
        launcher = cast("Launcher", objects.make(requested.config.launch, "launch"))
    archived = archived_records([requested])
    planned = Planner(launcher.device)(requested, archived.get(requested.run_id))
    if planned.action is Action.REFUSE:
        raise InputError(planned.reason)
    (outcome,) = launch_missing(launcher, [requested], archived, state.display, state.should_stop)
    return outcome


def checked_folder(path: object, key: str) -> Path:
    """Return the path of a folder of Hydra.

    Raises:
        InputError: if it cannot be written to.
    """
    check_value(path, NonEmpty, key)
    check_writable(Path(str(path)).absolute(), key)
    return Path(str(path))


def note_folders(config: DictConfig) -> None:
    """Note which folders Hydra will create for a sweep, to remove them if no run is launched.

    Raises:
        InputError: if they cannot be created.
    """
    folder = checked_folder(config.hydra.sweep.dir, "hydra.sweep.dir")
    paths = (folder, folder.parent, Path(config.runs))
    state.created_folders = [path for path in paths if not path.exists()]


class SweepLauncher(HydraLauncher):
    """Receives the runs of a sweep from Hydra's sweeper, composes and checks each, and passes them to ``launch``."""

    def setup(self, *, hydra_context: HydraContext, task_function: "TaskFunction", config: DictConfig) -> None:  # noqa: ARG002
        """Store what `launch` needs."""
        self._config, self._compose_job = config, Composer.install(hydra_context.config_loader)
        self._searches = config.hydra.sweeper._target_ != GRID
        if self._searches and config.claims is not None:
            raise InputError(
                "claims with a sweeper that searches: its runs are chosen by their results; leave claims out, or "
                "search first"
            )
        parsed = OverridesParser.create().parse_overrides(task_overrides(config.hydra))
        if self._searches and not config.hydra.sweeper.get("params") and not any(o.is_sweep_override() for o in parsed):
            raise InputError(
                f"{config.hydra.runtime.choices['hydra/sweeper']} has nothing to search: give a key a range, as in "
                "'optimizer.lr=interval(1e-5,1e-3)'"
            )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Complete all runs of a grid, or the next ones of a sweeper that searches.

        If a run of the first call cannot work, nothing starts. In a later call, such a run is a problem of the sweep.

        Raises:
            InputError: if nothing can start.
        """
        announce(f"wgan-sweep: checking {len(job_overrides)} run{'s' * (len(job_overrides) > 1)}", state.verbosity)
        if self._config.claims is not None:
            return self._launch_until_decided([list(overrides) for overrides in job_overrides])
        requested, problems = self._compose([list(overrides) for overrides in job_overrides])
        from wgan_sweep.report.figures import make_figure
        from wgan_sweep.sweeps.archived import archived_records
        from wgan_sweep.sweeps.plan import describe_plan

        launcher = cast("Launcher", objects.make(plain(self._config.launch), "launch"))
        make_figure(plain(self._config.figure))
        archived = archived_records(requested)
        if self._config.plan:
            plan = describe_plan(requested, archived, launcher.device)
            state.print(plan + "".join(f"refused: {problem}\n" for problem in problems.values()))
            sys.exit(1 if problems else 0)
        if self._searches and any(run.config.scorer.get("_target_") is None for run in requested):
            raise InputError("a search minimises a metric, but scorer=none gives none: choose a scorer")
        problems |= _refusals(requested, launcher, archived)
        if problems and initial_job_idx == 0:
            raise InputError(_nothing_started(problems.values(), len(job_overrides)))
        requested = [run for run in requested if run.overrides not in problems]
        state.problems += [f"refused: {problem}" for problem in problems.values()]
        outcomes = self._complete(launcher, requested, archived)
        values = {run.overrides: objective_value(outcome) for run, outcome in zip(requested, outcomes, strict=True)}
        return [
            JobReturn(overrides=overrides, _return_value=values.get(tuple(overrides)), status=JobStatus.COMPLETED)
            for overrides in job_overrides
        ]

    def _complete(
        self, launcher: "Launcher", requested: "Sequence[RequestedRun]", archived: "Mapping[str, Record]"
    ) -> "list[Outcome]":
        """Complete runs, as runs of the sweep.

        Raises:
            KeyboardInterrupt: if the user asked to stop; the results are printed.
        """
        from wgan_sweep.runs.requests import write_not_started
        from wgan_sweep.sweeps.archived import is_done_in_archive, launch_missing
        from wgan_sweep.sweeps.launching import competing, numbered

        requested = numbered(competing(requested, state.requested), len(state.requested))
        folder = Path(self._config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        waiting = [run for run in [*state.requested, *requested] if not run.directory.record.exists()]
        waiting = [run for run in waiting if not is_done_in_archive(run, archived.get(run.run_id))]
        write_not_started(folder, [run.new_record() for run in waiting])
        state.display.sweep(len(requested))
        outcomes = launch_missing(launcher, requested, archived, state.display, state.should_stop)
        state.requested += requested
        state.continuing |= {run.run_id for run, outcome in zip(requested, outcomes, strict=True) if outcome.continues}
        state.problems += [outcome.problem for outcome in outcomes if outcome.problem]
        if state.should_stop():  # print the results now: the sweeper must not request more runs
            from wgan_sweep.sweeps.results import publish_results

            state.print(publish_results(state, self._config).text)
            raise KeyboardInterrupt
        return outcomes

    def _launch_until_decided(self, jobs: list[list[str]]) -> Sequence[JobReturn]:
        """Train seed after seed of the sweep's cells until its claims are decided.

        Raises:
            InputError: if nothing can start, or a run of a later batch cannot work.
        """
        from wgan_sweep.report.figures import make_figure
        from wgan_sweep.sweeps.archived import archived_records
        from wgan_sweep.sweeps.plan import describe_plan
        from wgan_sweep.sweeps.until_decided import UntilDecided, check_wanted

        def request(wanted: Sequence[list[str]]) -> "list[RequestedRun]":
            requested, problems = self._compose(list(wanted), jobs)
            if problems:
                raise InputError(_nothing_started(problems.values(), len(wanted)))
            return requested

        def complete(requested: "Sequence[RequestedRun]") -> "list[Outcome]":
            archived = archived_records(requested)
            if problems := _refusals(requested, launcher, archived):
                raise InputError(_nothing_started(problems.values(), len(requested), is_first=not state.requested))
            return self._complete(launcher, requested, archived)

        def publish(sweep: UntilDecided) -> None:
            for line in sweep.new_lines():
                state.display.line(line)
            state.conclusion = sweep.table()
            known = {run.run_id for run in state.requested}
            state.requested += [run for run in sweep.ended if run.run_id not in known]
            if state.requested:
                sweep.write(Path(self._config.hydra.sweep.dir))

        config = request([jobs[0]])[0].config
        check_wanted(config)
        launcher = cast("Launcher", objects.make(plain(self._config.launch), "launch"))
        make_figure(plain(self._config.figure))
        sweep = UntilDecided(config, jobs, request, archived_records)
        if self._config.plan:
            batch = sweep.batch()
            lines = [*sweep.new_lines(), "", sweep.table(), sweep.plan(batch)]
            runs = describe_plan(batch, archived_records(batch), launcher.device) if batch else ""
            state.print("\n".join([*lines, runs]))
            sys.exit(0)
        sweep.run(complete, publish)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in jobs]

    def _compose(
        self, jobs: list[list[str]], others: Sequence[Sequence[str]] = ()
    ) -> "tuple[list[RequestedRun], dict[tuple[str, ...], str]]":
        """Compose the config of each job.

        Args:
            jobs: The overrides of each job.
            others: Those of other jobs of the sweep, from which labels distinguish these.

        Returns:
            The requested runs, and the problem of each job that cannot be composed, by its overrides.
        """
        from wgan_sweep.sweeps.launching import RequestedRun

        shared = set(task_overrides(self._config.hydra))  # also if a sweeper requests one run at a time
        among = [*jobs, *others]
        shared |= set(among[0]).intersection(*among[1:]) if len(among) > 1 else set()
        sweep = Path(self._config.hydra.sweep.dir).name
        requested, problems = [], {}
        for overrides in jobs:
            label = " ".join(
                [override for override in overrides if override not in shared] or science_overrides(overrides)
            )
            try:
                composed = self._compose_job(self._config, overrides)
                config = run_config(composed, composed.hydra)
                requested.append(RequestedRun(config, tuple(overrides), label, sweep))
            except InputError as error:
                problems[tuple(overrides)] = f"{' '.join(overrides)}: {error}"
        return requested, problems


def _refusals(
    requested: "Sequence[RequestedRun]", launcher: "Launcher", archived: "Mapping[str, Record]"
) -> dict[tuple[str, ...], str]:
    """Return the problem of each run that cannot work, by its overrides."""
    from wgan_sweep.sweeps.plan import Action, Planner

    plan_run = Planner(launcher.device)
    planned = [(run, plan_run(run, archived.get(run.run_id))) for run in requested]
    return {
        run.overrides: f"{' '.join(run.overrides)}: {plan.reason}"
        for run, plan in planned
        if plan.action is Action.REFUSE
    }


def _nothing_started(problems: Iterable[str], count: int, *, is_first: bool = True) -> str:
    lines = [f"  {problem}" for problem in problems]
    what = "nothing was started" if is_first else "no further run was started"
    return "\n".join([f"{what}, since {len(lines)} of {count} runs of the sweep cannot work:", *lines])


def register() -> None:
    """Register the launcher with Hydra, under a name in the only package from which Hydra takes launchers."""
    Plugins.instance().class_name_to_class[schema.LAUNCHER] = SweepLauncher
