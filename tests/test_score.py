"""``wgan-score``: equal images give equal values in every form, and unusable arguments are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_sweep.commands.score import main
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.frechet import frechet_distance, statistics_of

from .helpers import directory_of, run


@pytest.fixture
def sets(cache: Path, tmp_path: Path, mnist: np.ndarray) -> tuple[Path, Path]:
    """Two npz files of real images, 30 each."""
    paths = tmp_path / "real.npz", tmp_path / "fake.npz"
    for path, images in zip(paths, (mnist[:30], mnist[30:60]), strict=True):
        np.savez(path, images=images)
    return paths


def score(capsys, *arguments: object) -> dict:
    main([*map(str, arguments), "--feature", "64", "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out)


def error_message(*arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main([*map(str, arguments), "--feature", "64", "--device", "cpu"])
    return str(exit_info.value)


def as_folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(path / f"{index:03}.png")
    return path


def test_images_pictures_and_statistics_give_the_same_fid(sets, capsys, mnist, tmp_path: Path) -> None:
    real, fake = sets
    extract = InceptionV3(64).extract(torch.device("cpu"))
    statistics = [
        collect([torch.from_numpy(images).permute(0, 3, 1, 2)], extract, features=False).statistics
        for images in (mnist[:30], mnist[30:60])
    ]
    expected = frechet_distance(*statistics)
    np.savez(tmp_path / "ttur.npz", mu=statistics[0].mean.numpy(), sigma=statistics[0].covariance.numpy())
    folder = as_folder(tmp_path / "pictures", mnist[30:60])
    result = score(capsys, real, fake, "--save", tmp_path / "statistics.npz")
    assert result["scores"]["fid"] == pytest.approx(expected, abs=1e-4)
    assert (result["real_count"], result["fake_count"], result["dimensions"]) == (30, 30, 64)
    assert result["features"] == "InceptionV3 64"
    assert "TensorFlow 1" in result["resize"]
    assert len(result["network"]) == 12
    for real_path, fake_path in (
        (real, folder),
        (tmp_path / "statistics.npz", fake),
        (tmp_path / "ttur.npz", folder),
    ):
        result = score(capsys, real_path, fake_path, "--batch-size", 7)
        assert result["scores"]["fid"] == pytest.approx(expected, abs=1e-4)
    assert score(capsys, tmp_path / "ttur.npz", fake)["real_count"] is None


def test_pictures_of_different_sizes_keep_their_sizes(cache, capsys, mnist, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "mixed", mnist[:12])
    for index in (3, 4, 9):
        path = folder / f"{index:03}.png"
        Image.open(path).resize((40, 50)).save(path)
    extract = InceptionV3(64).extract(torch.device("cpu"))
    features = []
    for file in sorted(folder.iterdir()):
        pixels = np.array(Image.open(file).convert("RGB"))
        features.append(extract(torch.from_numpy(pixels).permute(2, 0, 1)[None]).features)
    np.savez(tmp_path / "real.npz", images=mnist[20:40])
    result = score(capsys, tmp_path / "real.npz", folder, "--batch-size", 5)
    real = collect([torch.from_numpy(mnist[20:40]).permute(0, 3, 1, 2)], extract, features=False).statistics
    assert result["scores"]["fid"] == pytest.approx(
        frechet_distance(real, statistics_of(torch.cat(features))), abs=1e-4
    )
    assert result["fake_count"] == 12


def test_a_run_is_scored_with_images_of_its_averaged_generator(make, sets, capsys) -> None:
    config = make()
    assert run(config).status == "done"
    directory = directory_of(config).path
    result = score(capsys, sets[0], directory, "--num-samples", 20)
    assert result["fake_count"] == 20
    assert "moving average" in result["fake"]
    assert "step 6 (done)" in result["fake"]
    assert score(capsys, sets[0], directory, "--num-samples", 20, "--batch-size", 3)["scores"]["fid"] == pytest.approx(
        result["scores"]["fid"], abs=1e-3
    )
    other_seed = score(capsys, sets[0], directory, "--num-samples", 20, "--seed", 1)
    assert other_seed["scores"]["fid"] != pytest.approx(result["scores"]["fid"], abs=1e-6)
    assert {path.name for path in directory.iterdir()} >= {"record.json", "checkpoint.pt"}
    moved = directory.parent.rename(directory.parent.with_name("moved"))
    directory.parent.write_text("a file instead of the folder of the runs")
    assert score(capsys, sets[0], moved / directory.name, "--num-samples", 20)["scores"] == result["scores"]


def test_a_run_of_points_is_error_message(make, sets) -> None:
    config = make(
        "data=gaussians8", "train.steps=1", "scorer=none", "tracker=none", "device=cpu", "model.dim=4", tiny=False
    )
    run(config)
    assert "generates points" in error_message(sets[0], directory_of(config).path)


def test_several_metrics_and_a_picture_of_nearest_images(sets, capsys, mnist, tmp_path: Path) -> None:
    real, _ = sets
    np.savez(tmp_path / "copies.npz", images=np.concatenate([mnist[100:110], mnist[5:7]]))
    arguments = [str(real), str(tmp_path / "copies.npz"), "--metrics", "fid,kid,precision,recall"]
    arguments += ["--kid-subset-size", "10", "--feature", "64", "--device", "cpu"]
    main([*arguments, "--neighbours", str(tmp_path / "n.png")])
    output = capsys.readouterr().out
    for name in ("fid", "kid", "kid_sd", "precision", "recall", "nearest_real", "copied"):
        assert f"| {name} " in output
    assert "features: InceptionV3 64" in output
    assert "real: 30 images of" in output
    with Image.open(tmp_path / "n.png") as picture:
        assert picture.size == (6 * 64, 8 * 64)
        pixels = np.asarray(picture)
    copies = [np.array_equal(pixels[row : row + 64, :64], pixels[row : row + 64, 64:128]) for row in (0, 64, 128)]
    assert copies == [True, True, False]  # the two copies come first, each beside its original


def test_statistics_of_another_feature_space_are_refused(sets, tmp_path: Path, capsys) -> None:
    score(capsys, *sets, "--save", tmp_path / "s.npz")
    with pytest.raises(SystemExit) as exit_info:
        main([str(tmp_path / "s.npz"), str(sets[1]), "--feature", "192", "--device", "cpu"])
    assert "computed in InceptionV3 64" in str(exit_info.value)
    np.savez(tmp_path / "ttur.npz", mu=np.zeros(5), sigma=np.eye(5))
    assert "5 and of 64 dimensions" in error_message(tmp_path / "ttur.npz", sets[1])
    assert "enough for fid only" in error_message(tmp_path / "s.npz", sets[1], "--metrics", "fid,precision")


def test_unusable_arguments_are_refused_with_a_reason(sets, tmp_path: Path) -> None:
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
    for name, words in [
        ("nowhere", "there is no"),
        ("empty", "no pictures"),
        ("text.npz", "no npz file"),
        ("other.npz", "holds x"),
        ("shape.npz", "[3] and [2, 2]"),
        ("one.npz", "two images or more"),
        ("two.npz", "2 channels"),
        ("broken", "a.png cannot be read"),
    ]:
        assert words in error_message(real, tmp_path / name), name
    assert "unknown metric lpips" in error_message(real, fake, "--metrics", "lpips")
    assert "30 generated" in error_message(real, fake, "--metrics", "kid")
    assert "--num-samples" in error_message(real, fake, "--num-samples", "1")
