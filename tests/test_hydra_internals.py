"""Behaviour of Hydra and submitit outside their documented interfaces that `wgan_sweep.sweeps` relies on.

A failure means that the installed version has changed it, and says which module has to change.
"""

import copy
import importlib
import inspect
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import submitit
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from submitit.core.utils import JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

from wgan_sweep.config import schema
from wgan_sweep.sweeps import hydra_launcher
from wgan_sweep.sweeps.slurm import Slurm, Task

FUNCTIONS = [
    ("hydra._internal.config_loader_impl", "ConfigLoaderImpl.load_sweep_config", ["master_config", "sweep_overrides"]),
    ("hydra._internal.config_loader_impl", "ConfigLoaderImpl._apply_overrides_to_config", ["overrides", "cfg"]),
    (
        "hydra._internal.config_loader_impl",
        "get_overrides_dirname",
        ["overrides", "exclude_keys", "item_sep", "kv_sep"],
    ),
    ("hydra._internal.utils", "_locate", ["path"]),
    ("hydra._internal.config_repository", "ConfigRepository.group_exists", ["config_path"]),
    ("hydra.core.override_parser.overrides_parser", "OverridesParser.parse_overrides", ["overrides"]),
    ("hydra.core.override_parser.types", "QuotedString", ["text", "quote"]),
    ("hydra.core.override_parser.types", "QuotedString.with_quotes", []),
    ("hydra._internal.hydra", "Hydra.compose_config", ["config_name", "overrides", "run_mode"]),
    ("hydra.core.plugins", "Plugins.instantiate_sweeper", ["hydra_context", "task_function", "config"]),
    ("hydra._internal.callbacks", "Callbacks", ["config"]),
]


@pytest.mark.parametrize(("module", "name", "parameters"), FUNCTIONS, ids=[row[1] for row in FUNCTIONS])
def test_a_function_of_hydra_takes_the_parameters_that_are_passed(
    module: str, name: str, parameters: list[str]
) -> None:
    try:
        function = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"the installed Hydra has no {module}.{name} ({error}): it is used in wgan_sweep/sweeps")
    names = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    if names[: len(parameters)] != parameters:
        pytest.fail(f"{module}.{name} takes {names}, but wgan_sweep/sweeps calls it with {parameters}")


def test_nodes_of_a_config_are_found_in_its_content_and_have_a_parent() -> None:
    """`Composer` restores nodes there, and `wgan_sweep.config.schema` hides those that are not its own."""
    config = OmegaConf.create({"a": {"b": 1}, "c": "${a.b}"})
    try:
        content = config.__dict__["_content"]
        content["a"] = copy.deepcopy(content["a"])
        content["a"]._set_parent(config)
        content["a"].b = 2
    except (KeyError, AttributeError) as error:
        pytest.fail(f"the installed OmegaConf has no {error}: change sweeps/compose.py and config/schema.py")
    assert list(content) == ["a", "c"]
    assert OmegaConf.to_container(config, resolve=True) == {"a": {"b": 2}, "c": 2}


def test_hydra_instantiates_the_launcher_by_its_registered_name() -> None:
    hydra_launcher.register()
    plugins = Plugins.instance()
    try:
        launcher = plugins._instantiate(OmegaConf.create({"_target_": schema.LAUNCHER}))
    except Exception as error:
        pytest.fail(f"Hydra rejects {schema.LAUNCHER} ({error}): change `register` in sweeps/hydra_launcher.py")
    assert isinstance(launcher, hydra_launcher.SweepLauncher)
    assert set(Launcher.__abstractmethods__) == {"setup", "launch"}


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> submitit.AutoExecutor:
    """An executor as `Slurm` creates it, on a machine where only the presence of SLURM is faked."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=":")
    return submitit.AutoExecutor(tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=3)


def test_submitit_accepts_every_parameter_of_the_launcher(executor: submitit.AutoExecutor) -> None:
    launcher = Slurm(
        partition="gpu",
        account="vision",
        qos="high",
        constraint="a100",
        gpus_per_node=2,
        runs_per_job=2,
        setup=["module load cuda"],
        signal_delay_s=77,
        additional_parameters={"begin": "now+1hour"},
    )
    executor.update_parameters(**launcher._parameters)
    script = executor._executor._make_submission_file_text("command", "id")
    for option in ("--partition=gpu", "--account=vision", "--qos=high", "--constraint=a100", "--gpus-per-node=2"):
        assert option in script
    assert "--begin=now+1hour" in script
    assert "module load cuda" in script
    if "--signal=USR2@77" not in script:
        pytest.fail(f"submitit does not send SIGUSR2 before the time limit: change `Task` in sweeps/slurm.py\n{script}")
    assert executor._executor.max_num_timeout == 3


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Restore the signal handlers of this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signal_handlers")
def test_the_handler_that_submitit_sets_for_sigusr2_stores_the_task_and_requeues_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Task` replaces the handler during training, and calls it after the runs are saved."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_PROCID", "0")
    requeued: list[int] = []
    monkeypatch.setattr(SlurmJobEnvironment, "_requeue", lambda _, countdown: requeued.append(countdown))
    task = Task([], "the code", side_by_side=2, gpus_per_run=1, allow_other_code=False)
    submission = submitit.helpers.DelayedSubmission(task)
    submission.set_timeout(timeout_min=600, max_num_timeout=3)
    paths = JobPaths(tmp_path, "12")
    SlurmJobEnvironment()._handle_signals(paths, submission)
    handler = signal.getsignal(signal.SIGUSR2)
    if not callable(handler):
        pytest.fail("submitit sets no handler for SIGUSR2: change `Task.__call__` in sweeps/slurm.py")
    with pytest.raises(SystemExit):
        handler(signal.SIGUSR2, None)
    assert requeued == [3]
    assert submitit.helpers.DelayedSubmission.load(paths.submitted_pickle).function == task
