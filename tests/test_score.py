"""``wgan-score``: all kinds of sides give one number for the same images, and what cannot be scored is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_sweep.commands.score import main
from wgan_sweep.runs import driver
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.frechet import frechet_distance, statistics_of

from .helpers import run


@pytest.fixture
def sets(cache: Path, tmp_path: Path, mnist: np.ndarray) -> tuple[Path, Path]:
    """Two npz files of real images, 30 each."""
    paths = tmp_path / "real.npz", tmp_path / "fake.npz"
    for path, images in zip(paths, (mnist[:30], mnist[30:60]), strict=True):
        np.savez(path, images=images)
    return paths


def scored(capsys, *arguments: object) -> dict:
    main([*map(str, arguments), "--feature", "64", "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out)


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments), "--feature", "64", "--device", "cpu"])
    return str(stopped.value)


def as_folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(path / f"{index:03}.png")
    return path


def test_all_kinds_of_sides_agree(sets, capsys, mnist, tmp_path: Path) -> None:
    real, fake = sets
    extract = InceptionV3(64).extract(torch.device("cpu"))
    sides = [
        collect([torch.from_numpy(images).permute(0, 3, 1, 2)], extract, features=False).statistics
        for images in (mnist[:30], mnist[30:60])
    ]
    wanted = frechet_distance(*sides)
    np.savez(tmp_path / "ttur.npz", mu=sides[0].mean.numpy(), sigma=sides[0].covariance.numpy())
    folder = as_folder(tmp_path / "pictures", mnist[30:60])
    plain = scored(capsys, real, fake, "--save", tmp_path / "statistics.npz")
    assert plain["scores"]["fid"] == pytest.approx(wanted, abs=1e-4)
    assert (plain["real_count"], plain["fake_count"], plain["dimensions"]) == (30, 30, 64)
    assert plain["features"] == "InceptionV3 64"
    assert "TensorFlow 1" in plain["resize"]
    assert len(plain["network"]) == 12
    for one, other in (
        (real, folder),
        (tmp_path / "statistics.npz", fake),
        (tmp_path / "ttur.npz", folder),
    ):
        found = scored(capsys, one, other, "--batch-size", 7)
        assert found["scores"]["fid"] == pytest.approx(wanted, abs=1e-4)
    assert scored(capsys, tmp_path / "ttur.npz", fake)["real_count"] is None


def test_pictures_of_different_sizes_come_each_at_its_own(cache, capsys, mnist, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "mixed", mnist[:12])
    for index in (3, 4, 9):
        path = folder / f"{index:03}.png"
        Image.open(path).resize((40, 50)).save(path)
    extract = InceptionV3(64).extract(torch.device("cpu"))
    one_by_one = []
    for file in sorted(folder.iterdir()):
        pixels = np.array(Image.open(file).convert("RGB"))
        one_by_one.append(extract(torch.from_numpy(pixels).permute(2, 0, 1)[None]).features)
    np.savez(tmp_path / "real.npz", images=mnist[20:40])
    found = scored(capsys, tmp_path / "real.npz", folder, "--batch-size", 5)
    real = collect([torch.from_numpy(mnist[20:40]).permute(0, 3, 1, 2)], extract, features=False).statistics
    assert found["scores"]["fid"] == pytest.approx(
        frechet_distance(real, statistics_of(torch.cat(one_by_one))), abs=1e-4
    )
    assert found["fake_count"] == 12


def test_a_run_is_scored_by_the_images_of_its_average(make, sets, capsys) -> None:
    config = make()
    assert run(config).status == "done"
    directory = driver.directory_of(config).path
    found = scored(capsys, sets[0], directory, "--num-samples", 20)
    assert found["fake_count"] == 20
    assert "moving average" in found["fake"]
    assert "step 6 (done)" in found["fake"]
    assert scored(capsys, sets[0], directory, "--num-samples", 20, "--batch-size", 3)["scores"]["fid"] == pytest.approx(
        found["scores"]["fid"], abs=1e-3
    )
    other = scored(capsys, sets[0], directory, "--num-samples", 20, "--seed", 1)
    assert other["scores"]["fid"] != pytest.approx(found["scores"]["fid"], abs=1e-6)
    assert {path.name for path in directory.iterdir()} >= {"record.json", "checkpoint.pt"}
    moved = directory.parent.rename(directory.parent.with_name("moved"))
    directory.parent.write_text("the folder it was trained in is no more")
    assert scored(capsys, sets[0], moved / directory.name, "--num-samples", 20)["scores"] == found["scores"]


def test_a_run_of_points_is_refused(make, sets) -> None:
    config = make(
        "data=gaussians8", "train.steps=1", "scorer=none", "tracker=none", "device=cpu", "model.dim=4", tiny=False
    )
    run(config)
    assert "makes points" in refused(sets[0], driver.directory_of(config).path)


def test_several_metrics_and_a_picture_of_neighbours(sets, capsys, mnist, tmp_path: Path) -> None:
    real, _ = sets
    np.savez(tmp_path / "copies.npz", images=np.concatenate([mnist[100:110], mnist[5:7]]))
    arguments = [str(real), str(tmp_path / "copies.npz"), "--metrics", "fid,kid,precision,recall"]
    arguments += ["--kid-subset-size", "10", "--feature", "64", "--device", "cpu"]
    main([*arguments, "--neighbours", str(tmp_path / "n.png")])
    said = capsys.readouterr().out
    for name in ("fid", "kid", "kid_sd", "precision", "recall", "nearest_real", "copied"):
        assert f"| {name} " in said
    assert "features: InceptionV3 64" in said
    assert "real: 30 images of" in said
    with Image.open(tmp_path / "n.png") as picture:
        assert picture.size == (6 * 64, 8 * 64)
        pixels = np.asarray(picture)
    copies = [np.array_equal(pixels[row : row + 64, :64], pixels[row : row + 64, 64:128]) for row in (0, 64, 128)]
    assert copies == [True, True, False]  # the two that were copied come first, each beside itself


def test_statistics_are_of_their_space(sets, tmp_path: Path, capsys) -> None:
    scored(capsys, *sets, "--save", tmp_path / "s.npz")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "s.npz"), str(sets[1]), "--feature", "192", "--device", "cpu"])
    assert "made in InceptionV3 64" in str(stopped.value)
    np.savez(tmp_path / "ttur.npz", mu=np.zeros(5), sigma=np.eye(5))
    assert "5 and of 64 dimensions" in refused(tmp_path / "ttur.npz", sets[1])
    assert "enough for fid only" in refused(tmp_path / "s.npz", sets[1], "--metrics", "fid,precision")


def test_what_cannot_be_scored_is_refused_with_a_reason(sets, tmp_path: Path) -> None:
    real, fake = sets
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "two.npz", images=np.zeros((4, 8, 8, 2), np.uint8))
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.png"):
        (broken / name).write_bytes(b"no picture")
    for side, words in [
        ("nowhere", "there is no"),
        ("empty", "no pictures"),
        ("text.npz", "no npz file"),
        ("other.npz", "holds x"),
        ("shape.npz", "[3] and [2, 2]"),
        ("one.npz", "two images or more"),
        ("two.npz", "2 channels"),
        ("broken", "a.png cannot be read"),
    ]:
        assert words in refused(real, tmp_path / side), side
    assert "unknown metric lpips" in refused(real, fake, "--metrics", "lpips")
    assert "30 generated" in refused(real, fake, "--metrics", "kid")
    assert "--num-samples" in refused(real, fake, "--num-samples", "1")
