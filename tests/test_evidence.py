"""The page of the evidence says what its archives hold, and its verdicts follow from the archived runs."""

import importlib.util
import json
import re
import shlex
from collections import defaultdict
from pathlib import Path
from statistics import mean
from types import ModuleType

import pytest
from scipy import stats

from wgan_sweep.commands import report
from wgan_sweep.report.decisions import read_decisions
from wgan_sweep.runs.archive import SUFFIX, unpack
from wgan_sweep.runs.record import Status

from .helpers import Shell

ROOT = Path(__file__).parent.parent
EVIDENCE = ROOT / ".github" / "evidence"
PAGE = (EVIDENCE / "README.md").read_text(encoding="utf-8")
ARCHIVES = sorted(path.name.removesuffix(SUFFIX) for path in EVIDENCE.glob(f"*{SUFFIX}"))


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("build", EVIDENCE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(name: str) -> list[str]:
    """Return the arguments of the page's command for a sweep."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"$ wgan-sweep experiment=evidence/{name} "))
    words = shlex.split(line.replace("--config-dir ", "--config-dir="))  # one word, whatever the order
    return [word for word in words[2:] if not word.startswith("runs=")]


@pytest.mark.integration
def test_the_page_is_what_the_archives_hold(build: ModuleType) -> None:
    assert sorted(name for _, name, _ in build.BLOCK.findall(PAGE)) == ARCHIVES
    assert build.built(PAGE) == PAGE
    assert build.built(PAGE.replace("**supported**", "**contradicted**")) == PAGE


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_decision_of_a_sweep_is_about_its_archived_runs(name: str, tmp_path: Path) -> None:
    records = unpack(EVIDENCE / f"{name}{SUFFIX}", tmp_path)
    *earlier, (_, decision) = read_decisions(tmp_path)
    assert {record.run_id for record in records} == set(decision.runs)
    assert all(set(before.runs) < set(decision.runs) for _, before in earlier)  # the sweep was continued
    assert {record.status for record in records} == {Status.DONE}


def test_an_unfinished_sweep_has_the_runs_that_the_page_names(tmp_path: Path) -> None:
    """A sweep that is continued does not train them again."""
    records = unpack(EVIDENCE / "unfinished" / f"estimate{SUFFIX}", tmp_path)
    assert f"Of `evidence/estimate`, {len(records)} of the 16 runs are done" in " ".join(PAGE.split())
    assert {(record.status, record.step) for record in records} == {(Status.DONE, 3000)}
    assert {record.config["choices"]["loss"] for record in records} == {"wgan_gp"}
    assert {record.config["seed"] for record in records} == {*range(100, 106)}
    shortest, longest = (
        round(seconds / 60) for seconds in sorted(record.seconds for record in records)[:: len(records) - 1]
    )
    assert f"({shortest} to {longest} minutes each" in " ".join(PAGE.split())
    assert not read_decisions(tmp_path)


def means_of(name: str, axis: str, folder: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Return the mean W1 of each value of an axis, by loss and step."""
    found: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in unpack(EVIDENCE / f"{name}{SUFFIX}", folder):
        overrides = dict(override.split("=", 1) for override in record.overrides)
        for line in (folder / record.run_id / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            measured = json.loads(line)
            if "w1" in measured:
                found[overrides["loss"], measured["step"]][overrides[axis]].append(measured["w1"])
    return {key: {value: mean(runs) for value, runs in cells.items()} for key, cells in found.items()}


def test_the_means_by_step_on_eight_gaussians_are_those_of_the_archive(tmp_path: Path) -> None:
    steps = (1000, 2000, 3000, 4000)
    found = means_of("ring_rx", "sampling", tmp_path)
    names = {"wgan_gp": "penalty, λ = 10", "wgan_gp_points": "penalty, λ = 0.1", "wgan_div": "divergence"}
    assert set(found) == {(loss, step) for loss in names for step in steps}
    for loss, name in names.items():
        means = [found[loss, step].values() for step in steps]
        assert all(len(cells) == 5 for cells in means)
        ranges = " | ".join(f"{min(cells):.2f} to {max(cells):.2f}" for cells in means)
        assert f"| {name} | {ranges} |" in PAGE


def test_the_means_by_weight_on_eight_gaussians_are_those_of_the_archive(tmp_path: Path) -> None:
    found = means_of("ring_weights", "div.k", tmp_path)
    for loss, name in (("wgan_gp_weighted", "penalty, λ"), ("wgan_div", "divergence, k")):
        means = found[loss, 1000]
        assert f"| {name} | {' | '.join(f'{means[weight]:.2f}' for weight in ('0.1', '0.3', '1', '3', '10'))} |" in PAGE
    last = [*found["wgan_gp_weighted", 4000].values(), *found["wgan_div", 4000].values()]
    assert f"all ten means are from {min(last):.3f} to {max(last):.3f}" in PAGE
    assert max(last) - min(last) < 0.013


def test_the_correlations_of_the_estimate_are_those_of_the_archive(tmp_path: Path) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for record in unpack(EVIDENCE / f"ring_estimate{SUFFIX}", tmp_path):
        overrides = dict(override.split("=", 1) for override in record.overrides)
        text = (tmp_path / record.run_id / "metrics.jsonl").read_text(encoding="utf-8")
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for line in map(json.loads, text.splitlines()):
            lines[line["step"]] |= {} if "final" in line else line
        both = [(line["wasserstein"], line["w1"]) for line in lines.values() if {"wasserstein", "w1"} <= set(line)]
        assert len(both) == 20
        found[overrides["loss"]].append(stats.spearmanr(both).statistic)
    ranges = [f"{min(found[loss]):.2f} to {max(found[loss]):.2f}" for loss in ("wgan_div", "wgan_gp", "wgan_gp_points")]
    assert f"Single runs have {ranges[0]}, {ranges[1]}, and {ranges[2]}." in " ".join(PAGE.split())


COLUMNS = (("points_rx_five", ""), ("points_rx_weight", ""), ("ring_rx", "weight 10"), ("ring_rx", "weight 0.1"))
"""The sweep of each column in the README's table of verdicts, and words of its claims about the penalty."""
ROWS = {
    "they differ less under the divergence": "five r(x) differ less under the divergence",
    "the worst of the divergence is better than the best of the penalty": "the worst of five r(x) of the divergence",
    "they are equal under the divergence, within a margin": "five r(x) are about equal under the divergence",
    "they are equal under the penalty, within a margin": "five r(x) are about equal under the gradient penalty",
}
"""For each row of that table, the words with which the claims begin."""


def verdicts(name: str, folder: Path) -> dict[str, str]:
    """Return the verdicts of a sweep's claims."""
    folder.mkdir()
    unpack(EVIDENCE / f"{name}{SUFFIX}", folder)
    _, decision = read_decisions(folder)[-1]
    return {claim.claim: claim.verdict for claim in decision.claims}


def test_the_verdicts_of_the_readme_are_those_of_the_archives(tmp_path: Path) -> None:
    decided = {name: verdicts(name, tmp_path / name) for name in {name for name, _ in COLUMNS}}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row, words in ROWS.items():
        found = [
            [
                verdict
                for claim, verdict in decided[name].items()
                if claim.startswith(words) and (weight in claim or "weight" not in claim)
            ]
            for name, weight in COLUMNS
        ]
        assert f"| {row} | {' | '.join(verdict for (verdict,) in found)} |" in readme


@pytest.mark.integration
@pytest.mark.parametrize("name", ["points_kp", "points_rx_weight", "ring_rx", "ring_weights", "ring_kp", "ranks"])
def test_the_seeds_that_undecided_claims_would_take_are_those_of_the_report(name: str, tmp_path: Path) -> None:
    claims = ["--claims", str(EVIDENCE / f"{name}.yaml"), "--format", "json", "-o", str(tmp_path / "claims.json")]
    report.main([str(EVIDENCE / f"{name}{SUFFIX}"), *claims])
    undecided = [
        entry for entry in json.loads((tmp_path / "claims.json").read_text()) if entry["verdict"] == "undecided"
    ]
    found = [
        (entry["claim"], f"about {max(entry['seeds_to_decide'], entry['seeds'] + 1)}")
        if entry["seeds_to_decide"]
        else (entry["claim"], "over 1000")
        for entry in undecided
    ]
    shown = re.findall(rf"^\| ([^|]+) \| `evidence/{name}`[^|]* \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert shown == found


@pytest.mark.slow  # a minute for each, since each look is tested again
@pytest.mark.parametrize("name", ARCHIVES)
def test_the_verdicts_follow_from_the_archived_runs(name: str, sweep: Shell, tmp_path: Path) -> None:
    """The page's command, given the archive, trains nothing and comes to the same decision.

    The budget is the time of the archived runs, so that a sweep with open claims is not continued.
    """
    archive = EVIDENCE / f"{name}{SUFFIX}"
    unpack(archive, tmp_path)
    _, expected = read_decisions(tmp_path)[-1]
    words = [word.replace(".github/", f"{ROOT}/.github/") for word in command(name)]
    sweep(*words, f"archive={archive}", f"decide.budget={expected.hours}h", tiny=False)
    (path,) = (sweep.folder / "runs" / ".sweeps").glob("*/decision.json")
    found = json.loads(path.read_text())
    assert [claim["verdict"] for claim in found["claims"]] == [claim.verdict for claim in expected.claims]
    assert [claim["effect"] for claim in found["claims"]] == [claim.effect for claim in expected.claims]
    assert [claim["standing"] for claim in found["claims"]] == [claim.standing for claim in expected.claims]
    assert set(found["runs"]) == set(expected.runs)
    assert not [item for item in (sweep.folder / "runs").iterdir() if not item.name.startswith(".")]
