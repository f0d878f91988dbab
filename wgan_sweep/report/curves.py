"""The curves of runs for claims: what was measured at which steps, from the lines of ``metrics.jsonl``."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from wgan_sweep.runs.coordinates import MEASURED_WITH
from wgan_sweep.runs.directory import FINAL, RunDir

TRAINING = ("critic_loss", "generator_loss", "generator_gradient_norm", "wasserstein", "gradient_term", "gradient_norm")
"""What is measured by training, wherever it is logged (``log_every``); other names are those of a scorer."""
Lines = Iterable[Mapping[str, float]]
"""The lines of measurements of a run."""
How = tuple[tuple[str, float], ...]
"""The entries of a line that two metric values must share to be comparable."""


@dataclass(frozen=True)
class Curve:
    """Values of a run that were measured at the same steps."""

    steps: tuple[int, ...]
    """Increasing."""
    values: Mapping[str, tuple[float, ...]]
    """Finite values at these steps, by name."""
    how: How
    """How the scorer measured them."""
    measured: frozenset[str]
    """Names of everything that the run has measured."""

    def until(self, step: int) -> Self:
        """Return the curve without later steps."""
        count = bisect_right(self.steps, step)
        values = {name: values[:count] for name, values in self.values.items()}
        return replace(self, steps=self.steps[:count], values=values)


def _how(line: Mapping[str, float]) -> How:
    return tuple((name, line[name]) for name in MEASURED_WITH if name != "step" and name in line)


def _curve(lines: Lines, names: Sequence[str]) -> Curve:
    """Return the curve of some names: the steps at which all of them were measured.

    Lines of the final scorer are left out, if it is another one than during training. If a run was scored in several
    ways, the most frequent one counts. The first value at a step counts: later ones are those of a run that was scored
    again.
    """
    kept = [line for line in lines if FINAL not in line]
    ways = Counter(how for line in kept if (how := _how(line)))
    how = max(ways, key=lambda way: ways[way], default=())
    at_steps: dict[int, dict[str, float]] = {}
    for line in kept:
        if _how(line) in ((), how):
            values = at_steps.setdefault(int(line["step"]), {})
            for name in names:
                if math.isfinite(line.get(name, math.nan)):
                    values.setdefault(name, line[name])
    steps = sorted(step for step, values in at_steps.items() if len(values) == len(names))
    return Curve(
        tuple(steps),
        {name: tuple(at_steps[step][name] for step in steps) for name in names},
        how,
        frozenset().union(*(line.keys() for line in kept)),
    )


class Curves:
    """The curves of runs, each read once.

    Args:
        lines_of: Returns the lines of measurements of a run, by its id.
    """

    def __init__(self, lines_of: Callable[[str], Lines]) -> None:
        self._lines_of = lines_of
        self._read: dict[tuple[str, tuple[str, ...]], Curve] = {}

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Return the curves of the runs in a folder."""
        return cls(lambda run_id: RunDir(folder / run_id).read_metrics())

    @classmethod
    def none(cls) -> Self:
        """Return the curves of runs of which only records are known: they have no steps."""
        return cls(lambda _: ())

    def along(self, run_id: str, *names: str) -> Curve:
        """Return the curve of distinct names of a run."""
        key = run_id, names
        if key not in self._read:
            self._read[key] = _curve(self._lines_of(run_id), names)
        return self._read[key]
