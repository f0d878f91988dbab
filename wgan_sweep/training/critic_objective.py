"""What a critic minimises: its loss, and gradient terms, which share the passes of the scores where they can.

Where r(x) is a choice of examples as they are, their scores come from the pass that the term is taken of: two passes
per update instead of three.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wgan_sweep.objectives import gradient_terms
from wgan_sweep.objectives.gradient_terms import Critic, CriticPass, GradientTerm
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.objectives.sampling import pool_split
from wgan_sweep.training.cuda_graphs import Values
from wgan_sweep.training.replicas import Replicas


class Layout(NamedTuple):
    """What the critic sees in one update."""

    batches: tuple[Tensor, ...]
    """``[N, ...]`` each: two that hold all examples, then the points of gradient terms that look elsewhere."""
    looked_at: tuple[int, ...]
    """For each gradient term, which of them it looks at."""
    places: Tensor | None
    """Where the real examples are, then the fake ones, in the first two, one after the other; None: in that order."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that differs from one update to the next."""
        return self.batches if self.places is None else (*self.batches, self.places)

    def of(self, tensors: Sequence[Tensor]) -> "Layout":
        """Return the same layout of others."""
        count = len(self.batches)
        return Layout(tuple(tensors[:count]), self.looked_at, None if self.places is None else tensors[count])


class CriticObjective:
    """What a critic minimises.

    Args:
        loss: Of the scores, with its gradient terms.
        terms: More gradient terms.
        replicas: The processes that share each batch.
        per_example: Whether the critic scores each example by itself: may real and fake ones be in one batch?
    """

    def __init__(self, loss: Loss, terms: Sequence[GradientTerm], replicas: Replicas, *, per_example: bool) -> None:
        self._loss, self._replicas = loss.critic, replicas
        self.terms = (*loss.terms, *terms)
        self._may_mix = per_example

    def lay_out(self, real: Tensor, fake: Tensor, stream: torch.Generator) -> Layout:
        """Draw the points of all gradient terms, and put beside each other what the critic must see."""
        batches, places, mixed = [real, fake], None, None
        for index, term in enumerate(self.terms if self._may_mix else ()):
            if split := pool_split(term.sampling):
                mixed = index
                *batches, places = split(real, fake, stream)
                break
        looked_at = []
        for index, term in enumerate(self.terms):
            points = batches[0] if index == mixed else term.sampling(real, fake, stream)
            if not any(batch is points for batch in batches):
                batches.append(points)
            looked_at.append(next(i for i, batch in enumerate(batches) if batch is points))
        return Layout(tuple(batches), tuple(looked_at), places)

    def at(self, layout: Layout, score: Critic, score_for_gradients: Critic) -> tuple[Tensor, Values]:
        """Return what is minimised, a scalar, and what there is to say of it.

        Args:
            layout: What the critic sees.
            score: From this process's share of a batch ``[N, ...]`` to its ``[N]`` scores.
            score_for_gradients: The same, by the layers as they are.
        """
        looks: dict[int, CriticPass] = {}
        for index in layout.looked_at:
            if index not in looks:
                looks[index] = gradient_terms.critic_pass(
                    score_for_gradients, self._replicas.local_shard(layout.batches[index])
                )
        scores = [
            self._replicas.all_gather(
                looks[i].scores if i in looks else score(self._replicas.local_shard(layout.batches[i]))
            )
            for i in range(2)
        ]
        if layout.places is not None:
            scores = list(torch.cat(scores)[layout.places].chunk(2))
        real_scores, fake_scores = scores
        loss = self._loss(real_scores, fake_scores)
        values = {
            "critic_loss": loss.detach(),
            "wasserstein": (real_scores.mean() - fake_scores.mean()).detach(),
            "gradient_term": torch.zeros_like(loss),
        }
        for term, index in zip(self.terms, layout.looked_at, strict=True):
            found = self._replicas.reduce_term(gradient_terms.evaluate(looks[index], term.psi))
            loss = loss + found.objective
            values["critic_loss"] = values["critic_loss"] + found.value
            values["gradient_term"] = values["gradient_term"] + found.value
            values["gradient_norm"] = found.norms.mean()
        return loss, values

    def value(self, real: Tensor, fake: Tensor, score: Critic, stream: torch.Generator) -> Tensor:
        """Return what is minimised, a scalar, without a graph and by passes of its own.

        Args:
            real: ``[N, ...]``.
            fake: ``[N, ...]``.
            score: From ``[N, ...]`` to ``[N]`` scores.
            stream: Draws the points of gradient terms.
        """
        with torch.no_grad():
            loss = self._loss(score(real), score(fake))
            for term in self.terms:
                gradient = gradient_terms.input_gradient(score, term.sampling(real, fake, stream))
                loss = loss + term.psi(gradient_terms.per_example_norm(gradient)).mean()
        return loss
