"""A run that is killed, stopped or refused space at a write recovers bitwise; see `tests.faults.campaign`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import shim

pytestmark = pytest.mark.skipif(shim.obstacle() is not None, reason=str(shim.obstacle()))


def campaign(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a campaign in a process of its own; return its summary."""
    command = [sys.executable, "-m", "tests.faults.campaign", *arguments, "--folder", str(folder)]
    root = Path(__file__).parents[2]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text()) if finished.returncode < 2 else {}
    assert summary, finished.stdout + finished.stderr
    return summary


def assert_all_recovered(summary: dict[str, Any]) -> None:
    assert summary["problems"] == []
    assert summary["recovered"] == summary["trials"] > 0
    assert sum(sum(outcomes.values()) for outcomes in summary["outcomes"].values()) == summary["trials"]


@pytest.mark.integration
def test_a_run_that_is_disturbed_at_some_of_its_writes_recovers_bitwise(tmp_path: Path) -> None:
    summary = campaign(tmp_path, "smoke", "--trials", "6")
    assert_all_recovered(summary)
    assert summary["calls"] > 100
    assert {"write", "fsync", "rename", "link", "unlink", "mkdir", "open64"} <= summary["calls_by_name"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["run", "parallel", "wandb", "fid", "data"])
def test_a_command_that_is_disturbed_at_its_writes_recovers_bitwise(scenario: str, tmp_path: Path) -> None:
    assert_all_recovered(campaign(tmp_path, scenario, "--seconds", "600"))


@pytest.mark.slow
def test_a_campaign_finds_files_that_are_written_in_place(tmp_path: Path) -> None:
    summary = campaign(tmp_path, "careless", "--kinds", "torn")
    found = [problem for problem in summary["problems"] if "record.json" in problem["call"]]
    assert found
    assert len(summary["problems"]) < summary["trials"]
