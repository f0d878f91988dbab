"""Ids as hashes of science values: canonical values, their hash, and their differences."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wgan_sweep.errors import InputError


def canonical(value: Any, key: str = "") -> Any:
    """Return `value` with one spelling per number (2.0 is 2) and lists for tuples, ready for JSON.

    Raises:
        InputError: for a number that is not finite.
    """
    if isinstance(value, Mapping):
        return {str(name): canonical(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, key) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{key or 'a config value'} cannot be {value}: give a finite number")
        return int(value) if value.is_integer() else value
    return value


def hash_of(science: Mapping[str, Any]) -> str:
    """Return the id of the run with these science values: 12 hex digits of a SHA-256 over their canonical JSON."""
    text = json.dumps(canonical(science), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cell_id(science: Mapping[str, Any]) -> str:
    """Return the id of a run's cell: the same for all its seeds, and for no other run."""
    return hash_of({key: value for key, value in science.items() if key != "seed"})


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``key: value in ours, value in theirs`` for each key in which two sets of science values differ."""
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield f"{key}: {ours.get(key)!r}, {theirs.get(key)!r}"


def check_same_science(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a file or directory that belongs to a run with other science values.

    Raises:
        InputError: naming the differences.
    """
    if lines := list(differences(there, here)):
        raise InputError(
            f"{path} belongs to another config (key: stored, requested): {'; '.join(lines)}. "
            "Move it away, or request its config"
        )
