"""Training: the trainer, the critic's objective, and how iterations are computed on a device."""
