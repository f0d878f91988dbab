"""Replayed iterations equal eager ones. On a CPU, a stand-in for CUDA graphs shows which state an iteration uses."""

import copy
import gc
import math
import weakref
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from wgan_sweep.runs import build as experiment
from wgan_sweep.runs.build import build
from wgan_sweep.training import loss_scaling
from wgan_sweep.training.aliases import Metrics
from wgan_sweep.training.cuda_graphs import (
    MAX_VARIANTS,
    WARM_UP_ITERATIONS,
    CudaGraph,
    Graph,
    GraphedIteration,
    Iteration,
)
from wgan_sweep.training.trainer import Trainer

from .test_trainer import COMBINATIONS, LAZY, assert_bitwise_equal, run

STEPS = WARM_UP_ITERATIONS + 4


class SimulatedGraph:
    """Replays an iteration by running it again, with the trainer's Python state made unusable and then restored.

    As in a CUDA graph, only tensors and random number generators carry state between replays. Learning rates that are
    no tensors are those of the capture.
    """

    trainer: Trainer
    replays = 0
    has_released_memory = False

    def run_eagerly(self, iteration: Iteration) -> Metrics:
        return iteration()

    def capture(self, iteration: Iteration) -> Metrics:
        tensors = [tensor for group in self.trainer._iteration_state() for tensor in group]
        values, generator_states = [t.detach().clone() for t in tensors], self._generator_states()
        self._iteration = iteration
        self._rates = [group["lr"] for group in self._parameter_groups()]
        self._metrics = {name: value.clone() for name, value in iteration().items()}
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for stream, state in zip(self.trainer._streams.values(), generator_states, strict=True):
            stream.set_state(state)
        return self._metrics

    def _parameter_groups(self) -> list[dict[str, Any]]:
        return [group for player in self.trainer._players for group in player.optimizer.param_groups]

    def _generator_states(self) -> list[Tensor]:
        return [stream.get_state() for stream in self.trainer._streams.values()]

    def release_eager_memory(self) -> None:
        self.has_released_memory = True

    def replay(self) -> None:
        attributes, drawn = dict(vars(self.trainer)), self.trainer._batches.drawn
        self.trainer.step, self.trainer._batches.drawn = -(10**9), None
        rates = [group["lr"] for group in self._parameter_groups()]
        for group, rate in zip(self._parameter_groups(), self._rates, strict=True):
            group["lr"] = rate
        for name, value in self._iteration().items():
            self._metrics[name].copy_(value)
        vars(self.trainer).update(attributes)  # a replay assigns no attributes
        self.trainer._batches.drawn = drawn
        for group, rate in zip(self._parameter_groups(), rates, strict=True):
            group["lr"] = rate
        self.replays += 1


class DoesNothing(SimulatedGraph):
    def replay(self) -> None:
        """Do nothing."""


class ChangesWeights(SimulatedGraph):
    def replay(self) -> None:
        super().replay()
        with torch.no_grad():
            next(self.trainer.critic.parameters()).mul_(1.01)


class DrawsMoreNumbers(SimulatedGraph):
    def replay(self) -> None:
        super().replay()
        torch.randn(1, generator=self.trainer._streams["noise"])


class FailsToCapture(SimulatedGraph):
    def capture(self, iteration: Iteration) -> Metrics:
        iteration()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class FailsDuringCapture(SimulatedGraph):
    def capture(self, iteration: Iteration) -> Metrics:
        def broken(*_: object) -> Tensor:
            raise RuntimeError("no such operation")

        vars(self.trainer)["_generator_loss"] = broken
        try:
            return iteration()
        finally:
            del vars(self.trainer)["_generator_loss"]


def fail(message: str) -> None:
    raise RuntimeError(message)


class FailsInSomeLibrary(SimulatedGraph):
    def capture(self, iteration: Iteration) -> Metrics:
        iteration()
        raise KeyError("no such kernel")


class RunsDuringCapture(SimulatedGraph):
    """Runs the iteration that it should only record, as happens to work on another GPU's stream."""

    def capture(self, iteration: Iteration) -> Metrics:
        self._iteration = iteration
        self._rates = [group["lr"] for group in self._parameter_groups()]
        self._metrics = {name: value.clone() for name, value in iteration().items()}
        return self._metrics


BuildWithGraph = Callable[..., tuple[Trainer, list[SimulatedGraph]]]


@pytest.fixture
def build_with_graph(make, monkeypatch) -> BuildWithGraph:
    def build_trainer(graph_type: type[SimulatedGraph], *overrides: str) -> tuple[Trainer, list[SimulatedGraph]]:
        graphs: list[SimulatedGraph] = []

        def make_graph(generators: list[torch.Generator]) -> SimulatedGraph:
            graphs.append(graph_type())
            graphs[-1].trainer = trainer
            assert len(generators) == 3
            return graphs[-1]

        original = experiment.Trainer
        monkeypatch.setattr(
            experiment,
            "Trainer",
            lambda *arguments, **options: original(*arguments, **options | {"make_graph": make_graph}),
        )
        trainer = build(make(*overrides)).trainer
        monkeypatch.setattr(experiment, "Trainer", original)
        return trainer, graphs

    return build_trainer


ONE_VARIANT = [overrides for overrides in COMBINATIONS if not set(LAZY) <= set(overrides)]


@pytest.mark.integration
@pytest.mark.parametrize("overrides", ONE_VARIANT[::2] + ONE_VARIANT[-5:], ids=" ".join)
def test_replayed_iterations_equal_eager_ones_or_the_record_gives_a_reason(make, build_with_graph, overrides) -> None:
    trainer, graphs = build_with_graph(SimulatedGraph, *overrides)
    eager = build(make(*overrides)).trainer
    assert run(trainer, STEPS) == run(eager, STEPS)
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    for batch, expected in zip(trainer._last_batch, eager._last_batch, strict=True):
        assert torch.equal(batch, expected)
    if graphs:
        assert trainer.execution["iterations"] == "a CUDA graph"
        assert graphs[0].replays == STEPS - WARM_UP_ITERATIONS
        assert graphs[0].has_released_memory
    else:
        assert "no CUDA graph: " in trainer.execution["iterations"]
        obstacles = {"stabiliser=instance_noise", "stabiliser=historical_averaging"}
        assert obstacles & set(overrides) or any("freeze" in override for override in overrides)


CHANGING_RATES = ["schedule=linear", "schedule.steps=8", "critic_schedule=warmup"]
CHANGING_RATES += ["critic_schedule.steps=4", f"generator_optimizer.lr={2**-12}", f"critic_optimizer.lr={2**-10}"]
"""Rates that have no rounding error as 32-bit numbers."""


def weights_of(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    state = trainer.state_dict()
    return {name: state[name] for name in ("generator", "critic", "averaged")}


@pytest.mark.integration
@pytest.mark.parametrize("overrides", [[], ["optimizer=rmsprop"], ["train.precision=fp16"]], ids=" ".join)
def test_replayed_iterations_follow_a_learning_rate_that_changes(make, build_with_graph, overrides) -> None:
    trainer, _ = build_with_graph(SimulatedGraph, *CHANGING_RATES, *overrides)
    eager = build(make(*CHANGING_RATES, *overrides)).trainer
    assert run(trainer, STEPS) == run(eager, STEPS)
    assert_bitwise_equal(weights_of(trainer), weights_of(eager))
    assert trainer.execution["iterations"] == "a CUDA graph"
    state = copy.deepcopy(trainer.state_dict())
    for resumed in (trainer, build(make(*CHANGING_RATES, *overrides)).trainer):
        resumed.load_state_dict(copy.deepcopy(state))
        run(resumed, 2 * STEPS)
        run(eager, 2 * STEPS)
        assert_bitwise_equal(weights_of(resumed), weights_of(eager))


def test_an_optimizer_that_cannot_read_its_rate_from_the_device_ends_the_use_of_a_graph(make, build_with_graph) -> None:
    overrides = ["optimizer=sgd", "optimizer.lr=0.01", "schedule=cosine", "schedule.steps=8"]
    trainer, _ = build_with_graph(SimulatedGraph, *overrides)
    eager = build(make(*overrides)).trainer
    assert run(trainer, STEPS) == run(eager, STEPS)
    assert "an optimizer cannot read its learning rate" in trainer.execution["iterations"]
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    constant, _ = build_with_graph(SimulatedGraph, "optimizer=sgd")
    run(constant, STEPS)
    assert constant.execution["iterations"] == "a CUDA graph"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("intervals", "variants", "captured"),
    [
        ((2, 2), 1, 1),  # every iteration of two updates is the same
        ((4, 1), 2, 2),
        ((3, 2), 3, 3),
        ((8, 3), 6, MAX_VARIANTS),
    ],
)
def test_iterations_with_other_gradient_terms_have_graphs_of_their_own(
    make, build_with_graph, intervals: tuple[int, int], variants: int, captured: int
) -> None:
    overrides = ["loss=rpgan", *(f"constraint.r{i}.every={n}" for i, n in enumerate(intervals, start=1))]
    steps = math.lcm(*intervals) // 2 * (WARM_UP_ITERATIONS + 2)
    trainer, graphs = build_with_graph(SimulatedGraph, *overrides)
    eager = build(make(*overrides)).trainer
    schedules = {tuple(eager._objective.terms_at(2 * s + u) for u in (0, 1)) for s in range(steps)}
    assert len(schedules) == variants
    assert run(trainer, steps) == run(eager, steps)
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    assert len(graphs) == captured
    assert all(graph.replays > 0 for graph in graphs)
    assert trainer.execution["iterations"] == "a CUDA graph"


@pytest.mark.integration
@pytest.mark.parametrize(
    "overrides", [[], ["optimizer=sgd"], ["loss=wgan"], ["model=mlp", "model.depth=1"]], ids=" ".join
)
def test_replayed_iterations_skip_the_updates_that_eager_ones_skip(
    make, build_with_graph, overrides: list[str], monkeypatch
) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 2)
    overrides = ["train.precision=fp16", *overrides]
    trainer, graphs = build_with_graph(SimulatedGraph, *overrides)
    eager = build(make(*overrides)).trainer
    for untrained in (trainer, eager):
        for player in untrained._players:
            player.loss_scale.value.fill_(loss_scaling.MAX_SCALE)
    metrics = run(trainer, 4 * STEPS)
    assert metrics == run(eager, 4 * STEPS)
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    (graph,) = graphs
    skipped = [step["skipped_updates"] for step in metrics]
    assert graph.replays > STEPS
    assert skipped[-graph.replays] < skipped[-1] < skipped[-graph.replays] + 3 * graph.replays
    assert trainer.execution["iterations"] == "a CUDA graph"


class CountsInPython(torch.optim.SGD):
    """Keeps a state that is not a tensor."""

    def step(self, closure: object = None) -> None:
        super().step()
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1


def test_an_optimizer_that_cannot_skip_on_the_device_ends_the_use_of_a_graph(
    make, build_with_graph, monkeypatch
) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 2)
    monkeypatch.setattr(torch.optim, "SGD", CountsInPython)
    overrides = ["train.precision=fp16", "optimizer=sgd"]
    trainer, _ = build_with_graph(SimulatedGraph, *overrides)
    eager = build(make(*overrides)).trainer
    assert run(trainer, STEPS) == run(eager, STEPS)
    assert "an optimizer's state is not on the device" in trainer.execution["iterations"]
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())


def test_a_resumed_training_captures_a_new_graph(make, build_with_graph) -> None:
    eager = build(make()).trainer
    run(eager, 2 * STEPS)
    trainer, graphs = build_with_graph(SimulatedGraph)
    run(trainer, STEPS)
    trainer.load_state_dict(trainer.state_dict())
    run(trainer, 2 * STEPS)
    assert [graph.replays for graph in graphs] == [STEPS - WARM_UP_ITERATIONS] * 2
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("graph_type", "reason"),
    [
        (DoesNothing, "draws other random numbers"),
        (ChangesWeights, "the weight changes of a replayed and an eager iteration differ"),
        (DrawsMoreNumbers, "draws other random numbers"),
        (FailsToCapture, "capturing failed: operation not permitted when stream is capturing"),
        (FailsDuringCapture, "capturing failed: no such operation"),
        (FailsInSomeLibrary, "capturing failed: 'no such kernel'"),
    ],
)
def test_a_graph_that_differs_from_eager_training_is_not_used(
    make, build_with_graph, graph_type: type[SimulatedGraph], reason: str
) -> None:
    trainer, _ = build_with_graph(graph_type)
    eager = build(make()).trainer
    assert run(trainer, STEPS) == run(eager, STEPS)
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    assert reason in trainer.execution["iterations"]


def test_on_a_cpu_iterations_are_eager_and_the_record_gives_the_reason(make) -> None:
    assert "no CUDA graph: it needs a GPU" in build(make()).trainer.execution["iterations"]


def test_changes_during_a_capture_are_undone(make, build_with_graph) -> None:
    trainer, graphs = build_with_graph(RunsDuringCapture)
    eager = build(make()).trainer
    assert run(trainer, STEPS) == run(eager, STEPS)
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())
    assert graphs[0].replays


def test_the_record_names_a_graph_only_after_its_capture(build_with_graph) -> None:
    trainer, _ = build_with_graph(SimulatedGraph)
    run(trainer, WARM_UP_ITERATIONS)
    assert "not captured yet" in trainer.execution["iterations"]
    run(trainer, WARM_UP_ITERATIONS + 1)
    assert trainer.execution["iterations"] == "a CUDA graph"


def test_step_hooks_end_the_use_of_a_graph(make, build_with_graph) -> None:
    trainer, _ = build_with_graph(SimulatedGraph)
    eager = build(make()).trainer
    run(trainer, STEPS)
    assert trainer.execution["iterations"] == "a CUDA graph"
    calls = []
    trainer._critic_player.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    run(trainer, 2 * STEPS)
    run(eager, 2 * STEPS)
    assert len(calls) == STEPS * 2  # two critic updates per step
    assert "an optimizer has step hooks" in trainer.execution["iterations"]
    assert_bitwise_equal(trainer.state_dict(), eager.state_dict())


def test_a_failed_capture_frees_its_graph_before_the_eager_iteration() -> None:
    """The eager iteration may need the memory that the graph holds."""
    graphs: list[weakref.ref[object]] = []
    alive: list[bool] = []

    class FailsToCapture:
        def run_eagerly(self, iteration: Iteration) -> Metrics:
            return {"x": torch.zeros(())}

        def capture(self, iteration: Iteration) -> Metrics:
            raise RuntimeError("out of memory")

        def replay(self) -> None:
            pytest.fail("nothing was captured")

        def release_eager_memory(self) -> None:
            pytest.fail("nothing was captured")

    def make_graph() -> FailsToCapture:
        graph = FailsToCapture()
        graphs.append(weakref.ref(graph))
        return graph

    def iteration() -> Metrics:
        alive.append(any(graph() is not None for graph in graphs))
        return {"x": torch.ones(())}

    graphed = GraphedIteration(make_graph, [])
    for _ in range(WARM_UP_ITERATIONS + 1):
        metrics = graphed(iteration, lambda: ([], []))
    assert float(metrics["x"]) == 1
    assert alive == [False]
    assert graphed.fallback_reason == "capturing failed: out of memory"


class FakeGenerator:
    """A CUDA generator that takes part in a capture."""

    device = torch.device("cuda", 0)

    def __init__(self, *, is_capturing: bool = True) -> None:
        self.is_capturing = is_capturing

    def clone_state(self) -> "FakeGenerator":
        return FakeGenerator(is_capturing=False)

    def graphsafe_set_state(self, state: "FakeGenerator") -> None:
        self.is_capturing = state.is_capturing


class FakeCuda:
    """The parts of `torch.cuda` that a capture uses, for one that CUDA has made invalid: leaving it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, allocator_knows_of_the_end: bool) -> None:
        self.current_stream, self.calls = "default stream", []
        self.own_generator, self.default_generator = FakeGenerator(), FakeGenerator()
        self._allocator_knows_of_the_end = allocator_knows_of_the_end
        fake_torch = {
            "CUDAGraph": lambda: SimpleNamespace(
                register_generator_state=lambda _: None, reset=lambda: self.calls.append("reset")
            ),
            "Stream": lambda _: "stream of the graph",
            "current_device": lambda: 0,
            "current_stream": lambda: self.current_stream,
            "default_generators": (self.default_generator,),
            "device": lambda _: nullcontext(),
            "graph": self.graph,
            "graph_pool_handle": lambda: (0, 7),
            "set_stream": self.set_stream,
        }
        for name, value in fake_torch.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocate, raising=False)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda *arguments: self.calls.append(("release", *arguments)), raising=False
        )

    def set_stream(self, stream: str) -> None:
        self.current_stream = stream

    def graph(self, _: object, *, pool: object, stream: str, capture_error_mode: str) -> ExitStack:
        assert (pool, capture_error_mode) == ((0, 7), "thread_local")
        self.set_stream(stream)
        stack = ExitStack()
        stack.callback(fail, "operation failed due to a previous error during capture")
        return stack

    def end_allocate(self, *arguments: object) -> None:
        if self._allocator_knows_of_the_end:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.calls.append(("end", *arguments))


@pytest.mark.parametrize("allocator_knows_of_the_end", [False, True])  # before and since torch 2.14
def test_a_capture_that_cuda_makes_invalid_leaves_torch_as_it_was(
    monkeypatch, *, allocator_knows_of_the_end: bool
) -> None:
    cuda = FakeCuda(monkeypatch, allocator_knows_of_the_end=allocator_knows_of_the_end)
    with pytest.raises(RuntimeError, match="the cause"):
        CudaGraph([cuda.own_generator]).capture(lambda: fail("the cause"))
    assert cuda.current_stream == "default stream"
    assert cuda.calls == [
        "reset",
        *([] if allocator_knows_of_the_end else [("end", 0, (0, 7)), ("release", 0, (0, 7))]),
    ]
    assert not cuda.own_generator.is_capturing
    assert not cuda.default_generator.is_capturing


class Noisy:
    """An iteration whose weight change has noise of a given relative size, as from sums in any order."""

    def __init__(self, eager_noise: float, replay_error: float) -> None:
        self.weight = torch.zeros(1000)
        self.noise = torch.Generator().manual_seed(0)
        self.eager_noise, self.replay_error = eager_noise, replay_error

    def __call__(self) -> Metrics:
        self.weight += 1 + self.eager_noise * torch.randn(1000, generator=self.noise)
        return {"x": torch.zeros(())}

    def graph(self) -> Graph:
        owner = self

        class FakeGraph:
            def run_eagerly(self, iteration: Iteration) -> Metrics:
                return iteration()

            def capture(self, iteration: Iteration) -> Metrics:
                return {"x": torch.zeros(())}

            def replay(self) -> None:
                owner.weight += 1 + owner.replay_error * torch.randn(1000, generator=owner.noise)

            def release_eager_memory(self) -> None:
                pass

        return FakeGraph()


@pytest.mark.parametrize(
    ("eager_noise", "replay_error", "is_used"),
    [
        (0.0, 0.0, True),
        (0.0, 5e-4, True),
        (0.0, 2e-3, False),
        (6e-3, 6e-3, True),  # as measured for a ResNet, whose kernels use atomic additions
        (6e-3, 6e-2, False),
        (6e-2, 6e-2, False),  # too noisy to tell
        (0.0, float("nan"), False),
    ],
)
def test_a_graph_may_differ_from_eager_iterations_as_these_differ_from_each_other(
    eager_noise: float, replay_error: float, is_used: bool
) -> None:
    iteration = Noisy(eager_noise, replay_error)
    graphed = GraphedIteration(iteration.graph, [])
    for _ in range(WARM_UP_ITERATIONS + 1):
        graphed(iteration, lambda: ([iteration.weight], []))
    assert graphed.is_replaying == is_used
    assert (graphed.fallback_reason is None) == is_used


@pytest.mark.parametrize("overrides", [["loss=wgan_div"], ["loss=wgan"], ["loss=nsgan", "stabiliser=feature_matching"]])
def test_a_trainer_is_freed_without_garbage_collection(make, overrides: list[str]) -> None:
    """Else the memory of a finished run's graph is freed at a random moment, possibly in the middle of the next run."""
    trainer = build(make(*overrides)).trainer
    trainer._graphed = GraphedIteration(Noisy(0, 0).graph, [])
    run(trainer, 2)
    trainer.generator_gradient_norm(torch.zeros(4, 1, 32, 32))
    reference = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert reference() is None
    finally:
        gc.enable()
