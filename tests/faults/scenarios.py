"""What a campaign disturbs: short commands, and what their results are compared by."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from PIL import Image

from wgan_sweep.common import processes
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.writer import RunWriter
from wgan_sweep.scoring import features

TINY = ["train.steps=6", "train.batch_size=8", "train.n_critic=1", "model.dim=4", "model.latent_dim=2"]
TINY += ["device=cpu", "log_every=1", "save_every=3", "runs=runs"]
POINTS = [*TINY, "data=gaussians8", "model.depth=1", "tracker=none"]
SCORED = ["scorer=exact", "scorer.every=3", "scorer.num_samples=20", "scorer.projections=2"]
IMAGES = [*TINY, "loss=wgan", "model.latent_dim=2"]
VOLATILE = ("started", "finished", "seconds", "host", "git", "code")
"""Fields of a record that may differ between two executions of a run; someone may edit the source in between."""


@dataclass(frozen=True)
class Scenario:
    """A command that a campaign disturbs."""

    arguments: list[str]
    """Its arguments; it is called in a folder that is empty at first, beside `inputs`."""
    watched: tuple[str, ...] = ("runs",)
    """The folders, below that one, whose calls are disturbed."""
    prepare: Callable[[Path], None] = lambda inputs: None
    """Writes what the command reads to the folder `inputs`, once for the campaign."""
    patch: Callable[[], None] = lambda: None
    """Replaces parts of the package in the processes of the campaign."""
    environment: dict[str, str] = field(default_factory=dict)


def write_images(inputs: Path) -> None:
    """Write 24 pictures of noise, as an npz file and as a folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 1), np.uint8)
    inputs.mkdir(parents=True, exist_ok=True)
    np.savez(inputs / "images.npz", images=pixels)
    (inputs / "folder").mkdir(exist_ok=True)
    for index, picture in enumerate(pixels[:12]):
        Image.fromarray(picture[..., 0]).save(inputs / "folder" / f"{index:02}.png")


def use_small_features() -> None:
    """Replace the network of FID by 8 x 8 averages, of which it sees the first 2 x 2."""

    def extract(self: Any, device: torch.device, *, logits: bool = False) -> features.Extract:
        def averages(images: torch.Tensor) -> features.Extracted:
            return features.Extracted(images[:, 0, :16, :16].float().reshape(-1, 2, 8, 2, 8).mean((2, 4)).flatten(1))

        return averages

    space: Any = features.InceptionV3
    space.__post_init__ = lambda self: None
    space.network = property(lambda self: "stub")
    space.check = lambda self, *, logits: None
    space.extract = extract


class _Forking:
    """Makes the processes of a campaign by fork, which takes no seconds for an import of torch."""

    def __init__(self) -> None:
        self._parents_ends: list[Any] = []

    def Pipe(self) -> tuple[Any, Any]:  # noqa: N802 (a name of multiprocessing)
        ends = Pipe()
        self._parents_ends.append(ends[0])
        return ends

    def Process(self, target: Callable[..., None], **arguments: Any) -> Any:  # noqa: N802
        def close_what_a_spawned_process_lacks(*passed: Any) -> None:
            for end in self._parents_ends:
                end.close()
            logging.getLogger("wgan_sweep").handlers.clear()
            target(*passed)

        return get_context("fork").Process(target=close_what_a_spawned_process_lacks, **arguments)


def fork_workers() -> None:
    """Fork worker processes instead of spawning them."""
    forking: Any = _Forking()
    processes.get_context = lambda _: forking  # type: ignore[attr-defined]


def write_in_place() -> None:
    """Write the files of a run in place, which a kill or a full disk can leave incomplete."""

    def write(self: RunWriter, path: Path, content: str | bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    RunWriter.write = write  # type: ignore[method-assign]


def compose_once(folder: Path) -> None:
    """Let commands read what Hydra composed for the same overrides before, which takes most of their time."""
    compose = ConfigLoaderImpl.load_configuration

    def load(self: Any, config_name: str | None, overrides: list[str], *rest: Any, **more: Any) -> Any:
        name = hashlib.sha256(repr((config_name, overrides, rest, sorted(more.items()))).encode()).hexdigest()
        path = folder / name
        if not path.exists():
            path.write_bytes(pickle.dumps(compose(self, config_name, overrides, *rest, **more)))
        return pickle.loads(path.read_bytes())  # noqa: S301

    folder.mkdir(exist_ok=True)
    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]


SCENARIOS = {
    "smoke": Scenario([*POINTS, *SCORED, "train.steps=2", "scorer.every=1"]),
    "careless": Scenario([*POINTS, *SCORED, "train.steps=2", "scorer.every=1"], patch=write_in_place),
    "run": Scenario([*POINTS, *SCORED]),
    "parallel": Scenario(
        ["-m", *POINTS, *SCORED, "launch=parallel", "launch.jobs=2", "seed=0,1", "hydra.sweep.dir=runs/.sweeps/sweep"],
        patch=fork_workers,
    ),
    "wandb": Scenario(
        [*[a for a in POINTS if a != "tracker=none"], *SCORED, "tracker=wandb"],
        environment={"WANDB_MODE": "offline"},
    ),
    "fid": Scenario(
        [
            *IMAGES,
            "data=npz",
            "data.path=../inputs/images.npz",
            "tracker=none",
            "scorer.every=2",
            "scorer.num_samples=16",
            "scorer.num_real=24",
            "scorer.batch_size=8",
        ],
        watched=("runs", "cache"),
        prepare=write_images,
        patch=use_small_features,
    ),
    "data": Scenario(
        [
            *IMAGES,
            "data=image_folder",
            "data.path=../inputs/folder",
            "data.channels=1",
            "data.size=32",
            "tracker=none",
            "scorer=none",
            "train.steps=1",
        ],
        watched=("runs", "cache"),
        prepare=write_images,
    ),
}

Snapshot = dict[str, Any]


def snapshot(folder: Path) -> Snapshot:
    """Return what a command has written below `folder`, as values that are equal if they are bitwise equal.

    Files of the tracker, logs, earlier checkpoints, the folder of the sweep and the numbers of tokens may differ.
    """
    result: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        parts = path.relative_to(folder).parts
        if "wandb" in parts or path.name == "log.txt":
            continue
        if ".locks" in parts and path.name.isdigit():
            name = str(Path(name).with_name("token"))
            result[name] = "tokens: 1" if name not in result else "several tokens"
        elif path.parent.name == "digests":  # named after the times of files
            result[str(Path(name).with_name("digests"))] = "file"
        elif path.is_dir():
            result[name] = "folder"
        elif ".sweeps" in parts or path.name == "table.md":
            result[name] = "file"
        elif path.name.endswith(".previous.pt"):
            checkpoints.read(path)
        elif path.suffix == ".pt":
            result[name] = _flat(torch.load(path, weights_only=True))
        elif path.name == "record.json":
            record = json.loads(path.read_text())
            result[name] = {key: value for key, value in record.items() if key not in VOLATILE}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                result[name] = {key: arrays[key].tobytes() for key in arrays.files}
        else:
            result[name] = path.read_bytes()
    return result


def _flat(value: Any) -> Any:
    """Return nested values with tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {name: _flat(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_flat(item) for item in value]
    return repr(value)


def differences(expected: Snapshot, found: Snapshot) -> list[str]:
    """Return a line for each file that differs."""
    missing = (name for name in expected.keys() - found.keys() if not name.startswith("cache/"))  # it costs time only
    lines = [f"{name} is missing" for name in missing]
    lines += [f"{name} is left over" for name in found.keys() - expected.keys()]
    for name in sorted(expected.keys() & found.keys()):
        ours, theirs = expected[name], found[name]
        if ours != theirs:
            keys = [k for k in ours if ours[k] != theirs.get(k)] if isinstance(ours, dict) else []
            lines.append(f"{name} differs{': ' if keys else ''}{', '.join(map(str, keys))}")
    return lines


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the runs below `folder`."""
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/record.json")]


def environment(scenario: Scenario, folder: Path) -> dict[str, str]:
    """Return the variables of a trial in `folder`: caches in it if they are disturbed, else in one for all trials."""
    cache = folder if "cache" in scenario.watched else folder.parent
    return {
        "WGAN_SWEEP_CACHE": str(cache / "cache"),
        "WANDB_DIR": str(folder),
        "HOME": os.environ.get("HOME", "/"),
        **scenario.environment,
    }
