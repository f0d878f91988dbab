"""Checkpoint files: the newest and the previous one, and how damaged files are detected."""

import errno
import os
from pathlib import Path

import pytest
import torch

from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.checkpoints import CorruptCheckpointError, previous


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint of step 2, with a previous checkpoint of step 1."""
    checkpoints.save(tmp_path / "checkpoint.pt", {"step": 1, "w": torch.arange(1000.0)})
    checkpoints.save(tmp_path / "checkpoint.pt", {"step": 2, "w": torch.arange(1000.0) + 1})
    return tmp_path / "checkpoint.pt"


def test_the_newest_checkpoint_is_loaded_and_the_previous_one_is_kept(path: Path) -> None:
    state, problems = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 2
    assert torch.equal(state["w"], torch.arange(1000.0) + 1)
    assert problems == []
    assert torch.load(previous(path), weights_only=True)["step"] == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def flip_byte(path: Path, position: float) -> None:
    """Invert the byte at `position`, a fraction of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda p: flip_byte(p, 0.5), lambda p: p.write_bytes(p.read_bytes()[:900]), lambda p: p.write_bytes(b"")]
)
def test_the_previous_checkpoint_is_loaded_if_the_newest_is_damaged(path: Path, damage) -> None:
    path.write_bytes(path.read_bytes())  # a separate file, as on a file system without hard links
    damage(path)
    state, problems = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 1
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_two_damaged_checkpoints_are_an_error(path: Path) -> None:
    for checkpoint in (path, previous(path)):
        flip_byte(checkpoint, 0.5)
    with pytest.raises(CorruptCheckpointError, match="checksum"):
        checkpoints.load(path)


def test_loading_a_missing_checkpoint_returns_none(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "checkpoint.pt") == (None, [])


def test_the_previous_checkpoint_is_loaded_if_the_newest_is_missing(path: Path) -> None:
    path.unlink()
    state, _ = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 1


def test_the_previous_checkpoint_is_a_copy_if_hard_links_are_not_supported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("hard links are not supported")))
    checkpoints.save(path, {"step": 3})
    assert checkpoints.load(path)[0] == {"step": 3}
    assert torch.load(previous(path), weights_only=True)["step"] == 2


def test_damage_at_any_byte_is_detected_or_harmless(path: Path, tmp_path: Path) -> None:
    checkpoints.save(path, {"step": 7, "w": torch.arange(3.0)})
    content = path.read_bytes()
    path.unlink()
    fallbacks = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        state, problems = checkpoints.load(path)
        assert state is not None
        if problems:
            fallbacks += 1
            assert state["step"] == 2
        else:
            assert state["step"] == 7
            assert torch.equal(state["w"], torch.arange(3.0))
    assert fallbacks > len(content) / 4


@pytest.mark.parametrize("change", [lambda w: w.view(3, 2), lambda w: w.view(torch.int32)], ids=["shape", "dtype"])
def test_the_checksum_covers_shapes_and_dtypes(path: Path, change) -> None:
    """The bytes of the values are the same."""
    checkpoints.save(path, {"step": 3, "w": torch.arange(6.0).view(2, 3)})
    stored = torch.load(path, weights_only=True)
    stored["w"] = change(stored["w"])
    torch.save(stored, path)
    state, problems = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 2
    assert "its checksum is wrong" in problems[0]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), OSError),
        (OSError(errno.EMFILE, "Too many open files"), OSError),
        (MemoryError(), MemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), MemoryError),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(path: Path, monkeypatch, error, kind) -> None:
    before = {file: file.read_bytes() for file in path.parent.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(kind, match="try again when it can be read" if kind is OSError else None) as raised:
            checkpoints.load(path)
        assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
    state, problems = checkpoints.load(path)
    assert (state["step"], problems) == (2, [])


def test_an_error_of_the_disk_that_the_unzipper_hides_is_not_damage(path: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("PytorchStreamReader failed")

    monkeypatch.setattr(torch, "load", fail)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # its first byte cannot be read
    with pytest.raises(OSError, match="try again when it can be read"):
        checkpoints.load(path)


def test_a_checkpoint_that_was_replaced_on_the_file_server_is_read_again(path: Path, monkeypatch) -> None:
    load, calls = torch.load, []

    def fail_once(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", fail_once)
    state, problems = checkpoints.load(path)
    assert (state["step"], problems, len(calls)) == (2, [], 2)


def test_a_write_that_fails_names_the_free_space_and_a_quota(path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"MiB are free on its file system; a quota may leave less to you\): Pytorch"):
        checkpoints.save(path, {"step": 3})


def test_a_damaged_checkpoint_that_was_set_aside_does_not_replace_the_previous_one(path: Path) -> None:
    path.write_bytes(b"damaged")
    checkpoints.set_aside(path)
    checkpoints.save(path, {"step": 3})
    assert torch.load(previous(path), weights_only=True)["step"] == 1
    assert path.with_name("checkpoint.corrupt.pt").read_bytes() == b"damaged"
