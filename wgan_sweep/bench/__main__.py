"""``make bench``: tables on the terminal, and all figures in a JSON file."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from wgan_sweep.bench import accuracy, iterations, overhead, scoring
from wgan_sweep.bench.alone import at_once
from wgan_sweep.bench.ways import N_CRITIC, Subject, Way, ours, plain, scaled, subjects, ways
from wgan_sweep.common.files import write
from wgan_sweep.scoring.features import LAYERS

COSTS = ("ms", "images/s", "ratio", "spread", "floor / ms", "first s", "again", "peak MiB")
PARTS = ("iterations", "scaling", "accuracy", "scoring", "sweeps")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _table(columns: list[str], rows: Iterable[list[str]]) -> None:
    _say(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        _say(f"| {' | '.join(row)} |")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m wgan_sweep.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", help="default: fp32 on a CPU; fp32 tf32 bf16 fp16 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=5, help="iterations per repeat")
    parser.add_argument("--batch", nargs="+", type=int, default=[64])
    parser.add_argument("--memory", nargs="+", type=int, metavar="N", help="only: peak memory of scoring N images")
    parser.add_argument("--feature", type=int, default=2048, choices=LAYERS, help="of --memory (default: 2048)")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are {', '.join(PARTS)})")
    options.parts = options.parts or list(PARTS)
    on_gpu = options.device.type == "cuda"
    options.precision = options.precision or (["fp32", "tf32", "bf16", "fp16"] if on_gpu else ["fp32"])
    return options


def _iterations(options: argparse.Namespace) -> list[dict[str, Any]]:
    _say(
        f"\nAn iteration is {N_CRITIC} critic updates with a gradient penalty and 1 generator update; "
        f"medians of {options.repeats} turns of {options.count} iterations. The ratio is to plain double backward in "
        "the same precision; the floor is the fewest operations for the same r(x), at the speed of large ones. "
        "The first iteration is from nothing, then in a new process, which finds what was compiled."
    )
    found = []
    for batch in options.batch:
        for subject in subjects(options.device):
            found += _compare(subject.of(batch), ways(options.precision), options)
    return found


def _compare(subject: Subject, compared: Mapping[str, tuple[Way, str]], options: argparse.Namespace) -> list[Any]:
    costs = list(iterations.measure(subject, compared, options.repeats, options.count, options.device))
    _table(
        [f"{subject.name}, batch {subject.batch}", *COSTS],
        (
            [
                cost.way,
                f"{cost.ms:.1f}",
                f"{cost.images_per_second:.0f}",
                f"{cost.ratio:.2f}",
                f"{cost.spread:.0%}",
                f"{cost.of_floor:.0%}",
                f"{cost.first_seconds:.1f}",
                f"{cost.first_seconds_again:.1f}",
                f"{cost.peak_mib:.0f}",
            ]
            for cost in costs
        ),
    )
    return [asdict(cost) | {"batch": subject.batch} for cost in costs]


def _scaling(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    arithmetic = "bf16" if options.device.type == "cuda" else options.precision[0]
    compared = {f"{name}, {arithmetic}": (way, arithmetic) for name, way in (("plain", plain), ("ours", ours))}
    sizes = [cost for subject in scaled(options.device) for cost in _compare(subject, compared, options)]
    _say("\nSeveral runs at once, in processes of their own and by turns in one (on a GPU: each on a stream).")
    subject = subjects(options.device)[0]
    together = list(at_once(subject, options.device, arithmetic, (2, 4), options.repeats, options.count))
    _table(
        [f"{subject.name}, batch {subject.batch}, {arithmetic}", "iterations/s of all", "ratio to one run"],
        ([f"{one.runs}, {one.way}", f"{one.iterations_per_second:.1f}", f"{one.ratio:.2f}"] for one in together),
    )
    return {"sizes": sizes, "at_once": [asdict(one) for one in together]}


def _accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    _say("\nRelative error of the critic's gradient of 2 n^6, n about 0.6, against double backward in float64.")
    arithmetics = sorted({*options.precision, "bf16", "fp16"}, key=("fp32", "tf32", "bf16", "fp16").index)
    found = [
        error for s in subjects(options.device) for error in accuracy.errors(s.of(16), arithmetics, options.device)
    ]
    _table(
        ["network", "precision", "form", "error", "to double backward's"],
        ([e.subject, e.precision, e.form, f"{e.relative:.1e}", f"{e.ratio:.2f}"] for e in found),
    )
    return [asdict(error) for error in found]


def _scoring(options: argparse.Namespace) -> list[dict[str, Any]]:
    _say("\nImages per second to InceptionV3's 2048 features, fp32, 32 x 32 images in batches of 50; medians.")
    speeds = scoring.measure(options.device, options.repeats, 2000 if options.device.type == "cuda" else 50)
    ours = statistics.median(next(iter(speeds.values())))
    found = [
        {
            "way": name,
            "images_per_second": (median := statistics.median(values)),
            "ratio": median / ours,
            "spread": (max(values) - min(values)) / median,
        }
        for name, values in speeds.items()
    ]
    _table(
        ["", "images/s", "ratio to ours", "spread"],
        ([str(f["way"]), f"{f['images_per_second']:.1f}", f"{f['ratio']:.2f}", f"{f['spread']:.0%}"] for f in found),
    )
    return found


def _sweeps(options: argparse.Namespace) -> dict[str, float]:
    per_run, recorded = overhead.seconds_per_run(max(1, options.repeats // 2))
    found = {
        "seconds_per_run": per_run,
        "of_which_recorded": recorded,
        "cfg_job_seconds": overhead.seconds_to_say_the_config(options.repeats),
        "report_of_1000_seconds": overhead.seconds_of_a_report(),
    }
    _say(
        f"\nEach further run of a sweep, with a trainer that does next to nothing: {1000 * per_run:.0f} ms, of which "
        f"{1000 * recorded:.0f} ms from the start of its training to its end; `wgan-sweep --cfg job`: "
        f"{found['cfg_job_seconds']:.2f} s; `wgan-report` on {overhead.REPORTED} runs: "
        f"{found['report_of_1000_seconds']:.2f} s."
    )
    return found


def main() -> None:
    """Measure, print tables, and write the figures."""
    options = _parse()
    chip = (
        torch.cuda.get_device_name(options.device)
        if options.device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    _say(f"{chip}, torch {torch.__version__}")
    if options.memory:
        _say(f"\nPeak memory of one process, InceptionV3 {options.feature} features.")
        peaks = scoring.measure_memory(options.device, options.memory, options.feature)
        _table(["images", "MiB"], ([str(count), f"{peak:.0f}"] for count, peak in peaks))
        return
    parts = {
        "iterations": _iterations,
        "scaling": _scaling,
        "accuracy": _accuracy,
        "scoring": _scoring,
        "sweeps": _sweeps,
    }
    with TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        found = {"device": chip, "torch": torch.__version__} | {name: parts[name](options) for name in options.parts}
    write(options.json, json.dumps(found, indent=2) + "\n")
    _say(f"\nfigures   {options.json}")


if __name__ == "__main__":
    main()
