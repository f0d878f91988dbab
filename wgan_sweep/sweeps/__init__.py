"""Sweeps: which runs there are to do, and where they are done."""
