"""Overhead of a sweep around its training loops: configs, checks, run directories, locks, checkpoints, reports."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

TINY = ["data=gaussians8", "model=mlp", "model.dim=2", "model.depth=1", "train.steps=1", "train.n_critic=1"]
TINY += ["scorer=none", "tracker=none", "device=cpu"]
SMALL_SWEEP, LARGE_SWEEP = 5, 45
"""Runs of the two sweeps whose times are compared."""
REPORTED_RUNS = 1000


def _time_module(folder: Path, *arguments: str) -> float:
    """Return the seconds that ``python -m arguments`` takes in a folder, with its runs in ``folder/runs``."""
    start = time.perf_counter()
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"WGAN_SWEEP_RUNS": str(folder / "runs")},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def seconds_per_run(repeats: int) -> tuple[float, float]:
    """Measure what each additional run adds to the time of a sweep.

    A run trains two tiny networks for one update.

    Returns:
        The seconds per additional run, and the part of them between the start and the end of training (from
        ``record.json``).
    """
    slopes, recorded = [], 0.0
    for _ in range(repeats):
        times = []
        for count in (SMALL_SWEEP, LARGE_SWEEP):
            with TemporaryDirectory() as name:
                folder = Path(name)
                seeds = ",".join(map(str, range(count)))
                times.append(_time_module(folder, "wgan_sweep", "-m", f"seed={seeds}", *TINY))
                records = [json.loads(path.read_text()) for path in folder.glob("runs/*/record.json")]
                recorded = statistics.median(record["seconds"] for record in records)
        slopes.append((times[1] - times[0]) / (LARGE_SWEEP - SMALL_SWEEP))
    return statistics.median(slopes), recorded


def seconds_to_print_config(repeats: int) -> float:
    """Return the median time of ``wgan-sweep --cfg job``, in seconds."""
    with TemporaryDirectory() as name:
        return statistics.median(_time_module(Path(name), "wgan_sweep", "--cfg", "job") for _ in range(repeats))


def seconds_to_report(count: int = REPORTED_RUNS) -> float:
    """Return the time of ``wgan-report`` on `count` finished runs (copies of one, with distinct ids), in seconds."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _time_module(folder, "wgan_sweep", *TINY, "scorer=exact", "scorer.num_samples=50")
        (path,) = folder.glob("runs/*/record.json")
        record = json.loads(path.read_text())
        for index in range(count - 1):
            copy = folder / "runs" / f"{index:012x}"
            shutil.copytree(path.parent, copy)
            record["run_id"], record["config"]["seed"] = copy.name, index + 1
            (copy / "record.json").write_text(json.dumps(record))
        return _time_module(folder, "wgan_sweep.commands.report", "runs")
