"""Several runs at once: each has its share of the machine, and none takes another with it."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from wgan_sweep.common import gpu_memory
from wgan_sweep.common.progress import Display
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.identity import directory_of
from wgan_sweep.sweeps.local import Cell, Local
from wgan_sweep.sweeps.parallel import Parallel

from .helpers import Shell, records, run

TOGETHER = ["launch=parallel", "launch.jobs=2"]


def cells(make, *devices: str) -> list[Cell]:
    return [Cell(make(f"device={device}"), (), "", None) for device in devices]


def test_cores_are_divided_among_as_many_processes_as_there_is_work_for(make, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert [slot.threads for slot in Parallel(jobs=3).slots(cells(make, *["cpu"] * 9))] == [4] * 3
    assert [slot.threads for slot in Parallel(jobs=8).slots(cells(make, "cpu", "cpu"))] == [6] * 2
    assert [slot.threads for slot in Parallel().slots(cells(make, *["cpu"] * 9))] == [2] * 6
    assert [slot.threads for slot in Parallel(jobs=24).slots(cells(make, *["cpu"] * 24))] == [1] * 24


def test_every_gpu_that_can_be_seen_gets_as_many_runs_as_asked(make, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")

    def gpus(launch: Parallel, *devices: str) -> list[str | None]:
        found = cells(make, "cpu", *["cpu"] * (len(devices) - 1))
        for cell, device in zip(found, devices, strict=True):
            cell.config.device = device
        return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in launch.slots(found)]

    assert gpus(Parallel(per_gpu=2), *["auto"] * 9) == ["3", "5", "3", "5"]
    assert gpus(Parallel(per_gpu=2), "auto", "auto") == ["3", "5"]
    assert gpus(Parallel(per_gpu=3), *["cuda:1"] * 9) == [None] * 3
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus(Parallel(), *["cuda"] * 9) == ["0", "1"]


def test_runs_on_one_gpu_divide_its_memory(make, monkeypatch) -> None:
    """Those that are there: not those that might have been."""
    found = cells(make, *["cpu"] * 6)
    assert {slot.sharing for slot in Parallel(per_gpu=2, jobs=2).slots(found)} == {1}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for cell in found:
        cell.config.device = "auto"

    def sharing(launch: Parallel, count: int) -> list[int]:
        return [slot.sharing for slot in launch.slots(found[:count])]

    assert sharing(Parallel(), 6) == [1, 1]
    assert sharing(Parallel(per_gpu=2), 6) == [2] * 4
    assert sharing(Parallel(per_gpu=4), 2) == [1, 1]
    assert sharing(Parallel(per_gpu=2), 3) == [2, 1, 2]


def test_a_process_keeps_to_its_part_of_the_memory(monkeypatch) -> None:
    gib = 2**30
    bounds = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 * gib))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * gib, 16 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 1 * gib)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, device: bounds.__setitem__(device, part)
    )
    assert gpu_memory.free(torch.device("cuda")) == 10 * gib
    try:
        gpu_memory.divide(4)
        assert bounds == {0: 3.25 / 16, 1: 3.25 / 16}
        assert gpu_memory.free(torch.device("cuda")) == 2.25 * gib
    finally:
        gpu_memory.divide(1)


@pytest.mark.parametrize("settings", [{"per_gpu": 0}, {"jobs": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be 1 or more"):
        Parallel(**settings)


def test_a_full_disk_stops_no_other_run_and_loses_nothing(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the second run cannot be written, at its start and then at its end."""
    asked = [make(f"seed={seed}") for seed in (0, 1, 2)]
    full = directory_of(asked[1]).record
    written = RunDir.write_record

    for after in (0, 1):
        count = 0

        def write(self: RunDir, record, after: int = after) -> None:
            nonlocal count
            if self.record == full:
                count += 1
                if count > after:
                    raise OSError(28, "No space left on device")
            written(self, record)

        monkeypatch.setattr(RunDir, "write_record", write)
        display = Display(Console(quiet=True))
        outcomes = Local()([Cell(one, ("x",), "", None) for one in asked], display, lambda: False)
        assert [o.record.status if o.record else "problem" for o in outcomes] == ["done", "problem", "done"]
        assert "No space left" in outcomes[1].problem
    monkeypatch.setattr(RunDir, "write_record", written)
    assert run(asked[1]).status == "done"


def test_a_parallel_sweep_does_what_a_local_one_does(sweep: Shell) -> None:
    """Two processes; one cell diverges; the same run asked twice; the same command again does nothing."""
    done = sweep("-m", "div.k=1,2.0,2", "optimizer.lr=1e-4,1e30", *TOGETHER, code=1)
    found = records(sweep.folder)
    assert sorted(r["status"] for r in found) == ["diverged", "diverged", "done", "done"]
    assert "4 of them" in done.stdout
    assert len(list((sweep.folder / "runs").glob("[0-9a-f]*/log.txt"))) == 4
    for record in found:  # said by the other processes, on this one's display
        assert re.search(rf"{record['run_id']} .*{record['status']}", done.stderr)
    again = sweep("-m", "div.k=1,2.0,2", "optimizer.lr=1e-4", *TOGETHER)
    assert again.stderr.count("nothing left to do") == 3
    assert list((sweep.folder / "runs" / ".locks").iterdir()) == []


def owners(sweep: Shell) -> dict[str, int]:
    """Return which process is at which run."""
    claims = [p.read_text() for p in (sweep.folder / "runs" / ".locks").glob("*.lock")]
    return {claim.split("/")[-1].split(".")[0]: int(re.split(r"[|^~#@]", claim)[2]) for claim in claims}


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start(sweep: Shell, steps: int) -> subprocess.Popen[str]:
    grid = ["div.k=1,2,3", f"train.steps={steps}", "save_every=5", "log_every=5"]
    shell = sweep.start("-m", *grid, *TOGETHER)
    sweep.wait_for("checkpoint.pt", 2)
    return shell


def test_a_process_that_is_killed_is_a_failed_run_and_the_others_go_on(sweep: Shell) -> None:
    shell = start(sweep, 300)
    name, process = next(iter(owners(sweep).items()))
    os.kill(process, signal.SIGKILL)
    said, errors = shell.communicate(timeout=60)
    assert shell.returncode == 1, errors
    by_name = {r["run_id"]: r for r in records(sweep.folder)}
    assert by_name[name]["status"] == "failed"
    assert "signal 9 (SIGKILL)" in by_name[name]["error"]
    assert f"failed: {name}" in said
    assert sorted(r["status"] for r in by_name.values()) == ["done", "done", "failed"]
    again = sweep("-m", "div.k=1,2,3", "train.steps=300", *TOGETHER)  # a failed run is tried again, from where it was
    assert [r["status"] for r in records(sweep.folder)] == ["done"] * 3
    assert again.stderr.count("nothing left to do") == 2
    log = (sweep.folder / "runs" / name / "log.txt").read_text()
    first, second = map(int, re.findall(r"starting at step (\d+)", log))
    assert first == 0 < second < 300


def test_ctrl_c_saves_every_run_at_work(sweep: Shell) -> None:
    shell = start(sweep, 100000)
    at_work = owners(sweep)
    os.kill(shell.pid, signal.SIGINT)
    said, errors = shell.communicate(timeout=60)
    assert shell.returncode == 130, errors
    assert "2 running" in said or said.count("1 running") == 2
    found = records(sweep.folder)
    assert {r["run_id"] for r in found} == set(at_work)  # the third was not started
    for record in found:
        path = sweep.folder / "runs" / record["run_id"]
        last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        assert record["step"] >= last["step"]
    wait_until_gone(list(at_work.values()))


def test_without_the_one_that_started_them_the_processes_save_and_end(sweep: Shell) -> None:
    shell = start(sweep, 100000)
    at_work = owners(sweep)
    shell.kill()
    shell.communicate()
    wait_until_gone(list(at_work.values()))
    assert [r["status"] for r in records(sweep.folder)] == ["running"] * 2  # interrupted: taken up next time
    assert list((sweep.folder / "runs" / ".locks").iterdir()) == []


@pytest.mark.parametrize("after", [0.3, 1.5])
def test_ctrl_c_while_processes_start_is_no_failure(sweep: Shell, after: float) -> None:
    """It reaches the whole group, as from a terminal."""
    shell = subprocess.Popen(
        sweep._command("-m", "div.k=1,2,3", "train.steps=100000", *TOGETHER),
        cwd=sweep.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((sweep.folder / "runs").glob(".sweeps/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(after)
    os.killpg(shell.pid, signal.SIGINT)
    _, errors = shell.communicate(timeout=60)
    assert shell.returncode == 130, errors
    assert "Traceback" not in errors
    assert {r["status"] for r in records(sweep.folder)} <= {"running"}
