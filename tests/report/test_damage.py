"""Damaged run directories: a report finishes, names the run, and shows all others unchanged."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wgan_sweep.commands import report as reporting
from wgan_sweep.report.cells import group_runs
from wgan_sweep.report.text import to_csv, to_markdown
from wgan_sweep.runs import selection
from wgan_sweep.runs.directory import RunDir, find_runs

from ..helpers import UNREADABLE, append_metrics, make_unreadable, write_record
from .test_report import grid

VICTIM = 0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Twelve finished runs with curves and pictures."""
    folder = tmp_path / "runs"
    for item in grid():
        item.config["scorer"] = {}
        directory = RunDir(folder / item.run_id)
        write_record(directory, item)
        for step in range(1, 4):
            append_metrics(directory, {"step": step, "images_seen": step, "wasserstein": 1 / step})
        directory.samples(3).parent.mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(directory.samples(3))
    return folder


def in_record(**changes: object) -> Callable[[RunDir], None]:
    def damage(directory: RunDir) -> None:
        directory.record.write_text(json.dumps({**json.loads(directory.record.read_text()), **changes}))

    return damage


def unreadable(name: str, how: str) -> Callable[[RunDir], None]:
    return lambda directory: make_unreadable(directory.path / name, how) and None


def replaced(name: str, content: bytes) -> Callable[[RunDir], None]:
    return lambda directory: (directory.path / name).write_bytes(content) and None


def as_pipe(name: str) -> Callable[[RunDir], None]:
    def damage(directory: RunDir) -> None:
        (directory.path / name).unlink()
        os.mkfifo(directory.path / name)

    return damage


def as_device(name: str) -> Callable[[RunDir], None]:
    def damage(directory: RunDir) -> None:
        (directory.path / name).unlink()
        (directory.path / name).symlink_to("/dev/zero")

    return damage


RECORD_DAMAGE: dict[str, Callable[[RunDir], None]] = {
    "not UTF-8": replaced("record.json", b'{"run_id": "\xff"}'),
    "scores null": in_record(scores=None),
    "scores a list": in_record(scores=[1]),
    "a score is a text": in_record(scores={"fid": "low"}),
    "config a list": in_record(config=[]),
    "choices a list": in_record(config={"scorer": {}, "choices": []}),
    "train a number": in_record(config={"scorer": {}, "train": 3}),
    "scorer null": in_record(config={"scorer": None}),
    "overrides a text": in_record(overrides="a=b"),
    "unknown status": in_record(status="great"),
    "step a text": in_record(step="many"),
    "run_id elsewhere": in_record(run_id="../other"),
    "deeply nested": replaced("record.json", b"[" * 100_000),
    "a pipe": as_pipe("record.json"),
    "a device": as_device("record.json"),
    "a huge number": replaced("record.json", b'{"step": ' + b"9" * 5000 + b"}"),
    "empty": replaced("record.json", b""),
}
OTHER_DAMAGE: dict[str, Callable[[RunDir], None]] = {
    "metrics not UTF-8": replaced("metrics.jsonl", b'\xff\xfe{"step": 1}\n'),
    "metrics nested": replaced("metrics.jsonl", b"[" * 100_000 + b"\n"),
    "metrics without steps": replaced("metrics.jsonl", b'{"fid": 1}\n[]\nnull\n{"step": "a"}\n'),
    "metrics with texts": replaced("metrics.jsonl", b'{"step": 1, "images_seen": 1, "wasserstein": "low"}\n'),
    "metrics a pipe": as_pipe("metrics.jsonl"),
    "metrics a device": as_device("metrics.jsonl"),
    **{f"metrics {how}": unreadable("metrics.jsonl", how) for how in UNREADABLE},
    "picture truncated": replaced("samples/3.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    "picture a text": replaced("samples/3.png", b"none"),
    "picture a pipe": as_pipe("samples/3.png"),
}


def report(folder: Path, form: str, tmp_path: Path) -> int:
    """Write a report; return the exit code."""
    target = tmp_path / f"out.{form}"
    target.unlink(missing_ok=True)
    code: object = 0
    try:
        reporting.main([str(folder), "--format", form, "-o", str(target)])
    except SystemExit as ended:
        code = ended.code
    assert code in (0, 1)
    assert target.stat().st_size
    return int(str(code))


@pytest.mark.parametrize("kind", RECORD_DAMAGE)
def test_a_damaged_record_leaves_out_one_run(kind: str, runs: Path, tmp_path: Path, capsys) -> None:
    victim = sorted(runs.iterdir())[VICTIM]
    others = [r for r in find_runs(runs).records if r.run_id != victim.name]
    expected = to_markdown(group_runs(others))
    RECORD_DAMAGE[kind](RunDir(victim))
    assert report(runs, "md", tmp_path) == 1
    assert (tmp_path / "out.md").read_text() == expected
    assert str(victim / "record.json") in capsys.readouterr().err
    assert report(runs, "html", tmp_path) == 1


@pytest.mark.integration
@pytest.mark.parametrize("kind", OTHER_DAMAGE)
def test_other_damage_leaves_the_table_as_it_is(kind: str, runs: Path, tmp_path: Path) -> None:
    expected = to_markdown(group_runs(find_runs(runs).records))
    OTHER_DAMAGE[kind](RunDir(sorted(runs.iterdir())[VICTIM]))
    assert report(runs, "md", tmp_path) == 0
    assert (tmp_path / "out.md").read_text() == expected
    assert report(runs, "html", tmp_path) == 0
    assert report(runs, "png", tmp_path) == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_config_value_that_is_not_finite_ends_no_report(number: float, runs: Path, tmp_path: Path) -> None:
    victim = RunDir(sorted(runs.iterdir())[VICTIM])
    config = json.loads(victim.record.read_text())["config"]
    in_record(config={**config, "optimizer": {**config["optimizer"], "lr": number}, "reference": {"value": number}})(
        victim
    )
    items = find_runs(runs).records
    # The page also compares runs with published values, and leaves this run out there.
    assert [report(runs, form, tmp_path) for form in ("md", "json", "html")] == [0, 0, 1]
    assert (tmp_path / "out.html").stat().st_size > 10_000
    assert sum(len(cell.records) for cell in group_runs(items).cells.values()) == len(items) == 12
    stored = selection.stored_runs(items, runs)
    assert [run.run_id for run in selection.matching(stored, ["loss=wgan_div"])] == [item.run_id for item in items]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a content with some bytes changed, removed, repeated or cut off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        if action == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif action == 1:
            del data[at : at + rng.randint(1, 30)]
        elif action == 2:
            data[at:at] = data[at : at + rng.randint(1, 30)]
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_reports_finish_with_mutated_files(count: int, runs: Path, tmp_path: Path) -> None:
    rng = random.Random(0)  # noqa: S311
    victim = sorted(runs.iterdir())[VICTIM]
    intact = tmp_path / "intact"
    shutil.copytree(victim, intact)
    others = {r.run_id for r in find_runs(runs).records} - {victim.name}
    left_out = 0
    for _ in range(count):
        shutil.rmtree(victim)
        shutil.copytree(intact, victim)
        name = rng.choice(["record.json", "record.json", "metrics.jsonl", "samples/3.png"])
        (victim / name).write_bytes(mutate((intact / name).read_bytes(), rng))
        found = find_runs(runs)
        shown = {r.run_id for r in found.records}
        assert others <= shown
        assert (victim.name in shown) + len(found.problems) + len(found.outdated) + len(found.copies) == 1
        left_out += victim.name not in shown
        report(runs, rng.choice(["md", "csv", "json", "html", "html"]), tmp_path)
    assert 0 < left_out < count


def test_formulas_are_escaped_in_csv_and_control_characters_in_tables(runs: Path) -> None:
    items = find_runs(runs).records
    for item, value in zip(items, ["=cmd()", "+1+1", "-2", "@x", "a|b", "\x1b[31m"] * 2, strict=False):
        item.config["choices"]["loss"] = value
        item.overrides = ["loss=x"]
    text = to_csv(group_runs(items))
    cells = {cell for line in text.splitlines()[1:] for cell in line.split(",")}
    assert {"'=cmd()", "'+1+1", "-2", "'@x"} <= cells
    table = to_markdown(group_runs(items))
    assert "a\\|b" in table
    assert "\x1b" not in table


@pytest.mark.integration
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("claims: &a [*a]", "aliases"),
        ("claims: [{claim: '${oc.env:HOME}'}]", "interpolation"),
        ("claims: " + "[" * 500 + "]" * 500, "cannot be read"),
        ("[]", "no mapping"),
        ("a: \xff", r"is not UTF-8 text \(byte 3\)"),
    ],
)
def test_claims_that_are_no_plain_data_are_refused(text: str, match: str, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit, match=match):
        reporting.main([str(runs), "--claims", str(tmp_path / "claims.yaml")])


def test_an_output_that_cannot_be_written_is_refused_before_the_report(runs: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "missing" / "x.md", tmp_path, Path("/dev/null/x.md")):
        with pytest.raises(SystemExit, match="--output"):
            reporting.main([str(runs), "-o", str(output)])
    assert not (tmp_path / "missing").exists()
