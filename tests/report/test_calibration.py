"""Error rates, coverage and power of the tests of claims, by simulation: rates are at most nominal in all cases.

``python -m tests.report.test_calibration`` prints the table.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from wgan_sweep.report.inference import spreads
from wgan_sweep.report.inference.evidence import LEVEL, Evidence
from wgan_sweep.report.inference.means import every_mean_lower, means_within
from wgan_sweep.report.inference.spreads import spread_less

SIMULATIONS = 2000

Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count)


def heavy_tailed(rng: np.random.Generator, count: int) -> np.ndarray:
    """Student's t with three degrees of freedom, variance 1."""
    return rng.standard_t(3, count) / np.sqrt(3)


@dataclass(frozen=True)
class Side:
    """The cells of one side: true means, standard deviations over seeds and seeds."""

    means: Sequence[float]
    sds: Sequence[float] | float = 1.0
    seeds: Sequence[int] | int = 3
    noise: Draw = normal

    def sample(self, rng: np.random.Generator) -> list[list[float]]:
        cells = len(self.means)
        sds, seeds = np.broadcast_to(self.sds, cells), np.broadcast_to(self.seeds, cells)
        return [list(m + sd * self.noise(rng, n)) for m, sd, n in zip(self.means, sds, seeds, strict=True)]


@dataclass(frozen=True)
class Rates:
    """Shares of simulations."""

    supported: float
    contradicted: float
    covered: float
    """Intervals that contain the true effect."""
    bias: float
    """Mean of the estimated effect minus the true one, in standard deviations of the estimate."""


def simulate(test: Callable[..., Evidence], sides: tuple[Side, ...], effect: float, simulations: int) -> Rates:
    rng = np.random.default_rng(1)
    results = [test(*(side.sample(rng) for side in sides)) for _ in range(simulations)]
    supported = [result.p_for < LEVEL / 2 for result in results]
    contradicted = [result.p_against < LEVEL / 2 for result in results]
    for result, is_for, is_against in zip(results, supported, contradicted, strict=True):
        assert (result.low > 0) == is_for, result  # a verdict and an interval with 0 exclude each other
        assert (result.high < 0) == is_against, result
        assert result.low <= result.effect <= result.high, result
    estimates = np.array([result.effect for result in results])
    return Rates(
        float(np.mean(supported)),
        float(np.mean(contradicted)),
        float(np.mean([result.low <= effect <= result.high for result in results])),
        float((estimates.mean() - effect) / estimates.std()),
    )


FLAT, WIDE, SPIKE = [0.0] * 6, [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0, 0.0, 7.0]
NEAR = list(np.array(WIDE) / 4)
ONE_NOISY = [1.0, 1.0, 1.0, 1.0, 1.0, 4.0]

MEANS: dict[str, tuple[Side, Side]] = {
    "1 x 1, equal noise": (Side([0]), Side([0])),
    "1 x 1, n = 2": (Side([0], seeds=2), Side([0], seeds=2)),
    "1 x 1, noise 4 : 1": (Side([0], 4), Side([0])),
    "1 x 1, n = 2 and 10": (Side([0], seeds=2), Side([0], seeds=10)),
    "1 x 1, n = 2 and 10, noise 4 : 1": (Side([0], 4, 2), Side([0], 1, 10)),
    "1 x 1, n = 2 and 10, noise 1 : 4": (Side([0], 1, 2), Side([0], 4, 10)),
    "1 x 1, heavy tails": (Side([0], seeds=5, noise=heavy_tailed), Side([0], seeds=5, noise=heavy_tailed)),
    "1 x 3": (Side([0]), Side([0, 0, 0])),
    "1 x 3, one apart": (Side([0]), Side([0, 9, 9])),
    "6 x 6": (Side(FLAT), Side(FLAT)),
    "6 x 6, n = 10": (Side(FLAT, seeds=10), Side(FLAT, seeds=10)),
    "6 x 6, one noisy cell": (Side(FLAT, ONE_NOISY, 5), Side(FLAT, 1, 5)),
}
"""Cases in which the smallest difference of means is 0."""

SPREADS: dict[str, tuple[Side, Side]] = {
    "flat": (Side(FLAT), Side(FLAT)),
    "flat, n = 2": (Side(FLAT, seeds=2), Side(FLAT, seeds=2)),
    "flat, noise 4 : 1": (Side(FLAT, 4), Side(FLAT)),
    "flat, noise 1 : 4, n = 2": (Side(FLAT, 1, 2), Side(FLAT, 4, 2)),
    "flat, one noisy cell": (Side(FLAT, ONE_NOISY), Side(FLAT)),
    "flat, n = 2 and 10": (Side(FLAT, seeds=2), Side(FLAT, seeds=10)),
    "wide": (Side(WIDE), Side(WIDE)),
    "wide, noise 4 : 1, n = 2": (Side(WIDE, 4, 2), Side(WIDE, 1, 2)),
    "wide, noise 1 : 4, n = 10": (Side(WIDE, 1, 10), Side(WIDE, 4, 10)),
    "one spike, one noisy cell": (Side(SPIKE, ONE_NOISY), Side(SPIKE)),
    "one spike and random": (Side(SPIKE, seeds=5), Side(list(np.array(WIDE) * np.std(SPIKE) / np.std(WIDE)), 1, 5)),
    "wide, one noisy cell, n = 2": (Side(WIDE, ONE_NOISY, 2), Side(WIDE, seeds=2)),
    "flat, heavy tails": (Side(FLAT, 1, 5, heavy_tailed), Side(FLAT, 1, 5, heavy_tailed)),
    "spread near the noise, n = 2": (Side(NEAR, seeds=2), Side(NEAR, seeds=2)),
    "spread near the noise, noise 4 : 1": (Side(NEAR, 4), Side(NEAR)),
    "the noisy cell is the spike, n = 2": (Side(SPIKE, ONE_NOISY, 2), Side(SPIKE, ONE_NOISY[::-1], 2)),
    "two cells, noise 4 : 1, n = 2": (Side([-3.0, 3.0], 4, 2), Side([-3.0, 3.0], 1, 2)),
    "two cells": (Side([-3.0, 3.0], 2), Side([-3.0, 3.0])),
}
"""Cases in which both sides' means have the same standard deviation."""

MARGINS: dict[str, tuple[Side, float]] = {
    "two cells at the margin": (Side([0.0, 2.0]), 2.0),
    "two cells at the margin, n = 2": (Side([0.0, 2.0], [1, 4], 2), 2.0),
    "six cells, one at the margin": (Side([0.0, 0.0, 0.0, 0.0, 0.0, 8.0], 1, 5), 8.0),
    "six cells, three at the margin": (Side([0.0, 0.0, 0.0, 8.0, 8.0, 8.0], 1, 5), 8.0),
    "six cells, one noisy": (Side([0.0, 0.0, 0.0, 0.0, 0.0, 8.0], ONE_NOISY, 5), 8.0),
}
"""Cases whose largest difference of means is the margin: neither supported nor contradicted."""

FAR = list(np.array(WIDE) * 2)
ALTERNATIVES: dict[str, tuple[Callable[..., Evidence], tuple[Side, Side], float]] = {
    "means 1 x 1, 3 sd, n = 3": (every_mean_lower, (Side([0]), Side([3])), 3),
    "means 1 x 1, 3 sd, n = 5": (every_mean_lower, (Side([0], seeds=5), Side([3], seeds=5)), 3),
    "means 1 x 3, 3 sd, n = 5": (every_mean_lower, (Side([0], seeds=5), Side([3, 3, 3], seeds=5)), 3),
    "means 6 x 6, 3 sd, n = 10": (every_mean_lower, (Side(FLAT, seeds=10), Side([3.0] * 6, seeds=10)), 3),
    "spreads flat and wide, n = 3": (spread_less, (Side(FLAT), Side(WIDE)), float(np.std(WIDE, ddof=1))),
    "spreads wide and twice as wide, n = 5": (
        spread_less,
        (Side(WIDE, seeds=5), Side(FAR, seeds=5)),
        float(np.std(WIDE, ddof=1)),
    ),
}
"""Cases in which the statement is true, with the true effect."""


def equivalence(side: Side, margin: float, simulations: int) -> Rates:
    return simulate(lambda cells: means_within(cells, margin), (side,), 0.0, simulations)


SE = np.sqrt(LEVEL * (1 - LEVEL) / SIMULATIONS)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreads, "DRAWS", 1000)


def assert_calibrated(rates: Rates) -> None:
    assert rates.supported + rates.contradicted <= LEVEL + 2 * SE
    assert rates.covered >= 1 - LEVEL - 2 * SE


@pytest.mark.slow
@pytest.mark.parametrize("name", MEANS)
def test_error_rate_and_coverage_for_means(name: str) -> None:
    rates = simulate(every_mean_lower, MEANS[name], 0.0, SIMULATIONS)
    assert_calibrated(rates)
    assert abs(rates.bias) < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SPREADS)
def test_error_rate_and_coverage_for_spreads(name: str) -> None:
    assert_calibrated(simulate(spread_less, SPREADS[name], 0.0, SIMULATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", MARGINS)
def test_error_rate_and_coverage_for_equivalence(name: str) -> None:
    assert_calibrated(equivalence(*MARGINS[name], SIMULATIONS))


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_true_statements_are_found(name: str) -> None:
    test, sides, effect = ALTERNATIVES[name]
    rates = simulate(test, sides, effect, 60)
    assert rates.supported > 0.5
    assert rates.contradicted == 0
    assert rates.covered > 0.85


def main() -> None:
    spreads.DRAWS = 1000
    cases = [
        *((f"means, {name}", partial(simulate, every_mean_lower, sides, 0.0)) for name, sides in MEANS.items()),
        *((f"spreads, {name}", partial(simulate, spread_less, sides, 0.0)) for name, sides in SPREADS.items()),
        *((f"equivalence, {name}", partial(equivalence, *case)) for name, case in MARGINS.items()),
        *((name, partial(simulate, *case)) for name, case in ALTERNATIVES.items()),
    ]
    sys.stdout.write("| case | supported | contradicted | covered | bias / sd |\n|---|---|---|---|---|\n")
    for name, run in cases:
        rates = run(SIMULATIONS)
        values = (rates.supported, rates.contradicted, rates.covered, rates.bias)
        sys.stdout.write(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
