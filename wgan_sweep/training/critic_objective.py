"""The critic's objective: its loss and gradient terms, computed with as few forward passes as possible.

If a sampling scheme r(x) selects examples from the batch without changing them, the forward pass of its gradient term
also gives the critic outputs of the loss. Otherwise, real and fake examples take one pass together, unless the critic's
outputs depend on the rest of the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wgan_sweep.objectives import gradient_terms
from wgan_sweep.objectives.gradient_terms import Critic, CriticPass, GradientTerm
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.sampling import pool_splitter
from wgan_sweep.training.aliases import Metrics
from wgan_sweep.training.replicas import Replicas


class CriticBatches(NamedTuple):
    """The batches that the critic is applied to in one update."""

    batches: tuple[Tensor, ...]
    """``[N, ...]`` each: two with all real and fake examples, then the points of gradient terms at other examples."""
    term_batches: tuple[int, ...]
    """For each gradient term, the index of the batch that holds its points."""
    order: Tensor | None
    """``[2 N]``: ``torch.cat(batches[:2])[order]`` is real then fake examples; None if they are in that order."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, for a function that is compiled for their shapes."""
        return self.batches if self.order is None else (*self.batches, self.order)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "CriticBatches":
        """Return the same structure with other tensors, given as in `tensors`."""
        count = len(self.batches)
        return CriticBatches(tuple(tensors[:count]), self.term_batches, None if self.order is None else tensors[count])


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
        self._may_mix_examples = per_example

    def prepare(self, real: Tensor, fake: Tensor, stream: torch.Generator) -> CriticBatches:
        """Draw the points of all gradient terms, and arrange the batches that the critic is applied to.

        Args:
            real: ``[N, ...]``.
            fake: ``[N, ...]``.
            stream: Draws the points.
        """
        batches, order, split_term = [real, fake], None, None
        for index, term in enumerate(self.terms if self._may_mix_examples else ()):
            if split := pool_splitter(term.sampling):
                split_term = index
                *batches, order = split(real, fake, stream)
                break
        term_batches = []
        for index, term in enumerate(self.terms):
            points = batches[0] if index == split_term else term.sampling(real, fake, stream)
            if not any(batch is points for batch in batches):
                batches.append(points)
            term_batches.append(next(i for i, batch in enumerate(batches) if batch is points))
        return CriticBatches(tuple(batches), tuple(term_batches), order)

    def loss_and_metrics(self, batches: CriticBatches, critic: Critic, eager_critic: Critic) -> tuple[Tensor, Metrics]:
        """Return the objective (scalar) and its detached metrics.

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
            "gradient_term": torch.zeros_like(loss),
        }
        for term, index in zip(self.terms, batches.term_batches, strict=True):
            term_value = self._replicas.reduce_term(gradient_terms.evaluate_term(passes[index], term.psi))
            loss = loss + term_value.loss
            metrics["critic_loss"] = metrics["critic_loss"] + term_value.value
            metrics["gradient_term"] = metrics["gradient_term"] + term_value.value
            metrics["gradient_norm"] = term_value.norms.mean()
        return loss, metrics

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
