"""The critic's objective: its loss and gradient terms, computed with as few forward passes as possible.

If a sampling scheme r(x) selects examples from the batch without changing them, the forward pass of its gradient term
also gives the critic outputs of the loss. Otherwise, real and fake examples take one pass together, unless the critic's
outputs depend on the rest of the batch.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wgan_sweep.objectives import gradient_terms
from wgan_sweep.objectives.gradient_terms import Critic, CriticPass, GradientTerm, TermValue
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.sampling import pool_splitter
from wgan_sweep.training.aliases import Metrics
from wgan_sweep.training.replicas import Replicas


class CriticBatches(NamedTuple):
    """The batches that the critic is applied to in one update."""

    batches: tuple[Tensor, ...]
    """``[N, ...]`` each: two with all real and fake examples, then the points of gradient terms at other examples."""
    terms: tuple[int, ...]
    """The indices of the gradient terms that are part of the update."""
    term_batches: tuple[int, ...]
    """For each of these terms, the index of the batch that holds its points."""
    order: Tensor | None
    """``[2 N]``: ``torch.cat(batches[:2])[order]`` is real then fake examples; None if they are in that order."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, for a function that is compiled for their shapes."""
        return self.batches if self.order is None else (*self.batches, self.order)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "CriticBatches":
        """Return the same structure with other tensors, given as in `tensors`."""
        count = len(self.batches)
        order = None if self.order is None else tensors[count]
        return self._replace(batches=tuple(tensors[:count]), order=order)


class CriticObjective:
    """The critic's loss plus all gradient terms.

    Args:
        loss: The loss, with its gradient terms.
        terms: Gradient terms of the constraint.
        replicas: The processes that share each batch.
        per_example: Whether the critic's output for an example is independent of the rest of its batch, so that real
            and fake examples may be mixed in one batch.
        critic_pass: Applies the critic to the points of gradient terms.
    """

    def __init__(
        self,
        loss: Loss,
        terms: Sequence[GradientTerm],
        replicas: Replicas,
        *,
        per_example: bool,
        critic_pass: Callable[[Critic, Tensor], CriticPass] = gradient_terms.critic_pass,
    ) -> None:
        self._loss, self._replicas, self._critic_pass = loss.critic, replicas, critic_pass
        self.terms = (*loss.terms, *terms)
        self._names = _distinct([t.name or "loss" for t in loss.terms] + [t.name or "constraint" for t in terms])
        self._may_mix_examples = per_example
        self.latest: dict[int, Tensor] = {}
        """For each lazy term, by its index, its latest value and mean gradient norm, ``[2]``."""

    def terms_at(self, update: int) -> tuple[int, ...]:
        """Return the indices of the gradient terms that are part of a critic update; the first one has number 0."""
        return tuple(index for index, term in enumerate(self.terms) if update % term.every == 0)

    def prepare(
        self, real: Tensor, fake: Tensor, stream: torch.Generator, terms: Sequence[int] | None = None
    ) -> CriticBatches:
        """Draw the points of gradient terms, and arrange the batches that the critic is applied to.

        Args:
            real: ``[N, ...]``.
            fake: ``[N, ...]``.
            stream: Draws the points.
            terms: The indices of the gradient terms that are part of the update; None: all.
        """
        terms = range(len(self.terms)) if terms is None else terms
        batches, order, split_term = [real, fake], None, None
        for index in terms if self._may_mix_examples else ():
            if split := pool_splitter(self.terms[index].sampling):
                split_term = index
                *batches, order = split(real, fake, stream)
                break
        term_batches = []
        for index in terms:
            points = batches[0] if index == split_term else self.terms[index].sampling(real, fake, stream)
            if not any(batch is points for batch in batches):
                batches.append(points)
            term_batches.append(next(i for i, batch in enumerate(batches) if batch is points))
        return CriticBatches(tuple(batches), tuple(terms), tuple(term_batches), order)

    def loss_and_metrics(self, batches: CriticBatches, critic: Critic, eager_critic: Critic) -> tuple[Tensor, Metrics]:
        """Return the objective (scalar) and its detached metrics.

        A lazy term counts with its own weight in the metrics, and in updates without it, with its latest value.

        Args:
            batches: Whole batches; the critic is applied to this process's shards of them.
            critic: From ``[N, ...]`` to ``[N]`` critic outputs.
            eager_critic: The same function, not compiled: used for double backward.
        """
        passes: dict[int, CriticPass] = {}
        for index in batches.term_batches:
            if index not in passes:
                shard = self._replicas.local_shard(batches.batches[index])
                passes[index] = self._critic_pass(eager_critic, shard)
        outputs = [self._replicas.all_gather(shard) for shard in self._outputs(batches, passes, critic)]
        if batches.order is not None:
            outputs = list(torch.cat(outputs)[batches.order].chunk(2))
        real_outputs, fake_outputs = outputs
        loss = self._loss(real_outputs, fake_outputs)
        metrics = {
            "critic_loss": loss.detach(),
            "wasserstein": (real_outputs.mean() - fake_outputs.mean()).detach(),
        }
        values: dict[int, TermValue] = {}
        for index, batch in zip(batches.terms, batches.term_batches, strict=True):
            term = self.terms[index]
            values[index] = value = self._replicas.reduce_term(gradient_terms.evaluate_term(passes[batch], term.psi))
            loss = loss + (term.every * value.loss if term.is_lazy else value.loss)
        return loss, metrics | self._term_metrics(metrics["critic_loss"], values)

    def _term_metrics(self, critic_loss: Tensor, values: Mapping[int, TermValue]) -> Metrics:
        """Return the metrics of the gradient terms, and the critic's loss with them.

        Args:
            critic_loss: The loss without gradient terms.
            values: The values of the terms that are part of the update, by their indices.
        """
        total, norms = torch.zeros_like(critic_loss), list[Tensor]()
        by_term: Metrics = {}
        for index, (name, term) in enumerate(zip(self._names, self.terms, strict=True)):
            if index in values:
                value, norm = values[index].value, values[index].norms.mean()
                if term.is_lazy:
                    self._keep_latest(index, torch.stack([value, norm]))
            else:
                value, norm = self.latest[index].clone()  # a later update changes it in place
            critic_loss, total = critic_loss + value, total + value
            norms.append(norm)
            by_term |= {f"gradient_term_{name}": value, f"gradient_norm_{name}": norm}
        metrics = {"critic_loss": critic_loss, "gradient_term": total}
        if norms:
            metrics["gradient_norm"] = norms[0] if len(norms) == 1 else torch.stack(norms).mean()
        return metrics | by_term if len(norms) > 1 else metrics

    def _keep_latest(self, index: int, latest: Tensor) -> None:
        """Keep the latest value of a lazy term, in the same tensor at each call: a CUDA graph may write to it."""
        if index in self.latest:
            self.latest[index].copy_(latest)
        else:
            self.latest[index] = latest

    def _outputs(self, batches: CriticBatches, passes: Mapping[int, CriticPass], critic: Critic) -> list[Tensor]:
        """Return the critic's outputs for this process's shards of the first two batches.

        Outputs of gradient terms are used again; else both batches take one pass if they may be mixed.
        """
        shards = [self._replicas.local_shard(batch) for batch in batches.batches[:2]]
        if self._may_mix_examples and not passes.keys() & {0, 1}:
            return list(critic(torch.cat(shards)).split([len(shard) for shard in shards]))
        return [passes[i].outputs if i in passes else critic(shard) for i, shard in enumerate(shards)]

    def evaluate(self, real: Tensor, fake: Tensor, critic: Critic, stream: torch.Generator) -> Tensor:
        """Return the value of the objective (scalar, detached), in this process alone.

        Args:
            real: ``[N, ...]``.
            fake: ``[N, ...]``.
            critic: From ``[N, ...]`` to ``[N]`` critic outputs.
            stream: Draws the points of the gradient terms.
        """
        with torch.no_grad():
            value = self._loss(critic(real), critic(fake))
            for term in self.terms:
                gradient = gradient_terms.input_gradient(critic, term.sampling(real, fake, stream))
                value = value + term.psi(gradient_terms.per_example_norm(gradient)).mean()
        return value


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with numbers after those that occur several times."""
    counts = Counter(names)
    numbers = {name: itertools.count(1) for name in counts}
    return [f"{name}_{next(numbers[name])}" if counts[name] > 1 else name for name in names]
