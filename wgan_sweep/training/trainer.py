"""The training loop, as an iterator: one item per generator update. The caller decides what happens in between."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.common.images import to_uint8
from wgan_sweep.objectives import gradient_terms
from wgan_sweep.objectives.constraints import Constraint
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.stabilisers import Stabiliser
from wgan_sweep.training import optimizers
from wgan_sweep.training.aliases import Metrics, Network
from wgan_sweep.training.averaging import MovingAverage
from wgan_sweep.training.compilation import CompiledGradient, CompiledNetwork
from wgan_sweep.training.critic_objective import CriticBatches, CriticObjective
from wgan_sweep.training.critic_updates import CriticUpdates, updates_at, updates_in
from wgan_sweep.training.cuda_graphs import Graph, GraphedIteration
from wgan_sweep.training.gradient_rules import GradientRules
from wgan_sweep.training.loss_scaling import LossScale
from wgan_sweep.training.player import MakeOptimizer, Player
from wgan_sweep.training.precision import Precision
from wgan_sweep.training.probes import Probes
from wgan_sweep.training.replicas import Replicas
from wgan_sweep.training.sampler import SampleStream, draw_z
from wgan_sweep.training.schedules import MakeScheduler

MakeGraph = Callable[[list[torch.Generator]], Graph]
ActiveTerms = tuple[tuple[int, ...], ...]
"""For each critic update of an iteration, the indices of the gradient terms that are part of it."""


class RealExamples(Protocol):
    """An endless, resumable source of real batches."""

    batch_size: int

    def next_raw(self) -> Tensor:
        """Return the data of the next batch as it is stored, on the device."""

    def decode(self, raw: Tensor) -> Tensor:
        """Return the batch ``[batch_size, ...]``, as the critic sees it, from the data that `next_raw` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


@dataclass(frozen=True)
class TrainerSettings:
    """Numbers and switches of training."""

    latent_dim: int
    """Size of z, which is standard normal."""
    n_critic: int
    """Critic updates per generator update, unless `critic_updates` of the `Trainer` gives a step another number."""
    ema: float
    """Decay of the averaged generator per update, in [0, 1); 0 turns averaging off. See `MovingAverage`."""
    seed: int
    """Seed of the noise, of r(x) and of the stabiliser."""
    simultaneous: bool = False
    """Whether the generator's gradient is computed before the critic's updates of a step instead of after them, so that
    both players move from the same point."""
    freeze_generator_at: int | None = None
    """From this step on, the generator is not updated, and a critic that starts again from its initial weights with a
    new optimizer is trained against it; None: never."""
    generator_batch_size: int | None = None
    """Examples that the generator is updated on; None: as many as a batch has. The loss must not compare them with real
    examples one by one."""
    compile_networks: bool = False
    """Whether to compile the networks, and the critic's whole gradient if its objective has gradient terms."""


class Trainer:
    """Critic and generator, trained against each other.

    All random numbers come from generators of this object, and `state_dict` holds everything that later steps depend
    on. It uses no files, configs or trackers.

    Args:
        settings: Numbers and switches.
        generator: ``[N, latent_dim]`` to ``[N, ...]``, on `device`. Adapted to the replicas in place.
        critic: ``[N, ...]`` to ``[N]``, on `device`, with its constraint applied. Adapted to the replicas in place.
        loss: The losses of both players.
        constraint: The constraint on the critic.
        stabiliser: Other changes to training.
        generator_optimizer: Returns the generator's optimizer for its parameters.
        critic_optimizer: Returns the critic's optimizer for its parameters.
        generator_schedule: Returns the scheduler of the generator's learning rate; None: the rate is constant.
        critic_schedule: Returns the scheduler of the critic's learning rate; None: the rate is constant.
        critic_updates: Returns the number of critic updates of a step; None: it is `settings.n_critic` in all steps.
        batches: Real examples.
        device: Device of all tensors.
        precision: Numeric precision.
        to_samples: From the generator's output to samples as they are shown and scored.
        replicas: The processes that share each batch; by default, this one alone.
        make_graph: Returns an empty graph, in which iterations are captured if possible; None: they stay eager.
        rules: The rules of gradient terms; by default, they are chosen at the first critic update.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        generator: nn.Module,
        critic: nn.Module,
        loss: Loss,
        constraint: Constraint,
        stabiliser: Stabiliser,
        generator_optimizer: MakeOptimizer,
        critic_optimizer: MakeOptimizer,
        generator_schedule: MakeScheduler | None = None,
        critic_schedule: MakeScheduler | None = None,
        critic_updates: CriticUpdates | None = None,
        batches: RealExamples,
        device: torch.device,
        precision: Precision,
        to_samples: Callable[[Tensor], Tensor] = to_uint8,
        replicas: Replicas | None = None,
        make_graph: MakeGraph | None = None,
        rules: GradientRules | None = None,
    ) -> None:
        self._settings = settings
        self._replicas = replicas = replicas or Replicas()
        self.generator = generator = replicas.use_global_batch_norm(generator)
        self.critic = critic = replicas.use_global_batch_norm(critic)
        self.step = 0
        self._critic_updates = critic_updates
        self._updates_so_far = self._updates_before_restart = 0  # of the critic
        self.device = device
        self._batches, self._precision = batches, precision
        self._loss, self._constraint, self._stabiliser = stabiliser.adapt_loss(loss), constraint, stabiliser
        self._streams = {
            purpose: rng.generator(settings.seed, purpose, device=device)
            for purpose in ("noise", "points", "stabiliser")
        }
        dependence = gradient_terms.batch_dependence(critic)
        self._rules = rules or GradientRules()
        self._objective = CriticObjective(
            self._loss,
            constraint.terms,
            replicas,
            per_example=dependence is None,
            critic_pass=self._rules.critic_pass,
        )
        self.batch_dependence = dependence if self._objective.terms else None
        """Why gradient terms do not see each example's own gradient; None if they do, or if there are none."""

        self._graph_obstacle: str | None = "it needs a GPU, and graphs=true"
        if make_graph:
            self._graph_obstacle = _graph_obstacle(settings, replicas, stabiliser)
        self._graphed: GraphedIteration | None = None
        if make_graph and self._graph_obstacle is None:
            streams = list(self._streams.values())
            self._graphed = GraphedIteration(lambda: make_graph(streams), streams)

        self._compiled: dict[str, CompiledNetwork | CompiledGradient] = {}
        self._compiled_gradient: CompiledGradient | None = None
        critic_scale, generator_scale = (
            LossScale(next(network.parameters()).device) if precision.scales_loss else None
            for network in (critic, generator)
        )
        generator_forward: Network = generator
        critic_forward: Network = critic
        if settings.compile_networks:
            self._compiled["generator"] = generator_forward = CompiledNetwork("the generator", generator)
            self._compiled["critic"] = critic_forward = CompiledNetwork("the critic", critic)
            if self._objective.terms:
                self._compiled["critic's gradient"] = self._compiled_gradient = CompiledGradient(
                    "the critic's gradient",
                    critic,
                    critic_scale,
                    _compilation_obstacle(replicas, stabiliser, self._objective),
                )

        def make_player(
            network: nn.Module,
            forward: Network,
            make_optimizer: MakeOptimizer,
            make_scheduler: MakeScheduler | None,
            loss_scale: LossScale | None,
        ) -> Player:
            return Player(
                network,
                forward=forward,
                make_optimizer=make_optimizer,
                make_scheduler=make_scheduler,
                keeps_history=bool(stabiliser.history_weight),
                capturable=self._graphed is not None,
                loss_scale=loss_scale,
            )

        self._generator_player = make_player(
            generator, generator_forward, generator_optimizer, generator_schedule, generator_scale
        )
        self._critic_player = make_player(critic, critic_forward, critic_optimizer, critic_schedule, critic_scale)
        self._initial_critic = None if settings.freeze_generator_at is None else copy.deepcopy(critic.state_dict())
        self._average = MovingAverage(generator, settings.ema)
        self._probes = Probes(
            generator=generator,
            critic=critic,
            averaged=self._average.network,
            objective=self._objective,
            precision=precision,
            generator_loss_scale=generator_scale,
            to_samples=to_samples,
            latent_dim=settings.latent_dim,
            seed=settings.seed,
            batch_size=batches.batch_size,
            device=device,
        )
        self._batch_slots: list[Tensor] = []
        self._raw_batches: list[Tensor] = []
        self._last_batch: tuple[Tensor, Tensor] | None = None

    @property
    def averaged(self) -> nn.Module:
        """The moving average of the generator, in evaluation mode."""
        return self._average.network

    @property
    def images_seen(self) -> int:
        """Number of real examples that the critic has been trained on."""
        return self._updates_so_far * self._batches.batch_size

    @property
    def execution(self) -> dict[str, str]:
        """How iterations run, and why: precision, CUDA graph, rules of gradient terms, state of each compiled part."""
        iterations = "a CUDA graph"
        if self._graphed is None or not self._graphed.is_replaying:
            reason = self._graphed.fallback_reason if self._graphed else self._graph_obstacle
            iterations = f"eager (no CUDA graph: {reason or 'not captured yet'})"
        scaling = "dynamic loss scaling" if self._precision.scales_loss else ""
        return {
            "precision": ", ".join(filter(None, (self._precision.name, self._precision.reason, scaling))),
            "iterations": iterations,
            **({"gradient term": self._rules.status} if self._objective.terms else {}),
            **{name: compilation.status for name, compilation in self._compiled.items()},
        }

    def steps(self, until: int) -> Iterator[Metrics]:
        """Train until generator update `until`; yield after each update.

        Yields:
            Metrics of the step's last updates, scalars on the device: critic_loss (with its gradient terms),
            generator_loss, generator_gradient_norm (of its loss, with respect to all parameters of the generator),
            wasserstein (E_real[T] - E_fake[T]), gradient_term, and, if there are gradient terms, gradient_norm (mean at
            their points). If there are several, also gradient_term_NAME and gradient_norm_NAME for each; a lazy term
            keeps its latest values until it is evaluated again. Of players whose learning rate changes, also that of
            the step: generator_lr, critic_lr. In fp16 also critic_loss_scale and generator_loss_scale (below
            `loss_scaling.MIN_SCALE`, the player has diverged), and skipped_updates: the number of updates that both
            players have skipped so far, because the gradient overflowed. generator_gradient_norm is infinite then.
        """
        while self.step < until:
            with self._precision.step(), self._replicas.sharded():
                metrics = self._train_step()
            yield metrics

    def _train_step(self) -> Metrics:
        """Run one iteration, eagerly or by replaying its graph, and update the moving average."""
        if self.step == self._settings.freeze_generator_at:
            self._restart_critic()
        active_terms = self._active_terms
        self._load_batches(len(active_terms))
        self._respect_optimizers()
        iterate = partial(self._iterate, active_terms)
        if self._graphed and self._is_ready_for_graph:
            metrics = self._graphed(iterate, self._iteration_state, active_terms)
        else:
            metrics = iterate()
        metrics = metrics | self._learning_rates()
        for player in self._players:
            player.advance_learning_rate()
        self.step += 1
        self._updates_so_far += len(active_terms)
        self._average.update(self.step)
        return metrics

    @property
    def _active_terms(self) -> ActiveTerms:
        """The gradient terms that are part of each critic update of the next iteration, by their indices."""
        first = self._updates_so_far - self._updates_before_restart
        count = updates_at(self._critic_updates, self._settings.n_critic, self.step)
        return tuple(self._objective.terms_at(first + index) for index in range(count))

    def _iterate(self, active_terms: ActiveTerms) -> Metrics:
        """Update the critic on the loaded batches, once for each item of `active_terms`, and the generator once.

        Args:
            active_terms: The gradient terms of each critic update.
        """
        metrics: Metrics = {}
        if self._settings.simultaneous:
            metrics |= self._compute_generator_gradient()
        for raw, terms in zip(self._raw_batches, active_terms, strict=False):
            metrics |= self._update_critic(self._batches.decode(raw), terms)
        if not self._settings.simultaneous:
            metrics |= self._compute_generator_gradient()
        if not self._is_generator_frozen:
            self._generator_player.update(may_wait=self._may_wait)
        return metrics | self._scaling_metrics()

    def _learning_rates(self) -> Metrics:
        """Return the learning rates of the step that change."""
        rates = {"critic_lr": self._critic_player, "generator_lr": self._generator_player}
        values = {name: player.learning_rate_on(self.device) for name, player in rates.items()}
        return {name: value for name, value in values.items() if value is not None}

    def _update_critic(self, real: Tensor, terms: Sequence[int]) -> Metrics:
        """Update the critic on a real batch ``[N, ...]`` and as many generated examples; return the metrics.

        Args:
            real: The real batch.
            terms: The indices of the gradient terms that are part of the update.
        """
        real = self._augment(real.to(self._dtype))
        with torch.no_grad():
            fake = self._augment(self._generate(self._batches.batch_size))
        batches = self._objective.prepare(real, fake, self._streams["points"], terms)
        self._choose_gradient_rules(batches)
        metrics = self._compute_compiled_critic_gradient(batches)
        if metrics is None:
            loss, metrics = self._objective.loss_and_metrics(batches, self._apply_critic, self._apply_eager_critic)
            self._backward(self._critic_player, loss)
            self._add_history_gradient(self._critic_player)
        self._critic_player.update(may_wait=self._may_wait)
        self._constraint.project(self.critic)
        self._keep_last_batch(real, fake)
        return metrics

    def _choose_gradient_rules(self, batches: CriticBatches) -> None:
        """At the run's first critic update, choose the rules that differentiate gradient terms."""
        if not self._rules.is_chosen and batches.term_batches:
            points = batches.batches[batches.term_batches[0]]
            noise = rng.generator(self._settings.seed, "gradient rules", device=self.device)
            self._rules.choose(self.critic, points, noise, self._replicas)

    def _compute_generator_gradient(self) -> Metrics:
        """Set the gradient of the generator's parameters, but of no other; return the metrics."""
        self.critic.requires_grad_(requires_grad=False)
        try:
            real = None
            if self._generator_needs_real:
                real = self._augment(self._batches.decode(self._raw_batches[-1]).to(self._dtype))
            count = self._settings.generator_batch_size or self._batches.batch_size
            loss = self._generator_loss(real, self._augment(self._generate(count)))
            self._backward(self._generator_player, loss)
        finally:
            self.critic.requires_grad_(requires_grad=True)
        gradient_norm = self._generator_player.gradient_norm()
        self._add_history_gradient(self._generator_player)
        return {"generator_loss": loss.detach(), "generator_gradient_norm": gradient_norm}

    @property
    def _generator_needs_real(self) -> bool:
        """Whether the generator's loss depends on real examples, of which its update then has a batch of its own."""
        return self._stabiliser.generator_loss is not None or self._loss.compares

    def _generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return the generator's loss (scalar); `real` may be None if the generator needs no real examples."""
        if self._stabiliser.generator_loss is not None and real is not None:
            with self._precision.forward():
                return self._stabiliser.generator_loss(self.critic, real, fake)
        fake_outputs = self._gathered_outputs(fake)
        if not self._loss.compares or real is None:
            return self._loss.generator(fake_outputs)
        with torch.no_grad():
            real_outputs = self._gathered_outputs(real)
        return self._loss.generator(real_outputs, fake_outputs)

    def _gathered_outputs(self, batch: Tensor) -> Tensor:
        """Return the critic's outputs ``[N]`` for a batch ``[N, ...]``, of which each process computes its shard."""
        return self._replicas.all_gather(self._apply_critic(self._replicas.local_shard(batch)))

    def _backward(self, player: Player, loss: Tensor) -> None:
        """Set the gradient of a player's parameters, summed over all replicas."""
        player.backward(loss)
        self._replicas.all_reduce_gradients(player.parameters)
        player.unscale_gradient()

    def _add_history_gradient(self, player: Player) -> None:
        """Add the gradient of historical averaging, if the stabiliser uses it. All replicas compute the same."""
        if player.history is not None:
            (self._stabiliser.history_weight * player.history.squared_distance()).backward()

    def _compute_compiled_critic_gradient(self, batches: CriticBatches) -> Metrics | None:
        """Set the gradient of the critic's parameters with compiled code and return the metrics; None if eager."""
        if self._compiled_gradient is None:
            return None

        def objective(tensors: Sequence[Tensor]) -> tuple[Tensor, Metrics]:
            critic = self._apply_eager_critic
            return self._objective.loss_and_metrics(batches.with_tensors(tensors), critic, critic)

        metrics = self._compiled_gradient(objective, batches.tensors)
        if metrics is not None:
            self._critic_player.unscale_gradient()
        return metrics

    def _generate(self, count: int) -> Tensor:
        """Return `count` generated examples ``[count, ...]``."""
        z = draw_z(count, self._settings.latent_dim, self.generator, self._streams["noise"])
        shard = self._replicas.local_shard(z)
        return self._replicas.all_gather(self._precision.apply(self._generator_player.forward, shard))

    def _apply_critic(self, batch: Tensor) -> Tensor:
        return self._precision.apply(self._critic_player.forward, batch)

    def _apply_eager_critic(self, batch: Tensor) -> Tensor:
        return self._precision.apply(self.critic, batch)

    def _augment(self, batch: Tensor) -> Tensor:
        return self._stabiliser.augment_input(batch, self.step, self._streams["stabiliser"])

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.generator.parameters()).dtype

    @property
    def _is_generator_frozen(self) -> bool:
        start = self._settings.freeze_generator_at
        return start is not None and self.step >= start

    def _restart_critic(self) -> None:
        self.critic.load_state_dict(self._initial_critic or {})
        self._critic_player.restart()
        self._updates_before_restart = self._updates_so_far

    def _load_batches(self, critic_updates: int) -> None:
        """Load the raw batches of an iteration: one per update of the critic, and one for the generator if needed."""
        count = critic_updates + self._generator_needs_real
        batches = [self._batches.next_raw() for _ in range(count)]
        self._batch_slots = _store(self._batch_slots, batches, in_place=self._graphed is not None)
        self._raw_batches = self._batch_slots[:count]

    def _keep_last_batch(self, real: Tensor, fake: Tensor) -> None:
        """Keep the last batch, for probes."""
        real, fake = _store(self._last_batch or (), (real, fake), in_place=self._graphed is not None)
        self._last_batch = real, fake

    @property
    def _players(self) -> tuple[Player, Player]:
        return self._critic_player, self._generator_player

    def _scaling_metrics(self) -> Metrics:
        """Return the loss scales and the number of skipped updates, if there are loss scales."""
        critic, generator = (player.loss_scale for player in self._players)
        if critic is None or generator is None:
            return {}
        metrics = {
            "critic_loss_scale": critic.value,
            "generator_loss_scale": generator.value,
            "skipped_updates": critic.skipped_updates + generator.skipped_updates,
        }
        return {name: value.to(self._dtype, copy=True) for name, value in metrics.items()}

    @property
    def _may_wait(self) -> bool:
        """Whether an iteration may wait for the device: not if a CUDA graph records it."""
        return self._graphed is None or self._graphed.fallback_reason is not None

    @property
    def _is_ready_for_graph(self) -> bool:
        """Whether optimizers have allocated the state that skipped updates restore."""
        return not self._precision.scales_loss or all(player.has_optimizer_state for player in self._players)

    def _respect_optimizers(self) -> None:
        """Leave CUDA graphs for optimizers that a replay would not step as an eager iteration does."""
        if self._graphed is None:
            return
        if any(optimizers.has_step_hooks(player.optimizer) for player in self._players):
            self._graphed.fall_back("an optimizer has step hooks or a learning rate scheduler")
        elif any(player.has_stale_rate_in_graph for player in self._players):
            self._graphed.fall_back("an optimizer cannot read its learning rate, which changes, from the device")
        elif self._precision.scales_loss and not all(player.can_skip_on_device for player in self._players):
            self._graphed.fall_back("an optimizer's state is not on the device, where updates would be skipped")

    def _iteration_state(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return all tensors that an iteration changes and the next one reads: weights, and others."""
        weights: list[Tensor] = [*self.critic.parameters(), *self.generator.parameters()]
        scales = [tensor for player in self._players if player.loss_scale for tensor in player.loss_scale.state]
        optimizer_states = [
            value
            for player in self._players
            for state in player.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        buffers = [*self.critic.buffers(), *self.generator.buffers()]
        return weights, [*buffers, *optimizer_states, *scales, *self._objective.latest.values()]

    def gradient_norm(self) -> Tensor:
        """Return the mean norm of the critic's gradient between the last batch's real and fake examples (scalar).

        For critics without gradient terms, whose steps do not measure it.
        """
        if self._last_batch is None:
            raise RuntimeError("gradient_norm() uses the last batch: take a step first")
        return self._probes.gradient_norm(*self._last_batch, self.step)

    def generator_gradient_norm(self, real: Tensor) -> Tensor:
        """Return the norm of the gradient of the generator's loss with respect to all of its parameters (scalar).

        Args:
            real: Real examples ``[N, ...]``, which are paired with N generated ones.
        """
        return self._probes.generator_gradient_norm(self._generator_loss, real, self.step)

    def critic_outputs(self, points: Tensor) -> Tensor:
        """Return the critic's outputs ``[N]`` for examples ``[N, ...]``, both on the CPU; differentiable."""
        return self._probes.critic_outputs(points)

    def critic_loss(self, real: Tensor, fake: Tensor) -> float:
        """Return the critic's loss, with its gradient terms, on real and fake examples ``[N, ...]`` on the CPU."""
        return self._probes.critic_loss(real, fake, self.step)

    def sampler(self, purpose: str, *, live: bool = False) -> SampleStream:
        """Return a stream of samples of the averaged generator (uint8 images, or points).

        z is drawn from the start of the stream (seed, `purpose`): with the same weights, two samplers of one purpose
        return the same samples, in batches of any size. BatchNorm uses its running statistics.

        Args:
            purpose: The purpose of the samples.
            live: Whether they are those of the generator that is trained instead of its average.
        """
        return self._probes.sampler(purpose, live=live)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later steps depend on: tensors, numbers and containers of them."""
        histories = [player.history for player in self._players]
        scales = [player.loss_scale for player in self._players]
        rates = [player.learning_rate for player in self._players]
        return {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "averaged": self.averaged.state_dict(),
            "generator_optimizer": self._generator_player.optimizer.state_dict(),
            "critic_optimizer": self._critic_player.optimizer.state_dict(),
            "batches": self._batches.state_dict(),
            "past": [history.state_dict() for history in histories if history is not None],
            "learning_rates": [None if rate is None else rate.state_dict() for rate in rates],
            "loss_scales": [scale.state_dict() for scale in scales if scale is not None],
            "streams": {purpose: stream.get_state() for purpose, stream in self._streams.items()},
            "gradient_rules": self._rules.state_dict(),
            "latest_terms": dict(self._objective.latest),
        }

    def has_streams_of(self, state: Mapping[str, Any]) -> bool:
        """Return whether the random streams of a state can be continued: not those of another kind of device."""
        return all(
            stream.get_state().numel() == state["streams"][purpose].numel() for purpose, stream in self._streams.items()
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume training from the state that `state_dict` returned.

        Random streams of another kind of device (see `has_streams_of`) are not loaded. Scores do not depend on them.
        """
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self.averaged.load_state_dict(state["averaged"])
        critic_rate, generator_rate = state.get("learning_rates", (None, None))  # earlier versions had constant ones
        self._generator_player.load_optimizer(state["generator_optimizer"], generator_rate)
        self._critic_player.load_optimizer(state["critic_optimizer"], critic_rate)
        self._batches.load_state_dict(state["batches"])
        histories = [player.history for player in self._players]
        for history, stored in zip(filter(None, histories), state["past"], strict=True):
            history.load_state_dict(stored)
        scales = [player.loss_scale for player in self._players]
        if state.get("loss_scales"):  # checkpoints of earlier versions lack them
            for scale, stored in zip(filter(None, scales), state["loss_scales"], strict=True):
                scale.load_state_dict(stored)
        for purpose, stream in self._streams.items() if self.has_streams_of(state) else ():
            stream.set_state(state["streams"][purpose].cpu())
        if "gradient_rules" in state:  # checkpoints of earlier versions lack them
            self._rules.load_state_dict(state["gradient_rules"])
        latest = state.get("latest_terms", {})  # checkpoints of earlier versions lack them
        self._objective.latest = {index: value.to(self.device, copy=True) for index, value in latest.items()}
        self.step = int(state["step"])
        self._updates_so_far = self._updates_until(self.step)
        restarted_at = self._settings.freeze_generator_at if self._is_generator_frozen else None
        self._updates_before_restart = self._updates_until(restarted_at or 0)
        if self._graphed:
            self._graphed.reset()

    def _updates_until(self, step: int) -> int:
        """Return the number of critic updates of the steps before a step."""
        return updates_in(self._critic_updates, self._settings.n_critic, range(step))


def _store(slots: Sequence[Tensor], tensors: Sequence[Tensor], *, in_place: bool) -> list[Tensor]:
    """Return `tensors`; or, if CUDA graphs use them, the `slots` with copies of them in the first ones.

    The copies stay in the same slots at each call. Slots are added if there are more tensors.
    """
    if not in_place:
        return list(tensors)
    for slot, tensor in zip(slots, tensors, strict=False):
        slot.copy_(tensor)
    return [*slots, *(tensor.clone() for tensor in tensors[len(slots) :])]


def _graph_obstacle(settings: TrainerSettings, replicas: Replicas, stabiliser: Stabiliser) -> str | None:
    """Return why iterations cannot be captured in a graph: they differ by more than batches and random numbers."""
    if replicas.size > 1:
        return "several processes exchange gradients"
    if settings.freeze_generator_at is not None:
        return "the generator is frozen at some step"
    augments = stabiliser.augment_input is not Stabiliser().augment_input
    if (augments and stabiliser.uses_step) or stabiliser.history_weight:
        return "the stabiliser depends on the step"
    return None


def _compilation_obstacle(replicas: Replicas, stabiliser: Stabiliser, objective: CriticObjective) -> str | None:
    """Return why the critic's gradient must not be compiled, or None."""
    if replicas.size > 1:
        return "several processes exchange critic outputs"
    if stabiliser.history_weight:
        return "the stabiliser adds a loss on the weights"
    if any(term.is_lazy for term in objective.terms):
        return "a gradient term is not part of every update"
    return None
