"""The runs that sweeps requested and that have not started, as lists in the folders of these sweeps."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wgan_sweep.common.files import remove_leftovers, write
from wgan_sweep.common.reading import read_bytes
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record, Status

log = logging.getLogger("wgan_sweep")

FILE = "not_started.json"
"""The list of a sweep, in its folder: a JSON list of records. A sweep all of whose runs have started has none."""
SWEEPS = ".sweeps"
"""The folder of the sweeps' folders, in a folder of runs."""
DECISION = "decision.json"
"""What a sweep that trained until its claims were decided has recorded, in its folder."""
MAX_BYTES = 256 * 2**20
"""The largest list that is read. A run takes some kilobytes."""


def decision_files(runs: Path) -> list[Path]:
    """Return the decisions that sweeps have recorded in a folder of runs, oldest first."""
    return sorted((runs / SWEEPS).glob(f"*/{DECISION}"))


def write_not_started(sweep: Path, records: Sequence[Record]) -> None:
    """Write which runs of a sweep have not started, in place of an earlier list.

    Also removes what a killed command left of a list.

    Args:
        sweep: The sweep's folder.
        records: The records that these runs would start with.
    """
    remove_leftovers(sweep / FILE)
    if records:
        write(sweep / FILE, json.dumps([asdict(record) for record in records]))
    else:
        (sweep / FILE).unlink(missing_ok=True)


def not_started(runs: Path) -> list[Record]:
    """Return the runs that sweeps requested and that have no record in a folder of runs; each once, in their order.

    A list that cannot be read is left out, with a warning.

    Args:
        runs: The folder of runs.
    """
    found: dict[str, Record] = {}
    for path in sorted((runs / SWEEPS).glob(f"*/{FILE}")):
        try:
            records = [Record.from_json(values) for values in json.loads(read_bytes(path, MAX_BYTES))]
        except FileNotFoundError:  # the sweep has just started its last run
            continue
        except (InputError, TypeError, AttributeError, ValueError, KeyError, OSError, RecursionError) as error:
            log.warning("%s is left out: it is not a list of runs (%s: %s)", path, type(error).__name__, error)
            continue
        found |= {record.run_id: record for record in records if record.status == Status.NEW}
    return [record for name, record in found.items() if not RunDir(runs / name).record.exists()]
