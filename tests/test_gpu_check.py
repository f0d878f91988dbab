"""The checks of `make gpu-check`, as far as a CPU can run them, and the processes that they run in."""

import json
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


def wrong(options: Options) -> dict[str, object]:
    raise WrongError("it leaks", {"MiB": 7})


def test_a_wrong_value_and_an_exception_are_failures() -> None:
    result = perform("wrong", Check(wrong, 1), OPTIONS)
    assert (result.status, result.reason, result.values) == ("failed", "it leaks", {"MiB": 7})
    result = perform("broken", Check(lambda options: {}[0], 1), OPTIONS)
    assert result.status == "failed"
    assert "KeyError: 0" in result.reason


def test_a_process_that_hangs_or_crashes_is_a_failure() -> None:
    hanging = perform_in_process("speed", Check(CHECKS["speed"].run, 0.2), ARGUMENTS)
    assert (hanging.status, hanging.reason) == ("failed", "not finished after 0.2 s")
    crashing = perform_in_process("speed", CHECKS["speed"], ["--no-such-option"])
    assert crashing.status == "failed"
    assert crashing.reason.startswith("exit code 2: ")


def test_a_failure_does_not_stop_the_other_checks(tmp_path: Path, monkeypatch, capsys) -> None:
    checks = {"memory of a graph": CHECKS["memory of a graph"], "speed": Check(CHECKS["speed"].run, 0.2)}
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
