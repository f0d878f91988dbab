"""How near generated images are to real ones."""

from torch import Tensor

from wgan_sweep.errors import InputError
from wgan_sweep.scoring.metrics.two_sided import TwoSidedMetric, as_values
from wgan_sweep.scoring.neighbours import distances_between_distinct, nearest_neighbours

COPY_QUANTILE = 0.01
"""A copy is nearer to a real image than this share of the real images are to their nearest other real image."""


class Memorisation(TwoSidedMetric):
    """Distance of generated images to their nearest real image, relative to distances between distinct real images."""

    names = ("nearest_real", "copied")

    def check(self, generated: int, real: int, dimensions: int | None = None) -> None:  # noqa: ARG002
        """Check the number of images.

        Raises:
            InputError: for fewer than 2 real images.
        """
        if real < 2:
            raise InputError("memorisation needs 2 real images or more")

    def compute(self) -> dict[str, Tensor]:
        """Return ``nearest_real`` and ``copied``.

        ``nearest_real`` is the median distance from a generated image to its nearest real image, divided by the median
        distance from a real image to its nearest other real image: 1 for new images of the same distribution, 0 for
        copies. ``copied`` is the share of generated images whose distance to the nearest real image is below the first
        percentile of the same distance between real images: 0.01 for new images of the same distribution, 1 for copies.
        Real images that are the same count once.

        Raises:
            InputError: if all real images are the same.
        """
        generated, real = self._features("generated"), self._features("real")
        self.check(len(generated), len(real))
        from_real = distances_between_distinct(real)
        if not len(from_real):
            raise InputError("memorisation needs 2 different real images or more: these are all the same")
        from_generated = nearest_neighbours(generated, real, 1)[0][:, 0]
        threshold = from_real.quantile(COPY_QUANTILE)
        return as_values(
            nearest_real=float(from_generated.median() / from_real.median()),
            copied=float((from_generated < threshold).double().mean()),
        )
