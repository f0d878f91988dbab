"""A campaign: a command is disturbed at each of its writes, started again, and compared with an undisturbed one.

    python -m tests.faults.campaign run --folder /tmp/campaign

The library that disturbs it is compiled and loaded first. torch is imported once, and each command is a fork of this
process. The summary is printed and written to ``summary.json`` in the folder. The exit code is 1 if there are
problems.
"""

import argparse
import atexit
import collections
import ctypes
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from . import shim

PATIENCE_SECONDS = 120.0
"""How long a command may take."""
STAGING_IS_LEFT = ".staging-1 is left over"
SECONDS_BETWEEN_LINES = 60.0
"""How often the progress is printed."""
NOISE = ("Traceback", "--- Logging error ---", "Exception ignored")
"""What standard error must not contain."""
STATEMENTS = ("failed", "refused", "wgan-sweep:")
"""One of these must be printed if a command ends with an error."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; the negative number of the signal that ended it."""
    stderr: str
    stdout: str
    calls: int
    """Number of its calls below the watched folders."""
    fired: int
    """Number of calls that had the fault."""
    trace: dict[int, str]
    problems: list[str] = field(default_factory=list)


class Campaign:
    """Runs the trials of a scenario.

    Args:
        name: The scenario's name.
        folder: Where its files are.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from . import scenarios

        self._scenarios = scenarios
        self.scenario = scenarios.SCENARIOS[name]
        self._trial = folder / "trial"
        self._folder = folder
        self._modules = folder / "modules.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self.scenario.prepare(folder / "inputs")
        self.scenario.patch()
        scenarios.compose_once(folder / "composed")
        ctypes.CDLL(None).prctl(
            PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0
        )  # orphans of a command become children of this process
        self._clear()
        first = self.launch()
        if first.code or first.problems:
            raise SystemExit(f"the undisturbed command failed: {first.problems}\n{first.stderr}")
        self.expected = scenarios.snapshot(self._trial)
        self._import_modules()
        self._clear()
        again = self.launch()
        if unstable := scenarios.differences(self.expected, scenarios.snapshot(self._trial)):
            raise SystemExit(f"the undisturbed command is not reproducible: {unstable}")
        self.trace = again.trace

    def _import_modules(self) -> None:
        """Import what the command has imported, so that later ones need not."""
        for name in self._modules.read_text().split():
            with suppress(ImportError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # else a collection in a command would copy all pages

    def _clear(self) -> None:
        shutil.rmtree(self._trial, ignore_errors=True)
        self._trial.mkdir()

    def launch(self, fault: shim.Fault = shim.NO_FAULT, at: int = 0) -> Ended:
        """Run the command in the folder of the trial, with a fault from the call of a number on, to its end."""
        folders = [self._trial / name for name in self.scenario.watched]
        control = shim.Control(self._folder / "control", folders, fault, at)
        stdout, stderr = self._folder / "stdout.txt", self._folder / "stderr.txt"
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            self._be_the_command(control, stdout, stderr)
        problems = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        code: int | None = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
            if pid == 0:
                if time.monotonic() > deadline:
                    problems.append("hangs" if code is None else "leaves processes")
                    for left in _children():
                        os.kill(left, signal.SIGKILL)
                time.sleep(0.002)
        text = stderr.read_text(errors="replace")
        problems += [f"prints {noise!r}" for noise in NOISE if noise in text]
        return Ended(
            code or 0, text, stdout.read_text(errors="replace"), control.count, control.fired, control.trace(), problems
        )

    def _be_the_command(self, control: shim.Control, stdout: Path, stderr: Path) -> NoReturn:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background commands
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
            os.chdir(self._trial)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in ((1, stdout), (2, stderr)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
            os.environ.update(self._scenarios.environment(self.scenario, self._trial))
            sys.argv = ["wgan-sweep", *self.scenario.arguments]
            from wgan_sweep.commands.sweep import main

            control.attach()
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    sys.stderr.write(f"{end.code}\n")
        except BaseException:
            traceback.print_exc()
        finally:
            if not self._modules.exists():
                modules = (name for name, module in sys.modules.items() if getattr(module, "__spec__", None))
                self._modules.write_text("\n".join(modules))
            sys.stdout.flush()
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stderr.flush()
            os._exit(code)

    def trial(self, kind: str, at: int) -> tuple[str, list[str]]:
        """Disturb the command at a call, start it again, and compare the results.

        Returns:
            How the disturbed command ended, and what is wrong, if anything.
        """
        fault = shim.KINDS[kind]
        self._clear()
        first = self.launch(fault, at)
        problems = [f"disturbed: it {problem}" for problem in first.problems]
        outcome = self._outcome(first, fault)
        if outcome == "done":  # the next start removes a staging folder that could not be removed
            problems += [line for line in self._compare("disturbed") if not line.endswith(STAGING_IS_LEFT)]
        elif outcome == "error" and not any(statement in first.stderr + first.stdout for statement in STATEMENTS):
            problems.append(f"disturbed: exit code {first.code} without a statement: {first.stderr[-500:]!r}")
        second = self.launch()
        problems += [f"restarted: it {problem}" for problem in second.problems]
        if second.code:
            problems.append(f"restarted: exit code {second.code}: {second.stderr[-500:]!r}")
        problems += self._compare("restarted")
        return outcome, problems

    @staticmethod
    def _outcome(ended: Ended, fault: shim.Fault) -> str:
        if not ended.fired:
            return "not reached"
        if ended.code == 0:
            return "done"
        if ended.code == -signal.SIGKILL and fault.action in (shim.KILL, shim.TORN):
            return "killed"
        if ended.code == 128 + fault.value and fault.action == shim.SIGNAL:
            return "interrupted"
        return "error"

    def _compare(self, when: str) -> list[str]:
        try:
            found = self._scenarios.snapshot(self._trial)
        except Exception as error:
            return [f"{when}: a file cannot be read: {type(error).__name__}: {error}"]
        return [f"{when}: {line}" for line in self._scenarios.differences(self.expected, found)]


def _children() -> list[int]:
    """Return the children of this process."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in pids.split()]


def trials(trace: dict[int, str], kinds: list[str], most: int | None, seed: int) -> list[tuple[str, int]]:
    """Return the faults to try, as kind and call: every kind at every call where it differs from another kind.

    Args:
        trace: The calls of the undisturbed command.
        kinds: The kinds of faults.
        most: The most trials: a random sample of all; None for all.
        seed: The seed of the sample.
    """
    every = []
    for kind in kinds:
        for at, call in trace.items():
            name = call.split()[0]
            if kind in ("torn", "short") and not ("write" in name or name in ("sendfile", "copy_file_range")):
                continue
            if kind.startswith("enospc") and name in ("unlink", "unlinkat", "rmdir"):
                continue
            every.append((kind, at))
    if most is not None and most < len(every):
        every = random.Random(seed).sample(every, most)  # noqa: S311
    return every


def campaign(name: str, folder: Path, kinds: list[str], most: int | None, seed: int, seconds: float) -> dict[str, Any]:
    """Run a campaign; return its summary."""
    began = time.monotonic()
    work = Campaign(name, folder)
    planned = trials(work.trace, kinds, most, seed)
    random.Random(seed).shuffle(planned)  # noqa: S311 (so that what the time permits is a sample of all)
    outcomes: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    problems = []
    tried = 0
    shown = began
    for kind, at in planned:
        if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            sys.stdout.write(f"{tried} of {len(planned)} trials after {shown - began:.0f} s\n")
            sys.stdout.flush()
        if time.monotonic() - began > seconds:
            break
        outcome, wrong = work.trial(kind, at)
        outcomes[kind][outcome] += 1
        tried += 1
        if wrong:
            outcomes[kind]["problems"] += 1
            problems.append({"kind": kind, "at": at, "call": work.trace[at], "outcome": outcome, "problems": wrong})
            sys.stdout.write(f"{kind} at {at} ({work.trace[at]}): {outcome}: {'; '.join(wrong)}\n")
            sys.stdout.flush()
    calls = collections.Counter(call.split()[0] for call in work.trace.values())
    return {
        "scenario": name,
        "calls": len(work.trace),
        "calls_by_name": dict(calls),
        "possible_trials": len(trials(work.trace, kinds, None, seed)),
        "trials": tried,
        "outcomes": {kind: dict(sorted(counts.items())) for kind, counts in outcomes.items()},
        "recovered": tried - len(problems),
        "problems": problems,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("scenario")
    parser.add_argument("--folder", type=Path, required=True, help="where the files of the campaign are")
    parser.add_argument("--kinds", default=",".join(shim.KINDS), help="the kinds of faults, separated by commas")
    parser.add_argument("--trials", type=int, help="the most trials, a random sample of all (default: all)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of the order")
    parser.add_argument("--only", help="one trial, as kind@call; its files are kept")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if "FAULTS_LOADED" not in os.environ:
        if problem := shim.obstacle():
            raise SystemExit(problem)
        folder.mkdir(parents=True, exist_ok=True)
        library = shim.compile_to(folder)
        loaded = {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "FAULTS_LOADED": "1"}
        os.execve(  # noqa: S606
            sys.executable, [sys.executable, "-m", "tests.faults.campaign", *sys.argv[1:]], {**os.environ, **loaded}
        )
    if options.only:
        kind, _, at = options.only.partition("@")
        work = Campaign(options.scenario, folder)
        sys.stdout.write(f"{work.trace.get(int(at))}: {work.trial(kind, int(at))}\n")
        return
    kinds = options.kinds.split(",")
    summary = campaign(options.scenario, folder, kinds, options.trials, options.seed, options.seconds)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    sys.stdout.write(json.dumps({**summary, "problems": len(summary["problems"])}, indent=2) + "\n")
    raise SystemExit(bool(summary["problems"]))


if __name__ == "__main__":
    main()
