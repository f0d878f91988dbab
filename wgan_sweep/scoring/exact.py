"""Metrics between samples of points that need no feature network: optimal transport, divergences, modes, gradients."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.common.ranges import LARGEST_INT, Count, Range
from wgan_sweep.data import Points
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.gradient_terms import input_gradient, per_example_norm
from wgan_sweep.objectives.sampling import Sampling
from wgan_sweep.scoring.divergences import NEIGHBOURS, jensen_shannon, kullback_leibler
from wgan_sweep.scoring.players import Players

HIGH_QUALITY_STDS = 3.0
"""A sample belongs to a mode if it is within this many standard deviations of its centre (Srivastava et al. 2017)."""
MAX_PIVOTS = 100_000_000
"""Iteration limit of the linear program; high enough that the solver never stops early with an inexact result."""
DISTANCES = ("w1", "w2", "sliced_w2", "js", "kl")
"""Metrics of any distribution: distances and divergences."""
MODES = ("modes", "high_quality")
"""Metrics of mixtures."""
QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of the critic's gradient norms."""


def _transport_cost(real: Tensor, generated: Tensor, power: int) -> float:
    """Return the minimal mean cost of transporting one sample ``[N, D]`` to the other; the cost is distance^power."""
    import ot  # slow to import

    if real.shape[1] == 1:
        return float(ot.wasserstein_1d(generated, real, p=power).sum())
    cost = ot.dist(generated, real, metric="euclidean" if power == 1 else "sqeuclidean")
    return float(ot.emd2([], [], cost, numItermax=MAX_PIVOTS))


class ExactScorer:
    """Distances between equally many generated and real points, and properties of the critic on them.

    Args:
        real: The distribution of real points.
        device: Device of the generator; metrics are computed on the CPU.
        num_samples: Number of real points, and of generated points. The real points are the same in every run.
        projections: Random directions for the sliced Wasserstein distance.
        sampling: Sampling scheme r(x) at which the critic's gradient is measured.

    Raises:
        InputError: for images.
    """

    def __init__(
        self,
        *,
        real: Points,
        device: torch.device,  # noqa: ARG002
        num_samples: Annotated[int, Range(NEIGHBOURS + 1, LARGEST_INT)],
        projections: Count,
        sampling: Sampling,
    ) -> None:
        if not isinstance(real, Points):
            raise InputError("scorer=exact is for points (data=gaussians8 and the like): use scorer=fid for images")
        self._real = real
        self._count = num_samples
        self._projections = projections
        self._sampling = sampling
        self.measures = frozenset(DISTANCES if real.modes is None else (*DISTANCES, *MODES))
        """The names of the metrics by which runs can be compared; `kl` may lack a value."""

    def describe(self) -> dict[str, str]:
        """Return the settings that metric values depend on: the number of points."""
        return {"points": f"{self._count} of each kind"}

    def prepare(self) -> None:
        """Do nothing: real points are drawn when the scorer is called."""

    def __call__(self, sample: Callable[[int], Tensor], players: Players) -> dict[str, float]:
        """Return metric values by name.

        - ``w1``, ``w2``: exact Wasserstein distances between the two samples (by sorting in one dimension, otherwise
          by linear programming). ``sliced_w2``: sliced Wasserstein-2 distance over random directions.
        - ``js``: Jensen-Shannon divergence (0 to ln 2). ``kl``: KL(real || generated); omitted if it is not finite.
          Both in nats, estimated by nearest neighbours (see `divergences`).
        - ``modes``: number of mixture components that have a sample nearby. ``high_quality``: share of samples near any
          component.
        - ``eval_critic_loss``: the critic's loss, gradient terms included, evaluated on these points. It differs from
          ``critic_loss`` of training, which is the loss on a training batch.
        - ``critic_gap``: E_real[T] - E_fake[T] on these points.
        - ``critic_gradient_mean``, ``_max``, ``_q5`` ... ``_q95``: mean, maximum and percentiles of the norm of the
          critic's gradient on r(x).
        - ``critic_slope_0`` ...: mean of each component of the critic's gradient on r(x).
        - ``generator_gradient``: norm of the gradient of the generator's loss.
        - ``mean_0`` ...: mean of each coordinate of the generated points.
        - ``exact_samples``: number of real points, and of generated points.

        Args:
            sample: Returns the next N generated points ``[N, D]``, on the CPU.
            players: Generator and critic.
        """
        generated = sample(self._count)
        real = self._real.draw(self._count, rng.generator(0, "exact"))
        return {
            **self._distance_metrics(real.double(), generated.double()),
            **self._mode_metrics(generated.double()),
            **self._player_metrics(real, generated, players),
            "exact_samples": float(self._count),
        }

    def _distance_metrics(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        import ot  # slow to import

        distances = {
            "w1": _transport_cost(real, generated, 1),
            "w2": _transport_cost(real, generated, 2) ** 0.5,
            "sliced_w2": float(
                ot.sliced_wasserstein_distance(generated, real, n_projections=self._projections, seed=0)
            ),
            "js": jensen_shannon(real.numpy(), generated.numpy()),
            "kl": kullback_leibler(real.numpy(), generated.numpy()),
        }
        return {name: value for name, value in distances.items() if math.isfinite(value)}

    def _mode_metrics(self, generated: Tensor) -> dict[str, float]:
        if self._real.modes is None:
            return {}
        distance, nearest_mode = torch.cdist(generated, self._real.modes.double()).min(1)
        is_near = distance <= HIGH_QUALITY_STDS * self._real.std
        return {
            "modes": float(len(set(nearest_mode[is_near].tolist()))),
            "high_quality": float(is_near.double().mean()),
        }

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
            **{f"mean_{axis}": float(value) for axis, value in enumerate(generated.double().mean(0))},
            **{f"critic_slope_{axis}": float(value) for axis, value in enumerate(gradient.double().mean(0))},
        }
