"""Figures and tables about losses, stabilisers and classes against known records."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from wgan_sweep.report.inference.correlations import fisher_z
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.theory import class_histograms, loss_and_quality, with_and_without

from ..helpers import append_metrics
from ..test_theory import assert_has_picture, record, rows


def write_curve(runs: Path, name: str, losses: np.ndarray, gaps: np.ndarray, metric: np.ndarray) -> None:
    for step, values in enumerate(zip(losses, gaps, metric, strict=True), 1):
        line = dict(zip(("critic_loss", "wasserstein", "w1"), map(float, values), strict=True))
        append_metrics(RunDir(runs / name), {"step": 10 * step, "images_seen": step, **line})


def test_correlations_are_spearmans_means_over_seeds(tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    records, expected = [], []
    for seed in range(6):
        metric = np.linspace(3, 1, 12) + draw.normal(0, 0.1, 12)
        losses, gaps = -metric + draw.normal(0, 0.3, 12), draw.normal(0, 1, 12)
        records.append(record(tmp_path, f"r{seed}", {"w1": float(metric[-1])}, seed=seed))
        write_curve(tmp_path, f"r{seed}", losses, gaps, metric)
        expected.append([scipy.stats.spearmanr(values, metric).statistic for values in (-losses, gaps)])
    (_, cell) = rows(loss_and_quality.summarise(records, tmp_path, "w1"))
    for text, values in zip(cell[1:3], np.array(expected).T, strict=True):
        mean, low, high = (float(part.strip("[],")) for part in text.split())
        assert mean == pytest.approx(math.tanh(np.mean([fisher_z(value, 12) for value in values])), abs=6e-3)
        assert low == pytest.approx(min(values), abs=6e-3)  # with 6 seeds, the interval spans their correlations
        assert high == pytest.approx(max(values), abs=6e-3)
    assert cell[-1] == "6"


def test_runs_with_few_scored_steps_are_left_out(tmp_path: Path) -> None:
    records = [record(tmp_path, "r0", {"w1": 1.0})]
    write_curve(tmp_path, "r0", *np.ones((3, 4)))
    summary = loss_and_quality.summarise(records, tmp_path, "w1")
    assert summary.table.startswith("No finished run has what this figure shows")


def test_effects_and_verdicts_of_options(tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    means = {"none": 3.0, "better": 1.0, "worse": 5.0, "same": 3.0}
    records = []
    for name, mean in means.items():
        for seed in range(5):
            value = mean + float(draw.normal(0, 0.1))
            option = {"choices__stabiliser": name, "stabiliser___target_": f"options.{name}"}
            records.append(record(tmp_path, f"{name}{seed}", {"fid": value}, seed=seed, **option))
    summary = with_and_without.summarise(records, tmp_path, "stabiliser", "none", "fid")
    by_name = {cell[0]: cell for cell in rows(summary)[1:]}
    assert list(by_name) == list(means)
    assert {name: cell[3] for name, cell in by_name.items()} == {
        "none": "",
        "better": "supported",
        "worse": "contradicted",
        "same": "undecided",
    }
    values = {name: [r.scores["fid"] for r in records if r.run_id.startswith(name)] for name in means}
    for name in ("better", "worse", "same"):
        effect, low, high = (float(part.strip("[],")) for part in by_name[name][2].split())
        assert effect == pytest.approx(np.mean(values["none"]) - np.mean(values[name]), rel=6e-3, abs=6e-3)
        welch = scipy.stats.ttest_ind(values["none"], values[name], equal_var=False).confidence_interval(0.95)
        assert low <= welch.low + 6e-3  # Behrens-Fisher is a little wider
        assert high >= welch.high - 6e-3
        assert high - low < 1.6 * (welch.high - welch.low)
    assert_has_picture(summary)


def test_histograms_are_means_over_seeds(tmp_path: Path) -> None:
    shared = {"missing_classes": 1.0, "class_entropy": 0.5, "fid_generated": 100.0, "classifier_accuracy": 0.97}
    records = [
        record(
            tmp_path,
            f"r{seed}",
            {"classes": 2.0 + seed, "class_kl": 0.1, "class_share_0": 0.2 + seed / 5, "class_share_1": 0.1, **shared},
            seed=seed,
        )
        for seed in (0, 1)
    ]
    assert class_histograms._shares(records) == pytest.approx([0.3, 0.1])
    summary = class_histograms.summarise(records, tmp_path)
    assert rows(summary)[1][1:] == ["2.5 ± 0.7", "0.50 ± 0.00", "0.100 ± 0.000", "2"]
    assert "of 100 generated images" in summary.table
    assert "0.970" in summary.table
    assert_has_picture(summary)
