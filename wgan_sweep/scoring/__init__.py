"""Scores of generated images against real ones."""

from wgan_sweep.scoring.fid import FIDScorer

__all__ = ["FIDScorer"]
