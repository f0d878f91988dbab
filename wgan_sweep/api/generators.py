"""Loading generators that were exported from runs."""

import os
from collections.abc import Collection
from pathlib import Path

from wgan_sweep.api.run import BY_ARGUMENT, checked_names
from wgan_sweep.common.devices import find_device
from wgan_sweep.runs.export import ExportedGenerator, load_exported


def load_generator(
    path: str | os.PathLike[str], *, device: str = "auto", allow: Collection[str] = ()
) -> ExportedGenerator:
    """Load a generator that `Run.export` or ``wgan-runs export`` wrote. Neither the run nor its data is needed.

    Its samples are those of the run. The file may be somebody else's: it holds values only, and one that names code
    which is not part of wgan-sweep is refused unless `allow` names it.

    Args:
        path: The file.
        device: Device of the generator: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        allow: Names of your modules, functions or classes that the file may name.

    Raises:
        InputError: if there is no such file, it is damaged, it names other code, or the device cannot be used.
    """
    return load_exported(Path(path).expanduser(), find_device(device), checked_names(allow), remedy=BY_ARGUMENT)
