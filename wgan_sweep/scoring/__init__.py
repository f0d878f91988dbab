"""Scores of generated examples against real ones."""

from wgan_sweep.scoring.exact import ExactScorer
from wgan_sweep.scoring.features import InceptionV3, TorchFidelity
from wgan_sweep.scoring.images import ImageScorer
from wgan_sweep.scoring.metrics import FID, KID, FIDInfinity, InceptionScore, Memorisation, PrecisionRecall
from wgan_sweep.scoring.players import Players

__all__ = [
    "FID",
    "KID",
    "ExactScorer",
    "FIDInfinity",
    "ImageScorer",
    "InceptionScore",
    "InceptionV3",
    "Memorisation",
    "Players",
    "PrecisionRecall",
    "TorchFidelity",
]
