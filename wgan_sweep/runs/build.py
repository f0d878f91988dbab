"""Building the parts of a run from its config. A config that cannot work is refused here, before training starts."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, cast

import torch
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.common.devices import find_device
from wgan_sweep.common.files import check_writable
from wgan_sweep.common.ranges import LARGEST_INT, Range, check_value, shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config import objects
from wgan_sweep.config.keys import KEYS, find_key
from wgan_sweep.config.players import player_node
from wgan_sweep.config.reference import read_reference
from wgan_sweep.config.schema import Config, check_ranges
from wgan_sweep.config.schema import replicas as replicas_of
from wgan_sweep.errors import InputError
from wgan_sweep.models.layers import Critic
from wgan_sweep.objectives.constraints import Constraint
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.stabilisers import Stabiliser
from wgan_sweep.runs import pruning
from wgan_sweep.runs.data import RealData, load_split, trained_split
from wgan_sweep.runs.memory import check_fits, needed_bytes
from wgan_sweep.runs.record import METRICS
from wgan_sweep.training.critic_updates import CriticUpdates, updates_in
from wgan_sweep.training.cuda_graphs import CudaGraph
from wgan_sweep.training.player import MakeOptimizer
from wgan_sweep.training.precision import Precision, precision
from wgan_sweep.training.replicas import Replicas, sharding_obstacle
from wgan_sweep.training.schedules import LearningRate, MakeScheduler
from wgan_sweep.training.trainer import Trainer, TrainerSettings

if TYPE_CHECKING:
    from wgan_sweep.scoring.players import Players

PACKAGE = __name__.partition(".")[0]
EVERY = "0 scores at the end only"
MakeOption = Callable[[Mapping[str, Any], str], Any]
"""Makes the object that a config node describes; the second argument is the node's dotted key."""


class Model(Protocol):
    """Makes generator and critic for a shape of data."""

    latent_dim: int

    def generator(self, shape: tuple[int, ...]) -> torch.nn.Module:
        """Return the generator."""

    def critic(self, shape: tuple[int, ...]) -> Critic:
        """Return the critic."""


class Scorer(Protocol):
    """Compares generated with real examples.

    It may also have `measures`, the names of the metrics by which its runs can be compared. A sweep that is to be
    pruned by another metric is then refused before it starts.
    """

    def describe(self) -> dict[str, str]:
        """Return what the scores depend on (features, counts, ...), as text."""

    def prepare(self) -> None:
        """Do the work that needs no generator, such as statistics of the real data."""

    def __call__(self, sample: Callable[[int], Tensor], players: "Players") -> dict[str, float]:
        """Return metric values; `sample` generates the next N samples (uint8 images, or points)."""


class SharedScorer(Protocol):
    """A scorer that the processes of a run can use together."""

    def is_shared_by(self, processes: int) -> bool:
        """Return whether so many processes can score together."""

    def __call__(
        self, sample: Callable[[int], Tensor], players: "Players", part: tuple[int, int] = (0, 1)
    ) -> dict[str, float]:
        """Return metric values in the process of rank 0.

        Args:
            sample: Generates the next N samples; a `SampleStream`, which can also skip some.
            players: Generator and critic.
            part: Rank of the process and number of processes, which all call this at once.
        """


def check_options(config: Config) -> None:
    """Check the option of every group: its ``_target_``, and the names, types and ranges of its values.

    Raises:
        InputError: with the fault, the value and the remedy.
    """
    for key in KEYS:
        if not key.is_group or key.name == "div":
            continue
        node = getattr(config, key.name)
        if key.name == "scorer":
            check_value(node.get("every", 0), Annotated[int, Range(0, LARGEST_INT, remedy=EVERY)], "scorer.every")
            check_value(node.get("during"), dict[str, Any] | None, "scorer.during")
            check_value(node.get("live", False), bool, "scorer.live")
            if node.get("live") and not config.train.ema:
                raise InputError(
                    "scorer.live=true scores the trained generator beside its moving average, and train.ema=0 has no "
                    "average: set scorer.live=false"
                )
            objects.check_parameters(_scorer_node(config), "scorer")
            objects.check_parameters(_scorer_node(config, during=True), "scorer.during")
            continue
        inherits = bool(key.shared_group) and "_target_" not in node
        if node.get("_target_") is None and not inherits:
            raise InputError(f"{key.name}._target_ must not be null: choose one of its options, {key.name}=NAME")
        name = key.name
        if key.shared_group:
            node, name = _player_option(config, key.name)
        objects.check_parameters(node, name)
    pruning.check(config)
    _check_reference(config)
    count = replicas_of(config)
    for name in ("batch_size", "generator_batch_size"):
        size = getattr(config.train, name)
        if size is not None and size % count:
            raise InputError(
                f"train.{name}={size} is shared by launch.gpus_per_run={count} processes: choose a multiple of it"
            )


def _check_reference(config: Config) -> None:
    """Refuse a reference that is not of its form, or whose metric the scorer cannot measure.

    The names of what a user's own scorer or metric measures are not known before it does.
    """
    reference = read_reference(config.reference)
    metrics = config.scorer.get("metrics")
    nodes = [config.scorer, *(metrics.values() if isinstance(metrics, Mapping) else ())]
    targets = [node.get("_target_") for node in nodes if isinstance(node, Mapping)]
    is_own = targets[0] is None or not all(str(target).startswith(f"{PACKAGE}.") for target in targets)
    if reference is not None and reference.metric not in METRICS and not is_own:
        raise InputError(
            f"reference.metric={reference.metric} is not a known metric{did_you_mean(reference.metric, METRICS)} "
            f"(choose from {', '.join(METRICS)}; other ones need a scorer or metric of your own)"
        )


def _player_option(config: Config, group: str) -> tuple[dict[str, Any], str]:
    """Return the node that counts for a player's group, and the key that messages give: that of both if it is theirs.

    Args:
        config: The config.
        group: The group, such as ``critic_optimizer``.
    """
    shared = find_key(group).shared_group
    node = player_node(vars(config), group)
    return node, shared if node == getattr(config, shared) else group


def _check_gpus(count: int, name: str, launched: torch.device | None) -> None:
    """Refuse more GPUs per run than there are; without GPUs, the processes share the CPU."""
    if count == 1 or launched is not None:
        return
    if ":" in name:
        raise InputError(f"device={name} is one device, launch.gpus_per_run={count} takes as many: use device=cuda")
    available = torch.cuda.device_count()
    if name != "cpu" and 0 < available < count:
        raise InputError(f"launch.gpus_per_run={count}, but this machine has {available} GPUs")


def _scorers(config: Config, real: RealData, device: torch.device) -> tuple[Scorer | None, Scorer | None]:
    """Return the final scorer, and that of training (None if it is the final one).

    Raises:
        InputError: if one cannot work, or that of training does not measure the metric of the pruner.
    """
    final, training = _final_scorer(config, real, device), _training_scorer(config, real, device)
    pruning.check_is_measured(config, getattr(training or final, "measures", None))
    return final, training


def _final_scorer(config: Config, real: RealData, device: torch.device) -> Scorer | None:
    """Return the scorer that is used at the end of a run."""
    return _make_scorer(config, _scorer_node(config), real, device)


def _training_scorer(config: Config, real: RealData, device: torch.device) -> Scorer | None:
    """Return the scorer that is used during training, or None if it is the final one."""
    node = _scorer_node(config, during=True)
    return None if node == _scorer_node(config) else _make_scorer(config, node, real, device)


def _scorer_node(config: Config, *, during: bool = False) -> dict[str, Any]:
    """Return the scorer's node; with `during`, with the changes of ``scorer.during`` (null removes a node)."""
    node = {name: value for name, value in config.scorer.items() if name not in ("every", "during", "live")}
    node = _merged(node, config.scorer.get("during") or {}) if during else node
    if isinstance(metrics := node.get("metrics"), Mapping):
        node["metrics"] = {name: value for name, value in metrics.items() if value is not None}
    return {**node, "split": node["split"] or trained_split(config)} if "split" in node else node


def _merged(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(node)
    for name, value in changes.items():
        below = result.get(name)
        result[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        if value is None and isinstance(below, Mapping):
            del result[name]
    return result


def _make_scorer(config: Config, node: Mapping[str, Any], real: RealData, device: torch.device) -> Scorer | None:
    if node.get("_target_") is None:
        return None
    if "split" in node:
        real = load_split(config, node["split"])
    return cast("Scorer", objects.make(node, "scorer")(real=real, device=device))


_Networks = tuple[torch.nn.Module, torch.nn.Module]
"""Generator and critic."""


@dataclass(frozen=True)
class _Optimization:
    """How a player is optimized, as a config describes it."""

    make_optimizer: MakeOptimizer
    optimizer_key: str
    """The key of its optimizer in messages."""
    make_scheduler: MakeScheduler | None
    schedule_key: str
    """The key of its schedule in messages."""

    @classmethod
    def of(cls, config: Config, player: str, make: MakeOption) -> Self:
        """Make the objects of a config for a player, ``generator`` or ``critic``."""
        optimizer, optimizer_key = _player_option(config, f"{player}_optimizer")
        schedule, schedule_key = _player_option(config, f"{player}_schedule")
        return cls(make(optimizer, optimizer_key), optimizer_key, make(schedule, schedule_key), schedule_key)

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Make an optimizer.

        Raises:
            InputError: if its settings are refused.
        """
        settings = getattr(self.make_optimizer, "keywords", {})
        given = ", ".join(f"{self.optimizer_key}.{name}={shown(value)}" for name, value in settings.items())
        with _refusing(f"the optimizer cannot be made with {given}"):
            return self.make_optimizer(parameters)

    def check_schedule(self, optimizer: torch.optim.Optimizer) -> None:
        """Check that the schedule suits an optimizer.

        Raises:
            InputError: if it does not.
        """
        if self.make_scheduler is not None:
            with _refusing(f"{self.schedule_key} cannot schedule the learning rate of {self.optimizer_key}"):
                LearningRate(optimizer, self.make_scheduler)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Raise an InputError that begins with `what` for errors of settings."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError) as error:
        raise InputError(f"{what} ({error}): correct them") from error


@dataclass
class _Choices:
    """The objects that a config describes."""

    device: torch.device
    precision: Precision
    loss: Loss
    constraint: Constraint
    stabiliser: Stabiliser
    generator: _Optimization
    critic: _Optimization
    critic_updates: CriticUpdates | None
    model: Model
    real: RealData

    @classmethod
    def of(cls, config: Config, device: torch.device | None = None, make: MakeOption = objects.make) -> Self:
        """Make the objects of a config.

        Args:
            config: The config.
            device: The device, which this machine need not have; None for that of the config.
            make: Makes the object of a config node with a dotted key.

        Raises:
            InputError: for a value out of range.
        """
        check_options(config)
        check_ranges(config)
        device = device or find_device(config.device)
        choices = cls(
            device=device,
            precision=precision(config.train.precision, device),
            loss=make(config.loss, "loss"),
            constraint=make(config.constraint, "constraint"),
            stabiliser=make(config.stabiliser, "stabiliser"),
            generator=_Optimization.of(config, "generator", make),
            critic=_Optimization.of(config, "critic", make),
            critic_updates=make(config.critic_updates, "critic_updates"),
            model=make(config.model, "model"),
            real=load_split(config),
        )
        if choices.loss.compares and config.train.generator_batch_size not in (None, config.train.batch_size):
            raise InputError(
                f"train.generator_batch_size={config.train.generator_batch_size} with a loss whose generator compares "
                f"generated with real examples: leave it out, as for train.batch_size={config.train.batch_size}"
            )
        return choices

    def networks(self, seed: int) -> _Networks:
        """Make generator and critic, on torch's default device."""
        shape = self.real.shape
        return (
            make_generator(self.model, self.stabiliser, shape, seed),
            make_critic(self.model, self.stabiliser, self.constraint, shape, seed),
        )


def make_generator(model: Model, stabiliser: Stabiliser, shape: tuple[int, ...], seed: int) -> torch.nn.Module:
    """Make the generator of a run with this seed, for examples of this shape, on torch's default device."""
    with rng.seeded(seed, "generator"):
        return stabiliser.adapt_generator(model.generator(shape), model.latent_dim)


def make_critic(
    model: Model, stabiliser: Stabiliser, constraint: Constraint, shape: tuple[int, ...], seed: int
) -> torch.nn.Module:
    """Make the critic of a run with this seed, for examples of this shape, on torch's default device."""
    with rng.seeded(seed, "critic"):
        return constraint.wrap(stabiliser.adapt_critic(model.critic(shape)))


def on_device(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move a network to a device, in the memory layout in which networks are trained and sampled."""
    return network.to(device).to(memory_format=torch.channels_last)


class Checker:
    """Refuses configs that cannot work, before training starts. What several of them share is checked once.

    Networks are made without weights.

    Args:
        device: Where the runs will be trained, if not on this machine.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._problems: dict[str, str | None] = {}
        """Why a config is refused, or None, by the config without its seed."""
        self._made: dict[tuple[str, str], Any] = {}
        """Objects, by the dotted key and the values of their nodes."""
        self._networks: dict[tuple[object, ...], tuple[_Networks, object]] = {}
        """Networks without weights, by what they are made of; with the object whose identity is part of the key."""

    def __call__(self, config: Config) -> None:
        """Check a config.

        Raises:
            InputError: with the fault, the value and the remedy.
        """
        key = repr(replace(config, seed=0) if abs(config.seed) <= LARGEST_INT else config)
        if key not in self._problems:
            try:
                self._check(config)
            except InputError as error:
                self._problems[key] = str(error)
                raise
            self._problems[key] = None
        if (problem := self._problems[key]) is not None:
            raise InputError(problem)

    def _check(self, config: Config) -> None:
        check_writable(Path(config.runs), "runs")
        choices = _Choices.of(config, self._device, self._make)
        _check_gpus(replicas_of(config), config.device, self._device)
        choices.stabiliser.adapt_loss(choices.loss)
        self.images_in(config, range(1))
        choices.real.batches(config.train.batch_size, config.seed, torch.device("cpu"))
        with torch.device("meta"):
            try:
                networks = self._networks_of(choices, config)
            except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"the networks of {_sizes(config)} cannot be made ({reason}): lower them") from error
            if self._device is None:
                batch_size = max(config.train.batch_size, config.train.generator_batch_size or 0)
                numbers = batch_size * (math.prod(choices.real.shape) + choices.model.latent_dim)
                settings = f"{_sizes(config)}, train.batch_size={config.train.batch_size}"
                check_fits(needed_bytes(networks, numbers), choices.device, settings)
            for network, optimization in zip(networks, (choices.generator, choices.critic), strict=True):
                optimization.check_schedule(optimization.optimizer(network.parameters()))
                if replicas_of(config) > 1 and (why := sharding_obstacle(network)):
                    raise InputError(f"launch.gpus_per_run={replicas_of(config)}: {why}; use launch.gpus_per_run=1")
        _scorers(config, choices.real, choices.device)

    def images_in(self, config: Config, steps: range) -> int:
        """Return how many real examples the critic is trained on in a range of steps.

        Raises:
            InputError: if a step has no critic update.
        """
        critic_updates = self._make(config.critic_updates, "critic_updates")
        with _refusing("critic_updates gives no number of updates"):
            return updates_in(critic_updates, config.train.n_critic, steps) * config.train.batch_size

    def _make(self, node: Mapping[str, Any], key: str) -> Any:
        """Make the object of a config node, once."""
        values = key, repr(node)
        if values not in self._made:
            self._made[values] = objects.make(node, key)
        return self._made[values]

    def _networks_of(self, choices: _Choices, config: Config) -> _Networks:
        """Make the networks of a config, once for all configs that differ in nothing that networks are made of."""
        wrap = choices.constraint.wrap
        parts = repr((config.model, config.stabiliser)), choices.real.shape, id(wrap)
        if parts not in self._networks:
            self._networks[parts] = choices.networks(config.seed), wrap
        return self._networks[parts][0]


def check(config: Config, device: torch.device | None = None) -> None:
    """Refuse a config that cannot work: see `Checker`.

    Args:
        config: The config.
        device: Where the run will be trained, if not on this machine.

    Raises:
        InputError: with the fault, the value and the remedy.
    """
    Checker(device)(config)


def _sizes(config: Config) -> str:
    """Return the numbers that decide how large the networks are, as keys with values."""
    groups = (("model", config.model), ("stabiliser", config.stabiliser))
    named = (f"{key}.{name}={shown(value)}" for key, node in groups for name, value in node.items())
    return ", ".join(text for text in named if text[-1].isdigit())


@dataclass
class Parts:
    """The parts of a run."""

    trainer: Trainer
    real: RealData
    scorer: Scorer | None
    training_scorer: Scorer | None
    """The scorer used during training; None if it is `scorer`."""


def build(config: Config, replicas: Replicas | None = None) -> Parts:
    """Build the parts of a run, at step 0.

    Args:
        config: The run's config.
        replicas: The processes that will train it together; by default this one alone.

    Raises:
        InputError: if the config cannot work.
    """
    replicas = replicas or Replicas()
    device = replicas.device(find_device(config.device))
    choices = _Choices.of(config, device)
    # Initialised on the CPU, so that every device starts from the same weights.
    generator, critic = choices.networks(config.seed)
    settings = TrainerSettings(
        latent_dim=choices.model.latent_dim,
        n_critic=config.train.n_critic,
        generator_batch_size=config.train.generator_batch_size,
        ema=config.train.ema,
        seed=config.seed,
        simultaneous=config.train.simultaneous,
        freeze_generator_at=config.train.freeze_generator_at,
        compile_networks=config.train.compile,
    )
    trainer = Trainer(
        settings,
        generator=on_device(generator, device),
        critic=on_device(critic, device),
        loss=choices.loss,
        constraint=choices.constraint,
        stabiliser=choices.stabiliser,
        generator_optimizer=choices.generator.optimizer,
        critic_optimizer=choices.critic.optimizer,
        generator_schedule=choices.generator.make_scheduler,
        critic_schedule=choices.critic.make_scheduler,
        critic_updates=choices.critic_updates,
        batches=choices.real.batches(config.train.batch_size, config.seed, device),
        device=device,
        precision=choices.precision,
        to_samples=choices.real.to_samples,
        replicas=replicas,
        make_graph=CudaGraph if config.graphs and device.type == "cuda" else None,
    )
    return Parts(trainer, choices.real, *_scorers(config, choices.real, device))
