"""The bench counts and compares what it says."""

import multiprocessing

import pytest
import torch

from wgan_sweep.bench import accuracy, iterations
from wgan_sweep.bench.alone import Processes, at_once
from wgan_sweep.bench.iterations import count_operations, measure
from wgan_sweep.bench.ways import N_CRITIC, Subject, ours, ways
from wgan_sweep.models import DCGAN, MLP

CPU = torch.device("cpu")
TINY = Subject("tiny", DCGAN(2, 4, "batch", "layer"), 16, batch=4)


def test_every_way_takes_its_turns_and_the_yardstick_is_one(monkeypatch) -> None:
    monkeypatch.setattr(iterations, "speed", lambda *_: 1e10)
    compared = {name: way for name, way in ways(["fp32"]).items() if "compiled" not in name and "torch" not in name}
    costs = {cost.way: cost for cost in measure(TINY, compared, 3, 1, CPU)}
    assert len(costs) == 3
    assert costs["plain double backward, fp32"].ratio == 1
    for cost in costs.values():
        assert 50 < cost.peak_mib < 2000
        assert cost.images_per_second == pytest.approx(1000 * 4 * N_CRITIC / cost.ms)
        assert cost.of_floor == pytest.approx(1000 * count_operations(TINY, ours, CPU) / 1e10 / cost.ms, rel=0.5)


def test_runs_at_once_are_compared_with_one_alone() -> None:
    found = {(one.runs, one.way): one for one in at_once(TINY, CPU, "fp32", (2,), 2, 2)}
    assert found.keys() == {(1, "processes"), (2, "processes"), (2, "one process")}
    assert found[1, "processes"].ratio == 1
    assert all(0.02 < one.ratio < 20 for one in found.values())


def test_a_process_that_dies_ends_the_comparison_and_its_neighbours() -> None:
    impossible = Subject("impossible", DCGAN(2, 4, "batch", "layer"), 15, batch=4)
    with pytest.raises(EOFError), Processes(2, impossible, CPU, "fp32"):
        pass
    assert not multiprocessing.active_children()


def test_operations_are_those_of_the_layers() -> None:
    """A linear critic of 3 x 16 x 16 values, a linear generator from 4: each product by hand."""
    subject = Subject("linear", MLP(2, 0, 4), 16, batch=8)  # type: ignore[arg-type]
    product = 2 * 8 * 3 * 16 * 16  # of one pass of the critic, or of the weights' gradient
    forward_and_back = 2 * product  # scores of one batch: forward, the weights' gradient
    # The term: forward, to the input, and from that the weights' gradient and back along it.
    critic = N_CRITIC * (2 * forward_and_back + 4 * product)
    made = 4 * product  # the generator's pass: four inputs
    generator = N_CRITIC * made + 2 * made + 2 * product  # forward; forward, weights; and through the critic
    assert count_operations(subject, ours, CPU) == pytest.approx(critic + generator, rel=0.15)


def test_errors_are_small_and_those_of_double_backward_are_the_measure() -> None:
    forms = {name: form for name, form in accuracy.FORMS.items() if "compiled" not in name}
    found = {(e.precision, e.form): e for e in accuracy.errors(TINY, ["fp32", "bf16"], CPU, forms)}
    assert found["fp32", "ours"].relative < 1e-4 < found["bf16", "ours"].relative < 0.5
    assert found["bf16", "double backward"].ratio == 1
    assert found["bf16", "ours"].ratio == pytest.approx(1, abs=0.3)
