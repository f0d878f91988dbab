"""Sweeps over Wasserstein GAN objectives: one command per claim, scored with FID."""

__version__ = "0.1.0"
