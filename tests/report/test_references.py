"""Runs of recipes beside published values: rows, verdicts, changes, own recipes, archives and damage."""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from wgan_sweep.commands import report as command
from wgan_sweep.config import folders
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.references import Agreement, Comparison, compare, notes, table, to_json
from wgan_sweep.runs.archive import write_archive
from wgan_sweep.runs.build import check_options
from wgan_sweep.runs.coordinates import coordinates
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.identity import run_id
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.sweeps.config_of_run import config_of_recipe

from ..helpers import Shell, write_record

REFERENCE = {
    "source": "Lee & Town 2020, Table 2",
    "metric": "fid",
    "value": 22.29,
    "tolerance": 0.5,
    "setting": "50,000 generated against 50,000 real images",
    "differs": ["our network\n is another", "our data are smaller"],
}
SETTINGS = ["data=gaussians8", "loss=wgan_div", "scorer=fid50k", "train.steps=100"]
COUNTS = {"fid_feature": 2048, "fid_generated": 50000, "fid_real": 10000, "step": 100}

Recorded = Callable[..., Record]


@pytest.fixture
def recorded(make) -> Recorded:
    """A function that returns the record of a run of the recipe ``published/x`` with some overrides."""
    count = 0

    def recorded_run(*overrides: str, fid: float | None = None, status: str = "done", **reference: Any) -> Record:
        nonlocal count
        config = asdict(make(*SETTINGS, f"seed={count}", *overrides, tiny=False))
        config["reference"] = {**REFERENCE, **reference}
        config["choices"]["experiment"] = "published/x"
        scores = {} if fid is None else {**COUNTS, "fid": fid}
        count += 1
        started = f"{count:04}"
        return Record(f"id{count}", Status(status), list(overrides), config, scores=scores, started=started)

    return recorded_run


@pytest.fixture
def recipe(make) -> Callable[[str], dict[str, Any] | None]:
    """A function that composes the recipe ``published/x``."""
    config = asdict(make(*SETTINGS, tiny=False))
    return lambda name: config if name == "published/x" else None


def only(records: list[Record], recipe, folder: Path) -> Comparison:
    compared = compare(records, recipe, folder)
    assert not compared.problems
    (row,) = compared.rows
    return row


def test_a_row_has_the_mean_the_counts_the_difference_and_the_verdict(recorded, recipe, tmp_path: Path) -> None:
    """By hand: the mean of 22, 22.4 and 22.6 is 22.333, their sample sd is 0.3055, and 22.333 - 22.29 = 0.043."""
    runs = [recorded(fid=fid) for fid in (22.0, 22.4, 22.6)] + [recorded(status="failed")]
    plain = recorded(fid=1.0)
    plain.config["reference"] = None
    compared = compare([*runs, plain], recipe, tmp_path)
    header, rows = table(compared.rows)
    assert [dict(zip(header, row, strict=True)) for row in rows] == [
        {
            "recipe": "published/x",
            "published": "FID 22.29",
            "ours": "22.33 ± 0.31 (n=3), 1 failed",
            "measured": "on InceptionV3 2048 features, 50000 generated against 10000 real images, at step 100",
            "difference": "+0.04",
            "tolerance": "0.5",
            "verdict": "within",
        }
    ]
    assert notes(compared)[1:] == [
        "published/x: from Lee & Town 2020, Table 2: 50,000 generated against 50,000 real images.",
        "published/x: differs from the publication: our network is another",
        "published/x: differs from the publication: our data are smaller",
        "Runs without a reference, left out: 1.",
    ]
    (entry,) = json.loads(to_json(compared))
    assert entry["mean"] == pytest.approx(67 / 3)
    assert entry["sd"] == pytest.approx((0.28 / 3) ** 0.5)  # squared deviations from 67/3: (1/9 + 1/225 + 16/225)
    assert entry["difference"] == pytest.approx(67 / 3 - 22.29)
    assert entry["runs"] == [run.run_id for run in runs]
    expected = {"verdict": "within", "n": 3, "status": {"failed": 1}, "changes": [], "tolerance": 0.5, **COUNTS}
    assert {name: entry[name] for name in expected} == expected


@pytest.mark.integration
@pytest.mark.parametrize(
    ("value", "tolerance", "verdict"),
    [
        (22.0, 0.5, Agreement.WITHIN),
        (22.0, 0.49, Agreement.OUTSIDE),
        (23.0, 0.5, Agreement.WITHIN),
        (23.0, 0.49, Agreement.OUTSIDE),
        (22.5, 0, Agreement.WITHIN),
        (22, None, Agreement.NO_TOLERANCE),
        (None, None, Agreement.NO_PUBLISHED_VALUE),
    ],
)
def test_the_tolerance_counts_in_both_directions(value, tolerance, verdict, recorded, recipe, tmp_path: Path) -> None:
    runs = [recorded(fid=fid, value=value, tolerance=tolerance) for fid in (22.0, 23.0)]
    assert only(runs, recipe, tmp_path).verdict is verdict


def test_a_tolerance_that_is_met_up_to_rounding_is_met(recorded, recipe, tmp_path: Path) -> None:
    assert 0.3 - 0.1 != 0.2
    assert only([recorded(fid=0.3, value=0.1, tolerance=0.2)], recipe, tmp_path).verdict is Agreement.WITHIN
    assert 0.8 - 0.1 > 0.7
    assert only([recorded(fid=0.8, value=0.1, tolerance=0.7)], recipe, tmp_path).verdict is Agreement.WITHIN


@pytest.mark.parametrize(
    ("override", "obstacle"),
    [
        ("scorer.num_samples=1000", "scorer.num_samples=1000 instead of 50000"),
        ("scorer.repeats=3", "scorer.repeats=3 instead of 1"),
        ("features.layer=64", "features.layer=64 instead of 2048"),
        ("data=swiss_roll", "data=swiss_roll instead of gaussians8"),
    ],
)
def test_other_samples_features_or_data_are_not_compared(override, obstacle, recorded, recipe, tmp_path: Path) -> None:
    row = only([recorded(override, fid=22.3)], recipe, tmp_path)
    assert (row.verdict, row.difference) == (Agreement.NOT_COMPARABLE, None)
    assert row.obstacles == [obstacle]


def test_another_step_another_metric_and_pruned_runs_are_not_compared(recorded, recipe, tmp_path: Path) -> None:
    short = recorded(fid=22.3)
    short.scores["step"] = 50  # what was measured counts
    assert only([short], recipe, tmp_path).obstacles == ["train.steps=50 instead of 100"]
    other = recorded(fid=22.3, metric="kid", value=0.01, tolerance=None)
    assert only([other], recipe, tmp_path).obstacles == ["the finished runs have no kid"]
    pruned = only([recorded(fid=22.3), recorded(status="pruned")], recipe, tmp_path)
    assert pruned.verdict is Agreement.NOT_COMPARABLE
    assert only([recorded(status="failed")], recipe, tmp_path).verdict is Agreement.NO_RESULT


def test_changes_of_the_training_are_listed_once_each(recorded, recipe, tmp_path: Path) -> None:
    """``loss.k`` follows ``div.k``, an option of another name hides its details, and labels do not count."""
    given = ["div.k=1", "optimizer=sgd", "train.n_critic=7", "sampling=fake", "log_every=3", "device=cpu", "runs=x"]
    row = only([recorded(*given, fid=22.3)], recipe, tmp_path)
    assert sorted(map(str, row.changes)) == [
        "div.k=1 instead of 2",
        "optimizer=sgd instead of adam",
        "sampling=fake instead of real_fake",
        "train.n_critic=7 instead of 4",
    ]
    assert row.verdict is Agreement.WITHIN
    other = only([recorded("loss=wgan", fid=22.3)], recipe, tmp_path)
    assert "loss=wgan instead of wgan_div" in map(str, other.changes)
    assert not {"div.k", "loss.k", "loss.p"} & {change.key for change in other.changes}


def test_runs_with_other_changes_have_a_row_of_their_own(recorded, recipe, tmp_path: Path) -> None:
    runs = [recorded(fid=22.0), recorded("div.k=1", fid=30.0), recorded(fid=22.4), recorded("div.k=1", fid=32.0)]
    compared = compare(runs, recipe, tmp_path)
    rows = [(row[0], row[2], row[-1]) for row in table(compared.rows)[1]]
    assert rows == [
        ("published/x (1)", "22.20 ± 0.28 (n=2)", "within"),
        ("published/x (2)", "31.00 ± 1.41 (n=2)", "outside"),
    ]
    assert "published/x (2): changed by these runs: div.k=1 instead of 2." in notes(compared)


def test_without_the_recipe_the_overrides_are_the_changes(recorded, tmp_path: Path) -> None:
    given = ["experiment=published/x", "train.steps=100", "div.k=3", "seed=5", "runs=x"]
    run = recorded(*given[1:], fid=22.3)
    run.overrides = given
    row = only([run], lambda _: None, tmp_path)
    assert list(map(str, row.changes)) == ["train.steps=100", "div.k=3"]
    assert row.obstacles == ["train.steps=100"]
    assert row.recipe == "published/x"
    del run.config["choices"]["experiment"]
    assert only([run], lambda _: None, tmp_path).recipe == REFERENCE["source"]


def test_a_run_from_before_the_key_existed_has_the_reference_of_its_recipe(recorded, recipe, tmp_path: Path) -> None:
    old = recorded(fid=22.3)
    del old.config["reference"]
    assert compare([old], recipe, tmp_path).without_reference == 1
    referring = {**recipe("published/x"), "reference": REFERENCE}
    assert only([old], lambda _: referring, tmp_path).verdict is Agreement.WITHIN
    old.config["reference"] = None  # switched off
    assert compare([old], lambda _: referring, tmp_path).without_reference == 1


def test_a_reference_changes_neither_ids_nor_cells(make) -> None:
    config = make()
    labelled = replace(config, reference=REFERENCE)
    assert run_id(labelled) == run_id(config)
    runs = [Record(f"id{seed}", Status.DONE, [], asdict(one)) for seed, one in enumerate((config, labelled))]
    assert coordinates(runs[0]) == coordinates(runs[1])
    assert len(group_runs(runs).cells) == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"tolerance": 0.5}, r"reference\.tolerance=0\.5 is given without reference\.value"),
        ({"value": 1.0, "tolerance": -0.5}, r"reference\.tolerance must be 0 or more, got -0\.5"),
        ({"metric": "fdi"}, r"reference\.metric=fdi is not a known metric; did you mean fid\?"),
        ({"value": "22.29"}, r"reference\.value must be a number or null, got '22\.29'"),
        ({"value": True}, r"reference\.value must be a number or null, got true"),
        ({"value": float("nan")}, r"reference\.value must be a finite number, got nan"),
        ({"source": ""}, r"reference\.source must have a length of 1 or more"),
        ({"differs": "text"}, r"reference\.differs must be a list \(each item text\), got 'text'"),
        ({"tolerence": 1}, r"no config key reference\.tolerence; did you mean reference\.tolerance\?"),
    ],
)
def test_wrong_values_are_refused_before_work(reference: dict[str, Any], message: str, make) -> None:
    with pytest.raises(InputError, match=message):
        check_options(replace(make("scorer=fid"), reference={"source": "a paper", **reference}))


def test_a_reference_needs_a_source_and_may_name_a_metric_of_the_user(make) -> None:
    with pytest.raises(InputError, match=r"reference\.source is missing"):
        check_options(replace(make(), reference={"value": 1.0}))
    with pytest.raises(InputError, match="reference must hold source"):
        check_options(replace(make(), reference=7))
    gap = {"source": "a paper", "metric": "mean_gap"}
    config = make("scorer=fid")
    with pytest.raises(InputError, match=r"reference\.metric=mean_gap is not a known metric"):
        check_options(replace(config, reference=gap))
    own = {**config.scorer, "metrics": {"gap": {"_target_": f"{__name__}.MeanGap"}}}
    check_options(replace(config, scorer=own, reference=gap))
    check_options(replace(make("scorer=none"), reference=gap))


@dataclass(frozen=True)
class MeanGap:
    """Stands for a metric of a user."""


def test_packaged_recipes_are_composed_here_and_names_of_records_are_not_overrides() -> None:
    recipe = config_of_recipe("reference/wgan_div_su")  # its data have no path
    assert recipe is not None
    assert recipe["train"]["steps"] == 1_000_000
    assert config_of_recipe("smoke,kp_grid") is None
    assert config_of_recipe("../experiment/smoke") is None


def in_folder(records: list[Record], folder: Path) -> Path:
    for record in records:
        write_record(RunDir(folder / record.run_id), record)
    return folder


def report(*arguments: object) -> object:
    """Run the command and return its exit code."""
    try:
        command.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return ended.code
    return 0


DAMAGE: dict[str, Any] = {
    "number": 7,
    "text": "Lee & Town",
    "list": [],
    "empty": {},
    "source a number": {"source": 3},
    "value a text": {"source": "s", "value": "low"},
    "value a list": {"source": "s", "value": [1]},
    "value not finite": {"source": "s", "value": float("inf")},
    "value too large": {"source": "s", "value": 10**400},
    "metric null": {"source": "s", "metric": None},
    "differs a mapping": {"source": "s", "differs": {"a": 1}},
    "later key": {"source": "s", "later": 1},
    "nested": json.loads("[" * 400 + "]" * 400),
}


@pytest.mark.integration
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_reference_leaves_out_one_run(kind: str, recorded, tmp_path: Path, capsys) -> None:
    good, bad = recorded(fid=22.3), recorded(fid=1.0)
    bad.config["reference"] = DAMAGE[kind]
    folder = in_folder([good, bad], tmp_path / "runs")
    assert report(folder, "--reference") == 1
    output, errors = capsys.readouterr()
    assert "| FID 22.29 | 22.30 (n=1) |" in output
    assert f"{bad.run_id} is left out, since its config is damaged: " in errors
    assert report(folder, "--reference", "--format", "json", "-o", tmp_path / "x.json") == 1
    (entry,) = json.loads((tmp_path / "x.json").read_text())
    assert entry["runs"] == [good.run_id]
    assert report(folder, "--format", "html", "-o", tmp_path / "x.html") == 1
    assert report(folder) == 0, "the table does not show references"


@pytest.mark.integration
@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config["choices"].update(experiment=["a"]),
        lambda config: config["choices"].update(experiment={"a": 1}),
        lambda config: config["loss"].update(k=float("nan")),
        lambda config: config.update(loss=3, train={}, data=None, scorer={}),
        lambda config: config["reference"].update(metric="step\x1b[31m|"),
    ],
)
def test_other_damage_ends_no_report(damage, recorded, tmp_path: Path, capsys) -> None:
    good, bad = recorded(fid=22.3), recorded(fid=1.0)
    damage(bad.config)
    folder = in_folder([good, bad], tmp_path / "runs")
    for form in ("md", "json"):
        assert report(folder, "--reference", "--format", form) in (0, 1)
        output = capsys.readouterr().out
        assert "22.3" in output
        assert "\x1b" not in output


def test_the_page_has_the_table_if_there_are_references(recorded, tmp_path: Path) -> None:
    run = recorded(fid=22.3)
    folder, page = in_folder([run], tmp_path / "runs"), tmp_path / "page.html"
    assert report(folder, "--format", "html", "-o", page) == 0
    text = page.read_text()
    assert text.index("Published values</h2>") < text.index("<td>22.30 (n=1)</td>") < text.index("Lee &amp; Town 2020")
    run.config["reference"] = None
    assert report(in_folder([run], folder), "--format", "html", "-o", page) == 0
    assert "Published values" not in page.read_text()


def test_what_cannot_be_compared_is_refused_in_one_line(recorded, tmp_path: Path) -> None:
    run = recorded(fid=22.3)
    folder = in_folder([run], tmp_path / "runs")
    assert "choose --format md, json or html" in str(report(folder, "--reference", "--format", "csv"))
    assert "leave out --claims" in str(report(folder, "--reference", "--claims"))
    assert "leave out --metric" in str(report(folder, "--reference", "--metric", "fid"))
    run.config["reference"] = None
    in_folder([run], folder)
    assert "has a reference to compare with: train a recipe" in str(report(folder, "--reference"))


OWN_RECIPE = """# @package _global_
defaults:
  - override /data: gaussians8
  - override /model: mlp
  - override /scorer: exact
scorer:
  num_samples: 64
train:
  steps: 3
reference:
  source: Someone 2020, Table 1
  metric: w1
  value: 1.5
  tolerance: 100
  differs: [another network]
"""


def test_an_own_recipe_is_compared_with_and_without_its_folder(
    sweep: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    own = sweep.folder / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(OWN_RECIPE)
    given = ["experiment=own", "tracker=none", "device=cpu", "train.batch_size=8", "seed=0,1", "div.k=2,1"]
    sweep("-m", "--config-dir=mine", *given, tiny=False)
    runs = find_runs(sweep.folder / "runs").records
    assert len(runs) == 4
    archive = tmp_path / "runs.jsonl.gz"
    write_archive(archive, sweep.folder / "runs", runs)

    def entries(*arguments: object) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert report(archive, "--reference", "--format", "json", *arguments) == 0
        return sorted(json.loads(capsys.readouterr().out), key=lambda entry: entry["runs"])

    values = {
        k: [run.scores["w1"] for run in runs if run.config["div"]["k"] == k and run.status == Status.DONE]
        for k in (1.0, 2.0)
    }
    without = entries()
    assert {entry["recipe_is_known"] for entry in without} == {False}
    assert [entry["verdict"] for entry in without] == ["within", "within"]
    monkeypatch.setattr(folders, "_named", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = entries("--config-dir", sweep.folder / "mine")
    for entry, other in zip(known, without, strict=True):
        assert entry["recipe"] == other["recipe"] == "own"
        assert (entry["value"], entry["tolerance"], entry["differs"]) == (1.5, 100, ["another network"])
        k = next(run.config["div"]["k"] for run in runs if run.run_id == entry["runs"][0])
        changes = [{"key": "div.k", "ours": "1", "recipe": "2"}] if k == 1 else []
        batch = {"key": "train.batch_size", "ours": "8", "recipe": "16"}
        assert entry["changes"] == [*changes, batch]
        assert {change["key"]: change["ours"] for change in other["changes"]} == {
            "div.k": str(int(k)),
            "train.batch_size": "8",
        }
        assert entry["mean"] == other["mean"] == pytest.approx(statistics.fmean(values[k]))
        assert entry["difference"] == pytest.approx(statistics.fmean(values[k]) - 1.5)
        assert (entry["n"], entry["step"], entry["exact_samples"]) == (2, 3, 64)
