"""Scores of generated examples against real ones."""

from wgan_sweep.scoring.exact import ExactScorer
from wgan_sweep.scoring.fid import FIDScorer
from wgan_sweep.scoring.players import Players

__all__ = ["ExactScorer", "FIDScorer", "Players"]
