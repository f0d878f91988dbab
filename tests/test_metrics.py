"""Metrics against brute force, closed forms, SciPy and torch-fidelity; feature spaces against torch-fidelity's own."""

import math
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build
from wgan_sweep.scoring import weights
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import Extracted, InceptionV3, TorchFidelity
from wgan_sweep.scoring.frechet import frechet_distance, statistics_of
from wgan_sweep.scoring.images import ImageScorer
from wgan_sweep.scoring.inception import extractor
from wgan_sweep.scoring.metrics import (
    FID,
    KID,
    METRICS,
    FIDInfinity,
    InceptionScore,
    Memorisation,
    PrecisionRecall,
    Side,
)

CPU = torch.device("cpu")


def gaussian(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def side(features: Tensor, logits: Tensor | None = None) -> Side:
    return Side(statistics_of(features), features, logits)


@pytest.mark.parametrize(("count", "dim"), [(100, 64), (100, 512), (1000, 192), (10000, 64)])
def test_the_distance_is_torch_fidelitys_from_a_hundred_to_ten_thousand(count: int, dim: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    one, other = (gaussian(count, dim, seed, seed / 10) / math.sqrt(dim) for seed in (0, 1))
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(features.double()) for features in (one, other)), verbose=False
    )
    ours = frechet_distance(statistics_of(one), statistics_of(other))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], abs=1e-5)


@pytest.fixture(scope="module")
def theirs(network: weights.Weights):
    """torch-fidelity's own class on the same weights, in batches of 8."""
    made = extractor(network, ["2048"])

    def extract(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([made(part.expand(-1, 3, -1, -1).contiguous())[0] for part in images.split(8)])

    return extract


def resized(mnist: np.ndarray, count: int, size: int, channels: int) -> Tensor:
    """Real images at a size; in colour, three different ones in one."""
    pixels = torch.from_numpy(mnist[: count * channels]).float().reshape(count, channels, 28, 28)
    return torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear").round().to(torch.uint8)


def assert_fids_agree(mnist: np.ndarray, theirs, size: int, channels: int, batches: list[int], count: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    images = resized(mnist, 2 * count, size, channels)
    halves = images[:count], images[count:]
    wanted = fid_statistics_to_metric(*(fid_features_to_statistics(theirs(half)) for half in halves), verbose=False)
    extract = InceptionV3(2048).extract(CPU)
    for batch in batches:
        found = frechet_distance(*(collect(half.split(batch), extract, features=False).statistics for half in halves))
        assert found == pytest.approx(wanted["frechet_inception_distance"], abs=1e-3)


@pytest.mark.parametrize(
    ("size", "channels", "batch"),
    [(28, 1, 7), pytest.param(96, 3, 1, marks=pytest.mark.slow), pytest.param(512, 1, 64, marks=pytest.mark.slow)],
)
def test_fid_is_torch_fidelitys_at_any_size_and_batch(mnist, theirs, size: int, channels: int, batch: int) -> None:
    assert_fids_agree(mnist, theirs, size, channels, [batch], 5)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64, 96, 299, 512])
def test_fid_is_torch_fidelitys_at_every_size(mnist, theirs, size: int, channels: int) -> None:
    assert_fids_agree(mnist, theirs, size, channels, [1, 7, 64], 40)


REAL_PAIRS = [
    ("cifar10_train", "cifar10_test"),
    ("mnist_train", "mnist_test"),
    ("fashion_mnist_train", "fashion_mnist_test"),
    ("mnist_train", "fashion_mnist_train"),
    ("cifar10_train", "mnist_train"),
    ("cifar10_test", "fashion_mnist_test"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "count", "layer"),
    [*((pair, 100, 2048) for pair in REAL_PAIRS), (REAL_PAIRS[0], 1000, 2048), (REAL_PAIRS[0], 10000, 64)],
)
def test_fid_is_that_of_torch_fidelitys_command_on_real_sets(
    pair: tuple[str, str], count: int, layer: int, network: weights.Weights, tmp_path, capsys
) -> None:
    """Its whole pipeline, from data sets to the number."""
    import torch_fidelity

    folder = Path(os.environ.get("WGAN_SWEEP_DATA", Path.home() / ".cache/wgan-sweep-data"))
    sets = []
    for name in pair:
        if not (folder / f"{name}.npz").exists():
            pytest.skip(f"needs {folder / name}.npz with `images` uint8 [N, H, W, C]")
        images = torch.from_numpy(np.load(folder / f"{name}.npz")["images"][:count])
        images = images[..., None] if images.dim() == 3 else images
        sets.append(images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous())
    torch.save(extractor(network, ["2048"]).state_dict(), tmp_path / "theirs.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        wanted = torch_fidelity.calculate_metrics(
            input1=Listed(sets[0]),
            input2=Listed(sets[1]),
            fid=True,
            cuda=False,
            verbose=False,
            batch_size=50,
            feature_extractor_weights_path=str(tmp_path / "theirs.pth"),
            feature_layer_fid=str(layer),
            cache=False,
        )["frechet_inception_distance"]
    extract = InceptionV3(layer).extract(CPU)
    found = frechet_distance(*(collect(images.split(50), extract, features=False).statistics for images in sets))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{' against '.join(pair)}, {count} of each, {layer} features: ours {found:.5f}, theirs {wanted:.5f}, "
            f"off by {found - wanted:+.1e}\n"
        )
    assert found == pytest.approx(wanted, abs=1e-3)


class Listed(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_kid_is_the_unbiased_mmd_of_its_definition() -> None:
    """With subsets of all there is, every subset is the same set."""
    one, other = gaussian(12, 5, 0), gaussian(12, 5, 1, 0.5)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 5 + 1) ** 3

    def mean(left: Tensor, right: Tensor, *, same: bool) -> float:
        values = [kernel(x, y) for i, x in enumerate(left) for j, y in enumerate(right) if not (same and i == j)]
        return sum(values) / len(values)

    wanted = mean(one, one, same=True) + mean(other, other, same=True) - 2 * mean(one, other, same=False)
    found = KID(subsets=3, subset_size=12)(side(one), side(other))
    assert found["kid"] == pytest.approx(wanted, rel=1e-4)
    assert found["kid_sd"] == pytest.approx(0, abs=1e-5)


def test_kid_of_one_distribution_is_about_zero_on_either_side() -> None:
    values = [
        KID(subsets=5, subset_size=50)(side(gaussian(50, 8, 2 * i)), side(gaussian(50, 8, 2 * i + 1)))["kid"]
        for i in range(20)
    ]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(20)


def test_precision_and_recall_are_those_of_brute_force() -> None:
    real, fake = gaussian(60, 3, 0), gaussian(50, 3, 1, 0.8)

    def covered(points: Tensor, balls: Tensor) -> float:
        radius = [sorted(float((x - y).norm()) for y in balls)[3] for x in balls]
        return sum(any(float((p - x).norm()) <= r for x, r in zip(balls, radius, strict=True)) for p in points) / len(
            points
        )

    found = PrecisionRecall(3)(side(real), side(fake))
    assert found["precision"] == pytest.approx(covered(fake, real))
    assert found["recall"] == pytest.approx(covered(real, fake))
    assert found["precision"] != found["recall"]


def test_the_inception_score_is_one_for_no_idea_and_the_number_of_classes_for_certainty() -> None:
    same, certain = torch.zeros(100, 7), 1e3 * torch.eye(5).repeat(20, 1)
    score = InceptionScore(splits=1)
    assert score(side(gaussian(4, 2, 0)), side(gaussian(100, 2, 0), same))["inception_score"] == pytest.approx(1)
    assert score(side(gaussian(4, 2, 0)), side(gaussian(100, 2, 0), certain))["inception_score"] == pytest.approx(5)


def test_fid_at_infinity_is_the_distance_of_the_distributions() -> None:
    """Gaussians at distance 1: FID_N lies above by about its bias, the extrapolation does not."""
    real = side(gaussian(100000, 16, 0))
    found = []
    for seed in range(1, 9):
        fake = side(gaussian(2000, 16, seed, 0.25))
        scores = FIDInfinity()(real, fake)
        found.append((scores["fid_infinity"], scores["fid_infinity_error"], FID()(real, fake)["fid"]))
    infinity, error, plain = np.mean(found, 0)
    assert plain > 1.02 + infinity - 1
    assert infinity == pytest.approx(1.0, abs=0.03)
    assert 0 < error < 0.1


def test_copies_are_told_from_new_examples() -> None:
    real = gaussian(2000, 4, 0)
    copies = Memorisation()(side(real), side(real[:300].clone()))
    fresh = Memorisation()(side(real), side(gaussian(1000, 4, 1)))
    assert copies["copied"] == 1
    assert copies["nearest_real"] < 0.02
    assert fresh["nearest_real"] == pytest.approx(1, abs=0.1)
    assert fresh["copied"] == pytest.approx(0.01, abs=0.012)


@pytest.mark.parametrize(
    ("metric", "generated", "real", "words"),
    [
        (KID(), 999, 5000, "999 generated"),
        (KID(subset_size=10), 100, 9, "9 real"),
        (FIDInfinity(), 99, 1000, "got 99"),
        (PrecisionRecall(3), 3, 10, "more than 3"),
        (InceptionScore(), 9, 10, "got 9"),
        (Memorisation(), 10, 1, "2 real"),
    ],
)
def test_counts_that_are_too_few_are_refused(metric, generated: int, real: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metric.check(generated, real)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_lacks(name: str) -> None:
    metric = METRICS[name]()
    bare = Side(statistics_of(gaussian(20, 3, 0)))
    if metric.needs_features or metric.needs_logits:
        with pytest.raises(InputError, match="give the images"):
            metric(bare, bare)
    else:
        assert metric(bare, bare)["fid"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "make_metric",
    [lambda: KID(subsets=0), lambda: FIDInfinity(2), lambda: PrecisionRecall(0), lambda: InceptionScore(0)],
)
def test_settings_out_of_range_are_refused(make_metric) -> None:
    with pytest.raises(InputError):
        make_metric()


class Pixels:
    """A feature space of 4 numbers, without a network; writes down every time it works."""

    name, network, resize = "pixels", "none", "none"

    def __init__(self, log: Path | None = None) -> None:
        self.log = log

    def check(self, *, logits: bool) -> None:
        assert not logits

    def extract(self, device: torch.device, *, logits: bool = False):
        def extract(images: Tensor) -> Extracted:
            if self.log is not None:
                with self.log.open("a") as out:
                    out.write(f"{len(images)}\n")
            return Extracted(images.float().flatten(1)[:, 300:304])

        return extract


def image_scorer(real: np.ndarray, **settings) -> ImageScorer:
    defaults = {"num_samples": 20, "num_real": None, "batch_size": 6, "split": "train", "repeats": 1}
    defaults |= {"metrics": {"fid": FID()}, "features": Pixels()}
    return ImageScorer(real=ImageSet(real), device=CPU, **{**defaults, **settings})


def stream(images: np.ndarray):
    left, position = torch.from_numpy(images).permute(0, 3, 1, 2), 0

    def sample(count: int) -> Tensor:
        nonlocal position
        position += count
        return left[position - count : position]

    return sample


def test_repeats_score_fresh_samples_and_say_their_spread(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    alone = [image_scorer(mnist[:99])(stream(mnist[100 + 20 * i :]))["fid"] for i in range(3)]
    found = image_scorer(mnist[:99], repeats=3)(stream(mnist[100:]))
    assert len(set(alone)) == 3
    assert found["fid"] == pytest.approx(np.mean(alone))
    assert found["fid_repeat_sd"] == pytest.approx(np.std(alone, ddof=1))
    assert (found["repeats"], found["fid_generated"], found["fid_real"], found["fid_feature"]) == (3, 20, 99, 4)


def test_a_scorer_says_what_its_numbers_hang_on(mnist) -> None:
    told = image_scorer(mnist[:99], num_real=50, split="test", repeats=2).describe()
    assert told == {
        "features": "pixels",
        "network": "none",
        "resize": "none",
        "real": "test, 50 of 99",
        "generated": "20, 2 times",
    }


def test_real_features_are_kept_where_a_metric_needs_them(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "log"
    for metric in ({"fid": FID()}, {"fid": FID(), "prc": PrecisionRecall(3)}, {"prc": PrecisionRecall(3)}):
        image_scorer(mnist[:40], metrics=metric, features=Pixels(log)).prepare()
    assert sum(map(int, log.read_text().split())) == 2 * 40  # once for statistics, once more for features


RACE = """
    import sys, time
    from pathlib import Path
    import numpy as np, torch
    from wgan_sweep.data import ImageSet
    from wgan_sweep.scoring.collect import reference
    from tests.test_metrics import Pixels

    class Slow(Pixels):
        def extract(self, device, *, logits=False):
            inner = super().extract(device)
            def extract(images):
                time.sleep(0.05)
                return inner(images)
            return extract

    images = ImageSet(np.load(sys.argv[1]))
    Path(sys.argv[2]).touch()
    while not all(Path(name).exists() for name in sys.argv[2:4]):
        time.sleep(0.01)
    side = reference(images, 60, Slow(Path(sys.argv[4])), torch.device("cpu"), 5, features=True)
    print(side.statistics.mean.sum().item(), side.statistics.count, side.features.shape[0])
"""


def test_two_processes_that_race_for_the_same_statistics_compute_them_once(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "images.npy", mnist[:60])
    ready = [str(tmp_path / "one"), str(tmp_path / "other")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RACE), str(tmp_path / "images.npy"), *order, str(tmp_path / "log")],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in (ready, ready[::-1])
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    assert said[0].split()[1:] == ["60", "60"]
    assert sum(map(int, (tmp_path / "log").read_text().split())) == 60


def test_the_last_layer_is_asked_for_only_where_it_is(network: weights.Weights) -> None:
    space = InceptionV3(2048)
    if network.file.has_logits:
        assert space.extract(CPU, logits=True)(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).logits is not None
    else:
        with pytest.raises(InputError, match=r"has no last layer: set features\.weights to torch-fidelity's release"):
            space.check(logits=True)


def test_a_released_file_gives_the_same_features_and_logits(network: weights.Weights, mnist, tmp_path) -> None:
    """A file in the release's form, made from the same network with a random last layer."""
    from dataclasses import replace

    state = extractor(network, ["2048"]).state_dict()
    state |= {name: torch.randn(state[name].shape) / 50 for name in ("fc.weight", "fc.bias")}
    torch.save(state, tmp_path / "release.pth")
    released = replace(network, path=tmp_path / "release.pth", file=weights.RELEASE)
    space = InceptionV3(2048)
    space.__dict__["_file"] = released
    images = torch.from_numpy(mnist[:3]).permute(0, 3, 1, 2)
    found = space.extract(CPU, logits=True)(images)
    torch.testing.assert_close(found.features, InceptionV3(2048).extract(CPU)(images).features, rtol=1e-5, atol=1e-5)
    assert found.logits is not None
    torch.testing.assert_close(found.logits, found.features @ state["fc.weight"].T, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory) -> Path:
    """VGG16 as torchvision builds it, with weights of no training."""
    import torchvision

    from wgan_sweep.common import rng

    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    with rng.seeded(0):
        torch.save(torchvision.models.vgg16(weights=None).state_dict(), path)
    return path


def test_another_space_is_torch_fidelitys_with_the_given_weights(vgg_file: Path, mnist) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    space = TorchFidelity("vgg16", "fc2_relu", str(vgg_file))
    images = torch.from_numpy(mnist[:2]).permute(0, 3, 1, 2)
    found = space.extract(CPU)(images).features
    wanted = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(vgg_file))
    with torch.no_grad():
        torch.testing.assert_close(found, wanted(images.expand(-1, 3, -1, -1))[0], rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 4096)
    assert (space.name, len(space.network)) == ("vgg16 fc2_relu", 12)
    with pytest.raises(InputError, match="InceptionV3 only"):
        space.check(logits=True)


@pytest.mark.parametrize(
    ("name", "layer", "file", "words"),
    [
        ("vgg19", "fc2", None, "choose one of .*clip-vit-b-32.*vgg16"),
        ("vgg16", "conv9", None, "vgg16 has fc2, fc2_relu"),
        ("vgg16", "fc2", "/nowhere.pth", "there is no file /nowhere.pth"),
        ("dinov2-vit-b-14", "dinov2", "/nowhere.pth", "from its publisher only"),
    ],
)
def test_a_space_that_cannot_be_is_refused(name: str, layer: str, file: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TorchFidelity(name, layer, file)


def test_weights_that_cannot_be_had_are_refused_with_the_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(InputError, match=r"features\.weights.*features=inception"):
        TorchFidelity("vgg16", "fc2_relu").check(logits=False)


def test_scoring_leaves_training_as_it_was_bitwise(make, mnist, tmp_path, monkeypatch) -> None:
    """A scored trainer goes on as one that nobody looked at; BatchNorm's statistics and modes included."""
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    looked, left = build(make("model=dcgan")).trainer, build(make("model=dcgan")).trainer
    scorer = image_scorer(np.pad(mnist[:40], ((0, 0), (2, 2), (2, 2), (0, 0))), metrics={"prc": PrecisionRecall(3)})
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for _ in zip(looked.steps(4), left.steps(4), strict=True):
        modes = [
            module.training for net in (looked.generator, looked.critic, looked.averaged) for module in net.modules()
        ]
        scorer(looked.sampler("score"), looked)
        assert modes == [
            module.training for net in (looked.generator, looked.critic, looked.averaged) for module in net.modules()
        ]
        assert torch.equal(torch.get_rng_state(), state)
    for name in ("generator", "critic", "averaged"):
        theirs = getattr(left, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in getattr(looked, name).state_dict().items())
    ours, other = looked.state_dict()["streams"], left.state_dict()["streams"]
    assert all(torch.equal(value, other[key]) for key, value in ours.items())


def test_what_does_not_fit_into_memory_goes_in_parts(mnist) -> None:
    images = torch.from_numpy(mnist[:13]).permute(0, 3, 1, 2)
    sizes = []

    def small(batch: Tensor) -> Extracted:
        if len(batch) > 4:
            raise torch.OutOfMemoryError
        sizes.append(len(batch))
        return Extracted(batch.float().flatten(1)[:, 300:304], batch.float().flatten(1)[:, 310:313])

    found = collect([images], small, features=True, logits=True)
    assert sizes == [4, 3, 3, 3]
    assert found.features is not None
    assert torch.equal(found.features, images.float().flatten(1)[:, 300:304])
    assert found.logits is not None
    assert found.logits.shape == (13, 3)

    def none(batch: Tensor) -> Extracted:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        collect([images], none, features=False)


def test_without_features_kept_memory_does_not_grow_with_the_images(mnist) -> None:
    images = torch.from_numpy(mnist[:100]).permute(0, 3, 1, 2)
    found = collect((images for _ in range(50)), Pixels().extract(CPU), features=False)
    assert found.features is None
    assert found.statistics.count == 5000
    assert found.statistics.covariance.shape == (4, 4)
