"""Metrics between generated and real examples. Imports nothing, because the scorers' libraries load slowly."""
