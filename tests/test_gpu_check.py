"""The checks of `make gpu-check`, as far as a CPU can run them, and the processes that they run in."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from wgan_sweep.bench import gpu_check
from wgan_sweep.bench.gpu_check import CHECKS, Check, Options, WrongError, main, perform, perform_in_process

OPTIONS = Options(torch.device("cpu"), quick=True)
ARGUMENTS = ["--device", "cpu", "--quick"]


@pytest.mark.parametrize("name", ["three runs in one process", "speed", "top kernels"])
def test_checks_pass_on_a_cpu(name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # restores it
    result = perform(name, CHECKS[name], OPTIONS)
    assert (result.status, result.reason) == ("passed", "")
    assert json.loads(json.dumps(result.values)) == result.values
    assert result.values


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graphs agree with eager training", "four runs on one GPU"])
def test_slower_checks_pass_on_a_cpu(name: str, monkeypatch) -> None:
    test_checks_pass_on_a_cpu(name, monkeypatch)


def test_checks_that_need_cuda_are_skipped_on_a_cpu() -> None:
    for name, check in CHECKS.items():
        if check.needs_cuda:
            result = perform(name, check, OPTIONS)
            assert (result.status, result.reason) == ("skipped", "it needs CUDA")


def test_all_checks_together_take_at_most_ten_minutes() -> None:
    assert sum(check.limit for check in CHECKS.values()) <= 600


def wrong(options: Options) -> Iterator[dict[str, object]]:
    yield {"MiB": 7}
    raise WrongError("it leaks")


def test_a_wrong_value_and_an_exception_are_failures() -> None:
    result = perform("wrong", Check(wrong, 1), OPTIONS)
    assert (result.status, result.reason, result.values) == ("failed", "it leaks", {"MiB": 7})
    result = perform("broken", Check(lambda options: {}[0], 1), OPTIONS)
    assert result.status == "failed"
    assert "KeyError: 0" in result.reason


@pytest.mark.integration
def test_a_process_that_hangs_or_crashes_is_a_failure() -> None:
    hanging = perform_in_process("speed", Check(CHECKS["speed"].run, 0.2), ARGUMENTS)
    assert (hanging.status, hanging.reason) == ("failed", "not finished after 0.2 s")
    crashing = perform_in_process("speed", Check(CHECKS["speed"].run, 120), ["--no-such-option"])
    assert crashing.status == "failed"
    assert crashing.reason.startswith("exit code 2: ")


def test_what_a_check_has_measured_before_it_hangs_is_kept(tmp_path: Path, monkeypatch) -> None:
    unfinished = gpu_check.Result("speed", "failed", 1.0, gpu_check.UNFINISHED, {"ours, ms": 7.0})
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"checks": [asdict(unfinished)]}))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nfor output; do :; done\ncp "{kept}" "$output"\nexec sleep 60\n')  # the last argument
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    result = perform_in_process("speed", Check(CHECKS["speed"].run, 2), ARGUMENTS)
    assert (result.status, result.reason, result.values) == ("failed", "not finished after 2 s", {"ours, ms": 7.0})


def test_a_check_keeps_what_it_measures_as_it_comes() -> None:
    kept: list[gpu_check.Result] = []
    perform("wrong", Check(wrong, 1), OPTIONS, kept.append)
    assert [(result.reason, result.values) for result in kept] == [(gpu_check.UNFINISHED, {"MiB": 7})]


def test_checks_that_compile_come_last() -> None:
    compiling = [name for name in CHECKS if "compiled" in name]
    assert list(CHECKS)[-len(compiling) :] == compiling


@pytest.mark.integration
def test_a_failure_does_not_stop_the_other_checks(tmp_path: Path, monkeypatch, capsys) -> None:
    memory = replace(CHECKS["memory of a graph"], limit=120)
    checks = {"memory of a graph": memory, "speed": Check(CHECKS["speed"].run, 0.2)}
    monkeypatch.setattr(gpu_check, "CHECKS", dict(reversed(checks.items())))
    output = tmp_path / "results.json"
    assert main([*ARGUMENTS, "--json", str(output)]) == 1
    results = json.loads(output.read_text())["checks"]
    assert [(result["check"], result["status"]) for result in results] == [
        ("speed", "failed"),
        ("memory of a graph", "skipped"),
    ]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["failed", "skipped"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["there is no CUDA device", "--device cpu --quick"]),
        (["--device", "cuda:1"], ["there is no CUDA device"]),
        (["--device", "gpu"], ["--device=gpu", "use auto, cpu or cuda"]),
        ([*ARGUMENTS, "--json", "no such folder/x.json"], ["--json no such folder/x.json", "there is no folder"]),
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused_in_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    message = str(refusal.value.code)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
