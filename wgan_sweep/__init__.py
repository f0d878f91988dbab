"""Sweeps over Wasserstein GAN objectives: one command per claim, scored with FID."""

__version__ = "0.2.0.dev0"
