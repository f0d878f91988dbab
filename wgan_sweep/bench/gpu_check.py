"""Checks that only a GPU can do (``make gpu-check``): each in a process of its own, within ten minutes together.

Prints a table, writes all values to a JSON file, and exits with 1 if anything is wrong. On a CPU, the checks that need
CUDA are skipped.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from wgan_sweep.objectives.losses import Loss
from wgan_sweep.training.cuda_graphs import WARM_UP_ITERATIONS, relative_difference
from wgan_sweep.training.trainer import Trainer

LEAK_MIB = 256.0
"""Memory that a finished run may leave allocated: on an H100 or H200, 32 MiB for each stream and handle of cuBLAS, if
torch keeps them. A run that is not freed leaves its weights, its optimizers and its graph, which is more."""
SPREAD_FACTOR = 10.0
"""Largest accepted difference of graph and eager training, in differences of two eager trainings."""
MAX_DIFFERENCE = 5e-3
"""Relative difference of equal trainings that is accepted in any case: kernels may sum in any order."""
STEPS = WARM_UP_ITERATIONS + 8
"""Steps of a training. In fp16, the warm-up begins only when both players have taken an update without overflow."""
UNFINISHED = "not finished"
"""The reason of a result while its check goes on."""
Values = dict[str, Any]


class WrongError(Exception):
    """Something is wrong with what a check measured."""


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

    @property
    def fast_precision(self) -> str:
        """The precision that ``auto`` chooses."""
        return "tf32" if self.device.type == "cuda" else "fp32"

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

    run: Callable[[Options], Iterable[Values]]
    """Yields what it measures, as it comes. Raises `WrongError` if that is wrong, `SkippedError` if it cannot be done
    here."""
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
    return _weights(trainer)


def _weights(trainer: Trainer) -> list[Tensor]:
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


def _gpu_tests(selection: str) -> Iterator[Values]:
    """Run those tests that need a GPU whose names fit a selection, from a checkout."""
    if not Path("tests/test_gpu.py").exists() or not importlib.util.find_spec("pytest"):
        raise SkippedError("the tests and pytest are not here: run it in a checkout with the development packages")
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    command = [*pytest, "-m", "gpu", "-k", selection, "tests/test_gpu.py"]
    lost: list[str] = []
    reasons: list[str] = []
    passed, line = 0, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603
        for line in process.stdout or ():
            if outcome := re.match(r"tests/test_gpu\.py::(.+) (PASSED|FAILED|ERROR) ", line):
                passed += outcome[2] == "PASSED"
                lost += [outcome[1]] if outcome[2] != "PASSED" else []
                yield {"passed": passed, "failed": lost}
            elif line.startswith(("FAILED", "ERROR")):
                reasons.append(line.strip())
    yield {"summary": line.strip()}
    if process.returncode:
        raise WrongError("; ".join([line.strip(), *reasons]))


def gpu_tests(options: Options) -> Iterator[Values]:  # noqa: ARG001
    """Run the tests that need a GPU and compile nothing."""
    yield from _gpu_tests("not compiled")


def gpu_tests_of_compiled_training(options: Options) -> Iterator[Values]:  # noqa: ARG001
    """Run the tests that compile on a GPU."""
    yield from _gpu_tests("compiled")


def graphs_agree(options: Options) -> Iterator[Values]:
    """Compare the weights after training by a CUDA graph with those of eager training, for each model and precision."""
    torch.backends.cudnn.deterministic = True
    wrong: list[str] = []
    for workload in options.all_models():
        for precision_name in options.precisions():
            name = f"{workload.name} {precision_name}"
            graphed = _trainer(workload, options, precision_name)
            before = _weights(graphed)
            actual = _train(graphed)
            expected, again = (_train(_trainer(workload, options, precision_name, graphs=False)) for _ in range(2))
            difference, spread = (relative_difference(weights, expected, before) for weights in (actual, again))
            iterations = graphed.execution["iterations"]
            yield {name: {"difference": difference, "eager": spread, "iterations": iterations}}
            if not difference <= max(SPREAD_FACTOR * spread, MAX_DIFFERENCE):
                wrong.append(f"{name}: weight changes differ by {difference:.1e}, those of eager ones by {spread:.1e}")
            if options.device.type == "cuda" and iterations != "a CUDA graph":
                wrong.append(f"{name}: {iterations}")
    if wrong:
        raise WrongError("; ".join(wrong))


def memory_of_a_graph(options: Options) -> Iterator[Values]:
    """Measure memory before and after a capture, and after the run was freed."""
    device = options.device
    start = _mib_allocated(device)
    trainer = _trainer(options.workload(), options)
    for name, steps in {"eager": WARM_UP_ITERATIONS, "captured": STEPS}.items():
        _train(trainer, steps)
        yield {
            f"{name}, MiB": torch.cuda.memory_allocated(device) / 2**20,
            f"{name}, reserved MiB": torch.cuda.memory_reserved(device) / 2**20,
        }
    _check_uses_graph(trainer)
    del trainer
    left = _mib_allocated(device) - start
    yield {"freed, MiB": left}
    if left > LEAK_MIB:
        raise WrongError(f"a finished run leaves {left:.0f} MiB allocated")


def three_runs(options: Options) -> Iterator[Values]:
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
        yield {"left, MiB": left}
    difference = relative_difference(weights[2], weights[0])
    yield {"difference": difference}
    if not difference <= MAX_DIFFERENCE:
        raise WrongError(f"the third run differs from the first, with the same seed, by {difference:.1e}")
    if left[2] - left[0] > LEAK_MIB:
        raise WrongError(f"memory grows from run to run: {', '.join(f'{mib:.0f}' for mib in left)} MiB")


def _raise(fake_outputs: Tensor) -> None:  # noqa: ARG001
    raise RuntimeError("raised inside the capture")


def _wait(fake_outputs: Tensor) -> None:
    fake_outputs.sum().item()


def failed_capture(options: Options) -> Iterator[Values]:
    """Raise inside a capture, then wait for the device: the run goes on eagerly, and the next run has a graph."""
    torch.backends.cudnn.deterministic = True
    eager = _trainer(options.workload(), options, graphs=False)
    before = _weights(eager)
    expected = _train(eager)
    failures = {"raised inside the capture": _raise, "operation not permitted when stream is capturing": _wait}
    for reason, fail in failures.items():
        failing = our_trainer(options.workload(), options.device, "fp32", _loss_that_fails_in_a_capture(fail))
        difference = relative_difference(_train(failing), expected, before)
        state = failing.execution["iterations"]
        yield {reason: {"iterations": state, "difference": difference}}
        if reason not in state:
            raise WrongError(f"after a failed capture ({reason}), iterations are {state}")
        if torch.cuda.current_stream(options.device) != torch.cuda.default_stream(options.device):
            raise WrongError(f"after a failed capture ({reason}), the current stream is not the default one")
        if not difference <= MAX_DIFFERENCE:
            raise WrongError(f"after a failed capture ({reason}), weight changes differ by {difference:.1e}")
        del failing
        following = _trainer(options.workload(), options)
        _train(following)
        _check_uses_graph(following)
        del following


def _loss_that_fails_in_a_capture(fail: Callable[[Tensor], None]) -> Loss:
    def generator_loss(fake_outputs: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            fail(fake_outputs)
        return -fake_outputs.mean()

    return replace(gradient_penalty_loss(), generator=generator_loss)


def speed(options: Options) -> Iterator[Values]:
    """Time one size against plain double backward and other implementations, all without compiling."""
    precision_name = options.fast_precision
    compared = {n: value for n, value in implementations([precision_name]).items() if "compiled" not in n}
    running = {name: run(options.workload(), options.device, precision) for name, (run, precision) in compared.items()}
    repeats, count = (1, 1) if options.quick else (3, 5)
    times: dict[str, list[float]] = {name: [] for name in running}
    missing = [name for name in ("torchgan", "torch_mimicry") if not importlib.util.find_spec(name)]
    yield dict.fromkeys(missing, "not installed: skipped")
    for steps in running.values():
        milliseconds_per_iteration(steps, WARM_UP, options.device)
    for _ in range(repeats):
        for name, steps in running.items():
            times[name].append(milliseconds_per_iteration(steps, count, options.device))
            yield {f"{name}, ms": statistics.median(times[name])}
    ours, plain = (statistics.median(times[f"{name}, {precision_name}"]) for name in ("ours", "eager double backward"))
    if options.device.type == "cuda" and ours > plain:
        raise WrongError(f"ours takes {ours:.1f} ms, eager double backward {plain:.1f} ms")


def _slowest_kernels(trainer: Trainer, options: Options) -> list[dict[str, Any]]:
    """Return the 20 kernels (on a CPU: operations) that take the most time in three more steps of a training."""
    on_gpu = options.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        _train(trainer, trainer.step + 3)
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000
        for event in profiler.key_averages()
    }
    return [{"kernel": k, "ms": times[k]} for k in sorted(times, key=lambda k: -times[k])[:20]]


def top_kernels(options: Options) -> Iterator[Values]:
    """List the kernels that take the most time in eager training."""
    trainer = _trainer(options.workload(), options, options.fast_precision, graphs=False)
    _train(trainer, 2)
    yield {"eager": _slowest_kernels(trainer, options)}


def compiled_training(options: Options) -> Iterator[Values]:
    """Time compiled training against training that is not compiled, and list its slowest kernels."""
    if options.quick:
        raise SkippedError("compiling is not quick")
    for name, compiled in {"not compiled": False, "compiled": True}.items():
        trainer = _trainer(options.workload(), options, options.fast_precision, compile_networks=compiled)
        start = time.perf_counter()
        _train(trainer, 1)
        yield {f"{name}, first iteration, s": time.perf_counter() - start}
        steps = trainer.steps(sys.maxsize)
        milliseconds_per_iteration(steps, WARM_UP, options.device)
        milliseconds = (milliseconds_per_iteration(steps, 5, options.device) for _ in range(3))
        yield {f"{name}, ms": statistics.median(milliseconds), f"{name}, execution": trainer.execution}
        del steps, milliseconds  # this ends the training loop: the next line begins another one
        if compiled:
            yield {"slowest kernels of compiled training": _slowest_kernels(trainer, options)}


def four_runs(options: Options) -> Iterator[Values]:
    """Measure the throughput of four runs at once, in processes and in one process, relative to one run."""
    runs, repeats, count = (2, 1, 1) if options.quick else (4, 2, 10)
    precision_name = "bf16" if options.device.type == "cuda" else "fp32"
    for t in concurrent_throughput(options.workload(), options.device, precision_name, (runs,), repeats, count):
        yield {f"{t.runs}, {t.mode}": {"iterations/s": t.iterations_per_second, "ratio": t.ratio}}


CHECKS: dict[str, Check] = {
    "gpu tests": Check(gpu_tests, 140, needs_cuda=True),
    "graphs agree with eager training": Check(graphs_agree, 85),
    "a failed capture": Check(failed_capture, 35, needs_cuda=True),
    "three runs in one process": Check(three_runs, 35),
    "memory of a graph": Check(memory_of_a_graph, 25, needs_cuda=True),
    "speed": Check(speed, 40),
    "top kernels": Check(top_kernels, 25),
    "four runs on one GPU": Check(four_runs, 50),
    "compiled training": Check(compiled_training, 90),
    "gpu tests of compiled training": Check(gpu_tests_of_compiled_training, 75, needs_cuda=True),
}
"""All checks, the most important first, and those last that compile, which may be slow. Their limits add up to ten
minutes."""


def perform(name: str, check: Check, options: Options, keep: Callable[[Result], None] = lambda _: None) -> Result:
    """Do a check in this process.

    Args:
        name: Its name.
        check: The check.
        options: Where and how thoroughly it runs.
        keep: Called with an unfinished result whenever the check has measured something.
    """
    start = time.perf_counter()
    values: Values = {}
    try:
        if check.needs_cuda and options.device.type != "cuda":
            raise SkippedError("it needs CUDA")  # noqa: TRY301
        for measured in check.run(options):
            values |= measured
            keep(Result(name, "failed", time.perf_counter() - start, UNFINISHED, values))
        result = Result(name, "passed")
    except SkippedError as skipped:
        result = Result(name, "skipped", reason=str(skipped))
    except WrongError as wrong:
        result = Result(name, "failed", reason=str(wrong))
    except Exception:  # a check may fail in any code
        result = Result(name, "failed", reason=traceback.format_exc(limit=-3).strip())
    return replace(result, seconds=time.perf_counter() - start, values=values)


def perform_in_process(name: str, check: Check, arguments: list[str]) -> Result:
    """Do a check in a new process; a crash or a process that takes too long is a failure.

    What the check has measured until then is kept.
    """
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
                reason = f"{UNFINISHED} after {check.limit:g} s"
        result = Result(name, "failed")
        if output.exists():
            result = Result(**json.loads(output.read_text())["checks"][0])
            if result.reason != UNFINISHED:
                return result
        tail = log.read_text(errors="replace").strip()[-300:]
    return replace(result, seconds=time.perf_counter() - start, reason=f"{reason}: {tail}".strip(": "))


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

    def keep(*more: Result) -> None:  # after each check, and while one goes on: it may not end
        checks = [asdict(result) for result in (*results, *more)]
        content = {"device": name, "torch": torch.__version__, "checks": checks}
        write(parsed.json, json.dumps(content, indent=2) + "\n")

    for check_name, check in CHECKS.items():
        if parsed.only not in (None, check_name):
            continue
        if parsed.only:
            results.append(perform(check_name, check, options, keep))
        else:
            results.append(perform_in_process(check_name, check, common))
            _print_result(results[-1])
        keep()
    return int(any(result.status == "failed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
