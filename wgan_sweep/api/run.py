"""Runs as Python objects: their config, record, measurements, networks and samples."""

import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgan_sweep.errors import InputError
from wgan_sweep.runs.archive import SUFFIX, ArchiveEntry, read_archive
from wgan_sweep.runs.coordinates import as_text
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.directory import find_runs as find_records
from wgan_sweep.runs.places import DEFAULT_FOLDER
from wgan_sweep.runs.record import Record
from wgan_sweep.runs.selection import Filter, StoredRun, filtered, stored_runs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wgan_sweep.config.schema import Config
    from wgan_sweep.runs.networks import TrainedNetworks

log = logging.getLogger("wgan_sweep")

BY_ARGUMENT = 'load it with allow=("MODULE",)'
"""How a caller allows a run to name code."""


def checked_names(allow: Collection[str]) -> tuple[str, ...]:
    """Return the names that a caller allows.

    Raises:
        InputError: for a string, whose characters would be taken for names.
    """
    if isinstance(allow, str):
        raise InputError(f'allow must be a tuple of names, got the text {allow!r}: write allow=("{allow}",)')
    return tuple(allow)


class Run:
    """A run: one training, as its directory holds it. `load_run`, `find_runs`, `train` and `sweep` return it.

    The networks are read from the checkpoint when they are first used. Everything is as of the moment it was read:
    load a run again to see its later progress.

    Args:
        path: The run's directory.
        best: Whether the networks are those of the step with the lowest selection metric.
        live: Whether the generator is the one that was trained instead of its moving average.
        device: Device of the networks: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        allow: Names of your modules, functions or classes that the run's config may name.
        config: The run's config if it comes from this process, which may then name any code; by default it is read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        best: bool = False,
        live: bool = False,
        device: str = "auto",
        allow: Collection[str] = (),
        config: "Config | None" = None,
    ) -> None:
        self.path = Path(path).expanduser()
        """The run's directory."""
        self._directory = RunDir(self.path)
        self._best, self._live, self._device, self._allowed = best, live, device, checked_names(allow)
        self._trusted_config = config

    @property
    def place(self) -> Path:
        """The folder or file that holds the run."""
        return self.path

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    @cached_property
    def record(self) -> Record:
        """The run's record (``record.json``): ``status``, ``step``, ``scores``, ``best``, ``error``, ...

        Raises:
            InputError: if there is none, or it cannot be read.
        """
        return self._directory.require_record()

    @cached_property
    def config(self) -> "Config":
        """The run's resolved config: ``config.train.steps``, ``config.loss``, ...

        Raises:
            InputError: if it cannot be read.
        """
        from wgan_sweep.config.schema import read

        return read(self._directory.config)

    def metrics(self) -> dict[str, list[float]]:
        """Return all measurements as columns, ready for ``pandas.DataFrame(run.metrics())``.

        Each line of ``metrics.jsonl`` is a row, so a step that was also scored has several rows. All columns have the
        same length; what a row lacks is NaN.
        """
        lines = list(self._lines())
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: [line.get(name, math.nan) for line in lines] for name in names}

    def _lines(self) -> Iterable[dict[str, float]]:
        return self._directory.read_metrics()

    @property
    def generator(self) -> "nn.Module":
        """The generator, in evaluation mode: z ``[N, latent_dim]`` to ``[N, ...]``, images in [-1, 1] or points.

        Raises:
            InputError: if the networks cannot be loaded (see `load_run`).
        """
        return self._networks.generator

    @property
    def critic(self) -> "nn.Module":
        """The critic, in evaluation mode: ``[N, ...]`` (images in [-1, 1], or points) to outputs ``[N]``.

        Raises:
            InputError: if the networks cannot be loaded (see `load_run`).
        """
        return self._networks.critic

    @property
    def step(self) -> int:
        """The step of the networks.

        Raises:
            InputError: if the networks cannot be loaded (see `load_run`).
        """
        return self._networks.step

    def sample(self, n: int, seed: int = 0, batch_size: int = 50) -> "Tensor":
        """Return samples of the generator. The same seed gives the same samples; a larger `n` appends further ones.

        They are the images that ``wgan-score --seed`` generates for the run. They are bitwise the same on the same
        kind of device with the same batch size; another batch size may round pixels differently.

        Args:
            n: Number of samples.
            seed: Seed of z.
            batch_size: Samples per forward pass.

        Returns:
            uint8 ``[n, C, H, W]``, or float32 ``[n, D]`` for points; on the CPU.

        Raises:
            InputError: for a value out of its range, or if the networks cannot be loaded (see `load_run`).
        """
        from wgan_sweep.runs.samples import sample

        return sample(self._networks.sampler, n, seed, batch_size)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the generator to a file ``.pt``, with all that `load_generator` needs; and a description in YAML.

        Args:
            path: The file; an existing one is replaced.

        Raises:
            InputError: if it cannot be written, or the networks cannot be loaded (see `load_run`).
        """
        from wgan_sweep.runs.export import export_generator

        export_generator(Path(path).expanduser(), self._checked_config, self.run_id, self._networks)

    @cached_property
    def _checked_config(self) -> "Config":
        """The config that networks are made from: its code may be run, and changes to `config` do not reach it."""
        from wgan_sweep.runs.networks import read_config

        return self._trusted_config or read_config(self._directory, self._allowed, remedy=BY_ARGUMENT)

    @cached_property
    def _networks(self) -> "TrainedNetworks":
        from wgan_sweep.common.devices import find_device
        from wgan_sweep.runs.networks import load_networks

        device = find_device(self._device)
        return load_networks(self._directory, self._checked_config, device, best=self._best, live=self._live)

    def load(self) -> None:
        """Read record, config and networks now.

        Raises:
            InputError: if one of them cannot be loaded.
        """
        _ = self.record, self.config, self._networks

    def __repr__(self) -> str:
        record = self.record
        return f"<Run {record.run_id}: {record.status} at step {record.step}>"


class ArchivedRun(Run):
    """A run of an archive: its config, record and measurements. It has no networks.

    Args:
        path: The directory that it would have in the folder of runs, or the archive.
        record: Its record in the archive.
        archive: The archive.
        read_config: Returns its config, or the one by which it was requested.
        read_lines: Returns its lines of measurements; None if the archive does not hold it any more.
    """

    def __init__(
        self,
        path: Path,
        record: Record,
        archive: Path,
        read_config: "Callable[[], Config]",
        read_lines: Callable[[], Sequence[dict[str, float]] | None],
    ) -> None:
        super().__init__(path)
        self.__dict__["record"] = record  # it is read already
        self._archive, self._read_config, self._read_lines = archive, read_config, read_lines

    @property
    def place(self) -> Path:
        """The archive."""
        return self._archive

    @cached_property
    def config(self) -> "Config":
        """The run's resolved config.

        Raises:
            InputError: if the archive holds none, or it cannot be read.
        """
        return self._read_config()

    def _lines(self) -> Iterable[dict[str, float]]:
        lines = self._read_lines()
        if lines is None:
            raise InputError(f"the archive {self.place} does not have run {self.run_id} any more: restore the file")
        return lines

    @property
    def _networks(self) -> "TrainedNetworks":
        raise self._no_weights_error()

    @property
    def _checked_config(self) -> "Config":
        raise self._no_weights_error()

    def _no_weights_error(self) -> InputError:
        return InputError(
            f"run {self.run_id} is in the archive {self.place}, and archives have no weights: train the run, "
            "without the key archive"
        )


def load_run(
    path: str | os.PathLike[str],
    *,
    best: bool = False,
    live: bool = False,
    device: str = "auto",
    allow: Collection[str] = (),
) -> Run:
    """Load a run with its networks.

    The directory may be somebody else's: checkpoints hold values only, and a config that names code which is not part
    of wgan-sweep is refused unless `allow` names it. The run's data must be readable: it gives the shape of an example.

    Args:
        path: The run's directory, ``runs/<run_id>``.
        best: Whether to load the step with the lowest selection metric (FID, else W1, else KID) instead of the latest
            checkpoint.
        live: Whether to load the generator that was trained instead of its moving average.
        device: Device of the networks: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        allow: Names of your modules, functions or classes that the run's config may name, such as ``("my_models",)``.

    Raises:
        InputError: if this is not a run's directory, a file is missing or damaged, the run has no checkpoint yet, it
            names other code, its data cannot be read, or the device cannot be used.
    """
    run = Run(path, best=best, live=live, device=device, allow=allow)
    run.load()
    return run


def find_runs(folder: str | os.PathLike[str] | None = None, **axes: Any) -> list[Run]:
    """Return the runs in a folder or an archive, in the order in which they were started.

    Of a folder, it reads the records only. Directories that hold no readable record are left out, with a warning in the
    log. The runs of an archive have no networks.

    Args:
        folder: The folder of runs, or an archive (``.jsonl.gz``); by default ``$WGAN_SWEEP_RUNS``, else ``runs``.
        **axes: Values that the runs must have: options by group (``loss="wgan_gp"``), values by key
            (``seed=0``, ``**{"div.k": 2}``), ``status`` (``dead``: interrupted, and no process
            holds it), ``sweep`` or ``run_id``. A list means any of its items.

    Raises:
        InputError: if the folder or archive cannot be read, or an axis does not exist.
    """
    path = Path(folder or os.environ.get("WGAN_SWEEP_RUNS") or "runs").expanduser()
    filters = [Filter(axis, _texts(value)) for axis, value in axes.items()]
    if path.is_file() or path.name.endswith(SUFFIX):
        return _in_archive(path, filters)
    found = find_records(path)
    for line in [*found.problems, *found.notes]:
        log.warning("%s", line)
    runs = []
    for stored in filtered(stored_runs(found.records, path), filters):
        run = Run(stored.directory.path)
        run.__dict__["record"] = stored.record  # it is read already
        runs.append(run)
    return runs


def _in_archive(path: Path, filters: Sequence[Filter]) -> list[Run]:
    """Return the runs in an archive for which all filters hold."""
    entries = {entry.record.run_id: replace(entry, samples=None) for entry in read_archive(path)}
    stored = [StoredRun.archived(entry.record, RunDir(path)) for entry in entries.values()]
    in_order = sorted(filtered(stored, filters), key=lambda run: run.record.start_order)
    return [_archived(entries[run.run_id], path) for run in in_order]


def _archived(entry: ArchiveEntry, path: Path) -> Run:
    def config() -> "Config":
        from wgan_sweep.config.schema import parse

        if entry.config is None:
            raise InputError(f"{path} has no config of run {entry.record.run_id}: read the values in record.config")
        source = f"the config of run {entry.record.run_id} in {path}"
        return parse(entry.config, source, runs=DEFAULT_FOLDER)  # archives do not say where runs were

    return ArchivedRun(path, entry.record, path, config, lambda: entry.metrics)


def _texts(value: Any) -> tuple[str, ...]:
    """Return the values that an axis may have. A key that is a list itself is compared with a tuple."""
    values = value if isinstance(value, list | set | frozenset | range) else [value]
    return tuple(as_text(item) for item in values)
