"""Sweeps: composing and checking their runs, planning, launching, and publishing the results."""
