"""The command `wgan-report`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from wgan_sweep.report.cells import Report, report
from wgan_sweep.report.text import to_csv, to_json, to_markdown
from wgan_sweep.runs import find_runs

FORMATS: dict[str, Callable[[Report], str]] = {"md": to_markdown, "csv": to_csv, "json": to_json}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a report of the runs below a folder (``wgan-report``)."""
    parser = argparse.ArgumentParser("wgan-report", description="Scores of the runs below a folder, as a table.")
    parser.add_argument("runs", type=Path, help="the folder of runs, for example ./runs")
    parser.add_argument("--format", choices=FORMATS, default="md", help="md (default), csv or json")
    parser.add_argument("--metric", help="the score to show: fid, w1, w2, modes, ... (default: fid, else w1)")
    options = parser.parse_args(arguments)
    if not options.runs.is_dir():
        sys.exit(f"wgan-report: there is no folder {options.runs}: give the folder that holds the runs (key `runs`)")
    records, problems = find_runs(options.runs)
    for problem in problems:
        sys.stderr.write(f"wgan-report: {problem}\n")
    if not records:
        sys.exit(f"wgan-report: {options.runs} holds no runs: start some with wgan-sweep, or give another folder")
    sys.stdout.write(FORMATS[options.format](report(records, options.metric)))
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
