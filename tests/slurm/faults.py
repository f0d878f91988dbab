"""Data that breaks a run on a compute node, as a user's own data might."""

import os
import time
from typing import Any

from wgan_sweep.data import Npz


class _Fault(Npz):
    def load(self) -> Any:
        images = super().load()
        make, act = images.batches, self.act

        def batches(*arguments: Any) -> Any:
            if "SLURM_JOB_ID" in os.environ:
                act()
            return make(*arguments)

        object.__setattr__(images, "batches", batches)
        return images


class Slow(Npz):
    """Ten batches a second, in a job that SLURM starts for the first time."""

    def load(self) -> Any:
        images = super().load()
        make = images.batches

        def batches(*arguments: Any) -> Any:
            made = make(*arguments)
            draw = made.draw

            def wait_and_draw() -> Any:
                time.sleep(0.1 if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" else 0)
                return draw()

            made.draw = wait_and_draw
            return made

        object.__setattr__(images, "batches", batches)
        return images


class Raises(_Fault):
    """An exception."""

    def act(self) -> None:
        raise RuntimeError("the data broke")


class Exits(_Fault):
    """The process is gone without a word."""

    def act(self) -> None:
        os._exit(3)
