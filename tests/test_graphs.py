"""Iterations that are replayed are those that are not; on a CPU, a stand-in for CUDA's graphs shows what they read."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wgan_sweep.runs import build as experiment
from wgan_sweep.runs.build import build
from wgan_sweep.training.cuda_graphs import WARM_UP, Values, Work
from wgan_sweep.training.trainer import Trainer

from .test_trainer import COMBINATIONS, assert_bitwise_equal, run

STEPS = WARM_UP + 4


class Rehearsal:
    """Does again what it has seen once, with none of the trainer's numbers but those in its tensors."""

    trainer: Trainer
    replays = 0

    def warm(self, work: Work) -> Values:
        return work()

    def capture(self, work: Work) -> Values:
        state = [tensor for tensors in self.trainer._changed() for tensor in tensors]
        before, seeds = [t.detach().clone() for t in state], self._seeds()
        self._work = work
        self._made = {name: value.clone() for name, value in work().items()}
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
        for stream, seed in zip(self.trainer._streams.values(), seeds, strict=True):
            stream.set_state(seed)
        return self._made

    def _seeds(self) -> list[Tensor]:
        return [stream.get_state() for stream in self.trainer._streams.values()]

    def replay(self) -> None:
        attributes, draw = dict(vars(self.trainer)), self.trainer._batches.draw
        self.trainer.step, self.trainer._batches.draw = -(10**9), None
        for name, value in self._work().items():
            self._made[name].copy_(value)
        vars(self.trainer).update(attributes)  # a graph sets none
        self.trainer._batches.draw = draw
        self.replays += 1


class Idle(Rehearsal):
    def replay(self) -> None:
        """Do nothing."""


class Inexact(Rehearsal):
    def replay(self) -> None:
        super().replay()
        with torch.no_grad():
            next(self.trainer.critic.parameters()).mul_(1.01)


class Loaded(Rehearsal):
    def replay(self) -> None:
        super().replay()
        torch.randn(1, generator=self.trainer._streams["noise"])


class Refused(Rehearsal):
    def capture(self, work: Work) -> Values:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class RefusedInTheMiddle(Rehearsal):
    def capture(self, work: Work) -> Values:
        def broken(*_: object) -> Tensor:
            raise RuntimeError("no such operation")

        vars(self.trainer)["_generator_loss"] = broken
        try:
            return work()
        finally:
            del vars(self.trainer)["_generator_loss"]


class Executed(Rehearsal):
    """Does what it should only record, as work on another GPU's stream would be."""

    def capture(self, work: Work) -> Values:
        self._work = work
        self._made = {name: value.clone() for name, value in work().items()}
        return self._made


Replaying = Callable[..., tuple[Trainer, list[Rehearsal]]]


@pytest.fixture
def replaying(make, monkeypatch) -> Replaying:
    def build_with(kind: type[Rehearsal], *overrides: str) -> tuple[Trainer, list[Rehearsal]]:
        made: list[Rehearsal] = []

        def graph(generators: list[torch.Generator]) -> Rehearsal:
            made.append(kind())
            made[-1].trainer = trainer
            assert len(generators) == 3
            return made[-1]

        original = experiment.Trainer
        monkeypatch.setattr(experiment, "Trainer", lambda **options: original(**options | {"graph": graph}))
        trainer = build(make(*overrides)).trainer
        monkeypatch.setattr(experiment, "Trainer", original)
        return trainer, made

    return build_with


@pytest.mark.parametrize("overrides", COMBINATIONS[::2] + COMBINATIONS[-4:], ids=" ".join)
def test_replayed_iterations_are_the_plain_ones_or_it_is_said_why_there_are_none(make, replaying, overrides) -> None:
    trainer, graphs = replaying(Rehearsal, *overrides)
    plain = build(make(*overrides)).trainer
    assert run(trainer, STEPS) == run(plain, STEPS)
    assert_bitwise_equal(trainer.state_dict(), plain.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(trainer._last, plain._last, strict=True))
    if graphs:
        assert trainer.how["iterations"] == "a CUDA graph"
        assert graphs[0].replays == STEPS - WARM_UP
    else:
        assert "no CUDA graph: " in trainer.how["iterations"]
        special = {"train.simultaneous=true", "stabiliser=instance_noise", "stabiliser=historical_averaging"}
        assert special & set(overrides) or any("freeze" in override for override in overrides)


def test_a_resumed_run_makes_a_graph_of_its_own(make, replaying) -> None:
    through = build(make()).trainer
    run(through, 2 * STEPS)
    trainer, graphs = replaying(Rehearsal)
    run(trainer, STEPS)
    trainer.load_state_dict(trainer.state_dict())
    run(trainer, 2 * STEPS)
    assert [graph.replays for graph in graphs] == [STEPS - WARM_UP] * 2
    assert_bitwise_equal(trainer.state_dict(), through.state_dict())


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Idle, "draws other random numbers"),
        (Inexact, "weights' changes differ"),
        (Loaded, "draws other random numbers"),
        (Refused, "capturing failed: operation not permitted when stream is capturing"),
        (RefusedInTheMiddle, "capturing failed: no such operation"),
    ],
)
def test_a_graph_that_does_something_else_is_not_used(make, replaying, kind: type[Rehearsal], why: str) -> None:
    trainer, _ = replaying(kind)
    plain = build(make()).trainer
    assert run(trainer, STEPS) == run(plain, STEPS)
    assert_bitwise_equal(trainer.state_dict(), plain.state_dict())
    assert why in trainer.how["iterations"]


def test_on_a_cpu_there_is_none_and_the_record_says_so(make) -> None:
    assert "for a GPU" in build(make()).trainer.how["iterations"]


def test_what_a_capture_does_beside_recording_is_undone(make, replaying) -> None:
    trainer, graphs = replaying(Executed)
    plain = build(make()).trainer
    assert run(trainer, STEPS) == run(plain, STEPS)
    assert_bitwise_equal(trainer.state_dict(), plain.state_dict())
    assert graphs[0].replays


def test_before_there_is_a_graph_the_record_does_not_say_so(replaying) -> None:
    trainer, _ = replaying(Rehearsal)
    run(trainer, WARM_UP)
    assert "too early" in trainer.how["iterations"]
    run(trainer, WARM_UP + 1)
    assert trainer.how["iterations"] == "a CUDA graph"
