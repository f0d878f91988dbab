"""Choosing runs by their values on the axes of choice."""

from collections.abc import Iterable, Mapping
from typing import Any

from wgan_sweep.config.keys import leaves, referenced_keys
from wgan_sweep.errors import InputError
from wgan_sweep.runs.coordinates import as_text, coordinates
from wgan_sweep.runs.record import Record, Status

RECORDED = ("run_id", "status", "sweep")
"""What runs can be chosen by besides their config."""


def values_of(record: Record) -> dict[str, str]:
    """Return what a run can be chosen by, as text: its options by group, its config values by key, and `RECORDED`.

    Values that the run does not use (`div.k` of a loss without exponents) are left out.
    """
    choices: dict[str, str] = record.config.get("choices", {})
    unused = set(referenced_keys()) - choices.keys() | {"choices"}
    config = {key: as_text(value) for key, value in leaves(record.config) if key.partition(".")[0] not in unused}
    recorded = {name: as_text(getattr(record, name)) for name in RECORDED}
    return config | choices | coordinates(record) | recorded


def select(records: Iterable[Record], wanted: Mapping[str, Any]) -> list[Record]:
    """Return the records whose values are the wanted ones.

    Args:
        records: The records.
        wanted: A value for each axis: an option of a group (``loss``), or a value of a key (``div.k``). A list means
            any of its items. A key that is a list itself is compared with a tuple.

    Raises:
        InputError: for an axis that no run and no config has, or an unknown status.
    """
    allowed = {axis: _texts(value) for axis, value in wanted.items()}
    if unknown := allowed.get("status", set()) - set(Status):
        raise InputError(f"there is no status {', '.join(sorted(unknown))}: choose from {', '.join(Status)}")
    valued = [(record, values_of(record)) for record in records]
    for axis in allowed:
        if not any(axis in values for _, values in valued):
            _check_axis(axis)
    return [record for record, values in valued if all(values.get(axis) in texts for axis, texts in allowed.items())]


def _texts(value: Any) -> set[str]:
    values = value if isinstance(value, list | set | frozenset | range) else [value]
    return {as_text(item) for item in values}


def _check_axis(axis: str) -> None:
    """Raise InputError for an axis that no config has."""
    from wgan_sweep.config.catalogue import known_keys, options, unknown_key
    from wgan_sweep.config.schema import Config

    if axis not in known_keys(Config) | options().keys() | set(RECORDED):
        raise InputError(unknown_key(axis, Config))
