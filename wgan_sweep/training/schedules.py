"""Schedules: how the learning rate of a player changes over the steps of a run, by the schedulers of torch.

A step is a generator update: both players keep their rates during it, also the critic over its several updates. The
horizon of a schedule is a number of its own, so that a run which is trained further continues as it began.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from wgan_sweep.common.ranges import Range

MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]
"""Makes the scheduler of an optimizer. Its method `step` is called once per step of the run."""

Steps = Annotated[int, Range(1, 10**12)]
StepsFromZero = Annotated[int, Range(0, 10**12)]
Share = Annotated[float, Range(0, 1)]


def constant() -> MakeScheduler | None:
    """The learning rate of the optimizer, unchanged."""
    return None


def linear(steps: Steps, end: Share = 0.0, start: StepsFromZero = 0, warmup: StepsFromZero = 0) -> MakeScheduler:
    """The learning rate falls linearly from step `start` to step `steps`, and stays there.

    Args:
        steps: The step from which on the rate is `end` times that of the optimizer.
        end: The last rate, as a share of that of the optimizer, in [0, 1].
        start: The step until which the rate is that of the optimizer.
        warmup: Steps at the beginning in which the rate rises linearly, see `warmup`.

    Raises:
        ValueError: if `start` is not below `steps`.
    """
    _check_order(start, steps)
    return _by_factor(lambda step: _rise(step, warmup) * (1 + (end - 1) * _progress(step, start, steps)))


def cosine(steps: Steps, end: Share = 0.0, start: StepsFromZero = 0, warmup: StepsFromZero = 0) -> MakeScheduler:
    """The learning rate falls along half a cosine from step `start` to step `steps`, and stays there.

    Args:
        steps: The step from which on the rate is `end` times that of the optimizer.
        end: The last rate, as a share of that of the optimizer, in [0, 1].
        start: The step until which the rate is that of the optimizer.
        warmup: Steps at the beginning in which the rate rises linearly, see `warmup`.

    Raises:
        ValueError: if `start` is not below `steps`.
    """
    _check_order(start, steps)

    def factor(step: int) -> float:
        height = (1 + math.cos(math.pi * _progress(step, start, steps))) / 2
        return _rise(step, warmup) * (end + (1 - end) * height)

    return _by_factor(factor)


def warmup(steps: Steps) -> MakeScheduler:
    """The learning rate rises linearly to that of the optimizer: 1 / `steps` of it in the first step, and so on."""
    return _by_factor(lambda step: _rise(step, steps))


def _by_factor(factor: Callable[[int], float]) -> MakeScheduler:
    """Return a maker of schedulers whose rate is that of the optimizer times a factor of the number of past steps."""
    return lambda optimizer: LambdaLR(optimizer, factor)


def _rise(step: int, steps: int) -> float:
    return min((step + 1) / steps, 1.0) if steps else 1.0


def _progress(step: int, start: int, end: int) -> float:
    """Return how much of the way from step `start` to step `end` is done, in [0, 1]."""
    return min(max(step - start, 0) / (end - start), 1.0)


def _check_order(start: int, steps: int) -> None:
    if start >= steps:
        raise ValueError(f"start={start} must be below steps={steps}")


class LearningRate:
    """The learning rates of an optimizer's parameter groups over the steps of a run.

    The scheduler acts on a stand-in for the optimizer, and its rates are copied. A scheduler replaces the method `step`
    of its optimizer to see it called, which does not happen in the steps that a CUDA graph replays.

    Args:
        optimizer: The optimizer, with its initial rates.
        make_scheduler: Makes the scheduler.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, make_scheduler: MakeScheduler) -> None:
        self._stand_in = torch.optim.SGD(
            [
                {"params": [torch.zeros((), device="cpu", requires_grad=True)], "lr": float(group["lr"])}
                for group in optimizer.param_groups
            ]
        )
        self._scheduler = make_scheduler(self._stand_in)

    @property
    def values(self) -> list[float]:
        """The rate of each parameter group in the current step."""
        return [float(group["lr"]) for group in self._stand_in.param_groups]

    def advance(self) -> None:
        """Go to the next step."""
        self._stand_in.step()  # changes nothing: its parameters have no gradient
        self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers and containers of them, if the scheduler keeps no others."""
        return {"rates": self.values, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the step of a state that `state_dict` returned."""
        self._scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self._stand_in.param_groups, state["rates"], strict=True):
            group["lr"] = rate
