"""Closed forms against SciPy, figures and tables against records whose numbers are known, and the experiments."""

import io
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from wgan_sweep.config import schema as configs
from wgan_sweep.config.schema import conf_dir
from wgan_sweep.report.text import SweepSummary
from wgan_sweep.runs.build import make_figure
from wgan_sweep.runs.directory import Record, RunDir, Status
from wgan_sweep.theory import closed_forms, distances, linear_critic, lipschitz, modes, orbits, vanishing

from .helpers import run


@pytest.mark.parametrize("theta", [-2.0, -0.75, 0.0, 0.25, 1.0, 1.5])
def test_js_of_uniforms_is_scipys_of_their_densities(theta: float) -> None:
    x = np.arange(-3, 4, 1e-3) + 5e-4
    one, other = ((x > start) & (x < start + 1) for start in (0, theta))
    wanted = scipy.spatial.distance.jensenshannon(one.astype(float), other.astype(float)) ** 2
    assert closed_forms.js_of_shifted_uniforms(theta) == pytest.approx(wanted, abs=2e-3)


def test_segments_differ_wholly_unless_they_meet() -> None:
    assert closed_forms.js_of_parallel_segments(0.0) == 0
    assert closed_forms.js_of_parallel_segments(-1e-9) == math.log(2)


@pytest.mark.parametrize("k", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("p", [1.5, 2.0, 6.0])
@pytest.mark.parametrize("distance", [0.3, 1.0, 5.0])
def test_the_divergence_of_points_is_what_scipy_maximises(k: float, p: float, distance: float) -> None:
    norm, value = closed_forms.divergence_of_points(distance, k, p)
    found = scipy.optimize.minimize_scalar(
        lambda n: k * n**p - distance * n, bounds=(0, 4 * norm), method="bounded", options={"xatol": 1e-12}
    )
    assert norm == pytest.approx(found.x, rel=1e-4)
    assert value == pytest.approx(-found.fun, rel=1e-9)


def test_simultaneous_steps_grow_by_their_eigenvalue() -> None:
    eigenvalues = np.linalg.eigvals([[1, -0.3], [0.3, 1]])
    assert closed_forms.growth_of_simultaneous_steps(0.3) == pytest.approx(np.abs(eigenvalues).max())


def record(runs: Path, name: str, scores: dict[str, float], loss: str = "wgan", seed: int = 0, **values) -> Record:
    """Write a finished run with known scores; `values` are keys of its config with ``__`` for dots."""
    config = {"choices": {"loss": loss}, "loss": {}, "scorer": {}, "train": {}, "seed": seed}
    for key, value in values.items():
        *groups, leaf = key.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    made = Record(name, Status.DONE, [f"loss={loss}"], config, scores={"step": 1.0, **scores})
    RunDir(runs / name).write_record(made)
    return made


def rows(conclusion: SweepSummary) -> list[list[str]]:
    lines = [line for line in conclusion.table.splitlines() if line.startswith("|")]
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in (lines[0], *lines[2:])]


def assert_is_a_picture(conclusion: SweepSummary) -> None:
    assert conclusion.picture is not None
    with Image.open(io.BytesIO(conclusion.picture)) as picture:
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6) or []) > 20


def test_estimates_stand_beside_the_closed_forms(tmp_path: Path) -> None:
    def cell(name: str, loss: str, theta: float, scores: dict[str, float], seed: int = 0) -> Record:
        return record(tmp_path, name, scores, loss, seed, data__theta=theta)

    found = distances.conclude(
        [
            cell("a", "gan", 0.5, {"critic_loss": 2 * (math.log(2) - 0.3)}),
            cell("b", "wgan_gp", 0.5, {"critic_gap": 0.9, "critic_gradient_max": 2.0}),
            cell("c", "wgan_gp", 0.5, {"critic_gap": 1.1, "critic_gradient_max": 2.0}, seed=1),
            cell("d", "wgan_gp", -2.0, {"critic_gap": 1.0, "critic_gradient_max": 0.5}),
            Record("e", Status.FAILED, ["x=1"], error="no luck"),
        ],
        tmp_path,
        closed_forms.js_of_shifted_uniforms,
        ["gan"],
    )
    header, negative, half = rows(found)
    assert header == ["theta", "JS", "JS by gan", "W1", "W1 by wgan_gp"]
    assert negative == ["-2", "0.693", "-", "2.000", "2.000"]
    assert half == ["0.5", "0.347", "0.300", "0.500", "0.500 ± 0.071"]
    assert "failed: e (x=1): no luck" in found.table
    assert_is_a_picture(found)


def test_what_a_generators_gradient_loses_is_counted_from_its_peak_after_the_restart(tmp_path: Path) -> None:
    made = record(tmp_path, "a", {}, "gan", train__freeze_generator_at=10)
    for step, norm in [(5, 1e9), (10, 1e9), (11, 0.5), (12, 20.0), *((step, 0.02) for step in range(13, 30))]:
        RunDir(tmp_path / "a").append_metrics({"step": step, "generator_gradient_norm": norm})
    found = vanishing.conclude([made], tmp_path)
    assert rows(found)[1] == ["gan", "10", "20.000", "0.0200", "3.0"]
    assert_is_a_picture(found)


def test_a_trained_critic_stands_beside_its_optimum(tmp_path: Path) -> None:
    place = {"data__at": [3.0, 4.0], "model__place": [0.0, 0.0]}
    made = record(tmp_path, "a", {"critic_gradient_mean": 5.05, "critic_loss": -12.0}, div__k=0.5, div__p=2.0, **place)
    found = linear_critic.conclude([made], tmp_path)
    assert rows(found)[1] == ["0.5", "2", "5.00000", "5.05000", "+1.00%", "12.50000", "12.00000", "-4.00%"]
    assert_is_a_picture(found)


def test_an_orbits_growth_is_per_step(tmp_path: Path) -> None:
    made = record(tmp_path, "a", {"w1": 1.0}, optimizer__lr=0.1, train__simultaneous=True)
    for step in (10, 20, 30):
        at = {"mean_0": 1.01**step * math.cos(step), "critic_slope_0": 1.01**step * math.sin(step)}
        RunDir(tmp_path / "a").append_metrics({"step": step, "critic_loss": 1.0})
        RunDir(tmp_path / "a").append_metrics({"step": step, **at})
    found = orbits.conclude([made], tmp_path)
    assert rows(found)[1][3:] == ["1.010000", "1.004988"]
    assert_is_a_picture(found)


def test_modes_are_means_over_seeds(tmp_path: Path) -> None:
    made = [
        record(tmp_path, f"{loss}{seed}", {"modes": 20.0 + seed, "high_quality": 0.5, "w1": 0.25}, loss, seed)
        for loss in ("gan", "hinge")
        for seed in (0, 2)
    ]
    found = modes.conclude(made, tmp_path)
    assert rows(found)[1:] == [[loss, "21.00 ± 1.41", "0.50 ± 0.00", "0.25 ± 0.00", "2"] for loss in ("gan", "hinge")]
    assert_is_a_picture(found)


def test_the_maximum_of_gradient_norms_is_that_of_all_seeds(tmp_path: Path) -> None:
    quantiles = {f"critic_gradient_q{q}": q / 100 for q in (5, 25, 50, 75, 95)}
    made = [
        record(tmp_path, f"r{seed}", {**quantiles, "critic_gradient_max": 1.0 + seed, "w1": 2.0}, seed=seed)
        for seed in (0, 1)
    ]
    found = lipschitz.conclude(made, tmp_path)
    assert rows(found)[1][1:] == ["0.05", "0.5", "0.95", "2", "2"]
    assert_is_a_picture(found)


@pytest.mark.parametrize(
    "conclude",
    [
        lambda records, runs: distances.conclude(records, runs, closed_forms.js_of_shifted_uniforms, ["gan"]),
        vanishing.conclude,
        linear_critic.conclude,
        orbits.conclude,
        modes.conclude,
        lipschitz.conclude,
    ],
)
def test_a_sweep_of_which_nothing_is_done_ends_in_its_reasons(conclude, tmp_path: Path) -> None:
    found = conclude([Record("a", Status.DIVERGED, ["x=1"], error="not finite at step 3")], tmp_path)
    assert "diverged: a (x=1): not finite at step 3" in found.table
    assert found.picture is None


EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment" / "theory").glob("*.yaml"))
SHORT = {"orbits": ["scorer.every=1"], "vanishing": ["train.freeze_generator_at=1", "model.dim=4"]}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_trains_and_ends_in_its_figure(name: str, tmp_path: Path) -> None:
    """Its two first cells, for three steps."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        base = [f"experiment=theory/{name}", f"runs={tmp_path}", "train.steps=3", "log_every=1", "device=cpu"]
        whole = compose("config", base, return_hydra_config=True)
        assert str(whole.hydra.mode) == "RunMode.MULTIRUN"
        params = {key: str(value).split(",") for key, value in whole.hydra.sweeper.params.items()}
        base += SHORT.get(whole.hydra.runtime.choices.figure, [])
        if whole.scorer.get("num_samples"):
            base.append("scorer.num_samples=20")
        records = []
        for turn in (0, 1):
            cell = [f"{key}={values[min(turn, len(values) - 1)]}" for key, values in params.items()]
            composed = compose("config", cell + base, return_hydra_config=True)
            config = configs.finalise(composed, composed.hydra.runtime.choices)
            records.append(run(config))
            assert records[-1].status == Status.DONE, records[-1].error
    found = make_figure(config.figure)(records, tmp_path)
    assert len(rows(found)) > 1
    assert not any("nan" in cell or "inf" in cell for row in rows(found) for cell in row)
    assert_is_a_picture(found)


def test_the_closed_form_of_the_divergence_is_what_training_finds(tmp_path: Path) -> None:
    """The installed command, on the two cases of the literature with the least and the most to learn."""
    command = [sys.executable, "-m", "wgan_sweep", "experiment=theory/w_div_closed_form", "div.k=0.5", "div.p=1.5,2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = (tmp_path / "runs" / ".sweeps").glob("*/table.md")
    _, *cells = rows(SweepSummary(table.read_text()))
    assert [cell[:2] for cell in cells] == [["0.5", "1.5"], ["0.5", "2"]]
    for cell, norm, value in zip(cells, [(4 / 3) ** 2, 1.0], [16 / 27, 0.5], strict=True):
        assert float(cell[3]) == pytest.approx(norm, rel=0.01)
        assert float(cell[6]) == pytest.approx(value, rel=0.01)
    assert (table.parent / "figure.png").stat().st_size > 5000
    assert f"figure    {(table.parent / 'figure.png').relative_to(tmp_path)}" in done.stdout
