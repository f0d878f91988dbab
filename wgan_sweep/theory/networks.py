"""Reads the trained networks of a sweep's runs, which figures of this package evaluate."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.data import Points
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.networks import TrainedNetworks, load_networks, read_config
from wgan_sweep.runs.record import Record, Status


class TrainedRun(NamedTuple):
    """A finished run with its networks."""

    record: Record
    networks: TrainedNetworks

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.networks.sampler.seed

    def draw(self, count: int, purpose: str) -> tuple[Tensor, Tensor]:
        """Return `count` real and as many generated points ``[count, D]``, of the stream (seed, `purpose`).

        Raises:
            InputError: if the run was trained on images.
        """
        real = self.networks.real
        if not isinstance(real, Points):
            raise InputError(f"run {self.record.run_id} was trained on images: this figure needs points")
        return real.draw(count, rng.generator(self.seed, purpose)), self.networks.sampler.stream(purpose)(count)


def trained_runs(records: Iterable[Record], runs: Path) -> tuple[list[TrainedRun], list[str]]:
    """Load the networks of the finished runs, on the CPU.

    A run directory may be somebody else's: a run whose config names other code than options is left out.

    Args:
        records: The runs of a sweep.
        runs: Folder of the runs.

    Returns:
        The runs that can be loaded, and a note for each finished run that cannot.
    """
    trained: list[TrainedRun] = []
    notes: list[str] = []
    for record in records:
        if record.status != Status.DONE:
            continue
        directory = RunDir(runs / record.run_id)
        try:
            networks = load_networks(directory, read_config(directory), torch.device("cpu"), live=True)
        except InputError as error:
            notes.append(f"left out: {record.run_id}: {error}")
        else:
            trained.append(TrainedRun(record, networks))
    return trained, notes
