"""Quantities between samples of points that need no network: optimal transport, divergences, modes, gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.data import Points
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.gradient_terms import input_gradient, per_example_norm
from wgan_sweep.objectives.sampling import Sampling
from wgan_sweep.scoring.divergences import NEIGHBOURS, jensen_shannon, kullback_leibler
from wgan_sweep.scoring.players import Players

HIGH_QUALITY_STDS = 3.0
"""A sample counts for a mode within so many standard deviations of its centre (Srivastava et al. 2017)."""
PIVOTS = 100_000_000
"""Steps that linear programming may take: more than it ever does, so that no result is one that it gave up on."""
QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of the critic's gradient norms."""


def _transport(real: Tensor, made: Tensor, power: int) -> float:
    """Return the least mean cost of moving one sample ``[N, D]`` onto the other, distance^power being the cost."""
    import ot  # slow to import

    if real.shape[1] == 1:
        return float(ot.wasserstein_1d(made, real, p=power).sum())
    cost = ot.dist(made, real, metric="euclidean" if power == 1 else "sqeuclidean")
    return float(ot.emd2([], [], cost, numItermax=PIVOTS))


class ExactScorer:
    """Distances between equally many generated and real points, and what the critic makes of them.

    Args:
        real: The distribution of points.
        device: Where the generator is; the distances are computed on the CPU.
        num_samples: Points of each kind; the real ones are the same in every run.
        projections: Random directions of the sliced distance.
        sampling: r(x): where the critic's gradient norms are measured.

    Raises:
        InputError: for images, or a number out of range.
    """

    def __init__(
        self,
        *,
        real: Points,
        device: torch.device,  # noqa: ARG002
        num_samples: int,
        projections: int,
        sampling: Sampling,
    ) -> None:
        if not isinstance(real, Points):
            raise InputError("scorer=exact is for points (data=gaussians8 and the like): use scorer=fid for images")
        if num_samples <= NEIGHBOURS or projections < 1:
            raise InputError(
                f"scorer.num_samples must be {NEIGHBOURS + 1} or more and scorer.projections 1 or more, "
                f"got {num_samples} and {projections}"
            )
        self._real = real
        self._count = num_samples
        self._projections = projections
        self._sampling = sampling

    def describe(self) -> dict[str, str]:
        """Return what a score says only together with."""
        return {"points": f"{self._count} of each kind"}

    def prepare(self) -> None:
        """Do nothing: real points are drawn when needed."""

    def __call__(self, sample: Callable[[int], Tensor], players: Players) -> dict[str, float]:
        """Return scores by name, with the number of points as ``exact_samples``.

        - ``w1``, ``w2``: the Wasserstein distances between both samples, exact (by sorting on the line, else by linear
          programming); ``sliced_w2``: a mean over random directions.
        - ``js``, ``kl``: the Jensen-Shannon divergence (0 to ln 2), and KL(real || generated), in nats, estimated by
          nearest neighbours (see `divergences`); ``kl`` is left out where it is not finite.
        - ``modes``: how many centres of a mixture have a sample near; ``high_quality``: the share of samples near any.
        - ``critic_loss``: what the critic minimises, on these points; ``critic_gap``: E_real[T] - E_fake[T].
        - ``critic_gradient_mean``, ``_max``, ``_q5`` ... ``_q95``: of the norms of the critic's gradient on r(x).
        - ``generator_gradient``: the norm of the gradient of what the generator minimises.
        - ``mean_0`` ...: the mean of the generated points, by coordinate.
        - ``critic_slope_0`` ...: the mean of the critic's gradient on r(x), by coordinate.
        """
        made = sample(self._count)
        real = self._real.draw(self._count, rng.generator(0, "exact"))
        return {
            **self._distances(real.double(), made.double()),
            **self._near_modes(made.double()),
            **self._of_the_players(real, made, players),
            "exact_samples": float(self._count),
        }

    def _distances(self, real: Tensor, made: Tensor) -> dict[str, float]:
        import ot  # slow to import

        found = {
            "w1": _transport(real, made, 1),
            "w2": _transport(real, made, 2) ** 0.5,
            "sliced_w2": float(ot.sliced_wasserstein_distance(made, real, n_projections=self._projections, seed=0)),
            "js": jensen_shannon(real.numpy(), made.numpy()),
            "kl": kullback_leibler(real.numpy(), made.numpy()),
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _near_modes(self, made: Tensor) -> dict[str, float]:
        if self._real.modes is None:
            return {}
        distance, nearest = torch.cdist(made, self._real.modes.double()).min(1)
        near = distance <= HIGH_QUALITY_STDS * self._real.std
        return {"modes": float(len(set(nearest[near].tolist()))), "high_quality": float(near.double().mean())}

    def _of_the_players(self, real: Tensor, made: Tensor, players: Players) -> dict[str, float]:
        with torch.no_grad():
            gap = players.score(real).double().mean() - players.score(made).double().mean()
        points = self._sampling(real, made, rng.generator(0, "exact points"))
        gradient = input_gradient(players.score, points)
        norms = per_example_norm(gradient).double()
        quantiles = norms.quantile(torch.tensor(QUANTILES).double() / 100)
        return {
            "critic_loss": players.critic_loss(real, made),
            "critic_gap": float(gap),
            "critic_gradient_mean": float(norms.mean()),
            "critic_gradient_max": float(norms.max()),
            **{f"critic_gradient_q{q}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
            "generator_gradient": float(players.generator_gradient_norm(real)),
            **{f"mean_{axis}": float(value) for axis, value in enumerate(made.double().mean(0))},
            **{f"critic_slope_{axis}": float(value) for axis, value in enumerate(gradient.double().mean(0))},
        }
