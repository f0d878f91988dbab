"""Values of metrics by different implementations, on the same features of real images."""

import math
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import scipy.linalg
import scipy.spatial
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore as TorchmetricsInceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from wgan_sweep.common import rng
from wgan_sweep.data import Mnist5k
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.metrics import FID, KID, MIFID, InceptionScore, PrecisionRecall
from wgan_sweep.scoring.metrics.mifid import SMALLEST_DISTANCE

Points = NDArray[np.float64]
NOISE_SD = 30.0
"""Standard deviation of the noise on the images of the second pair, in grey levels."""
CLASSES = 100
"""Number of logits."""
NEIGHBOURS = 3
THRESHOLD = 0.1

Row = tuple[str, dict[str, float]]
"""The name of a value, and the value by each implementation that has it."""


def image_pairs(count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return pairs of sets of MNIST images, uint8 ``[count, 1, 28, 28]``: two halves, with and without noise."""
    images = torch.from_numpy(Mnist5k(28).load().array).permute(0, 3, 1, 2)
    draw = torch.Generator().manual_seed(0)
    first, second = images[torch.randperm(len(images), generator=draw)[: 2 * count]].split(count)
    noise = NOISE_SD * torch.randn(second.shape, generator=draw)
    noisy = (second + noise).round().clamp(0, 255).to(torch.uint8)
    return {"two halves": (first, second), "two halves, one with noise": (first, noisy)}


def compare_metrics(count: int, layer: int, device: torch.device) -> Iterator[tuple[str, list[Row]]]:
    """Yield the values of metrics on each pair of image sets, by name of the pair.

    The values are those of the whole sets: KID has one subset, and the Inception Score one split. As the public weights
    file without download has no logits, random projections of the features stand for them.

    Args:
        count: Images per set.
        layer: Number of features, which names InceptionV3's layer.
        device: Where features are extracted.
    """
    extract = InceptionV3(layer).extract(device)
    known: dict[int, Tensor] = {}
    for name, pair in image_pairs(count).items():
        for images in pair:
            if id(images) not in known:
                parts = [extract(part).features.cpu() for part in images.split(50)]
                known[id(images)] = torch.cat(parts)
        yield name, compare_features(*(known[id(images)] for images in pair))


def compare_features(real: Tensor, generated: Tensor) -> list[Row]:
    """Return the values of metrics between real and generated features ``[N, D]`` of equally many images."""
    with rng.seeded(0, "logits"):
        logits = generated @ torch.randn(generated.shape[1], CLASSES) / math.sqrt(generated.shape[1])
    values = {
        "wgan-sweep": _ours(real, generated, logits),
        "torchmetrics": _by_torchmetrics(real, generated, logits),
        "torch-fidelity": _by_torch_fidelity(real, generated, logits),
        "SciPy": _by_scipy(real.double().numpy(), generated.double().numpy(), logits.double().numpy()),
    }
    names = values["wgan-sweep"]
    return [(name, {by: found[name] for by, found in values.items() if name in found}) for name in names]


def _ours(real: Tensor, generated: Tensor, logits: Tensor) -> dict[str, float]:
    values: dict[str, float] = {}
    metrics = (FID(), KID(subsets=1, subset_size=len(real)), PrecisionRecall(NEIGHBOURS), MIFID(THRESHOLD))
    for metric in metrics:
        metric.update(real, real=True)
        metric.update(generated, real=False)
        values |= {name: float(value) for name, value in metric.compute().items()}
    inception_score = InceptionScore(splits=1)
    inception_score.update(logits)
    values["inception_score"] = float(inception_score.compute()["inception_score"])
    del values["kid_sd"]  # of one subset
    return values


def _by_torchmetrics(real: Tensor, generated: Tensor, logits: Tensor) -> dict[str, float]:
    feature = nn.Identity()
    feature.num_features = torch.tensor(real.shape[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features", UserWarning)
        metrics: Mapping[str, Metric] = {
            "fid": FrechetInceptionDistance(feature=feature),
            "kid": KernelInceptionDistance(feature=feature, subsets=1, subset_size=len(real)),
            "mifid": MemorizationInformedFrechetInceptionDistance(feature=feature, cosine_distance_eps=THRESHOLD),
        }
        inception_score = TorchmetricsInceptionScore(feature=feature, splits=1)
        values = {}
        with rng.seeded(0, "torchmetrics"):
            for name, metric in metrics.items():
                metric.update(real, real=True)
                metric.update(generated, real=False)
                value = metric.compute()
                values[name] = float(value[0] if name == "kid" else value)
            inception_score.update(logits)
            warnings.filterwarnings("ignore", r"std\(\): degrees of freedom", UserWarning)  # of one split
            return {**values, "inception_score": float(inception_score.compute()[0])}


def _by_torch_fidelity(real: Tensor, generated: Tensor, logits: Tensor) -> dict[str, float]:
    statistics = [fid_features_to_statistics(features) for features in (real, generated)]
    neighbours = prc_features_to_metric(
        generated, real, prc_neighborhood=NEIGHBOURS, prc_batch_size=5000, save_cpu_ram=True, verbose=False
    )
    kid = kid_features_to_metric(generated, real, kid_subsets=1, kid_subset_size=len(real), verbose=False)
    return {
        "fid": float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]),
        "kid": float(kid["kernel_inception_distance_mean"]),
        "precision": float(neighbours["precision"]),
        "recall": float(neighbours["recall"]),
        "inception_score": float(isc_features_to_metric(logits, 1)["inception_score_mean"]),
    }


def _by_scipy(real: Points, generated: Points, logits: Points) -> dict[str, float]:
    """Compute the definitions directly, in float64."""
    covariances = [np.cov(features, rowvar=False) for features in (real, generated)]
    roots = scipy.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    gap = np.square(real.mean(0) - generated.mean(0)).sum()
    fid = gap + sum(np.trace(covariance) for covariance in covariances) - 2 * np.sqrt(roots).sum()
    angles = 1 - np.abs(1 - scipy.spatial.distance.cdist(generated, real, "cosine"))
    distance = angles.min(1).mean()
    predicted = scipy.special.softmax(logits, axis=1)
    divergence = scipy.special.rel_entr(predicted, predicted.mean(0)).sum(1).mean()
    return {
        "fid": float(fid),
        "kid": _kid(real, generated),
        "precision": _covered(generated, real),
        "recall": _covered(real, generated),
        "mifid": float(fid / (distance + SMALLEST_DISTANCE) if distance < THRESHOLD else fid),
        "inception_score": float(np.exp(divergence)),
    }


def _kid(real: Points, generated: Points) -> float:
    def kernel(x: Points, y: Points) -> Points:
        values: Points = (x @ y.T / x.shape[1] + 1) ** 3
        return values

    count = len(real)
    within = sum(kernel(x, x).sum() - np.trace(kernel(x, x)) for x in (real, generated)) / (count * (count - 1))
    return float(within - 2 * kernel(real, generated).mean())


def _covered(points: Points, centres: Points) -> float:
    """Return the share of points in a ball around a centre that reaches to its third nearest neighbour."""
    distances = np.sort(scipy.spatial.distance.cdist(centres, centres), axis=1)
    return float((scipy.spatial.distance.cdist(points, centres) <= distances[:, NEIGHBOURS]).any(1).mean())
