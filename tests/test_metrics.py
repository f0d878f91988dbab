"""Metrics against brute force, closed forms and torch-fidelity; feature spaces against torch-fidelity."""

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
from torchmetrics import Metric

from wgan_sweep.config import objects
from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build
from wgan_sweep.scoring import weights
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import Extracted, InceptionV3, TorchFidelity
from wgan_sweep.scoring.frechet import Statistics, frechet_distance, statistics_of
from wgan_sweep.scoring.images import ImageScorer
from wgan_sweep.scoring.inception import extractor
from wgan_sweep.scoring.metrics import (
    FID,
    KID,
    FIDInfinity,
    InceptionScore,
    Memorisation,
    PrecisionRecall,
    fid_infinity,
)
from wgan_sweep.scoring.metrics.two_sided import TwoSidedMetric
from wgan_sweep.scoring.neighbours import distances_between_distinct

CPU = torch.device("cpu")


def gaussian(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def values_of(metric: Metric, real: Tensor | Statistics, generated: Tensor | Statistics) -> dict[str, float]:
    """Return the values of a metric between two sets of features, or their statistics."""
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize(("count", "dim"), [(100, 64), (100, 512), (1000, 192), (10000, 64)])
def test_the_distance_matches_torch_fidelity(count: int, dim: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    first, second = (gaussian(count, dim, seed, seed / 10) / math.sqrt(dim) for seed in (0, 1))
    expected = fid_statistics_to_metric(
        *(fid_features_to_statistics(features.double()) for features in (first, second)), verbose=False
    )
    distance = frechet_distance(statistics_of(first), statistics_of(second))
    assert distance == pytest.approx(expected["frechet_inception_distance"], abs=1e-5)


@pytest.fixture(scope="module")
def reference_extractor(network: weights.Weights):
    """torch-fidelity's class with the same weights, in batches of 8."""
    inception = extractor(network, ["2048"])

    def extract(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([inception(part.expand(-1, 3, -1, -1).contiguous())[0] for part in images.split(8)])

    return extract


def resized(mnist: np.ndarray, count: int, size: int, channels: int) -> Tensor:
    """Real images resized to size x size; for 3 channels, each combines three different images."""
    pixels = torch.from_numpy(mnist[: count * channels]).float().reshape(count, channels, 28, 28)
    return torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear").round().to(torch.uint8)


def assert_fids_agree(
    mnist: np.ndarray, reference_extractor, size: int, channels: int, batches: list[int], count: int
) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    images = resized(mnist, 2 * count, size, channels)
    halves = images[:count], images[count:]
    statistics = [fid_features_to_statistics(reference_extractor(half)) for half in halves]
    expected = fid_statistics_to_metric(*statistics, verbose=False)
    extract = InceptionV3(2048).extract(CPU)
    for batch in batches:
        fid = frechet_distance(*(collect(half.split(batch), extract, features=False).statistics for half in halves))
        assert fid == pytest.approx(expected["frechet_inception_distance"], abs=1e-3)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("size", "channels", "batch"),
    [(28, 1, 7), pytest.param(96, 3, 1, marks=pytest.mark.slow), pytest.param(512, 1, 64, marks=pytest.mark.slow)],
)
def test_fid_matches_torch_fidelity(mnist, reference_extractor, size: int, channels: int, batch: int) -> None:
    assert_fids_agree(mnist, reference_extractor, size, channels, [batch], 5)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64, 96, 299, 512])
def test_fid_matches_torch_fidelity_at_every_size(mnist, reference_extractor, size: int, channels: int) -> None:
    assert_fids_agree(mnist, reference_extractor, size, channels, [1, 7, 64], 40)


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
def test_fid_matches_the_pipeline_of_torch_fidelity_on_real_sets(
    pair: tuple[str, str], count: int, layer: int, network: weights.Weights, tmp_path, capsys
) -> None:
    """torch-fidelity's whole pipeline, from data sets to the FID."""
    import torch_fidelity

    folder = Path(os.environ.get("WGAN_SWEEP_DATA", Path.home() / ".cache/wgan-sweep-data"))
    sets = []
    for name in pair:
        if not (folder / f"{name}.npz").exists():
            pytest.skip(f"needs {folder / name}.npz with `images` uint8 [N, H, W, C]")
        images = torch.from_numpy(np.load(folder / f"{name}.npz")["images"][:count])
        images = images[..., None] if images.dim() == 3 else images
        sets.append(images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous())
    torch.save(extractor(network, ["2048"]).state_dict(), tmp_path / "weights.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of torch-fidelity
        expected = torch_fidelity.calculate_metrics(
            input1=ImageDataset(sets[0]),
            input2=ImageDataset(sets[1]),
            fid=True,
            cuda=False,
            verbose=False,
            batch_size=50,
            feature_extractor_weights_path=str(tmp_path / "weights.pth"),
            feature_layer_fid=str(layer),
            cache=False,
        )["frechet_inception_distance"]
    extract = InceptionV3(layer).extract(CPU)
    fid = frechet_distance(*(collect(images.split(50), extract, features=False).statistics for images in sets))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{' against '.join(pair)}, {count} of each, {layer} features: wgan-sweep {fid:.5f}, "
            f"torch-fidelity {expected:.5f}, difference {fid - expected:+.1e}\n"
        )
    assert fid == pytest.approx(expected, abs=1e-3)


class ImageDataset(torch.utils.data.Dataset):
    """Images in the form that torch-fidelity accepts."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_kid_is_the_unbiased_mmd() -> None:
    """Each subset contains all features, so all subsets are equal."""
    first, second = gaussian(12, 5, 0), gaussian(12, 5, 1, 0.5)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 5 + 1) ** 3

    def mean(left: Tensor, right: Tensor, *, same: bool) -> float:
        values = [kernel(x, y) for i, x in enumerate(left) for j, y in enumerate(right) if not (same and i == j)]
        return sum(values) / len(values)

    expected = mean(first, first, same=True) + mean(second, second, same=True) - 2 * mean(first, second, same=False)
    values = values_of(KID(subsets=3, subset_size=12), first, second)
    assert values["kid"] == pytest.approx(expected, rel=1e-4)
    assert values["kid_sd"] == pytest.approx(0, abs=1e-5)


def test_kid_of_equal_distributions_is_zero_on_average() -> None:
    values = [
        values_of(KID(subsets=5, subset_size=50), gaussian(50, 8, 2 * i), gaussian(50, 8, 2 * i + 1))["kid"]
        for i in range(20)
    ]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(20)


def test_precision_and_recall_match_brute_force() -> None:
    real, fake = gaussian(60, 3, 0), gaussian(50, 3, 1, 0.8)

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = [sorted(float((x - y).norm()) for y in centres)[3] for x in centres]
        is_covered = [any(float((p - x).norm()) <= r for x, r in zip(centres, radii, strict=True)) for p in points]
        return sum(is_covered) / len(points)

    values = values_of(PrecisionRecall(3), real, fake)
    assert values["precision"] == pytest.approx(covered(fake, real))
    assert values["recall"] == pytest.approx(covered(real, fake))
    assert values["precision"] != values["recall"]


def test_the_inception_score_ranges_from_one_to_the_number_of_classes() -> None:
    uniform, certain = torch.zeros(100, 7), 1e3 * torch.eye(5).repeat(20, 1)
    metric = InceptionScore(splits=1)
    for logits, expected in ((uniform, 1), (certain, 5)):
        metric.reset()
        metric.update(logits)
        assert float(metric.compute()["inception_score"]) == pytest.approx(expected)


def test_extrapolated_fid_is_the_distance_of_the_distributions() -> None:
    """The Gaussians have distance 1: FID_N is biased upwards, the extrapolated FID is not."""
    real = statistics_of(gaussian(100000, 16, 0))
    rows = []
    for seed in range(1, 9):
        fake = gaussian(2000, 16, seed, 0.25)
        values = values_of(FIDInfinity(), real, fake)
        rows.append((values["fid_infinity"], values_of(FID(), real, statistics_of(fake))["fid"]))
    extrapolated, fid = np.mean(rows, 0)
    assert fid > 1.02 + extrapolated - 1
    assert extrapolated == pytest.approx(1.0, abs=0.03)


def test_twenty_images_for_each_feature_are_near_the_line_and_ten_are_not(monkeypatch) -> None:
    """The Gaussians differ by their means only: of all FIDs of 0.66, this one bends early."""
    monkeypatch.setattr(fid_infinity, "PER_DIMENSION", 0)
    real = Statistics(torch.zeros(64).double(), torch.eye(64).double(), 10**6)
    draw = torch.Generator().manual_seed(1)
    means = []
    for count in (640, 1280):
        samples = [torch.randn(count, 64, generator=draw) + (0.66 / 64) ** 0.5 for _ in range(8)]
        means.append(np.mean([values_of(FIDInfinity(), real, sample)["fid_infinity"] for sample in samples]))
    assert means[0] == pytest.approx(0.13, abs=0.1)
    assert means[1] == pytest.approx(0.57, abs=0.1)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("count", "dim", "gap", "ratio"), [(400, 16, 1, 1.0), (1500, 16, 1, 1.0), (1280, 64, 1, 1.0), (1500, 16, 0, 0.75)]
)
def test_the_error_of_the_extrapolated_fid_is_its_spread_over_independent_samples(
    count: int, dim: int, gap: int, ratio: float
) -> None:
    """Correlated Gaussians with different means and covariances, or the same; 60 samples have a spread to about 9 %."""
    draw = torch.Generator().manual_seed(3)
    scales = torch.logspace(0, -1.5, dim)
    turn = torch.linalg.matrix_exp(0.3 * torch.randn(dim, dim, generator=draw).triu(1) / dim**0.5)
    turn = torch.linalg.qr(turn)[0]
    real = Statistics(torch.zeros(dim).double(), scales.square().diag().double(), 10**6)
    values, errors = [], []
    for _ in range(60):
        fake = torch.randn(count, dim, generator=draw) * scales
        if gap:
            fake = 1.2 * fake @ turn + 0.5 * scales
        result = values_of(FIDInfinity(), real, fake)
        values.append(result["fid_infinity"])
        errors.append(result["fid_infinity_error"])
    assert np.mean(errors) == pytest.approx(ratio * np.std(values, ddof=1), rel=0.3)
    assert np.std(errors) < (0.25 if gap else 0.4) * np.mean(errors)


def test_the_extrapolated_fid_needs_twenty_images_for_each_feature(mnist) -> None:
    FIDInfinity().check(10240, 1000, 512)
    message = "needs 10240 generated images or more with 512 features, 20 for each, got 10239"
    with pytest.raises(InputError, match=message):
        FIDInfinity().check(10239, 1000, 512)
    with pytest.raises(InputError, match="needs 320 generated images or more with 16 features"):
        values_of(FIDInfinity(), gaussian(500, 16, 0), gaussian(319, 16, 1))
    space = Pixels()
    space.dimensions = 40
    with pytest.raises(InputError, match="needs 800 generated images"):  # before anything is generated
        image_scorer(mnist[:99], metrics={"x": FIDInfinity()}, features=space, num_samples=799)


def test_memorisation_distinguishes_copies_from_new_samples() -> None:
    real = gaussian(2000, 4, 0)
    copies = values_of(Memorisation(), real, real[:300].clone())
    new = values_of(Memorisation(), real, gaussian(1000, 4, 1))
    assert copies == {"nearest_real": 0, "copied": 1}
    assert new["nearest_real"] == pytest.approx(1, abs=0.1)
    assert new["copied"] == pytest.approx(0.01, abs=0.012)


@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize("twins", ["pairs", "one image many times"])
def test_memorisation_counts_real_images_that_are_the_same_once(twins: str, offset: float) -> None:
    """Also where features are large, so that distances computed by matrix products are only rounding."""
    real, new = gaussian(2000, 16, 0) + offset, gaussian(2000, 16, 1) + offset
    same = real[:50] if twins == "pairs" else real[:1].expand(300, -1)
    with_twins = torch.cat([real, same * (1 + 1e-6)])
    assert values_of(Memorisation(), with_twins, with_twins[-400:].clone())["copied"] == 1
    alone = values_of(Memorisation(), real, new)
    assert values_of(Memorisation(), with_twins, new) == pytest.approx(alone, rel=1e-3)
    assert 0.003 < alone["copied"] < 0.025
    assert alone["nearest_real"] == pytest.approx(1, abs=0.03)


def test_images_whose_features_are_all_0_are_the_same() -> None:
    """As those of dead units may be: their norm, to which distances are compared, is 0."""
    others, zeros = gaussian(40, 4, 0), torch.zeros(3, 4)
    once = distances_between_distinct(torch.cat([others, zeros[:1]]))
    assert torch.equal(distances_between_distinct(torch.cat([others, zeros])), once)
    assert len(once) == 41
    assert float(once.min()) > 0


def test_copies_are_nearer_than_a_percent_of_the_real_images_are_to_each_other() -> None:
    """On a line, with gaps 1, 1, 2, 3, ..., 100: the first percentile of the nearest gaps lies between 1 and 2."""
    real = torch.tensor([0.0, *range(1, 101)]).cumsum(0)[:, None]
    for distance, copied in ((0.9, 1.0), (2.1, 0.0)):
        generated = real[60:100] + distance  # their neighbours are further away than 50
        values = values_of(Memorisation(), real, generated)
        assert values["copied"] == copied
        gaps = sorted([1.0, *range(1, 100), 100.0])
        assert values["nearest_real"] == pytest.approx(distance / gaps[len(gaps) // 2], rel=1e-3)


def test_memorisation_of_real_images_that_are_all_the_same_is_refused() -> None:
    with pytest.raises(InputError, match="all the same"):
        values_of(Memorisation(), torch.ones(30, 3), gaussian(30, 3, 0))


@pytest.mark.parametrize(
    ("metric", "generated", "real", "words"),
    [
        (KID(), 999, 5000, "999 generated"),
        (KID(subset_size=10), 100, 9, "9 real"),
        (FIDInfinity(), 99, 1000, "needs 100 generated images or more, got 99"),
        (PrecisionRecall(3), 3, 10, "more than 3"),
        (InceptionScore(), 9, 10, "got 9"),
        (Memorisation(), 10, 1, "2 real"),
    ],
)
def test_too_few_images_are_refused(metric, generated: int, real: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metric.check(generated, real)


@pytest.mark.parametrize("metric", [KID, PrecisionRecall, Memorisation])
def test_a_metric_refuses_statistics_if_it_needs_images(metric: type[TwoSidedMetric]) -> None:
    for real in (True, False):
        with pytest.raises(InputError, match="give the images"):
            metric().update(statistics_of(gaussian(20, 3, 0)), real=real)


def test_statistics_replace_images() -> None:
    real, fake = gaussian(200, 3, 0), gaussian(300, 3, 1, 0.5)
    expected = frechet_distance(statistics_of(real), statistics_of(fake))
    assert values_of(FID(), statistics_of(real), statistics_of(fake))["fid"] == expected
    metric = FID()
    assert values_of(metric, statistics_of(real), fake)["fid"] == expected
    with pytest.raises(ValueError, match="statistics of the real images already"):
        metric.update(real, real=True)
    metric.reset()
    metric.update(fake[:100], real=False)
    assert float(metric.compute()["fid"]) == frechet_distance(statistics_of(real), statistics_of(fake[:100]))


@pytest.mark.parametrize(
    ("metric", "setting", "value"),
    [
        ("KID", "subsets", 0),
        ("KID", "subset_size", 1),
        ("FIDInfinity", "points", 2),
        ("PrecisionRecall", "neighbours", 0),
        ("InceptionScore", "splits", 0),
    ],
)
def test_settings_out_of_range_are_refused(metric: str, setting: str, value: int) -> None:
    node = {"_target_": f"wgan_sweep.scoring.metrics.{metric}"}
    objects.make({**node, setting: value + 1}, "scorer.metrics.x")
    with pytest.raises(InputError, match=rf"scorer\.metrics\.x\.{setting} must be {value + 1} or more .*, got {value}"):
        objects.make({**node, setting: value}, "scorer.metrics.x")


class Pixels:
    """A feature space without a network: 4 pixels. Logs the size of each batch to a file."""

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
    pixels, position = torch.from_numpy(images).permute(0, 3, 1, 2), 0

    def sample(count: int) -> Tensor:
        nonlocal position
        position += count
        return pixels[position - count : position]

    return sample


def test_repeats_use_new_samples_and_report_mean_and_sd(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    single = [image_scorer(mnist[:99])(stream(mnist[100 + 20 * i :]))["fid"] for i in range(3)]
    scores = image_scorer(mnist[:99], repeats=3)(stream(mnist[100:]))
    assert len(set(single)) == 3
    assert scores["fid"] == pytest.approx(np.mean(single))
    assert scores["fid_repeat_sd"] == pytest.approx(np.std(single, ddof=1))
    assert (scores["repeats"], scores["fid_generated"], scores["fid_real"], scores["fid_feature"]) == (3, 20, 99, 4)


@pytest.mark.parametrize("metric", [FID(), KID(subset_size=50), PrecisionRecall(), FIDInfinity(), Memorisation()])
def test_a_metric_says_what_its_values_are(metric: TwoSidedMetric) -> None:
    assert set(metric.names) == values_of(metric, gaussian(150, 3, 0), gaussian(150, 3, 1)).keys()


def test_the_inception_score_says_what_its_values_are() -> None:
    metric = InceptionScore()
    metric.update(gaussian(150, 10, 0))
    assert set(metric.names) == metric.compute().keys()


def test_a_scorer_measures_what_its_metrics_say_if_all_say_it(mnist) -> None:
    class Silent(FID):
        names = ()

    assert image_scorer(mnist[:99], metrics={"a": FID(), "b": PrecisionRecall()}).measures == {
        "fid",
        "precision",
        "recall",
    }
    assert image_scorer(mnist[:99], metrics={"a": FID(), "b": Silent()}).measures is None


def test_a_scorer_describes_the_settings_its_values_depend_on(mnist) -> None:
    description = image_scorer(mnist[:99], num_real=50, split="test", repeats=2).describe()
    assert description == {
        "features": "pixels",
        "network": "none",
        "resize": "none",
        "real": "test, 50 of 99",
        "generated": "20, 2 times",
    }


def test_real_features_are_computed_only_if_a_metric_needs_them(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "log"
    for metric in ({"fid": FID()}, {"fid": FID(), "prc": PrecisionRecall(3)}, {"prc": PrecisionRecall(3)}):
        image_scorer(mnist[:40], metrics=metric, features=Pixels(log)).prepare()
    assert sum(map(int, log.read_text().split())) == 2 * 40  # once for the statistics, once more for the features


RACE = """
    import sys, time
    from pathlib import Path
    import numpy as np, torch
    from wgan_sweep.data import ImageSet
    from wgan_sweep.scoring.collect import real_features
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
    features = real_features(images, 60, Slow(Path(sys.argv[4])), torch.device("cpu"), 5, features=True)
    print(features.statistics.mean.sum().item(), features.statistics.count, features.features.shape[0])
"""


@pytest.mark.slow
def test_two_concurrent_processes_compute_statistics_once(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "images.npy", mnist[:60])
    ready = [str(tmp_path / "first"), str(tmp_path / "second")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RACE), str(tmp_path / "images.npy"), *order, str(tmp_path / "log")],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in (ready, ready[::-1])
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert outputs[0].split()[1:] == ["60", "60"]
    assert sum(map(int, (tmp_path / "log").read_text().split())) == 60


def test_logits_are_refused_if_the_weights_have_no_last_layer(network: weights.Weights) -> None:
    space = InceptionV3(2048)
    if network.file.has_logits:
        assert space.extract(CPU, logits=True)(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).logits is not None
    else:
        with pytest.raises(InputError, match=r"has no last layer: set features\.weights to torch-fidelity's release"):
            space.check(logits=True)


def test_the_released_file_gives_the_same_features_and_logits(network: weights.Weights, mnist, tmp_path) -> None:
    """The file has the format of the release, and a random last layer."""
    from dataclasses import replace

    state = extractor(network, ["2048"]).state_dict()
    state |= {name: torch.randn(state[name].shape) / 50 for name in ("fc.weight", "fc.bias")}
    torch.save(state, tmp_path / "release.pth")
    released = replace(network, path=tmp_path / "release.pth", file=weights.RELEASE)
    space = InceptionV3(2048)
    space.__dict__["_file"] = released
    images = torch.from_numpy(mnist[:3]).permute(0, 3, 1, 2)
    extracted = space.extract(CPU, logits=True)(images)
    expected = InceptionV3(2048).extract(CPU)(images).features
    torch.testing.assert_close(extracted.features, expected, rtol=1e-5, atol=1e-5)
    assert extracted.logits is not None
    torch.testing.assert_close(extracted.logits, extracted.features @ state["fc.weight"].T, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory) -> Path:
    """Weights of torchvision's VGG16, untrained."""
    import torchvision

    from wgan_sweep.common import rng

    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    with rng.seeded(0):
        torch.save(torchvision.models.vgg16(weights=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_another_feature_space_matches_torch_fidelity(vgg_file: Path, mnist) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    space = TorchFidelity("vgg16", "fc2_relu", str(vgg_file))
    images = torch.from_numpy(mnist[:2]).permute(0, 3, 1, 2)
    features = space.extract(CPU)(images).features
    reference = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(vgg_file))
    with torch.no_grad():
        torch.testing.assert_close(features, reference(images.expand(-1, 3, -1, -1))[0], rtol=1e-4, atol=1e-5)
    assert features.shape == (2, 4096)
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
def test_an_unknown_extractor_layer_or_file_is_refused(name: str, layer: str, file: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TorchFidelity(name, layer, file)


def test_unavailable_weights_are_refused_with_the_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(InputError, match=r"features\.weights.*features=inception"):
        TorchFidelity("vgg16", "fc2_relu").check(logits=False)


def test_scoring_does_not_change_training_bitwise(make, mnist, tmp_path, monkeypatch) -> None:
    """A trainer that is scored continues like one that is not; BatchNorm's statistics and modes are included."""
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    scored, unscored = build(make("model=dcgan")).trainer, build(make("model=dcgan")).trainer
    scorer = image_scorer(np.pad(mnist[:40], ((0, 0), (2, 2), (2, 2), (0, 0))), metrics={"prc": PrecisionRecall(3)})
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for _ in zip(scored.steps(4), unscored.steps(4), strict=True):
        modes = [
            module.training for net in (scored.generator, scored.critic, scored.averaged) for module in net.modules()
        ]
        scorer(scored.sampler("score"), scored)
        assert modes == [
            module.training for net in (scored.generator, scored.critic, scored.averaged) for module in net.modules()
        ]
        assert torch.equal(torch.get_rng_state(), state)
    for name in ("generator", "critic", "averaged"):
        expected = getattr(unscored, name).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in getattr(scored, name).state_dict().items())
    streams, expected = scored.state_dict()["streams"], unscored.state_dict()["streams"]
    assert all(torch.equal(value, expected[key]) for key, value in streams.items())


def test_batches_that_do_not_fit_into_memory_are_split(mnist) -> None:
    images = torch.from_numpy(mnist[:13]).permute(0, 3, 1, 2)
    sizes = []

    def small_memory(batch: Tensor) -> Extracted:
        if len(batch) > 4:
            raise torch.OutOfMemoryError
        sizes.append(len(batch))
        return Extracted(batch.float().flatten(1)[:, 300:304], batch.float().flatten(1)[:, 310:313])

    logits: list[Tensor] = []
    collected = collect(
        [images], small_memory, features=True, each=lambda _, __, extracted: logits.append(extracted.logits)
    )
    assert sizes == [4, 3, 3, 3]
    assert collected.features is not None
    assert torch.equal(collected.features, images.float().flatten(1)[:, 300:304])
    assert [part.shape for part in logits] == [(13, 3)]

    def no_memory(batch: Tensor) -> Extracted:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        collect([images], no_memory, features=False)


def test_collecting_without_features_keeps_statistics_only(mnist) -> None:
    images = torch.from_numpy(mnist[:100]).permute(0, 3, 1, 2)
    collected = collect((images for _ in range(50)), Pixels().extract(CPU), features=False)
    assert collected.features is None
    assert collected.statistics.count == 5000
    assert collected.statistics.covariance.shape == (4, 4)
