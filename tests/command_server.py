"""Runs ``wgan-sweep`` in forked processes.

Most of a short command's time is spent on importing libraries. This process imports them once, and forks for each
command. The forked process then does what ``python -m wgan_sweep`` does, including the normal end of the interpreter.
"""

import gc
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRELOADED = ["torch._dynamo", "wgan_sweep.commands.sweep", "wgan_sweep.scoring.inception", "wgan_sweep.sweeps.local"]
"""Modules that nearly every command imports. Their import must not depend on the environment or the folder."""


class CommandServer:
    """Starts the process on first use.

    It serves one command at a time. Its environment is that in which this object was made; `serves` tells whether a
    command's environment has the same effect on the imported modules.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._env = dict(os.environ)

    def serves(self, env: dict[str, str]) -> bool:
        """Return whether the imported modules do not depend on what differs in this environment."""
        return _import_environment(self._env) == _import_environment(env)

    def run(self, command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run ``[python, "-m", "wgan_sweep", *arguments]`` to its end."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=Path(__file__).parents[1],
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ("stdout", "stderr")]
            request = {"argv": command[3:], "cwd": str(cwd), "env": env, "outputs": [str(path) for path in outputs]}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            stdout, stderr = (path.read_text() for path in outputs)
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


def _import_environment(env: dict[str, str]) -> dict[str, str]:
    """Return the variables that imported modules read, or that the interpreter reads when it starts."""
    prefixes = ("PYTHON", "OMP_", "MKL_", "TORCH", "LD_", "CUDA_")
    return {name: value for name, value in env.items() if name.startswith(prefixes)}


def _fork_for_each_command() -> None:
    """Fork for each line of the standard input. Return in the forked process only."""
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            _become_command(request)
            return
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
        sys.stdout.flush()
    sys.exit()


def _become_command(request: dict[str, Any]) -> None:
    """Give this process the files, environment, folder and arguments of a command."""
    for target, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["outputs"][0], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["outputs"][1], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, target)
        os.close(opened)
    sys.stdin = open(0)  # noqa: SIM115 (without what was read ahead from the pipe)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv[1:] = request["argv"]
    sys.path[0] = request["cwd"]
    random.seed()


if __name__ == "__main__":
    for module in PRELOADED:
        __import__(module)
    gc.freeze()  # collections in forked processes leave the shared memory as it is
    _fork_for_each_command()
    runpy.run_module("wgan_sweep", run_name="__main__", alter_sys=True)
