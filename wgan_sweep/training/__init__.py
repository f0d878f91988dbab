"""Training: the training loop, the critic's objective, and how iterations run on a device or on several."""
