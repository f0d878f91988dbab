"""Generators as files of their own: weights, config, and all that is needed to make samples without the run.

The file is that of a checkpoint: values only, with a checksum. A YAML file beside it describes it for readers.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgan_sweep.common.files import check_output, write
from wgan_sweep.common.images import to_uint8
from wgan_sweep.common.ranges import check_value
from wgan_sweep.config import objects
from wgan_sweep.config.documents import dump_yaml
from wgan_sweep.config.keys import Role, role_of, without_roles
from wgan_sweep.config.schema import Config
from wgan_sweep.config.targets import ALLOWING, check_untrusted
from wgan_sweep.data import ImageSet
from wgan_sweep.data.points import Points, detached
from wgan_sweep.errors import InputError, one_line
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.build import make_generator
from wgan_sweep.runs.networks import TrainedNetworks, make_sampler
from wgan_sweep.runs.samples import BATCH_SIZE, sample
from wgan_sweep.training.sampler import Sampler

FORMAT = 1
"""Version of the format of exported generators."""
KINDS = {"images": to_uint8, "points": detached}
"""From a generator's output to samples, by the kind of data."""


@dataclass(frozen=True)
class ExportedGenerator:
    """A generator that was exported from a run. It needs neither the run nor its data."""

    config: dict[str, Any]
    """The run's config, without places of files."""
    run_id: str
    step: int
    """The step of the weights."""
    weights: str
    """``moving average`` or ``live generator``."""
    shape: tuple[int, ...]
    """Shape of one sample."""
    sampler: Sampler

    @property
    def generator(self) -> nn.Module:
        """``[N, latent_dim]`` to ``[N, *shape]``, in evaluation mode: images in [-1, 1], or points."""
        return self.sampler.generator

    def sample(self, n: int, seed: int = 0, batch_size: int = BATCH_SIZE) -> Tensor:
        """Return the samples that the run gives for this seed.

        Args:
            n: Number of samples.
            seed: Seed of z.
            batch_size: Samples per forward pass.

        Returns:
            uint8 ``[n, C, H, W]``, or float32 ``[n, D]`` for points; on the CPU.

        Raises:
            InputError: for a value out of its range.
        """
        return sample(self.sampler, n, seed, batch_size)


def export_generator(path: Path, config: Config, run_id: str, networks: TrainedNetworks, key: str = "path") -> None:
    """Write the generator of a run to a file ``.pt``, and its description to a file ``.yaml`` beside it.

    Args:
        path: The file; an existing one is replaced.
        config: The run's config.
        run_id: The run's id.
        networks: Its networks.
        key: The option that names the file, for error messages.

    Raises:
        InputError: if the file has another suffix or cannot be written, or the samples are neither images nor points.
    """
    if path.suffix != ".pt":
        raise InputError(f"{key} {path}: generators are written as FILE.pt (with FILE.yaml); give such a name")
    check_output(path, key)
    values = {name: value for name, value in asdict(config).items() if role_of(name) is not Role.PLACE}
    description = {
        "format": FORMAT,
        "run_id": run_id,
        "step": networks.step,
        "weights": networks.weights,
        "samples": _kind(networks.real),
        "shape": list(networks.real.shape),
        "config": {name: without_roles(value, name, Role.PLACE) for name, value in values.items()},
    }
    checkpoints.save(path, {**description, "generator": networks.generator.state_dict()}, keep_previous=False)
    write(path.with_suffix(".yaml"), dump_yaml(description))


def _kind(real: object) -> str:
    if isinstance(real, ImageSet):
        return "images"
    if isinstance(real, Points):
        return "points"
    raise InputError(f"generators of images and of points can be exported, this run's data is {type(real).__name__}")


def load_exported(
    path: Path, device: torch.device, allowed: Collection[str] = (), *, remedy: str = ALLOWING
) -> ExportedGenerator:
    """Load a generator that `export_generator` wrote. Somebody else may have written the file: no other code is run.

    Args:
        path: The file.
        device: Device of the generator.
        allowed: Names of the user's modules, functions or classes that the config may name, too.
        remedy: How the user allows a name.

    Raises:
        InputError: if there is no such file, it is damaged, or it names other code.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}: give one that `wgan-runs export` wrote")
    try:
        state = checkpoints.read(path)
    except checkpoints.CorruptCheckpointError as error:
        raise InputError(
            f"{path} is damaged, or not an exported generator ({one_line(error)[:200]}): export it again"
        ) from error
    except (OSError, MemoryError) as error:
        raise InputError(f"{path} cannot be loaded now: {one_line(error)}") from error
    try:
        check_value(state["format"], int, "format")
        if state["format"] > FORMAT:
            raise InputError(  # noqa: TRY301
                f"{path} has format {state['format']}, this version reads {FORMAT}: upgrade wgan-sweep"
            )
        config, shape = state["config"], tuple(state["shape"])
        for key in ("model", "stabiliser"):
            check_untrusted(config[key], str(path), allowed, key, remedy=remedy)
        model, stabiliser = objects.make(config["model"], "model"), objects.make(config["stabiliser"], "stabiliser")
        generator = make_generator(model, stabiliser, shape, config["seed"])
        generator.load_state_dict(state["generator"])
        sampler = make_sampler(
            generator,
            model.latent_dim,
            config["seed"],
            config["train"]["precision"],
            KINDS[state["samples"]],
            device=device,
        )
        return ExportedGenerator(config, state["run_id"], int(state["step"]), state["weights"], shape, sampler)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is not an exported generator ({one_line(error)[:200]}): export it again") from error
