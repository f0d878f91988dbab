"""Data that breaks a run on a compute node, as a user's own data might."""

import os
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


class Raises(_Fault):
    """An exception."""

    def act(self) -> None:
        raise RuntimeError("the data broke")


class Exits(_Fault):
    """The process is gone without a word."""

    def act(self) -> None:
        os._exit(3)
