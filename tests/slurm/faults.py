"""User-defined data that fails or is slow on a compute node."""

import os
import time
from typing import Any

from wgan_sweep.data import Npz


class _Fault(Npz):
    def act(self) -> None:
        """Fail."""

    def fingerprint(self) -> str:
        """Return a digest per class, so that each fault is a separate run."""
        return f"{super().fingerprint()} {type(self).__name__}"

    def load(self) -> Any:
        images = super().load()
        make_batches, act = images.batches, self.act

        def batches(*arguments: Any) -> Any:
            if "SLURM_JOB_ID" in os.environ:
                act()
            return make_batches(*arguments)

        object.__setattr__(images, "batches", batches)
        return images


class Slow(Npz):
    """Yields ten batches per second in a job that SLURM starts for the first time, and is fast after a requeue."""

    def load(self) -> Any:
        images = super().load()
        make_batches = images.batches

        def batches(*arguments: Any) -> Any:
            stream = make_batches(*arguments)
            next_raw = stream.next_raw

            def wait_and_return() -> Any:
                time.sleep(0.1 if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" else 0)
                return next_raw()

            stream.next_raw = wait_and_return
            return stream

        object.__setattr__(images, "batches", batches)
        return images


class Raises(_Fault):
    """Raises an exception."""

    def act(self) -> None:
        raise RuntimeError("the data broke")


class Exits(_Fault):
    """Ends the process without an exception."""

    def act(self) -> None:
        os._exit(3)
