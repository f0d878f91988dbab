"""What made a run: versions, commit, time."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that measurements depend on."""
    found = {"python": platform.python_version()}
    for package in ("wgan-sweep", "torch", "torchvision", "numpy", "torch-fidelity", "hydra-core"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git() -> dict[str, Any] | None:
    """Return the commit of the package's checkout and whether it was edited, or None outside of one."""

    def ask(*command: str) -> str:
        done = subprocess.run(  # noqa: S603
            ["git", *command],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.strip()

    try:
        if ask("ls-files", "--error-unmatch", Path(__file__).name):
            return {"commit": ask("rev-parse", "HEAD"), "edited": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        pass
    return None


def now() -> str:
    """Return the time (UTC, ISO 8601, to the microsecond)."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
