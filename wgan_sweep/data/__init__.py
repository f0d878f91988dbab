"""Real examples: sets of uint8 images and distributions of points, as endless streams of batches."""

from wgan_sweep.data.folder import ImageFolder
from wgan_sweep.data.mnist5k import Mnist5k
from wgan_sweep.data.npz import Npz
from wgan_sweep.data.points import (
    Gaussian,
    GaussianGrid,
    GaussianRing,
    ParallelLines,
    PointMass,
    Points,
    ShiftedUniform,
    SwissRoll,
    TwoIntervals,
)
from wgan_sweep.data.stacked import Stacked
from wgan_sweep.data.store import ImageSet, crop_and_resize, pad
from wgan_sweep.data.torchvision import Torchvision

__all__ = [
    "Gaussian",
    "GaussianGrid",
    "GaussianRing",
    "ImageFolder",
    "ImageSet",
    "Mnist5k",
    "Npz",
    "ParallelLines",
    "PointMass",
    "Points",
    "ShiftedUniform",
    "Stacked",
    "SwissRoll",
    "Torchvision",
    "TwoIntervals",
    "crop_and_resize",
    "pad",
]
