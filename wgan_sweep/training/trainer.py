"""Training as an iterator: one item per generator update; the caller decides what happens in between."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.common.images import to_uint8
from wgan_sweep.objectives import gradient_terms
from wgan_sweep.objectives.constraints import Constraint
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.sampling import real_fake
from wgan_sweep.objectives.stabilisers import PastMean, Stabiliser
from wgan_sweep.training import optimizers
from wgan_sweep.training.compilation import CompiledGradient, CompiledNetwork
from wgan_sweep.training.critic_objective import CriticObjective, Layout
from wgan_sweep.training.cuda_graphs import Graph, GraphedIteration
from wgan_sweep.training.precision import Precision
from wgan_sweep.training.replicas import Replicas

Z_BLOCK = 256
"""How many z a sampler draws at once."""

Network = Callable[[Tensor], Tensor]
MakeGraph = Callable[[list[torch.Generator]], Graph]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class RealExamples(Protocol):
    """An endless source of real batches that can be resumed."""

    batch_size: int

    def next_raw(self) -> Tensor:
        """Return what the next batch is made of, on the device."""

    def decode(self, raw: Tensor) -> Tensor:
        """Return the batch ``[batch_size, ...]`` made of what `next_raw` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


class Trainer:
    """Critic and generator, trained against each other.

    Everything random comes from generators of this object, everything that a later step depends on is in
    `state_dict`; nothing here touches a disk, a config or a tracker.

    Args:
        generator: ``[N, latent_dim]`` to ``[N, ...]``, on `device`.
        critic: ``[N, ...]`` to ``[N]`` scores, on `device`, already wrapped by its constraint.
        loss: What both minimise.
        constraint: What bounds the critic.
        stabiliser: What else acts on training.
        generator_optimizer: Makes the generator's optimizer from its parameters.
        critic_optimizer: Makes the critic's.
        batches: Real examples.
        latent_dim: Size of z, standard normal.
        n_critic: Critic updates per generator update.
        ema: Decay of the averaged generator per update, below 1; 0 turns averaging off. Early on the decay is
            (1 + step) / (10 + step) where that is lower, so that the initial weights are forgotten.
        seed: Seeds noise and r(x).
        device: Where all tensors are.
        precision: Context that the networks run in.
        finish: From what the generator makes to what is shown and scored.
        compile_networks: Whether ``torch.compile`` makes the networks' passes, and the critic's whole gradient where
            it has gradient terms.
        freeze_generator_at: From this step on the generator stands still, and a critic that starts from scratch (its
            first weights, an optimizer without memory) is trained against it; None: never.
        simultaneous: Whether the generator's gradient is taken before the critic's updates of the step, so that both
            players move from the same point, instead of after them.
        replicas: The processes that share each batch; by default this one alone. The networks are adapted to them.
        graph: Makes a graph that iterations are captured in, where they can be; None: they are not.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        critic: nn.Module,
        loss: Loss,
        constraint: Constraint,
        stabiliser: Stabiliser,
        generator_optimizer: MakeOptimizer,
        critic_optimizer: MakeOptimizer,
        batches: RealExamples,
        latent_dim: int,
        n_critic: int,
        ema: float,
        seed: int,
        device: torch.device,
        precision: Precision,
        finish: Callable[[Tensor], Tensor] = to_uint8,
        compile_networks: bool = False,
        freeze_generator_at: int | None = None,
        simultaneous: bool = False,
        replicas: Replicas | None = None,
        graph: MakeGraph | None = None,
    ) -> None:
        self._replicas = replicas = replicas or Replicas()
        self.generator = generator = replicas.use_global_batch_norm(generator)
        self.critic = critic = replicas.use_global_batch_norm(critic)
        self.averaged = copy.deepcopy(generator).requires_grad_(requires_grad=False).eval()
        self.step = 0
        self._plain_generator: Network = generator
        self._plain_critic: Network = critic
        self._compiled: dict[str, CompiledNetwork | CompiledGradient] = {}
        if compile_networks:
            self._plain_generator = self._compiled["generator"] = CompiledNetwork("the generator", generator)
            self._plain_critic = self._compiled["critic"] = CompiledNetwork("the critic", critic)
        self._loss = loss = stabiliser.loss(loss)
        self._constraint = constraint
        self._past = [PastMean(network.parameters()) for network in (critic, generator)] if stabiliser.pull else []
        self._stabiliser = stabiliser
        self._generator_optimizer = optimizers.configure_for_device(
            generator_optimizer(generator.parameters()), bool(graph)
        )
        self._make_critic_optimizer = critic_optimizer
        self._critic_optimizer = optimizers.configure_for_device(critic_optimizer(critic.parameters()), bool(graph))
        self._freeze_at = freeze_generator_at
        self._first_critic = None if freeze_generator_at is None else copy.deepcopy(critic.state_dict())
        self._simultaneous = simultaneous
        self._batches = batches
        self._latent_dim = latent_dim
        self._n_critic = n_critic
        self._ema = ema
        self._seed = seed
        self.device = device
        self._precision = precision
        self._finish = finish
        self._streams = {
            purpose: rng.generator(seed, purpose, device=device) for purpose in ("noise", "points", "stabiliser")
        }
        why = gradient_terms.batch_dependence(critic)
        self._objective = CriticObjective(loss, constraint.terms, replicas, per_example=why is None)
        self.batch_dependence = why if self._objective.terms else None
        self._compiled_gradient: CompiledGradient | None = None
        if compile_networks and self._objective.terms:
            shared = "several processes exchange scores" if replicas.size > 1 else None
            pulled = "the stabiliser pulls at the weights" if stabiliser.pull else None
            self._compiled_gradient = CompiledGradient(
                "the critic's gradient", critic, precision.scale, shared or pulled
            )
            self._compiled["critic's gradient"] = self._compiled_gradient
        self._last: tuple[Tensor, Tensor] | None = None
        self._drawn: list[Tensor] = []
        self._why_no_graph = self._why_iterations_differ() if graph else "for a GPU, and graphs=true"
        self._replayed: GraphedIteration | None = None
        if graph and not self._why_no_graph:
            generators = list(self._streams.values())
            self._replayed = GraphedIteration(lambda: graph(generators), self._changed, generators)

    @property
    def images_seen(self) -> int:
        """Real examples that the critic has been shown."""
        return self.step * self._n_critic * self._batches.batch_size

    def steps(self, until: int) -> Iterator[dict[str, Tensor]]:
        """Train on to generator update `until`, one update per item.

        Yields:
            Scalars on the device: critic_loss (with its gradient terms), generator_loss, wasserstein
            (E_real[T] - E_fake[T]), gradient_term, and gradient_norm where a term looked at it.
        """
        while self.step < until:
            with self._precision.step(), self._replicas.sharded():
                values = self._advance()
            yield values

    def _advance(self) -> dict[str, Tensor]:
        if self.step == self._freeze_at:
            self._restart_critic()
        self._draw()
        values = self._replayed(self._iterate) if self._replayed else self._iterate()
        self.step += 1
        self._update_average()
        return values

    def _draw(self) -> None:
        """Put what the iteration's real batches are made of where it looks for them."""
        drawn = [self._batches.next_raw() for _ in range(self._n_critic)]
        if self._replayed and self._drawn:
            for place, one in zip(self._drawn, drawn, strict=True):
                place.copy_(one)
        else:
            self._drawn = [one.clone() for one in drawn] if self._replayed else drawn

    def _iterate(self) -> dict[str, Tensor]:
        """Update the critic `n_critic` times, and the generator, with what was drawn."""
        values: dict[str, Tensor] = {}
        if self._simultaneous:
            values = self._compute_generator_gradient()
        for drawn in self._drawn:
            values |= self._update_critic(self._batches.decode(drawn))
        if not self._simultaneous:
            values |= self._compute_generator_gradient()
        if not self._is_frozen:
            self._follow(self._generator_optimizer, self._past[1:])
        return values

    def _why_iterations_differ(self) -> str | None:
        """Return why one iteration is not what another is, or None where only the batches and the noise change."""
        if self._replicas.size > 1:
            return "several processes exchange gradients"
        if self._freeze_at is not None:
            return "the generator will stand still"
        if self._simultaneous:
            return "an iteration begins with the last one's batch"
        if self._stabiliser.view is not Stabiliser().view or self._stabiliser.pull:
            return "the stabiliser depends on the step"
        return None

    def _changed(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return all tensors that an iteration changes, and the next one reads: weights, and others."""
        weights: list[Tensor] = [*self.critic.parameters(), *self.generator.parameters()]
        both = (self._critic_optimizer, self._generator_optimizer)
        states = [v for o in both for s in o.state.values() for v in s.values() if isinstance(v, Tensor)]
        return weights, [*self.critic.buffers(), *self.generator.buffers(), *states]

    @property
    def how(self) -> dict[str, str]:
        """What was chosen for the device, and why: the record of a run holds it."""
        chosen = {"precision": ", ".join(filter(None, (self._precision.name, self._precision.why)))}
        why_not = self._why_no_graph or (self._replayed.why_not if self._replayed else None)
        chosen["iterations"] = "a CUDA graph"
        if why_not or not (self._replayed and self._replayed.is_replaying):
            chosen["iterations"] = f"one by one (no CUDA graph: {why_not or 'too early'})"
        return chosen | {what: one.how for what, one in self._compiled.items()}

    @property
    def _is_frozen(self) -> bool:
        return self._freeze_at is not None and self.step >= self._freeze_at

    def _restart_critic(self) -> None:
        self.critic.load_state_dict(self._first_critic or {})
        self._critic_optimizer = optimizers.configure_for_device(
            self._make_critic_optimizer(self.critic.parameters()), self._replayed is not None
        )
        self._past[:1] = [PastMean(self.critic.parameters()) for _ in self._past[:1]]

    def _z(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(count, self._latent_dim, generator=stream, device=self.device, dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.generator.parameters()).dtype

    def _seen(self, batch: Tensor) -> Tensor:
        return self._stabiliser.view(batch, self.step, self._streams["stabiliser"])

    def _applied(self, network: Network, batch: Tensor) -> Tensor:
        """Apply a network in the run's precision; the result is float32 at least."""
        with self._precision.forward():
            result = network(batch)
        return result.to(torch.promote_types(result.dtype, torch.float32))

    def _score(self, batch: Tensor) -> Tensor:
        """Return ``[N]`` scores."""
        return self._applied(self._plain_critic, batch)

    def _score_for_gradients(self, batch: Tensor) -> Tensor:
        """Return ``[N]`` scores by the layers as they are."""
        return self._applied(self.critic, batch)

    def _generate(self) -> Tensor:
        z = self._z(self._batches.batch_size, self._streams["noise"])
        return self._replicas.all_gather(self._applied(self._plain_generator, self._replicas.local_shard(z)))

    def _update_critic(self, real: Tensor) -> dict[str, Tensor]:
        real = self._seen(real.to(self._dtype))
        with torch.no_grad():
            fake = self._seen(self._generate())
        layout = self._objective.lay_out(real, fake, self._streams["points"])
        values = self._compute_critic_gradient(layout)
        self._follow(self._critic_optimizer, self._past[:1])
        self._constraint.project(self.critic)
        self._keep(real, fake)
        return values

    def _compute_critic_gradient(self, layout: Layout) -> dict[str, Tensor]:
        def objective(tensors: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            return self._objective.at(layout.of(tensors), self._score_for_gradients, self._score_for_gradients)

        if self._compiled_gradient and (found := self._compiled_gradient(objective, layout.tensors)):
            return found
        wanted, values = self._objective.at(layout, self._score, self._score_for_gradients)
        self._differentiate(self._critic_optimizer, wanted, self._past[:1])
        return values

    def _keep(self, real: Tensor, fake: Tensor) -> None:
        """Keep the last batch; where iterations are replayed, in a place of its own, which a graph fills again."""
        if self._replayed is None:
            self._last = real, fake
        elif self._last is None:
            self._last = real.clone(), fake.clone()
        else:
            for kept, one in zip(self._last, (real, fake), strict=True):
                kept.copy_(one)

    def _differentiate(self, optimizer: torch.optim.Optimizer, objective: Tensor, past: list[PastMean]) -> None:
        """Find a player's gradient: one backward."""
        for mean in past:
            objective = objective + self._replicas.per_replica(self._stabiliser.pull * mean.distance())
        optimizer.zero_grad()
        (objective * self._precision.scale).backward()
        self._replicas.all_reduce_gradients(p for group in optimizer.param_groups for p in group["params"])
        if self._precision.scale != 1:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(gradients, self._precision.scale)

    def _follow(self, optimizer: torch.optim.Optimizer, past: list[PastMean]) -> None:
        """Move a player along its gradient."""
        optimizers.update(optimizer)
        for mean in past:
            mean.update()

    def _compute_generator_gradient(self) -> dict[str, Tensor]:
        self.critic.requires_grad_(requires_grad=False)
        try:
            real = None if self._last is None else self._last[0]
            loss = self._generator_loss(real, self._seen(self._generate()))
            self._differentiate(self._generator_optimizer, loss, self._past[1:])
        finally:
            self.critic.requires_grad_(requires_grad=True)
        return {"generator_loss": loss.detach()}

    def _generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        if self._stabiliser.match is not None and real is not None:
            with self._precision.forward():
                return self._stabiliser.match(self.critic, real, fake)
        return self._loss.generator(self._replicas.all_gather(self._score(self._replicas.local_shard(fake))))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._ema, (1 + self.step) / (10 + self.step))
        averaged: list[Tensor] = list(self.averaged.parameters())
        live: list[Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(averaged, live, 1 - decay)
        if buffers := list(self.averaged.buffers()):
            torch._foreach_copy_(buffers, list(self.generator.buffers()))

    def gradient_norm(self) -> Tensor:
        """Return the mean norm of the critic's gradient between the last batch's real and fake examples.

        For critics whose objective looks at no gradient. Draws from no stream of training.
        """
        if self._last is None:
            raise RuntimeError("gradient_norm() looks at the last batch: take a step first")
        points = real_fake(*self._last, rng.generator(self._seed, "probe", self.step, device=self.device))
        with self._precision.step():
            gradient = gradient_terms.input_gradient(self._score_for_gradients, points)
        return gradient_terms.per_example_norm(gradient).mean()

    def generator_gradient_norm(self, real: Tensor | None = None) -> Tensor:
        """Return the norm, over all parameters, of the gradient of what the generator minimises.

        Draws from no stream of training, and leaves no gradient; BatchNorm's running statistics stay.

        Args:
            real: Examples ``[N, ...]``, to go with as many generated ones; by default the last batch.
        """
        if real is None:
            if self._last is None:
                raise RuntimeError("generator_gradient_norm() looks at the last batch: take a step first, or give one")
            real = self._last[0]
        z = self._z(len(real), rng.generator(self._seed, "probe z", self.step, device=self.device))
        generator = copy.deepcopy(self.generator)
        with self._precision.step():
            loss = self._generator_loss(real.to(self.device, self._dtype), self._applied(generator, z))
            gradient = torch.autograd.grad(loss * self._precision.scale, list(generator.parameters()))
        return torch.nn.utils.get_total_norm(gradient) / self._precision.scale

    def score(self, points: Tensor) -> Tensor:
        """Return the critic's scores ``[N]`` of examples ``[N, ...]``, both on the CPU."""
        with self._precision.step():
            return self._score_for_gradients(points.to(self.device)).cpu()

    def critic_loss(self, real: Tensor, fake: Tensor) -> float:
        """Return what the critic minimises, with its gradient terms, at examples ``[N, ...]`` on the CPU.

        Draws from no stream of training, and leaves no gradient.
        """
        stream = rng.generator(self._seed, "probe", self.step, device=self.device)
        real, fake = real.to(self.device, self._dtype), fake.to(self.device, self._dtype)
        with self._precision.step():
            return float(self._objective.value(real, fake, self._score_for_gradients, stream))

    def sampler(self, purpose: str) -> Callable[[int], Tensor]:
        """Return a function from N to the next N finished samples of the averaged generator (uint8 images, or points).

        It draws z from the start of the stream (seed, `purpose`), so two samplers of one purpose give the same images
        at the same weights, in batches of any size. BatchNorm uses the running statistics of training. Nothing of
        training changes.
        """
        stream = rng.generator(self._seed, "sample", purpose, device=self.device)
        drawn = self._z(0, stream)

        @torch.no_grad()
        def sample(count: int) -> Tensor:
            nonlocal drawn
            while len(drawn) < count:  # a block at a time: what randn draws depends on how much is asked for
                drawn = torch.cat([drawn, self._z(Z_BLOCK, stream)])
            z, drawn = drawn[:count], drawn[count:]
            with self._precision.step():
                return self._finish(self._applied(self.averaged, z))

        return sample

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on: tensors, numbers and containers of them."""
        return {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "averaged": self.averaged.state_dict(),
            "generator_optimizer": self._generator_optimizer.state_dict(),
            "critic_optimizer": self._critic_optimizer.state_dict(),
            "batches": self._batches.state_dict(),
            "past": [mean.state_dict() for mean in self._past],
            "streams": {purpose: stream.get_state() for purpose, stream in self._streams.items()},
            # What the generator's gradient looks at before the step's own batches are drawn.
            "last": self._last if self._simultaneous else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up training where `state_dict` was called."""
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self.averaged.load_state_dict(state["averaged"])
        self._generator_optimizer.load_state_dict(state["generator_optimizer"])
        self._critic_optimizer.load_state_dict(state["critic_optimizer"])
        self._batches.load_state_dict(state["batches"])
        for mean, stored in zip(self._past, state["past"], strict=True):
            mean.load_state_dict(stored)
        for purpose, stream in self._streams.items():
            stream.set_state(state["streams"][purpose].cpu())
        if state["last"] is not None:
            self._last = state["last"][0].to(self.device), state["last"][1].to(self.device)
        self.step = int(state["step"])
        for optimizer in (self._critic_optimizer, self._generator_optimizer):
            optimizers.configure_for_device(optimizer, self._replayed is not None)  # the state may be of another device
        if self._replayed:
            self._replayed.forget()
