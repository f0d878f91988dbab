"""Metrics as torchmetrics' metrics: any of them can be scored, and ours can be used without a scorer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, MinMaxMetric
from torchmetrics.image import TotalVariation
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from wgan_sweep.config import objects
from wgan_sweep.config.targets import check_untrusted
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.frechet import add_to_moments, merge_moments, no_moments, statistics_from
from wgan_sweep.scoring.metrics import (
    FID,
    KID,
    MIFID,
    FIDInfinity,
    InceptionScore,
    Memorisation,
    PairSSIM,
    PrecisionRecall,
)
from wgan_sweep.scoring.metrics.mifid import memorisation_distance
from wgan_sweep.scoring.shared_network import SharedNetwork
from wgan_sweep.training.followers import with_followers
from wgan_sweep.training.replicas import Replicas

from .test_metrics import CPU, Pixels, gaussian, image_scorer, stream, values_of


@pytest.fixture
def scored(mnist: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that scores 60 generated images against 99 real ones, in batches of 6, by metrics."""
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))

    def score(**metrics: Metric) -> dict[str, float]:
        return image_scorer(mnist[:99], metrics=metrics, num_samples=60)(stream(mnist[100:]))

    return score


def as_batches(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


class Counting(Metric):
    """Counts images, and the calls of `update`; it keeps the real images if asked to."""

    full_state_update = False

    def __init__(self, keeps_real: bool) -> None:
        super().__init__()
        if keeps_real:
            self.reset_real_features = True
        self.real, self.calls = 0, [0, 0]
        self.add_state("generated", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor, real: bool) -> None:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 28, 28)
        self.calls[real] += 1
        if real:
            self.real += len(images)
        else:
            self.generated += len(images)

    def reset(self) -> None:
        super().reset()
        if getattr(self, "reset_real_features", True):
            self.real = 0

    def compute(self) -> dict[str, float]:
        return {"real": self.real, "generated": int(self.generated)}


# Other metrics.


@pytest.mark.parametrize(("keeps_real", "updates"), [(True, 17), (False, 34)])
def test_a_metric_of_images_gets_all_of_them_as_rgb(mnist, keeps_real: bool, updates: int) -> None:
    metric = Counting(keeps_real)
    scorer = image_scorer(mnist[:99], metrics={"x": metric}, num_samples=60)
    for _ in range(2):
        scores = scorer(stream(mnist[100:]))
        assert scores == {"x_real": 99, "x_generated": 60, "fid_generated": 60, "fid_real": 99}
    assert metric.calls == [20, updates]


def test_torchmetrics_fid_on_the_shared_network_is_ours(scored) -> None:
    network = SharedNetwork(Pixels())
    assert network.num_features == 4
    values = scored(fid=FID(), other=FrechetInceptionDistance(feature=network))
    assert values["other"] == pytest.approx(values["fid"], rel=1e-4)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all extracted features")
def test_a_pair_is_a_mean_and_its_sd_and_random_numbers_are_isolated(scored) -> None:
    def values_of_both() -> dict[str, float]:
        theirs = KernelInceptionDistance(feature=SharedNetwork(Pixels()), subsets=3, subset_size=50)
        return scored(theirs=theirs, ours=KID(subsets=3, subset_size=50))

    torch.manual_seed(3)
    before = torch.get_rng_state()
    values = values_of_both()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert values == values_of_both()
    assert values["theirs_sd"] > 0
    assert values["theirs"] == pytest.approx(values["kid"], abs=3 * (values["theirs_sd"] + values["kid_sd"]))


def test_a_metric_without_real_images_gets_the_generated_ones(scored, mnist) -> None:
    expected = TotalVariation(reduction="mean")
    expected.update(as_batches(mnist[100:160]))
    assert scored(tv=TotalVariation(reduction="mean"))["tv"] == pytest.approx(float(expected.compute()), rel=1e-6)


class Returns(Metric):
    full_state_update = False

    def __init__(self, result: object, consumes: str = "images") -> None:
        super().__init__()
        self.result, self.consumes = result, consumes

    def update(self, images: Tensor) -> None:
        """Do nothing."""

    def compute(self) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Returns(torch.zeros(3)), "the metric x returns a Tensor as x: a metric returns a number"),
        (Returns("text"), "the metric x returns a str as x"),
        (Returns(ValueError("too\nfew")), "the metric x cannot be computed: too few"),
        (Returns(1.0, consumes="audio"), "the metric x consumes 'audio': choose one of features, logits, images"),
        (len, "the metric x is a builtin_function_or_method: a metric is a torchmetrics.Metric"),
    ],
)
def test_what_cannot_be_scored_is_refused(scored, metric: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(x=metric)


def test_a_value_that_is_not_finite_is_left_out_with_a_warning(scored, caplog) -> None:
    values = scored(x=Returns((torch.tensor(2.0), torch.tensor(torch.nan))))
    assert values == {"x": 2.0, "fid_generated": 60, "fid_real": 99}
    assert "x_sd=nan" in caplog.text


@pytest.mark.parametrize("name", ["torchmetrics.image.TotalVariation", "torchmetrics.MeanMetric"])
def test_metrics_of_torchmetrics_may_be_named_but_not_by_a_run_directory(name: str) -> None:
    objects.make({"_target_": name}, "scorer.metrics.x")
    with pytest.raises(InputError, match="which is not part of wgan-sweep"):
        check_untrusted({"scorer": {"_target_": name}}, "the run")
    check_untrusted({"scorer": {"_target_": name}}, "the run", [name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchmetrics.functional.image.total_variation", "is not an option"),
        ("torchmetrics.image.fid.NoTrainInceptionV3", "belongs to torchmetrics"),
        ("torchmetrics.MetricCollection", "belongs to torchmetrics"),
        ("torchmetrics.image.fid.Module", "belongs to torch"),
    ],
)
def test_nothing_else_of_torchmetrics_may_be_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        objects.target_of({"_target_": name}, "scorer.metrics.x")


# Our metrics without a scorer.


def two_sided() -> list[Metric]:
    return [FID(), KID(subsets=5, subset_size=100), PrecisionRecall(), Memorisation(), FIDInfinity(), MIFID()]


def test_metrics_can_be_collected_and_used_again_with_the_same_real_images() -> None:
    real, first, second = gaussian(300, 8, 0), gaussian(200, 8, 1, 0.2), gaussian(250, 8, 2, 0.4)
    collection = MetricCollection(two_sided())
    for part in real.split(70):
        collection.update(part, real=True)
    for generated in (first, second):
        for part in generated.split(30):
            collection.update(part, real=False)
        values = {name: float(value) for name, value in collection.compute().items()}
        alone = {}
        for metric in two_sided():
            alone |= values_of(metric, real, generated)
        assert values == pytest.approx(alone, rel=1e-9)
        collection.reset()


def test_the_real_images_are_forgotten_on_request() -> None:
    metric = FID()
    values_of(metric, gaussian(50, 3, 0), gaussian(50, 3, 1))
    metric.reset_real_features = True
    metric.reset()
    metric.update(gaussian(50, 3, 1), real=False)
    with pytest.raises(ValueError, match="got 0"):
        metric.compute()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_merged_moments_are_those_of_all_features(offset: float) -> None:
    features = (gaussian(90, 5, 0) * torch.arange(1, 6)).double() + offset
    parts = []
    for part in (features[:7], features[7:7], features[7:40], features[40:]):
        moments = no_moments()
        for batch in part.split(9) or (part,):
            moments = add_to_moments(moments, batch)
        parts.append(moments)
    merged = statistics_from(merge_moments(torch.stack(parts)))
    assert merged.count == 90
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, torch.cov(features.T), rtol=1e-9)


class Shards:
    """Features of real and generated images, and what each of two processes sees of them."""

    real, generated = gaussian(301, 6, 0), gaussian(400, 6, 1, 0.3)

    def of(self, rank: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Rank 1 has no real images."""
        real = self.real.split(50) if rank == 0 else self.real[:0].split(50)
        return real, self.generated[:200].split(40) if rank == 0 else self.generated[200:].split(40)


def update_and_compute(replicas: Replicas) -> list[dict[str, Tensor]]:
    results = []
    for metric in (*two_sided(), InceptionScore()):
        real, generated = Shards().of(replicas.rank)
        for sides in (real, generated):
            for part in sides:
                if isinstance(metric, InceptionScore):
                    if sides is generated:
                        metric.update(part)
                else:
                    metric.update(part, real=sides is real)
        results.append(metric.compute())
    return results


def foreign() -> dict[str, Metric]:
    """One of ours, and one of torchmetrics that wraps another one."""
    return {"fid": FID(), "tv": MinMaxMetric(TotalVariation(reduction="mean"))}


def follow(replicas: Replicas) -> None:
    update_and_compute(replicas)


@pytest.mark.integration
def test_two_processes_compute_the_values_of_one(mnist, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    with with_followers(2, CPU, follow):
        together = update_and_compute(Replicas(0, 2))
        scorer = image_scorer(mnist[:99], metrics=foreign())
        scores = scorer(stream(mnist[100:]))  # the leader alone, without the other process
    assert not scorer.is_shared_by(2)
    assert scores == image_scorer(mnist[:99], metrics=foreign())(stream(mnist[100:]))
    shards = Shards()
    inception_score = InceptionScore()
    inception_score.update(shards.generated)
    alone = [values_of(metric, shards.real, shards.generated) for metric in two_sided()]
    alone.append({name: float(value) for name, value in inception_score.compute().items()})
    for pair, single in zip(together, alone, strict=True):
        of_moments = single.keys() <= {"fid", "fid_infinity", "fid_infinity_error"}  # sums are rounded in another order
        expected = pytest.approx(single, rel=1e-9) if of_moments else single
        assert {name: float(value) for name, value in pair.items()} == expected


# Metrics of their own.


@pytest.mark.parametrize(
    ("batch", "processes", "is_shared"), [(6, 1, False), (6, 4, True), (6, 5, False), (20, 2, False)]
)
def test_processes_score_together_if_each_gets_a_batch(mnist, batch: int, processes: int, is_shared: bool) -> None:
    scorer = image_scorer(mnist[:99], num_samples=20, batch_size=batch)
    assert scorer.is_shared_by(processes) == is_shared


def test_mifid_is_that_of_torchmetrics_with_the_roles_exchanged() -> None:
    """torchmetrics averages over the real images; Bai et al. average over the generated ones. FID is symmetric."""
    real, generated = gaussian(300, 8, 0).abs() + 0.1, gaussian(200, 8, 1).abs() + 0.2
    theirs = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    theirs.update(generated, real=True)
    theirs.update(real, real=False)
    ours = values_of(MIFID(), real, generated)["mifid"]
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert ours > 2 * values_of(FID(), real, generated)["fid"]


def test_the_distance_of_mifid_has_a_closed_form_and_the_threshold_turns_it_off() -> None:
    angles = torch.tensor([0.0, 0.5, 2.0])
    real = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [3.0], [20.0]])
    turned = angles + torch.tensor([1e-5, 0.1, torch.pi])  # the last one: the opposite direction
    generated = torch.stack([turned.cos(), turned.sin()], 1) * 7
    expected = np.mean([1 - np.cos(1e-5), 1 - np.cos(0.1), 0])
    assert memorisation_distance(torch.cat([generated, torch.zeros(4, 2)]), real) == pytest.approx(expected, rel=1e-3)
    fid = values_of(FID(), real, generated)["fid"]
    assert values_of(MIFID(threshold=0.01), real, generated)["mifid"] == pytest.approx(fid / expected, rel=1e-3)
    assert values_of(MIFID(threshold=0.001), real, generated)["mifid"] == pytest.approx(fid, rel=1e-9)


def test_mifid_of_copies_is_high_even_if_they_are_few() -> None:
    real = gaussian(2000, 8, 0)
    copies, new = real[:20].repeat(20, 1), gaussian(400, 8, 1)
    assert values_of(MIFID(), real, copies)["mifid"] > 1e6 * values_of(MIFID(), real, new)["mifid"]


def test_pair_ssim_of_constant_images_has_a_closed_form() -> None:
    dark, light = (torch.full((1, 3, 16, 16), value, dtype=torch.uint8) for value in (50, 100))
    constant = (0.01 * 255) ** 2
    expected = (2 * 50 * 100 + constant) / (50**2 + 100**2 + constant)
    values = values_of(PairSSIM(pairs=7), torch.cat([dark, light]), dark.expand(9, -1, -1, -1))
    assert values["pair_ssim_real"] == pytest.approx(expected, rel=1e-4)
    assert values["pair_ssim"] == pytest.approx(1, abs=1e-6)


def test_pair_ssim_does_not_depend_on_batches_and_sees_fewer_kinds_of_images(mnist) -> None:
    images = as_batches(mnist)
    ones = images[1:3000:10]
    metric = PairSSIM(pairs=300)
    values = values_of(metric, images[:300], ones)
    metric.reset()
    for part in ones.split(7):
        metric.update(part, real=False)
    assert {name: float(value) for name, value in metric.compute().items()} == values
    assert values["pair_ssim"] > 1.3 * values["pair_ssim_real"]


@pytest.mark.parametrize(("sizes", "message"), [((8,), "11 x 11 pixels or more"), ((16, 20), "images of one size")])
def test_images_that_pair_ssim_cannot_compare_are_refused(sizes: tuple[int, ...], message: str) -> None:
    metric = PairSSIM()
    with pytest.raises(InputError, match=message):
        for size in sizes:
            metric.update(torch.zeros(2, 3, size, size, dtype=torch.uint8), real=False)
