"""Figures and tables of critics beside potentials, slopes and axioms, against known records; closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest

from wgan_sweep.runs.record import Record, Status
from wgan_sweep.theory import closed_forms, divergence_axioms, potential, slopes

from ..test_theory import assert_has_picture, record, rows


@pytest.mark.parametrize("distance", [-1.0, 0.0, 0.5, 3.0])
@pytest.mark.parametrize(("k", "p"), [(1.0, 2.0), (0.5, 4.0), (2.0, 1.5)])
@pytest.mark.parametrize("centre", [0.0, 1.0])
@pytest.mark.parametrize("clip", [0.5, 10.0])
def test_the_objective_of_clipped_linear_critics_is_the_maximum_over_their_slopes(
    distance: float, k: float, p: float, centre: float, clip: float
) -> None:
    weights = np.linspace(-clip, clip, 400_001)
    values = distance * weights - k * abs(abs(weights) - centre) ** p
    slope, value = closed_forms.clipped_objective_of_points(distance, k, p, centre, clip)
    assert value == pytest.approx(values.max(), abs=1e-6)
    assert distance * math.copysign(slope, distance) - k * abs(slope - centre) ** p == pytest.approx(value)
    if clip == 10 and centre == 0:
        assert (slope, value) == pytest.approx(closed_forms.divergence_of_points(abs(distance), k, p))


def test_the_penalty_form_is_no_divergence_over_critics_with_slopes_below_its_centre() -> None:
    def value(distance: float, centre: float) -> float:
        return closed_forms.clipped_objective_of_points(distance, 1.0, 2.0, centre, 0.5)[1]

    assert value(0.0, 1.0) == -0.25  # equal distributions
    assert value(0.5, 1.0) == 0.0  # different ones
    assert value(0.0, 0.0) == 0.0
    assert all(value(d, 0.0) > 0 for d in (-1.0, -0.01, 0.01, 1.0))


@pytest.mark.parametrize("k", [0.5, 2.0])
@pytest.mark.parametrize("distance", [0.1, 1.0, 50.0])
def test_the_slope_between_points_tends_to_that_of_the_potential(k: float, distance: float) -> None:
    small, large, larger = (abs(closed_forms.divergence_of_points(distance, k, p)[0] - 1) for p in (4.0, 1e3, 1e5))
    assert larger < large < small
    assert larger < 2e-4
    assert closed_forms.divergence_of_points(distance, 0.5, 2.0)[0] == pytest.approx(distance)


def test_slopes_are_tabulated_beside_their_closed_forms(tmp_path: Path) -> None:
    def cell(name: str, at: float, p: float, slope: float) -> Record:
        place = {"data__at": [at], "model__place": [0.0]}
        return record(tmp_path, name, {"critic_gradient_mean": slope}, div__k=0.5, div__p=p, **place)

    summary = slopes.summarise(
        [cell("a", 8.0, 2.0, 8.08), cell("b", 8.0, 5.0, 3.2**0.25), cell("c", -2.0, 2.0, 2.0)], tmp_path
    )
    assert rows(summary) == [
        ["k", "d", "p=2", "p=5"],
        ["0.5", "2", "2.0000, 2.0000", "-"],
        ["0.5", "8", "8.0000, 8.0800", "1.3375, 1.3375"],
    ]
    assert "Largest difference between trained and closed form: 1.00%" in summary.table
    assert_has_picture(summary)


def test_axioms_are_tabulated_with_the_exchanged_distributions_and_the_best_seed(tmp_path: Path) -> None:
    def cell(name: str, at: float, centre: float, loss: float, seed: int = 0) -> Record:
        keys = {"penalty__weight": 1.0, "penalty__exponent": 2.0, "penalty__centre": centre, "clip__c": 0.5}
        values = {f"constraint__{key}": value for key, value in keys.items()}
        return record(
            tmp_path, name, {"eval_critic_loss": loss}, seed=seed, data__at=[at], model__place=[0.0], **values
        )

    summary = divergence_axioms.summarise(
        [
            cell("a", 0.5, 1.0, 0.5, seed=0),
            cell("b", 0.5, 1.0, 0.01, seed=1),
            cell("c", -0.5, 1.0, 0.02),
            cell("d", 0.0, 0.0, 0.0),
        ],
        tmp_path,
    )
    assert rows(summary)[1:] == [
        ["n^2", "0.5", "0", "0.0000", "0.0000", "0.0000"],
        ["abs(n - 1)^2", "0.5", "-0.5", "0.0000", "-0.0200", "-0.0100"],
        ["abs(n - 1)^2", "0.5", "0.5", "0.0000", "-0.0100", "-0.0200"],
    ]
    assert_has_picture(summary)


def test_critics_are_tabulated_beside_the_potential(tmp_path: Path) -> None:
    scores = {
        "potential_correlation": 0.9,
        "potential_slope": 2.0,
        "potential_w1": 1.5,
        "potential_freedom": 0.1,
        "w1_ratio": 1.8,
        "w1_ratio_normalised": 0.6,
        "ray_gradient_mean": 1.9,
        "ray_gradient_sd": 0.3,
        "ray_slope_mean": 1.7,
        "ray_slope_sd": 0.4,
    }
    other = {**scores, "potential_correlation": 0.8, "potential_slope": -1.0}
    settings = {"data__at": [0.0], "model__place": [0.0], "train__freeze_generator_at": 0}
    summary = potential.summarise(
        [
            record(tmp_path, "a", scores, seed=0, **settings),
            record(tmp_path, "b", other, seed=1, **settings),
            record(tmp_path, "c", {"w1": 1.0}, seed=2, **settings),  # scored without a potential
        ],
        tmp_path,
    )
    assert rows(summary)[1] == [
        *("all", "0.850", "0.5", "1.8", "0.600", "1.9 ± 0.3", "1.7 ± 0.4", "1.500", "0.1"),
    ]
    assert_has_picture(summary)


@pytest.mark.parametrize("summarise", [potential.summarise, slopes.summarise, divergence_axioms.summarise])
def test_a_sweep_without_finished_runs_is_summarised_by_the_reasons(summarise, tmp_path: Path) -> None:
    summary = summarise([Record("a", Status.DIVERGED, ["x=1"], error="not finite at step 3")], tmp_path)
    assert "diverged: a (x=1): not finite at step 3" in summary.table
    assert summary.picture is None
