"""Run directories, records, and the hash of a config."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from wgan_sweep.common import reading
from wgan_sweep.common.reading import UnreadableError
from wgan_sweep.errors import InputError
from wgan_sweep.runs import provenance
from wgan_sweep.runs.directory import RunDir, find_runs
from wgan_sweep.runs.hashing import canonical, hash_of
from wgan_sweep.runs.record import Record, Status

from .helpers import UNREADABLE, append_metrics, make_unreadable, write_record


def test_equal_numbers_have_equal_hashes_and_types_are_distinguished() -> None:
    assert hash_of({"k": 2, "p": [1, 0.5]}) == hash_of({"p": (1.0, 0.5), "k": 2.0})
    assert hash_of({"k": 2}) != hash_of({"k": 2.5})
    assert hash_of({"k": True}) != hash_of({"k": 1})
    assert hash_of({"k": "2"}) != hash_of({"k": 2})
    assert hash_of({"a": {"b": 1}}) != hash_of({"a": {"c": 1}})


def test_the_hash_is_a_truncated_sha256_of_canonical_json() -> None:
    assert hash_of({"b": 2.0, "a": "x"}) == hashlib.sha256(b'{"a":"x","b":2}').hexdigest()[:12]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match=r"^a cannot be"):
        canonical({"a": number})


def test_a_written_record_is_read_back_unchanged(tmp_path: Path) -> None:
    directory = RunDir(tmp_path / "ab")
    assert directory.read_record() is None
    record = Record("ab", Status.DONE, ["seed=1"], {"seed": 1, "scorer": {}}, 5, 50, {"fid": 1.5, "step": 5}, error="é")
    write_record(directory, record)
    assert directory.read_record() == record
    assert json.loads(directory.record.read_text())["status"] == "done"


def test_a_record_with_unknown_keys_is_read(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    directory.record.write_text(
        json.dumps({"run_id": "ab", "status": "done", "config": {"scorer": {}}, "unknown": "value", "format": 1})
    )
    record = directory.read_record()
    assert record is not None
    assert record.status == Status.DONE


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"status": "done"}', '{"run_id": "a", "status": "great", "format": 1}']
)
def test_a_file_that_is_not_a_record_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=r"record\.json is not a run's record"):
        RunDir(tmp_path).read_record()


def test_a_record_that_cannot_be_read_now_is_not_to_be_moved_away(tmp_path: Path, monkeypatch) -> None:
    directory = RunDir(tmp_path / "ab")
    write_record(directory, Record("ab", config={"scorer": {}}))
    errors = [errno.EIO]
    opened = reading._open_without_waiting

    def open_or_fail(path: str, flags: int) -> int:
        if errors:
            raise OSError(code := errors.pop(0), os.strerror(code), path)
        return opened(path, flags)

    monkeypatch.setattr(reading, "_open_without_waiting", open_or_fail)
    with pytest.raises(
        UnreadableError, match=r"record\.json cannot be read .*: try again when it can be read"
    ) as found:
        directory.read_record()
    assert "move it away" not in str(found.value)
    errors.append(errno.ESTALE)  # the file was replaced on the file server
    record = directory.read_record()
    assert record is not None
    assert record.run_id == "ab"


def test_damaged_lines_that_make_one_value_together_are_skipped(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    directory.metrics.write_text('{"step": 1}\n{"step": 2, "a": "\n"}\n{"step": 3}\n')
    assert list(directory.read_metrics()) == [{"step": 1}, {"step": 3}]


def test_lines_without_a_step_and_an_incomplete_line_are_not_measurements(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    directory.metrics.write_text(
        '{"step": 1}\n{"fid": 3}\n[]\n{"step": "2"}\n{"step": true}\n{"step": 3}\n{"step": 4, "fi'
    )
    assert list(directory.read_metrics()) == [{"step": 1}, {"step": 3}]
    assert directory.last_metrics() == {"step": 3}


@pytest.mark.parametrize("how", UNREADABLE)
def test_measurements_that_cannot_be_read_are_none_to_a_report_only(how: str, tmp_path: Path, caplog) -> None:
    directory = RunDir(tmp_path / "x")
    assert (directory.measurements(), list(directory.read_metrics())) == ([], [])
    append_metrics(directory, {"step": 1})
    restore = make_unreadable(directory.metrics, how)
    assert list(directory.read_metrics()) == []
    assert f"{directory.metrics} " in caplog.text
    assert UNREADABLE[how] in caplog.text
    with pytest.raises(InputError, match="try again when it can be read, or move it away") as refused:
        directory.measurements()
    assert UNREADABLE[how] in str(refused.value)
    restore()
    assert directory.measurements() == list(directory.read_metrics()) == [{"step": 1}]


def test_runs_are_listed_by_start_time_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name, started in (("b", "2026-01-01"), ("a", "2026-01-02"), ("c", "2025-01-01")):
        write_record(RunDir(tmp_path / name), Record(name, config={"scorer": {}}, started=started))
    (tmp_path / ".sweeps" / "x").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "record.json").mkdir()
    records, (problem,), _, _ = find_runs(tmp_path)
    assert [record.run_id for record in records] == ["c", "b", "a"]
    assert str(tmp_path / "d" / "record.json") in problem


def test_the_lock_files_of_an_editor_are_not_part_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emacs marks a file that is being edited by a link that leads nowhere."""
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    (tmp_path / "trainer.py").write_text("x = 1\n")
    before = provenance.code.__wrapped__()
    (tmp_path / ".#trainer.py").symlink_to("me@host.123:456")
    assert provenance.code.__wrapped__() == before
    (tmp_path / "loop.py").write_text("")
    assert provenance.code.__wrapped__() != before


def test_the_newest_samples_are_those_of_the_largest_step(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    assert directory.last_samples() is None
    directory.samples(9).parent.mkdir()
    for step in (9, 100, 20):
        directory.samples(step).touch()
    assert directory.last_samples() == directory.samples(100)


def test_the_last_metrics_are_the_latest_value_of_each_metric_in_the_file(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    assert directory.last_metrics() == {}
    for step in range(2000):  # longer than the end of the file that is read first
        append_metrics(directory, {"step": step, "wasserstein": step / 3, **({"fid": 7.0} if step == 1990 else {})})
    with directory.metrics.open("a") as file:
        file.write('{"step": 2000, "wass')  # incomplete, as after a kill
    latest = {name: value for line in directory.read_metrics() for name, value in line.items()}
    assert directory.last_metrics() == latest == {"step": 1999, "wasserstein": 1999 / 3, "fid": 7.0}
