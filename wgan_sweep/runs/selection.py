"""Selecting runs: by the first characters of their ids, by filters on their values, and in an order."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.keys import Role, leaves, role_of
from wgan_sweep.errors import InputError
from wgan_sweep.runs.coordinates import as_text, coordinates
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.lock import lock_owner
from wgan_sweep.runs.record import Record, Status

DEAD = "dead"
"""The status that is shown of a run that was interrupted: it is running by its record, and no process holds it."""
NOT_STARTED = "not started"
"""The status that is shown of a run that a sweep requested, and that has no directory."""
MAX_CANDIDATES = 10
"""How many runs the message about an ambiguous id lists."""


@dataclass(frozen=True)
class StoredRun:
    """A run, as commands list it."""

    record: Record
    directory: RunDir
    status: str
    """The status of its record, `DEAD` or `NOT_STARTED`."""

    @classmethod
    def read(cls, record: Record, folder: Path) -> "StoredRun":
        """Return the run of a record in a folder of runs."""
        directory = RunDir(folder / record.run_id)
        if record.status == Status.NEW:
            return cls(record, directory, NOT_STARTED)
        if record.status == Status.RUNNING and lock_owner(directory.lock) is None:
            with suppress(InputError):
                record = directory.read_record() or record  # it may have ended after its record was read
            if record.status == Status.RUNNING:
                return cls(record, directory, DEAD)
        return cls(record, directory, str(record.status))

    @classmethod
    def archived(cls, record: Record, place: RunDir) -> "StoredRun":
        """Return the run of a record in an archive, which no process trains."""
        is_dead = record.status == Status.RUNNING
        return cls(record, place, DEAD if is_dead else str(record.status))

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.record.run_id

    @cached_property
    def values(self) -> dict[str, str]:
        """What filters see: the run's coordinates, the seed, its other config values, and its state.

        A value that does not count for the run, such as `div.k` for a loss without k and p, is not among them.
        """
        record = self.record
        choices = {group: as_text(name) for group, name in record.config.get("choices", {}).items()}
        groups = {group: name for group, name in choices.items() if role_of(group) is not Role.SCIENCE}
        other = {key: as_text(value) for key, value in leaves(record.config) if role_of(key) is not Role.SCIENCE}
        seed = {"seed": as_text(record.config["seed"])} if "seed" in record.config else {}
        state = {"run_id": record.run_id, "status": self.status, "step": as_text(record.step)}
        return {**other, **groups, **coordinates(record), **seed, **state, "sweep": as_text(record.sweep)}


def stored_runs(records: Iterable[Record], folder: Path) -> list[StoredRun]:
    """Return the runs of records in a folder of runs."""
    return [StoredRun.read(record, folder) for record in records]


def by_id(prefix: str, runs: Sequence[StoredRun]) -> StoredRun:
    """Return the run whose id begins with some characters.

    Raises:
        InputError: if no run has such an id, or several do; the message lists them.
    """
    found = [run for run in runs if prefix and run.run_id.startswith(prefix)]
    exact = [run for run in found if run.run_id == prefix]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        hint = did_you_mean(prefix, [run.run_id for run in runs])
        raise InputError(f"no run has an id that begins with {prefix!r}{hint or '; `wgan-runs list` shows the ids'}")
    more = f", and {len(found) - MAX_CANDIDATES} more" if len(found) > MAX_CANDIDATES else ""
    names = ", ".join(
        f"{run.run_id} ({' '.join(run.record.overrides) or 'defaults'})" for run in found[:MAX_CANDIDATES]
    )
    raise InputError(f"{len(found)} runs have ids that begin with {prefix!r}: {names}{more}; give more characters")


@dataclass(frozen=True)
class Filter:
    """A condition on one key: a run must have one of the values."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, word: str) -> "Filter":
        """Return the filter that ``key=value`` or ``key=value,value`` describes.

        Raises:
            InputError: for anything else.
        """
        key, equals, values = word.partition("=")
        if not (key and equals and values):
            raise InputError(
                f"{word!r} is not a filter: write key=value or key=value,value, as in loss=wgan_div div.k=1,2"
            )
        return cls(key, tuple(value.strip() for value in values.split(",")))

    def holds(self, run: StoredRun) -> bool:
        """Return whether a run has one of the values; a number matches in any spelling."""
        value = run.values.get(self.key)
        return value is not None and any(value == wanted or _equal(value, wanted) for wanted in self.values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _equal(text: str, other: str) -> bool:
    return _number(text) == _number(other)


def filtered(runs: Sequence[StoredRun], filters: Sequence[Filter]) -> list[StoredRun]:
    """Return the runs for which all filters hold.

    Raises:
        InputError: for a key that no run and no config has, or an unknown status.
    """
    for wanted in filters:
        if not any(wanted.key in run.values for run in runs):
            _check_key(wanted.key)
        shown = [status for status in Status if status is not Status.NEW]
        statuses = [*dict.fromkeys([*shown, DEAD, *(run.status for run in runs)])]
        if wanted.key == "status" and (unknown := set(wanted.values) - set(statuses)):
            raise InputError(f"there is no status {', '.join(sorted(unknown))}: choose from {', '.join(statuses)}")
    return [run for run in runs if all(wanted.holds(run) for wanted in filters)]


def _check_key(key: str) -> None:
    """Refuse a key that no config has."""
    from wgan_sweep.config.catalogue import known_keys, options, unknown_key
    from wgan_sweep.config.schema import Config

    if key not in known_keys(Config) | options().keys() | {"status"}:
        raise InputError(unknown_key(key, Config))


def matching(runs: Sequence[StoredRun], words: Iterable[str]) -> list[StoredRun]:
    """Return the runs for which all filters hold, given as ``key=value`` or ``key=value,value``.

    Raises:
        InputError: for a word that is not a filter, and as `filtered`.
    """
    return filtered(runs, [Filter.parse(word) for word in words])


def nothing_matches(runs: Sequence[StoredRun], words: Sequence[str]) -> str:
    """Return the message that no run passes filters; it names a value that no run has, and the nearest one."""
    message = f"none of {len(runs)} runs matches {' '.join(words)}"
    for wanted in map(Filter.parse, words):
        if not any(wanted.holds(run) for run in runs):
            known = {run.values[wanted.key] for run in runs if wanted.key in run.values}
            return f"{message}{did_you_mean(wanted.values[0], known)}"
    return message


def selected(runs: Sequence[StoredRun], words: Sequence[str]) -> list[StoredRun]:
    """Return the runs that are given by ids or by filters.

    Args:
        runs: The runs.
        words: Either ids, which may be shortened, or filters.

    Raises:
        InputError: for no words, for ids beside filters, and as `by_id` and `matching`.
    """
    ids = [word for word in words if "=" not in word]
    if not words:
        raise InputError("name the runs: by their ids, or by filters such as status=failed,diverged")
    if ids and len(ids) < len(words):
        raise InputError(f"{ids[0]} is an id, and there are filters, too: give either ids or filters")
    if not ids:
        return matching(runs, words)
    return list({run.run_id: run for run in (by_id(word, runs) for word in ids)}.values())


def in_order(runs: Sequence[StoredRun], key: str, metric: str) -> list[StoredRun]:
    """Return runs in the order of a value: numbers first, then texts, then runs without a value.

    Args:
        runs: The runs.
        key: ``metric`` for the metric that is shown, ``started``, the name of a metric, or a key of `StoredRun.values`.
        metric: The metric that is shown.

    Raises:
        InputError: for a key that no run has.
    """
    name = metric if key == "metric" else key
    values = {run.run_id: _sort_value(run, name) for run in runs}
    if runs and key not in ("metric", "started") and all(value is None for value in values.values()):
        known = {name for run in runs for name in (*run.values, *run.record.scores)} | {"metric", "started"}
        raise InputError(
            f"no run has a value of {key}{did_you_mean(key.lower(), known)}; runs can be sorted by any axis or metric"
        )

    def rank(run: StoredRun) -> tuple[int, float, str]:
        value = values[run.run_id]
        number = math.nan if value is None else _number(value)
        if not math.isnan(number):
            return 0, number, ""
        return (2, 0.0, "") if value is None else (1, 0.0, value)

    return sorted(runs, key=rank)


def _sort_value(run: StoredRun, name: str) -> str | None:
    if name == "started":
        return run.record.started
    if name in run.values:
        return run.values[name]
    return json.dumps(run.record.scores[name]) if name in run.record.scores else None
