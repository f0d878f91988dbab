"""The launcher `local`: one run after another in this process."""

from collections.abc import Sequence

import torch

from wgan_sweep.common.progress import Display
from wgan_sweep.errors import RunLockedError
from wgan_sweep.sweeps.launching import (
    Outcome,
    RequestedRun,
    ShouldStop,
    check_at_least_one,
    complete_run,
    report_deferred,
    run_when_unlocked,
)


class Local:
    """Trains one run after another in this process. Runs that other processes hold come last.

    Args:
        gpus_per_run: Number of processes that share each batch of a run. The launcher only checks it: each run reads
            it from its config and starts these processes itself.

    Raises:
        InputError: if `gpus_per_run` is less than 1.
    """

    device: torch.device | None = None

    def __init__(self, gpus_per_run: int = 1) -> None:
        check_at_least_one(gpus_per_run=gpus_per_run)

    def __call__(self, requested: Sequence[RequestedRun], display: Display, should_stop: ShouldStop) -> list[Outcome]:
        """Complete the requested runs; return the outcome of each, in the same order."""
        outcomes = [Outcome()] * len(requested)
        deferred = []
        for index, run in enumerate(requested):
            if should_stop():
                break
            try:
                outcomes[index] = complete_run(run, display, should_stop)
            except RunLockedError as owner:
                if len(requested) > 1:
                    report_deferred(run, owner, display)
                deferred.append(index)
        for index in deferred:
            outcomes[index] = run_when_unlocked(requested[index], display, should_stop)
        return outcomes
