"""``wgan-score``: equal images give equal values in every form, and unusable arguments are refused."""

import errno
import json
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_sweep.commands.score import main
from wgan_sweep.config import folders
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import Extracted, InceptionV3
from wgan_sweep.scoring.frechet import Statistics, frechet_distance, read_statistics, statistics_of

from .helpers import directory_of, run

CPU = torch.device("cpu")


@pytest.fixture
def sets(cache: Path, tmp_path: Path, mnist: np.ndarray) -> tuple[Path, Path]:
    """Two npz files of real images, 30 each."""
    paths = tmp_path / "real.npz", tmp_path / "fake.npz"
    for path, images in zip(paths, (mnist[:30], mnist[30:60]), strict=True):
        np.savez(path, images=images)
    return paths


def score(capsys, *arguments: object) -> dict:
    main([*map(str, arguments), "--layer", "64", "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out)


def error_message(*arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main(["--layer", "64", "--device", "cpu", *map(str, arguments)])
    return str(exit_info.value)


def as_folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(path / f"{index:03}.png")
    return path


@pytest.mark.integration
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


@pytest.mark.integration
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


def test_a_run_of_points_is_refused(make, sets) -> None:
    config = make(
        "data=gaussians8", "train.steps=1", "scorer=none", "tracker=none", "device=cpu", "model.dim=4", tiny=False
    )
    run(config)
    assert "generates points" in error_message(sets[0], directory_of(config).path)


def test_several_metrics_and_a_picture_of_nearest_images(sets, capsys, mnist, tmp_path: Path) -> None:
    real, _ = sets
    np.savez(tmp_path / "copies.npz", images=np.concatenate([mnist[100:110], mnist[5:7]]))
    arguments = [str(real), str(tmp_path / "copies.npz"), "--metrics", "fid,kid,precision,recall"]
    arguments += ["--kid-subset-size", "10", "--layer", "64", "--device", "cpu"]
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


@pytest.mark.integration
def test_a_metric_of_torchmetrics_in_a_named_folder_uses_the_same_network(sets, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "_named", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "site" / "metric").mkdir(parents=True)
    (tmp_path / "site" / "metric" / "theirs.yaml").write_text(
        "_target_: torchmetrics.image.fid.FrechetInceptionDistance\n"
        "feature: {_target_: wgan_sweep.scoring.shared_network.SharedNetwork, features: '${features}'}\n"
    )
    named = ["--config-dir", tmp_path / "site", "--metrics", "fid,theirs,pair_ssim"]
    scores = score(capsys, *sets, *named)["scores"]
    assert scores["theirs"] == pytest.approx(scores["fid"], rel=1e-2)
    assert scores["fid"] > 0
    assert 0 < scores["pair_ssim"] < 1
    score(capsys, *sets, "--save", tmp_path / "s.npz")
    assert "give the images" in error_message(tmp_path / "s.npz", sets[1], *named)


@pytest.mark.integration
def test_statistics_of_another_feature_space_are_refused(sets, tmp_path: Path, capsys) -> None:
    score(capsys, *sets, "--save", tmp_path / "s.npz")
    with pytest.raises(SystemExit) as exit_info:
        main([str(tmp_path / "s.npz"), str(sets[1]), "--layer", "192", "--device", "cpu"])
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
    (tmp_path / "truncated.npz").write_bytes(real.read_bytes()[:-100])
    np.savez(tmp_path / "objects.npz", images=np.array([{}, {}]))
    np.save(tmp_path / "single.npy", np.zeros((4, 8, 8, 3), np.uint8))
    os.mkfifo(tmp_path / "pipe")
    for name, words in [
        ("truncated.npz", "cannot be read as npz"),
        ("objects.npz", "cannot be read as npz"),
        ("single.npy", "numpy.savez"),
        ("pipe", "not a regular file"),
        ("nowhere", "there is no"),
        ("empty", "no pictures"),
        ("text.npz", "cannot be read as npz"),
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
    assert "--device=foo cannot be used" in error_message(real, fake, "--device", "foo")
    for path in ("/dev/null", tmp_path, tmp_path / "none" / "s.npz"):
        assert "--save" in error_message(real, fake, "--save", path)
        assert "--neighbours" in error_message(real, fake, "--neighbours", path)


STATISTICS = {"mean": np.zeros(3), "covariance": np.eye(3), "root": np.eye(3), "count": 5, "space": "InceptionV3 64"}
OTHERS = {"mu": np.zeros(3), "sigma": np.eye(3)}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({name: value for name, value in STATISTICS.items() if name != "space"}, "lacks space"),
        ({**STATISTICS, "mean": np.array([0, np.nan, 0])}, "mean in .* not finite"),
        ({**STATISTICS, "root": 2 * np.eye(3)}, "root in .* is not the square root"),
        ({**STATISTICS, "root": np.eye(2)}, "root in .* is not the square root"),
        ({**STATISTICS, "count": 1.5}, "count in .* integer of 2 or more"),
        ({**STATISTICS, "count": [5, 5]}, "count in .* integer of 2 or more"),
        ({**STATISTICS, "space": 3}, "space in .* text"),
        ({**STATISTICS, "mean": np.array([object()] * 3)}, "cannot be read as npz"),
        ({**OTHERS, "sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({**OTHERS, "sigma": np.eye(3) * 1j}, "sigma in .* complex128"),
        ({**OTHERS, "sigma": np.diag([1, 1, -0.01])}, "negative eigenvalues"),
        ({**OTHERS, "sigma": np.full((3, 3), np.inf)}, "not finite"),
        ({**OTHERS, "mu": np.zeros((1, 3))}, "[1, 3]"),
        ({**OTHERS, "mu": np.array(["a", "b", "c"])}, "mu in .* <U1"),
        ({"mu": np.zeros(3)}, "lacks"),
    ],
)
def test_arrays_that_are_no_statistics_are_refused(tmp_path: Path, sets, arrays: dict, words: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    message = error_message(tmp_path / "s.npz", sets[1])
    assert re.search(re.escape(words) if "[" in words else words, message)
    assert message.count(str(tmp_path / "s.npz")) == 1
    assert "\n" not in message


def test_statistics_in_float32_and_of_few_images_are_accepted(tmp_path: Path) -> None:
    features = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))  # fewer than dimensions: rank 4
    expected = statistics_of(features)
    np.savez(tmp_path / "s.npz", mu=expected.mean.float(), sigma=expected.covariance.float())
    assert frechet_distance(read_statistics(tmp_path / "s.npz"), expected) == pytest.approx(0, abs=1e-4)
    expected.save(tmp_path / "own.npz")
    assert torch.equal(read_statistics(tmp_path / "own.npz").root, expected.root)


def test_scores_are_printed_before_files_are_written(sets, monkeypatch, capsys, tmp_path: Path) -> None:
    def fail(self, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Statistics, "save", fail)
    with pytest.raises(SystemExit, match="No space left"):
        main([*map(str, sets), "--layer", "64", "--device", "cpu", "--save", str(tmp_path / "s.npz")])
    assert "| fid " in capsys.readouterr().out


def test_a_folder_of_runs_and_its_samples_are_refused(make, sets) -> None:
    config = make()
    run(config)
    directory = directory_of(config)
    assert directory.last_samples() is not None
    for path in (directory.path.parent, directory.path / "samples"):
        assert "grids of samples" in error_message(sets[0], path)


@pytest.mark.integration
def test_what_is_dropped_from_pictures_is_said(sets, mnist, capsys, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "pictures", mnist[30:60])
    deep = mnist[30:60, ..., 0].astype(np.uint16) * 257
    for index, image in enumerate(deep[:4]):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    result = score(capsys, sets[0], folder)
    assert result["scores"] == score(capsys, *sets)["scores"]
    assert result["notes"] == [f"30 pictures in {folder}: 4 of 30 pictures have 16 bits, of which the upper 8 are used"]
    main([str(sets[0]), str(folder), "--layer", "64", "--device", "cpu"])
    assert result["notes"][0] in capsys.readouterr().out


OPTIONS = {
    "--metrics": ["fid", "kid", "fid,precision", "inception_score", "memorisation", "", ",", "fid,lpips"],
    "--features": ["inception"],
    "--layer": ["64", "192", "65", "x"],
    "--num-samples": ["-1", "0", "2", "20", "x"],
    "--seed": ["0", "-5", str(2**70)],
    "--kid-subset-size": ["-1", "0", "1", "2", "10", str(10**9)],
    "--batch-size": ["-1", "0", "1", "7", str(10**12)],
    "--device": ["cpu", "foo", "", "cuda:99", "meta", "cpu:-1"],
    "--weights": ["", ".", "/dev/null", "none.pt"],
    "--save": ["{out}/s.npz", "{out}", "/dev/null", "{out}/a/b", "", "~/../../{out}/s.npz"],
    "--neighbours": ["{out}/n.png", "{out}", "/proc/x.png", ""],
}


@pytest.mark.slow
def test_random_command_lines_and_damaged_files_end_in_one_line(
    make, sets, monkeypatch, capsys, mnist, tmp_path
) -> None:
    """2,000 command lines: scores, or one line and exit code 1 (2 where argparse refuses)."""
    use_small_features_instead(monkeypatch)
    run(make())
    random = np.random.default_rng(0)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    statistics = collect(
        [torch.from_numpy(mnist[:30]).permute(0, 3, 1, 2)], InceptionV3(64).extract(CPU), features=False
    ).statistics
    replace(statistics, space="InceptionV3 64, network stub").save(inputs / "statistics.npz")
    np.savez(inputs / "ttur.npz", mu=statistics.mean, sigma=statistics.covariance)
    np.savez_compressed(inputs / "images.npz", images=mnist[:30])
    as_folder(inputs / "pictures", mnist[:20])
    shutil.copytree(directory_of(make()).path.parent, inputs / "runs")
    originals = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    runs = [path.parent for path in inputs.rglob("record.json")]
    places = [*inputs.iterdir(), *runs, inputs / "none", Path("/dev/null"), inputs / "pictures" / "000.png"]
    codes: Counter[object] = Counter()
    for trial in range(2000):
        damaged = []
        if trial % 2:
            damaged = [list(originals)[index] for index in random.integers(len(originals), size=2)]
            for path in damaged:
                path.write_bytes(mutated(originals[path], random))
        (out := tmp_path / "out").mkdir(exist_ok=True)
        arguments = [str(places[random.integers(len(places))]) for _ in range(2)]
        for option in random.choice(list(OPTIONS), random.integers(0, 4), replace=False):
            values = OPTIONS[option]
            arguments += [f"{option}={values[random.integers(len(values))].format(out=out)}"]
        if "--num-samples" not in " ".join(arguments):
            arguments.append("--num-samples=12")
        code: object = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        if isinstance(code, str):
            assert code.startswith("wgan-score: ")
            assert "\n" not in code, code
            code = 1
        codes[code] += 1
        for path in damaged:
            path.write_bytes(originals[path])
        shutil.rmtree(out)
    sys.stdout.write(f"{dict(codes)}\n")
    assert set(codes) == {0, 1, 2}
    assert codes[0] > 100


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with some bytes changed, removed, or repeated."""
    result = bytearray(content)
    for _ in range(random.integers(1, 8)):
        result = result or bytearray(b"x")
        at = random.integers(len(result))
        kind = random.integers(4)
        if kind == 0:
            del result[at : at + random.integers(1, 100)]
        elif kind == 1:
            result[at:at] = result[: random.integers(1, 100)]
        else:
            result[at] = random.integers(256)
    return bytes(result[: random.integers(1, len(result) + 2)] if random.integers(4) == 0 else result)


def use_small_features_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the network by averages of 64 parts of an image, with 8 logits."""

    def extract(self, device: torch.device, *, logits: bool = False):
        def averages(images: torch.Tensor) -> Extracted:
            grey = images.float().mean(1, keepdim=True)
            features = torch.nn.functional.adaptive_avg_pool2d(grey, 8).flatten(1)
            return Extracted(features, features[:, :8] / 255 if logits else None)

        return averages

    monkeypatch.setattr(InceptionV3, "__post_init__", lambda self: None)
    monkeypatch.setattr(InceptionV3, "network", property(lambda self: "stub"))
    monkeypatch.setattr(InceptionV3, "check", lambda self, *, logits: None)
    monkeypatch.setattr(InceptionV3, "extract", extract)
