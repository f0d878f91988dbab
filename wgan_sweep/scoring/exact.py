"""Metrics between samples by optimal transport, and properties of the critic; for points also divergences and modes."""

import logging
import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.common.images import to_range
from wgan_sweep.common.ranges import LARGEST_INT, Count, Range
from wgan_sweep.data import ImageSet, Points
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.gradient_terms import input_gradient, per_example_norm
from wgan_sweep.objectives.sampling import Sampling
from wgan_sweep.scoring.collect import (
    FeatureSet,
    collect,
    image_batches,
    real_features,
    real_features_are_being_computed,
    reference_indices,
)
from wgan_sweep.scoring.divergences import NEIGHBOURS, jensen_shannon, kullback_leibler
from wgan_sweep.scoring.features import FeatureSpace
from wgan_sweep.scoring.players import Players
from wgan_sweep.scoring.potential import compare
from wgan_sweep.scoring.transport import (
    NotOptimalError,
    check_fits,
    mean_cost,
    potential_between,
    sinkhorn_divergence,
)

log = logging.getLogger("wgan_sweep")

HIGH_QUALITY_STDS = 3.0
"""A sample belongs to a mode if it is within this many standard deviations of its centre (Srivastava et al. 2017)."""
DISTANCES = ("w1", "w2", "sliced_w2")
"""Metrics of any samples."""
DIVERGENCES = ("js", "kl")
"""Metrics of points."""
MODES = ("modes", "high_quality")
"""Metrics of mixtures."""
QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of the critic's gradient norms."""
MAX_POTENTIAL_SAMPLES = 3000
"""Examples of each kind with which a potential takes minutes."""


class ExactScorer:
    """Distances between generated and real examples, and properties of the critic on them.

    Points are compared as they are, images as the critic sees them: as vectors of pixels in [-1, 1]. The distance is
    Euclidean. Images are compared in a feature space, too, if one is given.

    Args:
        real: The distribution of real points, or the real images.
        device: Device of the generator and of the feature network; everything else is computed on the CPU.
        num_samples: Number of generated examples, and of real ones: points that are drawn, the same in every run, or a
            fixed random choice of images (all of them, if there are fewer). Costs between all pairs are held in memory.
        projections: Random directions for the sliced Wasserstein distance.
        sampling: Sampling scheme r(x) at which the critic's gradient is measured.
        potential_samples: How many of these examples, generated and real, the Sinkhorn divergence and the Kantorovich
            potential are computed on; 0 leaves out both.
        sinkhorn: Regularisation of the Sinkhorn divergence, relative to the mean squared distance of real examples;
            null leaves it out.
        features: The feature space for images; null for none.
        batch_size: Images per forward pass of the feature network.

    Raises:
        InputError: for a feature space with points, or if costs do not fit in memory, the feature network's weights are
            unavailable, or the network cannot take the images.
    """

    def __init__(
        self,
        *,
        real: Points | ImageSet,
        device: torch.device,
        num_samples: Annotated[int, Range(NEIGHBOURS + 1, LARGEST_INT)],
        projections: Count,
        sampling: Sampling,
        potential_samples: Annotated[
            int,
            Range(0, MAX_POTENTIAL_SAMPLES, remedy="computing time grows with its cube; 0 leaves the potential out"),
        ] = 0,
        sinkhorn: Annotated[float, Range(above=0, remedy="null leaves it out")] | None = 0.05,
        features: FeatureSpace | None = None,
        batch_size: Count = 50,
    ) -> None:
        self._real = real
        self._device = device
        self._count = num_samples
        self._num_real = min(num_samples, len(real)) if isinstance(real, ImageSet) else num_samples
        self._projections = projections
        self._sampling = sampling
        self._num_potential = min(potential_samples, num_samples)
        self._sinkhorn = sinkhorn
        self._space = features
        self._batch_size = batch_size
        if real.shape != (1,):
            check_fits(f"scorer.num_samples={num_samples}", self._num_real, num_samples)
        sinkhorn_names = ("sinkhorn",) if potential_samples and sinkhorn else ()
        names = [*DISTANCES, *sinkhorn_names]
        if isinstance(real, Points):
            if features is not None:
                raise InputError("scorer.features is for images, this data is points: set it to null")
            names += [*DIVERGENCES, *(() if real.modes is None else MODES)]
        elif features is not None:
            if real.shape[0] not in (1, 3):
                raise InputError(
                    f"scorer.features is for grey or colour images, the data has {real.shape[0]} channels: use null"
                )
            features.check(logits=False)
            names += [f"features_{name}" for name in (*DISTANCES, *sinkhorn_names)]
        self.measures = frozenset(names)
        """The names of the metrics by which runs can be compared; `kl` and `sinkhorn` may lack a value."""

    def describe(self) -> dict[str, str]:
        """Return the settings that metric values depend on: the space, the counts and the regularisation."""
        described: dict[str, str] = {}
        if isinstance(self._real, ImageSet):
            described |= {
                "space": "pixels in [-1, 1]",
                "real": f"{self._num_real} of {len(self._real)}",
                "generated": str(self._count),
            }
        else:
            described["points"] = f"{self._count} of each kind"
        if self._num_potential:
            described["potential"] = f"{self._num_potential} generated, {min(self._num_potential, self._num_real)} real"
        if self._num_potential and self._sinkhorn is not None:
            described["sinkhorn"] = f"regularisation {self._sinkhorn:g} of the mean squared distance of real examples"
        if self._space is not None:
            described |= {
                "features": self._space.name,
                "network": self._space.network,
                "resize": self._space.resize,
            }
        return described

    def prepare(self) -> None:
        """Load or compute the features of the real images, if there is a feature space.

        If another process computes them, this one does not wait: it reads them when it scores.
        """
        if (
            isinstance(self._real, ImageSet)
            and self._space is not None
            and not real_features_are_being_computed(self._real, self._num_real, self._space)
        ):
            self._real_features(self._real, self._space)

    def __call__(self, sample: Callable[[int], Tensor], players: Players) -> dict[str, float]:
        """Return metric values by name.

        Of all examples:

        - ``w1``, ``w2``: exact Wasserstein distances between the two samples (by sorting in one dimension, otherwise
          by linear programming). ``sliced_w2``: sliced Wasserstein-2 distance over random directions. In the feature
          space ``features_w1``, ``features_w2``, ``features_sliced_w2``.
        - ``exact_samples``: number of generated examples. ``exact_real``: number of real images.

        Of points:

        - ``js``: Jensen-Shannon divergence (0 to ln 2). ``kl``: KL(real || generated); omitted if it is not finite.
          Both in nats, estimated by nearest neighbours (see `divergences`).
        - ``modes``: number of mixture components that have a sample nearby. ``high_quality``: share of samples near any
          component.
        - ``mean_0`` ...: mean of each coordinate of the generated points.
        - ``critic_slope_0`` ...: mean of each component of the critic's gradient on r(x).

        Of the players, on all points, or on the `potential_samples` first images:

        - ``eval_critic_loss``: the critic's loss, gradient terms included, evaluated on these examples. It differs from
          ``critic_loss`` of training, which is the loss on a training batch.
        - ``critic_gap``: E_real[T] - E_fake[T] on these examples.
        - ``critic_gradient_mean``, ``_max``, ``_q5`` ... ``_q95``: mean, maximum and percentiles of the norm of the
          critic's gradient on r(x).
        - ``generator_gradient``: norm of the gradient of the generator's loss.

        Of the `potential_samples` first examples:

        - ``sinkhorn``: Sinkhorn divergence (see `transport.sinkhorn_divergence`), in units of W2 squared; in the
          feature space ``features_sinkhorn``. ``sinkhorn_regularisation``, ``features_sinkhorn_regularisation``: the
          regularisation in the same units. Omitted if the algorithm did not converge, or all real examples coincide.
        - ``potential_correlation`` and further values that compare critic and Kantorovich potential: see
          `potential.compare`. ``potential_samples``, ``potential_real``: number of generated and of real examples.

        A distance is omitted, with a warning, if the solver did not prove that it is exact.

        Args:
            sample: Returns the next N generated points ``[N, D]``, or images, uint8 ``[N, C, H, W]``, on any device.
            players: Generator and critic.
        """
        real, generated, images = self._examples(sample)
        few_real, few_generated = real[: self._num_potential], generated[: self._num_potential]
        scores = {
            **self._sample_distances(real.flatten(1).double(), generated.flatten(1).double(), ""),
            **self._sinkhorn_metrics(few_real.flatten(1).double(), few_generated.flatten(1).double(), ""),
            "exact_samples": float(self._count),
        }
        if isinstance(self._real, Points):
            scores |= _divergences(real.double(), generated.double())
            scores |= _mode_metrics(self._real, generated.double())
            scores |= self._player_metrics(real, generated, players)
        else:
            scores["exact_real"] = float(self._num_real)
            if self._num_potential:
                pairs = min(len(few_real), len(few_generated))
                scores |= self._player_metrics(few_real[:pairs], few_generated[:pairs], players)
            if self._space is not None:
                scores |= self._feature_metrics(self._real, self._space, images)
        if self._num_potential:
            scores |= self._potential_metrics(few_real, few_generated, players, scores["critic_gradient_max"])
        return scores

    def _examples(self, sample: Callable[[int], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return real and generated examples as the critic sees them, and the latter as they were generated."""
        if isinstance(self._real, Points):
            generated = sample(self._count).cpu()
            return self._real.draw(self._count, rng.generator(0, "exact")), generated, generated
        sizes = [min(self._batch_size, self._count - start) for start in range(0, self._count, self._batch_size)]
        images = torch.cat([sample(size).cpu() for size in sizes])
        chosen = torch.tensor(reference_indices(self._real, self._num_real))[self._order()].tolist()
        real = torch.cat(list(image_batches(self._real, chosen, self._batch_size)))
        return to_range(real), to_range(images), images

    def _order(self) -> Tensor:
        """Return a fixed random order of the real images, because data may be sorted by class."""
        return torch.randperm(self._num_real, generator=rng.generator(0, "exact"))

    def _sample_distances(self, real: Tensor, generated: Tensor, prefix: str) -> dict[str, float]:
        """Return W1, W2 and sliced W2 between vectors ``[N, D]`` and ``[M, D]``, float64."""
        import ot  # slow to import

        sliced = ot.sliced_wasserstein_distance(generated, real, n_projections=self._projections, seed=0)
        try:
            w1, w2 = (mean_cost(real, generated, power) ** (1 / power) for power in (1, 2))
        except NotOptimalError as error:
            log.warning("%sw1 and %sw2 are left out: %s", prefix, prefix, error)
            return {f"{prefix}sliced_w2": float(sliced)}
        return {f"{prefix}w1": w1, f"{prefix}w2": w2, f"{prefix}sliced_w2": float(sliced)}

    def _sinkhorn_metrics(self, real: Tensor, generated: Tensor, prefix: str) -> dict[str, float]:
        """Return the Sinkhorn divergence between vectors ``[N, D]`` and ``[M, D]``, float64, and its regularisation."""
        if self._sinkhorn is None or not len(real):
            return {}
        regularisation = self._sinkhorn * float(2 * (real - real.mean(0)).square().sum(1).mean())
        if not regularisation > 0:
            return {}
        try:
            divergence = sinkhorn_divergence(real.numpy(), generated.numpy(), regularisation)
        except NotOptimalError as error:
            log.warning("%ssinkhorn is left out: %s", prefix, error)
            return {}
        if divergence is None:
            log.warning("%ssinkhorn is left out: it did not converge, raise scorer.sinkhorn", prefix)
            return {}
        return {f"{prefix}sinkhorn": divergence, f"{prefix}sinkhorn_regularisation": regularisation}

    def _feature_metrics(self, real: ImageSet, space: FeatureSpace, images: Tensor) -> dict[str, float]:
        """Return distances in the feature space; `images` are the generated ones, uint8 ``[M, C, H, W]``."""
        extracted = collect(images.split(self._batch_size), space.extract(self._device), features=True)
        sets = [features.features for features in (self._real_features(real, space), extracted)]
        real_vectors, generated_vectors = (features.double() for features in sets if features is not None)
        real_vectors = real_vectors[self._order()]
        few = self._num_potential
        return {
            **self._sample_distances(real_vectors, generated_vectors, "features_"),
            **self._sinkhorn_metrics(real_vectors[:few], generated_vectors[:few], "features_"),
        }

    def _real_features(self, real: ImageSet, space: FeatureSpace) -> FeatureSet:
        return real_features(real, self._num_real, space, self._device, self._batch_size, features=True)

    def _potential_metrics(
        self, real: Tensor, generated: Tensor, players: Players, steepest: float
    ) -> dict[str, float]:
        counts = {"potential_samples": float(len(generated)), "potential_real": float(len(real))}
        try:
            plan, found = potential_between(real, generated)
        except NotOptimalError as error:
            log.warning("the potential is left out: %s", error)
            return counts
        return {**compare(players, real, generated, plan, found, steepest), **counts}

    def _player_metrics(self, real: Tensor, generated: Tensor, players: Players) -> dict[str, float]:
        with torch.no_grad():
            real_outputs, fake_outputs = players.critic_outputs(real), players.critic_outputs(generated)
            gap = real_outputs.double().mean() - fake_outputs.double().mean()
        points = self._sampling(real, generated, rng.generator(0, "exact points"))
        gradient = input_gradient(players.critic_outputs, points)
        norms = per_example_norm(gradient).double()
        quantiles = norms.quantile(torch.tensor(QUANTILES).double() / 100)
        return {
            "eval_critic_loss": players.critic_loss(real, generated),
            "critic_gap": float(gap),
            "critic_gradient_mean": float(norms.mean()),
            "critic_gradient_max": float(norms.max()),
            **{f"critic_gradient_q{q}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
            "generator_gradient": float(players.generator_gradient_norm(real)),
            **_mean_coordinates("mean", generated),
            **_mean_coordinates("critic_slope", gradient),
        }


def _mean_coordinates(name: str, vectors: Tensor) -> dict[str, float]:
    """Return the mean of each coordinate of points ``[N, D]``; none for images."""
    if vectors.ndim > 2:
        return {}
    return {f"{name}_{axis}": float(value) for axis, value in enumerate(vectors.double().mean(0))}


def _divergences(real: Tensor, generated: Tensor) -> dict[str, float]:
    values = {
        "js": jensen_shannon(real.numpy(), generated.numpy()),
        "kl": kullback_leibler(real.numpy(), generated.numpy()),
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _mode_metrics(real: Points, generated: Tensor) -> dict[str, float]:
    if real.modes is None:
        return {}
    distance, nearest_mode = torch.cdist(generated, real.modes.double()).min(1)
    is_near = distance <= HIGH_QUALITY_STDS * real.std
    return {
        "modes": float(len(set(nearest_mode[is_near].tolist()))),
        "high_quality": float(is_near.double().mean()),
    }
