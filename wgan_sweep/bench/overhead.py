"""What a sweep costs beside its trainers: composing, checking, directories, locks, checkpoints, reports."""

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
FEW, MANY = 5, 45
REPORTED = 1000


def _timed(folder: Path, *arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"WGAN_SWEEP_RUNS": str(folder / "runs")},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def seconds_per_run(repeats: int) -> tuple[float, float]:
    """Return (seconds that each further run of a sweep takes, those of them that its own record says), by a sweep.

    The trainer does one update of two networks of a few weights: next to nothing.
    """
    slopes, own = [], 0.0
    for _ in range(repeats):
        times = []
        for count in (FEW, MANY):
            with TemporaryDirectory() as name:
                folder = Path(name)
                seeds = ",".join(map(str, range(count)))
                times.append(_timed(folder, "wgan_sweep", "-m", f"seed={seeds}", *TINY))
                records = [json.loads(p.read_text()) for p in folder.glob("runs/*/record.json")]
                own = statistics.median(record["seconds"] for record in records)
        slopes.append((times[1] - times[0]) / (MANY - FEW))
    return statistics.median(slopes), own


def seconds_to_say_the_config(repeats: int) -> float:
    """Return the seconds of ``wgan-sweep --cfg job``."""
    with TemporaryDirectory() as name:
        return statistics.median(_timed(Path(name), "wgan_sweep", "--cfg", "job") for _ in range(repeats))


def seconds_of_a_report(count: int = REPORTED) -> float:
    """Return the seconds of ``wgan-report`` on so many finished runs: copies of one, under ids of their own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _timed(folder, "wgan_sweep", *TINY, "scorer=exact", "scorer.num_samples=50")
        (record,) = folder.glob("runs/*/record.json")
        made = json.loads(record.read_text())
        for index in range(count - 1):
            copy = folder / "runs" / f"{index:012x}"
            shutil.copytree(record.parent, copy)
            made["run_id"], made["config"]["seed"] = copy.name, index + 1
            (copy / "record.json").write_text(json.dumps(made))
        return _timed(folder, "wgan_sweep.commands.report", "runs")
