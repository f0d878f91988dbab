"""Iterations as CUDA graphs: captured once, then replayed without a launch per operation.

What an iteration reads anew each time (the batches) has a fixed place that is filled before; random numbers go on in
the generators that the graph knows. A graph is believed only after one iteration by it and one without it, from the
same state, have led to the same weights; else, or where capturing fails, iterations go on without.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Values = dict[str, Tensor]
Work = Callable[[], Values]

WARM_UP = 3
"""Iterations before the capture: libraries choose their kernels, optimizers make their state."""
AGREEMENT = 1e-2
"""Largest relative difference of the weights' changes with and without the graph: kernels may add up in any order."""


class Graph(Protocol):
    """A recording of work on a device."""

    def capture(self, work: Work) -> Values:
        """Record work without doing it; return where its results will be."""

    def replay(self) -> None:
        """Do the work again."""

    def warm(self, work: Work) -> Values:
        """Do work as it must be done before a capture."""


class CudaGraph:
    """A CUDA graph that knows generators."""

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self._generators = list(generators)
        self._device = self._generators[0].device
        self._graph = torch.cuda.CUDAGraph()

    def warm(self, work: Work) -> Values:
        """Do work on a stream beside the current one, as capturing wants it."""
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                values = work()
            torch.cuda.current_stream().wait_stream(aside)
            return values

    def capture(self, work: Work) -> Values:
        """Record work; other threads may go on asking CUDA for memory, as those that read ahead do."""
        for generator in self._generators:
            self._graph.register_generator_state(generator)
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(self._graph, capture_error_mode="thread_local"),
        ):
            return work()

    def replay(self) -> None:
        """Do the work again."""
        with torch.cuda.device(self._device):
            self._graph.replay()


class GraphedIteration:
    """Does the same work again and again, by a graph as soon as there is one.

    Args:
        graph: Makes an empty graph.
        state: All tensors that the work changes and reads again, in place: weights, and others.
        generators: All generators that it draws from.
    """

    def __init__(
        self,
        graph: Callable[[], Graph],
        state: Callable[[], tuple[list[Tensor], list[Tensor]]],
        generators: Sequence[torch.Generator],
    ) -> None:
        self._make, self._state, self._generators = graph, state, generators
        self._graph: Graph | None = None
        self._made: Values = {}
        self._left = WARM_UP
        self.why_not: str | None = None
        """Why there is no graph after all."""

    @property
    def is_replaying(self) -> bool:
        """Whether work is done by a graph."""
        return bool(self._made)

    def forget(self) -> None:
        """Begin anew: the tensors of the state are others."""
        self._graph, self._made, self._left = None, {}, WARM_UP

    def __call__(self, work: Work) -> Values:
        """Do the work once; return its results, which are nobody else's."""
        if self.why_not:
            return work()
        if self._graph is None:
            self._graph = self._make()
        if self._left:
            self._left -= 1
            return self._graph.warm(work)
        if not self._made:
            return self._try(work)
        self._graph.replay()
        return self._results()

    def _results(self) -> Values:
        together = torch.stack(list(self._made.values())).clone()
        return dict(zip(self._made, together.unbind(), strict=True))

    def _try(self, work: Work) -> Values:
        """Capture, and compare an iteration by the graph with one without; without, if anything is wrong."""
        weights, others = self._state()
        state = weights + others
        before, seeds = [t.detach().clone() for t in state], [g.get_state() for g in self._generators]
        try:
            self.why_not = self._record(work, state, len(weights), before, seeds)
        except RuntimeError as error:  # which running out of memory is, too
            self.why_not = f"capturing failed: {str(error).splitlines()[0]}"
        if self.why_not is None:
            return self._results()
        self._graph, self._made = None, {}  # its memory goes with it
        self._put(state, before, seeds)
        return work()

    def _record(
        self, work: Work, state: Sequence[Tensor], weights: int, before: Sequence[Tensor], seeds: Sequence[Tensor]
    ) -> str | None:
        """Capture; return why an iteration by the graph is not one without it, or None; one is then done."""
        if self._graph is None:
            return "there is none"
        self._made = self._graph.capture(work)
        self._put(state, before, seeds)  # nothing was done; if it was after all, it was not by a graph
        work()
        wanted, after = [t.detach().clone() for t in state[:weights]], [g.get_state() for g in self._generators]
        self._put(state, before, seeds)
        self._graph.replay()
        what = "an iteration by the graph is not one without it: "
        if not all(torch.equal(g.get_state(), s) for g, s in zip(self._generators, after, strict=True)):
            return what + "it draws other random numbers"
        off = relative_difference(state[:weights], wanted, before[:weights])
        return None if off <= AGREEMENT else what + f"the weights' changes differ by {off:.1e}"

    def _put(self, state: Sequence[Tensor], values: Sequence[Tensor], seeds: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(state, values, strict=True):
                tensor.copy_(value)
        for generator, seed in zip(self._generators, seeds, strict=True):
            generator.set_state(seed)


@torch.no_grad()
def relative_difference(
    found: Sequence[Tensor], wanted: Sequence[Tensor], before: Sequence[Tensor] | None = None
) -> float:
    """Return the norm of `found` - `wanted` over that of `wanted`, or of its change since `before`, all together."""
    off = size = 0.0
    for index, (f, w) in enumerate(zip(found, wanted, strict=True)):
        off += float((f - w).double().square().sum())
        size += float((w if before is None else w - before[index]).double().square().sum())
    return float((off / size) ** 0.5) if size else float(off > 0)
