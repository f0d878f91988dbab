"""Figures of sweeps of which no run is finished."""

from pathlib import Path

import pytest

from wgan_sweep.config.catalogue import option_values, options
from wgan_sweep.report.figures import make_figure
from wgan_sweep.runs.record import Record, Status


@pytest.mark.parametrize("name", [name for name in options()["figure"] if name != "samples"])
def test_the_reasons_take_the_place_of_the_figure(name: str, tmp_path: Path) -> None:
    stopped = [
        Record("a", Status.DIVERGED, ["x=1"], error="not finite at step 3"),
        Record("b", Status.FAILED, ["x=2"], error="no luck"),
    ]
    summary = make_figure(option_values("figure", name))(stopped, tmp_path)
    assert "diverged: a (x=1): not finite at step 3" in summary.table
    assert "failed: b (x=2): no luck" in summary.table
    assert summary.picture is None
