from pathlib import Path

import pytest
import torch

from wgan_sweep.runs import checkpoints
from wgan_sweep.runs.checkpoints import CorruptCheckpointError, previous


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoints.save(tmp_path / "checkpoint.pt", {"step": 1, "w": torch.arange(1000.0)})
    checkpoints.save(tmp_path / "checkpoint.pt", {"step": 2, "w": torch.arange(1000.0) + 1})
    return tmp_path / "checkpoint.pt"


def test_the_newest_is_read_and_the_one_before_is_kept(path: Path) -> None:
    state, problems = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 2
    assert torch.equal(state["w"], torch.arange(1000.0) + 1)
    assert problems == []
    assert torch.load(previous(path), weights_only=True)["step"] == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda p: flip(p, 0.5), lambda p: p.write_bytes(p.read_bytes()[:900]), lambda p: p.write_bytes(b"")]
)
def test_a_damaged_one_gives_way_to_the_one_before(path: Path, damage) -> None:
    path.write_bytes(path.read_bytes())  # its own file, as on a file system without hard links
    damage(path)
    state, problems = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 1
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_two_damaged_ones_are_an_error(path: Path) -> None:
    for each in (path, previous(path)):
        flip(each, 0.5)
    with pytest.raises(CorruptCheckpointError, match="checksum"):
        checkpoints.load(path)


def test_none_is_none(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "checkpoint.pt") == (None, [])


def test_a_kill_between_the_two_files_leaves_one_to_read(path: Path) -> None:
    path.unlink()
    state, _ = checkpoints.load(path)
    assert state is not None
    assert state["step"] == 1


def test_without_hard_links_the_previous_one_is_copied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    checkpoints.save(path, {"step": 3})
    assert checkpoints.load(path)[0] == {"step": 3}
    assert torch.load(previous(path), weights_only=True)["step"] == 2


def test_damage_at_any_byte_is_noticed_or_harmless(path: Path, tmp_path: Path) -> None:
    checkpoints.save(path, {"step": 7, "w": torch.arange(3.0)})
    whole = path.read_bytes()
    path.unlink()
    fell_back = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        state, problems = checkpoints.load(path)
        assert state is not None
        if problems:
            fell_back += 1
            assert state["step"] == 2
        else:
            assert state["step"] == 7
            assert torch.equal(state["w"], torch.arange(3.0))
    assert fell_back > len(whole) / 4


def test_a_damaged_one_set_aside_never_takes_the_whole_ones_place(path: Path) -> None:
    path.write_bytes(b"damaged")
    checkpoints.set_aside(path)
    checkpoints.save(path, {"step": 3})
    assert torch.load(previous(path), weights_only=True)["step"] == 1
    assert path.with_name("checkpoint.corrupt.pt").read_bytes() == b"damaged"
