"""The launcher `local`: one run after another in this process."""

from collections.abc import Callable, Sequence

import torch

from wgan_sweep.common import cores
from wgan_sweep.common.progress import Display
from wgan_sweep.errors import RunLockedError
from wgan_sweep.sweeps.launching import (
    AtLeastOne,
    Outcome,
    RequestedRun,
    ShouldStop,
    complete_run,
    report_deferred,
    run_when_unlocked,
)


class Local:
    """Trains one run after another in this process. Runs that other processes hold come last.

    Args:
        gpus_per_run: Number of processes that share each batch of a run. The launcher only checks it: each run reads
            it from its config and starts these processes itself.
    """

    device: torch.device | None = None

    def __init__(self, gpus_per_run: AtLeastOne = 1) -> None:
        """Do nothing: see `gpus_per_run`."""

    def __call__(self, requested: Sequence[RequestedRun], display: Display, should_stop: ShouldStop) -> list[Outcome]:
        """Complete the requested runs; return the outcome of each, in the same order."""
        threads = torch.get_num_threads()
        try:
            with cores.registered():
                return self._complete_all(requested, display, should_stop, _sharing_cores(threads, display))
        finally:
            cores.use_threads(threads)

    def _complete_all(
        self,
        requested: Sequence[RequestedRun],
        display: Display,
        should_stop: ShouldStop,
        take_share: Callable[[], None],
    ) -> list[Outcome]:
        outcomes = [Outcome()] * len(requested)
        deferred = []
        for index, run in enumerate(requested):
            if should_stop():
                break
            take_share()
            try:
                outcomes[index] = complete_run(run, display, should_stop)
            except RunLockedError as owner:
                if len(requested) > 1:
                    report_deferred(run, owner, display)
                deferred.append(index)
        for index in deferred:
            take_share()
            outcomes[index] = run_when_unlocked(requested[index], display, should_stop)
        return outcomes


def _sharing_cores(threads: int, display: Display) -> Callable[[], None]:
    """Return a function that gives this process its share of the cores, and shows a change of it.

    Args:
        threads: Number of threads of a command that is alone.
        display: Where it is shown.
    """
    shown = ""

    def take_share() -> None:
        nonlocal shown
        if cores.user_chose_threads():
            return
        share = cores.core_share()
        count = min(threads, share.cores)
        cores.use_threads(count)
        message = f"{share}: this run uses {cores.threads(count)}" if share.others else ""
        if message not in (shown, ""):
            display.line(message)
        shown = message

    return take_share
