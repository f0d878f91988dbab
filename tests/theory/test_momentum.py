"""The largest rise of a sequence, and the table of optimizers."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status
from wgan_sweep.theory import momentum

from ..helpers import append_metrics
from .tables import rows


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_the_largest_rise_is_the_largest_difference_to_an_earlier_value(values: list[float]) -> None:
    differences = [later - earlier for earlier, later in itertools.combinations(values, 2)]
    assert momentum.largest_rise(values) == pytest.approx(max([0.0, *differences]))


def test_optimizers_are_tabulated_by_their_learning_rates(tmp_path: Path) -> None:
    def record(name: str, optimizer: str, rate: float, trace: list[float]) -> Record:
        for step, w1 in enumerate(trace, 1):
            append_metrics(RunDir(tmp_path / name), {"step": 10 * step, "critic_loss": 1.0})
            append_metrics(RunDir(tmp_path / name), {"step": 10 * step, "w1": w1})
        config = {"choices": {"optimizer": optimizer}, "optimizer": {"lr": rate}}
        return Record(name, Status.DONE, ["x=1"], config, scores={"w1": trace[-1]})

    summary = momentum.summarise(
        [
            record("a", "rmsprop", 1e-3, [4.0, 2.0, 1.0]),
            record("b", "rmsprop", 1e-3, [4.0, 1.0, 3.0]),
            record("c", "adam", 1e-3, [4.0, 1.0, 6.5]),
            record("d", "adam", 1e-4, [4.0, 3.0, 3.5]),
            Record("e", Status.DIVERGED, ["x=2"], error="not finite at step 3"),
        ],
        tmp_path,
    )
    assert rows(summary)[1:] == [
        ["0.0001", "adam", "3.50", "3.00", "0.50", "1"],
        ["0.001", "rmsprop", "2.00 ± 1.41", "1.00 ± 0.00", "1.00 ± 1.41", "2"],
        ["0.001", "adam", "6.50", "1.00", "5.50", "1"],
    ]
    assert "diverged: e (x=2): not finite at step 3" in summary.table
    assert summary.picture is not None
