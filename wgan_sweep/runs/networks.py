"""The networks of a trained run, read from a checkpoint, ready to be evaluated."""

import logging
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wgan_sweep.config import objects
from wgan_sweep.config.schema import Config
from wgan_sweep.config.schema import read as read_yaml_config
from wgan_sweep.config.targets import ALLOWING, check_untrusted
from wgan_sweep.errors import InputError, one_line
from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.build import make_critic, make_generator, on_device
from wgan_sweep.runs.data import RealData, load_split
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.hashing import check_same_science
from wgan_sweep.runs.record import Record
from wgan_sweep.training.precision import Precision, precision
from wgan_sweep.training.sampler import Sampler

log = logging.getLogger("wgan_sweep")


@dataclass(frozen=True)
class TrainedNetworks:
    """The networks of a run as of a checkpoint, in evaluation mode; their parameters need no gradients."""

    sampler: Sampler
    """Makes samples of the generator."""
    critic: nn.Module
    """``[N, ...]`` to ``[N]``."""
    real: RealData
    """The data of the run."""
    step: int
    """The step of the checkpoint."""
    is_live: bool
    """Whether the generator is the one that was trained, not its moving average."""

    @property
    def generator(self) -> nn.Module:
        """``[N, latent_dim]`` to ``[N, ...]``, as the critic sees examples: images in [-1, 1], or points."""
        return self.sampler.generator

    @property
    def weights(self) -> str:
        """Which weights the generator has, in words."""
        return "live generator" if self.is_live else "moving average"

    def critic_outputs(self, points: Tensor) -> Tensor:
        """Return the critic's outputs ``[N]`` for examples ``[N, ...]``, both on the CPU; differentiable."""
        with self.sampler.precision.step():
            return self.sampler.precision.apply(self.critic, points.to(self.sampler.device)).cpu()


def read_config(directory: RunDir, allowed: Collection[str] = (), *, remedy: str = ALLOWING) -> Config:
    """Return the config of a run, which somebody else may have written: it names only options, and allowed code.

    Args:
        directory: The run's directory.
        allowed: Names of the user's modules, functions or classes that the config may name, too.
        remedy: How the user allows a name.

    Raises:
        InputError: if it cannot be read, or names other code.
    """
    config = read_yaml_config(directory.config)
    check_untrusted(asdict(config), str(directory.path), allowed, remedy=remedy)
    return config


def load_networks(
    directory: RunDir, config: Config, device: torch.device, *, best: bool = False, live: bool = False
) -> TrainedNetworks:
    """Load the networks of a run from its latest checkpoint, or from the best one.

    A damaged checkpoint is detected by its checksum; the previous one is used instead, with a warning in the log.

    Args:
        directory: The run's directory.
        config: Its config, whose code may be run (see `read_config`).
        device: Device of the networks; the run may have been trained on another one.
        best: Whether to load the step with the lowest selection metric.
        live: Whether to load the generator that was trained instead of its moving average.

    Raises:
        InputError: if there is no such checkpoint, all are damaged, or it holds other networks than the config
            describes; if the data, which gives the shape of an example, cannot be read.
    """
    record = directory.require_record()
    checkpoint = _read_checkpoint(directory, record, best=best)
    real = load_split(config)
    model, stabiliser = objects.make(config.model, "model"), objects.make(config.stabiliser, "stabiliser")
    constraint = objects.make(config.constraint, "constraint")
    generator = make_generator(model, stabiliser, real.shape, config.seed)
    critic = make_critic(model, stabiliser, constraint, real.shape, config.seed)
    try:
        check_same_science(directory.checkpoint, checkpoint["science"], record.science)
        trained = checkpoint["trainer"]
        generator.load_state_dict(trained["generator" if live else "averaged"])
        critic.load_state_dict(trained["critic"])
        step = int(trained["step"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint of {directory.path} does not hold the networks of its config ({one_line(error)[:200]}): "
            "restore both from the same run"
        ) from error
    sampler = make_sampler(
        generator, model.latent_dim, config.seed, config.train.precision, real.to_samples, device=device
    )
    return TrainedNetworks(sampler, for_evaluation(critic, device), real, step, live)


def _read_checkpoint(directory: RunDir, record: Record, *, best: bool) -> dict[str, Any]:
    path = directory.checkpoint
    if best and directory.best.exists():
        path = directory.best
    elif best and record.best.get("step") != record.step:
        raise InputError(
            f"the run {directory.path} has no best checkpoint: steps are compared if scorer.every is set; load the "
            "latest checkpoint instead"
        )
    try:
        checkpoint, damage = checkpoints.load(path)
    except checkpoints.CorruptCheckpointError as error:
        raise InputError(f"the run {directory.path} cannot be loaded: {one_line(error)}") from error
    except (OSError, MemoryError) as error:
        raise InputError(f"the run {directory.path} cannot be loaded now: {one_line(error)}") from error
    for problem in damage:
        log.warning("loading the previous checkpoint instead: %s", problem)
    if checkpoint is None:
        raise InputError(f"the run {directory.path} has no checkpoint yet: let it train, or give another one")
    return checkpoint


def for_evaluation(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device; set its evaluation mode, and its parameters to need no gradients."""
    return on_device(network, device).requires_grad_(requires_grad=False).eval()


def make_sampler(
    generator: nn.Module,
    latent_dim: int,
    seed: int,
    precision_name: str,
    to_samples: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
) -> Sampler:
    """Return a sampler of a generator that is moved to a device."""
    return Sampler(
        for_evaluation(generator, device), latent_dim, seed, _precision_on(precision_name, device), to_samples, device
    )


def _precision_on(name: str, device: torch.device) -> Precision:
    """Return the precision of training on a device: TF32, which only a GPU has, is float32 elsewhere."""
    return precision("fp32" if name == "tf32" and device.type != "cuda" else name, device)
