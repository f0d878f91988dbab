"""Repeated tests while seeds are added: error rates that hold although testing stops as soon as a claim is decided.

A test that is repeated after each further seed at the level of a single test rejects true hypotheses far too often.
Here each look spends a part of the error rate, by the spending function t^2 of Kim and DeMets (1987), where t is the
share of the seeds (alpha spending: Lan and DeMets 1983). The parts add up to the whole, so by the union bound the error
rate over all looks is at most the nominal one. This needs no joint distribution of the p-values of the looks, which is
unknown for most tests of claims; it is conservative, because these p-values are positively correlated.

The spending function is proportional to the error rate. So the p-value of a look, divided by the look's share, is again
a p-value, and so is the smallest of them over all looks. Holm's correction for several claims applies to these: a claim
that it decides at one look would also be decided at the last one. Testing may therefore end earlier for any reason,
such as futility or a spent budget, without more errors: these rules are not binding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

EXPONENT = 2.0
"""Of the spending function. A larger one spends more at late looks, and decides large effects later."""
FIRST_FUTILE = 3
"""Seeds per cell from which on a look may count as futile."""
FUTILE_LOOKS = 2
"""Number of consecutive futile looks after which a claim counts as undecidable."""


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds per cell at which claims are tested. They are fixed before the first run."""

    seeds: tuple[int, ...]
    """Strictly increasing; the last one is the largest number of seeds."""

    @classmethod
    def up_to(cls, largest: int, first: int = 2, batch: int = 1) -> "Looks":
        """Return the looks after `first` seeds, after each `batch` further ones, and after the `largest` number."""
        return cls((*range(first, largest, batch), largest))

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the error rate that each look spends; they add up to 1."""
        spent = [(seeds / self.seeds[-1]) ** EXPONENT for seeds in self.seeds]
        return tuple(after - before for before, after in pairwise([0.0, *spent]))

    def adjusted(self, look: int, p: float, earlier: float = 1.0) -> float:
        """Return the p-value over all looks so far.

        Args:
            look: Index of the look.
            p: The p-value of the test at this look alone.
            earlier: The p-value over all earlier looks; 1 at the first look.
        """
        return min(earlier, p / self.shares[look])


def is_futile(needed: Sequence[tuple[int, int | None]], largest: int) -> bool:
    """Return whether a claim counts as undecidable: too many seeds were needed at the last looks.

    Args:
        needed: For each look so far, its number of seeds per cell, and the estimated number of seeds per cell that
            would decide the claim; None if that is too large to be estimated.
        largest: The largest number of seeds.
    """
    last = needed[-FUTILE_LOOKS:]
    return len(last) == FUTILE_LOOKS and all(
        seeds >= FIRST_FUTILE and (number is None or number > largest) for seeds, number in last
    )
