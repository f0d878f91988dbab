"""Figures of sweeps of which no run is finished, or whose runs lack what the figure shows."""

from dataclasses import asdict
from pathlib import Path

import pytest

from wgan_sweep.config.catalogue import option_values, options
from wgan_sweep.report import figures
from wgan_sweep.report.figures import make_figure
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status

from ..helpers import write_record

FIGURES = [name for name in options()["figure"] if name != "samples"]


@pytest.mark.parametrize("name", FIGURES)
def test_the_reasons_take_the_place_of_the_figure(name: str, tmp_path: Path) -> None:
    stopped = [
        Record("a", Status.DIVERGED, ["x=1"], error="not finite at step 3"),
        Record("b", Status.FAILED, ["x=2"], error="no luck"),
    ]
    summary = make_figure(option_values("figure", name))(stopped, tmp_path)
    assert "diverged: a (x=1): not finite at step 3" in summary.table
    assert "failed: b (x=2): no luck" in summary.table
    assert summary.picture is None


@pytest.mark.integration
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_its_runs_lack(name: str, tmp_path: Path, make) -> None:
    run = Record("a", Status.DONE, ["x=1"], asdict(make()), scores={"fid": 7.25, "step": 3.0})
    write_record(RunDir(tmp_path / "a"), run)
    summary, why = figures.summarise(option_values("figure", name), name, [run], tmp_path)
    if why:
        assert "cannot show these runs (it needs " in why
        assert "7.25" in summary.table
    elif name == "with_and_without":  # of any metric
        assert "| none       | 7.25 |" in summary.table
    else:
        assert summary.table.startswith("No finished run has what this figure shows.")
