"""Archives of runs: read like a folder, the same bytes for the same runs, strict about damage, and known to sweeps."""

import base64
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from wgan_sweep.commands import report as reporting
from wgan_sweep.commands import runs as command
from wgan_sweep.common.progress import Display
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.text import to_markdown
from wgan_sweep.runs import archive as archives
from wgan_sweep.runs.archive import read_archive
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.identity import run_id
from wgan_sweep.runs.places import opened
from wgan_sweep.runs.record import EarlierScores, Record, Status
from wgan_sweep.sweeps.archived import archived_records, launch_missing, with_archived_runs
from wgan_sweep.sweeps.launching import Outcome, RequestedRun
from wgan_sweep.sweeps.plan import Planner, describe_plan

from .helpers import (
    UNREADABLE,
    Shell,
    append_metrics,
    directory_of,
    make_unreadable,
    records,
    run,
    write_record,
)
from .report.test_damage import RECORD_DAMAGE, mutate
from .report.test_report import grid, record

WEIGHTS = b"these are the weights"


@pytest.fixture(scope="module")
def runs_and_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen runs with curves and pictures, two of which are not done, and their archive. Tests work on a copy."""
    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    items = [*grid(), record(None, "failed", k=1.0, p=2.0, seed=7), record(3.5, "running", k=3.0, p=2.0, seed=8)]
    items[0].history = [EarlierScores(5, {"step": 5, "fid": 99.0})]
    for item in items:
        directory = RunDir(root / "runs" / item.run_id)
        write_record(directory, item)
        directory.config.write_text("seed: 0\n")
        for step in range(1, 4):
            append_metrics(directory, {"step": step, "images_seen": 8 * step, "wasserstein": 1 / step, "fid": 7 / step})
        directory.samples(3).parent.mkdir()
        for step in (2, 3):
            pixels = rng.integers(0, 256, (10, 14, 3), np.uint8).repeat(40, 0).repeat(40, 1)
            Image.fromarray(pixels).save(directory.samples(step))
        directory.checkpoint.write_bytes(WEIGHTS)
    make_archive(root / "runs", root / "runs.jsonl.gz")
    return root


@pytest.fixture
def folder(runs_and_archive: Path, tmp_path: Path) -> Path:
    """The runs."""
    return shutil.copytree(runs_and_archive / "runs", tmp_path / "runs")


@pytest.fixture
def archive(runs_and_archive: Path, tmp_path: Path) -> Path:
    """Their archive."""
    return shutil.copy(runs_and_archive / "runs.jsonl.gz", tmp_path / "runs.jsonl.gz")


def make_archive(folder: Path, path: Path, *filters: str) -> Path:
    command.main(["archive", "--runs", str(folder), "-o", str(path), *filters])
    return path


def report(*arguments: str) -> bytes:
    """Return what ``wgan-report`` writes, without the time of its making."""
    output = Path(arguments[0]).parent / "output"
    reporting.main([*arguments, "-o", str(output)])
    return re.sub(rb"20\d\d-\d\d-\d\d \d\d:\d\d UTC", b"", output.read_bytes())


@pytest.mark.integration
@pytest.mark.parametrize("form", ["md", "csv", "json", "html", "png"])
def test_a_report_on_an_archive_is_bitwise_that_on_the_folder(form: str, folder: Path, archive: Path) -> None:
    expected = report(str(folder), "--format", form)
    assert len(expected) > 300
    assert report(str(archive), "--format", form) == expected
    if form == "html":
        assert expected.count(b"data:image/webp") == 14


@pytest.mark.parametrize(
    "words", [["list"], ["list", "div.k=1", "--json"], ["diff", "{0}", "{1}"], ["best", "div.p=6"], ["show", "{0}"]]
)
def test_wgan_runs_reads_an_archive_like_the_folder(words: list[str], folder: Path, archive: Path, capsys) -> None:
    names = [item.run_id for item in find_runs(folder).records]
    outputs = []
    for place in (folder, archive):
        command.main([word.format(*names) for word in words] + ["--runs", str(place)])
        outputs.append(capsys.readouterr().out.split("\nFiles\n")[0].rstrip())
    assert outputs[0] == outputs[1] != ""


def test_an_archive_grows_by_the_runs_of_other_places(folder: Path, archive: Path, tmp_path: Path, capsys) -> None:
    """Whether they are in folders or archives; a run that several have is written once."""
    first, second = (make_archive(folder, tmp_path / f"k={k}.jsonl.gz", f"div.k={k}") for k in ("1", "2,3"))
    assert first.read_bytes() != archive.read_bytes() != second.read_bytes()
    make_archive(first, first, "--with", str(second))
    assert first.read_bytes() == archive.read_bytes()
    assert capsys.readouterr().err == ""
    make_archive(second, second, "--with", str(folder), "--with", str(first))
    assert second.read_bytes() == archive.read_bytes()
    assert "another folder or archive has the same runs" in capsys.readouterr().err


def test_a_run_that_is_finished_in_a_later_place_only_is_taken_from_there(folder: Path, tmp_path: Path) -> None:
    """Wherever the folder is named in which it still runs."""
    archive = make_archive(folder, tmp_path / "all.jsonl.gz", "status=done")
    started = tmp_path / "started"
    shutil.copytree(folder, started)
    (name, *_) = (record.run_id for record in find_runs(folder).records if record.status == Status.DONE)
    record = RunDir(started / name).record
    record.write_text(record.read_text().replace('"status": "done"', '"status": "running"'))
    for places in ([started, archive], [archive, started]):
        grown = make_archive(places[0], tmp_path / "grown.jsonl.gz", "status=done", "--with", str(places[1]))
        assert grown.read_bytes() == archive.read_bytes()


def test_an_archive_of_places_of_which_one_is_missing_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no folder"):
        make_archive(folder, tmp_path / "all.jsonl.gz", "--with", str(tmp_path / "nowhere"))
    assert not (tmp_path / "all.jsonl.gz").exists()


def test_an_archive_that_cannot_be_unpacked_is_refused_in_one_line(archive: Path, tmp_path: Path) -> None:
    """As on a full disk. Here a file is in the way of each run."""
    (tmp_path / "there").mkdir()
    for item in read_archive(archive):
        (tmp_path / "there" / item.record.run_id).write_text("")
    with pytest.raises(
        InputError, match=r"cannot be unpacked into .* \(.*File exists.*\): free space there, or choose"
    ):
        archives.unpack(archive, tmp_path / "there")


@pytest.mark.parametrize("words", [["rm", "status=done", "--yes"], ["clean", "--yes"], ["cancel", "seed=0", "--yes"]])
def test_an_archive_is_not_changed_in_place(words: list[str], archive: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(SystemExit, match="is not a folder"):
        command.main([*words, "--runs", str(archive)])
    assert archive.read_bytes() == before


def test_the_same_runs_give_the_same_bytes_in_a_documented_form(folder: Path, archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy"
    for path in sorted(folder.iterdir(), reverse=True):
        shutil.copytree(path, other / path.name)
    second = make_archive(other, other.parent / "second.jsonl.gz")
    assert second.read_bytes() == archive.read_bytes()
    assert make_archive(archive, tmp_path / "again.jsonl.gz").read_bytes() == archive.read_bytes()
    text = gzip.decompress(archive.read_bytes())
    assert WEIGHTS not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["run"]["record"]["run_id"] for line in lines] == sorted(path.name for path in folder.iterdir())
    for line in lines:
        directory = RunDir(folder / line["run"]["record"]["run_id"])
        body = json.dumps(line["run"], separators=(",", ":")).encode()
        assert (line["format"], line["sha256"]) == (1, hashlib.sha256(body).hexdigest())
        assert line["run"]["record"] == json.loads(directory.record.read_text())
        assert line["run"]["config"] == directory.config.read_text()
        assert line["run"]["metrics"] == [json.loads(text) for text in directory.metrics.read_text().splitlines()]
        assert line["run"]["samples"]["step"] == 3
        with Image.open(io.BytesIO(base64.b64decode(line["run"]["samples"]["png"]))) as picture:
            assert picture.size == (320, round(320 * 400 / 560))


def test_an_archive_names_no_folder_of_runs_and_no_archive_that_their_sweep_read(folder: Path, tmp_path: Path) -> None:
    item = grid()[0]
    item.config |= {"runs": str(folder), "archive": f"{folder}.jsonl.gz"}
    words = list(item.overrides)
    item.overrides += [f"runs={folder}", f"archive={folder}.jsonl.gz"]
    directory = RunDir(folder / item.run_id)
    write_record(directory, item)
    directory.config.write_text(f"device: cpu\nruns: {folder}\n  folded path\narchive: {folder}.jsonl.gz\nseed: 0\n")
    archived = {run.record.run_id: run for run in read_archive(make_archive(folder, tmp_path / "a.jsonl.gz"))}
    assert archived[item.run_id].config == "device: cpu\nseed: 0\n"
    assert archived[item.run_id].record.config == {
        key: value for key, value in item.config.items() if key not in ("runs", "archive")
    }
    assert archived[item.run_id].record.overrides == words
    assert item.config["runs"] == str(folder)


def test_an_archive_may_have_no_pictures(folder: Path, archive: Path, tmp_path: Path) -> None:
    path = make_archive(folder, tmp_path / "small.jsonl.gz", "--no-pictures")
    expected = [run.to_json() | {"samples": None} for run in read_archive(archive)]
    assert [run.to_json() for run in read_archive(path)] == expected
    assert path.stat().st_size < archive.stat().st_size / 2


def test_filters_choose_what_is_archived(folder: Path, tmp_path: Path, capsys) -> None:
    path = make_archive(folder, tmp_path / "some.jsonl.gz", "status=done", "div.k=1")
    assert re.search(r"some.jsonl.gz: 6 runs, [\d.]+ kB\n$", capsys.readouterr().out)
    expected = {r.run_id for r in grid_of(folder) if r.status == Status.DONE and r.config["div"]["k"] == 1.0}
    assert {archived.record.run_id for archived in read_archive(path)} == expected
    with pytest.raises(SystemExit, match="nothing was written: none of 14 runs matches seed=99"):
        make_archive(folder, tmp_path / "none.jsonl.gz", "seed=99")
    for name, words in {"x.gz": "must end in", "missing/x.jsonl.gz": "there is no folder"}.items():
        with pytest.raises(SystemExit, match=words):
            make_archive(folder, tmp_path / name)
    assert not (tmp_path / "none.jsonl.gz").exists()


def grid_of(folder: Path) -> list[Record]:
    return find_runs(folder).records


def test_folders_and_archives_are_combined_and_the_first_place_wins(folder: Path, tmp_path: Path, capsys) -> None:
    expected = report(str(folder), "--format", "csv")
    names = sorted(path.name for path in folder.iterdir())
    parts = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for part, members in zip(parts, (names[:5], names[5:9], names[9:]), strict=True):
        for name in members:
            shutil.copytree(folder / name, part / name)
    packed = make_archive(parts[1], tmp_path / "b.jsonl.gz")
    assert report(str(parts[0]), str(packed), str(parts[2]), "--format", "csv") == expected
    changed = RunDir(parts[0] / names[0])
    changed.record.write_text(changed.record.read_text().replace('"host": ""', '"host": "changed"'))
    capsys.readouterr()
    with opened([folder, parts[0]]) as runs:
        assert {r.host for r in runs.found.records} == {""}
        assert runs.repeated == [r.run_id for r in grid_of(parts[0])]
    assert report(str(folder), str(parts[0]), "--format", "csv") == expected
    *_, repeated = capsys.readouterr().err.strip().partition("another folder or archive has the same runs: ")
    assert sorted(repeated.split(", ")) == names[:5]


def rewritten(archive: Path, number: int, change: Callable[[dict], None], *, checksum: bool) -> Path:
    """Return a copy of an archive with a changed line, with the right checksum or with the old one."""
    lines = gzip.decompress(archive.read_bytes()).splitlines()
    values = json.loads(lines[number - 1])
    change(values)
    if checksum:
        body = json.dumps(values["run"], separators=(",", ":")).encode()
        values["sha256"] = hashlib.sha256(body).hexdigest()
    lines[number - 1] = json.dumps(values).encode()
    path = archive.with_name("changed.jsonl.gz")
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return path


def in_run(*keys: str, value: object) -> Callable[[dict], None]:
    def change(line: dict) -> None:
        node = line["run"]
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_run("record", "run_id", value="../outside"), "run_id"),
        (in_run("record", "run_id", value="/etc/x"), "run_id"),
        (in_run("record", "run_id", value="x" * 256), "256 characters"),
        (in_run("record", "status", value="great"), "great"),
        (in_run("record", "scores", value={"fid": "low"}), "scores"),
        (in_run("record", "format", value=99), "Upgrade wgan-sweep"),
        (in_run("record", "history", value=[{"step": "x", "scores": {}}]), r"history\[0\].step"),
        (in_run("record", "history", value=[{"step": 1}]), "scores"),
        (in_run("record", value=[]), "no mapping"),
        (in_run("config", value=3), "config"),
        (in_run("metrics", value={}), "metrics"),
        (in_run("metrics", value=[{"step": "x"}]), "metrics"),
        (in_run("metrics", value=[[1]]), "line 3"),
        (in_run("metrics", value=[{"step": 1, "fid": "x"}]), "metrics"),
        (in_run("samples", value={"step": -1, "png": ""}), "samples.step"),
        (in_run("samples", value={"step": "../../x", "png": ""}), "samples.step"),
        (in_run("samples", value={"step": 1, "png": "%%"}), "line 3"),
        (lambda line: line.update(format=2), "it lacks 'sweep'"),
        (lambda line: line.update(format=3), "its format is 3.*Upgrade wgan-sweep"),
        (lambda line: line.update(format=None), "format"),
        (lambda line: line.pop("format"), "it lacks 'format'"),
        (lambda line: line["run"].pop("record"), "it lacks 'record'"),
        (lambda line: line["run"]["record"].pop("format"), "0.1"),
    ],
)
def test_a_line_that_is_no_run_is_refused_by_its_number(change, words: str, archive: Path, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    path = rewritten(archive, 3, change, checksum=True)
    with pytest.raises(InputError, match=words) as refused:
        list(read_archive(path))
    assert f"{path}: line 3 " in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(SystemExit, match="line 3 "):
        reporting.main([str(path)])
    assert {name.name for name in tmp_path.iterdir()} == before | {path.name}


def test_a_changed_value_is_noticed_and_a_repeated_run_is_refused(archive: Path) -> None:
    path = rewritten(archive, 2, in_run("record", "scores", "fid", value=1.0), checksum=False)
    with pytest.raises(
        InputError, match=r"line 2 is not a run of an archive .its checksum is wrong.: copy the file again"
    ):
        list(read_archive(path))
    lines = gzip.decompress(archive.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines, lines[4]])))
    with pytest.raises(InputError, match=r"line 15 holds run .*, as line 5 does"):
        list(read_archive(path))
    path.write_bytes(gzip.compress(b"".join(lines[:3])) + gzip.compress(b"".join(lines[3:])))  # `cat` of two archives
    assert len(list(read_archive(path))) == 14


SWEEP = {"name": "first", "decision": {"claims": [], "runs": ["94b101e2710a"]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../outside"}, "not the name of a sweep's folder"),
        ({"name": "a/b"}, "not the name of a sweep's folder"),
        ({"name": ".locks"}, "not the name of a sweep's folder"),
        ({"name": ""}, "not the name of a sweep's folder"),
        ({"name": "x" * 256}, "not the name of a sweep's folder"),
        ({"name": 3}, "name"),
        ({"decision": []}, "decision"),
        ({"decision": {"runs": [3]}}, r"decision\.runs"),
        ({"decision": {}}, r"decision\.runs"),
    ],
)
def test_a_line_that_is_no_decision_is_refused(change: dict, words: str, archive: Path, tmp_path: Path) -> None:
    def add(sweep: dict) -> None:
        body = json.dumps(sweep, separators=(",", ":"))
        line = {"format": 2, "sha256": hashlib.sha256(body.encode()).hexdigest(), "sweep": sweep}
        lines = gzip.decompress(archive.read_bytes()) + json.dumps(line).encode() + b"\n"
        (tmp_path / "more.jsonl.gz").write_bytes(gzip.compress(lines))

    add(SWEEP)
    with opened([tmp_path / "more.jsonl.gz"]) as runs:
        assert len(runs.found.records) == 14
        assert json.loads((runs.folder / ".sweeps" / "first" / "decision.json").read_text()) == SWEEP["decision"]
    add(SWEEP | change)
    with pytest.raises(InputError, match=words) as refused:
        list(read_archive(tmp_path / "more.jsonl.gz"))
    assert ": line 15 " in str(refused.value)


def assert_read_or_refused(path: Path, expected: list[dict]) -> str | None:
    """Check that an archive is refused by a line's number, or holds the first of the expected runs."""
    try:
        runs = [run.to_json() for run in read_archive(path)]
    except InputError as error:
        message = str(error)
    else:
        assert runs == expected[: len(runs)]
        return None
    assert re.match(rf"{re.escape(str(path))}: line \d+ ", message), message
    return message


@pytest.mark.parametrize("kind", ["mutated", "cut off"])
def test_no_damage_of_the_file_goes_unnoticed(kind: str, archive: Path) -> None:
    """Bytes of gzip's header that carry no content may change: then all runs are as before."""
    expected = [run.to_json() for run in read_archive(archive)]
    content, rng, refused = archive.read_bytes(), random.Random(0), 0  # noqa: S311
    path = archive.with_name("damaged.jsonl.gz")
    for _ in range(150):
        path.write_bytes(mutate(content, rng) if kind == "mutated" else content[: rng.randrange(1, len(content))])
        problem = assert_read_or_refused(path, expected)
        assert problem is None or "wgan-runs archive" in problem
        refused += problem is not None
    assert refused >= 140


def test_mutated_lines_with_a_correct_gzip_checksum_are_refused(archive: Path) -> None:
    text, rng = gzip.decompress(archive.read_bytes()), random.Random(1)  # noqa: S311
    path = archive.with_name("damaged.jsonl.gz")
    expected = [run.to_json() for run in read_archive(archive)]
    refused = 0
    for _ in range(100):
        path.write_bytes(gzip.compress(mutate(text, rng), 1))
        refused += assert_read_or_refused(path, expected) is not None
    assert refused >= 90


def test_decompression_is_limited(archive: Path, monkeypatch, folder: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"[" * 20_000_000))
    assert bomb.stat().st_size < 30_000
    size = len(gzip.decompress(archive.read_bytes()))
    monkeypatch.setattr(archives, "MAX_LINE_BYTES", 10_000_000)
    with pytest.raises(InputError, match="line 1 is too large, since it may have 10,000,000 bytes"):
        list(read_archive(bomb))
    assert len(list(read_archive(archive))) == 14
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", size)
    assert len(list(read_archive(archive))) == 14
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", size - 1)
    with pytest.raises(InputError, match="line 14 is too large, since an archive may have"):
        list(read_archive(archive))
    monkeypatch.setattr(archives, "MAX_LINE_BYTES", 1000)
    with pytest.raises(SystemExit, match="more than the 1,000 that an archive holds"):
        make_archive(folder, tmp_path / "small.jsonl.gz")
    assert not (tmp_path / "small.jsonl.gz").exists()


@pytest.mark.parametrize("kind", ["text", "empty", "pipe", "device", "missing", "nested", "huge number"])
def test_a_file_that_is_no_archive_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    make: dict[str, Callable[[], object]] = {
        "text": lambda: path.write_text("no archive"),
        "empty": lambda: path.write_bytes(b""),
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "missing": lambda: None,
        "nested": lambda: path.write_bytes(gzip.compress(b"[" * 100_000 + b"\n")),
        "huge number": lambda: path.write_bytes(gzip.compress(b'{"format": ' + b"9" * 5000 + b"}\n")),
    }
    make[kind]()
    with pytest.raises(SystemExit, match=re.escape(str(path))) as refused:
        reporting.main([str(path)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", RECORD_DAMAGE)
def test_a_damaged_run_is_left_out_of_an_archive_and_reported(kind: str, folder: Path, tmp_path: Path, capsys) -> None:
    victim = min(folder.iterdir())
    others = {path.name for path in folder.iterdir()} - {victim.name}
    RECORD_DAMAGE[kind](RunDir(victim))
    with pytest.raises(SystemExit, match="1"):
        make_archive(folder, tmp_path / "x.jsonl.gz")
    assert str(victim / "record.json") in capsys.readouterr().err
    assert {run.record.run_id for run in read_archive(tmp_path / "x.jsonl.gz")} == others


def test_damaged_pictures_and_metrics_are_left_out_of_an_archive(folder: Path, tmp_path: Path) -> None:
    victim = RunDir(min(folder.iterdir()))
    victim.samples(3).write_text("no picture")
    victim.metrics.write_bytes(b'\xff{"step": 1}\n{"step": 2, "fid": "low"}\n{"step"')
    victim.config.write_bytes(b"\xff")
    first = next(read_archive(make_archive(folder, tmp_path / "x.jsonl.gz")))
    assert (first.record.run_id, first.samples, first.config) == (victim.path.name, None, None)
    assert first.metrics == [{"step": 2}]


@pytest.mark.parametrize("how", UNREADABLE)
def test_an_archive_is_not_replaced_by_one_without_the_measurements_of_a_run(
    how: str, folder: Path, archive: Path, tmp_path: Path
) -> None:
    before = archive.read_bytes()
    victim = RunDir(max(folder.iterdir()))
    restore = make_unreadable(victim.metrics, how)
    with pytest.raises(SystemExit, match=f"run {victim.path.name} cannot be archived, and nothing is") as refused:
        make_archive(folder, archive)
    assert UNREADABLE[how] in str(refused.value)
    assert archive.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, archive.name}
    restore()
    assert make_archive(folder, archive).read_bytes() == before


@pytest.mark.parametrize("left", [None, 0, 1, 2])
def test_a_run_that_has_lost_measurements_is_archived_and_reported(
    left: int | None, folder: Path, archive: Path, tmp_path: Path, capsys
) -> None:
    """All its three lines (without the file), or some of them."""
    expected = {item.record.run_id: item.to_json() for item in read_archive(archive)}
    for item in find_runs(folder).records:
        item.metrics_lines = expected[item.run_id]["record"]["metrics_lines"] = 3
        write_record(RunDir(folder / item.run_id), item)
    assert [item.to_json() for item in read_archive(make_archive(folder, archive))] == list(expected.values())
    victim = RunDir(max(folder.iterdir()))
    lines = victim.metrics.read_text().splitlines(keepends=True)
    victim.metrics.write_text("".join(lines[:left]))
    if left is None:
        victim.metrics.unlink()
    expected[victim.path.name]["metrics"] = [json.loads(line) for line in lines[: left or 0]]
    for place in (folder, tmp_path / "less.jsonl.gz"):  # what an archive has lost is reported again
        capsys.readouterr()
        with pytest.raises(SystemExit, match="1"):
            make_archive(place, tmp_path / "less.jsonl.gz")
        output = capsys.readouterr()
        assert output.out.startswith(f"{tmp_path / 'less.jsonl.gz'}: 14 runs, ")
        assert output.err == (
            f"wgan-runs: run {victim.path.name} has lost measurements: {left or 0} lines are archived, and its record "
            "counts 3\n"
        )
        assert [item.to_json() for item in read_archive(tmp_path / "less.jsonl.gz")] == list(expected.values())


def requested(config) -> RequestedRun:
    return RequestedRun(config, (f"seed={config.seed}",), f"seed={config.seed}", None)


def test_a_sweep_does_not_train_what_its_archive_has(make, tmp_path: Path, planned_fids) -> None:
    planned_fids(20.0, 19.0, 18.0)
    base = ("scorer=fid", "scorer.num_samples=5")
    done = [run(make(f"seed={seed}", *base)) for seed in (0, 1)]
    diverged = run(make("seed=2", "optimizer.lr=1e30", *base))
    assert diverged.status == Status.DIVERGED
    path = make_archive(tmp_path / "runs", tmp_path / "x.jsonl.gz")
    shutil.rmtree(tmp_path / "runs")
    runs = {
        "first": requested(make("seed=0", *base, f"archive={path}")),
        "diverged": requested(make("seed=2", "optimizer.lr=1e30", *base, f"archive={path}")),
        "longer": requested(make("seed=1", *base, f"archive={path}", "train.steps=9")),
        "scored otherwise": requested(make("seed=1", "scorer=fid", "scorer.num_samples=7", f"archive={path}")),
        "new": requested(make("seed=5", *base, f"archive={path}")),
        "without archive": requested(make("seed=0", *base)),
    }
    assert runs["first"].run_id == done[0].run_id == run_id(make("seed=0", *base))  # the archive is not part of the id
    archived = archived_records([*runs.values()])
    for finished in (*done, diverged):
        del finished.config["runs"], finished.config["archive"]  # an archive names no place of one machine
    assert archived == {r.run_id: r for r in (*done, diverged)}
    planned = {name: Planner()(item, archived.get(item.run_id)) for name, item in runs.items() if item.config.archive}
    assert {name: item.action.value for name, item in planned.items()} == {
        "first": "archived",
        "diverged": "archived",
        "longer": "train",
        "scored otherwise": "train",
        "new": "train",
    }
    assert planned["first"].reason == f"done at step 6 in {path}"
    assert planned["longer"].reason == "trained anew: the archive has it done at step 6 of 9, and has no weights"
    assert (
        planned["scored otherwise"].reason == "trained anew: the archive has it with other scores, and has no weights"
    )
    assert planned["new"].reason == ""
    text = describe_plan([runs["first"], runs["new"]], archived)
    assert "2 runs: 1 archived, 1 to train" in text
    launched: list[RequestedRun] = []

    def launch(missing, *_: object) -> list[Outcome]:
        launched.extend(missing)
        return [Outcome(problem=item.label) for item in missing]

    display = Display(Console(record=True, width=300, file=io.StringIO()))
    some = [runs[name] for name in ("first", "longer", "diverged", "new")]
    outcomes = launch_missing(launch, some, archived, display, lambda: False)
    assert launched == [runs["longer"], runs["new"]]
    assert [outcome.record for outcome in outcomes] == [done[0], None, diverged, None]
    assert [outcome.problem for outcome in outcomes] == [None, "seed=1", None, "seed=5"]
    shown = display.console.export_text()
    assert f"done at step 6: FID 20.00 (2 generated, 4 real, planned) (in the archive {path})" in shown
    assert "seed=1: trained anew: the archive has it done at step 6 of 9, and has no weights" in shown
    assert not directory_of(runs["first"].config).path.exists()


def test_a_finished_run_in_the_folder_comes_before_that_in_the_archive(make, tmp_path: Path) -> None:
    config = make()
    run(config)
    path = make_archive(tmp_path / "runs", tmp_path / "x.jsonl.gz")
    item = requested(make(f"archive={path}"))
    archived = archived_records([item])
    assert Planner()(item, archived[item.run_id]).action == "skip"
    stored = directory_of(config).read_record()
    assert stored is not None
    stored.status = Status.FAILED
    write_record(directory_of(config), stored)
    assert Planner()(item, archived[item.run_id]).action == "archived"


def test_results_read_each_archive_once_and_the_folder_first(make, tmp_path: Path, monkeypatch) -> None:
    """One run is done in the folder and in the archive, one in two archives, one in the folder only, one nowhere."""
    for seed in (0, 1):
        run(make(f"seed={seed}"))
    files = [make_archive(tmp_path / "runs", tmp_path / f"{name}.jsonl.gz") for name in "xy"]
    in_archive = requested(make("seed=1", f"archive={files[0]}"))
    run(make("seed=2"))
    shutil.rmtree(in_archive.directory.path)
    runs = [requested(make(f"seed={seed}", f"archive={files[seed % 2]}")) for seed in (0, 2, 3)]
    twice = requested(make("seed=1", f"archive={files[1]}"))
    opened: list[Path] = []
    original = archives.open_regular
    monkeypatch.setattr(archives, "open_regular", lambda path: opened.append(path) or original(path))
    with with_archived_runs(tmp_path / "runs", [in_archive, *runs, twice]) as (shown, archived):
        assert sorted(opened) == files
        assert [*archived] == [in_archive.run_id]
        assert {path.name for path in shown.iterdir() if path.name[0] != "."} == {
            in_archive.run_id,
            runs[0].run_id,
            runs[1].run_id,
        }
        assert RunDir(shown / in_archive.run_id).read_record() == archived[in_archive.run_id]
        assert not (shown / in_archive.run_id).is_symlink()
        assert (shown / runs[0].run_id).is_symlink()
    assert not shown.exists()
    with with_archived_runs(tmp_path / "runs", runs) as (shown, archived):
        assert (shown, archived) == (tmp_path / "runs", {})


def test_an_archive_with_another_run_under_an_id_is_refused(make, tmp_path: Path) -> None:
    config = make()
    run(config)
    archive = make_archive(tmp_path / "runs", tmp_path / "x.jsonl.gz")
    path = rewritten(archive, 1, in_run("record", "science", "train.batch_size", value=9), checksum=True)
    with pytest.raises(InputError, match=r"belongs to another config.*train.batch_size"):
        archived_records([requested(make(f"archive={path}"))])
    with pytest.raises(InputError, match="there is no archive"):
        archived_records([requested(make("archive=nowhere.jsonl.gz"))])


def test_the_command_prints_archived_runs_in_its_table(sweep: Shell) -> None:
    sweep("-m", "div.k=1,2")
    before = {r["run_id"] for r in records(sweep.folder)}
    path = make_archive(sweep.folder / "runs", sweep.folder / "my runs.jsonl.gz")
    shutil.rmtree(sweep.folder / "runs")
    done = sweep("-m", "div.k=1,2,3", "archive='my runs.jsonl.gz'")
    (trained,) = records(sweep.folder)
    assert trained["run_id"] not in before
    assert done.stderr.count("in the archive") == 2
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in table] == ["div.k", "1", "2", "3"]
    assert "archived  'my runs.jsonl.gz', 2 of them" in done.stdout
    assert "report    wgan-report runs 'my runs.jsonl.gz'" in done.stdout
    with opened([sweep.folder / "runs", path]) as runs:
        assert {r.run_id for r in runs.found.records} == before | {trained["run_id"]}
        assert done.stdout.lstrip().startswith(to_markdown(group_runs(runs.found.records)))
