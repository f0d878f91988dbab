"""The command ``wgan-runs``: which runs it lists, shows, compares, removes, cleans up after and cancels."""

import errno
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.cells import cell_len

from wgan_sweep.commands import report as report_command
from wgan_sweep.commands import runs as command
from wgan_sweep.errors import InputError
from wgan_sweep.report import cells, listing
from wgan_sweep.report.listing import age
from wgan_sweep.runs import lock as locks
from wgan_sweep.runs import selection
from wgan_sweep.runs.coordinates import coordinates
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.lock import Process, run_lock
from wgan_sweep.runs.record import EarlierScores, Record, Status
from wgan_sweep.runs.removal import size_of
from wgan_sweep.sweeps.config_of_run import differences
from wgan_sweep.sweeps.slurm_jobs import Submission, cancel_jobs

from .helpers import append_metrics, write_record
from .report.test_report import grid, record


def write_runs(folder: Path, items: list[Record]) -> list[Record]:
    for item in items:
        write_record(RunDir(folder / item.run_id), item)
    return items


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of runs, which the command uses by default."""
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("WGAN_SWEEP_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """A function that runs the command in this process, checks its exit code, and returns its output and messages."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        ended: object = 0
        message = ""
        try:
            command.main(arguments)
        except SystemExit as error:
            ended, message = (1, error.code) if isinstance(error.code, str) else (error.code, "")
        output = capsys.readouterr()
        assert ended == code, (message, output)
        return output.out, output.err + message

    return run


def listed(output: str) -> list[str]:
    """Return the ids in a table."""
    return [line.split()[0] for line in output.splitlines()[1:]]


def test_filters_take_lists_and_any_spelling_of_a_number(folder: Path, call) -> None:
    items = write_runs(folder, [*grid(), record(None, "failed", k=2.0, p=6.0, seed=9)])
    keys = ("div.k=2", "div.k=2.0", "div.p=2,6.00", "status=done", "seed=0,9", "train.batch_size=64")

    def expected(key: str) -> list[str]:
        name, _, values = key.partition("=")
        wanted = set(values.split(","))

        def has(item: Record) -> bool:
            own = {
                "div.k": item.config["div"]["k"],
                "div.p": item.config["div"]["p"],
                "status": item.status,
                "seed": item.config["seed"],
                "train.batch_size": item.config["train"]["batch_size"],
            }[name]
            numbers = {float(value) for value in wanted} if name != "status" else set()
            return own in numbers or str(own) in wanted

        return [item.run_id for item in items if has(item)]

    for key in keys:
        assert listed(call("list", key)[0]) == expected(key) != []
    both = set(expected(keys[0])) & set(expected(keys[4]))
    assert set(listed(call("list", keys[0], keys[4])[0])) == both
    assert listed(call("list")[0]) == [item.run_id for item in items]


def test_a_list_computes_the_coordinates_of_each_run_once(folder: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    items, computed = write_runs(folder, grid()), []
    for module in (listing, selection, cells):
        monkeypatch.setattr(module, "coordinates", lambda item: computed.append(item.run_id) or coordinates(item))
    assert len(listed(call("list")[0])) == len(items)
    assert sorted(computed) == sorted(item.run_id for item in items)


@pytest.mark.parametrize("program", [command, report_command])
def test_a_command_whose_reader_has_ended_ends_without_a_message(
    folder: Path, program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_runs(folder, grid())
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as end:
            program.main(["list"] if program is command else [str(folder)])
        assert end.value.code == 128 + signal.SIGPIPE
        stdout.write("what Python flushes at its end")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("program", [command, report_command])
def test_a_place_that_is_no_folder_of_runs_is_named_with_what_it_is(folder: Path, program: ModuleType) -> None:
    (item,) = write_runs(folder, [record(1.0)])
    (folder / "claims.yaml").touch()
    words = {
        item.run_id: f"is the directory of a run: give the folder that holds it, {folder}",
        "claims.yaml": "is neither a folder of runs nor an archive, whose name ends in .jsonl.gz",
    }
    for name, message in words.items():
        with pytest.raises(SystemExit) as refusal:
            program.main(["list", "--runs", str(folder / name)] if program is command else [str(folder / name)])
        assert f"{folder / name} {message}" in str(refusal.value)


def test_the_help_names_archives_where_the_guide_says_that_they_are_read(call) -> None:
    guide = (Path(__file__).parent.parent / ".github" / "guide" / "wgan-runs.md").read_text()
    (sentence,) = re.findall(r"((?:`\w+`,? (?:and )?)+)read an archive as well", guide.replace("\n", " "))
    names = [add.__name__.removeprefix("add_") for add in command.COMMANDS]
    assert {name for name in names if "or an archive" in call(name, "--help")[0].replace("\n", " ")} == set(
        re.findall(r"`(\w+)`", sentence)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["div.q=1"], "div.q; did you mean div.p"),
        (["div.k"], "'div.k' is not a filter"),
        (["div.k="], "is not a filter"),
        (["--sort", "sed"], "no run has a value of sed; did you mean seed"),
        (["--runs", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_filter_or_key_that_no_run_has_is_refused_in_one_line(folder: Path, call, words, message: str) -> None:
    write_runs(folder, grid())
    output, errors = call("list", *words, code=1)
    assert output == ""
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_filters_that_match_nothing_and_folders_without_runs_say_so(folder: Path, call) -> None:
    assert "holds no runs" in call("list", code=1)[1]
    write_runs(folder, grid())
    assert call("list", "seed=77") == ("", "wgan-runs: none of 12 runs matches seed=77\n")
    (next(folder.iterdir()) / "record.json").write_text("{")
    output, errors = call("list", code=1)
    assert len(listed(output)) == 11
    assert "is not a run's record" in errors


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_the_width_and_cuts_off_neither_ids_nor_numbers(
    width: int, folder: Path, call, monkeypatch
) -> None:
    started = (datetime.now(UTC) - timedelta(hours=5)).isoformat()
    losses, schemes = ("wgan_div", "wgan_div_old"), ("perturbed_real", "within_source")
    items = [
        record(123.456 + seed, loss=loss, sampling=scheme, k=k, p=6.0, lr=2e-4 * k, seed=seed)
        for loss in losses
        for scheme in schemes
        for k in (1.25, 2.5)
        for seed in (0, 1)
    ]
    for index, item in enumerate(items):
        item.run_id, item.started = f"{index:012x}", started
        item.step = item.config["train"]["steps"] = 1_000_000
    write_runs(folder, items)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = call("list")[0].splitlines()
    assert len(lines) == 17
    assert all(len(line) <= width for line in lines)
    for line, item in zip(lines[1:], sorted(items, key=lambda item: item.run_id), strict=True):
        words = line.split()
        assert words[0] == item.run_id
        step, age = (["1000000"], ["5", "h"]) if width == 160 else ([], [])
        count = 2 + len(step) + len(age)
        assert words[-count:] == ["done", *step, f"{item.scores['fid']:.2f}", *age]
    if width == 160:
        assert "perturbed_real" in lines[1]
        assert lines[0].split() == ["run", "loss", "sampling", "k", "lr", "seed", "status", "step", "FID", "age"]
    monkeypatch.delenv("COLUMNS")
    wide = call("list")[0]
    assert "perturbed_real" in wide
    assert "…" not in wide


def test_a_narrow_terminal_shows_whole_values_instead_of_age_and_step(folder: Path, call, monkeypatch) -> None:
    choices = [(loss, scheme, seed) for loss in ("gan", "wgan_gp") for scheme in ("real", "mixture") for seed in "01"]
    items = [record(10.0, loss=loss, sampling=scheme, seed=int(seed)) for loss, scheme, seed in choices]
    for item in items:
        item.run_id, item.started = f"{len(items) + items.index(item):012x}", datetime.now(UTC).isoformat()
    write_runs(folder, items)
    monkeypatch.setenv("COLUMNS", "60")
    header, *lines = (line.split() for line in call("list")[0].splitlines())
    assert header == ["run", "loss", "sampling", "seed", "status", "FID"]
    assert sorted(tuple(line[1:4]) for line in lines) == sorted(choices)


def test_a_terminal_of_the_width_of_the_table_shows_it_whole(folder: Path, call, monkeypatch) -> None:
    write_runs(folder, [record(10.0, loss=loss, sampling="mixture") for loss in ("gan", "wgan_gp")])
    whole = call("list")[0]
    width = max(map(len, whole.splitlines()))
    for columns, last in ((width, "age"), (width - 1, "FID")):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = call("list")[0].splitlines()
        assert lines[0].split()[-1] == last
        assert "…" not in "".join(lines)
        assert max(map(len, lines)) <= columns


def test_a_filter_that_no_run_passes_names_the_nearest_value(folder: Path, call) -> None:
    write_runs(folder, grid())
    message = "none of 12 runs matches seed=0 loss=wgan_dif; did you mean wgan_div?"
    assert call("list", "seed=0", "loss=wgan_dif")[1] == f"wgan-runs: {message}\n"
    assert call("best", "seed=0", "loss=wgan_dif", code=1)[1] == f"wgan-runs: {message}"
    assert call("list", "status=new", code=1)[1].endswith("choose from running, done, diverged, failed, pruned, dead")
    assert "no run has the metric FID: choose" in call("best", "--metric", "FID", code=1)[1]
    assert call("best", "--metric", "FID", code=1)[1].endswith("; did you mean fid?")


def test_letters_of_all_languages_are_shown_as_they_are(folder: Path, call) -> None:
    items = [record(1.0), record(2.0, seed=1)]
    items[0].config["data"]["name"] = "Zürich データ"
    write_runs(folder, items)
    lines = call("diff", *(item.run_id for item in items))[0].splitlines()
    (line,) = (line for line in lines if "data.name" in line)
    assert '"Zürich データ"' in line
    assert cell_len(line) == cell_len(lines[0])


def test_only_axes_that_vary_are_columns(folder: Path, call) -> None:
    write_runs(folder, [record(1.0, k=k, p=6.0) for k in (1.0, 2.0)])
    assert call("list")[0].splitlines()[0].split() == ["run", "k", "status", "step", "FID", "age"]


@pytest.mark.parametrize("key", ["metric", "step", "started", "seed", "div.k", "status", "loss"])
def test_runs_are_sorted_by_any_axis_or_metric(key: str, folder: Path, call) -> None:
    items = [record(50.0 - 7 * n % 30, loss=f"wgan_div{n % 2}", k=(10.0, 9.0)[n % 2], seed=5 - n) for n in range(5)]
    items.append(record(None, "failed", loss="wgan_gp", seed=11))
    for n, item in enumerate(items):
        item.step = (3 * n) % 7
    write_runs(folder, items)
    values = {
        "metric": lambda r: r.scores.get("fid", 1e9),
        "step": lambda r: r.step,
        "started": lambda r: r.started,
        "seed": lambda r: r.config["seed"],
        "div.k": lambda r: r.config["loss"].get("k", 1e9),
        "status": lambda r: r.status,
        "loss": lambda r: r.config["choices"]["loss"],
    }
    output = listed(call("list", "--sort", key)[0])
    by_id = {item.run_id: values[key](item) for item in items}
    assert [by_id[name] for name in output] == sorted(by_id.values())
    assert sorted(output) == sorted(by_id)


def test_json_holds_what_the_records_hold(folder: Path, call) -> None:
    items = write_runs(folder, grid())
    items[0].scores["fid"] = float("nan")
    write_record(RunDir(folder / items[0].run_id), items[0])
    entries = json.loads(call("list", "--json")[0], parse_constant=lambda name: pytest.fail(name))
    assert [entry["run_id"] for entry in entries] == [item.run_id for item in items]
    for entry, item in zip(entries[1:], items[1:], strict=True):
        assert (entry["status"], entry["scores"], entry["seed"]) == ("done", item.scores, item.config["seed"])
        assert entry["axes"] == {
            "div.k": f"{item.config['div']['k']:g}",
            "div.p": f"{item.config['div']['p']:g}",
            "seed": str(item.config["seed"]),
        }
    assert entries[0]["scores"]["fid"] is None


def test_a_run_that_no_process_holds_is_dead(folder: Path, call) -> None:
    running, dead, done = write_runs(folder, [record(None, "running"), record(None, "running"), record(1.0)])
    with run_lock(RunDir(folder / running.run_id).lock, "run"):
        assert listed(call("list", "status=running")[0]) == [running.run_id]
        assert listed(call("list", "status=dead")[0]) == [dead.run_id]
        assert "no process holds it" in call("show", dead.run_id)[0]
        assert "no process holds it" not in call("show", running.run_id)[0]
    assert listed(call("list", "status=dead")[0]) == [running.run_id, dead.run_id]
    assert done.run_id in listed(call("list")[0])


def test_ids_may_be_shortened_while_they_are_unambiguous(folder: Path, call) -> None:
    items = [record(1.0, seed=seed) for seed in range(3)]
    for item, name in zip(items, ("abc1", "abd2", "abd23"), strict=True):
        item.run_id = name
    write_runs(folder, items)
    for prefix, name in {"abc": "abc1", "abd2": "abd2", "abd23": "abd23"}.items():
        assert re.search(r"^run +(\S+)$", call("show", prefix)[0], re.MULTILINE)[1] == name
    _, errors = call("show", "abd", code=1)
    assert "2 runs have ids that begin with 'abd'" in errors
    assert "abd2 (seed=1), abd23 (seed=2)" in errors
    assert "abc1" not in errors
    assert "no run has an id that begins with 'x'" in call("show", "x", code=1)[1]
    assert "begins with ''" in call("show", "", code=1)[1]


@pytest.mark.integration
@pytest.mark.parametrize(
    "overrides",
    [
        {"loss": "wgan_gp", "optimizer.lr": 0.5, "train.steps": 7},
        {"loss": "wgan_div", "div.k": 1.5, "sampling": "real", "data": "gaussians8", "model": "mlp", "seed": 3},
    ],
)
def test_the_differences_from_the_defaults_are_the_overrides(overrides: dict[str, object], make) -> None:
    config = make(*(f"{key}={value}" for key, value in overrides.items()), tiny=False)
    shown = {key: value for key, value, _ in differences(asdict(config))}
    defaults = {key: value for key, value in overrides.items() if (key, value) != ("loss", "wgan_div")}
    assert {key: value for key, value in shown.items() if key in overrides} == defaults
    # What else differs are options that the loss or the data select.
    assert set(shown) - set(defaults) <= {"constraint", "optimizer", "scorer"}
    lr = {key: default for key, _, default in differences(asdict(make("optimizer.lr=0.5", tiny=False)))}
    assert lr == {"optimizer.lr": make(tiny=False).optimizer["lr"]}


def test_a_config_that_refers_to_the_environment_is_not_resolved(make, folder: Path, call, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_OF_TEST", "swordfish")
    config = asdict(make())
    config["model"]["dim"] = "${oc.env:SECRET_OF_TEST}"
    with pytest.raises(InputError, match="interpolation"):
        differences(config)
    write_runs(folder, [Record("ab", Status.DONE, [], config)])
    output, errors = call("show", "ab")
    assert "not compared with the defaults" in errors
    assert "swordfish" not in output + errors


def test_show_names_everything_that_is_known(make, folder: Path, call) -> None:
    item = record(12.5)
    item.config = asdict(make("loss=wgan_gp"))
    item.status, item.error = Status.FAILED, "Traceback\nValueError: it \x1b[31mbroke"
    item.versions, item.execution, item.host = {"torch": "2.9"}, {"precision": "fp32"}, "node7"
    item.history = [EarlierScores(5, {"step": 5, "fid": 77.25}, {"features": "planned"}, finished="2026-01-01")]
    write_runs(folder, [item])
    directory = RunDir(folder / item.run_id)
    directory.checkpoint.write_bytes(bytes(12_345))
    output, _ = call("show", item.run_id)
    for words in ("| loss ", '"wgan_gp"', "12.5", "ValueError: it", "torch 2.9", "precision fp32", "node7"):
        assert words in output
    assert re.search(r"\| checkpoint.pt *\| 12.3 kB *\|", output)
    assert re.search(r"\| 5 +\| 2026-01-01 \| fid 77.25 \| features planned \|", output)
    assert "\x1b" not in output


def test_diff_shows_the_values_that_differ_and_both_scores(folder: Path, call) -> None:
    first, second = write_runs(folder, [record(50.0, k=1.0, seed=1), record(40.0, k=2.0, seed=1)])
    second.config["train"]["steps"] = first.config["train"]["steps"]
    second.config["data"]["root"] = first.config["data"]["root"]
    second.config["device"] = "cuda"
    write_runs(folder, [second])
    output, _ = call("diff", first.run_id, second.run_id)
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in output.splitlines() if line.startswith("| ")]
    ids = [first.run_id, second.run_id]
    assert rows[0] == ["config", *ids]
    assert rows[1:4] == [["loss.k", "1.0", "2.0"], ["div.k", "1.0", "2.0"], ["device", "-", '"cuda"']]
    assert rows[4:7] == [["scores", *ids], ["status", "done", "done"], ["steps", "10", "10"]]
    assert ["fid", "50", "40"] in rows
    assert "The configs are equal." in call("diff", first.run_id, first.run_id)[0]


def test_best_is_the_lowest_run_and_the_lowest_mean(folder: Path, call) -> None:
    fids = {(1.0, 0): 10.0, (1.0, 1): 90.0, (2.0, 0): 30.0, (2.0, 1): 32.0, (3.0, 0): 40.0, (3.0, 1): 41.0}
    items = [record(fid, k=k, seed=seed) for (k, seed), fid in fids.items()]
    items += [record(1.0, "failed", k=3.0, seed=2), record(float("nan"), k=3.0, seed=3)]
    write_runs(folder, items)
    means = {k: statistics.mean(fid for (own, _), fid in fids.items() if own == k) for k in (1.0, 2.0, 3.0)}
    lowest = min(means, key=means.__getitem__)
    output, _ = call("best")
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in output.splitlines() if line.startswith("| ")]
    assert rows[1] == ["run", items[0].run_id, "div.k=1 seed=0", "10.00"]
    assert rows[2][:3] == ["cell", f"{items[2].run_id} {items[3].run_id}", f"div.k={lowest:g}"]
    assert rows[2][3].startswith(f"{means[lowest]:.2f} ± ")
    assert f"| run  | {items[4].run_id}" in call("best", "div.k=3")[0]
    for item in items:
        item.scores = {**item.scores, "modes": 100 - item.scores["fid"]}
    write_runs(folder, items)
    assert f"| run  | {items[0].run_id}" in call("best", "--metric", "modes")[0]
    assert "no run has the metric w1: choose --metric from fid, modes" in call("best", "--metric", "w1", code=1)[1]


@pytest.mark.parametrize("others", [{"modes": 3.0}, {}])
def test_best_is_refused_for_a_metric_without_a_known_direction(folder: Path, call, others: dict[str, float]) -> None:
    items = [record(0.0, seed=seed) for seed in (0, 1, 2)]
    for item, value in zip(items, (0.3, 0.1, 0.2), strict=True):
        item.scores = {"step": 10, "pair_ssim": value, **others}
    write_runs(folder, items)
    message = call("best", "--metric", "pair_ssim", code=1)[1]
    assert "it is not known whether low or high values of pair_ssim are better: " in message
    assert ("choose --metric from modes, or list" in message) is bool(others)
    assert "`wgan-runs list --sort pair_ssim`" in message
    assert listed(call("list", "--sort", "pair_ssim")[0]) == [items[index].run_id for index in (1, 2, 0)]


def test_rm_removes_the_runs_that_are_named_and_no_other(folder: Path, call) -> None:
    items = write_runs(
        folder, [record(1.0, seed=0), record(None, "failed", seed=1), record(None, "diverged", seed=2), record(2.0)]
    )
    names = [item.run_id for item in items]
    assert "standard input is not a terminal" in call("rm", names[3], code=1)[1]
    assert "name the runs" in call("rm", "--yes", code=1)[1]
    assert "either ids or filters" in call("rm", names[0], "status=failed", "--yes", code=1)[1]
    assert {path.name for path in folder.iterdir()} == set(names)
    output, _ = call("rm", "status=failed,diverged", "--yes")
    assert listed(output)[:2] == names[1:3]
    assert output.endswith("2 of 2 removed\n")
    assert [r.run_id for r in find_runs(folder).records] == [names[0], names[3]]
    call("rm", names[3], "--yes")
    assert [r.run_id for r in find_runs(folder).records] == [names[0]]
    assert {path.name for path in folder.iterdir()} == {names[0], ".locks"}
    assert "nothing is removed" in call("rm", "seed=77", "--yes")[0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_rm_asks_first(answer: str, code: int, folder: Path, call, monkeypatch) -> None:
    (item,) = write_runs(folder, [record(1.0)])
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert "remove 1 run (" in call("rm", item.run_id, code=code)[0]
    assert (folder / item.run_id).exists() == bool(code)


def test_rm_keeps_a_run_that_a_process_holds_or_that_has_changed(folder: Path, call, monkeypatch) -> None:
    held, changed, other = write_runs(folder, [record(None, "failed", seed=seed) for seed in range(3)])
    write = write_record

    def answer_late() -> str:
        changed.status = Status.DONE
        write(RunDir(folder / changed.run_id), changed)
        return "y\n"

    terminal = Terminal()
    monkeypatch.setattr(terminal, "readline", answer_late)
    monkeypatch.setattr(sys, "stdin", terminal)
    with run_lock(RunDir(folder / held.run_id).lock, "run"):
        output, errors = call("rm", "status=failed", code=1)
    assert f"run {held.run_id} is kept: process {os.getpid()} on " in errors
    assert f"run {changed.run_id} is kept: it has changed since it was listed: it is done at step 10" in errors
    assert output.endswith("1 of 3 removed\n")
    assert {r.run_id for r in find_runs(folder).records} == {held.run_id, changed.run_id}
    assert not (folder / other.run_id).exists()


def test_a_run_that_ends_while_runs_are_listed_is_not_dead(folder: Path, call, monkeypatch) -> None:
    ended, killed = write_runs(folder, [record(None, "running", seed=seed) for seed in (0, 1)])

    def end(lock: Path) -> None:
        if lock.name == ended.run_id:
            write_record(RunDir(folder / ended.run_id), replace(ended, status=Status.DONE))

    monkeypatch.setattr(selection, "lock_owner", end)
    assert listed(call("list", "status=done")[0]) == [ended.run_id]
    assert listed(call("list", "status=dead")[0]) == [killed.run_id]


def test_rm_and_clean_free_a_full_disk(folder: Path, call, monkeypatch) -> None:
    """No lock can be written there. Runs that a process holds are kept."""
    removed, cleaned, held = write_runs(folder, [record(1.0, seed=seed) for seed in range(3)])
    with run_lock(RunDir(folder / removed.run_id).lock, "run"):
        pass
    for item in (cleaned, held):
        (folder / item.run_id / "checkpoint.previous.pt").write_bytes(bytes(500))

    def fill_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with run_lock(RunDir(folder / held.run_id).lock, "run"):
        monkeypatch.setattr(locks.json, "dump", fill_disk)
        assert f"run {held.run_id} is kept" in call("rm", held.run_id, "--yes", code=1)[1]
        assert call("rm", removed.run_id, "--yes")[0].endswith("1 of 1 removed\n")
        assert call("clean", "--checkpoints", "--yes")[0].endswith("1 of 1 removed\n")
    assert {path.name for path in folder.iterdir()} == {cleaned.run_id, held.run_id, ".locks"}
    assert [path.parent.name for path in folder.glob("*/*.pt")] == [held.run_id]
    for errors in (errno.EIO, errno.EACCES):
        monkeypatch.setattr(locks.json, "dump", lambda *_, code=errors: (_ for _ in ()).throw(OSError(code, "no")))
        assert f"run {cleaned.run_id} is not removed" in call("rm", cleaned.run_id, "--yes", code=1)[1]


def test_rm_watches_an_owner_that_was_silent_for_long_before_it_removes_its_run(
    folder: Path, call, monkeypatch
) -> None:
    """A run of another node, for example, whose job was killed; another one has had a heartbeat lately."""
    silent, active = write_runs(folder, [record(None, "running", seed=seed) for seed in (0, 1)])
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    for item, seconds in ((silent, 3000), (active, 0)):
        token = RunDir(folder / item.run_id).lock / "1"
        token.parent.mkdir(parents=True)
        token.write_text(json.dumps(asdict(replace(locks.Process(), boot="another", host="node", pid=7))))
        os.utime(token, (time.time() - seconds,) * 2)
    assert listed(call("list", "status=dead")[0]) == [silent.run_id]
    assert f"run {active.run_id} is kept: process 7 on node" in call("rm", active.run_id, "--yes", code=1)[1]
    assert now == 1000.0
    output, errors = call("rm", silent.run_id, "--yes")
    assert output.endswith("1 of 1 removed\n")
    assert "process 7 on node has had no heartbeat for long" in errors
    assert now > 1060.0


def test_a_removal_that_is_killed_leaves_nothing_that_counts(folder: Path, call, monkeypatch) -> None:
    removed, kept = write_runs(folder, [record(1.0, seed=0), record(2.0, seed=1)])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: sys.exit(137))  # killed after the first step
        call("rm", removed.run_id, "--yes", code=137)
    found = find_runs(folder)
    assert ([r.run_id for r in found.records], found.problems, found.notes) == ([kept.run_id], [], [])
    (left,) = folder.glob(".removed-*")
    assert (left / "record.json").exists()
    assert "temporary files of killed processes: 1" in call("clean", "--yes")[0]
    assert not left.exists()


def test_rm_of_a_run_that_is_a_symbolic_link_removes_the_link_only(folder: Path, tmp_path: Path, call) -> None:
    """A run on another disk, for example."""
    (item,) = write_runs(folder, [record(1.0)])
    elsewhere = (folder / item.run_id).rename(tmp_path / "big disk")
    (elsewhere / "checkpoint.pt").write_bytes(bytes(1_000_000))
    (folder / item.run_id).symlink_to(elsewhere)
    output, errors = call("rm", item.run_id, "--yes")
    assert output.endswith("1 of 1 removed\n")
    assert errors.endswith(f"run {item.run_id} was a symbolic link, which is removed; {elsewhere} stays\n")
    assert {path.name for path in folder.iterdir()} == {".locks"}
    assert {path.name for path in elsewhere.iterdir()} == {"record.json", "checkpoint.pt"}


def test_rm_tells_the_size_of_what_it_removes_of_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1_000_000))
    (folder / "link").symlink_to(tmp_path)
    assert size_of(folder / "link") == (folder / "link").lstat().st_size < 1000


def test_clean_unlinks_symbolic_links_that_rm_has_left(folder: Path, tmp_path: Path, call) -> None:
    (tmp_path / "other disk").mkdir()
    (tmp_path / "other disk" / "record.json").write_text("{}")
    (folder / ".removed-1-a").symlink_to(tmp_path / "other disk")
    (folder / ".removed-1-b").symlink_to(tmp_path / "nowhere")
    assert call("clean", "--yes")[0].endswith("2 of 2 removed\n")
    assert not list(folder.iterdir())
    assert (tmp_path / "other disk" / "record.json").exists()


def test_rm_keeps_a_run_whole_if_a_folder_of_it_is_not_writable(folder: Path, call, monkeypatch) -> None:
    """The user of the tests may be one who can write everywhere."""
    kept, removed = write_runs(folder, [record(1.0, seed=0), record(2.0, seed=1)])
    samples = folder / kept.run_id / "samples"
    samples.mkdir()
    (samples / "3.png").touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != samples and access(path, mode))
    output, errors = call("rm", kept.run_id, removed.run_id, "--yes", code=1)
    assert output.endswith("1 of 2 removed\n")
    assert errors == (
        f"wgan-runs: run {kept.run_id} is kept: {samples} cannot be written to: change its permissions, or leave it "
        "to its owner\n"
    )
    assert {path.name for path in folder.iterdir()} == {kept.run_id, ".locks"}
    assert {path.name for path in (folder / kept.run_id).iterdir()} == {"record.json", "samples"}
    monkeypatch.undo()
    call("rm", kept.run_id, "--yes", "--runs", str(folder))
    assert {path.name for path in folder.iterdir()} == {".locks"}


def test_what_rm_cannot_remove_is_reported_and_left_to_clean(folder: Path, call, monkeypatch) -> None:
    broken, removed = write_runs(folder, [record(1.0, seed=0), record(2.0, seed=1)])
    (folder / broken.run_id / "samples").mkdir()
    for name in ("1.png", "3.png", "5.png"):
        (folder / broken.run_id / "samples" / name).touch()
    unlink = os.unlink

    def fail_for_one(path: str | Path, **options: int) -> None:
        if Path(path).name == "3.png":
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", fail_for_one)
    output, errors = call("rm", broken.run_id, removed.run_id, "--yes", code=1)
    assert output.endswith("1 of 2 removed\n")
    (left,) = folder.glob(".removed-*")
    assert f"run {broken.run_id} is not removed: {left} is left of it ([Errno 1] Operation not permitted: " in errors
    assert [path.name for path in left.rglob("*")] == ["samples", "3.png"]
    assert find_runs(folder).records == []
    output, errors = call("clean", "--yes", code=1)
    assert output.endswith("0 of 1 removed\n")
    assert f"{left} is not removed: [Errno 1] Operation not permitted: " in errors
    monkeypatch.setattr(os, "unlink", unlink)
    assert call("clean", "--yes")[0].endswith("1 of 1 removed\n")
    assert not left.exists()


@pytest.mark.parametrize("command", ["rm", "clean"])
def test_a_removal_goes_on_after_a_file_that_another_process_has_removed(
    command: str, folder: Path, call, monkeypatch
) -> None:
    (item,) = write_runs(folder, [record(1.0)])
    for number in range(5):
        (folder / item.run_id / f"{number}").touch()
    if command == "clean":
        (folder / item.run_id).rename(folder / f".removed-1-{item.run_id}")
    unlink = os.unlink

    def too_late(path: str | Path, **options: int) -> None:
        unlink(path, **options)
        if Path(path).name in ("1", "3"):
            raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(os, "unlink", too_late)
    words = {"rm": ["rm", item.run_id, "--yes"], "clean": ["clean", "--yes"]}[command]
    assert call(*words)[0].endswith("1 of 1 removed\n")
    assert {path.name for path in folder.iterdir()} <= {".locks"}


def set_age(path: Path, days: float) -> None:
    moment = time.time() - days * 86400
    for item in [*path.rglob("*"), path]:
        os.utime(item, (moment, moment))


def test_clean_removes_only_what_nobody_uses(folder: Path, call) -> None:
    idle, held, failed, active = write_runs(
        folder, [record(1.0, seed=0), record(2.0, seed=1), record(None, "failed", seed=2), record(None, "running")]
    )
    active.sweep = "active sweep"
    write_runs(folder, [active])
    for item in (idle, held, failed):
        directory = RunDir(folder / item.run_id)
        (directory.path / ".staging-3").mkdir()
        (directory.path / ".staging-3" / "x").write_bytes(bytes(1000))
        for name in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt", "best.previous.pt"):
            (directory.path / name).write_bytes(bytes(500))
    for name, days in {"old": 31, "young": 29, "active sweep": 90}.items():
        (folder / ".sweeps" / name).mkdir(parents=True)
        for file in ("table.md", ".table.md.x1y2"):
            (folder / ".sweeps" / name / file).write_text("table")
        set_age(folder / ".sweeps" / name, days)
    (folder / ".sweeps" / "old" / ".table.md.x1y2").unlink()
    (folder / ".sweeps" / "young" / ".figure.png.new1").write_text("in use")
    set_age(folder / ".sweeps" / "old", 31)
    before = {path for path in folder.rglob("*") if path.is_file()}
    with (
        run_lock(RunDir(folder / held.run_id).lock, "run"),
        run_lock(RunDir(folder / active.run_id).lock, "run"),
    ):
        assert "standard input is not a terminal" in call("clean", "--checkpoints", code=1)[1]
        assert {path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts} == before
        output, _ = call("clean", "--yes")
        assert "previous checkpoints" not in output
        call("clean", "--checkpoints", "--yes")
        assert "nothing to clean up" in call("clean", "--checkpoints", "--yes")[0]
    removed = before - {path for path in folder.rglob("*") if path.is_file()}
    expected = {folder / item.run_id / ".staging-3" / "x" for item in (idle, failed)}
    expected |= {folder / idle.run_id / name for name in ("checkpoint.previous.pt", "best.previous.pt")}
    expected |= {folder / ".sweeps" / "old" / "table.md"}
    expected |= {folder / ".sweeps" / name / ".table.md.x1y2" for name in ("young", "active sweep")}
    assert removed == expected
    assert not (folder / ".sweeps" / "old").exists()
    assert "--days must be" in call("clean", "--days", "-1", code=1)[1]


def test_clean_removes_folders_of_runs_that_have_no_record(folder: Path, call) -> None:
    """A kill before the first record leaves a config and a staging folder, and the token of the process."""
    (folder / ".locks").mkdir(parents=True)
    for name, files in {
        "killed": ["config.yaml", ".staging-1/x"],
        "empty": [],
        "held": [".staging-1/x"],
        "weights": ["config.yaml", "checkpoint.pt"],  # its record was removed by hand
        "unlocked": ["config.yaml"],  # no run was ever started there
    }.items():
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).parent.mkdir(exist_ok=True)
            (folder / name / file).write_text("x")
        if name != "unlocked":
            with run_lock(RunDir(folder / name).lock, name):
                pass
    with run_lock(RunDir(folder / "held").lock, "held"):
        assert "folders of runs that were killed before their first record: 2," in call("clean", "--yes")[0]
    assert {path.name for path in folder.iterdir()} == {".locks", "held", "weights", "unlocked"}
    assert (folder / "weights" / "checkpoint.pt").exists()


def test_clean_keeps_what_belongs_to_a_stopped_process(folder: Path, call, monkeypatch) -> None:
    """It had no heartbeat for long, as a suspended job; it would lose its run if that were taken over."""
    monkeypatch.setattr(locks, "LIFETIME_SECONDS", 1.0)
    (item,) = write_runs(folder, [record(None, "running")])
    item.sweep = "suspended"
    write_runs(folder, [item])
    write_sweeps(folder, suspended="table.md")
    directory = RunDir(folder / item.run_id)
    (directory.path / ".staging-1").mkdir()
    process = subprocess.Popen(["sleep", "600"])
    try:
        owner = Process(pid=process.pid, started=locks._start_time(process.pid))
        directory.lock.mkdir(parents=True)
        token = directory.lock / "1"
        token.write_text(json.dumps(asdict(owner)))
        process.send_signal(signal.SIGSTOP)
        while not owner.is_stopped():
            time.sleep(0.01)
        set_age(token, 1)
        assert "nothing to clean up" in call("clean", "--yes")[0]
        assert sweeps_left(folder) == {"suspended"}
        assert [path.name for path in directory.lock.iterdir()] == ["1"]
    finally:
        process.kill()
        process.wait()
    call("clean", "--yes")
    assert directory.leftovers() == []
    assert sweeps_left(folder) == set()


def write_sweeps(folder: Path, **files: str) -> None:
    """Write a file into the folder of each of these sweeps, which is then as old as those that are cleaned up."""
    for name, file in files.items():
        (folder / ".sweeps" / name).mkdir(parents=True, exist_ok=True)
        (folder / ".sweeps" / name / file).write_text("[]")
        set_age(folder / ".sweeps" / name, 400)


def sweeps_left(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".sweeps").iterdir()}


def test_clean_keeps_decisions_whatever_their_age(folder: Path, call) -> None:
    """They are stored nowhere else."""
    write_sweeps(folder, decided="table.md", other="table.md")
    write_sweeps(folder, decided="decision.json")
    assert "folders of old sweeps: 1," in call("clean", "--days", "0", "--yes")[0]
    assert sweeps_left(folder) == {"decided"}
    assert {path.name for path in (folder / ".sweeps" / "decided").iterdir()} == {"table.md", "decision.json"}
    assert "nothing to clean up" in call("clean", "--days", "0", "--yes")[0]


def test_clean_keeps_the_lists_of_sweeps_while_a_process_works_on_any_run(folder: Path, call) -> None:
    """A sweep may continue a run of an earlier sweep before it starts those that it lists."""
    (item,) = write_runs(folder, [record(None, "running")])
    item.sweep = "first"
    write_runs(folder, [item])
    write_sweeps(folder, first="table.md", continuing="not_started.json", other="table.md")
    with run_lock(RunDir(folder / item.run_id).lock, "run"):
        call("clean", "--yes")
        assert sweeps_left(folder) == {"first", "continuing"}
    call("clean", "--yes")
    assert sweeps_left(folder) == set()


def test_files_that_disappear_while_rm_and_clean_look_at_them_are_left_out(folder: Path, call, monkeypatch) -> None:
    (item,) = write_runs(folder, [record(1.0)])
    vanishing = [folder / item.run_id / ".record.json.x1", folder / ".sweeps" / "old" / ".table.md.x1"]
    (folder / ".sweeps" / "old").mkdir(parents=True)
    (folder / ".sweeps" / "old" / "table.md").write_text("table")
    for path in vanishing:
        path.write_text("")
    lstat = Path.lstat

    def lstat_too_late(path: Path) -> os.stat_result:
        if path in vanishing:
            path.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", lstat_too_late)
    assert size_of(folder / item.run_id) == (folder / item.run_id / "record.json").stat().st_size
    assert size_of(vanishing[0]) == 0
    assert "folders of old sweeps: 1" in call("clean", "--days", "0", "--yes")[0]
    assert "1 of 1 removed" in call("rm", item.run_id, "--yes")[0]


SQUEUE = """#!/bin/sh
echo "$0 $@" >> {log}
printf '7_0|PENDING\\n7_1|RUNNING\\n8|RUNNING\\n9|COMPLETED\\n55|RUNNING\\n'
"""
SCANCEL = """#!/bin/sh
echo "scancel $@" >> {log}
exit {code}
"""


@pytest.fixture
def cluster(tmp_path: Path, folder: Path, monkeypatch) -> Callable[[], list[str]]:
    """A stub of SLURM with five jobs, of which four have runs of the folder; returns the calls of `scancel`."""
    programs, log = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    for name, text in {"squeue": SQUEUE, "scancel": SCANCEL}.items():
        (programs / name).write_text(text.format(log=log, code=0))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    items = [record(None, "running", loss="wgan_div", seed=seed) for seed in range(5)]
    slurm = folder / ".slurm"
    slurm.mkdir()
    for item, job in zip(items, ("7_0", "7_1", "8", "8", "9"), strict=True):
        Submission(job, "log", 10, item.overrides, item.config).write(slurm, item.run_id)
    write_runs(folder, items[1:])  # the first one waits, and has no record
    (slurm / "damaged.json").write_text('{"job": "55; rm", "log": "", "steps": 1}')
    return lambda: [line for line in log.read_text().splitlines() if line.startswith("scancel")]


def by_seed(folder: Path, seed: int) -> str:
    paths = (folder / ".slurm").glob("id*.json")
    return next(path.stem for path in paths if json.loads(path.read_text())["config"]["seed"] == seed)


@pytest.mark.parametrize(
    ("words", "cancelled"),
    [
        (["seed=0"], "7_0"),
        (["status=pending"], "7_0"),
        (["seed=0,1"], "7_0 7_1"),
        (["seed=2,3"], "8"),
        (["loss=wgan_div"], "7_0 7_1 8"),
        (["--others", "seed=1,2,3"], "7_0"),
        (["--others", "seed=0"], "7_1 8"),
    ],
)
def test_cancel_cancels_the_jobs_of_the_selected_runs(words: list[str], cancelled: str, call, cluster) -> None:
    assert "standard input is not a terminal" in call("cancel", *words, code=1)[1]
    assert cluster() == []
    call("cancel", *words, "--yes")
    assert cluster() == [f"scancel {cancelled}"]


def test_cancel_keeps_a_job_that_has_other_runs(folder: Path, call, cluster) -> None:
    output, errors = call("cancel", "seed=1,2", "--yes", code=1)
    assert f"job 8 is kept: it also trains {by_seed(folder, 3)}" in errors
    assert cluster() == ["scancel 7_1"]
    assert "1 job cancelled" in output
    assert by_seed(folder, 0) in call("cancel", by_seed(folder, 0), "--yes")[0]
    assert cluster()[1:] == ["scancel 7_0"]
    assert "name the runs" in call("cancel", "--yes", code=1)[1]
    assert "no run has an id" in call("cancel", by_seed(folder, 4), "--yes", code=1)[1]  # its job is over


def test_clean_keeps_the_sweeps_whose_jobs_are_not_over(folder: Path, call, cluster, tmp_path, monkeypatch) -> None:
    """Also while SLURM does not say which are. One run waits in the queue, and has no record."""
    names = {1: "running", 2: "running", 3: "running", 4: "over"}
    for item in find_runs(folder).records:
        item.sweep = names[item.config["seed"]]
        write_runs(folder, [item])
    write_sweeps(folder, running="table.md", over="table.md", waiting="not_started.json", other="table.md")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        _, errors = call("clean", "--yes")
    assert "folders of sweeps whose runs were submitted are kept: squeue does not answer" in errors
    assert sweeps_left(folder) == {"running", "over", "waiting"}
    assert call("clean", "--yes")[1] == ""
    assert sweeps_left(folder) == {"running", "waiting"}
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\n")  # all are over
    call("clean", "--yes")
    assert sweeps_left(folder) == set()


def test_cancel_without_a_cluster_says_so(folder: Path, call, cluster, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "bin" / "scancel").write_text(SCANCEL.format(log=os.devnull, code=1))
    assert "scancel 7_0 failed" in call("cancel", "seed=0", "--yes", code=1)[1]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "squeue does not answer" in call("cancel", "seed=0", code=1)[1]
    with pytest.raises(InputError, match="scancel 7 failed"):
        cancel_jobs(["7"])


def test_the_command_imports_neither_torch_nor_hydra_to_list_and_remove(folder: Path) -> None:
    items = write_runs(folder, grid())
    append_metrics(RunDir(folder / items[0].run_id), {"step": 1, "images_seen": 1})
    program = (
        "import sys; from wgan_sweep.commands.runs import main\n"
        "for words in (['list'], ['rm', 'seed=1', '--yes'], ['clean', '--yes']): main(words)\n"
        "heavy = {'torch', 'wandb', 'hydra', 'omegaconf', 'PIL', 'numpy'} & set(sys.modules); assert not heavy, heavy\n"
        "main(['best'])\n"  # which tests which cells may be the best
        "heavy = {'torch', 'wandb', 'hydra', 'omegaconf'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    assert len(find_runs(folder).records) == 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d"), (1e7, "116 d")],
)
def test_an_age_is_shown_in_its_largest_unit(seconds: float, text: str) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert age((now - timedelta(seconds=seconds)).isoformat(), now) == text
    assert [age(value, now) for value in (None, "", "long ago", "2026-05-01T00:00:00")] == [""] * 4
