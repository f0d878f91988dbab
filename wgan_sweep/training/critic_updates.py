"""How many updates the critic has in each step."""

from collections.abc import Callable
from typing import Annotated

from wgan_sweep.common.ranges import Range

CriticUpdates = Callable[[int, int], int]
"""From a step (the first is 0) and ``train.n_critic`` to the number of critic updates in that step, 1 or more."""


def constant() -> CriticUpdates | None:
    """``train.n_critic`` critic updates in each step."""
    return None


def more_at_first(
    count: Annotated[int, Range(1, 10**6)],
    first: Annotated[int, Range(0, 10**12)],
    every: Annotated[int, Range(1, 10**12)] | None = None,
) -> CriticUpdates:
    """More critic updates in the first steps and from time to time, so that the critic is close to its optimum.

    The published code of Arjovsky et al. 2017 has ``count=100, first=25, every=500``.

    Args:
        count: Critic updates in each of these steps; all other steps have ``train.n_critic``.
        first: Number of first steps.
        every: Also count the steps that are a multiple of it, from step 0 on, among these; None: the first steps only.
    """

    def updates(step: int, n_critic: int) -> int:
        has_more = step < first or (every is not None and step % every == 0)
        return count if has_more else n_critic

    return updates


def updates_in(critic_updates: CriticUpdates | None, n_critic: int, steps: range) -> int:
    """Return the number of critic updates in a range of steps.

    Args:
        critic_updates: The number for each step; None: `n_critic` in each.
        n_critic: The value of ``train.n_critic``.
        steps: The steps.

    Raises:
        ValueError: if a step has less than one update.
    """
    if critic_updates is None:
        return len(steps) * n_critic
    return sum(updates_at(critic_updates, n_critic, step) for step in steps)


def updates_at(critic_updates: CriticUpdates | None, n_critic: int, step: int) -> int:
    """Return the number of critic updates in a step; see `updates_in`."""
    if critic_updates is None:
        return n_critic
    count = critic_updates(step, n_critic)
    if count < 1:
        raise ValueError(f"step {step} has {count} critic updates: it needs one or more")
    return count
