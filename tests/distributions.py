"""Checks what is in built distributions: `python tests/distributions.py CHECKOUT SDIST WHEEL DIRECT_WHEEL`.

SDIST and WHEEL are as `python -m build` makes them, the wheel from the sdist. DIRECT_WHEEL is a wheel that was built
from the checkout itself.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

SDIST_FOLDERS = [".github", "conf", "tests", "wgan_sweep"]
SDIST_FILES = ["CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"]
ADDED_TO_SDIST = {"PKG-INFO", ".gitignore"}
"""What the build adds: the metadata, and the patterns of files that it leaves out."""
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def source_files(checkout: Path, *paths: str) -> set[str]:
    """Return the existing files below some paths of a checkout that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in listed if name and (checkout / name).is_file()}


def differences(what: str, actual: set[str], expected: set[str]) -> list[str]:
    """Return one line for each name that is missing or should not be there."""
    missing = [f"{what} lacks {name}" for name in sorted(expected - actual)]
    return missing + [f"{what} should not contain {name}" for name in sorted(actual - expected)]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def check(checkout: Path, sdist: Path, wheel: Path, direct_wheel: Path) -> list[str]:
    """Return what is wrong, in lines."""
    with tarfile.open(sdist) as archive:
        root = sdist.name.removesuffix(".tar.gz")
        in_sdist = {str(Path(member.name).relative_to(root)) for member in archive.getmembers() if member.isfile()}
    expected = source_files(checkout, *SDIST_FOLDERS, *SDIST_FILES) | ADDED_TO_SDIST
    problems = differences("the sdist", in_sdist, expected)

    in_wheel = contents(wheel)
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    package = source_files(checkout, "wgan_sweep")
    config = {f"wgan_sweep/{name}" for name in source_files(checkout, "conf")}
    problems += differences("the wheel", set(in_wheel), package | config | {f"{info}/{name}" for name in METADATA})

    direct = contents(direct_wheel)
    problems += differences("the wheel from the sdist", set(in_wheel), set(direct))
    changed = sorted(name for name in in_wheel.keys() & direct.keys() if in_wheel[name] != direct[name])
    return problems + [
        f"{name} differs between the wheel from the sdist and that from the checkout" for name in changed
    ]


if __name__ == "__main__":
    sys.exit("\n".join(check(*map(Path, sys.argv[1:]))) or None)
