"""Metrics between generated and real images: each is a `torchmetrics.Metric`, fed with features, logits or images."""

from wgan_sweep.scoring.metrics.classes import Classes
from wgan_sweep.scoring.metrics.fid import FID
from wgan_sweep.scoring.metrics.fid_infinity import FIDInfinity
from wgan_sweep.scoring.metrics.inception_score import InceptionScore
from wgan_sweep.scoring.metrics.kid import KID
from wgan_sweep.scoring.metrics.memorisation import Memorisation
from wgan_sweep.scoring.metrics.mifid import MIFID
from wgan_sweep.scoring.metrics.pair_ssim import PairSSIM
from wgan_sweep.scoring.metrics.precision_recall import PrecisionRecall

__all__ = [
    "FID",
    "KID",
    "MIFID",
    "Classes",
    "FIDInfinity",
    "InceptionScore",
    "Memorisation",
    "PairSSIM",
    "PrecisionRecall",
]
