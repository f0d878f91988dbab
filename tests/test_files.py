"""Atomic writes and the cache folder."""

import stat
from pathlib import Path

import pytest

from wgan_sweep.common.cache import cache_dir
from wgan_sweep.common.files import replacing, write


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "file.txt"
    write(path, "old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_has_default_permissions(tmp_path: Path) -> None:
    write(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "theirs").stat().st_mode)


def test_the_environment_sets_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("WGAN_SWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x" / "wgan-sweep"
