"""Benchmarks of wgan-sweep (``make bench``): prints tables and writes all values to a JSON file."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch

from wgan_sweep.bench import accuracy, agreement, iterations, kernels, overhead, scoring
from wgan_sweep.bench.implementations import (
    Implementation,
    eager_double_backward,
    gradient_penalty_loss,
    implementations,
    ours,
)
from wgan_sweep.bench.processes import concurrent_throughput
from wgan_sweep.bench.workloads import IMAGES, N_CRITIC, Workload, scaled_workloads, workloads
from wgan_sweep.common.cores import other_commands
from wgan_sweep.common.devices import find_device
from wgan_sweep.common.files import check_output, write
from wgan_sweep.common.ranges import Count, Range, check_value
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.errors import InputError
from wgan_sweep.objectives.sampling import fake, mixed_pairs, mixture, real, real_fake, within_source
from wgan_sweep.scoring import weights
from wgan_sweep.scoring.features import LAYERS
from wgan_sweep.training.precision import precision

COST_COLUMNS = ("ms", "images/s", "ratio", "spread", "utilisation", "first s", "cached", "peak MiB")
PARTS = ("kernels", "iterations", "sampling", "scaling", "accuracy", "scoring", "metrics", "sweeps")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _print_table(columns: list[str], rows: Iterable[list[str]]) -> None:
    _print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        _print(f"| {' | '.join(row)} |")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m wgan_sweep.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if there is one)")
    parser.add_argument("--precision", nargs="+", help="default: fp32 on a CPU; fp32 tf32 bf16 fp16 on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each candidate (default: 5)")
    parser.add_argument("--count", type=int, default=5, help="iterations per measurement (default: 5)")
    parser.add_argument("--batch", nargs="+", type=int, default=[64], help="batch sizes of `iterations` (default: 64)")
    parser.add_argument(
        "--memory", nargs="+", type=int, metavar="N", help="measure only peak memory of scoring N images"
    )
    parser.add_argument(
        "--feature", type=int, default=2048, choices=LAYERS, help="for --memory and metrics (default: 2048)"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="output file (default: bench.json)")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Check all options, find the device, and set the parts and precisions that were not given.

    Raises:
        InputError: if an option cannot work, or if the feature network of a part cannot be found.
    """
    for part in options.parts:
        if part not in PARTS:
            raise InputError(f"unknown part {part}: choose from {', '.join(PARTS)}{did_you_mean(part, PARTS)}")
    options.parts = options.parts or list(PARTS)
    options.device = find_device(options.device, "--device")
    on_gpu = options.device.type == "cuda"
    options.precision = options.precision or (list(PRECISIONS) if on_gpu else ["fp32"])
    for name in options.precision:
        if name not in PRECISIONS:
            raise InputError(f"unknown --precision {name}: choose from {', '.join(PRECISIONS)}")
        precision(name, options.device, "--precision")
    check_value(options.repeats, Count, "--repeats")
    check_value(options.count, Count, "--count")
    for size in options.batch:
        check_value(size, Annotated[int, Range(1, IMAGES)], "--batch")
    for images in options.memory or []:
        check_value(images, Count, "--memory")
    if not options.memory:
        check_output(options.json, "--json")
    if options.memory or {"scoring", "metrics"} & set(options.parts):
        weights.find()


def _kernels(options: argparse.Namespace) -> list[dict[str, Any]]:  # noqa: ARG001
    gpus = kernels.H100, kernels.H200
    _print(
        "\nKernels and memory traffic of one update of ours, on a simulated GPU. `roofline` is the time of an "
        "iteration if each of its kernels ran at the peak rate of the memory or of matrix products."
    )
    rows: list[dict[str, Any]] = []
    for workload in workloads(torch.device("cuda")):
        for precision_name in PRECISIONS:
            counts = kernels.count_update(
                workload.model, workload.shape, workload.batch, precision_name, loss=gradient_penalty_loss()
            )
            rooflines = {gpu.name: 1000 * counts.roofline_seconds(gpu, precision_name, N_CRITIC) for gpu in gpus}
            for player, part in (("critic", counts.critic), ("generator", counts.generator)):
                name = f"{workload.name}, batch {workload.batch}, {precision_name}"
                rows.append({"workload": name, "update": player, **part.totals(), "roofline_ms": rooflines})
    _print_table(
        ["", "update", "kernels", "GB read", "GB written", "TFLOP", "layout copies", "host syncs", "device mixes"]
        + [f"roofline {gpu.name}, ms" for gpu in gpus],
        (
            [row["workload"], row["update"], str(row["kernels"])]
            + [f"{row['bytes_read'] / 1e9:.1f}", f"{row['bytes_written'] / 1e9:.1f}", f"{row['operations'] / 1e12:.2f}"]
            + [str(row[name]) for name in ("layout_copies", "host_syncs", "device_mixes")]
            + [f"{ms:.1f}" for ms in row["roofline_ms"].values()]
            for row in rows
        ),
    )
    return rows


def _iterations(options: argparse.Namespace) -> list[dict[str, Any]]:
    _print(
        f"\nAn iteration is {N_CRITIC} critic updates with a gradient penalty and 1 generator update. Times are "
        f"medians of {options.repeats} measurements of {options.count} iterations. `ratio` is the speed relative to "
        "eager double backward in the same precision. `utilisation` is the shortest possible time over the measured "
        "one: the fewest operations for the same r(x), at the rate of a large matrix product or convolution. "
        "`first s` is the time to the end of the first iteration; `cached` is the same in a new process that reuses "
        "the compiled code."
    )
    costs = []
    for batch in options.batch:
        for workload in workloads(options.device):
            costs += _costs(workload.with_batch(batch), implementations(options.precision), options)
    return costs


def _costs(
    workload: Workload, compared: Mapping[str, tuple[Implementation, str]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    costs = list(iterations.measure_costs(workload, compared, options.repeats, options.count, options.device))
    _print_table(
        [f"{workload.name}, batch {workload.batch}", *COST_COLUMNS],
        (
            [
                cost.implementation,
                f"{cost.ms:.1f}",
                f"{cost.images_per_second:.0f}",
                f"{cost.ratio:.2f}",
                f"{cost.spread:.0%}",
                f"{cost.utilisation:.0%}",
                f"{cost.first_seconds:.1f}",
                f"{cost.first_seconds_cached:.1f}",
                f"{cost.peak_mib:.0f}",
            ]
            for cost in costs
        ),
    )
    return [asdict(cost) | {"batch": workload.batch} for cost in costs]


def _sampling(options: argparse.Namespace) -> list[dict[str, Any]]:
    precision_name = options.precision[0]
    _print("\nThe gradient penalty at the points of each r(x); `ratio` compares implementations of the same r(x).")
    costs = []
    for workload in workloads(options.device):
        for scheme in (real_fake, within_source, mixed_pairs, mixture, fake, real):
            compared: dict[str, tuple[Implementation, str]] = {
                f"{name}, {scheme.__name__}": (partial(implementation, sampling=scheme), precision_name)
                for name, implementation in (("eager double backward", eager_double_backward), ("ours", ours))
            }
            costs += _costs(workload, compared, options)
    return costs


def _scaling(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    precision_name = "bf16" if options.device.type == "cuda" else options.precision[0]
    compared: dict[str, tuple[Implementation, str]] = {
        f"eager double backward, {precision_name}": (eager_double_backward, precision_name),
        f"ours, {precision_name}": (ours, precision_name),
    }
    sizes = [cost for workload in scaled_workloads(options.device) for cost in _costs(workload, compared, options)]
    _print("\nConcurrent runs: in one process each, and interleaved in one process (on a GPU: one CUDA stream each).")
    workload = workloads(options.device)[0]
    throughputs = list(
        concurrent_throughput(workload, options.device, precision_name, (2, 4), options.repeats, options.count)
    )
    _print_table(
        [f"{workload.name}, batch {workload.batch}, {precision_name}", "iterations/s, total", "ratio to one run"],
        ([f"{t.runs}, {t.mode}", f"{t.iterations_per_second:.1f}", f"{t.ratio:.2f}"] for t in throughputs),
    )
    return {"sizes": sizes, "concurrent": [asdict(throughput) for throughput in throughputs]}


def _accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    _print(
        "\nRelative error of the critic's parameter gradient for the term 2 n^6 (gradient norms n of about 0.6), "
        "against double backward in float64."
    )
    precisions = sorted({*options.precision, "bf16", "fp16"}, key=PRECISIONS.index)
    errors = [
        error
        for workload in workloads(options.device)
        for error in accuracy.measure_errors(workload.with_batch(16), precisions, options.device)
    ]
    _print_table(
        ["network", "precision", "method", "relative error", "ratio to double backward"],
        ([e.workload, e.precision, e.method, f"{e.relative:.1e}", f"{e.ratio:.2f}"] for e in errors),
    )
    return [asdict(error) for error in errors]


def _scoring(options: argparse.Namespace) -> list[dict[str, Any]]:
    _print("\nImages per second to InceptionV3's 2048 features, fp32, 32 x 32 images in batches of 50; medians.")
    speeds = scoring.measure_speeds(options.device, options.repeats, 2000 if options.device.type == "cuda" else 50)
    own_median = statistics.median(next(iter(speeds.values())))
    rows = [
        {
            "implementation": name,
            "images_per_second": (median := statistics.median(values)),
            "ratio": median / own_median,
            "spread": (max(values) - min(values)) / median,
        }
        for name, values in speeds.items()
    ]
    _print_table(
        ["", "images/s", "ratio to wgan-sweep", "spread"],
        (
            [
                str(row["implementation"]),
                f"{row['images_per_second']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['spread']:.0%}",
            ]
            for row in rows
        ),
    )
    return rows


def _metrics(options: argparse.Namespace) -> dict[str, Any]:
    count = 2500 if options.device.type == "cuda" else 500
    results = {}
    for name, rows in agreement.compare_metrics(count, options.feature, options.device):
        _print(f"\nMetrics of {count} + {count} MNIST images, InceptionV3 {options.feature} features: {name}.")
        implementations = list(rows[0][1])
        _print_table(
            ["", *implementations],
            (
                [metric] + [f"{values[by]:.7g}" if by in values else "" for by in implementations]
                for metric, values in rows
            ),
        )
        results[name] = dict(rows)
    return results


def _sweeps(options: argparse.Namespace) -> dict[str, float]:
    per_run, training = overhead.seconds_per_run(max(1, options.repeats // 2))
    seconds = {
        "seconds_per_run": per_run,
        "training_seconds_per_run": training,
        "cfg_job_seconds": overhead.seconds_to_print_config(options.repeats),
        "report_of_1000_seconds": overhead.seconds_to_report(),
    }
    _print(
        f"\nEach additional run of a sweep with a one-update training: {1000 * per_run:.0f} ms, including "
        f"{1000 * training:.0f} ms from the start to the end of training; `wgan-sweep --cfg job`: "
        f"{seconds['cfg_job_seconds']:.2f} s; `wgan-report` on {overhead.REPORTED_RUNS} runs: "
        f"{seconds['report_of_1000_seconds']:.2f} s."
    )
    return seconds


def _run(options: argparse.Namespace) -> None:
    """Run the benchmarks, print their tables, and write the JSON file."""
    device_name = (
        torch.cuda.get_device_name(options.device)
        if options.device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    _print(f"{device_name}, torch {torch.__version__}")
    if others := other_commands():
        _print(f"warning: commands that train on this machine: {others}. The figures are not an idle machine's.")
    if options.memory:
        _print(f"\nPeak memory of one process, InceptionV3 {options.feature} features.")
        peaks = scoring.measure_memory(options.device, options.memory, options.feature)
        _print_table(["images", "MiB"], ([str(count), f"{peak:.0f}"] for count, peak in peaks))
        return
    parts = {
        "kernels": _kernels,
        "iterations": _iterations,
        "sampling": _sampling,
        "scaling": _scaling,
        "accuracy": _accuracy,
        "scoring": _scoring,
        "metrics": _metrics,
        "sweeps": _sweeps,
    }
    with TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # starts empty, so that `first s` includes the compilation
        results = {"device": device_name, "torch": torch.__version__}
        results |= {name: parts[name](options) for name in options.parts}
    write(options.json, json.dumps(results, indent=2) + "\n")
    _print(f"\nresults   {options.json}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m wgan_sweep.bench``."""
    options = _parse(arguments)
    try:
        _check(options)
        _run(options)
    except InputError as error:
        sys.exit(f"wgan_sweep.bench: {error}")


if __name__ == "__main__":
    main()
