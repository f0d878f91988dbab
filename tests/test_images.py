import io

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_sweep.common.images import grid, to_range, to_uint8
from wgan_sweep.common.pictures import png, with_description


def test_converting_every_level_to_the_range_and_back_changes_nothing() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    values = to_range(levels)
    assert float(values.min()) == -1
    assert float(values.max()) == 1
    assert torch.equal(to_uint8(values), levels)


def test_values_are_rounded_to_the_nearest_level_and_clamped() -> None:
    assert to_uint8(torch.tensor([-9.0, -1.0, -0.996, -0.997, 0.999, 9.0])).tolist() == [0, 0, 1, 0, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_contains_the_images_row_by_row(channels: int) -> None:
    images = torch.randint(0, 256, (5, channels, 4, 6), dtype=torch.uint8)
    pixels = grid(images)
    assert pixels.shape == (8, 18, channels)
    for index in range(5):
        row, column = divmod(index, 3)
        cell = pixels[row * 4 : row * 4 + 4, column * 6 : column * 6 + 6]
        assert np.array_equal(cell, images[index].permute(1, 2, 0).numpy())
    assert not pixels[4:, 12:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_read_back_unchanged(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, channels), dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png(pixels))))
    assert np.array_equal(read.reshape(pixels.shape), pixels)


def test_a_description_is_read_back_and_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    text = "| mean ± sd |\n| λ: 1.00 ± 0.10 |"
    with Image.open(io.BytesIO(with_description(png(pixels), text))) as picture:
        assert picture.info["Description"] == text
        assert np.array_equal(np.asarray(picture), pixels)
