"""A line on a terminal before work that takes seconds, such as importing torch."""

import sys


def announce(text: str) -> None:
    """Write a line to standard error, if it is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{text} ...\n")
        sys.stderr.flush()
