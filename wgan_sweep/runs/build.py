"""From a config to the parts of a run. What cannot work is refused here, before any work starts."""

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wgan_sweep.common import rng
from wgan_sweep.config.schema import Config
from wgan_sweep.config.schema import replicas as replicas_of
from wgan_sweep.objectives.constraints import Constraint
from wgan_sweep.errors import InputError
from wgan_sweep.common.files import check_writable
from wgan_sweep.training.cuda_graphs import CudaGraph
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.models.layers import Critic
from wgan_sweep.training.precision import Precision, precision
from wgan_sweep.training.replicas import Replicas, sharding_obstacle
from wgan_sweep.report.text import SweepSummary
from wgan_sweep.runs.directory import Record
from wgan_sweep.objectives.stabilisers import Stabiliser
from wgan_sweep.tracking.wandb import RunIdentity, Tracker
from wgan_sweep.training.trainer import MakeOptimizer, RealExamples, Trainer

if TYPE_CHECKING:
    from wgan_sweep.scoring.players import Players


class Model(Protocol):
    """A pair of networks, for a shape of data."""

    latent_dim: int

    def generator(self, shape: tuple[int, ...]) -> torch.nn.Module:
        """Return the generator."""

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return the critic."""


class Real(Protocol):
    """Real examples: a set of images, or a distribution of points."""

    num_pictured: int
    """How many samples a picture shows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, as networks see it."""

    def batches(self, batch_size: int, seed: int, device: torch.device) -> RealExamples:
        """Return endless batches."""

    def finish(self, made: Tensor) -> Tensor:
        """Return what a generator made, as it is shown and scored."""

    def picture(self, made: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """Draw finished samples, uint8 ``[H, W, C]``."""


class Scorer(Protocol):
    """Measures generated images against real ones."""

    def describe(self) -> dict[str, str]:
        """Return what a score says only together with (features, counts, ...)."""

    def prepare(self) -> None:
        """Do what can be done before there is a generator."""

    def __call__(self, sample: Callable[[int], Tensor], players: "Players") -> dict[str, float]:
        """Return scores; `sample` makes the next N finished samples (uint8 images, or points)."""


Summarise = Callable[[Sequence[Record], Path], SweepSummary]
"""From a sweep's runs and their folder to what it ends in."""


def _simple(hint: Any) -> set[type]:
    """Return the plain types that a hint admits, empty where it says nothing of them."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    hints = set(typing.get_args(hint)) if union else {hint}
    return hints & {int, float, str, bool, type(None)}


def _check_types(node: Any, key: str) -> None:
    """Check the plain values of each ``_target_`` below a node against its signature.

    Raises:
        InputError: for a value of another type, a key the target does not take, or one that it misses.
    """
    if isinstance(node, list):
        for index, value in enumerate(node):
            _check_types(value, f"{key}[{index}]")
    if not isinstance(node, Mapping):
        return
    hints: dict[str, Any] = {}
    if target := node.get("_target_"):
        called = get_object(target)
        hints = typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
        known = inspect.signature(called).parameters
        given = {name for name in node if name not in ("_target_", "_partial_")}
        if unknown := sorted(given - known.keys()):
            raise InputError(f"{key} has no {', '.join(unknown)}: {target} takes {', '.join(known) or 'nothing'}")
        needed = {name for name, parameter in known.items() if parameter.default is parameter.empty}
        if not node.get("_partial_") and (missing := sorted(needed - given)):
            raise InputError(f"{key} lacks {', '.join(missing)}, which {target} needs")
    for name, value in node.items():
        allowed = _simple(hints.get(name))
        if allowed and isinstance(value, int | float | str | bool | type(None)):
            fits = type(value) in allowed or (float in allowed and type(value) is int)
            if not fits:
                names = " or ".join(sorted("null" if t is type(None) else t.__name__ for t in allowed))
                raise InputError(f"{key}.{name} must be {names}, got {value!r}")
        _check_types(value, f"{key}.{name}")


def _make(node: Mapping[str, Any], key: str) -> Any:
    """Instantiate a config node; what is wrong with its values comes out as InputError."""
    _check_types(node, key)
    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={name} cannot be used ({error}): use auto, cpu or cuda") from error
    return device


@lru_cache(maxsize=2)
def _load_data(node: str) -> Real:
    return cast("Real", _make(json.loads(node), "data").load())


def _real(config: Config, split: str | None = None) -> Real:
    """Return the data, or another split of it; the cells of a sweep share it.

    Raises:
        InputError: for a split of data that has only one.
    """
    node = config.data
    if split not in (None, _split(config)):
        if "splits" not in node:
            raise InputError(
                f"scorer.split={split}, but data={config.choices.get('data', '?')} has one split only "
                f"({_split(config)}): leave scorer.split null"
            )
        node = {**node, "split": split}
    return _load_data(json.dumps(node, sort_keys=True))


def _split(config: Config) -> str:
    return str(config.data.get("split", "train"))


def _check_numbers(config: Config) -> None:
    at_least = {
        "train.steps": (config.train.steps, 1),
        "train.batch_size": (config.train.batch_size, 1),
        "train.n_critic": (config.train.n_critic, 1),
        "log_every": (config.log_every, 1),
        "save_every": (config.save_every, 1),
        "scorer.every": (config.scorer.get("every", 0), 0),
    }
    for key, (value, bound) in at_least.items():
        if value < bound:
            raise InputError(f"{key} must be {bound} or more, got {value}")
    frozen = config.train.freeze_generator_at
    if frozen is not None and frozen < 0:
        raise InputError(f"train.freeze_generator_at must be 0 or more, or null for never, got {frozen}")
    if config.train.batch_size % (count := replicas_of(config)):
        raise InputError(
            f"train.batch_size={config.train.batch_size} is shared by launch.gpus_per_run={count} processes: choose a "
            "multiple of it"
        )
    if not 0 <= config.train.ema < 1:
        raise InputError(f"train.ema must be in [0, 1), got {config.train.ema:g}; 0 turns averaging off")


def _check_gpus(count: int, name: str, launched: torch.device | None) -> None:
    """Refuse to share a run among more GPUs than there are; on a CPU it is shared among processes."""
    if count == 1 or launched is not None:
        return
    if ":" in name:
        raise InputError(f"device={name} is one device, launch.gpus_per_run={count} takes as many: use device=cuda")
    here = torch.cuda.device_count()
    if name != "cpu" and 0 < here < count:
        raise InputError(f"launch.gpus_per_run={count}, but this machine has {here} GPUs")


def _scorer(config: Config, real: Real, device: torch.device) -> Scorer | None:
    """Return what scores a run at its end."""
    return _make_scorer(config, _scorer_node(config), real, device)


def _scorer_during(config: Config, real: Real, device: torch.device) -> Scorer | None:
    """Return what scores a run while it is trained, or None where that is no other than at its end."""
    node = _scorer_node(config, during=True)
    return None if node == _scorer_node(config) else _make_scorer(config, node, real, device)


def _scorer_node(config: Config, *, during: bool = False) -> dict[str, Any]:
    """Return the node of the scorer; with `during`, as ``scorer.during`` changes it (null takes a key away)."""
    node = {name: value for name, value in config.scorer.items() if name not in ("every", "during")}
    return _merged(node, config.scorer.get("during") or {}) if during else node


def _merged(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(node)
    for name, value in changes.items():
        below = result.get(name)
        result[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        if value is None and isinstance(below, Mapping):
            del result[name]
    return result


def _make_scorer(config: Config, node: Mapping[str, Any], real: Real, device: torch.device) -> Scorer | None:
    if node.get("_target_") is None:
        return None
    if "split" in node:
        split = node["split"] or _split(config)
        node, real = {**node, "split": split}, _real(config, split)
    return cast("Scorer", _make(node, "scorer")(real=real, device=device))


@dataclass
class _Choices:
    """The objects that a config names."""

    device: torch.device
    precision: Precision
    loss: Loss
    constraint: Constraint
    stabiliser: Stabiliser
    make_optimizer: MakeOptimizer
    model: Model
    real: Real

    @classmethod
    def of(cls, config: Config, device: torch.device | None = None) -> Self:
        """Make them, for a device that need not be here; what is out of range is refused on the way."""
        _check_numbers(config)
        device = device or _device(config.device)
        return cls(
            device=device,
            precision=precision(config.train.precision, device),
            loss=_make(config.loss, "loss"),
            constraint=_make(config.constraint, "constraint"),
            stabiliser=_make(config.stabiliser, "stabiliser"),
            make_optimizer=_make(config.optimizer, "optimizer"),
            model=_make(config.model, "model"),
            real=_real(config),
        )

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Make an optimizer."""
        try:
            return self.make_optimizer(parameters)
        except (TypeError, ValueError) as error:
            raise InputError(f"the optimizer cannot be made with the settings of `optimizer`: {error}") from error

    def networks(self, seed: int) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Make generator and critic, on torch's default device."""
        with rng.seeded(seed, "generator"):
            generator = self.stabiliser.generator(self.model.generator(self.real.shape), self.model.latent_dim)
        with rng.seeded(seed, "critic"):
            critic = self.constraint.wrap(self.stabiliser.critic(self.model.critic(self.real.shape)))
        return generator, critic


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are that `torch.nn.init` would fill: on the meta device that loads torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def check(config: Config, device: torch.device | None = None) -> None:
    """Refuse a config that cannot work, before any training; networks are made without their weights.

    Args:
        config: The config.
        device: Where it will run, if not on this machine.

    Raises:
        InputError: with what is wrong, the value, and what to do.
    """
    check_writable(Path(config.runs), "runs")
    choices = _Choices.of(config, device)
    make_figure(config.figure)
    _check_gpus(replicas_of(config), config.device, device)
    choices.stabiliser.loss(choices.loss)
    choices.real.batches(config.train.batch_size, config.seed, torch.device("cpu"))
    with torch.device("meta"), _Unfilled():
        for network in choices.networks(config.seed):
            choices.optimizer(network.parameters())
            if replicas_of(config) > 1 and (why := sharding_obstacle(network)):
                raise InputError(f"launch.gpus_per_run={replicas_of(config)}: {why}; use launch.gpus_per_run=1")
    _scorer(config, choices.real, choices.device)
    _scorer_during(config, choices.real, choices.device)


@dataclass
class Parts:
    """What a run is made of."""

    trainer: Trainer
    real: Real
    scorer: Scorer | None
    scorer_during: Scorer | None
    """What scores while training; None for `scorer`."""


def build(config: Config, replicas: Replicas | None = None) -> Parts:
    """Build a run's parts, at step 0; `replicas` are the processes that will train it.

    Raises:
        InputError: if the config cannot work.
    """
    replicas = replicas or Replicas()
    device = replicas.device(_device(config.device))
    choices = _Choices.of(config, device)
    # On the CPU first, so that every device starts from the same weights.
    generator, critic = choices.networks(config.seed)
    trainer = Trainer(
        generator=generator.to(device).to(memory_format=torch.channels_last),
        critic=critic.to(device).to(memory_format=torch.channels_last),
        loss=choices.loss,
        constraint=choices.constraint,
        stabiliser=choices.stabiliser,
        generator_optimizer=choices.optimizer,
        critic_optimizer=choices.optimizer,
        batches=choices.real.batches(config.train.batch_size, config.seed, device),
        latent_dim=choices.model.latent_dim,
        n_critic=config.train.n_critic,
        ema=config.train.ema,
        seed=config.seed,
        device=device,
        precision=choices.precision,
        finish=choices.real.finish,
        compile_networks=config.train.compile,
        freeze_generator_at=config.train.freeze_generator_at,
        simultaneous=config.train.simultaneous,
        replicas=replicas,
        graph=CudaGraph if config.graphs and device.type == "cuda" else None,
    )
    scorers = (make(config, choices.real, device) for make in (_scorer, _scorer_during))
    return Parts(trainer, choices.real, *scorers)


def make_figure(node: Mapping[str, Any]) -> Summarise:
    """Return what draws a sweep's end, from its config node.

    Raises:
        InputError: for a key that it does not take, or a value of another type.
    """
    return cast("Summarise", _make(node, "figure"))


def make_launch(node: Mapping[str, Any]) -> Any:
    """Return how a sweep's runs are worked on, from its config node.

    Raises:
        InputError: for a key that it does not take, or a value that it cannot have.
    """
    return _make(node, "launch")


def make_tracker(config: Config, run: RunIdentity) -> Tracker:
    """Start the tracker of a run."""
    return cast("Tracker", _make(config.tracker, "tracker")(run=run))
