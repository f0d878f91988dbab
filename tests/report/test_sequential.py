"""Repeated tests: error rates over all looks and the seeds that they take, by simulation.

``python -m tests.report.test_sequential`` prints the tables.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wgan_sweep.report.inference import comparisons, spreads
from wgan_sweep.report.inference.correlations import correlated
from wgan_sweep.report.inference.evidence import LEVEL, Evidence, holm
from wgan_sweep.report.inference.means import every_mean_lower, means_within, seeds_for_means
from wgan_sweep.report.inference.sequential import Looks, is_futile
from wgan_sweep.report.inference.spreads import spread_less
from wgan_sweep.report.inference.times import sooner

from .test_calibration import CURVES, MARGINS, MEANS, SPREADS, TIMES, Sampler, Side

TWENTY = Looks.up_to(21)
"""Looks after 2, 3, ..., 21 seeds."""
SIMULATIONS = 400

Samples = list[list[float]]
Test = Callable[..., Evidence]


FAST: list[tuple[Any, str, Any]] = [
    (spreads, "DRAWS", 2000),
    (spreads, "_bound", lambda _, estimate, __: estimate),
    (comparisons.Unpaired, "isf", lambda _comparison, _p, pairs: np.zeros(len(pairs.first))),
]
"""Few draws, and no intervals, which take most of the time."""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, replacement in FAST:
        monkeypatch.setattr(module, name, replacement)


@dataclass(frozen=True)
class Outcome:
    """A simulated experiment."""

    corrected: str
    """The verdict; empty if there is none."""
    uncorrected: str
    """The verdict of the test that is repeated without a correction."""
    seeds: int
    """Seeds per cell at which the corrected test ended."""


def p_values(test: Test, sides: Sequence[Sampler], looks: Looks, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the p-values at each look: of all seeds up to it, without any correction."""
    full = [replace(side, seeds=looks.seeds[-1]).sample(rng) for side in sides]
    results = [test(*([cell[:seeds] for cell in side] for side in full)) for seeds in looks.seeds]
    return [(evidence.p_for, evidence.p_against) for evidence in results]


def follow(looks: Looks, values: Sequence[tuple[float, float]]) -> Outcome:
    """Return the outcome of an experiment that ends as soon as there is a verdict."""
    uncorrected = next((verdict for both in values if (verdict := verdict_of(*both))), "")
    p_for = p_against = 1.0
    for look, (first, second) in enumerate(values):
        p_for, p_against = looks.adjusted(look, first, p_for), looks.adjusted(look, second, p_against)
        if verdict := verdict_of(p_for, p_against):
            return Outcome(verdict, uncorrected, looks.seeds[look])
    return Outcome("", uncorrected, looks.seeds[-1])


def verdict_of(p_for: float, p_against: float) -> str:
    return "supported" if p_for < LEVEL / 2 else "contradicted" if p_against < LEVEL / 2 else ""


def simulate(test: Test, sides: Sequence[Sampler], looks: Looks, simulations: int) -> list[Outcome]:
    rng = np.random.default_rng(1)
    return [follow(looks, p_values(test, sides, looks, rng)) for _ in range(simulations)]


def rate(outcomes: Sequence[Outcome], name: str) -> float:
    """Return the share of experiments with a verdict."""
    return float(np.mean([bool(getattr(outcome, name)) for outcome in outcomes]))


def error_bound(simulations: int) -> float:
    return LEVEL + 2 * float(np.sqrt(LEVEL * (1 - LEVEL) / simulations))


def test_looks_spend_the_whole_error_rate() -> None:
    looks = Looks.up_to(20, first=3, batch=4)
    assert looks.seeds == (3, 7, 11, 15, 19, 20)
    assert looks.shares == pytest.approx([9 / 400, 40 / 400, 72 / 400, 104 / 400, 136 / 400, 39 / 400])
    assert sum(looks.shares) == pytest.approx(1)
    assert looks.adjusted(0, 0.001) == pytest.approx(
        0.001 * 400 / 9
    )  # below the level at a look if p is below its share
    assert looks.adjusted(1, 0.001, 0.004) == 0.004
    assert looks.adjusted(1, 0.0003, 0.004) == pytest.approx(0.003)
    assert Looks.up_to(2).seeds == (2,)
    assert Looks.up_to(2).shares == (1,)
    assert Looks.up_to(5, first=5).seeds == (5,)


def test_a_claim_that_is_decided_early_would_be_decided_at_the_last_look() -> None:
    """Holm's correction at any look decides no claim that it does not decide with the p-values over all looks."""
    looks, rng = Looks.up_to(8), np.random.default_rng(0)
    decided = 0
    for _ in range(300):
        values = rng.beta(0.3, 3, (len(looks.seeds), 4))
        running, early = np.ones(4), np.zeros(4, bool)
        for look, row in enumerate(values):
            running = np.array([looks.adjusted(look, p, before) for p, before in zip(row, running, strict=True)])
            early |= np.array(holm(list(running))) < LEVEL / 2
        assert list(early) == [p < LEVEL / 2 for p in holm(list(running))]
        decided += int(early.sum())
    assert 0 < decided < 300 * 4


def test_futility_needs_two_looks_with_enough_seeds() -> None:
    assert not is_futile([(2, None), (3, None)], 20)
    assert is_futile([(2, None), (3, None), (4, 21)], 20)
    assert not is_futile([(3, None), (4, 20)], 20)
    assert not is_futile([(3, None), (4, 20), (5, 50)], 20)
    assert not is_futile([(9, None)], 20)


def fast_values(noise: float, effect: float, simulations: int) -> np.ndarray:
    """Return Welch's one-sided p-values of simulated experiments: ``[looks, simulations, directions]``."""
    rng = np.random.default_rng(2)
    lower, higher = rng.normal(0, noise, (21, simulations)), rng.normal(effect, 1, (21, simulations))
    values = [
        [
            stats.ttest_ind(higher[:n], lower[:n], equal_var=False, alternative=side).pvalue
            for side in ("greater", "less")
        ]
        for n in TWENTY.seeds
    ]
    return np.moveaxis(np.array(values), 1, 2)


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_the_error_rate_holds_over_twenty_looks_and_without_correction_it_does_not(noise: float) -> None:
    """With another implementation of the test, whose error rate is near the nominal one from a few seeds on."""
    values = fast_values(noise, 0.0, 2000)
    outcomes = [follow(TWENTY, [tuple(look) for look in values[:, trial]]) for trial in range(values.shape[1])]
    assert rate(outcomes, "corrected") <= error_bound(2000)
    assert rate(outcomes, "corrected") > 0.002  # the test is conservative, not dead
    assert rate(outcomes, "uncorrected") > error_bound(2000) + 0.05


NULLS: dict[str, tuple[Test, tuple[Sampler, ...], bool]] = {
    **{
        f"means, {name}": (every_mean_lower, MEANS[name], is_liberal)
        for name, is_liberal in (
            ("1 x 1, equal noise", True),
            ("1 x 1, noise 4 : 1", True),
            ("1 x 1, heavy tails", True),
            ("1 x 3, one apart", True),
            ("6 x 6", False),
        )
    },
    "spreads, spread near the noise, noise 4 : 1": (spread_less, SPREADS["spread near the noise, noise 4 : 1"], False),
    "spreads, two cells": (spread_less, SPREADS["two cells"], False),
    "equivalence, two cells at the margin": (
        lambda cells: means_within(cells, 2.0),
        (MARGINS["two cells at the margin"][0],),
        True,
    ),
    "curves, trends in random directions": (correlated, (CURVES["trends in random directions, n = 6"],), True),
    "times, 1 x 1": (sooner, TIMES["1 x 1, n = 6"], True),
    "times, 1 x 1, unequal censoring": (sooner, TIMES["1 x 1, unequal censoring, n = 6"], False),
}
"""Tests, cells, and whether the test without correction is known to exceed the error rate."""


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", NULLS)
def test_error_rates_over_twenty_looks(name: str) -> None:
    test, sides, is_liberal = NULLS[name]
    outcomes = simulate(test, sides, TWENTY, SIMULATIONS)
    assert rate(outcomes, "corrected") <= error_bound(SIMULATIONS)
    if is_liberal:
        assert rate(outcomes, "uncorrected") > error_bound(SIMULATIONS)


ALTERNATIVES: dict[str, tuple[Side, Side]] = {
    "means 1 x 1, 1 sd": (Side([0]), Side([1])),
    "means 1 x 1, 2 sd": (Side([0]), Side([2])),
    "means 1 x 3, 3 sd": (Side([0]), Side([3, 3, 3])),
}
"""Cases in which every mean of the first side is lower."""


def fixed_seeds(sides: tuple[Side, Side], power: float, simulations: int) -> int:
    """Return the seeds per cell with which a single test has a power; 21 if none has."""
    rng = np.random.default_rng(3)
    values = np.array([p_values(every_mean_lower, sides, TWENTY, rng) for _ in range(simulations)])[..., 0]
    powers = np.mean(values < LEVEL / 2, axis=0)
    return next((n for n, reached in zip(TWENTY.seeds, powers, strict=True) if reached >= power), TWENTY.seeds[-1])


def compared(sides: tuple[Side, Side], simulations: int) -> tuple[float, float, int]:
    """Return the power, the mean number of seeds, and the seeds of a single test with the same power."""
    outcomes = simulate(every_mean_lower, sides, TWENTY, simulations)
    power = float(np.mean([outcome.corrected == "supported" for outcome in outcomes]))
    return power, float(np.mean([outcome.seeds for outcome in outcomes])), fixed_seeds(sides, power, simulations)


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", ALTERNATIVES)
def test_true_claims_are_decided_before_the_last_look(name: str) -> None:
    power, seeds, fixed = compared(ALTERNATIVES[name], 200)
    assert power > 0.45
    assert seeds < TWENTY.seeds[-1]
    assert fixed <= TWENTY.seeds[-1]
    assert seeds < 2.5 * fixed  # what it costs not to know the effect


def power_with_futility(sides: tuple[Side, Side], simulations: int) -> tuple[float, float, float]:
    """Return the power, the mean number of seeds, and how often an experiment ends as undecidable."""
    rng, supported, seeds, futile = np.random.default_rng(1), 0, [], 0
    for _ in range(simulations):
        lower, higher = (replace(side, seeds=TWENTY.seeds[-1]).sample(rng) for side in sides)
        p_for, p_against, needed = 1.0, 1.0, list[tuple[int, int | None]]()
        for look, number in enumerate(TWENTY.seeds):
            cells = [[cell[:number] for cell in side] for side in (lower, higher)]
            evidence = every_mean_lower(*cells)
            p_for = TWENTY.adjusted(look, evidence.p_for, p_for)
            p_against = TWENTY.adjusted(look, evidence.p_against, p_against)
            verdict = verdict_of(p_for, p_against)
            needed.append((number, None if verdict else seeds_for_means(*cells)))
            is_undecidable = not verdict and is_futile(needed, TWENTY.seeds[-1])
            if verdict or is_undecidable or number == TWENTY.seeds[-1]:
                supported, futile = supported + (verdict == "supported"), futile + is_undecidable
                seeds.append(number)
                break
    return supported / simulations, float(np.mean(seeds)), futile / simulations


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_futility_ends_hopeless_experiments_and_few_others() -> None:
    power, seeds, futile = power_with_futility((Side([0]), Side([0.1])), 60)
    assert futile > 0.7
    assert seeds < 15
    power, _, futile = power_with_futility((Side([0]), Side([2])), 60)
    assert power > 0.85
    assert futile < 0.1


def main() -> None:
    for module, name, replacement in FAST:
        setattr(module, name, replacement)
    sys.stdout.write("| null | corrected | uncorrected |\n|---|---|---|\n")
    for name, (test, sides, _) in NULLS.items():
        outcomes = simulate(test, sides, TWENTY, SIMULATIONS)
        corrected, uncorrected = rate(outcomes, "corrected"), rate(outcomes, "uncorrected")
        sys.stdout.write(f"| {name} | {corrected:.3f} | {uncorrected:.3f} |\n")
        sys.stdout.flush()
    sys.stdout.write("\n| alternative | power | mean seeds | fixed seeds, equal power |\n|---|---|---|---|\n")
    for name, both in ALTERNATIVES.items():
        power, seeds, fixed = compared(both, SIMULATIONS)
        sys.stdout.write(f"| {name} | {power:.3f} | {seeds:.1f} | {fixed} |\n")
        sys.stdout.flush()
    sys.stdout.write("\n| effect | power with futility | mean seeds | undecidable |\n|---|---|---|---|\n")
    for effect in (0.0, 0.5, 1.0, 2.0):
        values = power_with_futility((Side([0]), Side([effect])), 100)
        sys.stdout.write(f"| {effect:g} sd | " + " | ".join(f"{value:.3f}" for value in values) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
