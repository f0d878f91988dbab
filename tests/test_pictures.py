"""Pictures of every kind as 8-bit images, and what is said about them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wgan_sweep.data.pictures import PictureReader, pictures_in
from wgan_sweep.errors import InputError

GREY, COLOUR = 1, 3


def gradient(dtype: type = np.uint8) -> np.ndarray:
    """All 256 levels, 16 x 16."""
    return np.arange(256, dtype=dtype).reshape(16, 16)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("scale", [256, 257])
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str, scale: int) -> None:
    file = tmp_path / f"deep.{suffix}"
    values = (gradient(np.uint16) * scale).astype(np.uint16)
    if suffix == "pgm":
        file.write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(file)
    reader = PictureReader(GREY)
    assert np.array_equal(np.asarray(reader(file)), gradient())
    assert reader.notes() == ["1 of 1 pictures have 16 bits, of which the upper 8 are used"]


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_32_bits_are_refused(tmp_path: Path, dtype: type, mode: str) -> None:
    picture = Image.fromarray(gradient(dtype))
    assert picture.mode == mode
    picture.save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match=r"deep\.tif has 32 bits per value"):
        PictureReader(GREY)(tmp_path / "deep.tif")


def test_transparency_is_dropped_and_said(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    opaque = colours.copy()
    opaque[..., 3] = 255
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(opaque).save(tmp_path / "b.png")
    palette = Image.fromarray(colours[..., :3]).quantize(4)
    palette.save(tmp_path / "c.png", transparency=bytes([0, 255, 255, 255]))
    reader = PictureReader(COLOUR)
    pictures = [np.asarray(reader(file)) for file in pictures_in(tmp_path)]
    assert np.array_equal(pictures[0], colours[..., :3])
    assert np.array_equal(pictures[1], colours[..., :3])
    assert np.array_equal(pictures[2], np.asarray(palette.convert("RGB")))
    assert reader.notes() == ["2 of 3 pictures have transparency, which is dropped: the colours below it are used"]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames_is_used_and_said(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:], **options)
    frames[1].save(tmp_path / "still.png")
    reader = PictureReader(GREY)
    levels = [int(np.asarray(reader(file)).mean()) for file in pictures_in(tmp_path)]
    assert levels == [10, 200]
    assert reader.notes() == ["1 of 2 pictures have several frames, of which the first is used"]


def test_ordinary_pictures_need_no_note(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    reader = PictureReader(COLOUR)
    for name in ("a.png", "a.bmp", "a.jpg", "a.tif", "a.ppm"):
        Image.fromarray(colours).save(tmp_path / name)
        assert np.asarray(reader(tmp_path / name)).shape == (8, 8, 3)
    assert reader.notes() == []


def test_grids_of_samples_are_no_images(tmp_path: Path) -> None:
    samples = tmp_path / "runs" / "0123456789ab" / "samples"
    samples.mkdir(parents=True)
    Image.fromarray(gradient()).save(samples / "10.png")
    assert pictures_in(samples)  # of a folder of another kind
    (samples.parent / "record.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "runs", samples.parent, samples):
        with pytest.raises(InputError, match=r"grids of samples of the run .*0123456789ab"):
            pictures_in(folder)


@pytest.mark.slow
def test_damaged_pictures_are_refused_by_name(tmp_path: Path) -> None:
    """2,000 pictures with bytes changed, removed or appended are read, or refused with one line."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (12, 12, 4), np.uint8)
    originals = []
    for name in ("a.png", "a.gif", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.ppm"):
        picture = Image.fromarray(colours if name == "a.png" else colours[..., :3])
        picture.save(tmp_path / name)
        originals.append((tmp_path / name).read_bytes())
    Image.fromarray(gradient(np.uint16)).save(tmp_path / "b.png")
    originals.append((tmp_path / "b.png").read_bytes())
    refused = 0
    for trial in range(2000):
        content = bytearray(originals[trial % len(originals)])
        for _ in range(random.integers(1, 6)):
            content[random.integers(min(len(content), 80 if trial % 2 else len(content)))] = random.integers(256)
        if trial % 5 == 0:
            del content[random.integers(len(content)) :]
        file = tmp_path / f"damaged{trial % len(originals)}.png"
        file.write_bytes(content)
        try:
            assert PictureReader(COLOUR)(file).mode == "RGB"
            continue
        except InputError as error:
            message = str(error)
        refused += 1
        assert str(file) in message
        assert "\n" not in message
    assert 200 < refused < 2000
