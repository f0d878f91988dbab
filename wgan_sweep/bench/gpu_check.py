"""Checks that only a GPU can do (``make gpu-check``): each in a process of its own, within ten minutes together.

Prints a table, writes all values to a JSON file, and exits with 1 if anything is wrong. On a CPU, the checks that need
CUDA are skipped.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from wgan_sweep.bench.implementations import gradient_penalty_loss, implementations, our_trainer
from wgan_sweep.bench.iterations import milliseconds_per_iteration
from wgan_sweep.bench.processes import WARM_UP, concurrent_throughput, synchronize
from wgan_sweep.bench.workloads import PointsWorkload, Workload, workloads
from wgan_sweep.common import gpu_memory
from wgan_sweep.common.devices import find_device
from wgan_sweep.common.files import check_output, write
from wgan_sweep.errors import InputError
from wgan_sweep.models import DCGAN, MLP, Location, ResNet
from wgan_sweep.training.cuda_graphs import WARM_UP_ITERATIONS, relative_difference
from wgan_sweep.training.trainer import Trainer

LEAK_MIB = 64.0
"""Memory that a finished run may leave allocated: workspaces of libraries."""
SPREAD_FACTOR = 10.0
"""Largest accepted difference of graph and eager training, in differences of two eager trainings."""
MAX_DIFFERENCE = 5e-3
"""Relative difference of equal trainings that is accepted in any case: kernels may sum in any order."""
STEPS = WARM_UP_ITERATIONS + 3
Values = dict[str, Any]


class WrongError(Exception):
    """Something is wrong with what a check measured.

    Args:
        message: What is wrong.
        values: What it measured.
    """

    def __init__(self, message: str, values: Values | None = None) -> None:
        super().__init__(message)
        self.values = values or {}


class SkippedError(Exception):
    """A check cannot be done here."""


@dataclass(frozen=True)
class Options:
    """Where and how thoroughly checks run."""

    device: torch.device
    quick: bool
    """Whether to use tiny networks and few repeats."""

    def workload(self) -> Workload:
        """Return the network that is timed."""
        if self.quick:
            return Workload("dcgan 16x16 dim 2", DCGAN(2, 4, "batch", "layer"), 16, batch=4)
        return workloads(self.device)[0]

    def all_models(self) -> list[Workload]:
        """Return a small training of each model."""
        dim, batch = (2, 4) if self.quick else (16, 16)
        return [
            Workload("dcgan", DCGAN(dim, 8, "batch", "layer"), 16, batch),
            Workload("resnet", ResNet(dim, 8, "batch", "layer"), 32, batch),
            PointsWorkload("mlp", MLP(8 * dim, 2, 4), batch=batch),
            PointsWorkload("location", Location([1.0, 1.0], [0.0, 0.0], 8 * dim, 2), batch=batch),
        ]

    def precisions(self) -> list[str]:
        """Return all precisions of the device."""
        return ["fp32", "tf32", "bf16", "fp16"] if self.device.type == "cuda" else ["fp32", "bf16"]


@dataclass
class Result:
    """The result of a check."""

    check: str
    status: str
    """``passed``, ``failed`` or ``skipped``."""
    seconds: float = 0.0
    reason: str = ""
    """Why it failed or was skipped."""
    values: Values = field(default_factory=dict)
    """What it measured."""


@dataclass(frozen=True)
class Check:
    """A check, in a process of its own."""

    run: Callable[[Options], Values]
    """Returns what it measured. Raises `WrongError` if that is wrong, `SkippedError` if it cannot be done here."""
    limit: float
    """Seconds after which its process is killed."""
    needs_cuda: bool = False


def _trainer(workload: Workload, options: Options, precision_name: str = "fp32", **settings: Any) -> Trainer:
    return our_trainer(workload, options.device, precision_name, gradient_penalty_loss(), **settings)


def _train(trainer: Trainer, until: int = STEPS) -> list[Tensor]:
    """Train and return the weights."""
    for _ in trainer.steps(until):
        pass
    synchronize(trainer.device)
    return [p.detach().clone() for network in (trainer.critic, trainer.generator) for p in network.parameters()]


def _mib_allocated(device: torch.device) -> float:
    """Return the memory of tensors and graphs, after unused memory was returned."""
    if device.type != "cuda":
        return 0.0
    gpu_memory.release()
    return torch.cuda.memory_allocated(device) / 2**20


def _check_uses_graph(trainer: Trainer) -> None:
    if (state := trainer.execution["iterations"]) != "a CUDA graph":
        raise WrongError(f"iterations are {state}")


def gpu_tests(options: Options) -> Values:  # noqa: ARG001
    """Run the tests that need a GPU, from a checkout."""
    if not Path("tests/test_gpu.py").exists() or not importlib.util.find_spec("pytest"):
        raise SkippedError("the tests and pytest are not here: run it in a checkout with the development packages")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    summary = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    if done.returncode:
        raise WrongError("; ".join([summary, *lines]))
    return {"summary": summary}


def graphs_agree(options: Options) -> Values:
    """Compare the weights after training by a CUDA graph with those of eager training, for each model and precision."""
    torch.backends.cudnn.deterministic = True
    differences: Values = {}
    wrong: list[str] = []
    for workload in options.all_models():
        for precision_name in options.precisions():
            name = f"{workload.name} {precision_name}"
            graphed = _trainer(workload, options, precision_name)
            before = [p.detach().clone() for n in (graphed.critic, graphed.generator) for p in n.parameters()]
            actual = _train(graphed)
            expected, again = (_train(_trainer(workload, options, precision_name, graphs=False)) for _ in range(2))
            difference, spread = (relative_difference(weights, expected, before) for weights in (actual, again))
            differences[name] = {
                "difference": difference,
                "eager": spread,
                "iterations": graphed.execution["iterations"],
            }
            if not difference <= max(SPREAD_FACTOR * spread, MAX_DIFFERENCE):
                wrong.append(f"{name}: weight changes differ by {difference:.1e}, those of eager ones by {spread:.1e}")
            if options.device.type == "cuda" and graphed.execution["iterations"] != "a CUDA graph":
                wrong.append(f"{name}: {graphed.execution['iterations']}")
    if wrong:
        raise WrongError("; ".join(wrong), differences)
    return differences


def memory_of_a_graph(options: Options) -> Values:
    """Measure memory before and after a capture, and after the run was freed."""
    device = options.device
    start = _mib_allocated(device)
    trainer = _trainer(options.workload(), options)
    _train(trainer, WARM_UP_ITERATIONS)
    values = {"eager, MiB": torch.cuda.memory_allocated(device) / 2**20}
    values["eager, reserved MiB"] = torch.cuda.memory_reserved(device) / 2**20
    _train(trainer, STEPS)
    _check_uses_graph(trainer)
    values["captured, MiB"] = torch.cuda.memory_allocated(device) / 2**20
    values["captured, reserved MiB"] = torch.cuda.memory_reserved(device) / 2**20
    del trainer
    values["freed, MiB"] = _mib_allocated(device) - start
    if values["freed, MiB"] > LEAK_MIB:
        raise WrongError(f"a finished run leaves {values['freed, MiB']:.0f} MiB allocated", values)
    return values


def three_runs(options: Options) -> Values:
    """Train three runs in one process, the first and the last with the same seed."""
    torch.backends.cudnn.deterministic = True
    start, weights, left = _mib_allocated(options.device), [], []
    for seed in (0, 1, 0):
        trainer = _trainer(options.workload(), options, seed=seed)
        weights.append([weight.cpu() for weight in _train(trainer)])
        if options.device.type == "cuda":
            _check_uses_graph(trainer)
        del trainer
        left.append(_mib_allocated(options.device) - start)
    difference = relative_difference(weights[2], weights[0])
    if not difference <= MAX_DIFFERENCE:
        raise WrongError(f"the third run differs from the first, with the same seed, by {difference:.1e}")
    if left[2] - left[0] > LEAK_MIB:
        raise WrongError(f"memory grows from run to run: {', '.join(f'{mib:.0f}' for mib in left)} MiB")
    return {"difference": difference, "left, MiB": left}


def failed_capture(options: Options) -> Values:
    """Raise inside a capture: the run goes on without a graph, and the next run has one."""

    def generator_loss(fake_outputs: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("raised inside the capture")
        return -fake_outputs.mean()

    loss = replace(gradient_penalty_loss(), generator=generator_loss)
    failing = our_trainer(options.workload(), options.device, "fp32", loss)
    _train(failing)
    state = failing.execution["iterations"]
    if "raised inside the capture" not in state:
        raise WrongError(f"after a capture that raised, iterations are {state}")
    del failing
    following = _trainer(options.workload(), options)
    _train(following)
    _check_uses_graph(following)
    return {"failed": state, "following": following.execution["iterations"]}


def speed(options: Options) -> Values:
    """Time one size against plain double backward and other implementations."""
    precision_name = "tf32" if options.device.type == "cuda" else "fp32"
    compared = implementations([precision_name])
    if options.quick:
        compared = {name: value for name, value in compared.items() if "compiled" not in name}
    running = {name: run(options.workload(), options.device, precision) for name, (run, precision) in compared.items()}
    repeats, count = (1, 1) if options.quick else (3, 5)
    times: dict[str, list[float]] = {name: [] for name in running}
    for steps in running.values():
        milliseconds_per_iteration(steps, WARM_UP, options.device)
    for _ in range(repeats):
        for name, steps in running.items():
            times[name].append(milliseconds_per_iteration(steps, count, options.device))
    medians = {f"{name}, ms": statistics.median(values) for name, values in times.items()}
    missing = [name for name in ("torchgan", "torch_mimicry") if not importlib.util.find_spec(name)]
    ours, plain = (medians[f"{name}, {precision_name}, ms"] for name in ("ours", "eager double backward"))
    if options.device.type == "cuda" and ours > plain:
        raise WrongError(f"ours takes {ours:.1f} ms, eager double backward {plain:.1f} ms", medians)
    return medians | dict.fromkeys(missing, "not installed: skipped")


def top_kernels(options: Options) -> Values:
    """List the 20 kernels (on a CPU: operations) that take the most time, in eager and in compiled training."""
    on_gpu = options.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    values: Values = {}
    for name, compiled in {"eager": False, "compiled": True}.items():
        if compiled and options.quick:
            values[name] = "skipped: quick"
            continue
        trainer = _trainer(options.workload(), options, graphs=False, compile_networks=compiled)
        _train(trainer, 2)
        with profile(activities=activities, acc_events=True) as profiler:
            _train(trainer, 3)
        times = {
            event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000
            for event in profiler.key_averages()
        }
        values[name] = [{"kernel": k, "ms": times[k]} for k in sorted(times, key=lambda k: -times[k])[:20]]
    return values


def four_runs(options: Options) -> Values:
    """Measure the throughput of four runs at once, in processes and in one process, relative to one run."""
    runs, repeats, count = (2, 1, 1) if options.quick else (4, 2, 10)
    precision_name = "bf16" if options.device.type == "cuda" else "fp32"
    throughputs = concurrent_throughput(options.workload(), options.device, precision_name, (runs,), repeats, count)
    return {f"{t.runs}, {t.mode}": {"iterations/s": t.iterations_per_second, "ratio": t.ratio} for t in throughputs}


CHECKS: dict[str, Check] = {
    "gpu tests": Check(gpu_tests, 150, needs_cuda=True),
    "graphs agree with eager training": Check(graphs_agree, 110),
    "memory of a graph": Check(memory_of_a_graph, 35, needs_cuda=True),
    "three runs in one process": Check(three_runs, 40),
    "a raise inside a capture": Check(failed_capture, 35, needs_cuda=True),
    "speed": Check(speed, 90),
    "top kernels": Check(top_kernels, 80),
    "four runs on one GPU": Check(four_runs, 60),
}
"""All checks, the most important first. Their limits add up to ten minutes."""


def perform(name: str, check: Check, options: Options) -> Result:
    """Do a check in this process."""
    start = time.perf_counter()
    try:
        if check.needs_cuda and options.device.type != "cuda":
            raise SkippedError("it needs CUDA")  # noqa: TRY301
        result = Result(name, "passed", values=check.run(options))
    except SkippedError as skipped:
        result = Result(name, "skipped", reason=str(skipped))
    except WrongError as wrong:
        result = Result(name, "failed", reason=str(wrong), values=wrong.values)
    except Exception:  # a check may fail in any code
        result = Result(name, "failed", reason=traceback.format_exc(limit=-3).strip())
    return replace(result, seconds=time.perf_counter() - start)


def perform_in_process(name: str, check: Check, arguments: list[str]) -> Result:
    """Do a check in a new process; a crash or a process that takes too long is a failure."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        output, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [
            sys.executable,
            "-m",
            "wgan_sweep.bench.gpu_check",
            *arguments,
            "--only",
            name,
            "--json",
            str(output),
        ]
        with log.open("wb") as file, _process_group(command, file) as process:
            try:
                process.wait(check.limit)
                reason = f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                reason = f"not finished after {check.limit:g} s"
        if output.exists():
            return Result(**json.loads(output.read_text())["checks"][0])
        tail = log.read_text(errors="replace").strip()[-300:]
    return Result(name, "failed", time.perf_counter() - start, f"{reason}: {tail}".strip(": "))


@contextmanager
def _process_group(command: list[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, and kill what is left of the group on exit."""
    process = subprocess.Popen(  # noqa: S603
        command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _print_result(result: Result) -> None:
    _print(f"{result.status:8} {result.seconds:6.1f} s  {result.check}  {result.reason}".rstrip())
    for name, value in result.values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            _print(f"    {name}")
            for row in value:
                _print(f"      {_shown(row['ms']):>10} ms  {row['kernel'][:90]}")
        else:
            _print(f"    {name}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m wgan_sweep.bench.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="auto, cpu or cuda (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few repeats")
    parser.add_argument("--only", choices=CHECKS, help="do one check, in this process")
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"), help="output (default: gpu-check.json)")
    return parser.parse_args(arguments)


def _options(parsed: argparse.Namespace) -> Options:
    """Check the command's options.

    Raises:
        InputError: if the device cannot be used, or the output cannot be written.
    """
    if parsed.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("there is no CUDA device; --device cpu --quick tries the checks themselves")
    check_output(parsed.json, "--json")
    return Options(find_device(parsed.device, "--device"), parsed.quick)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all checks, print their results, and write the JSON file; return 1 if one failed."""
    parsed = _parse(arguments)
    try:
        options = _options(parsed)
    except InputError as error:
        sys.exit(f"wgan_sweep.bench.gpu_check: {error}")
    name = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else "CPU"
    common = ["--device", str(options.device), *(["--quick"] if options.quick else [])]
    results: list[Result] = []
    for check_name, check in CHECKS.items():
        if parsed.only not in (None, check_name):
            continue
        here = bool(parsed.only)
        results.append(perform(check_name, check, options) if here else perform_in_process(check_name, check, common))
        content = {"device": name, "torch": torch.__version__, "checks": [asdict(result) for result in results]}
        write(parsed.json, json.dumps(content, indent=2) + "\n")  # after each check: the next may not end
        if not here:
            _print_result(results[-1])
    return int(any(result.status == "failed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
