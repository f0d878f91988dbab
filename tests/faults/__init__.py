"""Faults at every write: a run is killed or refused space at each of its system calls, and must recover bitwise."""
