"""Statistics over seeds: tests of means, spreads and rates, with intervals and the seeds that would decide."""
