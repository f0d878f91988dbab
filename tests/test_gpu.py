"""Tests that need a CUDA device. Run with ``pytest -m gpu``."""

import subprocess
import sys

import pytest
import torch

from wgan_sweep.common import rng
from wgan_sweep.objectives.gradient_terms import Power, double_backward
from wgan_sweep.runs.build import build
from wgan_sweep.training.trainer import Trainer

from .helpers import run as run_to_the_end
from .test_gradient_terms import CRITICS, critic_and_batches, fast_double_backward, parameter_gradient, relative_error
from .test_graphs import CHANGING_RATES
from .test_trainer import assert_bitwise_equal, leaves, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # Torch says so once per process, in the thread of a backward pass that uses cuBLAS first, and continues.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("psi", [Power(2, 6), Power(1, 1.5)])
def test_both_implementations_have_the_same_gradient(name: str, psi: Power) -> None:
    critic, points, _ = critic_and_batches(name)
    critic, points = critic.cuda(), points.cuda()
    expected = parameter_gradient(double_backward, critic, points, psi)
    assert relative_error(parameter_gradient(fast_double_backward, critic, points, psi), expected) < 1e-10


def trainer(make, *overrides: str) -> Trainer:
    return build(make("device=cuda", *overrides)).trainer


@pytest.fixture
def _deterministic(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def assert_same_training(actual: Trainer, expected: Trainer) -> None:
    """Compare everything but the options of optimizers: those of one whose steps are captured differ."""
    states = [
        {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in leaves(state).items()}
        for state in (actual.state_dict(), expected.state_dict())
    ]
    assert_bitwise_equal(*({n: v for n, v in state.items() if "/param_groups/" not in n} for state in states))


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=wgan_div"],
        ["loss=wgan_gp", "model=resnet"],
        ["loss=wgan"],
        ["loss=nsgan", "constraint=spectral_norm"],
        ["loss=rpgan", "constraint.r1.every=4"],
        ["loss=rpgan", "constraint.r1.every=2", *CHANGING_RATES],
    ],
    ids=" ".join,
)
def test_training_is_finite_and_resumes_bitwise(make, precision: str, overrides: list[str]) -> None:
    overrides = [*overrides, f"train.precision={precision}"]
    uninterrupted = trainer(make, *overrides)
    steps = run(uninterrupted, 6)
    infinite = {name for metrics in steps for name, value in metrics.items() if not abs(value) < float("inf")}
    assert infinite <= ({"generator_gradient_norm"} if precision == "fp16" else set())  # of updates that overflow
    interrupted = trainer(make, *overrides)
    run(interrupted, 2)
    resumed = trainer(make, *overrides)
    resumed.load_state_dict(interrupted.state_dict())
    assert run(resumed, 6) == steps[2:]
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())


def test_a_gpu_has_the_initial_weights_and_batches_of_a_cpu(make) -> None:
    on_cpu, on_gpu = build(make("device=cpu")).trainer, trainer(make)
    for expected, actual in zip(on_cpu.critic.parameters(), on_gpu.critic.parameters(), strict=True):
        assert torch.equal(expected, actual.cpu())
    assert torch.equal(on_cpu._batches(), on_gpu._batches().cpu())


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_does_not_synchronise_with_the_gpu(make, precision: str) -> None:
    trained = trainer(make, "loss=wgan_div", "train.steps=100", f"train.precision={precision}")
    steps = trained.steps(100)
    for _ in range(18):  # past the capture; the next step is not the first of an epoch, whose order goes to the GPU
        next(steps)
    assert trained.execution["iterations"] == "a CUDA graph"
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_process_that_exceeds_its_share_of_memory_runs_out_of_memory() -> None:
    program = """if True:
        import torch
        from wgan_sweep.sweeps.parallel import Slot, apply_limits
        apply_limits(Slot(threads=1, processes_per_gpu=8))
        total = torch.cuda.get_device_properties(0).total_memory
        small = torch.empty(int(0.02 * total), dtype=torch.uint8, device="cuda")
        try:
            torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError:
            print(int(small.fill_(1)[0]))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_gpus_random_number_generator_is_seeded(make) -> None:
    first, second = (torch.rand(3, generator=rng.generator(0, "x", device="cuda"), device="cuda") for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_compiled_training_agrees_with_eager_training(make, precision: str, graphs: bool) -> None:
    overrides = ["loss=wgan_gp", "sampling=mixture", f"train.precision={precision}", f"graphs={graphs}"]
    eager, compiled = trainer(make, *overrides), trainer(make, *overrides, "train.compile=true")
    expected, actual = run(eager, 8), run(compiled, 8)
    assert compiled.execution["critic's gradient"] == "compiled"
    assert compiled.execution["iterations"].startswith("a CUDA graph") == graphs
    for metrics, eager_metrics in zip(actual, expected, strict=True):
        assert metrics == pytest.approx(eager_metrics, rel=5e-2, abs=1e-2)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=wgan_div"],
        ["loss=wgan_gp", "model=resnet"],
        ["loss=wgan"],
        ["loss=rpgan", "constraint.r1.every=4"],
        ["loss=rpgan", "constraint.r1.every=2", *CHANGING_RATES],
        ["loss=relativistic_average", "train.simultaneous=true"],
    ],
    ids=" ".join,
)
def test_iterations_replayed_from_a_graph_equal_eager_ones(make, overrides: list[str]) -> None:
    captured, eager = trainer(make, *overrides), trainer(make, *overrides, "graphs=false")
    assert run(captured, 12) == run(eager, 12)
    assert captured.execution["iterations"] == "a CUDA graph"
    assert_same_training(captured, eager)


@pytest.mark.usefixtures("_deterministic")
def test_training_goes_on_eagerly_after_an_operation_that_cannot_be_captured(make) -> None:
    refused, eager = trainer(make), trainer(make, "graphs=false")
    generator_loss = refused._generator_loss

    def waits_in_a_capture(real: torch.Tensor | None, fake: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            fake.sum().item()
        return generator_loss(real, fake)

    vars(refused)["_generator_loss"] = waits_in_a_capture
    assert run(refused, 12) == run(eager, 12)
    assert "operation not permitted when stream is capturing" in refused.execution["iterations"]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert_same_training(refused, eager)
    torch.rand(1, device="cuda")  # the default generator draws, too
    following = trainer(make)
    run(following, 12)
    assert following.execution["iterations"] == "a CUDA graph"
    assert_same_training(following, eager)


def test_the_exact_scorer_scores_images_that_a_gpu_generates(make) -> None:
    record = run_to_the_end(make("device=cuda", "train.steps=2", "scorer=exact", "scorer.num_samples=20"))
    assert record.status == "done", record.error
    assert record.scores["w1"] > 0


def test_a_record_has_the_name_of_the_gpu(make) -> None:
    record = run_to_the_end(make("device=cuda", "train.steps=2"))
    assert record.execution["gpu"] == torch.cuda.get_device_name()
