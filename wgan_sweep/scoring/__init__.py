"""Scores of generated images against real ones."""

from wgan_sweep.scoring.fid import FIDScorer
from wgan_sweep.scoring.none import NoScorer

__all__ = ["FIDScorer", "NoScorer"]
