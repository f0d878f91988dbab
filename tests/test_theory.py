"""Closed forms against SciPy, figures and tables against known records, and the theory experiments."""

import io
import math
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from wgan_sweep.config import schema as configs
from wgan_sweep.config.schema import conf_dir
from wgan_sweep.report.figures import make_figure
from wgan_sweep.report.text import SweepSummary
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import run_id
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.theory import closed_forms, distances, linear_critic, lipschitz, modes, orbits, vanishing

from .helpers import append_metrics, run, write_record


@pytest.mark.parametrize("theta", [-2.0, -0.75, 0.0, 0.25, 1.0, 1.5])
def test_js_of_uniforms_matches_scipy(theta: float) -> None:
    x = np.arange(-3, 4, 1e-3) + 5e-4
    p, q = (((x > start) & (x < start + 1)).astype(float) for start in (0, theta))
    expected = scipy.spatial.distance.jensenshannon(p, q) ** 2
    assert closed_forms.js_of_shifted_uniforms(theta) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("theta", [-3.0, -0.5, 0.0, 0.25, 1.0, 4.0])
def test_distances_of_a_dropped_mode_match_scipy(theta: float) -> None:
    x = np.arange(-4, 6, 1e-3) + 5e-4
    both = sum(0.5 * ((x > start) & (x < start + 1)) for start in (0, theta))
    one = ((x > 0) & (x < 1)).astype(float)
    assert closed_forms.js_of_a_dropped_mode(theta) == pytest.approx(
        scipy.spatial.distance.jensenshannon(both, one) ** 2, abs=2e-3
    )
    w1 = scipy.stats.wasserstein_distance(x, x, both, one)
    assert closed_forms.w1_of_a_dropped_mode(theta) == pytest.approx(w1, abs=2e-3)


def test_js_of_segments_is_ln_2_unless_they_coincide() -> None:
    assert closed_forms.js_of_parallel_segments(0.0) == 0
    assert closed_forms.js_of_parallel_segments(-1e-9) == math.log(2)


@pytest.mark.parametrize("k", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("p", [1.5, 2.0, 6.0])
@pytest.mark.parametrize("distance", [0.3, 1.0, 5.0])
def test_the_divergence_of_points_matches_scipys_maximum(k: float, p: float, distance: float) -> None:
    norm, value = closed_forms.divergence_of_points(distance, k, p)
    minimum = scipy.optimize.minimize_scalar(
        lambda n: k * n**p - distance * n, bounds=(0, 4 * norm), method="bounded", options={"xatol": 1e-12}
    )
    assert norm == pytest.approx(minimum.x, rel=1e-4)
    assert value == pytest.approx(-minimum.fun, rel=1e-9)


@pytest.mark.parametrize("curvature", [0.0, 1.0, 4.0, 30.0])
def test_the_growth_of_steps_on_the_game_xy_is_the_largest_eigenvalue(curvature: float) -> None:
    critic, generator = np.array([[1, 0], [-0.3, 1 - 0.3 * curvature]]), np.array([[1, 0.3], [0, 1]])
    for simultaneous, step in ((True, critic + generator - np.eye(2)), (False, generator @ critic)):
        growth = closed_forms.growth_at_equilibrium(0.3, curvature, simultaneous=simultaneous)
        assert growth == pytest.approx(np.abs(np.linalg.eigvals(step)).max())


@pytest.mark.parametrize("p", [4.0, 6.0, 7.0])
@pytest.mark.parametrize("start", [0.5, 2.0])
def test_simultaneous_steps_end_on_the_cycle_of_the_closed_form(p: float, start: float) -> None:
    """From inside and from outside, with k = 2: for p > 2, the equilibrium repels."""
    rate, k = 0.02, 2.0
    expected = closed_forms.radius_of_the_cycle(rate, k, p)
    x, y, radii = start * expected, 0.0, []
    for step in range(20_000):
        x, y = x + rate * y, y - rate * (x + k * p * abs(y) ** (p - 2) * y)
        if step >= 15_000:
            radii.append(math.hypot(x, y))
    assert np.mean(radii) == pytest.approx(expected, rel=0.01)
    if p == 6:
        assert expected == pytest.approx((8 * rate / (5 * k * p)) ** (1 / 4))


@pytest.mark.parametrize(("k", "p"), [(0.5, 2.0), (2.0, 2.0), (2.0, 6.0)])
def test_on_the_transport_density_the_maximiser_is_a_scaled_potential(k: float, p: float) -> None:
    """U[0, 1] and U[2, 3]: W1 = 2, and the transport density is |F - G|. Elsewhere, the slope is not constant."""
    x = np.arange(0, 3, 0.05) + 0.025
    density = np.minimum(np.minimum(x, 1), 3 - x)
    w1 = density.sum() * 0.05
    assert w1 == pytest.approx(2)

    def slopes(weights: np.ndarray) -> np.ndarray:
        result = scipy.optimize.minimize(
            lambda s: 0.05 * float((k * weights * np.abs(s) ** p - density * s).sum()),
            np.full(len(x), 0.5),
            jac=lambda s: 0.05 * (k * p * weights * np.abs(s) ** (p - 1) * np.sign(s) - density),
            options={"gtol": 1e-8},
        )
        return result.x

    expected, _ = closed_forms.divergence_of_points(w1, k, p)
    assert slopes(density / w1) == pytest.approx(expected, rel=1e-2)
    if p == 2:
        assert expected == pytest.approx(w1 / (2 * k))
        assert slopes(density) == pytest.approx(1 / (2 * k), rel=1e-2)
    assert np.ptp(slopes(np.full(len(x), 1 / 3))) > expected / 4


def record(runs: Path, name: str, scores: dict[str, float], loss: str = "wgan", seed: int = 0, **values) -> Record:
    """Write a finished run with known scores; `values` are keys of its config with ``__`` for dots."""
    config = {"choices": {"loss": loss}, "loss": {}, "scorer": {}, "train": {}, "seed": seed}
    for key, value in values.items():
        *groups, leaf = key.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    finished = Record(name, Status.DONE, [f"loss={loss}"], config, scores={"step": 1.0, **scores})
    write_record(RunDir(runs / name), finished)
    return finished


def rows(summary: SweepSummary) -> list[list[str]]:
    lines = [line for line in summary.table.splitlines() if line.startswith("|")]
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in (lines[0], *lines[2:])]


def assert_has_picture(summary: SweepSummary) -> None:
    assert summary.picture is not None
    with Image.open(io.BytesIO(summary.picture)) as picture:
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6) or []) > 20


def test_estimates_are_tabulated_beside_the_closed_forms(tmp_path: Path) -> None:
    def cell(name: str, loss: str, theta: float, scores: dict[str, float], seed: int = 0) -> Record:
        return record(tmp_path, name, scores, loss, seed, data__theta=theta)

    summary = distances.summarise(
        [
            cell("a", "gan", 0.5, {"eval_critic_loss": 2 * (math.log(2) - 0.3)}),
            cell("b", "wgan_gp", 0.5, {"critic_gap": 0.9, "critic_gradient_max": 2.0}),
            cell("c", "wgan_gp", 0.5, {"critic_gap": 1.1, "critic_gradient_max": 2.0}, seed=1),
            cell("d", "wgan_gp", -2.0, {"critic_gap": 1.0, "critic_gradient_max": 0.5}),
            Record("e", Status.FAILED, ["x=1"], error="no luck"),
        ],
        tmp_path,
        closed_forms.js_of_shifted_uniforms,
        closed_forms.w1_of_a_shift,
        ["gan"],
    )
    header, negative, half = rows(summary)
    assert header == ["theta", "JS", "JS by gan", "W1", "W1 by wgan_gp"]
    assert negative == ["-2", "0.693", "-", "2.000", "2.000"]
    assert half == ["0.5", "0.347", "0.300", "0.500", "0.500 ± 0.071"]
    assert "failed: e (x=1): no luck" in summary.table
    assert_has_picture(summary)


def test_the_loss_of_the_generators_gradient_is_measured_from_its_peak_after_the_reset(tmp_path: Path) -> None:
    finished_run = record(tmp_path, "a", {}, "gan", train__freeze_generator_at=10)
    for step, norm in [(5, 1e9), (10, 1e9), (11, 0.5), (12, 20.0), *((step, 0.02) for step in range(13, 30))]:
        append_metrics(RunDir(tmp_path / "a"), {"step": step, "generator_gradient_norm": norm})
    summary = vanishing.summarise([finished_run], tmp_path)
    assert rows(summary)[1] == ["gan", "10", "20.000", "0.0200", "3.0"]
    assert_has_picture(summary)


def test_a_trained_critic_is_tabulated_beside_its_optimum(tmp_path: Path) -> None:
    place = {"data__at": [3.0, 4.0], "model__place": [0.0, 0.0]}
    finished_run = record(
        tmp_path, "a", {"critic_gradient_mean": 5.05, "eval_critic_loss": -12.0}, div__k=0.5, div__p=2.0, **place
    )
    summary = linear_critic.summarise([finished_run], tmp_path)
    assert rows(summary)[1] == ["0.5", "2", "5.00000", "5.05000", "+1.00%", "12.50000", "12.00000", "-4.00%"]
    assert_has_picture(summary)


def test_the_growth_of_an_orbit_is_per_step(tmp_path: Path) -> None:
    loss = {"loss___target_": "wgan_sweep.objectives.losses.wasserstein"}
    finished_run = record(tmp_path, "a", {"w1": 1.0}, optimizer__lr=0.1, train__simultaneous=True, **loss)
    for step in (10, 20, 30):
        at = {"mean_0": 1.01**step * math.cos(step), "critic_slope_0": 1.01**step * math.sin(step)}
        append_metrics(RunDir(tmp_path / "a"), {"step": step, "critic_loss": 1.0})
        append_metrics(RunDir(tmp_path / "a"), {"step": step, **at})
    summary = orbits.summarise([finished_run], tmp_path)
    assert rows(summary)[1][3:] == ["1.010000", "1.004988", f"{(1.01**10 + 1.01**20 + 1.01**30) / 3:.4f}", "-"]
    assert_has_picture(summary)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"loss__p": 2.0, "train__simultaneous": True}, ["0.986603", "-"]),
        ({"loss__p": 2.0, "train__simultaneous": False}, ["0.986793", "-"]),
        ({"loss__p": 6.0, "train__simultaneous": True}, ["1.001249", "0.2857"]),
        ({"loss__p": 6.0, "train__simultaneous": False}, ["1.000000", "-"]),
        ({"loss__p": 1.5, "train__simultaneous": True}, ["-", "-"]),
        ({"loss__p": 6.0, "train__simultaneous": True, "choices__constraint": "r1"}, ["-", "-"]),
        ({"loss___target_": "wgan_sweep.objectives.losses.minimax", "train__simultaneous": True}, ["-", "-"]),
    ],
)
def test_the_last_turn_of_an_orbit_stands_beside_the_cycle(tmp_path: Path, values, expected: list[str]) -> None:
    loss = {"loss___target_": "wgan_sweep.objectives.losses.wasserstein_divergence", "loss__k": 2.0}
    finished_run = record(tmp_path, "a", {"w1": 1.0}, "wgan_div", optimizer__lr=0.05, **(loss | values))
    for step in range(12, 301, 12):
        radius = 1.0 if step < 174 else 0.2 if step < 250 else 0.3  # a turn takes 126 steps
        at = {"mean_0": radius * math.cos(step / 20), "critic_slope_0": radius * math.sin(step / 20)}
        append_metrics(RunDir(tmp_path / "a"), {"step": step, **at})
    (row,) = rows(orbits.summarise([finished_run], tmp_path))[1:]
    assert [row[4], row[6]] == expected
    assert row[5] == f"{(6 * 0.2 + 5 * 0.3) / 11:.4f}"


def test_mode_metrics_are_means_over_seeds(tmp_path: Path) -> None:
    records = [
        record(tmp_path, f"{loss}{seed}", {"modes": 20.0 + seed, "high_quality": 0.5, "w1": 0.25}, loss, seed)
        for loss in ("gan", "hinge")
        for seed in (0, 2)
    ]
    summary = modes.summarise(records, tmp_path)
    assert rows(summary)[1:] == [[loss, "21.00 ± 1.41", "0.50 ± 0.00", "0.25 ± 0.00", "2"] for loss in ("gan", "hinge")]
    assert_has_picture(summary)


def test_the_maximum_of_gradient_norms_is_taken_over_all_seeds(tmp_path: Path) -> None:
    quantiles = {f"critic_gradient_q{q}": q / 100 for q in (5, 25, 50, 75, 95)}
    records = [
        record(tmp_path, f"r{seed}", {**quantiles, "critic_gradient_max": 1.0 + seed, "w1": 2.0}, seed=seed)
        for seed in (0, 1)
    ]
    summary = lipschitz.summarise(records, tmp_path)
    assert rows(summary)[1][1:] == ["0.05", "0.5", "0.95", "2", "2"]
    assert_has_picture(summary)


@pytest.mark.parametrize(
    "summarise",
    [
        lambda records, runs: distances.summarise(
            records, runs, closed_forms.js_of_shifted_uniforms, closed_forms.w1_of_a_shift, ["gan"]
        ),
        vanishing.summarise,
        linear_critic.summarise,
        orbits.summarise,
        modes.summarise,
        lipschitz.summarise,
    ],
)
def test_a_sweep_without_finished_runs_is_summarised_by_the_reasons(summarise, tmp_path: Path) -> None:
    summary = summarise([Record("a", Status.DIVERGED, ["x=1"], error="not finite at step 3")], tmp_path)
    assert "diverged: a (x=1): not finite at step 3" in summary.table
    assert summary.picture is None


EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment" / "theory").glob("*.yaml"))
SHORT = {
    "orbits": ["scorer.every=1"],
    "vanishing": ["train.freeze_generator_at=1", "model.dim=4"],
    "loss_and_quality": ["train.steps=5", "scorer.every=1"],
    "class_histograms": ["model.dim=4"],
}
OTHER_DATA = {"vanishing_gradient_dcgan": ["data=npz", "data.path={npz}", "train.batch_size=8"]}
"""Data in place of sets that would be downloaded."""


@pytest.mark.integration
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_trains_and_draws_its_figure(name: str, tmp_path: Path, npz: Path) -> None:
    """The first two cells of the experiment, for three steps."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        base = [f"experiment=theory/{name}", f"runs={tmp_path}", "train.steps=3", "log_every=1", "device=cpu"]
        base += [override.format(npz=npz) for override in OTHER_DATA.get(name, [])]
        experiment = compose("config", base, return_hydra_config=True)
        assert str(experiment.hydra.mode) == "RunMode.MULTIRUN"
        params = {key: str(value).split(",") for key, value in experiment.hydra.sweeper.params.items()}
        base += SHORT.get(experiment.hydra.runtime.choices.figure, [])
        if experiment.scorer.get("num_samples"):
            base.append("scorer.num_samples=20")
        if experiment.scorer.get("num_real"):
            base.append("scorer.num_real=20")
        records = []
        for index in (0, 1):
            cell = [f"{key}={values[min(index, len(values) - 1)]}" for key, values in params.items()]
            composed = compose("config", cell + base, return_hydra_config=True)
            config = configs.finalise(composed, composed.hydra.runtime.choices)
            records.append(run(config))
            assert records[-1].status == Status.DONE, records[-1].error
    summary = make_figure(config.figure)(records, tmp_path)
    assert len(rows(summary)) > 1
    assert not any("nan" in cell or "inf" in cell for row in rows(summary) for cell in row)
    assert_has_picture(summary)


@pytest.mark.slow
def test_no_run_belongs_to_two_experiments_that_train_it_for_different_steps(tmp_path: Path) -> None:
    """All experiments write into one folder, where a run that was trained for longer is not trained again."""
    steps: dict[str, set[int]] = {}
    for name in sorted({*EXPERIMENTS} - {*OTHER_DATA}):
        base = [f"experiment=theory/{name}", f"runs={tmp_path}", "device=cpu"]
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            params = compose("config", base, return_hydra_config=True).hydra.sweeper.params
            axes = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
            for cell in product(*axes):
                composed = compose("config", [*base, *cell], return_hydra_config=True)
                config = configs.finalise(composed, composed.hydra.runtime.choices)
                steps.setdefault(run_id(config), set()).add(config.train.steps)
    assert len(steps) > 300
    assert {run: different for run, different in steps.items() if len(different) > 1} == {}


@pytest.mark.integration
@pytest.mark.parametrize("exponents", [["2"], pytest.param(["1.5", "2"], marks=pytest.mark.slow)], ids=",".join)
def test_training_reaches_the_closed_form_of_the_divergence(tmp_path: Path, exponents: list[str]) -> None:
    """Run the installed command for k = 1/2: norm (d/(k p))^(1/(p-1)) and value, at d = 1."""
    overrides = ["div.k=0.5", f"div.p={','.join(exponents)}"]
    command = [sys.executable, "-m", "wgan_sweep", "experiment=theory/w_div_closed_form", *overrides]
    environment = {**os.environ, "WGAN_SWEEP_RUNS": str(tmp_path / "runs")}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    (table,) = (tmp_path / "runs" / ".sweeps").glob("*/table.md")
    _, *cells = rows(SweepSummary(table.read_text()))
    assert [cell[:2] for cell in cells] == [["0.5", exponent] for exponent in exponents]
    optimum = {"1.5": ((4 / 3) ** 2, 16 / 27), "2": (1.0, 0.5)}
    for cell, (norm, value) in zip(cells, map(optimum.get, exponents), strict=True):
        assert float(cell[3]) == pytest.approx(norm, rel=0.01)
        assert float(cell[6]) == pytest.approx(value, rel=0.01)
    assert (table.parent / "figure.png").stat().st_size > 5000
    assert f"figure    {(table.parent / 'figure.png').relative_to(tmp_path)}" in process.stdout
