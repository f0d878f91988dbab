"""Atomic writes, reading files of others, and the cache folder."""

import os
import stat
from pathlib import Path

import pytest

from wgan_sweep.common.cache import cache_dir
from wgan_sweep.common.files import atomic_replacement, write
from wgan_sweep.common.reading import read_bytes
from wgan_sweep.errors import InputError


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "file.txt"
    write(path, "old")
    with pytest.raises(OSError, match="full"), atomic_replacement(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_is_renamed_and_its_folder_after(tmp_path: Path, monkeypatch) -> None:
    """Else a power failure could leave an empty file under the name of the old one."""
    calls: list[tuple[str, object]] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append(("fsync", "folder" if stat.S_ISDIR(status.st_mode) else status.st_size))
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        calls.append(("rename to", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write(tmp_path / "file.txt", "seven b")
    assert calls == [("fsync", 7), ("rename to", "file.txt"), ("fsync", "folder")]


def test_a_written_file_has_default_permissions(tmp_path: Path) -> None:
    write(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "theirs").stat().st_mode)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device"])
def test_what_is_no_regular_file_is_refused_and_closed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    make = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path), "a device": lambda: path.symlink_to("/dev/zero")}
    make[kind]()
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(InputError, match=f"^{path} is not a regular file$"):
        read_bytes(path, 10)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_the_environment_sets_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("WGAN_SWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x" / "wgan-sweep"
