"""The provenance of a run: versions, source, commit, time."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
"""The folder of ``wgan_sweep``."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in ("wgan-sweep", "torch", "torchvision", "numpy", "torch-fidelity", "hydra-core"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def code() -> str:
    """Return the package's version, and 12 hex digits of the SHA-256 of its source files."""
    folder = PACKAGE
    digest = hashlib.sha256()
    sources = (path for path in folder.rglob("*.py") if not path.name.startswith("."))  # no lock file of an editor
    for path in sorted(sources):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{versions().get('wgan-sweep', '?')} ({digest.hexdigest()[:12]})"


def git() -> dict[str, Any] | None:
    """Return the commit of the package's checkout and whether it was edited, or None outside a checkout."""

    def run_git(*command: str) -> str:
        finished = subprocess.run(  # noqa: S603
            ["git", *command],  # noqa: S607
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return finished.stdout.strip()

    try:
        if run_git("ls-files", "--error-unmatch", "__init__.py"):
            return {"commit": run_git("rev-parse", "HEAD"), "edited": bool(run_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        pass
    return None


def now() -> str:
    """Return the time (UTC, ISO 8601, to the microsecond)."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
