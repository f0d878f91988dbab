"""Benchmarks against common implementations (``make bench``); candidates are measured alternately in one process."""
