"""Error rates, coverage and power of the tests of claims, by simulation: rates are at most nominal in all cases.

``python -m tests.report.test_calibration`` prints the table.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytest
from scipy import stats

from wgan_sweep.report.inference import spreads
from wgan_sweep.report.inference.comparisons import Comparison, Paired, Unpaired
from wgan_sweep.report.inference.correlations import correlated, fisher_z, rank_correlation
from wgan_sweep.report.inference.evidence import LEVEL, Evidence
from wgan_sweep.report.inference.means import every_mean_lower, means_within
from wgan_sweep.report.inference.rates import rarer
from wgan_sweep.report.inference.spreads import spread_less
from wgan_sweep.report.inference.times import Time, sooner

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
class Blocks:
    """The cells of both sides, which have the same seeds. Part of the noise is common to the runs of a seed."""

    means: Sequence[float]
    shares: Sequence[float] | float
    """Standard deviations of the common noise in each cell; those of opposite signs vary against each other."""
    sds: Sequence[float] | float = 1.0
    seeds: int = 3
    lower: int = 1
    """Number of cells of the first side."""

    def sample(self, rng: np.random.Generator) -> list[list[float]]:
        cells = len(self.means)
        shares, sds = (np.broadcast_to(values, cells)[:, None] for values in (self.shares, self.sds))
        noise = shares * rng.normal(size=self.seeds) + sds * rng.normal(size=(cells, self.seeds))
        return (np.array(self.means)[:, None] + noise).tolist()

    def ordered(self, cells: list[list[float]]) -> Evidence:
        return every_mean_lower(cells[: self.lower], cells[self.lower :], compare=Paired)

    def spread(self, cells: list[list[float]]) -> Evidence:
        return spread_less(cells[: self.lower], cells[self.lower :], compare=Paired)


class Sampler(Protocol):
    """Draws the runs of the cells of one side."""

    def sample(self, rng: np.random.Generator) -> list[list[Any]]: ...


@dataclass(frozen=True)
class Events:
    """Events and runs of each seed, of which each cell has one run; runs of a seed have correlated causes."""

    rate: float
    cells: int = 1
    seeds: int = 8
    correlation: float = 0.0
    """Of a normal variable for each run; the event happens below a quantile of it."""

    def sample(self, rng: np.random.Generator) -> list[list[Any]]:
        common, own = rng.normal(size=(self.seeds, 1)), rng.normal(size=(self.seeds, self.cells))
        values = np.sqrt(self.correlation) * common + np.sqrt(1 - self.correlation) * own
        happened = values < stats.norm.ppf(self.rate)
        return [[(int(count), self.cells)] for count in happened.sum(axis=1)]


def rarer_by_seed(first: list[list[Any]], second: list[list[Any]]) -> Evidence:
    return rarer(*([counts for (counts,) in side] for side in (first, second)))


EVENTS: dict[str, tuple[Events, Events]] = {
    "1 x 1 cells": (Events(0.4), Events(0.4)),
    "3 x 3 cells, correlation 0.5": (Events(0.4, 3, 8, 0.5), Events(0.4, 3, 8, 0.5)),
    "6 x 6 cells, 5 seeds, correlation 0.63": (Events(0.4, 6, 5, 0.63), Events(0.4, 6, 5, 0.63)),
    "12 x 3 cells, 5 seeds, correlation 0.5": (Events(0.4, 12, 5, 0.5), Events(0.4, 3, 5, 0.5)),
    "3 x 3 cells, correlations 0 and 0.9": (Events(1 / 3, 3, 8, 0.0), Events(1 / 3, 3, 8, 0.9)),
    "1 x 6 cells, correlation 0.5": (Events(0.4), Events(0.4, 6, 8, 0.5)),
}

Pair = tuple[np.ndarray, np.ndarray]
DrawCurves = Callable[[np.random.Generator, tuple[int, int]], Pair]
"""Draws two curves of each run: ``[runs, steps]`` each."""


def walk(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.cumsum(rng.normal(size=shape), axis=1)


def independent(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    return rng.normal(size=shape), rng.normal(size=shape)


def walks(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    return walk(rng, shape), walk(rng, shape)


def falling(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A metric that falls in every run, with noise."""
    return -np.arange(shape[1]) + 2 * rng.normal(size=shape)


def walk_and_falling(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    return walk(rng, shape), falling(rng, shape)


def trends(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """The other measurement rises or falls as steadily, either in half of the runs."""
    return rng.choice([-1, 1], (shape[0], 1)) * falling(rng, shape), falling(rng, shape)


@dataclass(frozen=True)
class Coupled:
    """Draws curves whose values have a common part, and an own part for each curve."""

    own: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
        common = walk(rng, shape)
        return common + self.own * rng.normal(size=shape), common + self.own * rng.normal(size=shape)


@dataclass(frozen=True)
class Curves:
    """The correlations along the runs of some cells, by Fisher's z."""

    draw: DrawCurves
    seeds: int
    steps: int = 20
    cells: int = 1

    def sample(self, rng: np.random.Generator) -> list[list[float]]:
        return [
            [
                fisher_z(rank_correlation(first, second), self.steps)
                for first, second in zip(*self.draw(rng, (self.seeds, self.steps)), strict=True)
            ]
            for _ in range(self.cells)
        ]

    def centre(self) -> float:
        """The correlation at the mean of z, by simulation."""
        first, second = (
            stats.rankdata(side, axis=1) for side in self.draw(np.random.default_rng(0), (8000, self.steps))
        )
        differences = np.sum((first - second) ** 2, axis=1)  # without ties, these give Spearman's correlation
        correlations = 1 - 6 * differences / (self.steps * (self.steps**2 - 1))
        return float(np.tanh(np.mean([fisher_z(value, self.steps) for value in correlations])))


@dataclass(frozen=True)
class Reaching:
    """Times at which runs reach a goal: lognormal, known at the steps of a grid, up to a last time of each run."""

    logs: Sequence[float] = (0.0,)
    """Logarithms of the median of each cell."""
    sd: float = 1.0
    """Of the logarithms."""
    seeds: int = 5
    until: tuple[float, float] = (np.inf, np.inf)
    """The last times are spread evenly over this range, independently of the times."""
    grid: float = 0.0
    lost: float = 0.0
    """Share of runs that never reach it."""

    def sample(self, rng: np.random.Generator) -> list[list[Time]]:
        return [[self._time(rng, log) for _ in range(self.seeds)] for log in self.logs]

    def _time(self, rng: np.random.Generator, log: float) -> Time:
        time = float(np.exp(log + self.sd * rng.normal()))
        if self.grid:
            time = self.grid * float(np.ceil(time / self.grid))
        last = float(rng.uniform(*self.until)) if np.isfinite(self.until[0]) else np.inf
        if rng.random() < self.lost:
            return Time(np.inf, is_reached=False)
        return Time(min(time, last), is_reached=time <= last)


@dataclass(frozen=True)
class Rates:
    """Shares of simulations."""

    supported: float
    contradicted: float
    covered: float
    """Intervals that contain the true effect."""
    bias: float
    """Mean of the estimated effect minus the true one, in standard deviations of the estimate."""


def simulate(test: Callable[..., Evidence], sides: tuple[Sampler, ...], effect: float, simulations: int) -> Rates:
    rng = np.random.default_rng(1)
    results = [test(*(side.sample(rng) for side in sides)) for _ in range(simulations)]
    supported = [result.p_for < LEVEL / 2 for result in results]
    contradicted = [result.p_against < LEVEL / 2 for result in results]
    for result, is_for, is_against in zip(results, supported, contradicted, strict=True):
        assert (result.low > 0) == is_for, result  # a verdict and an interval with 0 exclude each other
        assert (result.high < 0) == is_against, result
        assert result.low <= result.effect <= result.high, result
    estimates = np.array([result.effect for result in results if np.isfinite(result.effect)])
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

BLOCKS: dict[str, Blocks] = {
    "1 x 1, no common noise": Blocks([0, 0], 0),
    "1 x 1, correlation 0.8": Blocks([0, 0], 2),
    "1 x 1, correlation 0.8, n = 2": Blocks([0, 0], 2, seeds=2),
    "1 x 1, correlation -0.8": Blocks([0, 0], [2, -2]),
    "1 x 1, correlation 0.8, noise 4 : 1": Blocks([0, 0], [8, 2], [4, 1]),
    "1 x 3, correlation 0.8": Blocks([0, 0, 0, 0], 2),
    "1 x 3, one apart, correlation 0.8": Blocks([0, 0, 9, 9], 2),
    "6 x 6, correlation 0.8, one noisy cell, n = 5": Blocks(FLAT * 2, 2, [4.0, *[1.0] * 11], 5, 6),
}
"""Cases of paired runs in which the smallest difference of means is 0."""

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

PAIRED_SPREADS: dict[str, Blocks] = {
    "flat, n = 5": Blocks(FLAT * 2, 2, seeds=5, lower=6),
    "flat, correlations 0.9 and 0, n = 20": Blocks(
        [0.0] * 20, [np.sqrt(0.9)] * 10 + [0.0] * 10, [np.sqrt(0.1)] * 10 + [1.0] * 10, 20, 10
    ),
    "flat, one noisy cell, n = 5": Blocks(FLAT * 2, 2, [*ONE_NOISY, *[1.0] * 6], 5, 6),
    "wide, no common noise, n = 5": Blocks(WIDE * 2, 0, seeds=5, lower=6),
    "wide, correlation 0.8, n = 10": Blocks(WIDE * 2, 2, seeds=10, lower=6),
    "wide, noise 4 : 1, n = 10": Blocks(WIDE * 2, 2, [4.0] * 6 + [1.0] * 6, 10, 6),
    "wide, a cell varies against the others, n = 10": Blocks(WIDE * 2, [*[2.0] * 5, -2.0, *[2.0] * 6], 1, 10, 6),
    "wide, the sides vary together, n = 10": Blocks(WIDE * 2, [-2.0, -2.0, -2.0, 2.0, 2.0, 2.0] * 2, 1, 10, 6),
    "spike and random, n = 10": Blocks([*SPIKE, *np.array(WIDE) * np.std(SPIKE) / np.std(WIDE)], 2, 1, 10, 6),
    "spread near the noise, n = 10": Blocks(NEAR * 2, 2, seeds=10, lower=6),
    "two cells, n = 2": Blocks([-3.0, 3.0] * 2, 2, seeds=2, lower=2),
    "two cells, noise 4 : 1, n = 5": Blocks([-3.0, 3.0] * 2, 2, [4.0, 4.0, 1.0, 1.0], 5, 2),
}
"""Cases of paired runs in which both sides' means have the same standard deviation."""

MARGINS: dict[str, tuple[Side, float]] = {
    "two cells at the margin": (Side([0.0, 2.0]), 2.0),
    "two cells at the margin, n = 2": (Side([0.0, 2.0], [1, 4], 2), 2.0),
    "six cells, one at the margin": (Side([0.0, 0.0, 0.0, 0.0, 0.0, 8.0], 1, 5), 8.0),
    "six cells, three at the margin": (Side([0.0, 0.0, 0.0, 8.0, 8.0, 8.0], 1, 5), 8.0),
    "six cells, one noisy": (Side([0.0, 0.0, 0.0, 0.0, 0.0, 8.0], ONE_NOISY, 5), 8.0),
}
"""Cases whose largest difference of means is the margin: neither supported nor contradicted."""

PAIRED_MARGINS: dict[str, tuple[Blocks, float]] = {
    "two cells at the margin, n = 2": (Blocks([0.0, 2.0], 2, [1, 4], 2), 2.0),
    "six cells, one at the margin": (Blocks([*FLAT[1:], 8.0], 2, seeds=5), 8.0),
    "six cells, one noisy": (Blocks([*FLAT[1:], 8.0], 2, ONE_NOISY, 5), 8.0),
}
"""Cases of paired runs whose largest difference of means is the margin."""

CURVES: dict[str, Curves] = {
    **{
        f"{name}, n = {seeds}": Curves(draw, seeds)
        for name, draw in (
            ("independent values", independent),
            ("random walks", walks),
            ("a random walk and a falling curve", walk_and_falling),
            ("trends in random directions", trends),
        )
        for seeds in (3, 6, 10)
    },
    "random walks, 5 steps, n = 6": Curves(walks, 6, steps=5),
    "random walks, 200 steps, n = 6": Curves(walks, 6, steps=200),
    "trends in random directions, 3 cells, n = 6": Curves(trends, 6, cells=3),
    "trends in random directions, n = 20": Curves(trends, 20),
}
"""Cases in which the curves of a run do not depend on each other."""

THRESHOLDS: dict[str, Curves] = {
    "coupled, n = 6": Curves(Coupled(2.0), 6),
    "coupled closely, n = 10": Curves(Coupled(0.5), 10),
    "coupled, 5 steps, n = 10": Curves(Coupled(1.0), 10, steps=5),
    "coupled, 3 cells, n = 10": Curves(Coupled(2.0), 10, cells=3),
}
"""Cases whose correlation is compared with the true one."""

TIMES: dict[str, tuple[Reaching, Reaching]] = {
    **{f"1 x 1, n = {n}": (Reaching(seeds=n), Reaching(seeds=n)) for n in (5, 6, 8, 10)},
    "1 x 1, n = 6 and 15": (Reaching(seeds=6), Reaching(seeds=15)),
    **{
        f"1 x 1, {name}, n = {first} and {second}": (Reaching(sd=sd, seeds=first), Reaching(seeds=second))
        for name, sd in (("spreads 4 : 1", 4.0), ("spreads 20 : 1", 20.0))
        for first, second in ((6, 6), (10, 10), (20, 20), (6, 15), (15, 6), (4, 10))
    },
    **{
        f"1 x 1, unequal censoring, n = {n}": (
            Reaching(seeds=n, until=(0.3, 1.5)),
            Reaching(seeds=n, until=(1.0, 6.0)),
        )
        for n in (6, 10)
    },
    "1 x 1, censoring of one side, n = 10": (Reaching(seeds=10, until=(0.2, 2.0)), Reaching(seeds=10)),
    "1 x 1, unequal censoring, n = 6 and 15": (
        Reaching(seeds=6, until=(0.3, 1.5)),
        Reaching(seeds=15, until=(1.0, 6.0)),
    ),
    "1 x 1, grid, censored, n = 10": (
        Reaching(seeds=10, until=(2.0, 2.0), grid=0.5),
        Reaching(seeds=10, until=(2.0, 2.0), grid=0.5),
    ),
    "1 x 1, half of the runs lost, n = 10": (Reaching(seeds=10, lost=0.5), Reaching(seeds=10, lost=0.5)),
    "1 x 3, n = 8": (Reaching(seeds=8), Reaching([0.0, 0.0, 0.0], seeds=8)),
    "1 x 3, one apart, n = 8": (Reaching(seeds=8), Reaching([0.0, 5.0, 5.0], seeds=8)),
    "3 x 3, n = 10": (Reaching([0.0] * 3, seeds=10), Reaching([0.0] * 3, seeds=10)),
}
"""Cases in which the smallest ratio of times is 1."""

FAR = list(np.array(WIDE) * 2)
ALTERNATIVES: dict[str, tuple[Callable[..., Evidence], tuple[Sampler, ...], float]] = {
    "means 1 x 1, 3 sd, n = 3": (every_mean_lower, (Side([0]), Side([3])), 3),
    "means 1 x 1, 3 sd, n = 5": (every_mean_lower, (Side([0], seeds=5), Side([3], seeds=5)), 3),
    "means 1 x 3, 3 sd, n = 5": (every_mean_lower, (Side([0], seeds=5), Side([3, 3, 3], seeds=5)), 3),
    "means 6 x 6, 3 sd, n = 10": (every_mean_lower, (Side(FLAT, seeds=10), Side([3.0] * 6, seeds=10)), 3),
    "paired means 1 x 3, 3 sd, correlation 0.8, n = 3": (
        Blocks([0, 3, 3, 3], 2).ordered,
        (Blocks([0, 3, 3, 3], 2),),
        3,
    ),
    "spreads flat and wide, n = 3": (spread_less, (Side(FLAT), Side(WIDE)), float(np.std(WIDE, ddof=1))),
    "spreads wide and twice as wide, n = 5": (
        spread_less,
        (Side(WIDE, seeds=5), Side(FAR, seeds=5)),
        float(np.std(WIDE, ddof=1)),
    ),
    "paired spreads flat and wide, correlation 0.8, n = 5": (
        Blocks(FLAT + WIDE, 2, seeds=5, lower=6).spread,
        (Blocks(FLAT + WIDE, 2, seeds=5, lower=6),),
        float(np.std(WIDE, ddof=1)),
    ),
    "correlation, coupled, n = 6": (correlated, (Curves(Coupled(1.0), 6),), Curves(Coupled(1.0), 6).centre()),
    "correlation, coupled, 3 cells, n = 10": (
        correlated,
        (Curves(Coupled(1.0), 10, cells=3),),
        Curves(Coupled(1.0), 10).centre(),
    ),
    "correlation, coupled closely, above 0.5, n = 10": (
        partial(correlated, threshold=0.5),
        (Curves(Coupled(0.5), 10),),
        Curves(Coupled(0.5), 10).centre() - 0.5,
    ),
    "times, 3 sd, n = 6": (sooner, (Reaching(seeds=6), Reaching([3.0], seeds=6)), 3.0),
    "times, 3 sd, unequal censoring, n = 8": (
        sooner,
        (Reaching(seeds=8, until=(3.0, 9.0)), Reaching([3.0], seeds=8, until=(20.0, 60.0))),
        3.0,
    ),
    "times, 1 x 3, 3 sd, n = 10": (sooner, (Reaching(seeds=10), Reaching([3.0] * 3, seeds=10)), 3.0),
}
"""Cases in which the statement is true, with the true effect."""


def equivalence(side: Sampler, margin: float, simulations: int, compare: type[Comparison] = Unpaired) -> Rates:
    return simulate(lambda cells: means_within(cells, margin, compare=compare), (side,), 0.0, simulations)


def at_threshold(curves: Curves, simulations: int) -> Rates:
    return simulate(partial(correlated, threshold=curves.centre()), (curves,), 0.0, simulations)


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
@pytest.mark.parametrize("name", BLOCKS)
def test_error_rate_and_coverage_for_paired_means(name: str) -> None:
    rates = simulate(BLOCKS[name].ordered, (BLOCKS[name],), 0.0, 4 * SIMULATIONS)  # some are exact
    assert rates.supported + rates.contradicted <= LEVEL + SE
    assert rates.covered >= 1 - LEVEL - SE
    assert abs(rates.bias) < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SPREADS)
def test_error_rate_and_coverage_for_spreads(name: str) -> None:
    assert_calibrated(simulate(spread_less, SPREADS[name], 0.0, SIMULATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRED_SPREADS)
def test_error_rate_and_coverage_for_paired_spreads(name: str) -> None:
    rates = simulate(PAIRED_SPREADS[name].spread, (PAIRED_SPREADS[name],), 0.0, SIMULATIONS)
    assert_calibrated(rates)
    assert max(rates.supported, rates.contradicted) <= LEVEL / 2 + 2 * SE


@pytest.mark.slow
@pytest.mark.parametrize("name", MARGINS)
def test_error_rate_and_coverage_for_equivalence(name: str) -> None:
    assert_calibrated(equivalence(*MARGINS[name], SIMULATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRED_MARGINS)
def test_error_rate_and_coverage_for_equivalence_of_paired_means(name: str) -> None:
    assert_calibrated(equivalence(*PAIRED_MARGINS[name], SIMULATIONS, Paired))


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_error_rate_and_coverage_for_independent_curves(name: str) -> None:
    assert_calibrated(simulate(correlated, (CURVES[name],), 0.0, SIMULATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", THRESHOLDS)
def test_error_rate_and_coverage_for_correlations_at_the_threshold(name: str) -> None:
    assert_calibrated(at_threshold(THRESHOLDS[name], 4 * SIMULATIONS))  # z is not quite symmetric


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMES)
def test_error_rate_and_coverage_for_times(name: str) -> None:
    assert_calibrated(simulate(sooner, TIMES[name], 0.0, SIMULATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVENTS)
def test_error_rate_and_coverage_for_events(name: str) -> None:
    assert_calibrated(simulate(rarer_by_seed, EVENTS[name], 0.0, SIMULATIONS))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("test", "sides"),
    [
        (rarer_by_seed, EVENTS["6 x 6 cells, 5 seeds, correlation 0.63"]),
        (correlated, (CURVES["trends in random directions, n = 6"],)),
        (sooner, TIMES["1 x 1, spreads 20 : 1, n = 20 and 20"]),
    ],
)
def test_few_false_statements_are_found(test: Callable[..., Evidence], sides: tuple[Sampler, ...]) -> None:
    rates = simulate(test, sides, 0.0, 300)
    assert rates.supported + rates.contradicted <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 300)


@pytest.mark.integration
@pytest.mark.parametrize("name", ALTERNATIVES)
def test_true_statements_are_found(name: str) -> None:
    test, sides, effect = ALTERNATIVES[name]
    rates = simulate(test, sides, effect, 60)
    assert rates.supported > 0.25  # the least of these powers is 0.41, by 2,000 simulations
    assert rates.contradicted == 0
    assert rates.covered > 0.85


def main() -> None:
    spreads.DRAWS = 1000
    cases = [
        *((f"means, {name}", partial(simulate, every_mean_lower, sides, 0.0)) for name, sides in MEANS.items()),
        *((f"paired means, {name}", partial(simulate, case.ordered, (case,), 0.0)) for name, case in BLOCKS.items()),
        *((f"spreads, {name}", partial(simulate, spread_less, sides, 0.0)) for name, sides in SPREADS.items()),
        *(
            (f"paired spreads, {name}", partial(simulate, case.spread, (case,), 0.0))
            for name, case in PAIRED_SPREADS.items()
        ),
        *((f"equivalence, {name}", partial(equivalence, *case)) for name, case in MARGINS.items()),
        *(
            (f"paired equivalence, {name}", partial(equivalence, *case, compare=Paired))
            for name, case in PAIRED_MARGINS.items()
        ),
        *((f"curves, {name}", partial(simulate, correlated, (side,), 0.0)) for name, side in CURVES.items()),
        *((f"threshold, {name}", partial(at_threshold, side)) for name, side in THRESHOLDS.items()),
        *((f"times, {name}", partial(simulate, sooner, sides, 0.0)) for name, sides in TIMES.items()),
        *((f"events, {name}", partial(simulate, rarer_by_seed, sides, 0.0)) for name, sides in EVENTS.items()),
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
