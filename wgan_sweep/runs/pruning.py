"""Pruning: which runs of a sweep are stopped early, because other runs were better at the same step.

A pruner decides about one run at a rung: a step at which the run was scored during training. It sees the metric values
of the run and of those that it competes with, up to now. Rungs are steps (generator updates), not images, because the
results of a sweep are compared at the same step.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast

from wgan_sweep.common.ranges import Count, Range, shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config import objects
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.runs.record import HIGHER_IS_BETTER, LOWER_IS_BETTER, SELECTION_METRICS, cost_sign

OFF = "prune=none turns pruning off"


@dataclass(frozen=True)
class MetricCurve:
    """The metric values of a run during training."""

    costs: Mapping[int, float]
    """The metric value at each step, with the sign that makes low values good; infinite if it is not finite."""
    is_done: bool = False
    """Whether the run was trained to its end."""


class Pruner(Protocol):
    """Decides which runs are stopped early."""

    @property
    def metric(self) -> str | None:
        """The metric that is compared; None for the selection metric of the runs."""

    @property
    def is_on(self) -> bool:
        """Whether any run may be stopped."""

    def rungs(self, every: int, steps: int) -> Sequence[int]:
        """Return the steps at which it decides about a run.

        Args:
            every: Steps between evaluations during training, 1 or more.
            steps: The run's last step, which is not a rung.
        """

    def why_pruned(self, step: int, own: MetricCurve, others: Sequence[MetricCurve]) -> str | None:
        """Return why a run is stopped, or None if it goes on.

        Args:
            step: The rung that the run has reached.
            own: The run's values, with one at the rung.
            others: Those of the runs that it competes with.
        """

    def describe(self) -> str:
        """Return which runs go on at a rung, in words."""


@dataclass(frozen=True)
class NoPruner:
    """Stops no run."""

    metric: str | None = None
    is_on = False

    def rungs(self, every: int, steps: int) -> Sequence[int]:  # noqa: ARG002
        """Return no steps."""
        return ()

    def why_pruned(self, step: int, own: MetricCurve, others: Sequence[MetricCurve]) -> str | None:  # noqa: ARG002
        """Return None."""
        return None

    def describe(self) -> str:
        """Return that all runs go on."""
        return "all runs go on"


Reduction = Annotated[int, Range(2, 1000)]


@dataclass(frozen=True)
class SuccessiveHalving:
    """Asynchronous successive halving: a run goes on if it is among the best of those that have reached its rung.

    Rungs are at ``first``, ``first * reduction``, ``first * reduction**2``, ... steps. Of the n runs that have reached
    a rung so far, the best ``n // reduction`` go on, and at least one. The decisions are those of Optuna's
    `SuccessiveHalvingPruner`.

    Args:
        metric: The metric that is compared; None for the selection metric of the runs.
        first: The first rung; None for the first evaluation during training.
        reduction: The ratio of the number of runs, and of steps, between two rungs.
    """

    metric: str | None = None
    first: Count | None = None
    reduction: Reduction = 3
    is_on = True

    def rungs(self, every: int, steps: int) -> Sequence[int]:
        """Return the rungs below the last step."""
        found, step = [], self.first or every
        while step < steps:
            found.append(step)
            step *= self.reduction
        return found

    def why_pruned(self, step: int, own: MetricCurve, others: Sequence[MetricCurve]) -> str | None:
        """Return the rank of a run that is stopped, or None if it goes on. Of equal runs, all go on or none."""
        reached = sorted([own.costs[step], *(other.costs[step] for other in others if step in other.costs)])
        count = max(1, len(reached) // self.reduction)
        if own.costs[step] <= reached[count - 1]:
            return None
        rank = reached.index(own.costs[step]) + 1
        return f"rank {rank} of the {len(reached)} runs that have reached step {step}, and the best {count} go on"

    def describe(self) -> str:
        """Return which runs go on at a rung, in words."""
        return f"the best 1/{self.reduction} of the runs that have reached it go on"


@dataclass(frozen=True)
class MedianRule:
    """The median rule: a run is stopped if its best value so far is worse than the median of the finished runs.

    The finished runs are compared by their values at the same step. It decides at every evaluation during training. The
    decisions are those of Optuna's `MedianPruner`.

    Args:
        metric: The metric that is compared; None for the selection metric of the runs.
        first: The first step at which it decides; None for the first evaluation during training.
        finished: How many runs must be done before any is stopped.
    """

    metric: str | None = None
    first: Count | None = None
    finished: Annotated[int, Range(1, 100_000)] = 5
    is_on = True

    def rungs(self, every: int, steps: int) -> Sequence[int]:
        """Return the steps of the evaluations below the last step, from the first rung on."""
        return range(self.first or every, steps, every)

    def why_pruned(self, step: int, own: MetricCurve, others: Sequence[MetricCurve]) -> str | None:
        """Return what a run that is stopped was compared with, or None if it goes on."""
        done = [other for other in others if other.is_done]
        values = [other.costs[step] for other in done if step in other.costs]
        if len(done) < self.finished or not values:
            return None
        if min(cost for at, cost in own.costs.items() if at <= step) <= statistics.median(values):
            return None
        return f"its best value so far is worse than the median of {len(values)} finished runs at step {step}"

    def describe(self) -> str:
        """Return which runs go on at a rung, in words."""
        return (
            f"a run goes on unless its best value is worse than the median of the finished runs, once {self.finished} "
            "are done"
        )


def pruner_of(config: Config) -> Pruner:
    """Return the pruner of a config.

    Raises:
        InputError: if it cannot be made.
    """
    return cast("Pruner", objects.make(config.prune, "prune"))


def rungs_of(config: Config) -> Sequence[int]:
    """Return the steps at which a run may be stopped, in rising order; none without pruning.

    Raises:
        InputError: if the pruner cannot be made.
    """
    every = config.scorer.get("every", 0)
    return pruner_of(config).rungs(every, config.train.steps) if every else ()


def is_on(config: Config) -> bool:
    """Return whether runs may be stopped early.

    Raises:
        InputError: if the pruner cannot be made.
    """
    return pruner_of(config).is_on


def name_of(config: Config) -> str:
    """Return the pruner of a config as the user chose it."""
    return f"prune={config.choices.get('prune', config.prune['_target_'])}"


def check(config: Config) -> None:
    """Refuse a pruner that could stop no run.

    Raises:
        InputError: if it has no values to compare, no rung below the last step, or a metric without a direction.
    """
    pruner, name = pruner_of(config), name_of(config)
    if not pruner.is_on:
        return
    if config.scorer.get("_target_") is None:
        raise InputError(f"{name} compares metric values, but scorer=none gives none: choose a scorer; {OFF}")
    every, steps = config.scorer.get("every", 0), config.train.steps
    if not every:
        raise InputError(
            f"{name} compares metric values during training, but scorer.every=0 scores at the end only: set "
            f"scorer.every to the steps between evaluations, such as {max(1, steps // 10)}; {OFF}"
        )
    if pruner.metric is not None:
        sign_of(pruner.metric)
    rungs = pruner.rungs(every, steps)
    if not rungs:
        raise InputError(
            f"{name} stops no run before train.steps={steps}: set scorer.every={every} and prune.first (if given) to "
            f"fewer steps; {OFF}"
        )
    if odd := [step for step in rungs if step % every]:
        raise InputError(f"prune.first={odd[0]} must be a multiple of scorer.every={every}: runs are scored only then")


def check_is_measured(config: Config, measured: Collection[str] | None) -> None:
    """Refuse a pruner that compares a metric which the scorer does not measure during training.

    Args:
        config: The config.
        measured: The metrics that it measures then; None if it does not say which.

    Raises:
        InputError: if the metric is not among them; without ``prune.metric``, if no selection metric is.
    """
    pruner = pruner_of(config)
    if not pruner.is_on or measured is None:
        return
    wanted = SELECTION_METRICS if pruner.metric is None else (pruner.metric,)
    if any(metric in measured for metric in wanted):
        return
    scorer = config.choices.get("scorer", config.scorer["_target_"])
    comparable = sorted(metric for metric in measured if cost_sign(metric) is not None)
    remedy = f"set prune.metric to one of {', '.join(comparable)}" if comparable else "choose another scorer"
    raise InputError(
        f"prune.metric={shown(pruner.metric)} compares {' or '.join(wanted)}, which scorer={scorer} does not measure "
        f"during training: {remedy}; {OFF}"
    )


def check_is_in_sweep(config: Config) -> None:
    """Refuse to prune a run that is trained alone.

    Raises:
        InputError: if its config prunes.
    """
    if is_on(config):
        raise InputError(
            f"{name_of(config)} compares the runs of a sweep: give -m and leave hydra/launcher out, or train the run "
            "alone with prune=none"
        )


def sign_of(metric: str) -> int:
    """Return 1 for a metric of which low values are good, -1 for one of which high values are.

    Raises:
        InputError: if neither is declared.
    """
    sign = cost_sign(metric)
    if sign is None:
        known = [*LOWER_IS_BETTER, *HIGHER_IS_BETTER]
        raise InputError(
            f"prune.metric={shown(metric)} is not known as a metric of which low or high values are better"
            f"{did_you_mean(metric, known)}; choose one of {', '.join(known)}"
        )
    return sign


def is_same_pruner(config: Config, stored: Mapping[str, Any]) -> bool:
    """Return whether a config prunes like that of a record."""
    return bool(config.prune == stored.get("prune"))


def costs_of(values: Mapping[int, float], metric: str) -> dict[int, float]:
    """Return metric values by step as `MetricCurve.costs` holds them."""
    sign = sign_of(metric)
    return {step: sign * value if math.isfinite(value) else math.inf for step, value in values.items()}
