"""Training iterations captured in a CUDA graph, which is replayed without launching each kernel from Python.

Raw batches are copied into fixed tensors before each replay, and random numbers continue in the generators that are
registered with the graph. A captured graph is used only if replaying it gives the same weights as an eager iteration
from the same state. Otherwise, or if capturing fails, iterations stay eager.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from wgan_sweep.training.aliases import Metrics

Iteration = Callable[[], Metrics]
State = Callable[[], tuple[list[Tensor], list[Tensor]]]

WARM_UP_ITERATIONS = 3
"""Eager iterations before each capture, in which libraries choose their kernels and optimizers allocate their state."""
MAX_VARIANTS = 4
"""Number of variants of an iteration that are captured, each of which holds memory. Further ones stay eager."""
SPREAD_FACTOR = 4.0
"""Largest accepted difference between a replayed and an eager iteration, in differences between two eager ones.

Two eager iterations differ because kernels may sum in any order. All differences are of weight changes, and relative.
"""
MIN_ACCEPTED_DIFFERENCE = 1e-3
"""A difference that is accepted even if two eager iterations are equal."""
MAX_ACCEPTED_DIFFERENCE = 5e-2
"""A difference that is not accepted even if two eager iterations differ by as much."""


class Graph(Protocol):
    """A recording of an iteration on a device."""

    def run_eagerly(self, iteration: Iteration) -> Metrics:
        """Run an iteration eagerly, where the graph will be captured, and return its metrics."""

    def capture(self, iteration: Iteration) -> Metrics:
        """Record an iteration without running it, and return the tensors that each replay writes its metrics to."""

    def replay(self) -> None:
        """Run the recorded iteration."""

    def release_eager_memory(self) -> None:
        """Release the memory that eager iterations used, and replays do not."""


class CudaGraph:
    """A CUDA graph that draws from the given random number generators, which are all on one device.

    Eager iterations and the capture use one stream of the graph. The memory allocator keeps a pool per stream, and on
    a stream that graphs share, destroying one could free another's workspace.
    """

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self._generators = list(generators)
        self._device = self._generators[0].device
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(self._device)

    def run_eagerly(self, iteration: Iteration) -> Metrics:
        """Run an iteration on the graph's stream, as CUDA requires before a capture, and return its metrics."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                metrics = iteration()
            torch.cuda.current_stream().wait_stream(self._stream)
            return metrics

    def capture(self, iteration: Iteration) -> Metrics:
        """Record an iteration. Other threads (which prefetch batches) may allocate CUDA memory meanwhile.

        If that fails, the state of torch is as before, so that eager iterations can follow, and the iteration's own
        error is raised: leaving a capture that CUDA has made invalid raises another one, which does not tell the cause.
        """
        cause: BaseException | None = None
        with torch.cuda.device(self._device):
            if TorchVersion(torch.__version__) < "2.14":  # later versions find the generators during the capture
                for generator in self._generators:
                    self._graph.register_generator_state(generator)
            pool = torch.cuda.graph_pool_handle()
            stream = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(self._graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                    try:
                        return iteration()
                    except BaseException as error:
                        cause = error
                        raise
            except BaseException:
                torch.cuda.set_stream(stream)
                self._end_failed_capture(pool)
                if cause is not None:
                    raise cause from None
                raise
            finally:
                del cause  # it refers to this frame, and to the graph

    def _end_failed_capture(self, pool: tuple[int, int]) -> None:
        """End a capture for the memory allocator and the random number generators, on the current device.

        An operation that cannot be captured makes the capture invalid. Leaving it then raises before torch has told
        them that it ended: memory would go to the graph's pool, and the generators would refuse to draw.

        Args:
            pool: The graph's memory pool.
        """
        device = torch.cuda.current_device()
        self._graph.reset()
        with suppress(RuntimeError):  # if the allocator knows of the end, `reset` has released the pool
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
        for generator in (*self._generators, torch.cuda.default_generators[device]):
            generator.graphsafe_set_state(generator.clone_state())  # a clone takes part in no capture

    def replay(self) -> None:
        """Run the recorded iteration."""
        with torch.cuda.device(self._device):
            self._graph.replay()

    def release_eager_memory(self) -> None:
        """Return cached memory to the device."""
        torch.cuda.empty_cache()


@dataclass
class _Variant:
    """A variant of the iteration: its graph, and how far it is from being used."""

    graph: Graph
    warm_ups_left: int = WARM_UP_ITERATIONS
    static_metrics: Metrics = field(default_factory=dict)
    """The tensors that each replay writes its metrics to; empty before the capture."""


class GraphedIteration:
    """Runs an iteration repeatedly: first eagerly, then by replaying its captured graph.

    An iteration may have variants, which launch different kernels: each has a graph of its own.

    It refers to no owner of the iteration, so that the graph is freed with its owner.

    Args:
        make_graph: Returns an empty graph.
        generators: All random number generators that an iteration draws from.
    """

    def __init__(self, make_graph: Callable[[], Graph], generators: Sequence[torch.Generator]) -> None:
        self._make_graph, self._generators = make_graph, generators
        self.fallback_reason: str | None = None
        """Why iterations are eager for good; None before the capture and while the graph is used."""
        self.reset()

    def reset(self) -> None:
        """Start over with a new graph, because the tensors of the state have been replaced."""
        self._variants: dict[Hashable, _Variant] = {}

    def fall_back(self, reason: str) -> None:
        """Run all further iterations eagerly."""
        self.reset()  # frees the graph's memory
        self.fallback_reason = reason

    @property
    def is_replaying(self) -> bool:
        """Whether iterations are replayed from a graph; of variants, at least one."""
        return any(variant.static_metrics for variant in self._variants.values())

    def __call__(self, iteration: Iteration, state: State, name: Hashable = None) -> Metrics:
        """Run the iteration once and return its metrics, which later iterations do not overwrite.

        Args:
            iteration: The iteration.
            state: Returns all tensors that the iteration changes in place and the next one reads: weights, and others.
            name: Which variant of the iteration this is.
        """
        is_left_out = name not in self._variants and len(self._variants) == MAX_VARIANTS
        if self.fallback_reason or is_left_out:
            return iteration()
        if name not in self._variants:
            self._variants[name] = _Variant(self._make_graph())
        variant = self._variants[name]
        if variant.warm_ups_left:
            variant.warm_ups_left -= 1
            return variant.graph.run_eagerly(iteration)
        if not variant.static_metrics:
            del variant  # a failed capture must free its graph
            return self._capture_and_verify(iteration, state, name)
        variant.graph.replay()
        return self._copy_of_metrics(variant)

    def _copy_of_metrics(self, variant: _Variant) -> Metrics:
        values = torch.stack(list(variant.static_metrics.values())).clone()
        return dict(zip(variant.static_metrics, values.unbind(), strict=True))

    def _capture_and_verify(self, iteration: Iteration, state: State, name: Hashable) -> Metrics:
        """Capture the iteration and run it once: by the graph if that agrees with eager execution, else eagerly."""
        variant = self._variants[name]
        weights, other_tensors = state()
        snapshot = _Snapshot([*weights, *other_tensors], self._generators)
        try:
            variant.static_metrics = variant.graph.capture(iteration)
            snapshot.restore()  # a capture changes nothing, unless part of the iteration was run instead of recorded
            reason = self._verify(variant.graph, iteration, weights, snapshot)
        except Exception as error:  # a capture can fail in the code of any layer, optimizer or library
            reason = f"capturing failed: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if reason is None:
            variant.graph.release_eager_memory()
            return self._copy_of_metrics(variant)
        del variant  # the last reference beside `self._variants`: an eager iteration may need the graphs' memory
        self.fall_back(reason)
        snapshot.restore()
        return iteration()

    def _verify(
        self, graph: Graph, iteration: Iteration, weights: Sequence[Tensor], snapshot: "_Snapshot"
    ) -> str | None:
        """Run the iteration eagerly, twice, then by the graph; return how the results differ, or None if they agree."""
        before = snapshot.values[: len(weights)]
        graph.run_eagerly(iteration)
        eager = _Snapshot(weights, self._generators)
        snapshot.restore()
        graph.run_eagerly(iteration)
        spread = relative_difference(weights, eager.values, before)
        snapshot.restore()
        graph.replay()
        if not eager.has_same_generator_states():
            return "a replayed iteration draws other random numbers than an eager one"
        difference = relative_difference(weights, eager.values, before)
        accepted = min(max(SPREAD_FACTOR * spread, MIN_ACCEPTED_DIFFERENCE), MAX_ACCEPTED_DIFFERENCE)
        if not difference <= accepted:
            return (
                f"the weight changes of a replayed and an eager iteration differ by {difference:.1e}, those of two "
                f"eager ones by {spread:.1e}"
            )
        return None


class _Snapshot:
    """The values of tensors and the states of random number generators at one moment."""

    def __init__(self, tensors: Sequence[Tensor], generators: Sequence[torch.Generator]) -> None:
        self._tensors, self._generators = tensors, generators
        self.values = [tensor.detach().clone() for tensor in tensors]
        self._generator_states = [generator.get_state() for generator in generators]

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the values back into the tensors, and set the generators back."""
        for tensor, value in zip(self._tensors, self.values, strict=True):
            tensor.copy_(value)
        for generator, state in zip(self._generators, self._generator_states, strict=True):
            generator.set_state(state)

    def has_same_generator_states(self) -> bool:
        """Return whether the generators' states are equal to those of the snapshot."""
        pairs = zip(self._generators, self._generator_states, strict=True)
        return all(torch.equal(generator.get_state(), state) for generator, state in pairs)


@torch.no_grad()
def relative_difference(
    actual: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor] | None = None
) -> float:
    """Return the norm of `actual` - `expected` over the norm of `expected`, each taken over all tensors together.

    Args:
        actual: Tensors.
        expected: Tensors of the same shapes.
        before: If given, the difference is relative to the norm of `expected` - `before`, the change.
    """
    difference = size = 0.0
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        difference += float((a - e).double().square().sum())
        size += float((e if before is None else e - before[index]).double().square().sum())
    return float((difference / size) ** 0.5) if size else float(difference > 0)
