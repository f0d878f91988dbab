"""The command ``wgan-sweep``: Hydra composes the config, and one run or a sweep of runs is checked and trained.

Modules that import torch are imported only when there is work to do, so that `--help` and `--cfg` answer at once.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from wgan_sweep.commands.init import write_template
from wgan_sweep.commands.options import VERSION
from wgan_sweep.common.stopping import stopping_if
from wgan_sweep.common.verbosity import Verbosity, announce
from wgan_sweep.config import folders, objects, refusals, schema
from wgan_sweep.config.keys import science_overrides
from wgan_sweep.errors import InputError
from wgan_sweep.sweeps import config_of_run, hydra_launcher
from wgan_sweep.sweeps.arguments import take, take_verbosity, use_folders
from wgan_sweep.sweeps.compose import task_overrides
from wgan_sweep.sweeps.hydra_launcher import launch_single_run, objective_value, run_config
from wgan_sweep.sweeps.state import state

if TYPE_CHECKING:
    from hydra.types import TaskFunction

schema.register()
hydra_launcher.register()

INTERRUPTED = "wgan-sweep: interrupted; run the same command again to resume from the last checkpoints\n"


def _run_job(composed: DictConfig) -> float | None:
    """Complete one run: a single one, or one of a sweep under another Hydra launcher than this package's."""
    announce("wgan-sweep: checking the run", state.verbosity)
    from wgan_sweep.runs import pruning
    from wgan_sweep.runs.record import Status
    from wgan_sweep.sweeps.archived import archived_records, launch_missing
    from wgan_sweep.sweeps.launching import Launcher, RequestedRun, run_when_unlocked
    from wgan_sweep.sweeps.plan import describe_plan
    from wgan_sweep.sweeps.results import offline_note

    job = HydraConfig.get()
    is_in_sweep = job.mode == RunMode.MULTIRUN
    overrides = tuple(task_overrides(cast("Any", job)))
    sweep = Path(job.sweep.dir).name if is_in_sweep else None
    try:
        if composed.claims is not None:
            remedy = "leave hydra/launcher out" if is_in_sweep else "give -m, as in wgan-sweep -m"
            raise InputError(f"claims={composed.claims} needs a sweep of this package: {remedy}")
        for source in job.runtime.config_sources:  # in a process that another Hydra launcher started
            if source.provider.startswith(folders.FLAG):
                folders.use(source.path)
        config = run_config(composed, job)
        label = " ".join(overrides if is_in_sweep else science_overrides(overrides))
        requested = RequestedRun(config, overrides, label, sweep)
        pruning.check_is_in_sweep(config)
        launcher = cast("Launcher", objects.make(config.launch, "launch"))
        archived = archived_records([requested])
    except refusals.BAD_INPUT as error:
        state.refuse(refusals.explain(error, overrides))
    if config.plan:
        state.print(describe_plan([requested], archived, launcher.device))
        return None
    if is_in_sweep:
        (outcome,) = launch_missing(
            lambda runs, display, stop: [run_when_unlocked(run, display, stop) for run in runs],
            [requested],
            archived,
            state.display,
            state.should_stop,
        )
    else:
        try:
            outcome = launch_single_run(requested)
        except InputError as error:  # here, because Hydra would write a line of its own
            state.refuse(str(error))
    if state.should_stop():
        raise KeyboardInterrupt
    if outcome.continues:
        return None
    if not is_in_sweep:
        state.print("".join(f"{line}\n" for line in offline_note(Path(config.runs), [requested.run_id])))
    if outcome.record is None or outcome.problem or (not is_in_sweep and outcome.record.status != Status.DONE):
        sys.exit(1)
    return objective_value(outcome)


def _refuse_input_error(check: Callable[[], object]) -> None:
    """Exit with a message if a check raises InputError, for which Hydra would only warn."""
    try:
        check()
    except InputError as error:
        state.refuse(str(error))


class SweepCallback(Callback):
    """Prints the results of a sweep. An exception, for which Hydra would only warn, ends the command."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a folder that Hydra could not create."""
        _refuse_input_error(lambda: hydra_launcher.checked_folder(config.hydra.run.dir, "hydra.run.dir"))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Note which folders Hydra will create, to remove them if no run is launched."""
        _refuse_input_error(lambda: hydra_launcher.note_folders(config))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the results; exit with 1 if a run is not done."""
        from wgan_sweep.sweeps.results import publish_results, shell_path

        if not state.requested and config.hydra.launcher.get("_target_") == schema.LAUNCHER:
            state.refuse(hydra_launcher.NO_RUNS)
        if not state.requested:  # another Hydra launcher, whose runs are not known here
            state.created_folders = []
            sys.stdout.write(f"report    wgan-report {shell_path(Path(config.runs).absolute())}\n")
            return
        try:
            results = publish_results(state, config)
        except Exception:
            state.close()
            traceback.print_exc()
            sys.exit(1)
        state.print(results.text)
        if not results.is_complete:
            sys.exit(1)


def main() -> None:
    """Run ``wgan-sweep``."""
    if "--version" in sys.argv[1:]:  # Hydra's flag prints the version of Hydra
        sys.stdout.write(f"{VERSION}\n")
        return
    state.handle_signals()
    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes its exceptions on
    try:
        if (folder := take(sys.argv[1:], ["--init"])) is not None:
            sys.stdout.write(write_template(Path(folder)))
            return
        if "--init" in sys.argv[1:]:
            state.refuse("--init needs a folder to write to: wgan-sweep --init site")
        arguments = sys.argv[1:]
        state.verbosity = take_verbosity(arguments)
        if state.verbosity is Verbosity.QUIET:
            os.environ.setdefault("WANDB_SILENT", "true")  # the lines of W&B
        sys.argv[1:] = config_of_run.expand(use_folders(arguments))
    except refusals.BAD_INPUT as error:
        state.refuse(refusals.explain(error))
    app = hydra.main(version_base="1.3", config_path=str(schema.conf_dir()), config_name="config")
    try:
        with stopping_if(state.should_stop):
            cast("Any", app(cast("TaskFunction", _run_job)))()
    except refusals.BAD_INPUT as error:
        if wants_traceback or (state.requested and not isinstance(error, InputError)):  # not of the input
            raise
        state.refuse(refusals.explain(error, [argument for argument in sys.argv[1:] if "=" in argument]))
    except OSError as error:  # of the sweep's folders; those of a run are recorded
        if wants_traceback:
            raise
        state.refuse(f"the command ends, its runs are saved: {error}")
    except KeyboardInterrupt:
        state.close()
        sys.stderr.write(INTERRUPTED)
        sys.exit(128 + (state.stop_signal or signal.SIGINT))
    finally:
        state.close()
