"""What critic and generator minimise: losses, constraints, sampling schemes, gradient terms, stabilisers."""
