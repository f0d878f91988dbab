"""Benchmarks: their measurements are consistent with independent counts and references."""

import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from wgan_sweep.bench import __main__ as command
from wgan_sweep.bench import accuracy, iterations
from wgan_sweep.bench.agreement import compare_features
from wgan_sweep.bench.implementations import (
    Implementation,
    eager_double_backward,
    implementations,
    ours,
    with_separate_layers,
)
from wgan_sweep.bench.iterations import _OperationCounter, count_operations, measure_costs
from wgan_sweep.bench.processes import SeparateProcesses, concurrent_throughput
from wgan_sweep.bench.workloads import N_CRITIC, Workload
from wgan_sweep.models import DCGAN, MLP, ResNet
from wgan_sweep.objectives.sampling import mixture

CPU = torch.device("cpu")
TINY = Workload("tiny", DCGAN(2, 4, "batch", "layer"), 16, batch=4)


@pytest.mark.slow
def test_costs_are_measured_for_every_implementation_relative_to_eager_double_backward(monkeypatch) -> None:
    monkeypatch.setattr(iterations, "peak_operations_per_second", lambda *_: 1e10)
    compared = {
        name: implementation
        for name, implementation in implementations(["fp32"]).items()
        if "compiled" not in name and "torch" not in name
    }
    costs = {cost.implementation: cost for cost in measure_costs(TINY, compared, 3, 1, CPU)}
    assert len(costs) == 4
    assert costs["eager double backward, fp32"].ratio == 1
    for cost in costs.values():
        assert 50 < cost.peak_mib < 2000
        assert cost.images_per_second == pytest.approx(1000 * 4 * N_CRITIC / cost.ms)
        assert cost.utilisation == pytest.approx(1000 * count_operations(TINY, ours, CPU) / 1e10 / cost.ms, rel=0.5)


@pytest.mark.slow
def test_ratios_are_relative_to_eager_double_backward_with_the_same_points(monkeypatch) -> None:
    monkeypatch.setattr(iterations, "peak_operations_per_second", lambda *_: 1e10)
    compared = {f.__name__: (partial(f, sampling=mixture), "fp32") for f in (eager_double_backward, ours)}
    baseline, fast = measure_costs(TINY, compared, 3, 1, CPU)
    assert baseline.ratio == 1 != fast.ratio


@pytest.mark.parametrize("implementation", [eager_double_backward, ours])
def test_the_gradient_penalty_is_taken_at_the_points_of_the_sampling_scheme(implementation: Implementation) -> None:
    drawn = []

    def record(*arguments: Any) -> torch.Tensor:
        drawn.append(mixture(*arguments))
        return drawn[-1]

    steps = partial(implementation, sampling=record)(TINY, CPU, "fp32")
    next(steps)
    drawn.clear()  # the first update of ours also draws points to check its gradient
    next(steps)
    assert [points.shape for points in drawn] == [(4, 3, 16, 16)] * N_CRITIC


@pytest.mark.slow
def test_concurrent_runs_are_compared_with_a_single_run() -> None:
    throughputs = {(t.runs, t.mode): t for t in concurrent_throughput(TINY, CPU, "fp32", (2,), 2, 2)}
    assert throughputs.keys() == {(1, "processes"), (2, "processes"), (2, "one process")}
    assert throughputs[1, "processes"].ratio == 1
    assert all(0.02 < throughput.ratio < 20 for throughput in throughputs.values())


@pytest.mark.integration
def test_a_process_that_dies_ends_the_comparison_and_the_other_processes() -> None:
    impossible = Workload("impossible", DCGAN(2, 4, "batch", "layer"), 15, batch=4)
    with pytest.raises(EOFError), SeparateProcesses(2, impossible, CPU, "fp32"):
        pass
    assert not multiprocessing.active_children()


def test_counted_operations_match_a_count_by_hand() -> None:
    """A linear critic of 3 x 16 x 16 values and a linear generator from 4."""
    workload = Workload("linear", MLP(2, 0, 4), 16, batch=8)  # type: ignore[arg-type]
    product = 2 * 8 * 3 * 16 * 16  # one pass through the critic, or the gradient of its weights
    forward_and_backward = 2 * product  # outputs for one batch: forward, gradient of the weights
    # The gradient term: forward, to the input, and from that the gradient of the weights and back along it.
    critic = N_CRITIC * (2 * forward_and_backward + 4 * product)
    generator_pass = 4 * product  # the generator has four inputs
    # Forward for each critic update; forward and gradient of the weights; and through the critic.
    generator = N_CRITIC * generator_pass + 2 * generator_pass + 2 * product
    assert count_operations(workload, ours, CPU) == pytest.approx(critic + generator, rel=0.15)


def test_separate_layers_compute_the_same_functions_with_more_operations() -> None:
    workload = Workload("resnet", ResNet(4, 8, "batch", "layer"), 32, 4)
    inputs = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for network, separate, x in zip(
        workload.networks(CPU), map(with_separate_layers, workload.networks(CPU)), inputs, strict=True
    ):
        with _OperationCounter() as ours, torch.no_grad():
            expected = network.double()(x)
        with _OperationCounter() as theirs, torch.no_grad():
            torch.testing.assert_close(separate.double()(x), expected, rtol=1e-9, atol=1e-12)
        assert theirs.total > 1.4 * ours.total


def test_errors_are_small_and_relative_to_double_backward() -> None:
    methods = {name: method for name, method in accuracy.METHODS.items() if "compiled" not in name}
    errors = {(e.precision, e.method): e for e in accuracy.measure_errors(TINY, ["fp32", "bf16"], CPU, methods)}
    assert errors["fp32", "ours"].relative < 1e-4 < errors["bf16", "ours"].relative < 0.5
    assert errors["bf16", "double backward"].ratio == 1
    assert errors["bf16", "ours"].ratio == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_all_implementations_of_a_metric_agree_but_for_known_differences(shift: float) -> None:
    """torchmetrics' MIFID averages over the real images."""
    draw = torch.Generator().manual_seed(0)
    real, generated = (torch.rand(200, 12, generator=draw) + offset for offset in (0, shift))
    rows = dict(compare_features(real, generated))
    assert {metric: set(values) for metric, values in rows.items()} == {
        "fid": {"wgan-sweep", "torchmetrics", "torch-fidelity", "SciPy"},
        "kid": {"wgan-sweep", "torchmetrics", "torch-fidelity", "SciPy"},
        "precision": {"wgan-sweep", "torch-fidelity", "SciPy"},
        "recall": {"wgan-sweep", "torch-fidelity", "SciPy"},
        "mifid": {"wgan-sweep", "torchmetrics", "SciPy"},
        "inception_score": {"wgan-sweep", "torchmetrics", "torch-fidelity", "SciPy"},
    }
    for metric, values in rows.items():
        for by, value in values.items():
            if (metric, by) != ("mifid", "torchmetrics"):
                assert value == pytest.approx(values["SciPy"], rel=2e-3, abs=1e-5), (metric, by)
    assert rows["mifid"]["torchmetrics"] != pytest.approx(rows["mifid"]["SciPy"], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kernel"], ["kernel", "did you mean kernels?"]),
        (["kernels", "everything"], ["everything", "choose from kernels, iterations"]),
        (["--device", "gpu"], ["--device=gpu", "use auto, cpu or cuda"]),
        (["--precision", "fp32", "fp8"], ["--precision fp8", "choose from fp32, tf32, bf16, fp16"]),
        (["--precision", "tf32"], ["--precision=tf32 needs a CUDA device"]),
        (["--repeats", "0"], ["--repeats must be 1 or more", "got 0"]),
        (["--count", "-1"], ["--count must be 1 or more", "got -1"]),
        (["--batch", "64", "0"], ["--batch must be 1 or more", "got 0"]),
        (["--batch", "1025"], ["--batch must be", "at most 1024", "got 1025"]),
        (["--memory", "0"], ["--memory must be 1 or more", "got 0"]),
        (["--json", "no such folder/bench.json"], ["--json no such folder/bench.json", "there is no folder"]),
        (["--json", "."], ["--json .", "not a regular file"]),
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused_in_one_line_before_anything_is_measured(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refusal:
        command.main([*arguments, *([] if "--device" in arguments else ["--device", "cpu"])])
    message = str(refusal.value.code)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_checked_options_reach_the_parts_and_the_results_are_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "restored after the test")
    received = []
    monkeypatch.setattr(command, "_iterations", lambda options: received.append(options) or ["measured"])
    output = tmp_path / "bench.json"
    command.main(["iterations", "--device", "cpu", "--batch", "1", "1024", "--repeats", "1", "--json", str(output)])
    (options,) = received
    assert (options.device, options.precision, options.batch, options.repeats) == (CPU, ["fp32"], [1, 1024], 1)
    assert json.loads(output.read_text()).items() >= {"iterations": ["measured"], "torch": torch.__version__}.items()
