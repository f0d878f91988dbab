"""What only a GPU can show: the same guarantees there. Run with ``pytest -m gpu``."""

import subprocess
import sys

import pytest
import torch

from wgan_sweep.common import rng
from wgan_sweep.objectives.gradient_terms import Power, double_backward
from wgan_sweep.runs.build import build
from wgan_sweep.training.trainer import Trainer

from .test_gradient_terms import CRITICS, critic_and_batches, fast_double_backward, parameter_gradient, relative_error
from .test_trainer import assert_bitwise_equal, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("psi", [Power(2, 6), Power(1, 1.5)])
def test_both_forms_have_the_same_gradient(name: str, psi: Power) -> None:
    critic, points, _ = critic_and_batches(name)
    critic, points = critic.cuda(), points.cuda()
    wanted = parameter_gradient(double_backward, critic, points, psi)
    assert relative_error(parameter_gradient(fast_double_backward, critic, points, psi), wanted) < 1e-10


def trainer(make, *overrides: str) -> Trainer:
    return build(make("device=cuda", *overrides)).trainer


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(
    "overrides",
    [["loss=wgan_div"], ["loss=wgan_gp", "model=resnet"], ["loss=wgan"], ["loss=nsgan", "constraint=spectral_norm"]],
    ids=" ".join,
)
def test_training_is_finite_and_resumes_bitwise(make, precision: str, overrides: list[str], monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    asked = [*overrides, f"train.precision={precision}"]
    through = trainer(make, *asked)
    values = run(through, 6)
    assert all(abs(v) < float("inf") for line in values for v in line.values())
    before = trainer(make, *asked)
    run(before, 2)
    after = trainer(make, *asked)
    after.load_state_dict(before.state_dict())
    assert run(after, 6) == values[2:]
    assert_bitwise_equal(after.state_dict(), through.state_dict())


def test_a_gpu_starts_from_the_weights_of_a_cpu_and_sees_the_same_batches(make) -> None:
    here, there = build(make("device=cpu")).trainer, trainer(make)
    for one, other in zip(here.critic.parameters(), there.critic.parameters(), strict=True):
        assert torch.equal(one, other.cpu())
    assert torch.equal(here._batches(), there._batches().cpu())


def test_a_step_waits_for_nothing(make) -> None:
    made = trainer(make, "loss=wgan_div", "train.steps=100")
    steps = made.steps(100)
    for _ in range(10):  # past the first epochs, whose orders are copied
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_that_takes_more_memory_than_its_part_fails_alone() -> None:
    program = """if True:
        import torch
        from wgan_sweep.sweeps.parallel import Slot, apply_limits
        apply_limits(Slot(threads=1, sharing=8))
        total = torch.cuda.get_device_properties(0).total_memory
        small = torch.empty(int(0.02 * total), dtype=torch.uint8, device="cuda")
        try:
            torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError:
            print(int(small.fill_(1)[0]))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_the_generator_of_a_gpu_is_seeded(make) -> None:
    one, other = (torch.rand(3, generator=rng.generator(0, "x", device="cuda"), device="cuda") for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_compiled_training_is_training(make, precision: str, graphs: bool) -> None:
    asked = ["loss=wgan_gp", "sampling=mixture", f"train.precision={precision}", f"graphs={graphs}"]
    plain, compiled = trainer(make, *asked), trainer(make, *asked, "train.compile=true")
    wanted, found = run(plain, 8), run(compiled, 8)
    assert compiled.how["critic's gradient"] == "compiled"
    assert compiled.how["iterations"].startswith("a CUDA graph") == graphs
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=5e-2, abs=1e-2)


@pytest.mark.parametrize(
    "overrides", [["loss=wgan_div"], ["loss=wgan_gp", "model=resnet"], ["loss=wgan"]], ids=" ".join
)
def test_iterations_by_a_graph_are_those_without_one(make, overrides: list[str], monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    graph, plain = trainer(make, *overrides), trainer(make, *overrides, "graphs=false")
    assert run(graph, 12) == run(plain, 12)
    assert graph.how["iterations"] == "a CUDA graph"
    assert_bitwise_equal(graph.state_dict(), plain.state_dict())
